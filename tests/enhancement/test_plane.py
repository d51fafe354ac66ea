"""Laws of a plane: what is not selected keeps its bits, and no tiling changes any pixel."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from cellxlate.enhancement.input import Floats, PlaneInput
from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.model.bundle import load_model
from cellxlate.model.cards import DEFAULT_MODEL
from cellxlate.model.engines.engine import open_engine
from cellxlate.model.layers import receptive_field
from cellxlate.model.networks import TranslatorNetworks as Networks
from cellxlate.settings import AttentionSettings, EnhanceSettings, GeneratorSettings, NetworkSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack

DTYPES = ("uint8", "uint16", "int16", "uint32", "float32", "float64")
SHAPES = ((17, 1031), (1, 1), (3, 700), (600, 530), (1030, 90))
LEVELS = IntensityRange(100.0, 200.0)


@dataclass
class Arithmetic:
    """A translator without a network: attention from a mean over 5 x 5, the proposal a mean over 7 x 7 plus a half."""

    stride: int = 4
    generator_halo_px: int = 3
    attention_halo_px: int = 2
    activation_bytes_per_px: float = 8.0
    bias: float = 0.0

    def attention(self, images: Floats) -> Floats:
        return np.clip(ndimage.uniform_filter(images, (0, 0, 5, 5)) * 2 - 0.9 + self.bias, 0, 1)

    def proposal(self, images: Floats) -> Floats:
        return ndimage.uniform_filter(images, (0, 0, 7, 7)) + np.float32(0.5)


def noise(shape: tuple[int, int], dtype: str, seed: int = 0) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).uniform(90, 210, shape).astype(dtype)


def seen(raw: npt.NDArray[Any], job: PlaneJob) -> PlaneInput:
    return job.input(Stack.from_array(raw, "YX"), ())


def enhanced(
    raw: npt.NDArray[Any], translator: Any = None, **settings: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8], PlaneJob]:
    job = PlaneJob(translator or Arithmetic(), {0: LEVELS}, settings=EnhanceSettings(**settings))
    bands = list(enhance_plane(seen(raw, job), bands_of(raw.shape, job.tile_px), job))
    assert [band.first_row for band in bands] == [0, *np.cumsum([len(band.raw) for band in bands])[:-1]]
    assert all(band.enhanced.dtype == raw.dtype for band in bands)
    assert np.array_equal(np.concatenate([band.raw for band in bands]), raw, equal_nan=raw.dtype.kind == "f")
    return np.concatenate([band.enhanced for band in bands]), np.concatenate([band.attention for band in bands]), job


@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_without_attention_keep_their_bits(dtype: str) -> None:
    raw = noise((200, 150), dtype)
    after, attention, _ = enhanced(raw, tile_px=64)
    kept = attention == 0
    assert 0.1 < kept.mean() < 0.9
    assert after[kept].tobytes() == raw[kept].tobytes()
    assert (after[~kept] != raw[~kept]).mean() > 0.5


def test_nan_payloads_infinities_and_negative_zeros_survive() -> None:
    raw = noise((90, 90), "float32")
    bits = raw.view(np.uint32)
    bits[5, 5], bits[40, 40], bits[80, 7] = 0x7FC0BEEF, 0xFFC01234, 0x80000000
    raw[60, 60], raw[61, 61] = np.inf, -np.inf
    before = raw.tobytes()
    after, _, _ = enhanced(raw, Arithmetic(bias=1.0))  # everything is selected
    special = ~np.isfinite(raw)
    assert raw.tobytes() == before
    assert after[special].tobytes() == raw[special].tobytes()
    assert np.isfinite(after[~special]).all()


def test_the_faint_rim_of_a_cell_is_changed_too() -> None:
    """Attention that falls slowly: the last pixel above the threshold belongs to the tile, sparse or dense."""
    down, across = np.mgrid[:220, :260]
    raw = (100 + 100 * np.exp(-((down - 110) ** 2 + (across - 130) ** 2) / 5000)).astype(np.uint16)
    whole, attention, dense = enhanced(raw, tile_px=256, dense=True)
    after, _, sparse = enhanced(raw, tile_px=256)
    assert np.array_equal(after, whole)
    assert (attention == 1).any()
    assert sparse.work.generator_px < 0.8 * dense.work.generator_px


def test_a_threshold_of_one_returns_the_input() -> None:
    raw = noise((130, 140), "uint16")
    after, attention, job = enhanced(raw, Arithmetic(bias=1.0), threshold=1.0)
    assert after.tobytes() == raw.tobytes()
    assert not attention.any()
    assert job.work.tiles_skipped == job.work.tiles_total > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tile_px", [8, 100, 256, 513])
def test_every_tiling_gives_the_same_pixels(shape: tuple[int, int], tile_px: int) -> None:
    raw = noise(shape, "uint16", seed=sum(shape))
    tile_px = max(tile_px, max(shape) // 40)
    whole, whole_attention, _ = enhanced(raw, tile_px=2048, dense=True)
    after, attention, _ = enhanced(raw, tile_px=tile_px)
    assert np.array_equal(attention, whole_attention)
    assert np.array_equal(after, whole)


@pytest.mark.parametrize("architecture", ["resnet", "compact"])
@pytest.mark.parametrize("shape", [(17, 1031), (1, 1), (530, 260)])
def test_networks_give_the_same_pixels_on_every_tiling(architecture: Any, shape: tuple[int, int]) -> None:
    """Strided and transposed convolutions too: at most one count apart, and none selected differently."""
    translator = networks(architecture)
    raw = noise(shape, "uint16", seed=1)
    whole, whole_attention, _ = enhanced(raw, translator, tile_px=2048, dense=True)
    for tile_px in (64, 200, 256):
        after, attention, _ = enhanced(raw, translator, tile_px=tile_px)
        assert np.array_equal(attention, whole_attention)
        apart = np.abs(after.astype(int) - whole)
        assert apart.max() <= 1
        assert (apart > 0).mean() <= 0.005
    assert (whole != raw).any()


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_the_shipped_model_gives_the_same_pixels_on_every_tiling_and_thread_count(engine: Any) -> None:
    """Torch bit for bit; other engines within a count, none selected differently within one engine."""
    if engine != "torch":
        pytest.importorskip(engine, reason=f"{engine} is optional")
        pytest.importorskip("onnx", reason="onnx is optional")
    raw = noise((300, 340), "uint16", seed=4)
    raw[60:90, 200:240] += 300
    raw[240:275, 30:60] += 200
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            translator = open_engine(load_model(DEFAULT_MODEL), engine=engine, device="cpu")
            found += [
                enhanced(raw, translator, tile_px=tile_px, dense=dense)[:2]
                for tile_px, dense in ((None, True), (64, False), (200, False))[: 4 - threads]
            ]
    finally:
        torch.set_num_threads(before)
    whole, whole_attention = found[0]
    assert 0.005 < (whole_attention > 0).mean() < 0.9
    assert (whole != raw).any()
    for after, attention in found[1:]:
        assert np.array_equal(attention, whole_attention)
        apart = np.abs(after.astype(int) - whole)
        assert apart.max() <= (0 if engine == "torch" else 1)
        assert (apart > 0).mean() <= 0.001


def test_a_halo_that_is_too_small_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the test above could pass for networks whose surroundings hardly matter."""
    translator = networks("resnet")
    raw = noise((192, 256), "uint16", seed=1)
    whole, _, _ = enhanced(raw, translator, tile_px=2048, dense=True)
    monkeypatch.setattr(translator, "generator_halo_px", 0)
    after, _, _ = enhanced(raw, translator, tile_px=64, dense=True)
    assert np.abs(after.astype(int) - whole).max() > 1


