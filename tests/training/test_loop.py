"""Whole runs: from folders to a model, interrupted, continued, failing, tried again."""

import csv
import json
import signal
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from cellxlate.cli import main
from cellxlate.errors import InputError, ModelError, OptionError, OutputError, TrainingError
from cellxlate.model.bundle import load_model
from cellxlate.settings import PRESETS, GeneratorSettings
from cellxlate.training import loop as loop_module
from cellxlate.training import run as run_module
from cellxlate.training.acceleration.precision import has_bfloat16
from cellxlate.training.checkpoint import CHECKPOINT, read_notes, save_checkpoint
from cellxlate.training.fields.files import open_domain
from cellxlate.training.fields.patches import Domain
from cellxlate.training.interruption import StepEnds
from cellxlate.training.loop import loop, train
from cellxlate.training.run import (
    begin,
    continue_from,
    draw,
    drawn_ahead,
    epoch_of,
    fingerprint,
    one_step,
    rate,
    resumed_precision,
)
from cellxlate.training.watch import AttentionState


@pytest.fixture(params=["fast", "paper"])
def tiny(request, tiny_fast, tiny_paper):
    return {"fast": tiny_fast, "paper": tiny_paper}[request.param]


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Networks of two channels collapse easily; these tests are about the loop unless they say so."""
    monkeypatch.setattr(loop_module, "require_no_collapse", lambda history, step: None)


def opened(images, settings):
    return tuple(
        open_domain([folder], number=number, patch_px=settings.patch_px, load_px=settings.load_px)
        for number, folder in enumerate((images.source, images.target))
    )


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / CHECKPOINT)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def interrupt_after(monkeypatch, step: int) -> None:
    """Press Ctrl-C in the middle of computing a step."""
    plain = run_module.one_step

    def pressed(run, patches, device):
        if run.done == step:
            signal.raise_signal(signal.SIGINT)
        return plain(run, patches, device)

    monkeypatch.setattr(loop_module, "one_step", pressed)


# from folders to a model


def test_a_run_ends_in_a_model_with_its_card_and_leaves_nothing_else(images, tiny, tmp_path):
    news = []
    bundle = train(images.source, images.target, output=tmp_path / "model", settings=tiny, licence="CC0-1.0",
                   progress=news.append)  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        "card.json", "curves.csv", "preview.png", "weights.safetensors",
    ]  # fmt: skip
    card = load_model(tmp_path / "model").card
    training = card["training"]
    assert (card["preset"], card["licence"]) == (tiny.preset, "CC0-1.0")
    assert training["settings"] == json.loads(json.dumps(asdict(tiny)))
    assert (training["steps"], training["seed"], training["seeds_tried"]) == (24, 0, [0])
    assert (training["source_planes"], training["target_planes"], training["masks"]) == (4, 4, [0, 0])
    assert card["statistics"]["source_patches"] == (4 if tiny.preset == "paper" else 0)
    assert [one.step for one in news] == [10, 20, 24]
    assert all(one.steps == 24 and one.terms["total"] > 0 for one in news)
    assert "step 24/24" in str(news[-1])
    with (bundle.path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "24"]
    assert {"cycle_target", "attention_area", "attention_entropy", "attention_agreement"} <= set(rows[0])


def test_the_default_preset_learns(images, tiny_fast, tmp_path):
    bundle = train(images.source, images.target, output=tmp_path / "model",
                   settings=replace(tiny_fast, steps=80, ema=0.9))  # fmt: skip
    with (bundle.path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["guide"]) < 0.8 * float(rows[0]["guide"])
    assert float(rows[-1]["attention_inside"]) > float(rows[-1]["attention_outside"]) + 0.2


def test_a_run_is_repeated_by_its_seed(images, tiny, tmp_path):
    models = [
        train(images.source, images.target, output=tmp_path / name, settings=replace(tiny, steps=12), seed=seed).digest
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert models[0] == models[1] != models[2]


def test_training_leaves_the_random_numbers_of_others_alone(images, tiny_paper, tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    train(images.source, images.target, output=tmp_path / "model", settings=replace(tiny_paper, steps=1))
    assert torch.equal(torch.rand(2), expected)


def test_the_cyclegan_baseline_selects_everything(images, tiny, tmp_path):
    bundle = train(images.source, images.target, output=tmp_path / "model", settings=tiny, baseline="cyclegan")
    with torch.no_grad():
        attention = bundle.translator.attention(torch.rand(1, 1, 64, 64) * 3 - 1)
    assert bool((attention == 1).all())
    assert bundle.card["training"]["settings"]["baseline"] == "cyclegan"


def test_masks_guide_a_run(images, tiny, tmp_path):
    (tmp_path / "masks").mkdir()
    mask = tifffile.imread(images.masks / "faint2.tif")
    tifffile.imwrite(tmp_path / "masks" / "faint2.tif", mask)
    bundle = train(images.source, images.target, output=tmp_path / "model", settings=tiny, masks=tmp_path / "masks")
    assert bundle.card["training"]["masks"] == [1, 0]
    assert bundle.card["training"]["settings"]["guide"] == "masks"


def test_a_settings_file_is_saved_in_the_card(images, tmp_path):
    (tmp_path / "train.toml").write_text(
        'steps = 2\npatch_px = 32\nbatch = 1\n[networks.generator]\nwidth = 4\nblocks = 1\n'
    )  # fmt: skip
    bundle = train(images.source, images.target, output=tmp_path / "model", settings=tmp_path / "train.toml", seed=9)
    stored = bundle.card["training"]["settings"]
    assert (stored["steps"], stored["networks"]["generator"]["width"], stored["seed"]) == (2, 4, 9)


# the schedule


class Watched:
    """A step function that notes the learning rate and the phase it is called with."""

    def __init__(self, translator):
        self.translator = translator
        self.modules = {"translator": translator}
        self.optimisers = {"all": torch.optim.SGD(translator.parameters(), lr=123.0)}
        self.pools = {}
        self.seen = []

    def prepare(self, source, target, rng):
        return source, target

    def run(self, source, target, *, switched, rng):
        rates = {group["lr"] for group in self.optimisers["all"].param_groups}
        self.seen.append((rates.pop(), switched, float(torch.rand((), generator=rng))))
        return {}


def watched_run(images, settings):
    domains = opened(images, settings)
    run = begin(settings, domains, torch.device("cpu"))
    run.step_function = Watched(run.step_function.translator)
    for patches in drawn_ahead(run, domains):
        one_step(run, patches, torch.device("cpu"))
    return run, run.step_function.seen


def test_the_rate_is_constant_for_half_the_epochs_then_falls_linearly_to_zero(images, tiny_paper):
    # method section 4, optimiser
    run, seen = watched_run(images, replace(tiny_paper, steps=None, epochs=10))
    assert (run.steps_per_epoch, run.steps) == (4, 40)
    rates = [rate_ for rate_, _, _ in seen]
    assert rates[:21] == [1e-4] * 21
    assert rates[20:] == pytest.approx([1e-4 * (40 - step) / 20 for step in range(20, 40)])
    assert rate(1.0, 0.5) == 0


def test_the_switch_comes_at_epoch_thirty_of_a_hundred(images, tiny_paper):
    # method section 3
    _, seen = watched_run(images, replace(tiny_paper, steps=None, epochs=5, switch_epoch=3))
    assert [switched for _, switched, _ in seen] == [False] * 12 + [True] * 8
    run, seen = watched_run(images, replace(tiny_paper, steps=20, epochs=100, switch_epoch=30))
    assert [switched for _, switched, _ in seen] == [False] * 6 + [True] * 14
    run.done = 10
    assert epoch_of(run) == 50


def test_random_numbers_of_a_step_depend_on_seed_and_step_alone(images, tiny_paper):
    _, seen = watched_run(images, replace(tiny_paper, steps=5))
    _, again = watched_run(images, replace(tiny_paper, steps=5))
    _, other = watched_run(images, replace(tiny_paper, steps=5, seed=1))
    assert seen == again
    assert len({number for _, _, number in seen + other}) == 10


@pytest.mark.parametrize(("preset", "expected"), [("fast", False), ("paper", True)])
def test_only_networks_that_normalise_ask_for_content(images, tiny_fast, tiny_paper, monkeypatch, preset, expected):
    settings = {"fast": tiny_fast, "paper": tiny_paper}[preset]
    domains = opened(images, settings)
    run = begin(settings, domains, torch.device("cpu"))
    asked, plain = [], Domain.draw

    def listening(self, *arguments, **options):
        asked.append(options["content"])
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Domain, "draw", listening)
    draw(domains[0], run, 0, guided=True)
    assert asked == [expected]


def test_the_average_follows_the_weights_or_is_the_last_ones(images, tiny_fast):
    for ema in (0.0, 0.9):
        settings = replace(tiny_fast, ema=ema, steps=3)
        domains = opened(images, settings)
        run = begin(settings, domains, torch.device("cpu"))
        expected = [value.clone() for value in run.average.parameters()]
        for step, patches in zip(range(3), drawn_ahead(run, domains), strict=False):
            one_step(run, patches, torch.device("cpu"))
            decay = min(ema, (1 + step) / (10 + step))
            fast = list(run.step_function.translator.parameters())
            expected = [decay * old + (1 - decay) * new.detach() for old, new in zip(expected, fast, strict=True)]
        for value, wanted in zip(run.average.parameters(), expected, strict=True):
            assert torch.allclose(value, wanted, atol=1e-6)


# interrupted and continued


def test_a_continued_run_equals_an_unbroken_one_to_the_bit(images, tiny, tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    domains = opened(images, tiny)
    (tmp_path / "unbroken").mkdir()
    (tmp_path / "broken").mkdir()
    unbroken = begin(tiny, domains, cpu)
    loop(unbroken, domains, cpu, tmp_path / "unbroken", board=None, progress=None)

    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)
        with pytest.raises(KeyboardInterrupt):
            loop(begin(tiny, domains, cpu), domains, cpu, tmp_path / "broken", board=None, progress=None)
    assert read_notes(tmp_path / "broken")["step"] == 13  # the step that was being computed is complete
    again_domains = opened(images, tiny)
    again = begin(tiny, again_domains, cpu)
    continue_from(tmp_path / "broken", again, again_domains)
    assert again.done == 13
    loop(again, again_domains, cpu, tmp_path / "broken", board=None, progress=None)

    one, other = final_state(tmp_path / "unbroken"), final_state(tmp_path / "broken")
    kinds = {key.split("/")[0] for key in one}
    assert kinds == {"module", "optimiser"} | ({"pool"} if tiny.preset == "paper" else set())
    assert same(one, other)
    assert str(again.attention) == str(unbroken.attention)  # NaN is equal to NaN here


def test_train_resumes_to_the_same_model(images, tiny, tmp_path, monkeypatch):
    arguments = {"settings": tiny, "seed": 2}
    unbroken = train(images.source, images.target, output=tmp_path / "unbroken", **arguments)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, output=tmp_path / "model", **arguments)
    assert not (tmp_path / "model").exists()
    partial = tmp_path / "model.partial"
    assert sorted(path.name for path in partial.iterdir()) == [
        CHECKPOINT, "curves.csv", "previews", "settings.json",
    ]  # fmt: skip
    assert [path.name for path in (partial / "previews").iterdir()] == ["step-000008.png"]
    with pytest.raises(OutputError, match="unfinished run; continue with resume=True"):
        train(images.source, images.target, output=tmp_path / "model", **arguments)
    resumed = train(images.source, images.target, output=tmp_path / "model", resume=True, **arguments)
    assert resumed.digest == unbroken.digest
    assert (resumed.path / "preview.png").read_bytes() == (unbroken.path / "preview.png").read_bytes()
    assert not partial.exists()
    with (resumed.path / "curves.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20", "24"]


@pytest.mark.cuda
@pytest.mark.parametrize("is_first_on_card", [True, False])
def test_a_run_goes_on_on_another_device(images, tiny, tmp_path, monkeypatch, card, is_first_on_card):
    """From the card to the CPU and the other way round, to a model that is whole."""
    devices = (card, "cpu") if is_first_on_card else ("cpu", card)
    arguments = {"settings": tiny, "seed": 2, "output": tmp_path / "model"}
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, device=devices[0], **arguments)
    before = final_state(tmp_path / "model.partial")
    made = train(images.source, images.target, device=devices[1], resume=True, **arguments)
    assert made.card["training"]["steps"] == tiny.steps
    weights = made.translator.state_dict()
    assert all(bool(torch.isfinite(value).all()) and value.device.type == "cpu" for value in weights.values())
    average = {key.removeprefix("module/average/"): value for key, value in before.items() if "/average/" in key}
    moved = [name for name in weights if name in average and not torch.equal(weights[name], average[name])]
    assert moved


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor does not multiply in bfloat16")
def test_a_run_in_bfloat16_is_continued_in_it_to_the_bit_whatever_would_be_chosen_now(
    images, tiny, tmp_path, monkeypatch
):
    arguments = {"settings": tiny, "seed": 2}
    plain = train(images.source, images.target, output=tmp_path / "plain", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "choose_precision", lambda generator, settings, device: "bfloat16")
        unbroken = train(images.source, images.target, output=tmp_path / "unbroken", **arguments)
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, output=tmp_path / "model", **arguments)
    assert read_notes(tmp_path / "model.partial")["precision"] == "bfloat16"
    resumed = train(images.source, images.target, output=tmp_path / "model", resume=True, **arguments)
    assert resumed.card["training"]["precision"] == "bfloat16"
    assert plain.card["training"]["precision"] == "float32"
    assert resumed.digest == unbroken.digest != plain.digest


def test_a_processor_without_bfloat16_goes_on_in_float32_and_says_so(images, tiny_fast, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "choose_precision", lambda generator, settings, device: "bfloat16")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast)
    monkeypatch.setattr(loop_module, "has_bfloat16", lambda device: False)
    news = []
    resumed = train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, resume=True,
                    progress=news.append)  # fmt: skip
    assert resumed.card["training"]["precision"] == "float32"
    assert [one.note for one in news] == [
        "begun in bfloat16, which this processor lacks: it goes on in float32, not the same to the bit", "", "",
    ]  # fmt: skip


def test_a_checkpoint_of_before_precisions_goes_on_in_float32_on_a_cpu(images, tiny_fast, tmp_path):
    domains = opened(images, tiny_fast)
    run = begin(tiny_fast, domains, torch.device("cpu"))
    notes = {"step": 0, "seconds": 0.0, "settings": asdict(tiny_fast), "data": fingerprint(domains), "attention": []}
    save_checkpoint(tmp_path, run.state, notes)
    assert resumed_precision(tmp_path, torch.device("cpu")) == "float32"
    assert resumed_precision(tmp_path, torch.device("cuda")) is None
    save_checkpoint(tmp_path, run.state, {**notes, "precision": "bfloat16"})
    assert resumed_precision(tmp_path, torch.device("cpu")) == "bfloat16"


# patches drawn beside the step


def drawing_threads():
    """Threads that are ahead of a caller; a reading that an earlier test broke off may have left its own."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("cellxlate-ahead")}


