"""A package of the BioImage Model Zoo becomes a foreign model: `open_package` from top to bottom.

Nothing is unpacked and nothing is fetched: description and network are read from the folder or the archive, each with a
bound, and compared with the SHA-256 that the package states.
"""

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cellxlate.errors import InputError, MissingModelError, ModelError, unless_denied
from cellxlate.model.archive import read_member, zoo_description
from cellxlate.model.foreign.limits import LARGEST_FILE_BYTES, read_network
from cellxlate.model.foreign.opened import foreign_of_network
from cellxlate.model.foreign.torchscript import network_of_program
from cellxlate.model.foreign.values import Axes, ForeignModel, NetworkFile, Reach
from cellxlate.model.foreign.zoo.description import Description, described
from cellxlate.model.foreign.zoo.stated import LARGEST_DESCRIPTION_BYTES, read_description
from cellxlate.model.foreign.zoo.tensors import StatedTensor
from cellxlate.regular_files import open_regular

EXAMPLE_PX, EXAMPLE_PLANES = 64, 8
"""Sides of the array that a TorchScript program is told about, at least."""


def open_package(path: Path, *, torchscript: bool = False) -> ForeignModel:
    """Return what is known of the model of a package.

    Parameters
    ----------
    path : Path
        `rdf.yaml` or `bioimageio.yaml`, its folder, or a zip archive of that.
    torchscript : bool
        Run TorchScript where there is no ONNX; it can be any program.

    Raises
    ------
    ModelError
        It is no such package, or one that is not run here; a file is missing, or is not the one that was described.
    OptionError
        The package onnx is not installed.
    """
    found = zoo_description(path)
    if found is None:
        raise ModelError(
            f"{path} is no package of the BioImage Model Zoo; give its rdf.yaml, its folder or its archive"
        )
    place, name = found
    text = _read(place, name, LARGEST_DESCRIPTION_BYTES)
    stated = described(read_description(text, f"{path}: {PurePosixPath(name).name}"), torchscript=torchscript)
    folder = PurePosixPath(name).parent
    files = [(folder / one.source).as_posix() for one in stated.weights]
    for one, file in zip(stated.weights, files, strict=True):
        _require_same(place, file, one.sha256)
    data, network = read_network(place / files[0]) if place.is_dir() else read_network(place, files[0])
    if stated.is_torchscript:
        network = replace(network, program=example_of(stated.given))
        data = network_of_program(data, network.program, str(path))
    return replace(model_of(stated, data, network, str(path)), package=path.absolute())


def example_of(given: StatedTensor) -> tuple[tuple[int, bool], ...]:
    """Return the sides of an array that an input may be, and whether each may be another."""
    wanted = {"z": EXAMPLE_PLANES, "y": EXAMPLE_PX, "x": EXAMPLE_PX}
    sides = []
    for axis in given.axes:
        size = given.sizes.get(axis, Reach(None, fixed_px=given.channels if axis == "c" else 1))
        steps = max(-(-(wanted.get(axis, 1) - size.least_px) // size.step_px), 0)
        sides.append((size.fixed_px or size.least_px + steps * size.step_px, axis == "b" or size.fixed_px is None))
    return tuple(sides)


def _read(place: Path, name: str, most_bytes: int) -> bytes:
    """Read a file of a package, from its folder or its archive."""
    if not place.is_dir():
        return read_member(place, name, most_bytes=most_bytes)
    try:
        with open_regular(place.resolve(), name) as file:
            size = os.fstat(file.fileno()).st_size
            data = b"" if size > most_bytes else file.read(most_bytes + 1)
    except InputError as fault:
        raise ModelError(*fault.found, remedy="put the file itself into the package") from fault
    except FileNotFoundError as fault:
        raise MissingModelError(
            f"{place} has no {name}, which its description names; copy the package again"
        ) from fault
    except OSError as fault:
        unreadable = ModelError(f"{place / name} cannot be read ({fault.strerror or fault}); copy the package again")
        raise unless_denied(unreadable, place / name, fault) from fault
    if max(size, len(data)) > most_bytes:
        raise ModelError(f"{place / name} holds more than {most_bytes} bytes, which no package needs; copy it again")
    return data


def _require_same(place: Path, name: str, sha256: str) -> None:
    """Raise ModelError where a file of a package is not the one that was described, or leads out of it."""
    data = _read(place, name, LARGEST_FILE_BYTES)
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(
            f"{place}: {name} is not the file that the package describes (its SHA-256 is another); copy the package "
            "again"
        )


def model_of(stated: Description, data: bytes, network: NetworkFile, name: str) -> ForeignModel:
    """Return what is known of a network with what its package says of it."""
    given, made = stated.given, stated.made[stated.image]
    known = foreign_of_network(
        data,
        network,
        name,
        input_axes=given.axes,
        output_axes=made.axes,
        output=stated.image,
        attention=stated.attention,
    )
    if known.channels_in != given.channels or known.channels_out != made.channels:
        raise ModelError(
            f"{name}: its network takes {known.channels_in} channels and makes {known.channels_out}, its description "
            f"says {given.channels} and {made.channels}; ask who made the package"
        )
    axes: Axes = "ZYX" if "z" in given.spans else "YX"
    reach = tuple(
        _both(one, given.sizes[axis.lower()], f"{name}, along {axis.lower()}")
        for axis, one in zip(axes, known.reach[-len(axes) :], strict=True)
    )
    return replace(
        known, name=stated.name or Path(name).name, axes=axes, reach=reach,
        before=given.steps, after=stated.after, takes=given.takes,
        to_counts=stated.back, licence=stated.licence, citation=stated.citation,
        warnings=(*known.warnings, *stated.warnings),
    )  # fmt: skip


def _both(network: Reach, package: Reach, where: str) -> Reach:
    """Return which sizes suit both a network and its package along one axis.

    Raises
    ------
    ModelError
        None does.
    """
    fixed = {one.fixed_px for one in (network, package)} - {None}
    if fixed:
        size = fixed.pop()
        if fixed or not all(_fits(size, one) for one in (network, package) if one.fixed_px is None):
            raise ModelError(f"{where}: the network takes other sizes than the package says; ask who made the package")
        return replace(network, fixed_px=size)
    step = math.lcm(network.step_px, package.step_px)
    first = max(network.least_px, package.least_px)
    least = next((size for size in range(first, first + step) if _fits(size, network) and _fits(size, package)), 0)
    if not least:
        raise ModelError(f"{where}: no size suits both the network and the package; ask who made the package")
    return replace(network, least_px=least, step_px=step)


def _fits(size: int | None, reach: Reach) -> bool:
    return size is not None and size >= reach.least_px and (size - reach.least_px) % reach.step_px == 0