def networks(architecture: Any) -> Any:
    """A translator of two small networks with normal weights, in the form that the plane needs."""
    settings = NetworkSettings(
        generator=GeneratorSettings(architecture=architecture, width=4, blocks=2, normalisation="none"),
        attention=AttentionSettings(width=4, last_width=4, normalisation="none"),
    )
    torch.manual_seed(0)
    built = Networks(settings).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0, 0.15)

    class Run:
        stride = built.stride
        generator_halo_px = receptive_field(built.generator).halo_px
        attention_halo_px = receptive_field(built.attention).halo_px
        activation_bytes_per_px = 100.0

        def attention(self, images: Floats) -> Floats:
            with torch.inference_mode():
                return built.attention(torch.from_numpy(images)).numpy()

        def proposal(self, images: Floats) -> Floats:
            with torch.inference_mode():
                return built.generator(torch.from_numpy(images)).numpy()

    return Run()


def test_a_constant_plane_stays_constant_to_its_border(tiny_model: Any) -> None:
    translator = open_engine(load_model(tiny_model), device="cpu")
    raw = np.full((130, 100), 150, np.uint16)
    after, attention, _ = enhanced(raw, translator, threshold=0.0, tile_px=64)
    for phase in ((slice(None, None, 4), slice(None, None, 4)), (slice(1, None, 4), slice(3, None, 4))):
        assert len(np.unique(after[phase])) == 1
        assert len(np.unique(attention[phase])) == 1