def test_patches_drawn_ahead_are_those_of_the_remaining_steps_in_order(images, tiny):
    domains = opened(images, tiny)
    run = begin(tiny, domains, torch.device("cpu"))
    run.done = 20
    drawn = list(drawn_ahead(run, domains))
    assert len(drawn) == 4
    for step, patches in enumerate(drawn, start=20):
        source, target = (draw(domain, run, step, guided=tiny.guide != "none") for domain in domains)
        images, guides = patches[0].images, patches[0].guides
        if tiny.backward == "imaging":  # what the process made of the targets first, a field without cells last
            count = len(target.images)
            assert len(images) == 2 * count + 1
            assert np.array_equal(guides[:count], target.guides)
            assert not guides[-1].any()
            images, guides = images[count:-1], guides[count:-1]
        assert np.array_equal(images, source.images)
        assert np.array_equal(guides, source.guides)
        assert np.array_equal(patches[1].images, target.images)
        assert np.array_equal(patches[1].guides, target.guides)


def test_what_fails_while_drawing_is_raised_at_its_step_after_a_checkpoint(images, tiny_fast, tmp_path, monkeypatch):
    before = drawing_threads()
    plain = Domain.draw

    def draw_some(domain, step, batch, **options):
        if step == 9 and batch == tiny_fast.batch:
            raise InputError("the disk is gone")
        return plain(domain, step, batch, **options)

    monkeypatch.setattr(Domain, "draw", draw_some)
    with pytest.raises(InputError, match="the disk is gone"):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast)
    assert read_notes(tmp_path / "model.partial")["step"] == 9
    assert not drawing_threads() - before


