"""Settings that make sense: those of training from a TOML file too, those of enhancing from keywords."""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from numbers import Integral, Real
from operator import attrgetter, le
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from cellxlate.errors import OptionError
from cellxlate.option_values import (
    instead,
    nearest_name,
    real_number,
    require_choice,
    require_flags,
    require_kind,
    shortly,
    whole,
)
from cellxlate.options import COLOR, CONTEXT, INTENSITY, THRESHOLD, TILE
from cellxlate.settings import (
    LEAST_LEARNED_PX,
    MOST_BESIDE,
    MOST_CONTEXT,
    MOST_ROOM,
    PRESETS,
    Along,
    Color,
    EnhanceSettings,
    Intensity,
    TrainSettings,
)


def load_settings(path: str | Path) -> TrainSettings:
    """Read training settings from a TOML file.

    Parameters
    ----------
    path : str or Path
        `preset` names the preset that is changed ("fast" where it is missing); every other key replaces the value of
        that name, tables such as `[networks.generator]` those inside. `false` stands for None.

    Raises
    ------
    OptionError
        The file cannot be read, or a key or a value is not known.

    Examples
    --------
    A file that trains the paper's game with a guide and half its patches::

        preset = "paper"
        guide = "saliency"
        patch_px = 128
        load_px = 143

        [networks.generator]
        blocks = 6
    """
    import tomllib  # needed where there is such a file alone

    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise OptionError(f"the settings {path} cannot be read ({fault}); expected a TOML file") from fault
    preset = table.get("preset", "fast")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise OptionError(f"{path}: preset is {preset!r}", remedy=instead(preset, PRESETS))
    settings = _changed(PRESETS[preset], table, f"{path}: ")
    check_settings(settings, where=f"{path}: ")
    return settings


_Settings = TypeVar("_Settings")


