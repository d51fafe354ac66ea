"""Is confidence worth anything? Deviation between views against the true error, calibrated on one half of the fields.

    python tests/bench/confidence.py FOLDER [--model MODEL] [--figure FILE.png]

FOLDER holds `test_S`, `test_S_truth`, `test_masks`. The calibration of deviations to errors is fitted on fields of
even number and judged on those of odd number. Prints a table in Markdown.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch

import cellxlate
from cellxlate.enhancement.confidence.views import Unit, deviation
from cellxlate.evaluation.measures import affine
from cellxlate.model.attention import change, gate, quantise
from cellxlate.stacks.intensity.range import measure_range


@dataclass(frozen=True)
class Reliability:
    """Bins of pixels of like deviation, and what their true error was.

    Attributes
    ----------
    deviations, errors : ndarray (bins,)
        Root mean squares, in unit range.
    pixels : ndarray of int (bins,)
        In each bin.
    """

    deviations: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.int64]

    @property
    def calibration(self) -> tuple[float, float]:
        """Floor and factor: an error is the root of floor squared plus the square of factor times deviation."""
        squares = np.column_stack([np.ones(len(self.deviations)), self.deviations**2])
        floor, factor = np.linalg.lstsq(squares, self.errors**2, rcond=None)[0]
        return float(np.sqrt(max(floor, 0.0))), float(np.sqrt(max(factor, 0.0)))


def expected_error(deviations: npt.NDArray[np.floating], calibration: tuple[float, float]) -> npt.NDArray[np.floating]:
    """Return the root mean square error, in unit range, that pixels of such deviations had where truth was known."""
    floor, factor = calibration
    return np.asarray(np.sqrt(floor**2 + (factor * deviations) ** 2))


def reliability(deviations: npt.NDArray[np.floating], errors: npt.NDArray[np.floating], bins: int = 10) -> Reliability:
    """Compare deviations with true errors in bins of equally many pixels.

    Parameters
    ----------
    deviations, errors : ndarray (n,)
        Of selected pixels, in unit range; errors are output minus truth after the best gain and offset of the field.
    bins : int
        How many.
    """
    order = np.argsort(deviations, kind="stable")
    parts = np.array_split(order, bins)
    rms = [
        [float(np.sqrt(np.mean(values[part].astype(np.float64) ** 2))) for part in parts]
        for values in (deviations, errors)
    ]
    return Reliability(np.array(rms[0]), np.array(rms[1]), np.array([len(part) for part in parts]))


def main() -> None:
    """Print the table, and draw the figure where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    translator = cellxlate.load_model(options.model).translator

    def output(batch: Unit) -> Unit:
        rows, columns = ((-size) % translator.stride for size in batch.shape[2:])
        padded = np.pad(batch, ((0, 0), (0, 0), (0, rows), (0, columns)), mode="symmetric")
        with torch.inference_mode():
            images = torch.from_numpy(padded)
            attention, proposal = translator.attention(images).numpy(), translator.generator(images).numpy()
        made = padded + change(gate(quantise(attention), 0.1), proposal, padded)
        return np.asarray(made[..., : batch.shape[2], : batch.shape[3]], np.float32)

    halves: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    for number, path in enumerate(sorted((options.folder / "test_S").glob("*.tif"))):
        raw = tifffile.imread(path)
        truth = tifffile.imread(options.folder / "test_S_truth" / path.name).astype(float)
        cells = tifffile.imread(options.folder / "test_masks" / path.name) > 0
        intensity = measure_range([raw])
        unit = intensity.to_unit(raw)
        made = output(unit[None, None])[0, 0].astype(float)
        wanted = affine(truth, made, cells)  # the truth on the scale of the output
        spread = deviation(unit[None], output, noise=intensity.noise / intensity.span)[0]
        halves[number % 2].append((spread[cells], np.abs(made - wanted)[cells]))
    fit, judged = (reliability(*(np.concatenate(part) for part in zip(*half, strict=True))) for half in halves)
    predictions = expected_error(judged.deviations, fit.calibration)
    floor, factor = fit.calibration
    print(f"floor {floor:.3f}, factor {factor:.2f}, from fields of even number; fields of odd number:\n")
    print("| predicted error | true error | pixels |\n|---|---|---|")
    for predicted, error, pixels in zip(predictions, judged.errors, judged.pixels, strict=True):
        print(f"| {predicted:.3f} | {error:.3f} | {pixels} |")
    within = np.abs(np.log(predictions / judged.errors))
    print(f"\nlargest ratio of predicted to true error, either way: {np.exp(within.max()):.2f}")
    if options.figure:
        import matplotlib.pyplot as plt

        figure, axis = plt.subplots(figsize=(4.2, 3.8), layout="constrained")
        limit = 1.1 * max(judged.errors.max(), predictions.max())
        axis.plot([0, limit], [0, limit], color="0.7", linewidth=1)
        axis.plot(predictions, judged.errors, "o-", color="#31688e")
        axis.set(xlabel="error predicted by confidence (unit range)", ylabel="true error (unit range)")
        axis.set(xlim=(0, limit), ylim=(0, limit))
        figure.savefig(options.figure, dpi=120)


if __name__ == "__main__":
    main()