def test_no_thread_draws_on_after_ctrl_c(images, tiny_fast, tmp_path, monkeypatch):
    before = drawing_threads()
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast)
    assert read_notes(tmp_path / "model.partial")["step"] == 4
    assert not drawing_threads() - before


def test_a_run_killed_before_its_first_checkpoint_starts_over(images, tiny_fast, tmp_path):
    (tmp_path / "model.partial").mkdir()
    with pytest.warns(
        UserWarning, match=r"model\.partial holds no checkpoint yet, so training begins at its first step"
    ):
        resumed = train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, resume=True)
    fresh = train(images.source, images.target, output=tmp_path / "fresh", settings=tiny_fast)
    assert resumed.digest == fresh.digest


def test_resuming_without_a_checkpoint_is_one_line(images, tiny_fast, tmp_path, monkeypatch, capsys):
    words = ["train", "--source", str(images.source), "--target", str(images.target), "-o", str(tmp_path / "model"),
             "--resume"]  # fmt: skip
    monkeypatch.setitem(PRESETS, "fast", replace(tiny_fast, steps=2))
    assert main(words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"cellxlate: {tmp_path}/model.partial does not exist, so there is nothing to resume; leave out --resume"
    )
    (tmp_path / "model.partial").mkdir()
    assert main(words) == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert said.endswith("model.partial holds no checkpoint yet, so training begins at its first step")


