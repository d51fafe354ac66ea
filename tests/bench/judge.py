"""How well errors estimated without a truth rank filters and models: `quality.risk` against the true ranking.

    python tests/bench/judge.py [--parts real drawn compare] [--data ../shared/data] [--fields 20] [--seed 1]

- real: every frame of `real_pairs`. drawn: fields drawn, or taken from clear images, and made noisy.
- compare: on those fields other estimates as well: recorruption without its opposite draw, blind spots, thinning.

Candidates are the classical filters and each shipped model, its generator alone and as it is composed with the input.
The judge sees the noisy image and the noise measured on it; the truth ranks by the affine PSNR in the mask, as every
score does. "lost" is how many dB the candidate that the judge names is below the best one.
"""

import argparse
import functools
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from degraded import EVERYWHERE, HELD_OUT, Noise, degrade, structure
from pairs import Pair, psnr_affine, shipped_models
from real import read_pairs
from scipy import ndimage, signal, stats

import cellxlate
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.model.attention import gate, quantise
from cellxlate.model.engines.engine import EngineTranslator, open_engine
from cellxlate.quality.risk import CLASSICAL, Candidate, Ranking, estimate_risks
from cellxlate.settings import THRESHOLD
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.network_input import network_input
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.range import IntensityRange, measure_range
from cellxlate.stacks.samples.structures import STRUCTURES, draw_structure

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE_PX, WINDOW_PX = 320, 256
NOISES = {
    "white": Noise(60, 2),
    "weak": Noise(15, 2, bits=8),
    "bright": Noise(300, 3),
    "read": Noise(60, 10),
    "shared-0.5": Noise(40, 2, width_px=0.5, bits=8),
    "shared-0.7": Noise(15, 2, width_px=0.7),
    "shared-1.0": Noise(60, 5, width_px=1.0),
}
Image = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def drawn_pairs(count: int, *, seed: int, data: Path = DATA) -> list[Pair]:
    """Return so many fields: in turn drawn, a clear image that is held out of training, and nuclei of long exposure."""
    rng, pairs = np.random.default_rng(seed), []
    nuclei = sorted((data / "nuclei_lowexp" / "train_T").glob("*.tif"))
    for number in range(count):
        kind = str(rng.choice(STRUCTURES))
        clear_path = data / str(rng.choice(HELD_OUT)) if number % 4 else nuclei[int(rng.integers(len(nuclei)))]
        if number % 2:
            clear: Image = draw_structure(
                kind, (SIDE_PX, SIDE_PX), rng, scale=float(np.exp(rng.uniform(-0.7, 1)))
            ).image
            group = kind
        else:
            clear, group = tifffile.imread(clear_path)[:SIDE_PX, :SIDE_PX], clear_path.parent.name
        cells = np.ones(clear.shape, bool) if group in EVERYWHERE else structure(clear)
        name = list(NOISES)[number % len(NOISES)]
        noisy, truth = degrade(clear, NOISES[name], seed=zlib.crc32(f"{seed} {number}".encode()))
        pairs.append(Pair(group, f"{number} {name}", noisy, truth, cells))
    return pairs


def model_candidates(noisy: Image, models: Sequence[str]) -> dict[str, Candidate]:
    """Return the generator and the composed output of each model; levels are those of the noisy image."""
    intensity, found = measure_range([noisy]), {}
    for name in models:
        networks = Networks(engine_of(name), intensity)
        found[f"{name} generator"] = networks.proposal
        found[name] = networks.composed
    return found


@functools.cache
def engine_of(model: str) -> EngineTranslator:
    """Open the engine of a model once: that takes longer than to judge an image."""
    return open_engine(cellxlate.load_model(model), engine="torch")


