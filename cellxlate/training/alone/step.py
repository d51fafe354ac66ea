"""Learning from noisy images alone: what the model makes of them, turned, and their own noise teach it.

The paper's target cycle t -> F_TS(t) -> F_ST -> t needs no foreign target: t is the present estimate of the source. Of
the images that F_TS may give for it, the source itself is the true one, and noise of its own camera, measured on it,
put on it once more, gives others (docs/decisions/0020-alone.md has what was compared). Read `AloneStep` from top to
bottom.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.model.networks import TranslatorNetworks
from cellxlate.settings import Precision, TrainSettings, own_planes
from cellxlate.stacks.intensity.network_input import network_input
from cellxlate.training import losses
from cellxlate.training.fields.patches import Domain, Field
from cellxlate.training.imaging.process import correlated, patch_range
from cellxlate.training.losses import HistoryPool
from cellxlate.training.steps import CELL_WEIGHT, Draw, adam, move, placed

ATTENTION_PX, BORDER_PX = 192, 12
ATTENTION_RATE, BACKGROUND_WEIGHT = 5.0, 0.3
"""Attention learns so many times as fast; pixels of the background count so much for the generator."""
RECORRUPTED = 0.8
SHARED_FROM, LEAST_NOISY_PX = 0.25, 256**2
"""Correlation of neighbours from which on windows teach by their own noise, if they hold so many pixels together: from
128 x 128 px the noise itself was learned, 0.7 dB worse beside them."""
SURE, LEAST_SPAN = 0.5, 0.2
MARGIN_PX = 32
"""By which windows are continued where they are estimated; a multiple of every stride."""
RIM = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2.3
NO_IMAGES = Draw(torch.zeros(0), torch.zeros(0))
"""What a step is given whose images are made where it is computed."""


class StepCount(nn.Module):
    """How many steps are done, as a checkpoint keeps it: which windows are learned from follows from it."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True)
class Lesson:
    """What a window is taken to show, and the gate that is wanted there: (1, 1, Y, X) in unit range, and in [0, 1]."""

    shown: Tensor
    attended: Tensor


