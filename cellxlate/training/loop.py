"""Training, from two folders of images to a model folder. Read `train` from top to bottom."""

import functools
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.errors import OptionError, OutputError, TrainingError, said, unless_denied
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.engines.engine import Device, choose_device
from cellxlate.option_values import as_list, as_path, require_callables, require_flags, require_kind
from cellxlate.options import BESIDE, MASKS, NOT_RESUMED, OTHER_SEED, SOURCE, TARGET, TRAIN_RESUME, TRAINED
from cellxlate.settings import Guide, PresetName, TrainSettings
from cellxlate.stacks.naming import partial_of
from cellxlate.training.acceleration.precision import has_bfloat16
from cellxlate.training.checkpoint import CHECKPOINT
from cellxlate.training.domains import nearest_model, open_domains
from cellxlate.training.fields.patches import Domain
from cellxlate.training.finished import finished_translator, preview, saved_model, statistics_patches, training_card
from cellxlate.training.interruption import StepEnds
from cellxlate.training.options import Baseline, as_paths, require_domains, require_start, resolve, starting_from
from cellxlate.training.run import (
    Run,
    begin,
    continue_from,
    draw,
    drawn_ahead,
    has_checkpoint,
    one_step,
    resumed_precision,
    resumed_seed,
    save,
)
from cellxlate.training.watch import AttentionState, Board, Curves, log, look, open_board, require_no_collapse

PROBE_PATCHES = 8

Progress = Callable[["TrainProgress"], object]


@dataclass(frozen=True)
class TrainProgress:
    """One line of news from a run; `note` says what is out of the ordinary.

    `picture`, called before the run goes on, returns a PNG of input, attention and output as they are now. Where the
    length was given in epochs, `epochs` is their number, else None. `step_s` is how long a step took, in seconds, after
    the first of this session, which takes longer; None where that is not known.
    """

    step: int
    steps: int
    seconds: float
    terms: dict[str, float]
    attention: AttentionState
    note: str = ""
    picture: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    epochs: int | None = None
    step_s: float | None = None

    @property
    def left_s(self) -> float:
        """Seconds that the remaining steps will take, if they are like those before; infinite before the first."""
        if not self.step:
            return math.inf
        step_s = self.seconds / self.step if self.step_s is None else self.step_s
        return step_s * (self.steps - self.step)

    @property
    def epoch(self) -> int:
        """The epoch that this step belongs to, from 1; 0 where the length was given in steps."""
        return math.ceil(self.step * self.epochs / self.steps) if self.epochs else 0

    def __str__(self) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in self.terms.items())
        note = f"  {self.note}" if self.note else ""
        return (
            f"step {self.step}/{self.steps}  {self.seconds:.0f} s  {terms}  "
            f"attention area {self.attention.area:.3f}{note}"
        )


