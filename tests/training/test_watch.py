"""Watching attention: what is measured, and what counts as collapse."""

import csv
import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from cellxlate.errors import OptionError, TrainingError
from cellxlate.training.watch import (
    LOOKS_BEFORE_GREY,
    AttentionState,
    Curves,
    collapse,
    log,
    look,
    open_board,
    require_no_collapse,
)

NAN = float("nan")
GUIDE = np.zeros((2, 1, 8, 8), np.float32)
GUIDE[:, :, 2:5, 2:5] = 1
NO_GUIDE = np.full_like(GUIDE, -1)


def test_attention_that_is_the_guide_agrees_with_it():
    state = look(GUIDE, GUIDE, 0.1)
    assert (state.area, state.inside, state.outside, state.agreement) == (9 / 64, 1, 0, 1)
    assert state.entropy == pytest.approx(0, abs=1e-4)
    assert state.spread == pytest.approx(math.sqrt(9 / 64 * 55 / 64))


def test_grey_attention_has_one_bit_and_no_spread():
    state = look(np.full_like(GUIDE, 0.5), GUIDE, 0.1)
    assert (state.area, state.entropy, state.inside, state.outside, state.spread) == (1, 1, 0.5, 0.5, 0)
    assert state.agreement == 0


def test_agreement_is_the_overlap_with_the_guide():
    attention = np.zeros_like(GUIDE)
    attention[:, :, 2:5, 3:6] = 0.9
    assert look(attention, GUIDE, 0.1).agreement == pytest.approx(6 / 12)


def test_the_border_of_patches_is_not_looked_at():
    attention = np.zeros((2, 1, 128, 128), np.float32)
    attention[..., :16, :] = attention[..., -16:] = 1
    guides = np.full_like(attention, -1)
    assert look(attention, guides, 0.1).area == 0
    assert collapse([look(attention, guides, 0.1)] * 3) == "zeros"
    attention[..., 16, 16:-16] = 1
    assert look(attention, guides, 0.1).area == 1 / 96


def test_images_without_a_guide_do_not_count_towards_agreement():
    guides = GUIDE.copy()
    guides[1] = -1
    attention = GUIDE.copy()
    attention[1] = 1
    assert look(attention, guides, 0.1).agreement == 1
    assert math.isnan(look(attention, NO_GUIDE, 0.1).agreement)
    assert math.isnan(look(attention, NO_GUIDE, 0.1).inside)


def repeated(attention: np.ndarray, guides: np.ndarray, looks: int = 3) -> list[AttentionState]:
    return [look(attention.astype(np.float32), guides, 0.1)] * looks


ONES, ZEROS, GREY = np.full_like(GUIDE, 0.999), np.full_like(GUIDE, 0.001), np.full_like(GUIDE, 0.45)


@pytest.mark.parametrize("guides", [GUIDE, NO_GUIDE])
def test_ones_zeros_and_grey_are_collapse(guides):
    assert collapse(repeated(ONES, guides)) == "ones"
    assert collapse(repeated(ZEROS, guides)) == "zeros"
    assert collapse(repeated(GREY, guides, LOOKS_BEFORE_GREY)) == "grey"


@pytest.mark.parametrize("guides", [GUIDE, NO_GUIDE])
def test_attention_on_cells_is_no_collapse(guides):
    assert collapse(repeated(0.02 + 0.9 * GUIDE, guides, 50)) is None
    noisy = np.random.default_rng(0).uniform(0, 1, GUIDE.shape)
    assert collapse(repeated(noisy, guides, 50)) is None


def test_a_short_dip_is_no_collapse():
    well = repeated(0.9 * GUIDE, GUIDE)
    assert collapse([*well, *repeated(ZEROS, GUIDE, 2)]) is None
    assert collapse([*repeated(ZEROS, GUIDE, 2), *well]) is None
    assert collapse([*well, *repeated(ZEROS, GUIDE, 3)]) == "zeros"


def test_attention_may_start_grey():
    assert collapse(repeated(GREY, GUIDE, LOOKS_BEFORE_GREY - 1)) is None


def test_a_guide_without_cells_excuses_zeros_and_one_of_cells_alone_excuses_ones():
    assert collapse(repeated(ZEROS, np.zeros_like(GUIDE), 50)) is None
    assert collapse(repeated(ONES, np.ones_like(GUIDE), 50)) is None
    assert collapse(repeated(ZEROS, np.ones_like(GUIDE), 50)) == "zeros"
    assert collapse(repeated(ONES, np.zeros_like(GUIDE), 50)) == "ones"


