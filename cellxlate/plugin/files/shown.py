"""How the channels of a stack are shown: names, colours, windows and visibility, as files state them; else measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.stacks.carried import from_json
from cellxlate.stacks.metadata.calibration import finite
from cellxlate.stacks.stack import Stack

SAMPLE_PX = 512
MOST_LAYERS = 16
"""Of one file; spectra have hundreds of channels."""

DEFAULT_COLOURS = ("gray", "green", "magenta", "cyan", "yellow", "red", "blue")
NAMED = {"FFFFFF": "gray", "FF0000": "red", "00FF00": "green", "0000FF": "blue", "FF00FF": "magenta",
         "00FFFF": "cyan", "FFFF00": "yellow"}  # fmt: skip
SAMPLES = (("red", "red"), ("green", "green"), ("blue", "blue"), ("opacity", "gray"))
BLENDINGS = ("translucent", "translucent_no_depth", "additive", "minimum", "opaque", "multiplicative")
NOTE = "napari"
"""Attribute in which a written layer keeps what the formats have no place for."""


@dataclass(frozen=True)
class Shown:
    """One layer of a stack: which channel and which sample (None: all that there are), its name, and how it looks."""

    name: str
    channel: int | None = None
    sample: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def shown(stack: Stack) -> list[Shown]:
    """Return the layers that a stack is shown as, in the order of its channels and samples.

    More than 16 channels stay one layer, with a slider.

    Raises
    ------
    InputError
        The middle of a channel cannot be read, or pixels have more than 16 samples.
    """
    if stack.size("S") > MOST_LAYERS:
        raise InputError(f"{stack.path} has {stack.size('S')} samples in each pixel, of which at most 16 become layers")
    if stack.size("C") > MOST_LAYERS and ("S" not in stack.axes or _is_rgb(stack)):
        look = _blending(0) | {"contrast_limits": _limits(stack, stack.size("C") // 2, None)}
        return [Shown(stack.name, None, None, {} if _is_rgb(stack) else look)]
    channels: Sequence[int | None] = range(stack.size("C")) if "C" in stack.axes else [None]
    if _is_rgb(stack):
        kept = _kept(stack)
        colours = [
            Shown(_name(stack, channel), channel, None, _blending(number)) for number, channel in enumerate(channels)
        ]
        return [_as_kept(one, kept[0]) for one in colours] if len(kept) == len(colours) == 1 else colours
    if "S" in stack.axes:
        return [
            _sample(stack, channel, sample, number * stack.size("S") + sample)
            for number, channel in enumerate(channels)
            for sample in range(stack.size("S"))
        ]
    looks, kept = _stated(stack), _kept(stack)
    layers = []
    for number, channel in enumerate(channels):
        options = _blending(number) | looks[number]
        if "contrast_limits" not in options:
            options["contrast_limits"] = _limits(stack, channel, None)
        layer = Shown(_name(stack, channel), channel, None, options)
        layers.append(_as_kept(layer, kept[number]) if len(kept) == len(looks) else layer)
    return layers


def _as_kept(layer: Shown, kept: Mapping[str, Any]) -> Shown:
    """Return a layer as it was when it was written."""
    look = {key: value for key, value in kept.items() if key != "name"}
    return Shown(kept.get("name", layer.name), layer.channel, layer.sample, {**layer.options, **look})


def _is_rgb(stack: Stack) -> bool:
    """Return whether napari shows the samples as they are: 8 bits of red, green, blue and perhaps opacity."""
    samples = {(3, ()), (4, (3,))}
    other_colours = any("its colours are " in line for line in stack.warnings)
    return stack.dtype == "uint8" and (stack.size("S"), stack.alpha_samples) in samples and not other_colours


def _name(stack: Stack, channel: int | None) -> str:
    if channel is None:
        return stack.name
    return f"{stack.name} {stack.channel_names[channel] if stack.channel_names else f'channel {channel}'}"


def _sample(stack: Stack, channel: int | None, sample: int, number: int) -> Shown:
    """Return one of the samples of a pixel as a layer; opacity is there and hidden."""
    in_colour = (stack.size("S"), stack.alpha_samples) in {(3, ()), (4, (3,))}
    name, colour = (
        SAMPLES[sample] if in_colour else (f"sample {sample}", DEFAULT_COLOURS[sample % len(DEFAULT_COLOURS)])
    )
    opacity = sample in stack.alpha_samples
    limits = _limits(stack, channel, sample)
    options = {"contrast_limits": limits, "colormap": colour, "visible": not opacity, **_blending(number)}
    return Shown(f"{_name(stack, channel)} {'opacity' if opacity else name}", channel, sample, options)


def _blending(number: int) -> dict[str, Any]:
    return {"blending": "additive" if number else "translucent_no_depth"}


def _stated(stack: Stack) -> list[dict[str, Any]]:
    """Return colour, window and visibility of each channel, as the file states them or as it is usual."""
    count = stack.channel_count
    omero = stack.metadata.zarr.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    listed = listed if isinstance(listed, list) and len(listed) == count else [{}] * count
    channels = [channel if isinstance(channel, Mapping) else {} for channel in listed]
    active = [channel.get("active") is not False for channel in channels]
    inverted = [channel.get("inverted") is True for channel in channels]
    looks: list[dict[str, Any]] = []
    for number, colour in enumerate(_colours(stack, count)):
        look: dict[str, Any] = {"colormap": _inverted(colour) if inverted[number] else colour}
        look["visible"] = active[number] or not any(active)
        ranges = stack.metadata.ranges
        if len(ranges) == count and ranges[number][0] < ranges[number][1] and stack.dtype != bool:
            look["contrast_limits"] = ranges[number]
        looks.append(look)
    if count == 1 and (palette := _palette(stack)) is not None:
        looks[0] |= {"colormap": palette, "contrast_limits": (0.0, 255.0)}
    elif stack.metadata.tiff.get("photometric") == "miniswhite" and stack.dtype != bool:  # tifffile calls masks so
        looks = [look | {"colormap": "gray_r"} for look in looks]
    for look, table in zip(looks, _tables(stack, count), strict=False):
        look |= {} if table is None else {"colormap": table}
    return looks


def _colours(stack: Stack, count: int) -> list[str]:
    """Return a colour for each channel; the usual ones where the file's tell nothing apart, or one cannot be seen."""
    stated = stack.metadata.colours
    if len(stated) != count or "000000" in stated or (count > 1 and len(set(stated)) == 1):
        return [DEFAULT_COLOURS[number % len(DEFAULT_COLOURS)] for number in range(count)]
    return [NAMED.get(colour, f"#{colour.lower()}") for colour in stated]


