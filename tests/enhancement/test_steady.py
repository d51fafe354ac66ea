"""A steady gate: attention of the planes beside has a say where a plane itself is not sure, and nowhere else."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from cellxlate.enhancement.gates.steady import SteadyAttention, steadied
from cellxlate.enhancement.input import ALONE, ANEW, Context
from cellxlate.enhancement.neighbours.held import HeldPlanes
from cellxlate.enhancement.plane import OwnAttention, PlaneJob, band_attention, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.model.attention import Floats
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack

RANGE = {0: IntensityRange(0, 1000)}
OVER_TIME = Context.beside("T", 1)


class Bright:
    """Attention is the plane's own light, where the networks see a plane amid two others; the proposal doubles it."""

    stride, generator_halo_px, attention_halo_px, activation_bytes_per_px = 1, 0, 0, 8.0

    def __init__(self) -> None:
        self.looks = 0

    def attention(self, images: Floats) -> Floats:
        self.looks += len(images)
        return images[:, images.shape[1] // 2, None].clip(0, 1)

    def proposal(self, images: Floats) -> Floats:
        return 2 * images[:, images.shape[1] // 2, None]


def movie(frames: npt.ArrayLike) -> Stack:
    """Return frames of even brightness, in thousandths."""
    levels = np.asarray(frames, np.uint16)
    return Stack.from_array(np.ascontiguousarray(np.broadcast_to(levels[:, None, None], (len(levels), 80, 70))), "TYX")


def steps_of(stack: Stack, frame: int, gates: OwnAttention, context: Context = OVER_TIME) -> npt.NDArray[np.uint16]:
    job = PlaneJob(Bright(), RANGE, context=context, gates=gates)
    plane = job.input(stack, (frame,))
    (area,) = bands_of(stack.plane_shape, job.tile_px)
    return band_attention(plane.rows(area, 1), area, job).steps


def test_attention_rises_to_that_of_the_planes_beside_to_at_most_five_times_its_own() -> None:
    own = np.array([0, 1, 50, 100, 300, 1024], np.uint16)
    assert steadied(own, np.full(6, 400, np.uint16)).tolist() == [0, 5, 250, 400, 400, 1024]
    assert steadied(own, np.zeros(6, np.uint16)).tolist() == own.tolist()


def test_a_frame_that_is_unsure_follows_those_beside_it_and_a_dark_one_does_not() -> None:
    stack = movie([800, 60, 800, 0, 800])
    found = [int(np.unique(steps_of(stack, frame, SteadyAttention())).item()) for frame in range(5)]
    alone = [int(np.unique(steps_of(stack, frame, OwnAttention())).item()) for frame in range(5)]
    assert alone == [819, 61, 819, 0, 819]
    assert found == [819, 305, 819, 0, 819]


def test_planes_that_are_seen_alone_are_gated_alone() -> None:
    stack = movie([800, 60, 800])
    np.testing.assert_array_equal(
        steps_of(stack, 1, SteadyAttention(), ALONE), steps_of(stack, 1, OwnAttention(), ALONE)
    )
    assert SteadyAttention().planes_beside(stack, (1,), ALONE, (0,)) == ()


@pytest.mark.parametrize("tile_px", [64, 512])
def test_bands_are_the_same_whatever_is_kept_and_each_plane_is_looked_at_once(tile_px: int) -> None:
    rng = np.random.default_rng(0)
    stack = Stack.from_array(rng.integers(0, 400, (6, 700, 90)).astype(np.uint16), "TYX")
    translator = Bright()
    job = PlaneJob(translator, RANGE, context=OVER_TIME, gates=SteadyAttention())
    job = replace(job, settings=replace(job.settings, tile_px=tile_px))

    def bands(see: object) -> Iterator[npt.NDArray[np.uint16]]:
        for frame in range(6):
            plane = job.input(stack, (frame,), see=see)  # type: ignore[arg-type]
            for band in enhance_plane(plane, bands_of(stack.plane_shape, job.tile_px), job):
                assert ((band.attention == 0) <= (band.raw == band.enhanced)).all()
                assert {index for index, _ in band.beside} | {(frame,)} >= {
                    (at,) for at in range(max(frame - 2, 0), min(frame + 3, 6))
                }
                yield band.enhanced

    anew = list(bands(ANEW))
    looks, translator.looks = translator.looks, 0
    kept = list(bands(HeldPlanes(8, are_whole=True)))
    assert all(np.array_equal(one, other) for one, other in zip(anew, kept, strict=True))
    assert looks == 6 * 2 * 3
    assert translator.looks == 6 * 2 + 2 * 2  # and the mirrored planes at both ends, which see others around them