def test_a_run_is_not_continued_with_other_settings_images_or_from_nothing(images, tiny_fast, tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="nothing to resume"):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, resume=True)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast)
    for change in ({"seed": 5}, {"steps": 30}, {"batch": 1}):
        with pytest.raises(OptionError, match=f"trained with other {next(iter(change))}"):
            train(images.source, images.target, output=tmp_path / "model",
                  settings=replace(tiny_fast, **change), resume=True)  # fmt: skip
    fewer = [images.source / "faint0.tif", images.source / "faint1.tif"]
    with pytest.raises(OptionError, match="other images"):
        train(fewer, images.target, output=tmp_path / "model", settings=tiny_fast, resume=True)
    (tmp_path / "model.partial" / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="no checkpoint that can be resumed"):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, resume=True)


def test_what_progress_raises_stops_after_a_checkpoint(images, tiny_fast, tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(news):
        raise Cancelled

    with pytest.raises(Cancelled):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, progress=cancel)
    assert read_notes(tmp_path / "model.partial")["step"] == 10


def test_time_left_does_not_count_a_first_step_that_takes_long(images, tiny_fast, tmp_path, monkeypatch):
    clock, news = [0.0], []

    def timed(run, *arguments):
        clock[0] += 1.0 if run.done else 60.0
        return one_step(run, *arguments)

    monkeypatch.setattr(loop_module, "one_step", timed)
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, progress=news.append)
    assert (news[0].step, news[0].seconds) == (10, 69)
    assert news[0].left_s == news[0].steps - 10


