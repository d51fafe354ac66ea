"""What is known of a foreign model, without a stack: from its graph, its package, and a small window of noise."""

from typing import Any

from cellxlate.model.foreign.probe import Probe
from cellxlate.model.foreign.values import ForeignModel


def facts_of(model: ForeignModel, found: Probe) -> dict[str, Any]:
    """Return what is known of a model, as plain values for JSON.

    `reach` says along each axis how far it looks (None for the whole), where windows begin, and which sizes it takes;
    `memory` and `seconds` are for 10^6 pixels, or voxels, of a window.
    """
    told = 1e6 * model.bytes_per_px
    return {
        "name": model.name, "kind": "foreign", "path": str(model.path), "sha256": model.digest,
        "axes": model.axes, "channels_in": model.channels_in, "channels_out": model.channels_out,
        "input_axes": model.input_axes, "output_axes": model.output_axes, "takes": model.takes,
        "to_counts": model.to_counts, "processing": bool(model.before or model.after),
        "local": model.is_local, "not_local": model.not_local, "unknown": list(model.unknown),
        "reach": {
            axis: {
                "halo_px": one.halo_px, "stride": one.stride, "least_px": one.least_px, "step_px": one.step_px,
                "fixed_px": one.fixed_px, "margin_px": one.margin_px,
            }
            for axis, one in zip(model.axes, model.reach[-len(model.axes) :], strict=True)
        },
        "attention_output": model.attention_name or None, "operators": dict(model.operators),
        "licence": model.licence, "citation": model.citation, "warnings": list(model.warnings),
        "memory_bytes_per_megapixel": {"told": round(told), "measured": rounded(found.bytes_per_megapixel)},
        "memory_grows_with_the_square": model.bytes_per_pair > 0,
        "seconds_per_megapixel": round(found.seconds_per_megapixel, 3), "probe_px": list(found.sides),
    }  # fmt: skip


def rounded(amount: float | None) -> int | None:
    """Return an amount as a whole number."""
    return None if amount is None else round(amount)
