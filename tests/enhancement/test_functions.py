"""Any function as a proposal: called with planes in counts, checked, told apart, found out where it is not local."""

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import cellxlate
from cellxlate.enhancement.proposals.fingerprint import fingerprint
from cellxlate.enhancement.proposals.function import FunctionProposal, name_of
from cellxlate.errors import CellxlateError, ModelError, OptionError
from cellxlate.stacks.stack import Stack

STRENGTH = 1.5


def spots(shape: tuple[int, int] = (150, 170)) -> np.ndarray:
    rng = np.random.default_rng(0)
    light = ndimage.gaussian_filter((rng.random(shape) > 0.995).astype(float), 3) * 20_000
    return rng.poisson(light + 100).astype(np.uint16)


COUNTS = spots()
MASK = np.ones(COUNTS.shape, np.uint8)


def run(function: Callable[..., Any], halo_px: Any = 6, **options: Any) -> cellxlate.EnhancedStack:
    return cellxlate.enhance(COUNTS, function, axes="YX", halo_px=halo_px, attention_from=MASK, **options)


class Blur:
    def __init__(self, sigma_px: float) -> None:
        self.sigma_px = sigma_px

    def blurred(self, plane: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(plane, self.sigma_px)

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        return np.rint(self.blurred(plane)).astype(np.int32)


def in_place(plane: np.ndarray) -> np.ndarray:
    plane[:] = ndimage.gaussian_filter(plane, STRENGTH)
    return plane


HELD: dict[tuple[int, ...], np.ndarray] = {}


def in_one_buffer(plane: np.ndarray) -> np.ndarray:
    held = HELD.setdefault(plane.shape, np.empty_like(plane))
    held[:] = ndimage.gaussian_filter(plane, STRENGTH)
    return held


KINDS: dict[str, Callable[..., Any]] = {
    "lambda": lambda plane: ndimage.gaussian_filter(plane, 1.5),
    "partial": functools.partial(ndimage.gaussian_filter, sigma=1.5),
    "method": Blur(1.5).blurred,
    "object": Blur(1.5),
    "in place": in_place,
    "one buffer": in_one_buffer,
    "float64": lambda plane: ndimage.gaussian_filter(plane.astype(np.float64), 1.5),
    "list": lambda plane: ndimage.gaussian_filter(plane, 1.5).tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_callable_gives_what_it_gives_on_the_whole_plane(kind: str) -> None:
    expected = np.rint(ndimage.gaussian_filter(COUNTS.astype(np.float32), 1.5))
    assert np.abs(run(KINDS[kind], tile_px=40).image - expected).max() <= 1


def test_a_network_of_torch_runs_as_it_is() -> None:
    import torch

    class Halves(torch.nn.Module):
        """Looks at halves of the resolution: windows must begin where they begin in the whole plane."""

        def __init__(self) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)
            self.scale = torch.nn.Parameter(torch.tensor(1.25))

        def forward(self, planes: torch.Tensor) -> torch.Tensor:
            small = torch.nn.functional.max_pool2d(self.drop(planes), 2)
            return self.scale * torch.nn.functional.interpolate(small, scale_factor=2.0)

    network = Halves()
    whole, tiled = (run(network, 4, tile_px=side) for side in (None, 33))
    assert np.array_equal(whole.image, tiled.image)
    expected = 1.25 * COUNTS.reshape(75, 2, 85, 2).max((1, 3)).repeat(2, 0).repeat(2, 1)
    assert np.abs(whole.image - expected).max() <= 1
    assert network.training
    before = fingerprint(network).sha256
    with torch.no_grad():
        network.scale += 1
    assert fingerprint(network).sha256 != before


def fails(plane: np.ndarray) -> np.ndarray:
    raise KeyError("no\nsuch key")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (fails, r"^fails failed on a plane of \d+ x \d+ px \(KeyError: .*no"),
        (lambda plane: plane[:-1], r"^lambda returned \d+ x \d+ of float32 for a plane of"),
        (lambda plane: None, r"^lambda returned a single value of object"),
        (lambda plane: plane.astype(str), "of <U32"),
        (lambda plane: plane * 1j, "complex"),
        (
            lambda plane: np.where(plane > plane.mean(), np.nan, plane),
            r"returned \d+ of \d+ pixels that are not finite",
        ),
        (lambda: None, "^lambda failed on a plane"),
    ],
)
def test_what_is_wrong_with_a_function_is_one_line_that_names_it(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        run(function)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, CellxlateError)
    if function is fails:
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "function",
    [
        lambda plane: plane - plane.mean() + 300,
        lambda plane: ndimage.gaussian_filter(plane, 4),
        lambda plane: plane + np.random.default_rng().normal(0, 9, plane.shape),
        lambda plane: plane[::2, ::2].repeat(2, 0).repeat(2, 1)[: plane.shape[0], : plane.shape[1]],
    ],
    ids=["mean of the window", "too small a halo", "random", "every other pixel"],
)
def test_a_function_that_is_not_as_local_as_its_halo_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match=r"lambda looks farther than halo_px=5, .* differ by .* counts"):
        run(function, 5)


