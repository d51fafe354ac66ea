"""Models for other software: one ONNX file, or a package of the BioImage Model Zoo that cellxlate can run again.

A package holds the ONNX model for others, and card and weights as they are for cellxlate: what is run again is the
same model, to the bit, without a detour through another format.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from imagecodecs import png_encode

import cellxlate
from cellxlate.errors import OptionError, OutputError
from cellxlate.model.archive import CARD, WEIGHTS, read_part
from cellxlate.model.attention import ATTENTION_STEPS, Floats
from cellxlate.model.bundle import LARGEST_WEIGHTS_BYTES, Bundle
from cellxlate.model.cards import LARGEST_CARD_BYTES, SHIPPED, card_channels, seen_words
from cellxlate.model.export.onnx import IR_VERSION, OPSET, onnx_model
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.options import AUTHOR, LICENCE, OVERWRITE
from cellxlate.settings import THRESHOLD
from cellxlate.stacks.intensity.range import BLACK_PERCENTILE, WHITE_PERCENTILE
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.whole_file import write_whole_file

if TYPE_CHECKING:
    import onnx


SPEC_VERSION = "0.5.12"
MODEL_FILE, COVER_FILE, DOCUMENTATION_FILE = "model.onnx", "cover.png", "README.md"
TEST_PX = 256
EPSILON = 1e-6
"""What the zoo adds to the span of the levels."""

MEMBER_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in a package, so that the same model gives the same bytes."""

ANSWERS = ("enhanced", "attention", "proposal")
UNKNOWN_LICENCES = ("", "not stated")
PAPER = {
    "text": "Mejjati et al., Unsupervised Attention-guided Image-to-Image Translation, NeurIPS 2018",
    "doi": "10.48550/arXiv.1806.02311",
}
NOTE = """# {name}

{description}

Made with cellxlate {version} (preset {preset}), weights under {licence}. Attention selects the cells; the generator
proposes how they would look in the other domain; the gate g = clip((A - {threshold}) / (1 - {threshold}), 0, 1) adds
g times the difference, so that pixels that attention does not select stay as they are.

## Use
- With cellxlate: `cellxlate enhance stack.tif -m {name}.zip`. Same pixels as the model itself; pixels that are not
  selected are bit for bit those of the input.
- With other software: the input is scaled by the percentiles {black} and {white} of the image; the outputs are in this
  unit range: the enhanced image, attention, and the proposal. cellxlate measures levels on the smoothed image, with
  a floor set by the noise, so results of other software differ; they are float, so the promise holds before rounding.
- Sides must be multiples of {stride} px; {halo} px at every border see beyond the image.
{channels}
## Validation
Scores on test images, where there are any, stand in card.json. Other images than those it was trained on need a
truth of their own: look at the attention first, and measure on the raw image.
"""


