"""Options and settings files: what they mean, and one line for what makes no sense."""

from dataclasses import replace
from pathlib import Path

import pytest

from cellxlate.errors import InputError, OptionError
from cellxlate.settings import PRESETS, TrainSettings
from cellxlate.settings_file import check_settings, load_settings
from cellxlate.training.options import require_domains, resolve

NOTHING = {
    "preset": "fast", "guide": None, "masks": False, "baseline": "none", "epochs": None, "steps": None, "seed": None,
    "restarts": 0,
}  # fmt: skip


def resolved(settings=None, **options) -> TrainSettings:
    return resolve(settings, **{**NOTHING, **options})


def refusal(settings=None, **options) -> str:
    with pytest.raises(OptionError) as caught:
        resolved(settings, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_without_options_a_preset_is_taken_as_it_is(preset):
    assert resolved(preset=preset) == PRESETS[preset]


def test_the_paper_preset_is_the_table_of_the_method():
    # method section 3 and 4
    paper = PRESETS["paper"]
    assert (paper.epochs, paper.switch_epoch, paper.threshold) == (100, 30, 0.1)
    assert (paper.learning_rate, paper.adam_beta1, paper.decay_from) == (1e-4, 0.5, 0.5)
    assert (paper.batch, paper.pool, paper.lambda_cycle) == (1, 50, 10)
    assert (paper.load_px, paper.patch_px, paper.turns) == (286, 256, False)
    assert (paper.guide, paper.backward, paper.ema, paper.gate_in_loop) == ("none", "learned", 0, False)
    assert (paper.networks.generator.width, paper.networks.generator.blocks) == (32, 9)
    wide = PRESETS["paper-wide"]
    assert replace(wide, preset="paper", networks=paper.networks) == paper


def test_steps_win_and_epochs_replace_steps():
    assert resolved(steps=7, epochs=3).steps == 7
    assert resolved(replace(PRESETS["fast"], steps=9), epochs=3).steps is None
    assert resolved(seed=5).seed == 5


def test_masks_imply_their_guide():
    assert resolved(masks=True).guide == "masks"
    assert resolved(masks=True, guide="masks").guide == "masks"
    assert resolved(preset="paper", masks=True).guide == "masks"
    assert "needs masks=" in refusal(guide="masks")
    assert "contradict" in refusal(guide="saliency", masks=True)


def test_cyclegan_is_the_same_run_without_attention():
    for preset in ("fast", "paper"):
        baseline = resolved(preset=preset, baseline="cyclegan")
        assert baseline.networks == PRESETS[preset].networks
        assert (baseline.backward, baseline.guide, baseline.baseline) == ("learned", "none", "cyclegan")
        assert baseline.lambda_adversarial > 0
    assert resolved(preset="paper", baseline="cyclegan") == replace(PRESETS["paper"], baseline="cyclegan")
    assert "no attention to guide" in refusal(baseline="cyclegan", guide="saliency")
    assert "no attention to guide" in refusal(baseline="cyclegan", masks=True)


def test_options_that_make_no_sense_are_refused():
    assert "steps is 0" in refusal(steps=0)
    assert "epochs is -3" in refusal(epochs=-3)
    assert "seed is -1" in refusal(seed=-1)
    assert "restarts=-1" in refusal(restarts=-1)
    assert "needs" in refusal(guide="masks")
    assert "guide='painted'" in refusal(guide="painted")
    assert "preset='quick'" in refusal(preset="quick")
    assert "guide" in refusal(preset="fast", guide="none")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"patch_px": 30}, "multiple of 4"), ({"patch_px": 8}, "at least"), ({"load_px": 100}, "at least patch_px"),
     ({"batch": 0}, "batch is 0"), ({"threshold": 1.0}, "threshold"), ({"learning_rate": 0.0}, "above 0"),
     ({"adam_beta1": 1.0}, "below 1"), ({"decay_from": 1.5}, "from 0 to 1"), ({"pool": -1}, "pool"),
     ({"ema": 1.0}, "below 1"), ({"lambda_cycle": -1.0}, "0 or more"), ({"switch_epoch": 0}, "frozen")],
)  # fmt: skip
def test_numbers_outside_their_range_are_named(change, words):
    with pytest.raises(OptionError, match=words):
        check_settings(replace(PRESETS["paper"], **change))


def test_networks_that_no_model_could_hold_are_refused():
    networks = PRESETS["fast"].networks
    for generator in (replace(networks.generator, width=4000), replace(networks.generator, blocks=0)):
        settings = replace(PRESETS["fast"], networks=replace(networks, generator=generator))
        assert "no model can be made" in refusal(settings)
    assert "one channel" in refusal(replace(PRESETS["fast"], networks=replace(networks, channels=2)))


