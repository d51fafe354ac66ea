"""A field of nothing but the stack's noise: drawn as it was measured, enhanced as the stack is, and told of."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

import cellxlate
from cellxlate import cli
from cellxlate.enhancement.confidence.noise_alone import drawn_noise, noise_alone, stored
from cellxlate.enhancement.input import Context
from cellxlate.enhancement.outputs.names import opened
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import PlaneJob
from cellxlate.quality.report.doubts import notices_of
from cellxlate.quality.tally import Counts, Tally
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.noise_model import CameraNoise, unit_covariance
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack


def camera(sd: float = 6.0, *, shared: bool = False, black: float = 100.0) -> CameraNoise:
    covariance = unit_covariance()
    if shared:
        offsets = np.arange(-4, 5)
        covariance = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 2.0)
    return CameraNoise(sd, (sd, sd), 1.0, covariance, reliable=True, black_counts=black)


def planned(pixels: npt.NDArray[Any], axes: str, model: str = "cells", **asked: Any) -> Plan:
    with opened(pixels, axes, None, False) as stack:
        settings = EnhanceSettings(**{name: asked.pop(name) for name in ("context",) if name in asked})
        return make_plan(stack, model, channels=None, settings=settings, engine="torch", device="cpu", **asked)


@pytest.fixture(scope="module")
def field() -> npt.NDArray[np.uint16]:
    return simulate(SampleSettings((1, 1, 1, 200, 220), 0.2, seed=3)).stack.read((0, 0, 0))


@dataclass(frozen=True)
class Greedy:
    """Takes all that is brighter than the background for a cell, and makes it brighter."""

    stride: int = 1
    generator_halo_px: int = 0
    attention_halo_px: int = 0
    activation_bytes_per_px: float = 8.0

    def attention(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return (images[:, :1] > 0).astype(np.float32)

    def proposal(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return images + np.float32(1)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_drawn_is_the_noise_that_was_measured(shared: bool) -> None:
    like = Stack.from_array(np.zeros((2, 9, 30, 40), np.uint16), "CZYX")
    job = PlaneJob(Greedy(), {1: IntensityRange(100, 200)}, context=Context.beside("Z", 1))
    drawn = drawn_noise(like, {1: camera(shared=shared)}, job)
    assert (drawn.axes, drawn.shape, drawn.dtype) == ("CZYX", (2, 5, 512, 512), np.uint16)
    seen = [(1, 1), (1, 2), (1, 3)]
    assert all(not drawn.read(index).any() for index in drawn.plane_indices() if index not in seen)
    planes = [drawn.read(index) for index in seen]
    assert not np.array_equal(planes[0], planes[1])
    found = measure_noise(planes)
    assert found.sd_counts == pytest.approx(6.0, rel=0.05)
    assert found.neighbour_correlation == pytest.approx(camera(shared=shared).neighbour_correlation, abs=0.05)
    assert float(np.mean(planes[0])) == pytest.approx(100, abs=0.5)


def test_counts_are_cut_where_a_file_cuts_them() -> None:
    counts = np.array([-7.0, 2.5, 3.6, 300.0])
    assert stored(counts, np.dtype(np.uint8)).tolist() == [0, 2, 4, 255]
    assert stored(counts, np.dtype(np.float32)).tolist() == pytest.approx(counts.tolist())


def test_a_shipped_model_sees_no_cell_in_noise_and_one_that_does_is_told_of(field: npt.NDArray[np.uint16]) -> None:
    plan = planned(field, "YX")
    noise = measure_noise([field])
    before = plan.work.tiles_total
    assert noise_alone(plan, {0: noise}) == {"changed_percent": 0.0, "objects": 0}
    assert plan.work.tiles_total == before
    (job,) = plan.jobs
    found = noise_alone(replace(plan, jobs=(replace(job, translator=Greedy()),)), {0: camera(sd=20.0, shared=True)})
    assert found["changed_percent"] > 20
    assert found["objects"] > 5
    counts = Counts(pixels=1000, selected=300, changed=300)
    (said,) = notices_of(Tally(total=counts, channels={0: counts}, noise_alone=found, orders={}))
    assert "of a drawn field with nothing but the noise of this stack was changed" in said.text
    assert not notices_of(Tally(total=counts, channels={0: counts}, noise_alone={"changed_percent": 0.09}, orders={}))


def test_several_channels_and_planes_beside_are_drawn_too(field: npt.NDArray[np.uint16]) -> None:
    stack = np.stack([np.stack([field] * 3), np.stack([field.T[:200, :].repeat(2, 1)[:, :220]] * 3)])
    plan = planned(stack, "CZYX", context="z")
    noises = {0: camera(), 1: camera(sd=4.0)}
    assert noise_alone(plan, noises) == {"changed_percent": 0.0, "objects": 0}
    assert noise_alone(plan, {}) == {}
    assert noise_alone(plan, {0: replace(camera(), reliable=False), 1: replace(camera(), sd_counts=0.0)}) == {}


@pytest.mark.parametrize("step", [8, -8])
def test_a_background_that_drifts_is_no_cell_and_no_structure(field: npt.NDArray[np.uint16], step: int) -> None:
    """Early frames hold no cell; the background moves by two standard deviations of its noise a frame."""
    rng = np.random.default_rng(1)
    empty = np.rint(rng.normal(104, 4, field.shape))
    frames = np.stack([(empty if number < 3 else field.astype(int)) + 100 + step * number for number in range(9)])
    result = cellxlate.enhance(frames.astype(np.uint16), "nuclei-lowexp", axes="TYX")
    still = cellxlate.enhance(field, "nuclei-lowexp")
    (drifting,), (steady,) = result.report.tally.trust.values(), still.report.tally.trust.values()
    assert drifting.noise is not None
    assert steady.noise is not None
    assert drifting.noise.sd_counts == pytest.approx(steady.noise.sd_counts, rel=0.15)
    assert drifting.noise.gain == pytest.approx(steady.noise.gain, rel=0.3)
    assert drifting.taken.suspicious_share < 0.01
    plan = planned(frames.astype(np.uint16), "TYX", "nuclei-lowexp")
    assert noise_alone(plan, {0: drifting.noise})["changed_percent"] < 0.01


def test_a_gate_that_is_given_says_nothing_of_noise(field: npt.NDArray[np.uint16]) -> None:
    assert noise_alone(planned(field, "YX", attention_from="saliency"), {0: camera()}) == {}
    assert noise_alone(planned(field, "YX", "gaussian:1"), {0: camera()}) == {}


def test_the_report_of_a_file_states_it(tmp_path: Path, field: npt.NDArray[np.uint16]) -> None:
    source = tmp_path / "field.tif"
    tifffile.imwrite(source, field)
    report = cellxlate.enhance_file(source, "cells", output=tmp_path / "out.ome.tif")
    (record,) = tmp_path.glob("*.json")
    stated = json.loads(record.read_text())
    assert stated["pure_noise"] == {"changed_percent": 0.0, "objects": 0}
    assert stated["noise"][0]["sd_counts"] == pytest.approx(measure_noise([field]).sd_counts, rel=0.1)
    assert stated["residual"]["suspicious_percent"] < 1
    assert not report.tally.failures
    record.write_text(record.read_text().replace('"objects": 0', '"objects": 7'))
    assert cli.main(["report", str(tmp_path / "out.ome.tif"), "--source", str(source), "--quiet"]) == 0
    assert json.loads(record.read_text())["pure_noise"] == {"changed_percent": 0.0, "objects": 7}
    assert cellxlate.enhance(field, "cells").report.as_full_dict()["pure_noise"] is None