def translator_onnx(translator: TranslatorNetworks, outputs: Sequence[str] = ANSWERS) -> "onnx.ModelProto":
    """Return attention, generator and the gate between them as one ONNX model.

    Parameters
    ----------
    translator : TranslatorNetworks
        Without normalisation layers: statistics are fixed.
    outputs : sequence of {"enhanced", "attention", "proposal"}
        What the model answers, in this order.

    Returns
    -------
    ModelProto
        One input `images` (batch, C, rows, columns) float32 in unit range, sides multiples of the stride. Attention
        (batch, 1, rows, columns) in [0, 1], in steps of 1/1024 as cellxlate compares it with the threshold; the others
        in the shape and the range of the input, without the channels that are only seen, which come last there.

    Raises
    ------
    OptionError
        The package onnx is not installed.
    """
    parts = {
        "attention": onnx_model(translator.attention, name="outcome"),
        "proposal": onnx_model(translator.generator, name="outcome"),
    }
    from onnx import TensorProto, checker, compose, helper, numpy_helper

    nodes, constants, own = [], [], "images"
    if translator.inputs > translator.channels:
        own = "own_images"
        nodes.append(helper.make_node("Gather", ["images", "own_channels"], [own], axis=1))
        constants.append(numpy_helper.from_array(np.arange(translator.inputs)[translator.own], "own_channels"))
    for name, model in parts.items():
        graph = compose.add_prefix_graph(model.graph, f"{name}_", inplace=False)
        renamed = {f"{name}_images": "images", f"{name}_outcome": "raw_attention" if name == "attention" else name}
        for node in graph.node:
            for fields in (node.input, node.output):
                fields[:] = [renamed.get(field, field) for field in fields]
        nodes += graph.node
        constants += graph.initializer
    numbers = {"steps": ATTENTION_STEPS, "threshold": THRESHOLD, "slope": 1 / (1 - THRESHOLD), "zero": 0, "one": 1}
    constants += [numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items()]
    nodes += [
        helper.make_node(kind, inputs.split(), [output])
        for kind, inputs, output in (
            ("Mul", "raw_attention steps", "scaled"), ("Round", "scaled", "rounded"),
            ("Div", "rounded steps", "attention"), ("Sub", "attention threshold", "above"),
            ("Mul", "above slope", "ramp"), ("Clip", "ramp zero one", "gate"),
            ("Sub", f"proposal {own}", "difference"), ("Mul", "gate difference", "change"),
            ("Add", f"{own} change", "enhanced"),
        )
    ]  # fmt: skip
    (images,) = parts["proposal"].graph.input
    channels = {name: 1 if name == "attention" else translator.channels for name in outputs}
    answers = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count, "rows", "columns"])
        for name, count in channels.items()
    ]
    joined = helper.make_model(
        helper.make_graph(nodes, "cellxlate", [images], answers, constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cellxlate",
        producer_version=cellxlate.__version__,
    )  # fmt: skip
    checker.check_model(joined, full_check=True)
    return joined


def export_onnx(bundle: Bundle, path: Path, *, overwrite: bool = False) -> Path:
    """Write a model as one ONNX file that answers attention and proposal, and enhanced images at the usual threshold.

    Raises
    ------
    OptionError
        The package onnx is not installed.
    OutputError
        The file exists already, or cannot be written.
    """
    model = translator_onnx(bundle.translator)
    described = {"name": bundle.name, "licence": str(bundle.card.get("licence", "")), "weights_sha256": bundle.digest}
    for key, value in described.items():
        model.metadata_props.add(key=key, value=value)
    _write(path, model.SerializeToString(deterministic=True), overwrite=overwrite)
    return path


def export_package(
    bundle: Bundle, path: Path, *, authors: Sequence[str] = (), licence: str | None = None, overwrite: bool = False
) -> Path:
    """Write a model as a package of the BioImage Model Zoo (model description 0.5).

    Parameters
    ----------
    bundle : Bundle
        Loaded from its folder, or from another package.
    path : Path
        `NAME.zip`.
    authors : sequence of str
        Names; those of the card by default.
    licence : str, optional
        SPDX name of the licence of the weights; that of the card by default.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    OptionError
        Nobody and no card states authors or a licence; the package onnx is not installed.
    OutputError
        The file exists already, or cannot be written.
    """
    stated = str(bundle.card.get("licence", ""))
    licence = licence or ("" if stated in UNKNOWN_LICENCES else stated)
    names = [*authors] or [str(name) for name in bundle.card.get("authors", ())]
    if not names and bundle.path.parent == SHIPPED:
        names = ["The cellxlate authors"]
    if not names or not licence:
        raise OptionError(
            f"the card of {bundle.name} states no {'licence' if names else 'authors'}, which the BioImage Model Zoo "
            "asks for",
            remedy=("give ", LICENCE.of("CC-BY-4.0"), ", for example") if names else ("give ", AUTHOR.of("NAME")),
        )
    counts = _test_field(bundle.translator.inputs)
    answers = _answers(bundle.translator, _unit(counts))
    files = {
        MODEL_FILE: translator_onnx(bundle.translator).SerializeToString(deterministic=True),
        COVER_FILE: _cover(_unit(counts)[0, 0], answers["enhanced"][0, 0]),
        "test_raw.npy": _npy(counts),
        **{f"test_{name}.npy": _npy(answers[name]) for name in ANSWERS},
        CARD: read_part(bundle.path, CARD, most_bytes=LARGEST_CARD_BYTES),
        WEIGHTS: read_part(bundle.path, WEIGHTS, most_bytes=LARGEST_WEIGHTS_BYTES),
    }
    files[DOCUMENTATION_FILE] = _documentation(bundle, licence).encode()
    described = description(bundle, files, authors=names, licence=licence)
    files["rdf.yaml"] = (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode()  # JSON is YAML
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name, MEMBER_TIME)
            member.external_attr = 0o644 << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    _write(path, stored.getvalue(), overwrite=overwrite)
    return path


def description(bundle: Bundle, files: Mapping[str, bytes], *, authors: Sequence[str], licence: str) -> dict[str, Any]:
    """Return what `rdf.yaml` says of a package with these files: halo and sides follow from the receptive field."""
    translator, card = bundle.translator, bundle.card
    halo_px, stride = _halo_px(translator), translator.stride
    seen = _channel_names(bundle)
    channels = seen[translator.own]

    def source(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}

    sides = [{"type": "space", "id": axis, "size": {"min": 2 * halo_px + stride, "step": stride}} for axis in "yx"]
    same = [
        {"type": "space", "id": axis, "size": {"tensor_id": "raw", "axis_id": axis}, "halo": halo_px} for axis in "yx"
    ]
    scaling = {
        "id": "scale_range",
        "kwargs": {"axes": ["y", "x"], "min_percentile": BLACK_PERCENTILE, "max_percentile": WHITE_PERCENTILE,
                   "eps": EPSILON},
    }  # fmt: skip
    means = {
        "enhanced": "cells as the generator proposes them, all else as it is",
        "proposal": "what the generator proposes",
        "attention": f"where to change; selected above {THRESHOLD}",
    }  # fmt: skip
    return {
        "type": "model", "format_version": SPEC_VERSION, "name": f"cellxlate {bundle.name}"[:128],
        "description": (str(card.get("description") or "") or f"attention-guided enhancement, {bundle.name}")[:1024],
        "authors": [{"name": name} for name in authors], "license": licence, "cite": [PAPER],
        "documentation": source(DOCUMENTATION_FILE), "covers": [source(COVER_FILE)],
        "attachments": [source(CARD), source(WEIGHTS)], "version": cellxlate.__version__,
        "tags": ["cellxlate", "2d", "image-restoration", "image-enhancement", "unpaired-translation", "attention"],
        "config": {"cellxlate": {"weights_sha256": bundle.digest, "threshold": THRESHOLD}},
        "inputs": [{
            "id": "raw", "description": "counts of one plane", "axes": [
                {"type": "batch"}, {"type": "channel", "channel_names": seen}, *sides,
            ],
            "test_tensor": source("test_raw.npy"), "data": {"type": "float32"}, "preprocessing": [scaling],
        }],
        "outputs": [{
            "id": name, "description": means[name], "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["attention"] if name == "attention" else channels}, *same,
            ],
            "test_tensor": source(f"test_{name}.npy"), "data": {"type": "float32"},
        } for name in ANSWERS],
        "weights": {"onnx": {**source(MODEL_FILE), "opset_version": OPSET}},
    }  # fmt: skip


