"""Who may read what we write is what the umask says, whatever wrote it and however it got its name."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import cellxlate
from cellxlate.model.cards import amend_card, save_copy
from cellxlate.training.checkpoint import RunState, save_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such rights")


@pytest.fixture(autouse=True)
def _umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def rights(folder: Path) -> set[tuple[str, str]]:
    """Return which rights files and folders have."""
    return {("folder" if path.is_dir() else "file", f"{path.stat().st_mode & 0o777:o}") for path in folder.rglob("*")}


EXPECTED = {("file", "640"), ("folder", "750")}


def test_models_their_copies_and_checkpoints(tiny_model, tmp_path):
    bundle = cellxlate.load_model(tiny_model)
    cellxlate.model.bundle.save_bundle(tmp_path / "saved", bundle.translator, bundle.card, b"")
    private = shutil.copytree(tiny_model, tmp_path / "private")
    for path in (*private.iterdir(), private):
        path.chmod(0o700 if path.is_dir() else 0o600)
    save_copy(private, tmp_path / "copy")
    shutil.rmtree(private)
    amend_card(tmp_path / "copy", "scores", {})
    save_checkpoint(tmp_path / "run.partial", RunState({"network": torch.nn.Linear(2, 2)}, {}, {}), {"step": 1})
    assert (tmp_path / "run.partial" / "checkpoint.safetensors").is_file()
    assert rights(tmp_path) == EXPECTED


@pytest.mark.parametrize("format", ["ome-tiff", "ome-zarr"])
def test_results_and_their_reports_also_where_they_replace_others(tiny_model, tmp_path, format):
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(50, 250, (48, 64)).astype(np.uint16))
    for overwrite in (False, True):
        cellxlate.enhance_file(
            tmp_path / "a.tif", tiny_model, engine="torch", format=format, output_dir=tmp_path / "out",
            overwrite=overwrite,
        )  # fmt: skip
        found = rights(tmp_path / "out")
        assert found == (EXPECTED if format == "ome-zarr" else {("file", "640")})
        for path in (tmp_path / "out").rglob("*"):
            path.chmod(0o700)