def train(
    source: str | Path | Sequence[str | Path] | None = None,
    target: str | Path | Sequence[str | Path] | None = None,
    *,
    output: str | Path,
    preset: PresetName | None = None,
    settings: TrainSettings | str | Path | None = None,
    base: Bundle | str | Path | None = None,
    guide: Guide | None = None,
    masks: str | Path | Sequence[str | Path] | None = None,
    baseline: Baseline = "none",
    epochs: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    restarts: int = 0,
    channel: str | int | None = None,
    beside: Sequence[str | int] | str | int = (),
    device: Device = "auto",
    resume: bool = False,
    licence: str = "not stated",
    description: str = "",
    tensorboard: bool | None = None,
    progress: Progress | None = None,
    after_step: Callable[[int], object] | None = None,
) -> Bundle:
    """Train a translator from unpaired images.

    Parameters
    ----------
    source, target : path or paths
        Images as they come from the microscope, and images as they should look; files or folders; need not be pairs.
        The presets "general" and "context" take no source, and draw structures where there is no target either; what
        "context" teaches sees the planes beside each and stands beside the networks of `base`. Without a target the
        preset "alone" learns from the source and its noise, beginning with `base`.
    output : path
        The model folder to write; must not exist. Beside it `NAME.partial` holds the checkpoint, curves and previews
        while training.
    preset : {"fast", "general", "paper", "paper-wide", "context", "alone"}, optional
        Where all settings come from that are not given; ignored if `settings` is. By default "alone" where a source but
        no target is given, "fast" elsewhere.
    settings : TrainSettings or path, optional
        Full control: settings, or a TOML file of them (see `settings_file.load_settings`). Other options change them.
    base : Bundle, str or path, optional
        A model to start from, in place of weights drawn from the seed: it is fitted to these images, or learns on. Its
        networks are taken, and a learning rate of at most `BASE_RATE`. The card names it. The preset "alone" takes the
        shipped model that is nearest to the source where none is given.
    guide : {"none", "saliency", "masks"}, optional
        What attention is guided by.
    masks : path or paths, optional
        Masks of some source or target images, named like them; implies the guide "masks" (see `attach_masks`).
    baseline : {"none", "cyclegan"}
        "cyclegan" fixes attention to 1 in the same networks.
    epochs, steps : int, optional
        Length; steps win, and stretch the epochs of the schedule over them.
    seed : int, optional
        Of weights and draws.
    restarts : int
        How many further seeds are tried where training fails (collapsed attention, a loss that is not finite).
    channel : str or int, optional
        Which channel of multi-channel images, by name (in any case) or number.
    beside : str, int or sequence of them, optional
        Channels that networks see beside this one and never change, in source and target; of the presets "fast" and
        "paper".
    device : {"auto", "cpu", "cuda", "mps"}
        Where to train.
    resume : bool
        Continue from `NAME.partial`; the result equals an unbroken run (to the bit on one thread of a CPU).
    description : str
        What the model is for, in a few words, for the card.
    licence : str
        Of the weights, for the card.
    tensorboard : bool, optional
        Log to `NAME.partial/tensorboard`; by default where TensorBoard is installed.
    progress : callable, optional
        Called with a TrainProgress after each look at attention; `print` works. What it raises stops training, after a
        checkpoint.
    after_step : callable, optional
        Called after every step with the number of steps done; what it raises stops training, after a checkpoint.

    Returns
    -------
    Bundle
        The trained model, as loaded from its folder.

    Raises
    ------
    InputError, OptionError, OutputError
        Before training starts.
    TrainingError
        The loss is not finite any more, or attention has collapsed; the last good checkpoint remains.

    References
    ----------
    Mejjati et al., NeurIPS 2018, arXiv 1806.02311. Where the presets deviate: docs/decisions.
    """
    output = as_path(TRAINED, output)
    paths, mask_folders = (as_paths(SOURCE, source), as_paths(TARGET, target)), as_paths(MASKS, masks)
    require_flags(resume=resume, tensorboard=tensorboard or False)
    require_callables(progress=progress, after_step=after_step)
    require_kind("licence", licence, str, "text")
    require_kind("description", description, str, "text")
    seen = [beside] if isinstance(beside, str | int) else as_list(BESIDE, beside)
    preset = preset or ("alone" if paths[0] and not paths[1] else "fast")
    chosen = resolve(
        settings, preset=preset, guide=guide, masks=bool(mask_folders), baseline=baseline, epochs=epochs, steps=steps,
        seed=seed, restarts=restarts, beside=len(seen),
    )  # fmt: skip
    require_domains(*paths, chosen)
    start = None if base is None else base if isinstance(base, Bundle) else load_model(base)
    partial = partial_of(output)
    require_free(output, partial, resume)
    if start is None and chosen.backward == "alone":
        start = nearest_model(paths[0], channel)
    require_start(start, chosen)
    if start:
        chosen = starting_from(start, chosen)
    chosen_device = choose_device(device)
    with _nothing_left_of_nothing(partial), ExitStack() as files:
        domains = open_domains(paths, chosen, channel, mask_folders, files, seen)
        board = open_board(partial / "tensorboard", wanted=tensorboard)
        if board:
            files.callback(board.close)
        run, seeds = run_seeds(
            chosen, domains, chosen_device, partial, start=start, restarts=restarts, resume=resume, board=board,
            progress=progress, after_step=after_step,
        )  # fmt: skip
        count = statistics_patches(run.settings, domains[0])
        patches = [draw(domains[0], run, step, guided=False, batch=1) for step in range(count)]
        final = finished_translator(run.average, run.settings, patches)
        card = training_card(
            run.settings, paths, domains, steps=run.done, seconds=run.seconds, seeds=seeds, precision=run.precision,
            last_look=run.attention[-1] if run.attention else None, start=start, licence=licence,
            description=description,
        )  # fmt: skip
        bundle = saved_model(output, final, card, preview(final, domains[0], run.settings.threshold), start)
    with suppress(OSError):  # the model is there
        shutil.copyfile(partial / "curves.csv", output / "curves.csv")
    shutil.rmtree(partial, ignore_errors=True)
    return bundle


