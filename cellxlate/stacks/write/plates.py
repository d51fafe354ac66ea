"""Plates: what makes images in folders a plate, copied from one that is read to one that is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import zarr

from cellxlate.errors import InputError, unless_denied
from cellxlate.locations import Location
from cellxlate.stacks.naming import one_line
from cellxlate.stacks.read.zarr import open_node, zarr_images
from cellxlate.stacks.read.zarr_metadata import further_attributes, ome_attributes
from cellxlate.stacks.stack import READ_FAULTS
from cellxlate.stacks.stores.store import store_of


def plate_fields(path: Location) -> list[str]:
    """Return where the fields of a plate lie in it; nothing where a folder is no plate.

    Raises
    ------
    InputError
        The metadata cannot be read.
    """
    try:
        group = open_node(path)
        is_plate = isinstance(group, zarr.Group) and isinstance(ome_attributes(group).get("plate"), Mapping)
    except InputError:
        raise
    except READ_FAULTS as fault:
        damaged = InputError(f"{path} is a damaged or unsupported Zarr folder ({one_line(fault)}); copy it again")
        raise unless_denied(damaged, path, fault) from fault
    return zarr_images(path) if is_plate else []


def beside_wells(path: Location) -> list[str]:
    """Return what a plate holds at its top beside its rows of wells: tables, labels, another program's metadata."""
    group = zarr.open_group(store_of(path), mode="r")
    rows = {str(well["path"]).split("/")[0] for well in ome_attributes(group)["plate"]["wells"]}
    return sorted(set(group) - rows)


def start_plate(source: Location, target: Path, *, version: Literal["0.4", "0.5"]) -> None:
    """Make the groups of a plate like another, of any version: rows, wells and what they state, without images.

    What is there of it stays.
    """
    before = zarr.open_group(store_of(source), mode="r")
    plate = dict(ome_attributes(before)["plate"])
    after = zarr.open_group(target, mode="a", zarr_format=3 if version == "0.5" else 2)
    _state(after, further_attributes(before.attrs.asdict()), "plate", plate, version)
    for name in dict.fromkeys(str(well["path"]) for well in plate["wells"]):
        well: Any = before[name]
        group = after
        for part in name.split("/"):
            group = group.require_group(part)
        _state(group, further_attributes(well.attrs.asdict()), "well", dict(ome_attributes(well)["well"]), version)


def _state(group: zarr.Group, further: dict[str, Any], kind: str, stated: dict[str, Any], version: str) -> None:
    stated.pop("version", None)
    if version == "0.5":
        group.update_attributes(further | {"ome": {"version": version, kind: stated}})
    else:
        group.update_attributes(further | {kind: stated | {"version": version}})
