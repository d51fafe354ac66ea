"""The macro for ImageJ and Fiji, run by ImageJ itself: what it opens is what the command writes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

pytestmark = pytest.mark.display

MACRO = Path(__file__).resolve().parents[2] / "integrations" / "imagej" / "Enhance_Cells.ijm"
COMMAND = Path(sys.executable).with_name("cellxlate")

DRIVER = """
p = split(getArgument(), "|");
for (i = 2; i < p.length; i += 2) {
  open(p[1] + "/" + p[i]);
  opened = getImageID();
  name = getTitle();
  makeOval(10, 20, 30, 40);
  before = nImages;
  answer = runMacro(p[0], replace(p[i + 1], ";", "\\n"));
  print("images " + (nImages - before));
  selectImage(opened);
  getSelectionBounds(x, y, width, height);
  box = "" + x + " " + y + " " + width + " " + height;
  print("input " + getTitle() + " " + selectionType() + " " + box + " " + is("changes"));
  run("Select None");
  saveAs("Tiff", p[1] + "/" + (i / 2) + "_input.tif");
  titles = getList("image.titles");
  for (k = 0; k < titles.length; k++) {
    selectImage(titles[k]);
    for (part = 0; part < 2; part++) {
      kind = substring("enhanced attention", 9 * part, 8 + 10 * part);
      if (endsWith(titles[k], "_" + kind)) {
        print(kind + " " + titles[k] + " " + is("changes"));
        saveAs("Tiff", p[1] + "/" + (i / 2) + "_" + kind + ".tif");
      }
    }
  }
  print("end");
  close("*");
}
"""
"""Opens each image, selects a part of it, runs the macro as another macro does, saves all that is open then."""


@dataclass(frozen=True)
class Run:
    """What ImageJ made of one image: its lines, and the files that were saved from its windows."""

    said: list[str]
    folder: Path
    number: int

    def opened(self, kind: str) -> tifffile.TiffFile:
        return tifffile.TiffFile(self.folder / f"{self.number}_{kind}.tif")

    def pixels(self, kind: str) -> Any:
        return tifffile.imread(self.folder / f"{self.number}_{kind}.tif")


def run_imagej(jar: Path, folder: Path, images: Sequence[tuple[str, str]]) -> list[Run]:
    """Let ImageJ run the macro on images of a folder, each with its argument."""
    (folder / "driver.ijm").write_text(DRIVER, encoding="utf-8")
    words = "|".join([str(MACRO), str(folder), *(word for one in images for word in one)])
    (folder / "temporary").mkdir(exist_ok=True)
    java = ["java", "-Xmx1g", f"-Duser.home={folder}", f"-Djava.io.tmpdir={folder}/temporary", "-cp", str(jar)]
    done = subprocess.run(
        [*java, "ij.ImageJ", "-ijpath", str(folder), "-batch", str(folder / "driver.ijm"), words],
        capture_output=True, text=True, timeout=240, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    parts = done.stdout.split("\nend\n")
    assert len(parts) == len(images) + 1, done.stdout + done.stderr
    return [Run(part.strip().splitlines(), folder, number) for number, part in enumerate(parts[:-1], start=1)]


def sample(shape: tuple[int, int, int, int, int]) -> Any:
    """Return a simulated stack (T, C, Z, Y, X) of uint16."""
    return np.asarray(simulate(SampleSettings(shape=shape, cell_fraction=0.2, seed=0)).stack)


CHANNELS = "a stack [2 channels].tif"
ERRORS = {
    "there is no model 'nosuch'": "model=nosuch",
    "--threshold 5.0 is outside 0 to 1": "threshold=5",
    "/nowhere/cellxlate is not the command cellxlate": "command=/nowhere/cellxlate",
}


@pytest.fixture(scope="module")
def runs(imagej: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every image that a test asks for, enhanced in one ImageJ."""
    folder = tmp_path_factory.mktemp("imagej files")
    stack = sample((2, 2, 3, 128, 160))
    calibration = {"axes": "TZCYX", "unit": "um", "spacing": 0.5, "finterval": 3.0, "mode": "composite",
                   "Labels": [f"plane {number}" for number in range(12)]}  # fmt: skip
    tifffile.imwrite(
        folder / CHANNELS, stack.transpose(0, 2, 1, 3, 4), imagej=True, resolution=(5, 5), metadata=calibration
    )
    plane = stack[0, 0, 0]
    small = np.clip(plane // 2, 0, 255).astype(np.uint8)
    tifffile.imwrite(folder / "eight.tif", small)
    real = plane.astype(np.float32) / 7
    real[5, 6] = np.nan
    tifffile.imwrite(folder / "real.tif", real)
    tifffile.imwrite(folder / "colour.tif", np.stack([small, small // 2, 255 - small], -1), photometric="rgb")
    tifffile.imwrite(folder / "times.tif", stack[:, 0, 0], imagej=True, metadata={"axes": "TYX"})
    model = f"command={COMMAND};model={tiny_model}"
    images = [
        (CHANNELS, model), ("eight.tif", model), ("real.tif", model), ("colour.tif", model),
        ("times.tif", model), (CHANNELS, f"{model};channels=2;threshold=0.3"),
        *(("eight.tif", f"{argument};command={COMMAND}") for argument in ERRORS.values()),
    ]  # fmt: skip
    names = ["channels", "eight", "real", "colour", "times", "second", *ERRORS]
    return dict(zip(names, run_imagej(imagej, folder, images), strict=True))


@pytest.fixture(scope="module")
def written(runs: dict[str, Run], tiny_model: Path) -> Path:
    """The folder of what the command itself writes of the same images."""
    folder = runs["channels"].folder
    images = [CHANNELS, *(f"{name}.tif" for name in ("eight", "real", "colour", "times"))]
    words = [COMMAND, "enhance", *images, "--output-dir", "direct", "-m", tiny_model, "--no-report"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return folder / "direct"


@pytest.mark.parametrize("name", ["channels", "eight", "real", "colour", "times"])
def test_what_is_opened_is_what_the_command_writes(runs: dict[str, Run], written: Path, name: str) -> None:
    image = CHANNELS if name == "channels" else f"{name}.tif"
    for kind in ("enhanced", "attention"):
        expected = tifffile.imread(written / image.replace(".tif", f"_{kind}.ome.tif"))
        np.testing.assert_array_equal(runs[name].pixels(kind), expected)
        assert runs[name].pixels(kind).dtype == expected.dtype
    before, enhanced = tifffile.imread(runs[name].folder / image), runs[name].pixels("enhanced")
    kept = runs[name].pixels("attention") == 0
    np.testing.assert_array_equal(enhanced[kept], before[kept])
    assert (enhanced != before)[~kept].any()


def test_channels_are_counted_from_1_and_the_threshold_is_handed_on(runs: dict[str, Run]) -> None:
    both, second, before = runs["channels"], runs["second"], tifffile.imread(runs["channels"].folder / CHANNELS)
    np.testing.assert_array_equal(second.pixels("enhanced")[:, :, 0], before[:, :, 0])
    assert not second.pixels("attention")[:, :, 0].any()
    few, many = (run.pixels("attention")[:, :, 1] > 0 for run in (second, both))
    assert few.any()
    assert few.sum() < many.sum()
    assert not (few & ~many).any()


def test_calibration_axes_and_labels_are_those_of_the_image(runs: dict[str, Run]) -> None:
    run = runs["channels"]
    with run.opened("input") as before, run.opened("enhanced") as after, run.opened("attention") as attention:
        assert before.imagej_metadata
        assert after.imagej_metadata
        assert attention.imagej_metadata
        for key in ("channels", "slices", "frames", "unit", "spacing", "finterval", "hyperstack"):
            assert after.imagej_metadata[key] == attention.imagej_metadata[key] == before.imagej_metadata[key]
        for key in ("mode", "Ranges", "Labels"):
            assert after.imagej_metadata[key] == before.imagej_metadata[key]
        assert after.series[0].axes == attention.series[0].axes == "TZCYX"
        assert "verdict" in after.imagej_metadata["Info"]
        sizes = {one.pages[0].tags["XResolution"].value for one in (before, after, attention)}
        assert sizes == {(5000000, 1000000)}
        assert attention.imagej_metadata["Ranges"] == (0.0, 255.0, 0.0, 255.0)


@pytest.mark.parametrize("name", ["channels", "eight", "real", "colour", "times", "second", *ERRORS])
def test_the_open_image_is_not_touched(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    image = {"channels": CHANNELS, "second": CHANNELS}.get(name, f"{name if name not in ERRORS else 'eight'}.tif")
    np.testing.assert_array_equal(run.pixels("input"), tifffile.imread(run.folder / image))
    assert f"input {image} 1 10 20 30 40 0" in run.said  # name, an oval, its box, not changed


def test_results_have_names_and_closing_them_asks(runs: dict[str, Run]) -> None:
    said = runs["channels"].said
    assert "images 2" in said
    assert "enhanced a stack [2 channels]_enhanced 1" in said
    assert "attention a stack [2 channels]_attention 1" in said
    assert any(line.startswith("verdict ") for line in said)
    assert "the input bit for bit" in " ".join(" ".join(said).split())
    assert not [line for line in said if line.startswith(("enhanced   ", "attention  "))]  # their files are gone


@pytest.mark.parametrize("message", ERRORS)
def test_an_error_is_the_one_line_of_the_command_and_opens_nothing(runs: dict[str, Run], message: str) -> None:
    said = runs[message].said
    assert len([line for line in said if message in line]) == 1, said
    assert "images 0" in said


def test_of_a_run_only_the_report_stays(runs: dict[str, Run]) -> None:
    left = sorted((runs["channels"].folder / "temporary").glob("cellxlate_*"))
    assert len(left) == 6
    for folder in left:
        assert sorted(item.name for item in folder.iterdir()) == ["image_report.html", "image_report.json"]