def test_a_step_that_breaks_off_is_not_saved(images, tiny_fast, tmp_path, monkeypatch):
    domains = opened(images, tiny_fast)
    run = begin(tiny_fast, domains, torch.device("cpu"))

    def broken(*_arguments, **_options):
        raise MemoryError

    for _, patches in zip(range(3), drawn_ahead(run, domains), strict=False):
        one_step(run, patches, torch.device("cpu"))
    monkeypatch.setattr(run.step_function, "run", broken)
    with pytest.raises(MemoryError):
        loop(run, domains, torch.device("cpu"), tmp_path, board=None, progress=None)
    assert not run.whole
    assert not (tmp_path / CHECKPOINT).exists()


def test_checkpoints_come_with_a_preview_each(images, tiny_fast, tmp_path):
    settings = replace(tiny_fast, checkpoint_minutes=0.0)
    shown = []

    def remember(news):
        shown.append(sorted(path.name for path in (tmp_path / "model.partial").glob("previews/*.png")))

    train(images.source, images.target, output=tmp_path / "model", settings=settings, progress=remember)
    assert shown == [[], ["step-000010.png"], ["step-000010.png", "step-000020.png"]]


def test_a_second_ctrl_c_acts_at_once():
    with StepEnds() as ends:
        ends.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            ends.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_asks_to_end_in_the_last_step_is_not_lost():
    with pytest.raises(KeyboardInterrupt), StepEnds():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_closed_terminal_and_a_scheduler_save_whole_steps_as_ctrl_c_does(
    images, tiny_fast, tmp_path, monkeypatch, capsys, number, code
):
    plain, ended = run_module.one_step, []

    def signalled(run, patches, device):
        if run.done == 7:
            signal.raise_signal(number)  # in the midst of the eighth step
        terms = plain(run, patches, device)
        ended.append(run.done)
        return terms

    words = ["train", "--source", str(images.source), "--target", str(images.target), "-o", str(tmp_path / "model")]
    monkeypatch.setitem(PRESETS, "fast", tiny_fast)
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "one_step", signalled)
        assert main(words) == code
    assert "interrupted; what is done is kept" in capsys.readouterr().err
    assert ended[-1] == read_notes(tmp_path / "model.partial")["step"] == 8