def fitted(function: Callable[..., Any], halo_px: int, counts: np.ndarray, axes: str = "YX") -> FunctionProposal:
    channels = range(counts.shape[0] if "C" in axes else 1)
    return FunctionProposal.of(function, halo_px).fitted(Stack.from_array(counts, axes), list(channels))


def every_other(plane: np.ndarray) -> np.ndarray:
    return plane[::2, ::2].repeat(2, 0).repeat(2, 1)[: plane.shape[0], : plane.shape[1]]


@pytest.mark.parametrize("halo_px", [4, 5, 6, 7])
@pytest.mark.parametrize("side", [170, 530])
def test_where_a_window_begins_is_found_out_with_any_halo_on_any_plane(halo_px: int, side: int) -> None:
    with pytest.raises(OptionError, match="depends on where a window begins"):
        fitted(every_other, halo_px, spots((side, side + 7)))


def test_what_differs_only_where_it_is_dark_is_found_out_in_the_corners() -> None:
    def lifts_shadow(plane: np.ndarray) -> np.ndarray:
        return np.where(plane < 50, plane.mean(), plane)

    vignette = spots((420, 440)) + 400
    vignette[:20, :20] = 0
    vignette[-20:, -20:] = 0
    with pytest.raises(OptionError, match="lifts_shadow looks farther"):
        fitted(lifts_shadow, 5, vignette)


@pytest.mark.parametrize("faulty", [0, 1, 2])
def test_each_channel_is_looked_at_and_floats_by_its_own_contrast(faulty: int) -> None:
    light = spots().astype(np.float32)
    channels = np.stack([light, 1e6 + 1e6 * light, -light])

    def farther_in_one(plane: np.ndarray) -> np.ndarray:
        kinds = plane.min() > 0, plane.min() > 1e6, plane.min() < 0
        is_faulty = kinds[faulty] and (faulty != 0 or not kinds[1])
        return ndimage.gaussian_filter(plane, 4) if is_faulty else plane

    with pytest.raises(OptionError, match="farther_in_one looks farther"):
        fitted(farther_in_one, 5, channels, "CYX")


def test_a_network_of_torch_sees_odd_and_large_planes_in_windows_that_suit_it() -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2))
    for shape in ((151, 173), (530, 541)):
        locality = fitted(network, 4, spots(shape)).locality
        assert locality is not None
        assert locality.compared_px
        assert locality.difference_counts == 0


def test_a_function_may_see_whole_planes() -> None:
    made = run(lambda plane: 0 * plane + plane.mean(), "plane", tile_px=33)
    assert np.abs(made.image - np.rint(COUNTS.mean())).max() <= 1
    assert made.report.provenance["proposal"]["halo_px"] == "plane"