@pytest.mark.parametrize(
    ("attention", "words"), [(ONES, "selects everything"), (ZEROS, "selects nothing"), (GREY, "the same grey")]
)
def test_collapse_is_told_with_a_remedy_in_one_line(attention, words):
    with pytest.raises(TrainingError) as caught:
        require_no_collapse(repeated(attention, GUIDE, LOOKS_BEFORE_GREY), 150)
    message = str(caught.value)
    assert words in message
    assert "step 150" in message
    assert "guide='saliency'" in message
    assert "seed=" in message
    assert "\n" not in message
    require_no_collapse(repeated(GUIDE, GUIDE, 20), 150)


def drawn(levels: float, attention: np.ndarray = 0.9 * GUIDE) -> AttentionState:
    """A generator draws noise between two levels; elsewhere, where nothing is selected, it draws anything."""
    noise = np.random.default_rng(0).uniform(0, levels, GUIDE.shape)
    return look(attention.astype(np.float32), GUIDE, 0.1, np.where(GUIDE > 0, noise, 5).astype(np.float32))


def test_a_generator_that_draws_one_level_where_attention_selects_is_a_collapse():
    assert drawn(0.4).drawn == pytest.approx(0.2, abs=0.08)
    assert math.isnan(drawn(0.4, ZEROS).drawn)
    assert math.isnan(look(GUIDE, GUIDE, 0.1).drawn)  # it draws a difference
    flat, well = drawn(0), drawn(0.01)
    assert collapse([flat] * LOOKS_BEFORE_GREY) == "flat"
    assert collapse([flat] * (LOOKS_BEFORE_GREY - 1)) is None
    assert collapse([well] * LOOKS_BEFORE_GREY) is None
    assert collapse([*[flat] * LOOKS_BEFORE_GREY, well]) is None
    with pytest.raises(TrainingError, match=r"draws one level .* at step 150.*guide_in_loop .*seed=") as caught:
        require_no_collapse([flat] * LOOKS_BEFORE_GREY, 150)
    assert "\n" not in str(caught.value)


# curves

STATE = look(GUIDE, GUIDE, 0.1)


def test_curves_are_cut_back_to_the_step_that_is_resumed(tmp_path):
    path = tmp_path / "curves.csv"
    curves = Curves(path)
    for step in (10, 20, 30):
        curves.add(step, step / 2, {"cycle": 1 / step}, replace(STATE, area=step / 100))
    again = Curves(path, resume_step=20)
    again.add(30, 15, {"cycle": 0.5}, STATE)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert [float(row["cycle"]) for row in rows] == [0.1, 0.05, 0.5]
    assert float(rows[1]["attention_area"]) == 0.2


def test_a_new_run_starts_new_curves(tmp_path):
    path = tmp_path / "curves.csv"
    Curves(path).add(10, 1, {"cycle": 1}, STATE)
    Curves(path)
    assert "10" not in path.read_text()


# TensorBoard


class FakeWriter:
    def __init__(self, folder: str) -> None:
        self.folder, self.rows = folder, []

    def add_scalar(self, tag, scalar_value, global_step):
        self.rows.append((tag, scalar_value, global_step))

    def close(self):
        pass


@pytest.fixture
def tensorboard(monkeypatch, request):
    """TensorBoard as if it were, or were not, installed."""
    if request.param:
        package = types.ModuleType("tensorboard")
        package.__spec__ = types.SimpleNamespace(name="tensorboard")
        writers = types.ModuleType("torch.utils.tensorboard")
        writers.SummaryWriter = FakeWriter
        monkeypatch.setitem(sys.modules, "tensorboard", package)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writers)
    else:
        monkeypatch.setattr("cellxlate.training.watch.find_spec", lambda name: None)


@pytest.mark.parametrize("tensorboard", [False], indirect=True)
def test_without_tensorboard_there_is_no_log_and_a_line_if_it_was_asked_for(tmp_path, tensorboard):
    assert open_board(tmp_path, wanted=None) is None
    assert open_board(tmp_path, wanted=False) is None
    with pytest.raises(OptionError, match="needs the package tensorboard"):
        open_board(tmp_path, wanted=True)
    log(None, 10, {"cycle": 1.0}, STATE)


@pytest.mark.parametrize("tensorboard", [True], indirect=True)
def test_with_tensorboard_every_look_is_logged(tmp_path, tensorboard):
    assert open_board(tmp_path, wanted=False) is None
    for wanted in (None, True):
        board = open_board(tmp_path / "tensorboard", wanted=wanted)
        assert board.folder == str(tmp_path / "tensorboard")
        log(board, 40, {"cycle": 0.25}, replace(STATE, inside=NAN))
        assert ("objective/cycle", 0.25, 40) in board.rows
        assert ("attention/area", STATE.area, 40) in board.rows
        assert not any(tag == "attention/inside" for tag, _, _ in board.rows)
