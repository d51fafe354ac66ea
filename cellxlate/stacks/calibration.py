"""What files state about their axes: pixel size, time step, channel names, in micrometres and seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import tifffile

MICROMETRES = {
    "pm": 1e-6, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "in": 25400.0,
    "micron": 1.0, "microns": 1.0, "micrometre": 1.0, "inch": 25400.0, "inches": 25400.0, "angstrom": 1e-4,
    "picometer": 1e-6, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip
SECONDS = {
    "ns": 1e-9, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0,
    "d": 86400.0, "nanosecond": 1e-9, "microsecond": 1e-6, "millisecond": 1e-3, "second": 1.0, "seconds": 1.0,
    "minute": 60.0, "hour": 3600.0, "hr": 3600.0, "day": 86400.0,
}  # fmt: skip
CENTIMETRE_UM = 1e4
PLAUSIBLE_UM = (1e-3, 1e3)
"""Pixel sizes that resolution tags are believed; cameras and paint programs write others without meaning them."""


@dataclass
class Calibration:
    """What a file states about its axes."""

    pixel_size_um: dict[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    time_step_s: float | None = None
    axes: str | None = None


def tiff_calibration(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, kind: str) -> Calibration:
    """Read pixel size, channel names and time step from ImageJ's, Zeiss's or MetaMorph's tags, or resolution tags."""
    page = series.keyframe
    tags = page.tags if isinstance(page, tifffile.TiffPage) else None
    if kind == "imagej":
        return _imagej_calibration(file.imagej_metadata or {}, tags)
    if file.is_lsm and isinstance(file.lsm_metadata, Mapping):
        return _lsm_calibration(file.lsm_metadata)
    found = Calibration()
    if file.is_stk and isinstance(file.stk_metadata, Mapping):
        found = _stk_calibration(file.stk_metadata)
    if not found.pixel_size_um and tags is not None and "ResolutionUnit" in tags and tags["ResolutionUnit"].value == 3:
        size_um = _resolution_um(tags, CENTIMETRE_UM)
        if all(PLAUSIBLE_UM[0] <= value <= PLAUSIBLE_UM[1] for value in size_um.values()):
            found.pixel_size_um = size_um
    return found


def _lsm_calibration(metadata: Mapping[str, Any]) -> Calibration:
    """Read Zeiss's voxel sizes (metres), interval (seconds) and channel names."""
    found = Calibration()
    for axis in "ZYX":
        size_m = positive(metadata.get(f"VoxelSize{axis}"))
        if size_m:
            found.pixel_size_um[axis] = size_m * 1e6
    found.time_step_s = positive(metadata.get("TimeIntervall"))
    names = (metadata.get("ChannelColors") or {}).get("ColorNames") or ()
    found.channel_names = tuple(str(name) for name in names)
    return found


def _stk_calibration(metadata: Mapping[str, Any]) -> Calibration:
    """Read MetaMorph's calibration, where it says it has one, and the first step in depth."""
    found = Calibration()
    unit_um = MICROMETRES.get(str(metadata.get("CalibrationUnits", "")).strip("\x00 "))
    if unit_um and metadata.get("SpatialCalibration"):
        for axis in "YX":
            size = positive(metadata.get(f"{axis}Calibration"))
            if size:
                found.pixel_size_um[axis] = size * unit_um
    steps = metadata.get("ZDistance")
    step = positive(steps[0]) if steps is not None and len(steps) else None
    if step and found.pixel_size_um:
        found.pixel_size_um["Z"] = step * (unit_um or 1.0)
    return found


def _imagej_calibration(metadata: Mapping[str, Any], tags: tifffile.TiffTags | None) -> Calibration:
    """Read what ImageJ keeps in its description and in the resolution tags."""
    found = Calibration()
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ").strip("\x00 ")
    unit_um = MICROMETRES.get(unit)
    spacing, interval = metadata.get("spacing"), metadata.get("finterval")
    if unit_um and isinstance(spacing, int | float) and isfinite(spacing) and spacing > 0:
        found.pixel_size_um["Z"] = float(spacing) * unit_um
    if isinstance(interval, int | float) and isfinite(interval) and interval > 0:
        unit_s = SECONDS.get(str(metadata.get("tunit", "s")).strip("\x00 "))
        found.time_step_s = float(interval) * unit_s if unit_s else None
    if unit_um and tags is not None:
        found.pixel_size_um |= _resolution_um(tags, unit_um)
    return found


def _resolution_um(tags: tifffile.TiffTags, unit_um: float) -> dict[str, float]:
    """Return the micrometres per pixel that the resolution tags, pixels per unit, stand for."""
    size_um = {}
    for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
        value = tags[tag].value if tag in tags else None
        if isinstance(value, tuple) and len(value) == 2 and (size := positive_ratio(value[1], value[0])):
            size_um[axis] = unit_um * size
    return size_um


def positive_ratio(above: Any, below: Any) -> float | None:
    """Return the ratio of two positive numbers, or None."""
    first, second = positive(above), positive(below)
    return positive(first / second) if first and second else None


def positive(value: Any) -> float | None:
    """Return a finite positive number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) and number > 0 else None
