"""What was asked for, as one set of settings, refused in one line where it makes no sense."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, get_args

from cellxlate.errors import InputError, Option, OptionError
from cellxlate.model.bundle import Bundle, network_settings
from cellxlate.model.cards import count_of_channels, seen_words
from cellxlate.model.statistics import without_normalisation
from cellxlate.option_values import as_list, as_path, require_choice, require_kind, whole
from cellxlate.options import BASE, BASELINE, BESIDE, GUIDE, MASKS, PRESET, RESTARTS, SEED, SETTINGS, SOURCE, TARGET
from cellxlate.settings import PRESETS, Guide, PresetName, TrainSettings
from cellxlate.settings_file import check_settings, load_settings

Baseline = Literal["none", "cyclegan"]
BASE_RATE = 4e-4
"""Highest learning rate where training starts from a model."""


def resolve(
    settings: TrainSettings | str | Path | None,
    *,
    preset: PresetName,
    guide: Guide | None,
    masks: bool,
    baseline: Baseline,
    epochs: int | None,
    steps: int | None,
    seed: int | None,
    restarts: int,
    beside: int = 0,
) -> TrainSettings:
    """Return the settings with the options that were given, after checking them.

    `beside` channels are named that networks shall see beside the one they change.

    Raises
    ------
    OptionError
        An option is unknown or outside what makes sense, or two contradict each other.
    """
    require_choice(PRESET, preset, tuple(PRESETS))
    require_choice(BASELINE, baseline, get_args(Baseline))
    if guide is not None:
        require_choice(GUIDE, guide, get_args(Guide))
    if whole(RESTARTS, restarts) < 0:
        raise OptionError(RESTARTS.of(restarts), " is negative", remedy="give 0 or more")
    require_kind("settings", settings, (TrainSettings, str, Path), "a TrainSettings, or the path of a file of them")
    chosen = load_settings(settings) if isinstance(settings, str | Path) else settings or PRESETS[preset]
    if epochs is not None:
        chosen = replace(chosen, epochs=whole("epochs", epochs), steps=None)
    if steps is not None:
        chosen = replace(chosen, steps=whole("steps", steps))
    if seed is not None:
        chosen = replace(chosen, seed=whole(SEED, seed))
    if "cyclegan" in (baseline, chosen.baseline):
        if chosen.backward == "alone":
            raise OptionError(
                BASELINE.of("cyclegan"), " needs images to learn towards", remedy=("give ", TARGET, ", or leave it out")
            )
        if masks or guide not in (None, "none"):
            raise OptionError(
                BASELINE.of("cyclegan"), " has no attention to guide", remedy=("leave out ", GUIDE, " and ", MASKS)
            )
        chosen = as_cyclegan(chosen)
    elif chosen.backward == "alone":
        if masks or guide not in (None, "none"):
            raise OptionError(
                "without ",
                TARGET,
                " attention learns from the model that it starts from",
                remedy=("leave out ", GUIDE, " and ", MASKS),
            )
        chosen = replace(chosen, guide="none")
    else:
        if chosen.backward == "any-camera" and guide is None:
            guide = "saliency"  # where an image has no mask
        chosen = replace(chosen, guide=resolve_guide(chosen, guide, masks and chosen.backward != "any-camera"))
    check_settings(chosen)
    chosen = seeing_beside(chosen, beside)
    try:
        network_settings(asdict(without_normalisation(chosen.networks)))
    except (ValueError, TypeError) as fault:
        raise OptionError(f"no model can be made of networks where {fault}; change the settings") from fault
    if chosen.backward in ("imaging", "any-camera") and chosen.guide == "none":
        raise OptionError(
            "the imaging process teaches attention by a guide",
            remedy=("use ", GUIDE.of("saliency"), " or ", PRESET.of("paper")),
        )
    return chosen


def seeing_beside(settings: TrainSettings, beside: int) -> TrainSettings:
    """Return the settings of networks that see so many channels beside the one they change.

    Raises
    ------
    OptionError
        The settings count another number of them, or learn from one channel alone.
    """
    stated = settings.networks.beside
    if stated not in (0, beside):
        raise OptionError(
            f"the settings say networks.beside = {stated}, and {count_of_channels(beside)} "
            f"{'is' if beside == 1 else 'are'} named",
            remedy=("name as many with ", BESIDE, ", or leave networks.beside out: the names are counted"),
        )
    if beside and settings.backward in ("any-camera", "alone"):
        learned = "the source alone" if settings.backward == "alone" else "clear images of any kind"
        raise OptionError(
            f"what learns from {learned} sees one channel, and {beside} more {'is' if beside == 1 else 'are'} named",
            remedy=("leave out ", BESIDE, ", or give source and target and ", PRESET.of("fast")),
        )
    settings = replace(settings, networks=replace(settings.networks, beside=beside))
    check_settings(settings)
    return settings


def starting_from(start: Bundle, settings: TrainSettings) -> TrainSettings:
    """Return the settings with the networks of a model to start from, and a rate that does not undo what it learned.

    Raises
    ------
    OptionError
        The baseline, which has no attention that could start from anything; or the model sees other channels beside
        its own, of another number than is wanted.
    """
    if settings.baseline == "cyclegan":
        raise OptionError(BASELINE.of("cyclegan"), " starts from nothing, to be compared", remedy=("leave out ", BASE))
    networks = network_settings(start.card["networks"])
    require_one_channel(start, settings)
    if networks.beside not in (0, settings.networks.beside):
        raise OptionError(
            f"{start.name} sees {seen_words(start.card, networks.beside)} beside the channel that it changes, and "
            f"{count_of_channels(settings.networks.beside)} {'is' if settings.networks.beside == 1 else 'are'} named",
            remedy=("name as many with ", BESIDE, ", or leave out ", BASE),
        )
    wanted = settings.networks
    networks = replace(networks, discriminator=wanted.discriminator, context=wanted.context, beside=wanted.beside)
    settings = replace(settings, networks=networks, learning_rate=min(settings.learning_rate, BASE_RATE))
    check_settings(settings)
    return settings


def require_one_channel(start: Bundle, settings: TrainSettings) -> None:
    """Raise OptionError where a model that sees other channels beside its own shall learn from one channel alone."""
    needed = start.networks.settings.beside
    if needed and settings.backward in ("any-camera", "alone"):
        raise OptionError(
            f"{start.name} sees {seen_words(start.card, needed)} beside the channel that it changes, and without clear "
            "images a model learns from one channel alone",
            remedy=("enhance with it as it is, or train it on with source and ", TARGET),
        )


def require_start(start: Bundle | None, settings: TrainSettings) -> None:
    """Raise OptionError where networks shall see neighbours and there is no model beside whose own they could stand."""
    if settings.networks.context and start is None:
        raise OptionError(
            "networks that see neighbours stand beside those of a model that sees a plane alone",
            remedy=("name it with ", BASE),
        )


def as_cyclegan(settings: TrainSettings) -> TrainSettings:
    """Return the settings of the baseline: the same networks, both directions learned, attention fixed to 1."""
    return replace(
        settings,
        baseline="cyclegan",
        guide="none",
        backward="learned",
        lambda_adversarial=settings.lambda_adversarial or 1.0,
    )


def resolve_guide(settings: TrainSettings, guide: Guide | None, masks: bool) -> Guide:
    """Return the guide; masks imply the guide of that name, and the other way round."""
    if guide is None:
        guide = "masks" if masks else settings.guide
    if guide == "masks" and not masks:
        raise OptionError(GUIDE.of("masks"), " needs ", MASKS.of("DIR"), " with masks of some of the images")
    if masks and guide != "masks":
        raise OptionError(MASKS, " and ", GUIDE.of(guide), " contradict each other", remedy="leave out one of them")
    return guide


def as_paths(option: Option, paths: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """Return one or several paths, or none, as a list; OptionError where they are something else."""
    if paths is None:
        return []
    return [Path(paths)] if isinstance(paths, str | Path) else [as_path(option, one) for one in as_list(option, paths)]


def require_domains(source: Sequence[Path], target: Sequence[Path], settings: TrainSettings) -> None:
    """Raise InputError where nothing is given, the same path as source and as target, or a source that is not used."""
    if settings.backward == "any-camera":
        if source:
            raise InputError(
                f"{source[0]} is given as source, but a generalist learns from clear images alone",
                remedy=("leave out ", SOURCE),
            )
        if not target and not settings.generalist.drawn_fields:
            raise InputError("no target image is given and no field is to be drawn; name a folder of clear images")
        return
    if settings.backward == "alone":
        if target:
            raise InputError(
                f"{target[0]} is given as target, but the preset alone learns from the source alone; leave one out"
            )
        if not source:
            raise InputError("no source image is given; name a folder of images")
        return
    if source and not target:
        raise InputError(
            "no target image is given",
            remedy=(
                "name a folder of images, or leave out ",
                PRESET,
                " and ",
                SETTINGS,
                " to learn from the source alone",
            ),
        )
    for name, paths in (("source", source), ("target", target)):
        if not paths:
            raise InputError(f"no {name} image is given; name a folder of images")
    shared = {path.resolve() for path in source} & {path.resolve() for path in target}
    if shared:
        raise InputError(f"{min(shared)} is given as source and as target; give images of two kinds")
