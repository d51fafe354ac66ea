"""What a network from a stranger may ask for, checked before ONNX Runtime sees it.

The bytes are read with a bound, parsed, and looked through; a graph may hold operators of ONNX itself and nothing else.
Weights in files beside it are read from its own folder, or from its archive, into the graph, so that ONNX Runtime opens
no file. What arrays it makes while it runs is bounded where it is run.
"""

import hashlib
import stat
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cellxlate.errors import InputError, MissingModelError, ModelError, OptionError, unless_denied
from cellxlate.model.archive import read_member
from cellxlate.model.foreign.values import NetworkFile
from cellxlate.regular_files import open_regular
from cellxlate.stacks.naming import one_line

if TYPE_CHECKING:
    import onnx

LARGEST_FILE_BYTES = 1_000_000_000
"""Of a graph and its weights together; the largest image-to-image models of the BioImage Model Zoo take a third."""
MOST_NODES, MOST_TENSORS, MOST_AXES, MOST_NUMBERS, LONGEST_NAME = 20_000, 20_000, 10, 10_000, 1000
"""Operators, constants, axes of an array, numbers in an attribute, characters of a name."""
LONGEST_SIDE = 2**20
DOMAINS = ("", "ai.onnx")
OLDEST_OPERATORS = 7
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
LOOPS = ("Loop", "Scan", "If", "SequenceMap")
EXTERNAL = 1
"""`data_location` of a tensor whose numbers lie in another file."""

ReadPart = Callable[[str, int, int], bytes]
"""Name of a file beside a network, first byte, how many (0 for all) -> bytes."""


def onnx_package() -> Any:
    """Return the package onnx.

    Raises
    ------
    OptionError
        It is not installed.
    """
    try:
        import onnx
    except ImportError as fault:
        raise OptionError(
            "ONNX networks need the packages onnx and onnxruntime", remedy='pip install "cellxlate[onnx]"'
        ) from fault
    return onnx


def read_network(path: Path, member: str = "") -> tuple[bytes, NetworkFile]:
    """Return the bytes of an ONNX file, or of a member of an archive, with its weights; and which they are.

    Raises
    ------
    ModelError
        It is not there, no plain file, too large, or cannot be read; weights are missing, or lie elsewhere than beside.
    """
    data = read_member(path, member, most_bytes=LARGEST_FILE_BYTES) if member else _read_file(path)
    digest = hashlib.sha256(data)
    if b"location" in data:  # as tensors name the files of their numbers
        data, beside = _with_weights(data, str(path), _reader(path, member))
        for part in beside:
            digest.update(part)
    return data, NetworkFile(path.resolve(), digest.hexdigest(), member)


