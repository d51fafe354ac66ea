"""What torch computes for a probe image, kept in a model's card: other engines are checked without loading torch."""

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellxlate.model.attention import Floats

if TYPE_CHECKING:
    from cellxlate.model.networks import TranslatorNetworks

Part = Literal["proposal", "attention"]
UNIT_PX, LEAST_PX = 96, 192
POINTS = 16
"""Along a side of what is kept: rows and columns spread over all whose surroundings lie inside the probe image."""


def probe_side_px(halo_px: int, stride: int) -> int:
    """Return the side of the probe image of a network with such a halo, and such a stride of both."""
    return max(LEAST_PX, -(-(2 * halo_px + stride) // UNIT_PX) * UNIT_PX)


def probe_images(side_px: int, channels: int) -> Floats:
    """Return the probe image (1, C, Y, X) in unit range: noise on steps."""
    noise = np.random.default_rng(0).normal(0.4, 0.3, (1, 1, side_px, side_px)).astype(np.float32)
    steps = np.kron(np.random.default_rng(1).uniform(0, 1, (12, 12)), np.ones((side_px // 12,) * 2))
    return np.repeat((noise / 4 + steps).astype(np.float32), channels, axis=1)


def whole(outcome: Floats, side_px: int, halo_px: int) -> Floats:
    """Return the pixels of an outcome (1, C, Y, X) whose surroundings lie inside the probe image."""
    rest = halo_px - (side_px - outcome.shape[-1]) // 2
    inside = slice(rest, outcome.shape[-1] - rest)
    return outcome[..., inside, inside]


def at_points(pixels: Floats) -> Floats:
    """Return those pixels of (1, C, Y, X) that a card keeps, (1, C, 16, 16) or fewer."""
    rows, columns = (np.unique(np.linspace(0, side - 1, POINTS).astype(int)) for side in pixels.shape[-2:])
    return pixels[..., rows[:, None], columns]


def computed_by_torch(translator: "TranslatorNetworks") -> dict[Part, Floats]:
    """Return what both networks make of the probe image in torch and float32, where surroundings are whole."""
    import torch

    halos_px: dict[Part, int] = {
        "proposal": translator.generator_halo_px, "attention": translator.attention_halo_px
    }  # fmt: skip
    networks: dict[Part, Any] = {"proposal": translator.generator, "attention": translator.attention}
    made = {}
    for part, halo_px in halos_px.items():
        side_px = probe_side_px(halo_px, translator.stride)
        with torch.inference_mode():
            outcome = networks[part](torch.from_numpy(probe_images(side_px, translator.inputs))).numpy()
        made[part] = whole(outcome, side_px, halo_px)
    return made


def stated_of(computed: Mapping[Part, Floats], digest: str) -> dict[str, str]:
    """Return an entry of a card, float32 in base64, for the weights with such a SHA-256."""
    points = {part: at_points(pixels).astype("<f4").tobytes() for part, pixels in computed.items()}
    return {"weights_sha256": digest} | {part: base64.b64encode(values).decode() for part, values in points.items()}


def stated_in(card: Mapping[str, Any], digest: str) -> dict[Part, Floats] | None:
    """Return what a card states for such weights, each as values (n,); None where it states nothing readable."""
    entry = card.get("probe")
    if not isinstance(entry, dict) or entry.get("weights_sha256") != digest:
        return None
    parts: tuple[Part, ...] = ("proposal", "attention")
    try:
        return {part: np.frombuffer(base64.b64decode(entry[part], validate=True), "<f4") for part in parts}
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