@contextmanager
def _nothing_left_of_nothing(partial: Path) -> Iterator[None]:
    """Remove what a run leaves that had not saved anything when the disk or the memory was full."""
    was_there = partial.exists()
    try:
        yield
    except (OutputError, OSError, MemoryError, RuntimeError):
        if not was_there and not has_checkpoint(partial):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def require_free(output: Path, partial: Path, resume: bool) -> None:
    """Raise OutputError or OptionError unless the output can be made, or continued, there."""
    if output.exists():
        raise OutputError(f"{output} exists already", remedy=("choose another ", TRAINED, " or remove it"))
    if partial.exists() and not resume:
        raise OutputError(
            f"{partial} holds an unfinished run", remedy=("continue with ", TRAIN_RESUME, " or remove it")
        )
    if resume and not partial.exists():
        raise OptionError(f"{partial} does not exist, so there is nothing to resume", remedy=NOT_RESUMED)


def run_seeds(
    settings: TrainSettings,
    domains: tuple[Domain, ...],
    device: torch.device,
    partial: Path,
    *,
    start: Bundle | None,
    restarts: int,
    resume: bool,
    board: Board | None,
    progress: Progress | None,
    after_step: Callable[[int], object] | None = None,
) -> tuple[Run, list[int]]:
    """Run to the end, with the next seeds where training fails; return the run and the seeds that were tried."""
    first = settings.seed
    seeds = range(first, first + restarts + 1)
    if resume and not has_checkpoint(partial):
        warnings.warn(f"{partial} holds no checkpoint yet, so training begins at its first step", stacklevel=3)
        resume = False
    seed = resumed_seed(partial, seeds) if resume else first
    precision = resumed_precision(partial, device) if resume else None
    note = ""
    if precision == "bfloat16" and not has_bfloat16(device):
        precision = "float32"
        note = "begun in bfloat16, which this processor lacks: it goes on in float32, not the same to the bit"
    while True:
        run = begin(replace(settings, seed=seed), domains, device, precision, start)
        if resume:
            continue_from(partial, run, domains)
        prepare(partial, run.settings)
        try:
            loop(run, domains, device, partial, board=board, progress=progress, after_step=after_step, note=note)
            return run, list(range(first, seed + 1))
        except TrainingError as fault:
            if not restarts:
                raise
            if seed == seeds[-1]:
                raise TrainingError(fault, f"; seeds {first} to {seed} were tried") from fault
            note = said(f"seed {seed} failed (", fault, f"); trying seed {seed + 1}")
            precision = run.precision
        set_aside(partial, seed)
        seed, resume = seed + 1, False


