"""What files state about their axes: pixel size, time step, channel names, in micrometres and seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import tifffile

from cellxlate.stacks.channel_names import all_named
from cellxlate.stacks.naming import one_line

PREFIXES = {
    "yotta": ("Y", 24), "zetta": ("Z", 21), "exa": ("E", 18), "peta": ("P", 15), "tera": ("T", 12), "giga": ("G", 9),
    "mega": ("M", 6), "kilo": ("k", 3), "hecto": ("h", 2), "deca": ("da", 1), "deci": ("d", -1), "centi": ("c", -2),
    "milli": ("m", -3), "micro": ("µ", -6), "nano": ("n", -9), "pico": ("p", -12), "femto": ("f", -15),
    "atto": ("a", -18), "zepto": ("z", -21), "yocto": ("y", -24),
}  # fmt: skip
MICROMETRES = (
    {f"{sign}m": float(f"1e{power + 6}") for sign, power in PREFIXES.values()}
    | {
        f"{word}{metre}": float(f"1e{power + 6}")
        for word, (_, power) in PREFIXES.items()
        for metre in ("meter", "metre")
    }
    | {"m": 1e6, "meter": 1e6, "metre": 1e6, "μm": 1.0, "um": 1.0, "Âµm": 1.0, "micron": 1.0, "microns": 1.0}
    | {"Å": 1e-4, "\u212b": 1e-4, "angstrom": 1e-4, "in": 25400.0, "inch": 25400.0, "inches": 25400.0, "thou": 25.4}
    | {"li": 25400 / 12, "pt": 25400 / 72, "ft": 304800.0, "foot": 304800.0, "yd": 914400.0, "yard": 914400.0}
    | {"mi": 1609344e3, "mile": 1609344e3, "pixel": None, "pixels": None, "reference frame": None, "": None}
)
"""Units of length, as OME-XML, OME-Zarr and ImageJ write them, in µm; None for those that are no length."""

SECONDS = (
    {f"{sign}s": float(f"1e{power}") for sign, power in PREFIXES.values()}
    | {f"{word}second": float(f"1e{power}") for word, (_, power) in PREFIXES.items()}
    | {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "μs": 1e-6, "us": 1e-6, "usec": 1e-6, "msec": 1e-3}
    | {"min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0}
    | {"d": 86400.0, "day": 86400.0, "days": 86400.0, "frame": None, "frames": None, "": None}
)
"""Units of time in seconds; None for those that are no time."""

CALIBRATION_KEYS = ("cf", "c0", "c1", "c2", "c3", "c4", "vunit")
CENTIMETRE_UM = 1e4
PLAUSIBLE_UM = (1e-3, 1e3)
"""Pixel sizes that resolution tags are believed; cameras and paint programs write others without meaning them."""

INCH_UM = 25400.0
PLAUSIBLE_IN_INCHES_UM = (1e-3, 20.0)
"""Those of tags that count in inches; 72 to 1200 dots per inch are what printers and screens have."""


@dataclass
class Calibration:
    """What a file states about its axes; `doubts` are what it states and what cannot be taken as it is."""

    pixel_size_um: dict[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    time_step_s: float | None = None
    axes: str | None = None
    doubts: list[str] = field(default_factory=list)

    def add_size(self, axis: str, size: Any, unit: str) -> None:
        """Take in the size of a pixel along Z, Y or X, or the step in time along T.

        What runs backwards has a size all the same. What has no unit, or is no size, states nothing.
        """
        unit, number = unit.replace("\\u00B5", "µ").strip("\x00 "), finite(size)
        if not number:
            if size not in (None, "") and (
                axis != "T" or number is None
            ):  # a time step of 0 is what single images have
                what = "time step" if axis == "T" else f"pixel size along {axis}"
                self.doubts.append(f"the {what} is {one_line(size)[:40]!r}, which is none, and not stated")
            return
        factor = amount_of(axis, unit)
        if factor is None:
            if not is_known(axis, unit):
                self.doubts.append(f"the unit {one_line(unit)[:40]!r} is not known, so what is in it is not stated")
            return
        if number < 0:
            what = "time step" if axis == "T" else f"pixel size along {axis}"
            self.doubts.append(f"the {what} is negative ({number:.6g} {unit}), its amount is stated")
        step = abs(number)
        if axis == "T":
            self.time_step_s = step * factor
        else:
            self.pixel_size_um[axis] = step * factor

    @property
    def lost(self) -> tuple[str, ...]:
        """One line that names all doubts, if there are any."""
        return ("; ".join(dict.fromkeys(self.doubts)),) if self.doubts else ()


def tiff_calibration(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, kind: str) -> Calibration:
    """Read pixel size, channel names and time step from ImageJ's, Zeiss's or MetaMorph's tags, or resolution tags."""
    page = series.keyframe
    tags = page.tags if isinstance(page, tifffile.TiffPage) else None
    if kind == "imagej":
        return _imagej_calibration(file.imagej_metadata or {}, tags)
    if file.is_lsm and isinstance(file.lsm_metadata, Mapping):
        return _lsm_calibration(file.lsm_metadata)
    calibration = Calibration()
    if file.is_stk and isinstance(file.stk_metadata, Mapping):
        calibration = _stk_calibration(file.stk_metadata)
    if not calibration.pixel_size_um and tags is not None and "ResolutionUnit" in tags:
        unit_um, (least, most) = {2: (INCH_UM, PLAUSIBLE_IN_INCHES_UM), 3: (CENTIMETRE_UM, PLAUSIBLE_UM)}.get(
            tags["ResolutionUnit"].value, (0.0, (1.0, 0.0))
        )
        size_um = _resolution_um(tags, unit_um)
        if all(least <= value <= most for value in size_um.values()):
            calibration.pixel_size_um = size_um
    return calibration