class AloneStep:
    """What the model makes of turned images, on average, teaches it, and so does the noise of the source's own camera.

    The generator learns what the mean over the eight turns of a window shows, which has less error than each of them.
    Where neighbours share noise it learns from the noisy image itself as well: with n drawn like its noise, y + a n and
    y - n / a have independent noise, so the second is, on average, what should be made of the first. Attention learns
    the largest of what it says of the window and of its estimate, 2 px wider. The source is windows in memory, with the
    noise of each. Networks that see neighbours are given those of a window as they were recorded; what is put on it is
    put on them too, each with noise of its own, and on a plane that stands in twice, as at the ends of a stack, the
    same.

    References
    ----------
    T. Pang et al., Recorrupted-to-recorrupted: unsupervised deep learning for image denoising, CVPR 2021.
    """

    def __init__(self, settings: TrainSettings, source: Domain, device: torch.device) -> None:
        self.settings = settings
        self.translator = placed(TranslatorNetworks(settings.networks), device)
        self.teacher = self.translator
        self.precision: Precision = "float32"
        stride = self.translator.stride
        self.images = [unit_image(one, stride).to(device) for one in source.fields]
        self.own = own_planes(settings.networks.context)
        self.noise = UnitNoise(source, device)
        shapes = [tuple(one.shape[-2:]) for one in self.images]
        shortest = min(side for shape in shapes for side in shape)
        self.side_px = min(settings.patch_px, shortest)
        self.attention_px = min(ATTENTION_PX, shortest)
        self.count = min(settings.alone.round_windows, len(self.images))
        self.lessons: dict[int, Lesson] = {}
        self.count_of_steps = StepCount().to(device)
        self.modules: dict[str, nn.Module] = {"translator": self.translator, "count": self.count_of_steps}
        self.optimisers = {
            "generator": adam(self.translator.generator.parameters(), settings),
            "attention": adam(self.translator.attention.parameters(), settings),
        }
        for group in self.optimisers["attention"].param_groups:
            group["times"] = ATTENTION_RATE
        self.pools: dict[str, HistoryPool] = {}

    def taught_by(self, start: TranslatorNetworks, precision: Precision) -> None:
        """Take the translator as it is at the beginning as the teacher, for good."""
        self.teacher, self.precision = copy.deepcopy(start), precision

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:  # noqa: ARG002
        """Return what is given: the images of a step follow from the windows of its round."""
        return source, target

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Draw parts of the windows and move generator and attention towards what they are taken to show."""
        windows = self.windows_of(int(self.count_of_steps.steps) // self.settings.alone.round_steps)
        for window in windows:
            if window not in self.lessons:
                self.lessons[window] = self._lesson(self.images[window])
        batch = self.settings.batch
        terms = {"cycle_target": self._generator_term(self._draw(windows, batch, self.side_px, rng), rng)}
        wide = self._draw(windows, max(batch // 2, 1), self.attention_px, rng)
        logits = self.translator.attention.logits(wide.faint)
        inner = _inner(self.attention_px)
        terms["guide"] = losses.follow_guide(logits[inner], wide.attended[inner], cell_weight=CELL_WEIGHT)
        total = self.settings.lambda_cycle * terms["cycle_target"] + self.settings.lambda_guide * terms["guide"]
        move(self.optimisers.values(), total, [self.translator.generator, self.translator.attention])
        self.count_of_steps.steps += 1
        return terms | {"total": total, "attention_area": torch.sigmoid(logits).mean()}

    def _generator_term(self, drawn: "Squares", rng: torch.Generator) -> Tensor:
        """Return the mean square between what the generator makes of images and what it should, cells counting most."""
        shared = [self.noise.shared[number] for number in drawn.numbers]
        again = [position for position, is_shared in enumerate(shared) if is_shared and position % 2]
        once = [position for position in range(len(shared)) if position not in again]
        faint, aim, weight = drawn.faint[once], drawn.shown[once], drawn.attended[once]
        if again:
            recorded = drawn.faint[again]
            numbers = [drawn.numbers[one] for one in again]
            noise = self.noise.drawn(drawn.shown[again].expand_as(recorded), numbers, rng)
            noise = torch.stack([one[same_as(planes)] for one, planes in zip(noise, recorded, strict=True)])
            faint = torch.cat([faint, recorded + RECORRUPTED * noise, recorded - RECORRUPTED * noise])
            other = noise[:, self.own] / RECORRUPTED
            aim = torch.cat([aim, recorded[:, self.own] - other, recorded[:, self.own] + other])
            weight = torch.cat([weight, drawn.attended[again], drawn.attended[again]])
        weight = BACKGROUND_WEIGHT + (1 - BACKGROUND_WEIGHT) * (weight > 0)
        inner = _inner(self.side_px)
        difference: Tensor = (weight * (self.translator.generator(faint) - aim) ** 2)[inner]
        return difference.mean()

    def windows_of(self, round_number: int) -> list[int]:
        """Return which windows a round learns from: all take their turns, in an order of the seed."""
        first = round_number * self.count
        orders: dict[int, npt.NDArray[np.int64]] = {}
        chosen = []
        for ticket in range(first, first + self.count):
            lap, position = divmod(ticket, len(self.images))
            if lap not in orders:
                orders[lap] = np.random.default_rng([self.settings.seed, 5, lap]).permutation(len(self.images))
            chosen.append(int(orders[lap][position]))
        return chosen

    @torch.no_grad()
    def _lesson(self, image: Tensor) -> Lesson:
        """Return what the teacher makes of a window on average over its turns, and where it attends in both."""
        turns = self.settings.alone.turns
        mixed = partial(torch.autocast, image.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with mixed():
            shown = over_turns(self.teacher.generator, image, turns)
        black, white = patch_range(shown)
        clear = (shown - black) / (white - black).clamp(min=LEAST_SPAN)
        with mixed():
            seen = [over_turns(self.teacher.attention, one, turns) for one in (image, clear.expand_as(image))]
        attended = wanted_gate(torch.maximum(*seen)[0, 0].cpu().numpy(), self.settings.threshold)
        return Lesson(shown, torch.from_numpy(attended)[None, None].to(image.device))

    def _draw(self, windows: Sequence[int], count: int, side_px: int, rng: torch.Generator) -> "Squares":
        """Return squares of the windows of a round, turned at random."""
        parts: list[list[Tensor]] = [[], [], []]
        numbers = []
        for _ in range(count):
            position, turn = _random(len(windows), rng), _random(8, rng)
            rows, columns = self.images[windows[position]].shape[-2:]
            top, left = _random(rows - side_px + 1, rng), _random(columns - side_px + 1, rng)
            square = slice(None), slice(None), slice(top, top + side_px), slice(left, left + side_px)
            lesson = self.lessons[windows[position]]
            own = self.images[windows[position]], lesson.shown, lesson.attended
            for part, image in zip(parts, own, strict=True):
                part.append(_turned(image[square], turn))
            numbers.append(windows[position])
        faint, shown, attended = (torch.cat(part) for part in parts)
        return Squares(faint, shown, attended, numbers)


@dataclass(frozen=True)
class Squares:
    """Parts of windows: as recorded, (B, C, Y, X); what they are taken to show and the gate, (B, 1, Y, X); of which."""

    faint: Tensor
    shown: Tensor
    attended: Tensor
    numbers: list[int]


def over_turns(network: nn.Module, image: Tensor, turns: int) -> Tensor:
    """Return the mean, over so many turns of an image (1, C, Y, X), of what a network makes of them, turned back."""
    beyond = functional.pad(image, (MARGIN_PX,) * 4, mode="reflect")
    made = [_turned_back(network(_turned(beyond, turn)).float(), turn) for turn in range(turns)]
    inner = slice(MARGIN_PX, -MARGIN_PX)
    return torch.stack(made).mean(dim=0)[..., inner, inner]


def wanted_gate(attention: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.float32]:
    """Return the gate (Y, X) that is wanted where attention says so: open 2 px further, closed at specks.

    A specialist is sure in noise where a generalist is not, and a gate that ends inside a cell leaves its rim noisy:
    a pixel of one in fifty cost 2 dB in noisy nuclei. What is nowhere above a half is a speck.
    """
    sure = apply_hysteresis_threshold(attention, threshold, SURE)
    opened = np.where(sure, losses.ramp(torch.from_numpy(attention), threshold).numpy(), 0)
    return np.asarray(ndimage.maximum_filter(opened, footprint=RIM), np.float32)


def _inner(side_px: int) -> tuple[slice, slice, slice, slice]:
    """Return what picks images without their border, where networks do not see what lies beyond."""
    edge = min(BORDER_PX, side_px // 8)
    return slice(None), slice(None), slice(edge, side_px - edge), slice(edge, side_px - edge)


class UnitNoise:
    """The noise of each window in unit range: variance at black and per unit, spatial covariance."""

    def __init__(self, source: Domain, device: torch.device) -> None:
        rows, kernels = [], []
        for field, noise in zip(source.fields, source.noises, strict=True):
            span, black = field.intensity.span, field.intensity.black
            rows.append((noise.sd_counts**2 / span**2, noise.gain / span, (noise.black_counts - black) / span))
            kernels.append(noise.kernel())
        self.figures = torch.tensor(rows, dtype=torch.float32, device=device)  # (windows, 3)
        self.kernels = torch.from_numpy(np.stack(kernels)).float().to(device)  # (windows, K, K)
        enough = sum(math.prod(field.shape) for field in source.fields) >= LEAST_NOISY_PX
        self.shared = [enough and noise.neighbour_correlation > SHARED_FROM for noise in source.noises]

    def drawn(self, clear: Tensor, numbers: Sequence[int], rng: torch.Generator) -> Tensor:
        """Return noise as the windows of these numbers have it, where they show images (B, 1, Y, X)."""
        at_black, per_unit, black = self.figures[numbers].T[:, :, None, None, None]
        white = torch.randn(clear.shape, generator=rng).to(clear.device)
        spread = (at_black + per_unit * (clear - black).clamp(min=0)).sqrt()
        noise: Tensor = spread * correlated(white, self.kernels[numbers])
        return noise


def unit_image(field: Field, stride: int) -> Tensor:
    """Return what networks see of a window, (1, C, Y, X) in unit range, cut to multiples of the stride."""
    rows, columns = (size - size % stride for size in field.shape)
    counts = np.asarray(field.stack.pixels).reshape(-1, *field.shape)
    unit = np.stack([network_input(one, field.intensity).unit[:rows, :columns] for one in counts])
    return torch.from_numpy(unit)[None]


def same_as(planes: Tensor) -> list[int]:
    """Return of each of some planes (C, Y, X) the first that is the same."""
    return [next(first for first, one in enumerate(planes) if torch.equal(one, plane)) for plane in planes]


def _turned(images: Tensor, turn: int) -> Tensor:
    """Return images (B, C, Y, X) after one of the eight quarter turns and reflections."""
    images = images.flip(-1) if turn >= 4 else images
    return images.rot90(turn % 4, dims=(-2, -1)).contiguous()


def _turned_back(images: Tensor, turn: int) -> Tensor:
    images = images.rot90(-(turn % 4), dims=(-2, -1))
    return images.flip(-1) if turn >= 4 else images


def _random(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))