def prepare(partial: Path, settings: TrainSettings) -> None:
    """Make the folder of a run and note its settings there."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        (partial / "settings.json").write_text(json.dumps(asdict(settings), indent=1), encoding="utf-8")
    except OSError as fault:
        raise unless_denied(OutputError(f"{partial} cannot be written: {fault}"), partial, fault) from fault


def set_aside(partial: Path, seed: int) -> None:
    """Keep the curves of a seed that failed under its name, and make room for the next."""
    (partial / "curves.csv").replace(partial / f"curves-seed-{seed}.csv")
    (partial / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(partial / "previews", ignore_errors=True)


def loop(
    run: Run,
    domains: tuple[Domain, ...],
    device: torch.device,
    partial: Path,
    *,
    board: Board | None,
    progress: Progress | None,
    after_step: Callable[[int], object] | None = None,
    note: str = "",
) -> None:
    """Run the remaining steps; look, log and save on the way. An interruption saves first.

    Raises
    ------
    TrainingError
        The loss is not finite any more, or attention has collapsed.
    """
    curves = Curves(partial / "curves.csv", resume_step=run.done)
    probe = draw(domains[0], run, 0, guided=True, batch=min(PROBE_PATCHES, len(domains[0])))
    watched = torch.from_numpy(probe.images).to(device)
    started = saved = time.monotonic()
    before_s = run.seconds
    begun: tuple[int, float] | None = None  # step and seconds when the first step, which takes longer, was done
    try:
        with StepEnds() as step_ends, closing(drawn_ahead(run, domains)) as drawn:
            for patches in drawn:
                terms = one_step(run, patches, device)
                run.seconds = before_s + time.monotonic() - started
                begun = begun or (run.done, run.seconds)
                step_ends.check()
                if after_step:
                    after_step(run.done)
                due = time.monotonic() - saved > 60 * run.settings.checkpoint_minutes
                if run.done % run.look_every and run.done != run.steps:
                    if due and run.settings.backward == "alone":  # whose runs are short
                        save(run, partial, domains)
                        saved = time.monotonic()
                    continue
                values = {name: float(value.detach()) for name, value in terms.items()}
                require_finite(values, run, partial)
                state = looked(run, watched, probe.guides)
                run.attention.append(state)
                curves.add(run.done, run.seconds, values, state)
                log(board, run.done, values, state)
                if progress:
                    picture = functools.partial(preview, run.average, domains[0], run.settings.threshold)
                    step_s = (run.seconds - begun[1]) / (run.done - begun[0]) if run.done > begun[0] else None
                    news = (run.done, run.steps, run.seconds, values, state, note, picture, run.epochs, step_s)
                    progress(TrainProgress(*news))
                    note = ""
                if run.settings.baseline == "none" and run.settings.backward != "alone":
                    require_no_collapse(run.attention, run.done)
                if time.monotonic() - saved > 60 * run.settings.checkpoint_minutes:
                    save(run, partial, domains)
                    saved = time.monotonic()
    except TrainingError:
        raise
    except BaseException:
        save(run, partial, domains)
        raise
    save(run, partial, domains)


def looked(run: Run, watched: torch.Tensor, guides: npt.NDArray[np.float32]) -> AttentionState:
    """Look at attention on patches (B, C, Y, X) and, of a generator that draws all of the outcome, at what it draws."""
    with torch.no_grad():
        attention = run.average.attention(watched).cpu().numpy()
        proposal = None if run.average.generator.residual else run.average.generator(watched).cpu().numpy()
    return look(attention, guides, run.settings.threshold, proposal)


def require_finite(values: dict[str, float], run: Run, partial: Path) -> None:
    """Raise TrainingError where a term of the objective is no number any more."""
    lost = [name for name, value in values.items() if not math.isfinite(value)]
    if lost:
        left = "no checkpoint was saved before"
        if run.saved is not None:
            left = f"the last good checkpoint, of step {run.saved}, is in {partial}"
        raise TrainingError(
            f"the loss is not finite at step {run.done} ({', '.join(lost)}); {left}",
            remedy=("train again with a lower learning_rate or ", OTHER_SEED),
        )
