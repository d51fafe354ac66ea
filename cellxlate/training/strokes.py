"""Attention taught by a few strokes inside and outside of cells. Read `learn_strokes` from top to bottom.

The strokes are first spread over the image around them: a small classifier of pixels, which is fitted to the strokes
alone, says what looks like their cells. Attention then learns from that picture and from the strokes themselves.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from scipy import ndimage
from torch import Tensor, nn

from cellxlate.errors import InputError, OptionError
from cellxlate.model.bundle import Bundle, load_model, save_bundle
from cellxlate.model.cards import seen_words
from cellxlate.model.networks import AttentionNetwork, values_of
from cellxlate.option_values import as_path, require_callables, whole
from cellxlate.options import MODEL, SEED, TRAINED
from cellxlate.settings import BACKGROUND, CELL, THRESHOLD
from cellxlate.stacks.intensity.network_input import network_input
from cellxlate.stacks.intensity.range import IntensityRange, measure_range
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.stack import Stack
from cellxlate.training.fields.spread import (
    MOST_WINDOWS,
    Painted,
    Plane,
    check_strokes,
    kinds_of,
    spread,
    whole_strides,
    windows_of,
)
from cellxlate.training.finished import picture_of, start_facts

STEPS = 240
RATE, WARM_STEPS, STEADY = 1e-3, 10, 0.6
SMOOTHNESS, SPREAD_WEIGHT = 0.5, 1.0
LIGHT_JITTER = 0.1
SHARPNESS = 3.0
"""Attention is made so much steeper in the end, and lowered: what was one half then lies at the usual threshold."""


def teach(
    image: Stack | npt.NDArray[Any],
    strokes: npt.NDArray[np.integer[Any]],
    model: Bundle | str | Path = "cells",
    *,
    output: str | Path | None = None,
    steps: int = STEPS,
    seed: int = 0,
    after_step: Callable[[int], object] | None = None,
) -> Bundle:
    """Teach a model which things to select, by a few strokes inside and outside of them.

    Parameters
    ----------
    image : Stack or ndarray
        A stack of one channel, or an array (Y, X) or (Z, Y, X) of counts.
    strokes : ndarray of int
        Of the shape of the image: 0 not painted, 1 background, 2 and more cells.
    model : Bundle, str or Path
        What to begin from.
    output : path, optional
        A model folder to write; must not exist. Without it the model lives in memory alone.
    steps : int
        Of the networks; the default takes some 5 s of one core, and 8 s for a window of 400 x 400 px.
    seed : int
        The same seed and strokes give the same model on the same machine.
    after_step : callable, optional
        Takes the number of steps done; what it raises ends the learning.

    Returns
    -------
    Bundle
        The model with another attention network; its generator is the old one.

    Raises
    ------
    InputError
        As `learn_strokes`, or the stack has several channels.
    OptionError
        As `learn_strokes`.
    OutputError
        The folder exists, or cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).poisson(100, (64, 64)).astype(np.uint16)
    >>> image[20:40, 20:40] += 50
    >>> strokes = np.zeros(image.shape, np.uint8)
    >>> strokes[28:32, 24:36], strokes[50:54, 10:50] = 2, 1
    >>> teach(image, strokes, steps=2).name
    'cells with strokes'
    """
    place = None if output is None else as_path(TRAINED, output)
    stack = image if isinstance(image, Stack) else Stack.from_array(np.asarray(image), "TZYX"[-np.ndim(image) :])
    if stack.channel_count > 1 or "S" in stack.axes:
        raise InputError(f"{stack.name} has several channels; give strokes and image of one channel")
    if stack.shape != np.shape(strokes):
        raise InputError(f"the strokes are {np.shape(strokes)} px, the image {stack.shape}; they must agree")
    painted = Stack.from_array(kinds_of(strokes), stack.axes)
    intensity = stack_ranges(stack, [0])[0]
    indices = [index for index in stack.plane_indices() if painted.read(index).any()]
    learned = learn_strokes(
        model if isinstance(model, Bundle) else load_model(model),
        [stack.read(index) for index in indices],
        [painted.read(index) for index in indices],
        [intensity.at(stack.time_of(index)) for index in indices],
        steps=steps,
        seed=seed,
        after_step=after_step,
    )
    if place is None:
        return learned
    return save_taught(learned, place, stack.read(indices[0]), intensity.at(stack.time_of(indices[0])))


def learn_strokes(
    model: Bundle,
    planes: Sequence[npt.NDArray[Any]],
    strokes: Sequence[npt.NDArray[Any]],
    intensities: Sequence[IntensityRange] | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    after_step: Callable[[int], object] | None = None,
) -> Bundle:
    """Return a model whose attention has learned from strokes; it depends on these, the model and the seed alone.

    Parameters
    ----------
    model : Bundle
        What to begin from; it stays as it is.
    planes : sequence of ndarray (Y, X)
        Counts.
    strokes : sequence of ndarray (Y, X) of int
        0 not painted, 1 background, 2 and more cells.
    intensities : sequence of IntensityRange, optional
        Of the stacks that the planes belong to; measured on each plane by default.
    steps, seed, after_step
        As for `teach`.

    Raises
    ------
    InputError
        Nothing is painted, or only cells, or only background; labels that are not whole numbers; another shape.
    OptionError
        Fewer than 1 step, or a value of another type.

    Notes
    -----
    All layers of attention learn, by Adam, from the strokes, from what the classifier of `spread` makes of them, and
    from a preference for contours where the image has edges (Tang et al., ECCV 2018, doi:10.1007/978-3-030-01270-0_31).
    The network keeps its layers, so that tiles, engines and files are those of any model.
    """
    steps, seed = whole("steps", steps, least=1), whole(SEED, seed, least=0)
    require_callables(after_step=after_step)
    if needed := model.networks.settings.beside:
        seen = seen_words(model.card, needed)
        raise OptionError(
            f"{model.name} looks for cells with {seen} in view, and strokes teach on one channel",
            remedy=("choose a ", MODEL, " that sees one channel"),
        )
    check_strokes(planes, strokes)
    intensities = intensities or [measure_range([plane]) for plane in planes]
    windows = [
        window
        for plane, own, intensity in zip(planes, strokes, intensities, strict=True)
        for window in windows_of(network_input(plane, intensity).unit, own)
    ]
    windows = sorted(windows, key=lambda one: -np.count_nonzero(one.strokes))[:MOST_WINDOWS]
    wanted = spread(windows, model.translator.attention, seed=seed)
    translator = copy.deepcopy(model.translator)
    _fit_attention(translator.attention, windows, wanted, steps, seed, after_step)
    tensors = {name: value.contiguous() for name, value in translator.state_dict().items()}
    painted = [kinds_of(own) for own in strokes]
    card = {
        **model.card,
        "description": f"{model.card.get('description', '')}; attention taught by strokes".lstrip("; "),
        "training": {
            "command": None,
            "strokes": {
                "planes": len(planes),
                "background_px": int(sum((own == BACKGROUND).sum() for own in painted)),
                "cell_px": int(sum((own == CELL).sum() for own in painted)),
            },
            "steps": steps,
            "seed": seed,
            "start": start_facts(model),
        },
        "scores": {},
        "weights_sha256": hashlib.sha256(save(tensors)).hexdigest(),
    }
    name = model.name if model.name.endswith(" with strokes") else f"{model.name} with strokes"
    return Bundle(name, values_of(translator), card, Path(name))


def save_taught(model: Bundle, folder: Path, plane: npt.NDArray[Any], intensity: IntensityRange) -> Bundle:
    """Write a taught model with a picture of a plane (Y, X) of counts; return it as it was read back.

    Raises
    ------
    OutputError
        The folder exists, or cannot be written.
    """
    unit = network_input(plane, intensity).unit
    return save_bundle(folder, model.translator, model.card, picture_of(model.translator, unit, THRESHOLD))


# From the picture to attention


def _fit_attention(
    attention: AttentionNetwork,
    windows: Sequence[Painted],
    wanted: Sequence[Plane],
    steps: int,
    seed: int,
    after_step: Callable[[int], object] | None,
) -> None:
    """Train all layers in place."""
    padding = _continued(attention)
    attention.train().requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(attention.parameters(), RATE)
    lessons = [_TaughtWindow.of(one, picture, windows) for one, picture in zip(windows, wanted, strict=True)]
    draws = np.random.default_rng(seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_STEPS, (steps - step) / (steps * (1 - STEADY)))
        loss = lessons[step % len(lessons)].loss(attention, draws)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if after_step is not None:
            after_step(step + 1)
    last = [layer for layer in attention.modules() if isinstance(layer, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight *= SHARPNESS
        if last.bias is not None:
            last.bias.mul_(SHARPNESS).add_(float(np.log(THRESHOLD / (1 - THRESHOLD))))
    for layer, mode in padding:
        layer.padding_mode = mode
    attention.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _continued(attention: AttentionNetwork) -> list[tuple[nn.Conv2d, Any]]:
    """Let convolutions continue a window by its outermost pixels, as planes are mirrored; return what they did."""
    before = []
    for layer in attention.modules():
        if isinstance(layer, nn.Conv2d) and layer.padding != (0, 0):
            before.append((layer, layer.padding_mode))
            layer.padding_mode = "replicate"
    return before


@dataclass(frozen=True)
class _TaughtWindow:
    """A window as tensors (1, 1, Y, X): image, strokes with their weights, picture to learn, weights of contours."""

    image: Tensor
    inside: Tensor
    painted: Tensor
    picture: Tensor
    calm: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, window: Painted, picture: Plane, every: Sequence[Painted]) -> "_TaughtWindow":
        """Prepare a window; strokes of both kinds weigh the same over all windows."""
        totals = [sum(int((one.strokes == kind).sum()) for one in every) for kind in (BACKGROUND, CELL)]
        strokes = np.pad(window.strokes, [(0, -size % 32) for size in window.strokes.shape])
        weights = np.zeros(strokes.shape, np.float32)
        for kind, total in zip((BACKGROUND, CELL), totals, strict=True):
            weights[strokes == kind] = 0.5 * len(every) / total
        unit = whole_strides(window.unit)
        smooth = ndimage.gaussian_filter(unit, 1.0)
        steps = [np.abs(np.diff(smooth, axis=axis)) for axis in (0, 1)]
        usual = float(np.sqrt(np.mean(np.concatenate([step.ravel() for step in steps]) ** 2))) + 1e-9
        down, across = (_tensor(np.exp(-step / usual)) for step in steps)
        inside = (strokes == CELL).astype(np.float32)
        return cls(_tensor(unit), _tensor(inside), _tensor(weights), _tensor(whole_strides(picture)), (down, across))

    def loss(self, attention: AttentionNetwork, draws: np.random.Generator) -> Tensor:
        """Return the loss of one step, on the window turned, flipped, and in another light."""
        quarters, flip = int(draws.integers(4)), bool(draws.integers(2))
        gain, offset = draws.uniform(1 - LIGHT_JITTER, 1 + LIGHT_JITTER), LIGHT_JITTER * draws.normal(0, 0.3)
        seen = torch.rot90(self.image * gain + offset, quarters, (-2, -1))
        seen = (seen.flip(-1) if flip else seen).contiguous(memory_format=torch.channels_last)
        logits = attention.logits(seen.float())
        logits = torch.rot90(logits.flip(-1) if flip else logits, -quarters, (-2, -1))
        entropy = nn.functional.binary_cross_entropy_with_logits
        stroked = (entropy(logits, self.inside, reduction="none") * self.painted).sum()
        likely = torch.sigmoid(logits)
        down, across = self.calm
        contours = (likely.diff(dim=-2).abs() * down).mean() + (likely.diff(dim=-1).abs() * across).mean()
        return stroked + SPREAD_WEIGHT * entropy(logits, self.picture) + SMOOTHNESS * contours


def _tensor(plane: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None, None]