def test_source_and_target_must_differ(tmp_path):
    fast = PRESETS["fast"]
    require_domains([tmp_path / "a"], [tmp_path / "b"], fast)
    with pytest.raises(InputError, match="as source and as target"):
        require_domains([tmp_path / "a", tmp_path / "b"], [tmp_path / "c" / ".." / "b"], fast)
    with pytest.raises(InputError, match="no target image"):
        require_domains([tmp_path], [], fast)


def test_a_generalist_has_no_source_and_needs_something_to_learn_from(tmp_path):
    general = PRESETS["general"]
    require_domains([], [], general)  # drawn structures alone
    require_domains([], [tmp_path], general)
    with pytest.raises(InputError, match="leave out source="):
        require_domains([tmp_path], [tmp_path / "b"], general)
    with pytest.raises(InputError, match="no target image is given and no field is to be drawn"):
        require_domains([], [], replace(general, generalist=replace(general.generalist, drawn_fields=0)))


def test_a_generalist_takes_masks_before_saliency():
    assert resolved(preset="general", masks=True).guide == "saliency"
    assert "needs masks=" in refusal(preset="general", guide="masks")


# settings files


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_settings_file_changes_a_preset(tmp_path):
    path = toml(
        tmp_path,
        """
        preset = "paper"
        guide = "saliency"
        batch = 2
        lambda_cycle = 5
        load_px = false
        [networks.generator]
        blocks = 6
        [imaging]
        blur_px = [0.5, 3]
        """,
    )
    paper = PRESETS["paper"]
    expected = replace(
        paper, guide="saliency", batch=2, lambda_cycle=5.0, load_px=None,
        networks=replace(paper.networks, generator=replace(paper.networks.generator, blocks=6)),
        imaging=replace(paper.imaging, blur_px=(0.5, 3.0)),
    )  # fmt: skip
    assert load_settings(path) == expected
    assert isinstance(load_settings(path).lambda_cycle, float)
    assert resolved(path) == expected
    assert resolved(str(path), seed=4) == replace(expected, seed=4)


def test_an_empty_settings_file_is_the_default_preset(tmp_path):
    assert load_settings(toml(tmp_path, "")) == PRESETS["fast"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lambda_cylce = 5", "'lambda_cylce' is not a setting"),
        ("[networks.generator]\ndepth = 3", "networks.generator.'depth' is not a setting"),
        ("[imaging]\nblur = 3", "'blur' is not a setting"),
        ("preset = 'slow'", "preset is 'slow'"),
        ("preset = ['fast']", "preset is"),
        ("batch = 2.5", "batch is 2.5, expected a whole number"),
        ("batch = true", "batch is true, expected a whole number"),
        ("batch = '2'", "expected a whole number"),
        ("turns = 1", "turns is 1, expected true or false"),
        ("learning_rate = 'fast'", "expected a number"),
        ("learning_rate = nan", "expected a number"),
        ("guide = 'magic'", "guide is 'magic', expected one of none, saliency, masks"),
        ("guide = 'Saliency'", "did you mean 'saliency'?"),
        ("steps = 'many'", "steps is 'many', expected a whole number, or false for none"),
        ("imaging.blur_px = 3", "expected [a number, a number], or false for none"),
        ("lamda_cycle = 5", "'lamda_cycle' is not a setting; did you mean 'lambda_cycle'?"),
        ("Batch = 5", "did you mean 'batch'?"),
        ("blocks = 5", "it belongs into the table [networks.generator] or [networks.attention]"),
        ("[networks.generator]\nwitdh = 3", "did you mean 'width'?"),
        ("[networks]\nbatch = 3", "it belongs at the top"),
        ("preset = 'Paper'", "did you mean 'paper'?"),
        ("networks = 3", "expected a table"),
        ("imaging.blur_px = [1]", "blur_px is"),
        ("imaging.blur_px = [1, 'x']", "blur_px is"),
        ("patch_px = 30", "patch_px is 30"),
        ("batch = 0", "batch is 0"),
        ("networks.generator.room = -0.5", "networks.generator.room is -0.5, expected from 0 to 8"),
        ("batch = ", "cannot be read"),
    ],
)
def test_a_wrong_settings_file_is_refused_by_the_name_of_the_key(tmp_path, text, words):
    path = toml(tmp_path, text)
    message = refusal(path)
    assert words in message
    assert "train.toml" in message


def test_a_settings_file_that_is_missing_or_no_text_is_refused(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(tmp_path / "binary.toml")
    assert "cannot be read" in refusal(tmp_path)