@pytest.mark.parametrize("halo_px", ["whole", -1, 1.5, True, [3], 10**9])
def test_a_halo_is_a_whole_number_or_the_plane(halo_px: Any) -> None:
    with pytest.raises(OptionError, match="halo_px="):
        run(KINDS["lambda"], halo_px)


def test_what_needs_no_halo_refuses_one_and_a_function_needs_it() -> None:
    with pytest.raises(OptionError, match="lambda needs halo_px="):
        run(KINDS["lambda"], None)
    for model in ("gaussian:1", "cells"):
        with pytest.raises(OptionError, match="halo_px=3 is for a function"):
            run(model, 3)  # type: ignore[arg-type]


def test_names_are_those_of_the_code() -> None:
    assert [name_of(KINDS[kind]) for kind in ("lambda", "partial", "method", "object")] == [
        "lambda", "gaussian_filter", "Blur.blurred", "Blur",
    ]  # fmt: skip


def counted(value: float, table: Any = None) -> Callable[..., Any]:
    def run(plane: np.ndarray, *, further: int = 3) -> np.ndarray:
        return np.asarray(plane * value + STRENGTH + further + (table is None))

    return run


def test_a_fingerprint_changes_with_code_closure_arguments_and_globals() -> None:
    made = [
        counted(1.0), counted(2.0), counted(1.0, {"a": 1}), counted(1.0, {"a": 2}), counted(1.0, np.arange(3)),
        counted(1.0, np.arange(3.0)), functools.partial(counted(1.0), further=4), Blur(1.0), Blur(2.0),
        Blur(1.0).blurred, lambda plane: plane + 1, lambda plane: plane + 2, lambda plane: plane - 1,
        ndimage.gaussian_filter, ndimage.median_filter, np.sqrt, np.square,
    ]  # fmt: skip
    digests = [fingerprint(one).sha256 for one in made]
    assert len(set(digests)) == len(made)
    assert fingerprint(counted(1.0)).sha256 == digests[0]
    assert fingerprint(counted(1.0, {"b": {1, "x"}, "a": 0})) == fingerprint(counted(1.0, {"a": 0, "b": {"x", 1}}))


def test_what_a_function_remembers_of_its_calls_makes_it_no_other(tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def __call__(self, plane: np.ndarray) -> np.ndarray:
            self.sizes.append(plane.size)
            return plane + 1

    def stop(_: Any) -> None:
        raise InterruptedError

    options: dict[str, Any] = {"axes": "YX", "halo_px": 0, "attention_from": MASK, "output": tmp_path / "made.ome.tif"}
    with pytest.raises(InterruptedError):
        cellxlate.enhance_file(COUNTS, Counting(), progress=stop, **options)
    report = cellxlate.enhance_file(COUNTS, Counting(), resume=True, **options)
    assert report.provenance["proposal"]["sha256"] == fingerprint(Counting()).sha256


def test_a_fingerprint_says_what_it_could_not_look_at() -> None:
    assert fingerprint(counted(1.0)).unseen == ()
    assert fingerprint(functools.partial(counted, table=hashlib.sha256())).unseen == ("HASH",)
    stated = FunctionProposal.of(functools.partial(counted, table=hashlib.sha256()), 3).stated
    assert "HASH" in stated["trusted"]


def test_another_process_finds_the_same_fingerprint(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        dedent("""
        import functools
        import numpy as np
        from scipy import ndimage
        from cellxlate.enhancement.proposals.fingerprint import fingerprint

        LIMITS = {"low", "high", "middle"}

        class Own:
            def __init__(self, table): self.table = table
            def __call__(self, plane):
                return helper(plane) if plane.size in {1, 2, 3} else ndimage.median_filter(plane, 3)

        def helper(plane): return [one for one in LIMITS if plane is not None]

        print(fingerprint(functools.partial(Own(np.arange(4)), x={"a", "b", "c"})).sha256)
    """)
    )
    said = {
        subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(said.pop().strip()) == 64
