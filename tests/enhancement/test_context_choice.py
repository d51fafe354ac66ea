"""Whether the planes beside help is told without a truth; here there is one, to hold the choice against."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cellxlate.enhancement.input import ALONE, Context
from cellxlate.enhancement.neighbours.choice import ITSELF, LEAST_GAIN_DB, ContextChoice, choose_context, decided
from cellxlate.enhancement.plane import PlaneJob
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.networks import seeing_neighbours, values_of
from cellxlate.quality.risk import Ranking, Risk
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.samples.structures import draw_structure
from cellxlate.stacks.stack import Stack

SIDE_PX, SD = 160, 60.0
Z, T = Context.beside("Z", 2), Context.beside("T", 2)


@dataclass(frozen=True)
class Filters:
    """Stands for networks: a Gaussian in the plane, of the mean of all planes that are seen."""

    stride: int = 4
    generator_halo_px: int = 8
    attention_halo_px: int = 8
    activation_bytes_per_px: float = 10.0

    def attention(self, images: np.ndarray) -> np.ndarray:
        middle = images[:, images.shape[1] // 2, None]
        return (ndimage.gaussian_filter(middle, (0, 0, 2, 2)) > 0.25).astype(np.float32)

    def proposal(self, images: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(images.mean(1, keepdims=True), (0, 0, 0.7, 0.7)).astype(np.float32)


@pytest.fixture(scope="session")
def seeing(tiny_model: Path) -> Bundle:
    """A model that knows neighbours; `Filters` are run in its place."""
    bundle = load_model(tiny_model)
    return replace(bundle, neighbours=values_of(seeing_neighbours(bundle.translator, 2)))


def clear(planes: int, moved: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    drawn = draw_structure("cells", (SIDE_PX, SIDE_PX), np.random.default_rng(4), fraction=0.3).image
    return 200 + 1000 * np.stack([moved(drawn, number) for number in range(planes)])


def recorded(image: np.ndarray, axes: str) -> Stack:
    noise = np.random.default_rng(1).normal(0, SD, image.shape)
    return Stack.from_array((image + noise).round().clip(0).astype(np.uint16), axes)


def choose(stack: Stack, bundle: Bundle) -> ContextChoice:
    ranges = stack_ranges(stack, range(stack.channel_count))
    jobs = [PlaneJob(Filters(), {channel: own}) for channel, own in ranges.items()]
    return choose_context(stack, jobs, bundle, open_translator=lambda _: Filters())


def gain_db(stack: Stack, truth: np.ndarray) -> float:
    """By how much the mean over five planes is better than each plane alone, against the truth, where it is bright."""
    noisy = np.asarray(stack).reshape(truth.shape).astype(np.float64)
    beside = np.stack([noisy[[max(at - 2, 0), max(at - 1, 0), at, at + 1, at + 2]].mean(0) for at in range(2, 5)])
    bright = truth[2:5] > 450
    errors = [
        np.mean((ndimage.gaussian_filter(made, (0, 0.7, 0.7)) - truth[2:5])[bright] ** 2)
        for made in (noisy[2:5], beside)
    ]
    return float(10 * np.log10(errors[0] / errors[1]))


def still(drawn: np.ndarray, _: int) -> np.ndarray:
    return drawn


def moving(drawn: np.ndarray, number: int) -> np.ndarray:
    return np.roll(drawn, 12 * number, 1)


def unlike(drawn: np.ndarray, number: int) -> np.ndarray:
    return np.roll(np.rot90(drawn, number), 37 * number, 0)


@pytest.mark.parametrize("axis", ["Z", "T"])
def test_planes_that_show_the_same_are_seen(seeing, axis):
    truth = clear(7, still)
    stack = recorded(truth, f"{axis}YX")
    found = choose(stack, seeing)
    assert found.context == Context.beside(axis, 2)
    told, error = found.ranking.better(axis, ITSELF)
    assert abs(told - gain_db(stack, truth)) < 4 * error
    sure = f"sure by {found.ranking.surely_better(axis, ITSELF):.0f} standard errors"
    assert found.reason == f"estimated {told:.1f} dB better than each plane alone, {sure}"
    assert found.stated() == {"axis": axis.lower(), "planes": 2, "reason": found.reason}
    assert choose(stack, seeing) == found


@pytest.mark.parametrize("change", [moving, unlike])
def test_planes_that_show_something_else_are_not(seeing, change):
    truth = clear(7, change)
    stack = recorded(truth, "TYX")
    found = choose(stack, seeing)
    assert found.context == ALONE
    assert gain_db(stack, truth) < -1
    assert found.ranking.better("T", ITSELF)[0] < -1
    assert "those beside along t are not surely of use" in found.reason
    assert found.stated()["axis"] is None


def test_of_two_axes_the_better_one_is_seen(seeing):
    depth = clear(5, moving)
    movie = recorded(np.repeat(depth[None], 5, axis=0), "TZYX")
    found = choose(movie, seeing)
    assert found.context == T
    assert found.ranking.better("T", "Z")[0] > 1


def test_channels_of_other_levels_are_judged_together(seeing):
    two = np.stack([clear(5, still), 3 * clear(5, still) + 500])
    scaled = np.random.default_rng(2).normal(0, SD, two.shape) * np.array([1, 3])[:, None, None, None]
    stack = Stack.from_array((two + scaled).round().astype(np.uint16), "CZYX")
    assert choose(stack, seeing).context == Z


def test_at_the_ends_of_a_stack_a_plane_that_is_its_own_neighbour_is_not_told_from_noise(seeing):
    """Two planes: of five that are seen three are the plane itself, and what they take is no more than that."""
    truth = clear(2, still)
    stack = recorded(truth, "ZYX")
    found = choose(stack, seeing)
    noisy = np.asarray(stack).astype(np.float64)
    own = [ndimage.gaussian_filter(one, (0, 0.7, 0.7)) for one in (noisy, (noisy * 3 + noisy[::-1] * 2) / 5)]
    errors = [np.mean((one - truth)[truth > 450] ** 2) for one in own]
    told, error = found.ranking.better("Z", ITSELF)
    assert abs(told - 10 * np.log10(errors[0] / errors[1])) < 4 * error


# nothing to decide


def unopened(_: Bundle) -> Any:
    pytest.fail("networks were opened in vain")


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((64, 64), "YX", "no planes along z or t"),
        ((2, 1, 64, 64), "CZYX", "no planes along z or t"),
        ((3, 64, 64), "ZYX", "holds one value"),
    ],
)
def test_where_there_is_nothing_to_decide_no_network_is_run(seeing, shape, axes, words):
    stack = Stack.from_array(np.full(shape, 100, np.uint16), axes)
    job = PlaneJob(Filters(), stack_ranges(stack, [0]))
    found = choose_context(stack, [job], seeing, open_translator=unopened)
    assert (found.context, found.ranking) == (ALONE, None)
    assert found.reason.startswith(ITSELF)
    assert words in found.reason


def test_a_model_that_knows_no_neighbours_sees_each_plane_alone(tiny_model):
    stack = recorded(clear(3, still), "ZYX")
    job = PlaneJob(Filters(), stack_ranges(stack, [0]))
    found = choose_context(stack, [job], load_model(tiny_model), open_translator=unopened)
    assert found.reason == "each plane alone: tiny was not trained to see the planes beside it"


def test_where_nothing_is_selected_each_plane_is_seen_alone(seeing):
    empty = recorded(np.full((3, SIDE_PX, SIDE_PX), 300.0), "ZYX")
    found = choose(empty, seeing)
    assert found.context == ALONE


# the decision


def ranked(gains: dict[str, float], sureness: float) -> Ranking:
    risks = tuple(Risk(name, 1.0, gain, 0.5) for name, gain in {**gains, ITSELF: 0.0}.items())
    table = tuple(tuple(np.sign(one.gain_db - other.gain_db) * sureness for other in risks) for one in risks)
    return Ranking(risks, False, "whatever", ((0.5,) * len(risks),) * len(risks), table)


@pytest.mark.parametrize(
    ("gains", "sureness", "context"),
    [
        ({"Z": 1.0}, 5.0, Z),
        ({"Z": 1.0}, 1.5, ALONE),
        ({"Z": LEAST_GAIN_DB - 0.05}, 9.0, ALONE),
        ({"Z": -1.0}, 9.0, ALONE),
        ({"Z": 1.0, "T": 2.0}, 5.0, T),
        ({"Z": 1.0, "T": -2.0}, 5.0, Z),
    ],
)
def test_only_what_is_surely_better_and_by_enough_is_seen(gains, sureness, context):
    assert decided(ranked(gains, sureness), [one for one in (Z, T) if one.axis in gains]).context == context