# runs that fail


def lose(monkeypatch, *, at_step: int, seeds: tuple[int, ...] = (0,)) -> None:
    """Make the weights of a run go bad at a step, for some seeds."""
    plain = run_module.one_step

    def losing(run, patches, device):
        terms = plain(run, patches, device)
        if run.done >= at_step and run.settings.seed in seeds:
            with torch.no_grad():
                next(run.step_function.translator.parameters()).fill_(float("nan"))
            terms["total"] = torch.tensor(float("nan"))
        return terms

    monkeypatch.setattr(loop_module, "one_step", losing)


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(images, tiny, tmp_path, monkeypatch):
    lose(monkeypatch, at_step=15)
    settings = replace(tiny, checkpoint_minutes=0.0)
    with pytest.raises(TrainingError) as caught:
        train(images.source, images.target, output=tmp_path / "model", settings=settings)
    message = str(caught.value)
    assert "not finite at step 20" in message
    assert "total" in message
    assert "checkpoint, of step 10" in message
    assert "lower learning_rate or another seed=" in message
    assert "\n" not in message
    assert not (tmp_path / "model").exists()
    kept = final_state(tmp_path / "model.partial")
    assert read_notes(tmp_path / "model.partial")["step"] == 10
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


def test_without_a_checkpoint_the_message_says_so(images, tiny_fast, tmp_path, monkeypatch):
    lose(monkeypatch, at_step=5)
    with pytest.raises(TrainingError, match="no checkpoint was saved before"):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast)
    assert not (tmp_path / "model.partial" / CHECKPOINT).exists()


def test_an_interruption_never_saves_weights_gone_bad(images, tiny_fast, tmp_path, monkeypatch):
    domains = opened(images, tiny_fast)
    run = begin(tiny_fast, domains, torch.device("cpu"))
    run_module.save(run, tmp_path, domains)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with torch.no_grad():
        next(run.step_function.modules["judge_target"].parameters()).fill_(float("inf"))
    run_module.save(run, tmp_path, domains)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_other_seeds_are_tried_and_the_one_that_worked_is_named(images, tiny_fast, tmp_path, monkeypatch):
    lose(monkeypatch, at_step=5, seeds=(4, 5))
    news = []
    bundle = train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, seed=4, restarts=3,
                   progress=news.append)  # fmt: skip
    assert (bundle.card["training"]["seed"], bundle.card["training"]["seeds_tried"]) == (6, [4, 5, 6])
    assert bundle.card["training"]["settings"]["seed"] == 6
    assert "seed 5 failed" in news[0].note
    assert "trying seed 6" in str(news[0])
    assert news[1].note == ""
    monkeypatch.undo()
    monkeypatch.setattr(loop_module, "require_no_collapse", lambda history, step: None)
    alone = train(images.source, images.target, output=tmp_path / "alone", settings=tiny_fast, seed=6)
    assert alone.digest == bundle.digest


def test_when_no_seed_works_all_are_named_and_curves_are_kept(images, tiny_fast, tmp_path, monkeypatch):
    lose(monkeypatch, at_step=5, seeds=(0, 1, 2))
    with pytest.raises(TrainingError, match="seeds 0 to 2 were tried"):
        train(images.source, images.target, output=tmp_path / "model", settings=tiny_fast, restarts=2)
    assert sorted(path.name for path in (tmp_path / "model.partial").glob("curves*")) == [
        "curves-seed-0.csv", "curves-seed-1.csv", "curves.csv",
    ]  # fmt: skip