def _lsm_calibration(metadata: Mapping[str, Any]) -> Calibration:
    """Read Zeiss's voxel sizes (metres), interval (seconds) and channel names."""
    calibration = Calibration()
    for axis in "ZYX":
        calibration.add_size(axis, metadata.get(f"VoxelSize{axis}"), "m")
    calibration.add_size("T", metadata.get("TimeIntervall"), "s")
    names = (metadata.get("ChannelColors") or {}).get("ColorNames") or ()
    calibration.channel_names = all_named(names)
    return calibration


def _stk_calibration(metadata: Mapping[str, Any]) -> Calibration:
    """Read MetaMorph's calibration, where it says it has one, and the first step in depth."""
    calibration = Calibration()
    unit = str(metadata.get("CalibrationUnits", ""))
    if metadata.get("SpatialCalibration"):
        for axis in "YX":
            calibration.add_size(axis, metadata.get(f"{axis}Calibration"), unit)
    steps = metadata.get("ZDistance")
    if calibration.pixel_size_um and steps is not None and len(steps):
        calibration.add_size("Z", float(steps[0]), unit)
    return calibration


def _imagej_calibration(metadata: Mapping[str, Any], tags: tifffile.TiffTags | None) -> Calibration:
    """Read what ImageJ keeps in its description and in the resolution tags."""
    calibration = Calibration()
    unit = str(metadata.get("unit", ""))
    units = {axis: str(metadata.get(f"{axis.lower()}unit", unit)) for axis in "ZYX"}
    for axis, value in (("Z", metadata.get("spacing")), ("T", metadata.get("finterval"))):
        if isinstance(value, int | float):
            calibration.add_size(axis, value, units["Z"] if axis == "Z" else str(metadata.get("tunit", "s")))
    if tags is not None:
        for axis, per_unit in _resolution_um(tags, 1.0).items():
            calibration.add_size(axis, per_unit, units[axis])
    if "cf" in metadata or "c0" in metadata:
        stated = ", ".join(f"{key}={one_line(metadata[key])[:20]}" for key in CALIBRATION_KEYS if key in metadata)
        calibration.doubts.append(
            f"ImageJ's function from stored to calibrated values ({stated}) is kept as text, not applied"
        )
    return calibration


def _resolution_um(tags: tifffile.TiffTags, unit_um: float) -> dict[str, float]:
    """Return the micrometres per pixel that the resolution tags, pixels per unit, stand for."""
    size_um = {}
    for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
        value = tags[tag].value if tag in tags else None
        if isinstance(value, tuple) and len(value) == 2 and (size := positive_ratio(value[1], value[0])):
            size_um[axis] = unit_um * size
    return size_um


def amount_of(axis: str, unit: str) -> float | None:
    """Return a unit in seconds along T, in micrometres along Z, Y, X; None for what is no such unit."""
    table = SECONDS if axis == "T" else MICROMETRES
    return table.get(unit, table.get(unit.lower()))


def is_known(axis: str, unit: str) -> bool:
    """Return whether a unit is one of `amount_of`, or known to be none, as pixels are."""
    table = SECONDS if axis == "T" else MICROMETRES
    return unit in table or unit.lower() in table


def positive_ratio(above: Any, below: Any) -> float | None:
    """Return the ratio of two positive numbers, or None."""
    first, second = positive(above), positive(below)
    return positive(first / second) if first and second else None


def finite(value: Any) -> float | None:
    """Return a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def positive(value: Any) -> float | None:
    """Return a finite positive number, or None."""
    number = finite(value)
    return number if number is not None and number > 0 else None
