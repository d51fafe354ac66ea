"""Networks that others made, made here by plain torch: their proposals, tiled, equal those of the whole plane."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellxlate.cli import main
from cellxlate.enhancement.proposals.source import proposal_of
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.write.copy import write_stacks


def exported(network: nn.Module, path: Path, shape: Sequence[int], outputs: Sequence[str] = ("image",)) -> Path:
    """Write a network of plain torch as ONNX, by torch's own exporter; sides of 0 are free."""
    free = {axis: f"side_{axis}" for axis, side in enumerate(shape) if not side}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that needs no further package
        torch.onnx.export(
            network.eval(), (torch.rand([side or 64 for side in shape]),), path, dynamo=False, input_names=["given"],
            output_names=list(outputs), dynamic_axes=dict.fromkeys(("given", *outputs), free),
        )  # fmt: skip
    return path


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 5, padding=2))


@pytest.fixture(scope="module")
def plain_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(plain(), tmp_path_factory.mktemp("plain") / "plain.onnx", (0, 1, 0, 0))


def test_a_network_gets_counts_and_gives_counts(plain_file: Path) -> None:
    proposal = proposal_of(plain_file)
    assert proposal is not None
    windows = np.random.default_rng(0).uniform(100, 900, (2, 1, 40, 56)).astype(np.float32)
    made = proposal.open((0,))(windows)
    with torch.no_grad():
        expected = plain()(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-2)


def test_an_onnx_file_enhances_a_stack(plain_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = tmp_path / "stack.ome.tif"
    write_stacks([(simulate(SampleSettings((1, 1, 1, 128, 160))).stack, stack)], overwrite=False)
    assert main(["enhance", str(stack), "-m", str(plain_file), "--json", "--quiet"]) == 0
    assert '"kept_violations": 0' in capsys.readouterr().out