def test_skipped_tiles_do_not_run_the_generator() -> None:
    raw = np.full((256, 256), 100, np.uint16)  # unit 0: attention 0
    raw[10:40, 10:40] = 200
    after, attention, job = enhanced(raw, tile_px=64)
    whole, _, dense = enhanced(raw, tile_px=64, dense=True)
    assert (job.work.tiles_total, job.work.tiles_skipped) == (16, 15)
    assert (dense.work.tiles_total, dense.work.tiles_skipped) == (16, 0)
    assert np.array_equal(after, whole)
    assert (attention > 0).sum() > 800


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_change_is_gate_times_difference_in_counts(dtype: str) -> None:
    """Eq. 1 with the gate: s' = s + g (F(s) - s), rounded to nearest, here against an independent calculation."""
    raw = noise((60, 70), dtype)
    after, _, _ = enhanced(raw, threshold=0.25)
    padded = np.pad((raw.astype(np.float64) - 100) / 100, 8, mode="symmetric").astype(np.float32)[None, None]
    inner = (0, 0, slice(8, -8), slice(8, -8))
    steps = np.rint(Arithmetic().attention(padded)[inner] * 1024) / 1024
    gate = np.clip((steps - 0.25) / 0.75, 0, 1)
    expected = raw + 100 * gate * (Arithmetic().proposal(padded)[inner] - padded[inner])
    if raw.dtype.kind == "f":
        assert np.allclose(after, expected, rtol=0, atol=1e-3)
    else:
        assert np.abs(after - expected).max() <= 0.501


def test_target_intensity_moves_cells_to_the_scale_of_the_target() -> None:
    raw = np.full((40, 40), 200, np.uint16)  # unit 1, attention 1; the proposal is 1.5
    job = PlaneJob(Arithmetic(bias=1.0), {0: LEVELS}, target=IntensityRange(1000.0, 3000.0))
    (band,) = enhance_plane(seen(raw, job), bands_of(raw.shape, 64), job)
    assert np.unique(band.enhanced).tolist() == [4000]


def test_brightness_beyond_the_white_level_is_not_clipped() -> None:
    raw = np.full((40, 40), 60_000, np.uint16)
    after, _, _ = enhanced(raw)
    assert np.unique(after).tolist() == [60_050]


def test_bands_come_in_order_and_only_those_that_are_asked_for() -> None:
    raw = noise((1200, 30), "uint8")
    job = PlaneJob(Arithmetic(), {0: LEVELS}, settings=EnhanceSettings(tile_px=64))
    areas = list(bands_of(raw.shape, 64))
    everything = list(enhance_plane(seen(raw, job), areas, job))
    assert [band.first_row for band in everything] == [0, 512, 1024]
    (last,) = enhance_plane(seen(raw, job), areas[2:], job)
    assert np.array_equal(last.enhanced, everything[2].enhanced)
    assert all(a.first_row < b.first_row for a, b in pairwise(everything))