def _read_file(path: Path) -> bytes:
    """Read a plain file."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for ever
            raise ModelError(f"{path} is no plain file; give an ONNX file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError as fault:
        raise MissingModelError(f"there is no file {path}; give the path of an ONNX file") from fault
    except (OSError, ValueError) as fault:
        refused = ModelError(f"{path} cannot be read ({one_line(fault)}); check the file")
        raise unless_denied(refused, path, fault) from fault
    if len(data) > LARGEST_FILE_BYTES:
        raise _too_large(path)
    return data


def _too_large(path: Path | str) -> ModelError:
    return ModelError(f"{path} takes more than {LARGEST_FILE_BYTES / 1e6:.0f} MB, which no network that runs here does")


def _reader(path: Path, member: str) -> ReadPart:
    """Return what reads parts of files beside a network, in its folder or its archive."""
    if member:
        folder = PurePosixPath(member).parent
        whole: dict[str, bytes] = {}

        def from_archive(name: str, first: int, count: int) -> bytes:
            if name not in whole:
                whole[name] = read_member(path, (folder / name).as_posix(), most_bytes=LARGEST_FILE_BYTES)
            return whole[name][first : first + count if count else None]

        return from_archive
    tree = path.resolve().parent

    def from_folder(name: str, first: int, count: int) -> bytes:
        try:
            with open_regular(tree, name) as file:
                file.seek(first)
                return file.read(count or LARGEST_FILE_BYTES + 1)
        except InputError as fault:
            raise ModelError(*fault.found, remedy="put the weights themselves beside the network") from fault
        except (OSError, ValueError) as fault:
            lacks = f"{path}: its weights {name} cannot be read ({one_line(fault)}); copy them beside it"
            raise unless_denied(ModelError(lacks), tree / name, fault) from fault

    return from_folder


def _with_weights(data: bytes, name: str, read: ReadPart) -> tuple[bytes, list[bytes]]:
    """Return a network with the numbers that lie in other files, and these numbers."""
    model, beside, total = _parsed(data, name), [], len(data)
    for tensor in _tensors(model, name):
        if tensor.data_location != EXTERNAL:
            continue
        stated = {one.key: one.value for one in tensor.external_data}
        place = stated.get("location", "")
        windows, parts = PureWindowsPath(place), PurePosixPath(place).parts
        if not place or ".." in parts or ".." in windows.parts or windows.anchor or PurePosixPath(place).is_absolute():
            raise ModelError(f"{name} asks for weights at {place[:100]!r}; only files beside a network are read")
        try:
            first, count = int(stated.get("offset", 0)), int(stated.get("length", 0))
        except ValueError as fault:
            raise _unsound(name, f"where the weights {tensor.name[:100]!r} lie is no number") from fault
        if min(first, count) < 0 or (total := total + count) > LARGEST_FILE_BYTES:
            raise _too_large(name)
        tensor.raw_data = read(place, first, count)
        total += 0 if count else len(tensor.raw_data)
        if total > LARGEST_FILE_BYTES:
            raise _too_large(name)
        if count and len(tensor.raw_data) != count:
            raise ModelError(f"{name}: its weights {place} are cut short; copy them again")
        beside.append(tensor.raw_data)
        tensor.ClearField("external_data")
        tensor.data_location = 0
    return (model.SerializeToString() if beside else data), beside


def _parsed(data: bytes, name: str) -> "onnx.ModelProto":
    onnx = onnx_package()
    if not data:
        raise ModelError(f"{name} is empty; export the network again")
    try:
        return onnx.ModelProto.FromString(data)
    except Exception as fault:  # of the parser, whose classes differ with its version
        raise _unsound(name, "it cannot be parsed") from fault


def _unsound(name: str, why: str) -> ModelError:
    return ModelError(f"{name} is no sound ONNX network: {why}; export it again")


def checked_model(data: bytes, path: Path, name: str) -> "onnx.ModelProto":  # noqa: ARG001
    """Return the model that bytes hold, looked through.

    Parameters
    ----------
    data : bytes
        As `read_network` returns them.
    path : Path
        Where they lie.
    name : str
        For errors.

    Raises
    ------
    ModelError
        They hold none, it has operators that are not run here, or it asks for too much.
    """
    model = _parsed(data, name)
    _check_kind(model, name)
    for tensor in _tensors(model, name):
        _check_tensor(tensor, name)
    _check_nodes(model.graph, name)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            raise ModelError(f"{name}: {value.name[:100]!r} is no array, expected images in and out")
        dims = value.type.tensor_type.shape.dim
        if len(dims) > MOST_AXES or any(not 0 <= side.dim_value <= LONGEST_SIDE for side in dims):
            raise ModelError(f"{name} asks for images of {[side.dim_value for side in dims][:MOST_AXES]}")
        if any(side.HasField("dim_value") and side.dim_value < 1 for side in dims):
            raise ModelError(f"{name} asks for images of {[side.dim_value for side in dims]}, which hold nothing")
    try:
        onnx_package().checker.check_model(model)
    except Exception as fault:  # its classes differ with its version
        raise _unsound(name, one_line(fault)[:200] or "its checker refuses it") from fault
    return model


def _check_kind(model: "onnx.ModelProto", name: str) -> None:
    """Raise ModelError where a model holds more than operators of ONNX and their constants."""
    onnx, graph = onnx_package(), model.graph
    if not graph.node or not graph.output:
        raise _unsound(name, "it has no operators")
    newest = onnx.defs.onnx_opset_version()
    versions = [one.version for one in model.opset_import if one.domain in DOMAINS]
    if len(versions) != 1 or not OLDEST_OPERATORS <= versions[0] <= newest:
        raise ModelError(f"{name} has operators of version {versions[:3]}, expected {OLDEST_OPERATORS} to {newest}")
    if model.functions or model.training_info:
        raise ModelError(f"{name} brings functions of its own, which are not run; export it without them (inlined)")
    if graph.sparse_initializer:
        raise ModelError(f"{name} has sparse weights, which are not read; export it with plain ones")
    counts = (len(graph.node), MOST_NODES), (len(graph.initializer), MOST_TENSORS), (len(graph.input), MOST_TENSORS)
    if any(count > most for count, most in counts):
        raise ModelError(f"{name} has {len(graph.node)} operators and {len(graph.initializer)} constants, at most "
                         f"{MOST_NODES} of each are read")  # fmt: skip


def _tensors(model: "onnx.ModelProto", name: str) -> Iterable[Any]:
    """Yield all constants of a graph."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g") or attribute.graphs:
                raise ModelError(f"{name} has loops or branches ({node.op_type[:100]}), which are not run")
            if attribute.tensors or attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise ModelError(f"{name} has constants that are not read ({node.op_type[:100]})")


