"""Learning from noisy images alone: what the model makes of them, and their own noise put on it, teaches it.

The paper's target cycle t -> F_TS(t) -> F_ST -> t needs no foreign target: t is the present estimate of the source, and
F_TS the noise of its own camera, measured on it. Read `AloneStep` from top to bottom.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from cellxlate.errors import InputError
from cellxlate.model.networks import Translator
from cellxlate.settings import LEAST_WINDOW_PX, AloneSettings, TrainSettings
from cellxlate.stacks.ahead import ahead
from cellxlate.stacks.camera import CameraNoise, measure_noise
from cellxlate.stacks.intensity import SMOOTHING_PX, Levels, sample_windows, stack_levels
from cellxlate.stacks.network_input import network_input
from cellxlate.stacks.noise import stack_noise
from cellxlate.stacks.ome_sets import one_of_each
from cellxlate.stacks.reading import find_images, open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.training import losses
from cellxlate.training.imaging import correlated
from cellxlate.training.losses import HistoryPool
from cellxlate.training.patches import Domain, Field, check_stack
from cellxlate.training.steps import MAX_GRADIENT, Draw, adam, placed

CANDIDATES = 3
"""Windows that are looked at for each that is taken: the one with most contrast."""
CONTRAST_PER_NOISE = 1.5
MOST_FILES, WINDOWS_PER_FILE = 16, 2
NO_IMAGES = Draw(torch.zeros(0), torch.zeros(0))
"""What a step is given whose images are made where it is computed."""


class NothingToLearnError(InputError):
    """An image is too small, or shows nothing that stands out of its noise."""


def alone_domain(paths: Sequence[Path], settings: TrainSettings, channel: int | None) -> Domain:
    """Take a bounded sample of some files and folders into memory, with the noise that their camera adds.

    Raises
    ------
    InputError
        Nothing to read, several channels and none chosen, images smaller than 64 px or without contrast.
    """
    files, _ = find_images(paths, "source")
    files = one_of_each(files)
    chosen = [files[place] for place in _spread(len(files), min(MOST_FILES, settings.alone.windows))]
    quota = -(-settings.alone.windows // len(chosen))
    fields: list[Field] = []
    windows: list[npt.NDArray[Any]] = []
    for path in chosen:
        with ExitStack() as opened:
            stack = opened.enter_context(open_stack(path))
            number = check_stack(stack, path, LEAST_WINDOW_PX, channel)
            levels = stack_levels(stack, [number])
            fields += sample_of(stack, number, levels[number], settings.alone, quota)
            noise = stack_noise(stack, number) if len(chosen) == 1 else None
            windows += [] if noise else islice(sample_windows(stack, number), WINDOWS_PER_FILE)
    return domain_of([(fields, noise or measure_noise(windows))], "the source images")


def sampled_domain(stack: Stack, levels: dict[int, Levels], settings: AloneSettings) -> Domain:
    """Take a bounded sample of some channels of a stack into memory, with the noise of each.

    Parameters
    ----------
    stack : Stack
        Of which windows are read.
    levels : dict of int to Levels
        Of each channel that takes part.
    settings : AloneSettings
        How many windows, and of which size.

    Raises
    ------
    NothingToLearnError
        Planes are smaller than 64 px, or no channel has contrast.
    """
    if min(stack.plane_shape) < LEAST_WINDOW_PX:
        rows, columns = stack.plane_shape
        raise NothingToLearnError(
            f"{stack.name}: {rows} x {columns} px is too small to learn from; expected at least {LEAST_WINDOW_PX} px"
        )
    channels = [list(levels)[place] for place in _spread(len(levels), settings.windows)]
    quota = max(settings.windows // len(channels), 1)
    return domain_of(
        [(sample_of(stack, one, levels[one], settings, quota), stack_noise(stack, one)) for one in channels], stack.name
    )


def domain_of(channels: Sequence[tuple[Sequence[Field], CameraNoise]], name: str) -> Domain:
    """Return the fields of some channels as one domain, with the noise of each channel.

    Raises
    ------
    NothingToLearnError
        No field has contrast, or none has noise.
    """
    pairs = [(field, noise) for own, noise in channels for field in own if stands_out(field) and noise.sd_counts > 0]
    if not pairs:
        raise NothingToLearnError(f"{name}: nothing stands out of the noise, so there is nothing to learn from")
    return Domain([field for field, _ in pairs], 0, "none", noises=[noise for _, noise in pairs])


def stands_out(field: Field) -> bool:
    """Return whether a window shows more, after a Gaussian of 2 px, than what that leaves of the noise.

    Less is asked than of images that a domain is made of: the noisiest stacks are those that have most to gain.
    """
    return _contrast(_pixels(field), field.levels) > CONTRAST_PER_NOISE * field.levels.smooth_noise / field.levels.span


def _contrast(counts: npt.NDArray[Any], levels: Levels) -> float:
    """Return the standard deviation of a window after a Gaussian of 2 px, in unit range."""
    return float(np.std(ndimage.gaussian_filter(levels.to_unit(counts), SMOOTHING_PX)))


def sample_of(stack: Stack, channel: int, levels: Levels, settings: AloneSettings, count: int) -> list[Field]:
    """Return at most so many windows of a channel, spread over its planes, each where there is contrast, in memory.

    Windows with pixels that are not finite, or of one value, are left out.
    """
    places = list(_places(stack, channel, settings.window_px))
    kept: list[Field] = []
    for group in _groups([places[place] for place in _spread(len(places), CANDIDATES * count)], count):
        best: tuple[float, Field] | None = None
        for place, counts in ahead(lambda one: (one, stack.read(*one)), group, threads=2):
            if not np.isfinite(counts).all() or counts.min() == counts.max():
                continue
            own = levels.at(stack.time_of(place[0]))
            contrast = _contrast(counts, own)
            if best is None or contrast > best[0]:
                best = contrast, _field(stack, channel, place, np.array(counts), own)
        if best:
            kept.append(best[1])
    return kept


def _field(
    stack: Stack, channel: int, place: tuple[PlaneIndex, slice, slice], counts: npt.NDArray[Any], levels: Levels
) -> Field:
    index, rows, columns = place
    name = f"{stack.name} channel {channel} plane {tuple(index)} from {rows.start}, {columns.start}"
    window = Stack.from_array(counts, "YX", name=name)
    (inside,) = window.plane_indices()
    return Field(window, inside, levels)


def _pixels(field: Field) -> npt.NDArray[Any]:
    return np.asarray(field.stack.pixels)


def _places(stack: Stack, channel: int, side_px: int) -> Iterator[tuple[PlaneIndex, slice, slice]]:
    """Yield all windows of a channel, plane by plane, as large as asked for or as the plane."""
    starts = [
        np.linspace(0, max(size - side_px, 0), -(-size // side_px)).astype(int).tolist() for size in stack.plane_shape
    ]
    for number in range(stack.planes_per_channel):
        index = stack.plane_of(number, channel)
        for top in starts[0]:
            for left in starts[1]:
                yield index, slice(top, top + side_px), slice(left, left + side_px)


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many of `count` numbers, spread evenly."""
    return list(range(count)) if count <= most else [(2 * part + 1) * count // (2 * most) for part in range(most)]


def _groups(places: list[Any], count: int) -> list[list[Any]]:
    """Cut places, in their order, into at most so many groups."""
    bounds = [len(places) * part // count for part in range(count + 1)]
    return [places[first:last] for first, last in pairwise(bounds) if first < last]


class Estimates(nn.Module):
    """What the source is taken to show, as a checkpoint keeps it.

    Attributes
    ----------
    steps : Tensor, int64
        Done so far; says which round it is.
    shown : Tensor (windows of a round, 1, Y, X)
        The estimates of the round, in unit range; smaller windows begin at the top left.
    """

    steps: Tensor
    shown: Tensor

    def __init__(self, windows: int, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shown", torch.zeros(windows, 1, rows, columns))


class AloneStep:
    """The present estimate of the source, and its own noise put on it, teach the generator; attention stays.

    Parameters
    ----------
    settings : TrainSettings
        Of the run.
    source : Domain
        Windows in memory, with the noise of each.
    device : torch.device
        Where networks run.

    Attributes
    ----------
    teacher : Translator
        Whose generator estimates: the moving average; `begin` sets it.
    """

    teacher: Translator

    def __init__(self, settings: TrainSettings, source: Domain, device: torch.device) -> None:
        self.settings = settings
        self.translator = placed(Translator(settings.networks), device)
        self.translator.attention.requires_grad_(False)
        self.teacher = self.translator
        stride = self.translator.stride
        self.images = [unit_image(one, stride).to(device) for one in source.fields]
        self.noise = UnitNoise(source, device)
        shapes = [tuple(one.shape[-2:]) for one in self.images]
        self.side_px = min(settings.patch_px, *(side for shape in shapes for side in shape))
        self.count = min(settings.alone.round_windows, len(self.images))
        self.estimates = Estimates(self.count, *(max(sides) for sides in zip(*shapes, strict=True))).to(device)
        self.modules: dict[str, nn.Module] = {"translator": self.translator, "estimates": self.estimates}
        self.optimisers = {"generator": adam(self.translator.generator.parameters(), settings)}
        self.pools: dict[str, HistoryPool] = {}

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:  # noqa: ARG002
        """Return what is given: the images of a step follow from the estimates of its round."""
        return source, target

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Draw parts of the estimates, put noise on them, and move the generator towards what they were."""
        round_number, within = divmod(int(self.estimates.steps), self.settings.alone.round_steps)
        windows = self.windows_of(round_number)
        if within == 0:
            self._estimate(windows)
        clear, numbers = self._draw(windows, rng)
        faint = self.noise.added(clear, numbers, rng)
        restored = self.translator.generator(faint)
        everywhere = -torch.ones_like(clear)
        terms = {"cycle_target": losses.relative_cycle(restored, clear, faint, everywhere)}
        total = self.settings.lambda_cycle * terms["cycle_target"]
        self.optimisers["generator"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.translator.generator.parameters(), MAX_GRADIENT)
        self.optimisers["generator"].step()
        self.estimates.steps += 1
        return terms | {"total": total}

    def windows_of(self, round_number: int) -> list[int]:
        """Return which windows a round learns from: all take their turns, in an order of the seed."""
        first = round_number * self.count
        orders: dict[int, npt.NDArray[np.int64]] = {}
        found = []
        for ticket in range(first, first + self.count):
            lap, place = divmod(ticket, len(self.images))
            if lap not in orders:
                orders[lap] = np.random.default_rng([self.settings.seed, 5, lap]).permutation(len(self.images))
            found.append(int(orders[lap][place]))
        return found

    @torch.no_grad()
    def _estimate(self, windows: Sequence[int]) -> None:
        """Renew the estimates: the mean of what the teacher makes of each window, turned and reflected."""
        for place, window in enumerate(windows):
            image = self.images[window]
            rows, columns = image.shape[-2:]
            turned = (_turned(image, turn) for turn in range(self.settings.alone.turns))
            made = [_turned_back(self.teacher.generator(one), turn) for turn, one in enumerate(turned)]
            self.estimates.shown[place, :, :rows, :columns] = torch.stack(made).mean(dim=0)[0]

    def _draw(self, windows: Sequence[int], rng: torch.Generator) -> tuple[Tensor, list[int]]:
        """Return squares of the estimates (B, 1, Y, X), turned at random, and of which window each is."""
        squares, numbers, side = [], [], self.side_px
        for _ in range(self.settings.batch):
            place, turn = _random(len(windows), rng), _random(8, rng)
            rows, columns = self.images[windows[place]].shape[-2:]
            top, left = _random(rows - side + 1, rng), _random(columns - side + 1, rng)
            square = self.estimates.shown[place : place + 1, :, top : top + side, left : left + side]
            squares.append(_turned(square, turn))
            numbers.append(windows[place])
        return torch.cat(squares), numbers


class UnitNoise:
    """The noise of each window in unit range: variance at black and per unit, spatial covariance."""

    def __init__(self, source: Domain, device: torch.device) -> None:
        rows, kernels = [], []
        for field, noise in zip(source.fields, source.noises, strict=True):
            span, black = field.levels.span, field.levels.black
            rows.append((noise.sd_counts**2 / span**2, noise.gain / span, (noise.black_counts - black) / span))
            kernels.append(noise.kernel())
        self.figures = torch.tensor(rows, dtype=torch.float32, device=device)  # (windows, 3)
        self.kernels = torch.from_numpy(np.stack(kernels)).float().to(device)  # (windows, K, K)

    def added(self, clear: Tensor, numbers: Sequence[int], rng: torch.Generator) -> Tensor:
        """Return images (B, 1, Y, X) with the noise of the windows of these numbers."""
        at_black, per_unit, black = self.figures[numbers].T[:, :, None, None, None]
        white = torch.randn(clear.shape, generator=rng).to(clear.device)
        spread = (at_black + per_unit * (clear - black).clamp(min=0)).sqrt()
        faint: Tensor = clear + spread * correlated(white, self.kernels[numbers])
        return faint


def unit_image(field: Field, stride: int) -> Tensor:
    """Return what networks see of a window, (1, 1, Y, X) in unit range, cut to multiples of the stride."""
    unit = network_input(_pixels(field), field.levels).unit
    rows, columns = (size - size % stride for size in unit.shape)
    return torch.from_numpy(np.ascontiguousarray(unit[:rows, :columns]))[None, None]


def _turned(images: Tensor, turn: int) -> Tensor:
    """Return images (B, C, Y, X) after one of the eight quarter turns and reflections."""
    images = images.flip(-1) if turn >= 4 else images
    return images.rot90(turn % 4, dims=(-2, -1)).contiguous()


def _turned_back(images: Tensor, turn: int) -> Tensor:
    images = images.rot90(-(turn % 4), dims=(-2, -1))
    return images.flip(-1) if turn >= 4 else images


def _random(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))
