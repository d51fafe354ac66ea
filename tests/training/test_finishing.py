"""What a finished run says of itself."""

from dataclasses import replace

import pytest

from cellxlate.settings import PRESETS
from cellxlate.training.fields.files import open_domain
from cellxlate.training.finished import command_of, statistics_patches
from cellxlate.training.options import as_cyclegan

FAST, PAPER = PRESETS["fast"], PRESETS["paper"]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (replace(FAST, steps=400), "--preset fast --guide saliency --steps 400 --seed 0"),
        (replace(PAPER, seed=3), "--preset paper --guide none --epochs 100 --seed 3"),
        (replace(PAPER, guide="masks"), "--preset paper --guide masks --masks DIR --epochs 100 --seed 0"),
        (replace(as_cyclegan(FAST), steps=9), "--preset fast --baseline cyclegan --steps 9 --seed 0"),
        (replace(PAPER, pool=7), "--preset paper --guide none --epochs 100 --seed 0 --settings FILE.toml"),
    ],
)
def test_the_card_says_with_which_command_a_model_was_trained(settings, options):
    command = command_of(settings, ["faint"], ["clear", "more clear"], None)
    assert command == f"cellxlate train --source faint --target clear 'more clear' {options}"


def test_statistics_are_measured_where_networks_normalise(images):
    source = open_domain([images.source], number=0, patch_px=32, load_px=None)
    assert statistics_patches(PAPER, source) == 4
    assert statistics_patches(FAST, source) == 0
