"""What a bright channel beside is worth to a faint one: the same training with and without it, scored on other fields.

    python tests/bench/several_channels.py [--steps 1500] [--seeds 0] [--electrons 12 80] [--work FOLDER] [--json]

Real fields of two stains (FKHR-GFP and DNA, ExampleSBSImages of CellProfiler, 512 x 512 px). Recordings are drawn with
blur, shot noise and read noise; GFP is faint, DNA bright. Two fields are the source, three others the target, three the
test, which no model has seen. Scored are the pixels inside the cells of the clear GFP image after the best gain and
offset (affine PSNR): of the images that `enhance` returns, and of those that the generator would make everywhere. In
the rows "DNA of another" the model that sees DNA is shown that of another field. Last comes how much each selects of a
GFP channel that shows no cell while DNA is full of them, in percent.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

import cellxlate
from cellxlate.evaluation.measures import foreground
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.training.fields.guides import saliency

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "clean_structures"
SOURCES, TARGETS = ("02-A-02", "50-E-02"), ("14-B-02", "26-C-02", "38-D-02")
TESTS = ("62-F-02", "74-G-02", "86-H-02")
NAMES = ("GFP", "DNA")
BLUR_PX, READ_ELECTRONS, BACKGROUND_SHARE, COUNTS_PER_ELECTRON, OFFSET_COUNTS = 1.2, 1.0, 0.05, 10.0, 100.0
DRAWS = 2
Floats = npt.NDArray[np.float64]


def clear_field(well: str) -> npt.NDArray[np.uint8]:
    """Read GFP and DNA of a well, (2, Y, X)."""
    folders = ("cytoplasm", "nuclei_small")
    paths = [DATA / folder / f"cpc_Channel{at}-{well}_y64_x64.tif" for at, folder in enumerate(folders, start=1)]
    return np.stack([tifffile.imread(path) for path in paths])


def recorded(clear: npt.NDArray[np.uint8], electrons: Sequence[float], seed: int) -> npt.NDArray[np.uint16]:
    """Return what a camera would have recorded of (2, Y, X), with so many electrons at white in each channel."""
    rng = np.random.default_rng(seed)
    planes = []
    for plane, white in zip(clear, electrons, strict=True):
        light = ndimage.gaussian_filter(plane.astype(np.float64), BLUR_PX) / max(np.percentile(plane, 99.8), 1)
        seen = rng.poisson(white * (light + BACKGROUND_SHARE)) + rng.normal(0, READ_ELECTRONS, light.shape)
        planes.append(np.clip(np.rint(OFFSET_COUNTS + COUNTS_PER_ELECTRON * seen), 0, 65535))
    return np.asarray(planes, np.uint16)


def save(path: Path, planes: npt.NDArray[Any]) -> None:
    """Write (C, Y, X) with the names of its channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, planes, ome=True, metadata={"axes": "CYX", "Channel": {"Name": list(NAMES)}})


def affine_db(image: npt.NDArray[Any], truth: npt.NDArray[np.uint8]) -> float:
    """Return the affine PSNR inside the cells of a clear image."""
    cells = saliency(truth, measure_range([truth])) > 0
    return foreground(image.astype(np.float64), truth.astype(np.float64), cells).psnr_affine


def measure(work: Path, *, steps: int, seed: int, electrons: Sequence[float]) -> dict[str, Any]:
    """Train with and without DNA, and score both on the test fields; in dB."""
    for number, well in enumerate((*SOURCES, *TARGETS)):
        clear, folder = clear_field(well), "source" if well in SOURCES else "target"
        save(work / folder / f"{well}.ome.tif", recorded(clear, electrons, number) if folder == "source" else clear)
    tests = {
        f"{well} draw {draw}": (clear_field(well), recorded(clear_field(well), electrons, 100 * draw + number))
        for number, well in enumerate(TESTS)
        for draw in range(DRAWS)
    }
    blank: dict[str, list[float]] = {}
    scores: dict[str, dict[str, float]] = {"recording": {}, "GFP alone": {}, "DNA beside": {}, "DNA of another": {}}
    seconds = {}
    for row, beside in (("GFP alone", ()), ("DNA beside", ("DNA",))):
        started = time.process_time()
        shutil.rmtree(work / "model", ignore_errors=True)
        model = cellxlate.train(
            work / "source", work / "target", output=work / "model", channel="GFP", beside=beside, steps=steps,
            seed=seed, tensorboard=False,
        )  # fmt: skip
        seconds[row] = time.process_time() - started
        names = list(tests)
        for name, (clear, counts) in tests.items():
            other = tests[names[(names.index(name) + DRAWS) % len(names)]][1]
            scores["recording"][name] = affine_db(counts[0], clear[0])
            rows = {row: counts} | ({"DNA of another": np.stack([counts[0], other[1]])} if beside else {})
            for into, planes in rows.items():
                chosen = {"channels": 0, **({"beside": 1} if beside else {})}
                made = cellxlate.enhance(planes, model, axes="CYX", **chosen)
                scores[into][name] = affine_db(made.image[0], clear[0])
                if into == row:
                    empty = np.stack([recorded(np.zeros_like(clear), electrons, 999)[0], counts[1]])
                    seen = cellxlate.enhance(empty, model, axes="CYX", **chosen)
                    blank.setdefault(row, []).append(100 * float((seen.attention[0] > 0).mean()))
                whole = cellxlate.enhance(planes, model, axes="CYX", attention_from=np.ones_like(planes), **chosen)
                scores.setdefault(f"{into}, everywhere", {})[name] = affine_db(whole.image[0], clear[0])
    selected = {row: float(np.mean(shares)) for row, shares in blank.items()}
    return {"steps": steps, "seed": seed, "electrons": list(electrons), "seconds": seconds, "scores": scores,
            "selected without cells, %": selected}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--electrons", type=float, nargs=2, default=[12, 80], metavar=NAMES)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            result = measure(Path(folder), steps=options.steps, seed=seed, electrons=options.electrons)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        print(f"seed {seed}, {options.steps} steps, electrons {options.electrons}, processor s {result['seconds']}")
        print(f"  selected where GFP shows no cell: {result['selected without cells, %']}")
        for row, each in result["scores"].items():
            print(
                f"  {row:28} {np.mean(list(each.values())):6.2f} dB   "
                + " ".join(f"{one:.2f}" for one in each.values())
            )


if __name__ == "__main__":
    main()