def test_a_restarted_run_is_continued_with_its_own_seed(images, tiny_fast, tmp_path, monkeypatch):
    arguments = {"output": tmp_path / "model", "settings": tiny_fast, "restarts": 2}
    with monkeypatch.context() as patch:
        lose(patch, at_step=5, seeds=(0,))
        losing = loop_module.one_step

        def pressed(run, patches, device):
            if run.settings.seed == 1 and run.done == 12:
                signal.raise_signal(signal.SIGINT)
            return losing(run, patches, device)

        patch.setattr(loop_module, "one_step", pressed)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, **arguments)
    resumed = train(images.source, images.target, resume=True, **arguments)
    assert resumed.card["training"]["seeds_tried"] == [0, 1]
    alone = train(images.source, images.target, output=tmp_path / "alone", settings=tiny_fast, seed=1)
    assert alone.digest == resumed.digest


def begin_with(monkeypatch, change):
    """Let runs begin with networks that a function has changed, and check for collapse as outside of tests."""
    monkeypatch.undo()  # the real check
    plain = run_module.begin

    def begin_changed(*arguments):
        run = plain(*arguments)
        with torch.no_grad():
            for network in (run.average, run.step_function.translator):
                change(network)
        return run

    monkeypatch.setattr(loop_module, "begin", begin_changed)


@pytest.mark.parametrize(("kind", "level"), [("ones", 20.0), ("zeros", -20.0)])
def test_collapsed_attention_stops_a_run(images, tiny_fast, tmp_path, monkeypatch, kind, level):
    def collapse(network):
        network.attention.layers[-1].weight.zero_()
        network.attention.layers[-1].bias.fill_(level)

    begin_with(monkeypatch, collapse)
    settings = replace(tiny_fast, steps=40, learning_rate=1e-6)
    with pytest.raises(TrainingError, match=f"collapse to {kind}.*guide='saliency'"):
        train(images.source, images.target, output=tmp_path / "model", settings=settings)


def test_a_generator_whose_tanh_is_saturated_stops_a_run(images, tiny_paper, tmp_path, monkeypatch):
    def saturate(network):
        network.generator.layers[-2].weight.zero_()
        network.generator.layers[-2].bias.fill_(-30)
        network.attention.layers[-1].weight.mul_(1000)  # which is no grey

    begin_with(monkeypatch, saturate)
    settings = replace(tiny_paper, steps=140, learning_rate=1e-6)
    with pytest.raises(TrainingError, match="draws one level"):
        train(images.source, images.target, output=tmp_path / "model", settings=settings)


def test_damaged_settings_of_a_checkpoint_are_other_settings(images, tiny_fast, tmp_path, monkeypatch):
    domains = opened(images, tiny_fast)
    run = begin(tiny_fast, domains, torch.device("cpu"))
    run_module.save(run, tmp_path, domains)
    notes = run_module.run_notes(tmp_path)
    notes["settings"]["networks"]["generator"] = 5
    monkeypatch.setattr(run_module, "run_notes", lambda partial: notes)
    with pytest.raises(OptionError, match="trained with other networks"):
        continue_from(tmp_path, run, domains)


def test_a_resumed_run_remembers_its_looks(images, tiny_fast, tmp_path):
    domains = opened(images, tiny_fast)
    run = begin(tiny_fast, domains, torch.device("cpu"))
    run.attention = [AttentionState(*[number / 10] * 7) for number in range(20)]
    run_module.save(run, tmp_path, domains)
    again = begin(tiny_fast, domains, torch.device("cpu"))
    continue_from(tmp_path, again, domains)
    assert again.attention == run.attention[-10:]


# a model to start from


def test_training_starts_from_a_model_and_the_card_says_so(images, tiny_fast, tmp_path):
    first = train(images.source, images.target, output=tmp_path / "first", settings=replace(tiny_fast, steps=12))
    slow = replace(tiny_fast, steps=3, learning_rate=1e-9)
    again = train(
        images.source, images.target, output=tmp_path / "again", settings=slow, base=tmp_path / "first", seed=5
    )
    drawn = train(images.source, images.target, output=tmp_path / "drawn", settings=slow, seed=5)
    for name, weights in again.translator.state_dict().items():
        assert torch.allclose(weights, first.translator.state_dict()[name], atol=1e-6)
    assert any(
        not torch.allclose(weights, first.translator.state_dict()[name], atol=1e-2)
        for name, weights in drawn.translator.state_dict().items()
    )
    training = again.card["training"]
    assert training["start"] == {
        "name": "first", "weights_sha256": first.digest, "steps": 12, "licence": "not stated",
    }  # fmt: skip
    assert "--from first" in training["command"]
    assert drawn.card["training"]["start"] is None
    third = train(images.source, images.target, output=tmp_path / "third", settings=slow, base=again)
    assert third.card["training"]["start"]["steps"] == 15