def _colormap(colours: npt.NDArray[Any], name: str) -> Any:
    """Return napari's colormap of colours (count, 3) from 0 to 1."""
    from napari.utils.colormaps import Colormap

    return Colormap(colours.astype(np.float32), name=name)


def _inverted(colour: str) -> Any:
    from napari.utils.colormaps import ensure_colormap

    return _colormap(np.asarray(ensure_colormap(colour).colors)[::-1], f"{colour} inverted")


def _palette(stack: Stack) -> Any:
    """Return the palette of an image of indices as a colormap, None where there is none."""
    tiff = stack.metadata.tiff
    table = from_json(tiff.get("colormap")) if tiff.get("photometric") == "palette" else None
    if not isinstance(table, np.ndarray) or table.shape != (3, 256):
        return None
    return _colormap(table.T / 65535, f"palette of {stack.name}")


def _tables(stack: Stack, count: int) -> list[Any]:
    """Return the lookup tables of ImageJ as colormaps, None for those that run evenly from black to a colour."""
    tables = stack.metadata.tiff.get("imagej")
    stored = from_json(tables.get("LUTs")) if isinstance(tables, Mapping) else None
    listed = [stored] if isinstance(stored, np.ndarray) else stored
    if not isinstance(listed, list) or len(listed) != count:
        return []
    even = np.linspace(0, 1, 256)
    colormaps: list[Any] = []
    for number, table in enumerate(listed):
        if not isinstance(table, np.ndarray) or table.shape != (3, 256):
            return []
        colours = table.T / 255  # (256, 3)
        plain = np.abs(colours - even[:, None] * colours[-1]).max() < 0.01
        colormaps.append(None if plain else _colormap(colours, f"table {number} of {stack.name}"))
    return colormaps


def _limits(stack: Stack, channel: int | None, sample: int | None) -> tuple[float, float]:
    """Return contrast limits from the middle of the middle plane of a channel."""
    if stack.dtype == bool:
        return 0.0, 1.0
    fixed = {"C": channel or 0, "S": sample or 0}
    index = tuple(fixed.get(axis, stack.size(axis) // 2) for axis in stack.plane_axes)
    rows, columns = (slice(max((size - SAMPLE_PX) // 2, 0), (size + SAMPLE_PX) // 2) for size in stack.plane_shape)
    pixels = stack.read(index, rows, columns)
    measured = pixels[np.isfinite(pixels)].astype(np.float64)
    low, high = np.percentile(measured, [0.5, 99.9]) if measured.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0


def _kept(stack: Stack) -> list[dict[str, Any]]:
    """Return what a layer that was written here keeps; its name only while the file has the name it was given."""
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    attributes = stack.metadata.zarr.get("attributes")
    note = attributes.get(NOTE) if isinstance(attributes, Mapping) else None
    layers = note.get("layers") if isinstance(note, Mapping) else None
    if not isinstance(note, Mapping) or not isinstance(layers, list):
        return []
    kept: list[dict[str, Any]] = []
    for layer in layers:
        stated, own = layer if isinstance(layer, Mapping) else {}, {}
        if isinstance(stated.get("name"), str) and note.get("file") == stack.name:
            own["name"] = stated["name"]
        if stated.get("colormap") in list(AVAILABLE_COLORMAPS):
            own["colormap"] = stated["colormap"]
        if stated.get("blending") in BLENDINGS:
            own["blending"] = stated["blending"]
        opacity, gamma = finite(stated.get("opacity")), finite(stated.get("gamma"))
        if opacity is not None and 0 <= opacity <= 1:
            own["opacity"] = opacity
        if gamma is not None and 0.01 <= gamma <= 100:
            own["gamma"] = gamma
        kept.append(own)
    return kept