def _changed(settings: _Settings, table: dict[str, Any], where: str) -> _Settings:
    """Return nested settings with the values of a table, after checking names and types."""
    hints = get_type_hints(type(settings))
    names = [one.name for one in fields(settings)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            raise OptionError(f"{where}{key!r} is not a setting", remedy=_instead(key, names))
        current = getattr(settings, key)
        if is_dataclass(current):
            if not isinstance(value, dict):
                raise OptionError(f"{where}{key} is {value!r}, expected a table [{key}]")
            changes[key] = _changed(current, value, f"{where}{key}.")
            continue
        fitting = _as_hinted(value, hints[key])
        if fitting is _UNFIT:
            written = str(value).lower() if isinstance(value, bool) else repr(value)
            raise OptionError(f"{where}{key} is {written}, expected {_in_words(hints[key], value)}")
        changes[key] = fitting
    return replace(settings, **changes)  # type: ignore[type-var]


def _instead(key: str, names: list[str]) -> str:
    """Return what to write in place of a key that a table does not have: its own table, or what was probably meant."""
    tables = [table for table, known in _tables(PRESETS["fast"]) if key in known]
    if "" in tables:
        return "it belongs at the top, before any [table]"
    if tables:
        return f"it belongs into the table {' or '.join(f'[{table}]' for table in tables)}"
    return instead(key, names)


def _tables(settings: Any, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the tables of settings, by the names that they have in a file, with the keys of each."""
    names = [one.name for one in fields(settings)]
    yield name, [one for one in names if not is_dataclass(getattr(settings, one))]
    for one in names:
        if is_dataclass(inner := getattr(settings, one)):
            yield from _tables(inner, f"{name}.{one}".strip("."))


def _in_words(hint: Any, value: Any) -> str:
    """Return what a value of a file is expected to be."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}" + _meant(value, get_args(hint))
    if isinstance(hint, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return f"{_in_words(kinds[0], value)}, or false for none"
    if get_origin(hint) is tuple:
        return f"[{', '.join(_in_words(kind, value) for kind in get_args(hint))}]"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "text")


def _meant(value: Any, known: tuple[str, ...]) -> str:
    meant = nearest_name(value, known) if isinstance(value, str) else None
    return f"; did you mean {meant!r}?" if meant else ""


_UNFIT = object()


def _as_hinted(value: Any, hint: Any) -> Any:
    """Return a TOML value as the hinted type, or _UNFIT."""
    if get_origin(hint) is Literal:
        return value if value in get_args(hint) else _UNFIT
    if isinstance(hint, UnionType):
        if value is False:
            return None
        return _as_hinted(value, next(kind for kind in get_args(hint) if kind is not type(None)))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list) or len(value) != len(kinds):
            return _UNFIT
        parts = tuple(_as_hinted(part, kind) for part, kind in zip(value, kinds, strict=True))
        return _UNFIT if _UNFIT in parts else parts
    if hint is float:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else _UNFIT
    return value if type(value) is hint else _UNFIT


def enhance_settings(
    settings: EnhanceSettings | None = None,
    *,
    threshold: float | None = None,
    intensity: Intensity | None = None,
    tile_px: int | None = None,
    dense: bool | None = None,
    context: Along | None = None,
    color: Color | None = None,
) -> EnhanceSettings:
    """Return how a stack is enhanced: settings, changed by the keywords that are given, after checking all of it.

    Raises
    ------
    OptionError
        A value is of another type, the threshold outside [0, 1], intensity, context or color not known, or a tile
        without pixels.
    """
    require_kind("settings", settings, EnhanceSettings, "an EnhanceSettings; or give its fields as keywords")
    asked = {
        "threshold": threshold, "intensity": intensity, "tile_px": tile_px, "dense": dense, "context": context,
        "color": color,
    }  # fmt: skip
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    settings = replace(settings or EnhanceSettings(), **changes)
    wanted = real_number(THRESHOLD, settings.threshold, "a number from 0 to 1")
    if not 0 <= wanted <= 1:
        raise OptionError(
            THRESHOLD.of(settings.threshold), " is outside 0 to 1", remedy="0.1 is usual, 1 selects nothing"
        )
    require_choice(INTENSITY, settings.intensity, get_args(Intensity))
    require_choice(CONTEXT, settings.context, get_args(Along))
    require_choice(COLOR, settings.color, get_args(Color))
    require_flags(dense=settings.dense)
    side_px = settings.tile_px if settings.tile_px is None else whole(TILE, settings.tile_px)
    if side_px is not None and side_px < 1:
        raise OptionError(
            TILE.of(settings.tile_px), " is less than 1 px", remedy="leave it out to let the memory budget decide"
        )
    return replace(settings, threshold=wanted, tile_px=side_px)


def check_settings(settings: TrainSettings, *, where: str = "") -> None:
    """Raise OptionError, which names the setting, its value and what was expected, unless every value makes sense."""
    _require_types(settings, where)
    for name, fits, expected in _rules(settings):
        value = attrgetter(name)(settings)
        if not (value is None or fits(value)):
            raise OptionError(f"{where}{name} is {value}, expected {expected}")


def _require_types(settings: Any, where: str) -> None:
    """Raise OptionError where a setting is not of its type, inner settings included."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if not _is_hinted(value, hint):
            raise OptionError(f"{where}{name} is {shortly(value)}, expected {_in_words(hint, value)}")
        if is_dataclass(value):
            _require_types(value, f"{where}{name}.")


def _is_hinted(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type that a setting may have; numbers must be finite."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_is_hinted(value, kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        fits = isinstance(value, tuple) and len(value) == len(kinds)
        return fits and all(_is_hinted(part, kind) for part, kind in zip(value, kinds, strict=True))
    if hint in (int, float):
        kind: Any = Integral if hint is int else Real
        return not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value)
    return isinstance(value, hint)


Rule = tuple[str, Callable[[Any], bool], str]


def _rules(settings: TrainSettings) -> list[Rule]:
    """Return of each setting its name, what tells whether a value fits, and that in words."""
    networks = settings.networks
    smallest_px = max(16, 4 * 2**networks.discriminator.layers)
    stride_px = max(4, 2**networks.generator.levels, 2**networks.attention.levels)
    sees_neighbours = settings.backward in ("any-camera", "alone")
    learns_attention = settings.backward == "learned" and settings.baseline == "none"
    return [
        *_at_least({"epochs": 1, "steps": 1, "seed": 0}),
        ("switch_epoch", lambda epoch: epoch >= learns_attention,
         "0 or more, with backward = \"learned\" at least 1, since attention is frozen from then on"),
        ("threshold", lambda value: 0 <= value < 1, "from 0 to below 1"),
        *_at_least({"batch": 1}),
        ("patch_px", lambda px: px >= smallest_px and px % stride_px == 0,
         f"a multiple of {stride_px}, at least {smallest_px}"),
        ("load_px", lambda px: px >= settings.patch_px, "at least patch_px"),
        ("learning_rate", lambda rate: rate > 0, "above 0"),
        ("adam_beta1", lambda value: 0 <= value < 1, "from 0 to below 1"),
        ("decay_from", lambda value: 0 <= value <= 1, "from 0 to 1"),
        *_at_least({"pool": 0, "lambda_cycle": 0, "lambda_adversarial": 0, "lambda_guide": 0}),
        ("imaging.blur_px", lambda px: 0 <= px[0] <= px[1] <= 3, "two sigmas, the smaller first, from 0 to 3"),
        *_at_least({"imaging.exposure_jitter": 1, "imaging.texture": 0, "generalist.drawn_fields": 0}),
        ("generalist.magnification", lambda factors: 0.1 <= factors[0] <= factors[1] <= 8,
         "two factors, the smaller first, from 0.1 to 8"),
        ("generalist.generator_px", lambda px: px >= 32 and px % 16 == 0, "a multiple of 16, at least 32"),
        *_at_least({"generalist.source_fields": 2, "alone.windows": 1, "alone.window_px": LEAST_LEARNED_PX}),
        *_at_least({"alone.round_steps": 1, "alone.round_windows": 1}),
        ("alone.turns", lambda turns: 1 <= turns <= 8, "from 1 to 8"),
        ("ema", lambda value: 0 <= value < 1, "from 0 to below 1"),
        *_at_least({"checkpoint_minutes": 0}),
        ("networks.channels", lambda channels: channels == 1,
         "1: one channel is changed; others that are to be seen too are counted by networks.beside"),
        ("networks.generator.room", lambda spans: 0 <= spans <= MOST_ROOM, f"from 0 to {MOST_ROOM}"),
        ("networks.beside", lambda channels: 0 <= channels <= (0 if sees_neighbours else MOST_BESIDE),
         f"0 to {MOST_BESIDE} with backward = \"learned\" or \"imaging\", else 0"),
        ("networks.context", lambda planes: 0 <= planes <= (MOST_CONTEXT if sees_neighbours else 0),
         f"0 to {MOST_CONTEXT} with backward = \"any-camera\" or \"alone\", else 0"),
    ]  # fmt: skip


def _at_least(smallest: dict[str, float]) -> list[Rule]:
    return [
        (name, partial(le, least), f"at least {least}" if least else "0 or more") for name, least in smallest.items()
    ]