def test_a_model_to_start_from_brings_its_networks_and_keeps_the_rate_low(images, tiny_fast, tmp_path):
    first = train(images.source, images.target, output=tmp_path / "first", settings=replace(tiny_fast, steps=2))
    wide = replace(
        tiny_fast, steps=2, networks=replace(tiny_fast.networks, generator=GeneratorSettings("compact", 6, 1, "none"))
    )
    again = train(images.source, images.target, output=tmp_path / "again", settings=wide, base=first)
    assert again.card["generator_parameters"] == first.card["generator_parameters"]
    assert again.card["training"]["settings"]["learning_rate"] == 4e-4 < tiny_fast.learning_rate


def test_a_run_goes_on_from_the_model_it_began_from_alone(images, tiny_fast, tmp_path, monkeypatch):
    arguments = {"settings": replace(tiny_fast, steps=12), "output": tmp_path / "model"}
    first = train(images.source, images.target, settings=replace(tiny_fast, steps=2), output=tmp_path / "first")
    unbroken = train(
        images.source, images.target, settings=arguments["settings"], output=tmp_path / "unbroken", base=first
    )
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(images.source, images.target, base=first, **arguments)
    with pytest.raises(OptionError, match="begun from another model, or from none; give the same base="):
        train(images.source, images.target, resume=True, **arguments)
    assert train(images.source, images.target, base=first, resume=True, **arguments).digest == unbroken.digest


def test_the_baseline_starts_from_no_model(images, tiny_fast, tmp_path):
    with pytest.raises(OptionError, match="baseline='cyclegan' starts from nothing, to be compared; leave out base="):
        train(
            images.source, images.target, settings=tiny_fast, output=tmp_path / "model", baseline="cyclegan",
            base="nuclei-lowexp",
        )  # fmt: skip
    assert not list(tmp_path.glob("model*"))


# what is refused before any training


def test_wrong_input_is_refused_before_training_and_leaves_nothing(images, tiny_fast, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "begin", lambda *arguments: pytest.fail("training began"))
    nan = np.full((64, 64), np.nan, np.float32)
    (tmp_path / "empty").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "faint0.tif", np.ones((60, 64), np.uint8))
    for name, plane in (("nan", nan), ("constant", np.full((64, 64), 9, np.uint8)), ("small", nan[:16] * 0)):
        (tmp_path / name).mkdir()
        for number in range(2):
            tifffile.imwrite(tmp_path / name / f"{number}.tif", plane)
    one = images.source / "faint0.tif"
    cases = [
        ({"source": tmp_path / "empty"}, InputError), ({"source": one}, InputError),
        ({"target": tmp_path / "nan"}, InputError), ({"source": tmp_path / "constant"}, InputError),
        ({"source": tmp_path / "small"}, InputError), ({"masks": tmp_path / "masks"}, InputError),
        ({"masks": tmp_path / "empty"}, InputError), ({"target": images.source}, InputError),
        ({"source": tmp_path / "nowhere"}, InputError), ({"channel": 1}, OptionError),
        ({"guide": "masks"}, OptionError), ({"steps": 0}, OptionError), ({"device": "mps"}, OptionError),
        ({"settings": tmp_path / "no.toml"}, OptionError), ({"output": tmp_path / "empty"}, OutputError),
    ]  # fmt: skip
    for change, kind in cases:
        arguments = {"source": images.source, "target": images.target, "output": tmp_path / "model",
                     "settings": tiny_fast, **change}  # fmt: skip
        with pytest.raises(kind) as caught:
            train(arguments.pop("source"), arguments.pop("target"), **arguments)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.partial").exists()
    assert not (tmp_path / "model").exists()


def test_an_output_that_cannot_be_written_is_refused_before_training(images, tiny_fast, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        train(images.source, images.target, output=tmp_path / "file" / "model", settings=tiny_fast)