class Networks:
    """What one model makes of whole planes; the last planes are remembered, for both outputs need the generator."""

    def __init__(self, translator: EngineTranslator, intensity: IntensityRange) -> None:
        self._translator, self._intensity = translator, intensity
        self._known: dict[bytes, tuple[Floats, Floats]] = {}

    def proposal(self, plane: npt.NDArray[np.float32]) -> Floats:
        """Return what the generator proposes, in counts."""
        return np.asarray(plane + self._run(plane)[0])

    def composed(self, plane: npt.NDArray[np.float32]) -> Floats:
        """Return the plane with the part of the change that attention lets through."""
        change, opened = self._run(plane)
        return np.asarray(plane + opened * change)

    def _run(self, plane: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
        key = plane.tobytes()
        if key not in self._known:
            seen, one = network_input(plane, self._intensity).unit, self._translator
            proposal = self._whole(seen, one.proposal, one.generator_halo_px)
            attention = self._whole(seen, one.attention, one.attention_halo_px)
            change = (proposal - seen) * self._intensity.span
            self._known = {**dict(list(self._known.items())[-1:]), key: (change, gate(quantise(attention), THRESHOLD))}
        return self._known[key]

    def _whole(self, unit: npt.NDArray[np.float32], network: Callable[[Any], Any], halo_px: int) -> Floats:
        rows, columns = unit.shape
        around = Tile(0, rows, 0, columns).grown(halo_px, self._translator.stride)
        made = network(np.ascontiguousarray(window(unit, 0, unit.shape, around))[None, None])[0, 0]
        margin = (around.bottom - around.top - made.shape[0]) // 2
        top, left = -around.top - margin, -around.left - margin
        return np.asarray(made[top : top + rows, left : left + columns])


# Estimates that the judge is compared with. Each returns, by candidate, an error up to a constant that all share.


def fitted_error(outputs: Sequence[Floats], references: Sequence[Floats]) -> float:
    """Return the mean squared distance after the best gain and offset, as `quality.risk` fits them."""
    output, reference = (np.concatenate([one.ravel() for one in parts]) for parts in (outputs, references))
    own, shared = output.var(), np.mean((output - output.mean()) * (reference - reference.mean()))
    return float(reference.var() - (max(shared, 0.0) ** 2 / own if own > 0 else 0.0))


def drawn_noise(noisy: Image, noise: CameraNoise, rng: np.random.Generator) -> Floats:
    """Return noise as the plane holds it: its gain at the smoothed plane, its covariance."""
    level = ndimage.gaussian_filter(noisy.astype(np.float64), 2)
    spread = np.sqrt(noise.sd_counts**2 + noise.gain * np.maximum(level - noise.black_counts, 0))
    white = rng.standard_normal([size + 8 for size in noisy.shape])
    return np.asarray(spread * signal.fftconvolve(white, noise.kernel(), "valid"))


def recorrupted(
    pair: Pair, noise: CameraNoise, candidates: Mapping[str, Candidate], inside: Mask, strength: float
) -> dict[str, float]:
    """Recorruption as published: f(y + a z) against y - z / a, four draws."""
    rng = np.random.default_rng(0)
    plane, draws = pair.noisy.astype(np.float64), [drawn_noise(pair.noisy, noise, rng) for _ in range(4)]
    references = [(plane - one / strength)[inside] for one in draws]
    noisier = [(plane + strength * one).astype(np.float32) for one in draws]
    return {
        name: fitted_error([np.asarray(run(one), np.float64)[inside] for one in noisier], references)
        for name, run in candidates.items()
    }


def blind_spots(pair: Pair, noise: CameraNoise, candidates: Mapping[str, Candidate], inside: Mask) -> dict[str, float]:
    """Blind spots (Batson and Royer): what is put in place of pixels is not told the noise that they are judged by.

    Masked are pixels 12 px apart and all around them that correlate by more than 0.05; they get a Gaussian of what is
    not masked. Eight of 144 positions.
    """
    plane, rng = pair.noisy.astype(np.float64), np.random.default_rng(0)
    shape = np.abs(noise.covariance) > 0.05
    shape[4, 4] = True
    found: dict[str, list[Floats]] = {name: [] for name in candidates}
    references = []
    for place in rng.permutation(144)[:8]:
        centres = np.zeros(plane.shape, bool)
        centres[place // 12 :: 12, place % 12 :: 12] = True
        hidden = ndimage.binary_dilation(centres, shape)
        known = (~hidden).astype(np.float64)
        width_px = 1.0 + np.sqrt(shape.sum()) / 4
        filled = ndimage.gaussian_filter(plane * known, width_px) / ndimage.gaussian_filter(known, width_px)
        masked = np.where(hidden, filled, plane).astype(np.float32)
        centres &= inside
        references.append(plane[centres])
        for name, run in candidates.items():
            found[name].append(np.asarray(run(masked), dtype=np.float64)[centres])
    return {name: fitted_error(outputs, references) for name, outputs in found.items()}


def thinned(
    pair: Pair, noise: CameraNoise, candidates: Mapping[str, Candidate], inside: Mask
) -> dict[str, float] | None:
    """Binomial thinning: a tenth of the photons judges what is made of the others; None where noise is not so."""
    photons = (pair.noisy.astype(np.float64) - noise.black_counts) / max(noise.gain, 1e-9)
    photons += noise.sd_counts**2 / max(noise.gain, 1e-9) ** 2  # counts as if all noise were photons
    if noise.gain <= 0 or noise.neighbour_correlation > 0.1:
        return None
    rng, found, references = np.random.default_rng(0), {name: [] for name in candidates}, []
    for _ in range(4):
        taken = rng.binomial(np.maximum(np.rint(photons), 0).astype(np.int64), 0.1)
        rest = (photons - taken) / 0.9
        references.append((taken / 0.1)[inside])
        offset = noise.black_counts - noise.sd_counts**2 / noise.gain
        for name, run in candidates.items():
            output = np.asarray(run((noise.gain * rest + offset).astype(np.float32)), dtype=np.float64)
            found[name].append(output[inside])
    return {name: fitted_error(outputs, references) for name, outputs in found.items()}


# The tables.


@dataclass(frozen=True)
class Judged:
    """One image: how the judge's ranking compares with the true one."""

    pair: Pair
    ranking: Ranking
    truth: Mapping[str, float]
    seconds: float

    @property
    def agreement(self) -> tuple[float, bool, float]:
        """Rank correlation, whether the best is named, and how many dB are lost by the choice."""
        return agreement({risk.name: risk.gain_db for risk in self.ranking.risks}, self.truth)

    @property
    def off_db(self) -> tuple[float, float, float]:
        """For the first two of the ranking: estimated and true difference in dB, and the standard error stated."""
        first, second = (risk.name for risk in self.ranking.risks[:2])
        gain, error = self.ranking.better(first, second)
        return gain, self.truth[first] - self.truth[second], error


def agreement(estimated: Mapping[str, float], truth: Mapping[str, float]) -> tuple[float, bool, float]:
    """Compare two mappings of the same names, both larger for what is better; the second in dB."""
    names = list(truth)
    ours, theirs = (np.array([one[name] for name in names]) for one in (estimated, truth))
    best = int(ours.argmax())
    return float(stats.spearmanr(ours, theirs)[0]), best == int(theirs.argmax()), float(theirs.max() - theirs[best])


def windows_of(plane: Image) -> list[tuple[slice, slice]]:
    """Return four windows of 256 px at the corners of a plane; all of a small one."""
    if max(plane.shape) <= SIDE_PX:
        return [(slice(None), slice(None))]
    starts = [sorted({0, (size - WINDOW_PX) if size > WINDOW_PX else 0}) for size in plane.shape]
    return [(slice(r, r + WINDOW_PX), slice(c, c + WINDOW_PX)) for r in starts[0] for c in starts[1]]


def judged(pair: Pair, models: Sequence[str]) -> Judged:
    """Rank the candidates on an image without its truth, and with it."""
    candidates = model_candidates(pair.noisy, models)
    noise, windows = measure_noise([pair.noisy]), windows_of(pair.noisy)
    started = time.process_time()
    ranking = estimate_risks([pair.noisy[window] for window in windows], [noise] * len(windows), candidates)
    seconds = time.process_time() - started
    plane = pair.noisy.astype(np.float32)
    outputs = {name: np.asarray(run(plane)) for name, run in {**CLASSICAL, **candidates}.items()}
    return Judged(pair, ranking, {name: psnr_affine(one, pair) for name, one in outputs.items()}, seconds)


def line(title: str, found: Sequence[Judged]) -> str:
    """Return a row of the table."""
    scores = np.array([one.agreement for one in found], dtype=float)
    return (
        f"| {title} | {len(found)} | {scores[:, 0].mean():.2f} | {int(scores[:, 1].sum())} | {scores[:, 2].mean():.2f} "
        f"| {scores[:, 2].max():.2f} | {sum(one.ranking.trusted for one in found)} |"
    )


def show(title: str, found: Sequence[Judged]) -> None:
    """Print a table: a row per group, those that are trusted and not, and all; then every image."""
    print(f"\n| {title} | images | rank correlation | best named | lost (dB), mean | most | trusted |")
    print("|---|---|---|---|---|---|---|")
    groups = {one.pair.group: [] for one in found} if title == "real" else {}
    for one in found:
        groups.setdefault(one.pair.group if title == "real" else one.pair.name.split()[-1], []).append(one)
    for group, members in groups.items():
        print(line(group, members))
    for told, members in ((name, [one for one in found if one.ranking.trusted == name]) for name in (True, False)):
        if members:
            print(line("trusted" if told else "not trusted", members))
    print(line("all", found))
    print(f"median {np.median([one.seconds for one in found]):.1f} s of one core\n")
    for one in found:
        correlation, _, lost = one.agreement
        best = max(one.truth, key=lambda name: one.truth[name])
        gain, true, error = one.off_db
        print(
            f"{one.pair.group}, {one.pair.name}: {correlation:.2f}, names {one.ranking.risks[0].name}, best {best}, "
            f"lost {lost:.2f}; first - second {gain:+.2f} ± {error:.2f}, true {true:+.2f}. {one.ranking.doubt}",
            flush=True,
        )


def compare(pairs: Sequence[Pair], models: Sequence[str]) -> None:
    """Print how other estimates rank, on the same images, inside the mask for all of them."""
    found: dict[str, list[tuple[float, bool, float]]] = {}
    for pair in pairs:
        candidates = {**CLASSICAL, **model_candidates(pair.noisy, models)}
        noise, plane = measure_noise([pair.noisy]), pair.noisy.astype(np.float32)
        truth = {name: psnr_affine(np.asarray(run(plane)), pair) for name, run in candidates.items()}
        inside = (pair, noise, candidates, pair.cells)
        antithetic = estimate_risks([pair.noisy], [noise], candidates, inside=[pair.cells])
        estimates: dict[str, Mapping[str, float] | None] = {
            "antithetic, 1/4": {risk.name: -risk.gain_db for risk in antithetic.risks},
            "recorruption, 1/2": recorrupted(*inside, 0.5), "recorruption, 1": recorrupted(*inside, 1.0),
            "blind spots": blind_spots(*inside), "thinning": thinned(*inside),
        }  # fmt: skip
        for name, errors in estimates.items():
            if errors is not None:
                found.setdefault(name, []).append(agreement({one: -errors[one] for one in truth}, truth))
    print("\n| estimate | images | rank correlation | best named | lost (dB), mean | most |\n|---|---|---|---|---|---|")
    for name, scores in found.items():
        rank, named, lost = np.array(scores, dtype=float).T
        print(
            f"| {name} | {len(rank)} | {rank.mean():.2f} | {int(named.sum())} | {lost.mean():.2f} | {lost.max():.2f} |"
        )


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["real", "drawn", "compare"], default=["real", "drawn"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--fields", type=int, default=20, help="drawn or degraded images")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = shipped_models()
    if "real" in options.parts:
        show("real", [judged(pair, models) for pair in read_pairs(options.data / "real_pairs")])
    drawn = drawn_pairs(options.fields, seed=options.seed, data=options.data)
    if "drawn" in options.parts:
        show("drawn", [judged(pair, models) for pair in drawn])
    if "compare" in options.parts:
        compare(drawn, models)


if __name__ == "__main__":
    main()