def _check_tensor(tensor: Any, name: str) -> None:
    """Raise ModelError where a constant states other sides than it has numbers."""
    sizes = onnx_package().helper
    sides = list(tensor.dims)
    if len(sides) > MOST_AXES or any(not 0 <= side <= LARGEST_FILE_BYTES for side in sides):
        raise _unsound(name, f"a constant has sides {sides[:MOST_AXES]}")
    if tensor.data_location == EXTERNAL:
        raise _unsound(name, "numbers of a constant lie elsewhere")
    count = prod(sides)
    try:
        bits = 8 * sizes.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise _unsound(name, f"a constant holds numbers of kind {tensor.data_type}") from fault
    lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    held = max(8 * len(tensor.raw_data) // max(bits, 1), *(len(one) for one in lists), len(tensor.string_data))
    if tensor.raw_data and bits < 8:
        return  # packed ones, which the checker counts
    if held != count:
        raise _unsound(name, f"a constant of sides {sides} holds {held} numbers")


def _check_nodes(graph: "onnx.GraphProto", name: str) -> None:
    """Raise ModelError where an operator is not ONNX's own, or uses what is not made before it."""
    known = {one.name for one in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        kind = node.op_type[:100]
        if node.domain not in DOMAINS:
            raise ModelError(
                f"{name} has an operator {kind} of {node.domain[:100]!r}; only those of ONNX itself are run"
            )
        if kind in LOOPS:
            raise ModelError(f"{name} has loops or branches ({kind}), which are not run")
        if kind in RANDOM:
            raise ModelError(f"{name} draws random numbers ({kind}), so no run could be repeated")
        names = [*node.input, *node.output, node.name]
        lists = [one for attribute in node.attribute for one in (attribute.ints, attribute.floats, attribute.strings)]
        if max(map(len, names), default=0) > LONGEST_NAME or len(names) > MOST_NUMBERS:
            raise _unsound(name, f"an operator {kind} has names without end")
        if max(map(len, lists), default=0) > MOST_NUMBERS:
            raise _unsound(name, f"an operator {kind} has more than {MOST_NUMBERS} numbers")
        if missing := set(node.input) - known:
            raise _unsound(name, f"{kind} uses {min(missing)[:100]!r}, which nothing before it makes")
        if double := (known - {""}) & set(node.output):
            raise _unsound(name, f"{kind} makes {min(double)[:100]!r} once more")
        known.update(node.output)
