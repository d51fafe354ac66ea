"""Packages of the BioImage Model Zoo propose as they say: processing, statistics of the stack, counts in the end."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from zoo_packages import described, onnx_of, plain_network, write_package

import cellxlate
from cellxlate.enhancement.proposals.source import proposal_of
from cellxlate.enhancement.proposals.statistics import whole_proposal
from cellxlate.stacks.stack import Stack

FREE = (0, 1, 0, 0)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return onnx_of(plain_network(), FREE)


@pytest.fixture(scope="module")
def plane() -> npt.NDArray[np.uint16]:
    return np.random.default_rng(3).gamma(2, 200, (96, 112)).astype(np.uint16)


def network_of(images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return what the network itself makes of a plane (Y, X)."""
    with torch.no_grad():
        made = plain_network()(torch.from_numpy(images.astype(np.float32))[None, None])
    return made.numpy()[0, 0].astype(np.float64)


def proposed(package: Path, *planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what a package proposes for the first of some planes, fitted to the stack of all of them."""
    stack = Stack.from_array(np.stack(planes), "TYX", name="stack")
    proposal = proposal_of(package)
    assert proposal is not None
    proposer = proposal.fitted(stack, (0,)).open((0,))
    return whole_proposal(planes[0][None].astype(np.float32), proposer)[0]


PERCENTILES = {"min_percentile": 2.0, "max_percentile": 99.8}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_percentiles_are_those_of_the_whole_plane_and_are_undone_after(
    version: str, weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    axes = {"mode": "per_sample", "axes": "yx"} if version == "0.4" else {"axes": ["y", "x"]}
    steps = [("scale_range", {**PERCENTILES, **axes})]
    package = write_package(tmp_path / "care", weights, described(weights, version, before=steps))
    low, high = np.percentile(plane, [2, 99.8])
    expected = network_of((plane - low) / (high - low + 1e-6)) * (high - low + 1e-6) + low
    np.testing.assert_allclose(proposed(package, plane), expected, atol=0.5)


def test_a_package_enhances_a_stack(weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path) -> None:
    steps = [("scale_range", {**PERCENTILES, "axes": ["y", "x"]})]
    package = write_package(tmp_path / "care.zip", weights, described(weights, before=steps))
    result = cellxlate.enhance(plane, package, attention_from=np.ones(plane.shape, np.uint8))
    assert (result.image != plane).mean() > 0.9