def _channel_names(bundle: Bundle) -> list[str]:
    """Return what the channels are called that a model sees: those that it changes first; by number where not named."""
    translator, (own, beside) = bundle.translator, card_channels(bundle.card)
    names = [one for one in (own, *beside) if isinstance(one, str)]
    if len(names) == len({*names}) == translator.inputs:
        return names
    return [f"channel{number}" for number in range(translator.inputs)]


def _halo_px(translator: TranslatorNetworks) -> int:
    """Return the halo of both networks together, a multiple of the stride."""
    halo_px = max(translator.generator_halo_px, translator.attention_halo_px)
    return -(-halo_px // translator.stride) * translator.stride


def _documentation(bundle: Bundle, licence: str) -> str:
    return NOTE.format(
        name=bundle.name, description=bundle.card.get("description") or "No description.",
        version=bundle.card.get("cellxlate_version", "?"), preset=bundle.card.get("preset", "?"), licence=licence,
        threshold=THRESHOLD, black=BLACK_PERCENTILE, white=WHITE_PERCENTILE, stride=bundle.translator.stride,
        halo=_halo_px(bundle.translator), channels=_channel_note(bundle),
    )  # fmt: skip


def _channel_note(bundle: Bundle) -> str:
    """Return a line on the channels that are seen and not changed, where there are some."""
    if not (needed := bundle.networks.settings.beside):
        return ""
    return f"- {seen_words(bundle.card, needed)}: seen beside the channel that is changed, which comes first.\n"


def _test_field(channels: int) -> Floats:
    """Return a simulated field of counts (1, C, Y, X)."""
    sample = simulate(SampleSettings((1, 1, 1, TEST_PX, TEST_PX), cell_fraction=0.2, seed=1))
    plane = sample.stack.read((0,) * len(sample.stack.plane_axes)).astype(np.float32)
    return np.repeat(plane[None, None], channels, axis=1)


def _unit(counts: Floats) -> Floats:
    """Scale counts (1, C, Y, X) as the zoo's `scale_range` does: over the rows and columns of each channel."""
    black, white = (
        np.percentile(counts, share, axis=(2, 3), keepdims=True) for share in (BLACK_PERCENTILE, WHITE_PERCENTILE)
    )
    return np.asarray((counts - black) / (white - black + EPSILON), dtype=np.float32)


@torch.inference_mode()
def _answers(translator: TranslatorNetworks, images: Floats) -> dict[str, Floats]:
    """Return what the networks in torch answer: the reference for the ONNX model."""
    given = torch.from_numpy(images)
    attention = torch.round(translator.attention(given) * ATTENTION_STEPS) / ATTENTION_STEPS
    proposal = translator.generator(given)
    gate, own = ((attention - THRESHOLD) / (1 - THRESHOLD)).clamp(0, 1), given[:, translator.own]
    answers = {"enhanced": own + gate * (proposal - own), "attention": attention, "proposal": proposal}
    return {name: values.numpy() for name, values in answers.items()}


def _cover(before: Floats, after: Floats) -> bytes:
    """Return a PNG, twice as wide as high: before and after, on one scale."""
    white = max(float(after.max()), 1e-6)
    both = np.concatenate([before, after], axis=1) / white
    return bytes(png_encode(np.rint(255 * np.clip(both, 0, 1)).astype(np.uint8)))


def _npy(values: Floats) -> bytes:
    stored = io.BytesIO()
    np.save(stored, np.ascontiguousarray(values), allow_pickle=False)
    return stored.getvalue()


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(
            f"{path} exists already", remedy=("give ", OVERWRITE, " to replace it, or choose another name")
        )
    write_whole_file(path, content)
