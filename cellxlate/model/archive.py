"""The files of a model, from its folder or from a zip archive; nothing is unpacked, and everything is bounded."""

import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from cellxlate.errors import CellxlateError, MissingModelError, ModelError, unless_denied
from cellxlate.options import TRAIN_RESUME
from cellxlate.stacks.naming import first_names, is_image_name, is_picture_name, one_line

CARD, WEIGHTS = "card.json", "weights.safetensors"
MOST_MEMBERS = 1000
LARGEST_LISTING_BYTES = 4_000_000
"""The list of files of an archive, which is read as a whole."""

PICKLE_ENDINGS = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy", ".npz")
ARCHIVE_FAULTS = (OSError, ValueError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error,
                  lzma.LZMAError, LookupError)  # fmt: skip
ZOO_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
FOREIGN = (
    "is a package of the BioImage Model Zoo that cellxlate has not written: it enhances, but is no cellxlate model; "
    "give a model folder, or a package that cellxlate has exported"
)
END_OF_LISTING, BIG_LISTING, END_BYTES, LONGEST_COMMENT = b"PK\x05\x06", b"PK\x06\x07", 22, 65_535


def is_archive(path: Path) -> bool:
    """Return whether a path is a zip file that holds the card of a model."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            return False
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return False
        _member_prefix(path)
    except (OSError, ValueError, ModelError):
        return False
    return True


def read_part(model: Path, name: str, *, most_bytes: int) -> bytes:
    """Read one file of a model: of its folder, or of a zip archive that holds that, at its top or inside one folder.

    No more than `most_bytes` are ever read or decompressed.

    Raises
    ------
    ModelError
        The file is missing, larger, no plain file, or leads out of the folder; the archive is damaged.
    """
    if model.is_dir():
        return _read_file(model, name, most_bytes)
    return read_member(model, _member_prefix(model) + name, most_bytes=most_bytes)


def read_member(archive_path: Path, member_name: str, *, most_bytes: int) -> bytes:
    """Read one file of a zip archive, of which no more than `most_bytes` are decompressed.

    Raises
    ------
    ModelError
        It is missing or larger, or the archive is damaged.
    """
    name = PurePosixPath(member_name).name
    try:
        with zipfile.ZipFile(archive_path) as archive:
            member = archive.getinfo(member_name)
            if member.file_size > most_bytes:
                raise ModelError(
                    f"{archive_path}: {name} holds {member.file_size} bytes, expected at most {most_bytes}"
                )
            with archive.open(member) as file:
                data = file.read(most_bytes + 1)
    except KeyError as fault:
        raise ModelError(f"{archive_path} has no {name}; make the archive of the whole model folder") from fault
    except ARCHIVE_FAULTS as fault:
        damaged = ModelError(f"{archive_path}: {name} cannot be read ({_short(fault)}); copy the archive again")
        raise unless_denied(damaged, archive_path, fault) from fault
    if len(data) > most_bytes:
        raise ModelError(f"{archive_path}: {name} holds more than it states; copy the archive again")
    return data


def zoo_description(path: Path) -> tuple[Path, str] | None:
    """Return where the description of a package of the BioImage Model Zoo lies: folder or archive, and name in it.

    None where a path is no package of others: neither its description, nor a folder or an archive that holds one beside
    no card of ours.

    Raises
    ------
    ModelError
        An archive lists absurdly many files.
    """
    try:
        if path.is_dir():
            names = [] if (path / CARD).exists() else [name for name in ZOO_NAMES if (path / name).is_file()]
            return (path, names[0]) if names else None
        if path.name in ZOO_NAMES and path.is_file():
            return None if (path.parent / CARD).is_file() else (path.parent, path.name)
        if not stat.S_ISREG(path.stat().st_mode) or is_archive(path):
            return None
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return None
        near = [name for name in map(PurePosixPath, _listing(path)) if name.name in ZOO_NAMES and len(name.parts) <= 2]
    except ARCHIVE_FAULTS:
        return None
    near.sort(key=lambda name: (len(name.parts), ZOO_NAMES.index(name.name)))
    return (path, near[0].as_posix()) if near else None


def refuse_file(path: Path) -> CellxlateError:
    """Return what to say of a file that is given as a model and is no archive of one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ModelError(f"{path} is no plain file; give a model folder")
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as fault:
        unreadable = ModelError(f"{path} cannot be read ({fault.strerror}); give a model folder")
        return unless_denied(unreadable, path, fault)
    if path.suffix.lower() in PICKLE_ENDINGS or start[:1] == b"\x80" or _holds_pickle(path):
        return ModelError(
            f"{path} looks like a pickle, which can run any program when it is loaded, so it is never opened; give a "
            "model folder with weights.safetensors"
        )
    if start[:2] == b"PK":
        try:
            _member_prefix(path)
        except ModelError as fault:
            return fault
    if path.name in (CARD, WEIGHTS, "preview.png") and (path.parent / CARD).is_file():
        return ModelError(f"{path} is one file of a model; give the folder of the model, {path.parent}")
    if path.suffix.lower() == ".onnx":
        return ModelError(
            f"{path} is an ONNX network: it enhances, but is no cellxlate model; give the model that it was exported "
            "from"
        )
    if path.name in ZOO_NAMES:
        return ModelError(f"{path} {FOREIGN}")
    if is_image_name(path) or is_picture_name(path):
        return ModelError(f"{path} is an image and no model; give a model folder, or the name of a shipped model")
    return ModelError(f"{path} is a file and no archive of a model; give the model folder itself")


def _refuse_folder(folder: Path) -> MissingModelError:
    """Return what to say of a folder that is given as a model and has no card: what it holds instead."""
    lacks = f"{folder} has no {CARD}"
    inside = sorted(card.parent.name for card in folder.glob(f"*/{CARD}"))
    if inside:
        return MissingModelError(
            f"{lacks}, but holds the model{'s' if len(inside) > 1 else ''} {first_names(inside)}; give one of them, as "
            f"in {folder / inside[0]}"
        )
    if folder.suffix == ".partial":
        return MissingModelError(lacks, ", as its training is not finished", remedy=("finish it with ", TRAIN_RESUME))
    if any((folder / name).is_file() for name in ZOO_NAMES):
        return MissingModelError(f"{folder} {FOREIGN}")
    return MissingModelError(f"{lacks}; give a whole model folder")


def _read_file(folder: Path, name: str, most_bytes: int) -> bytes:
    path = folder / name
    try:
        if path.resolve().parent != folder.resolve():
            raise ModelError(f"{path} is a link that leads out of the model folder; put the file itself there")
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ModelError(f"{path} is no plain file; copy the model folder again")
        if state.st_size > most_bytes:
            raise ModelError(f"{path} holds {state.st_size} bytes, expected at most {most_bytes}; copy the model again")
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except FileNotFoundError as fault:
        refused = MissingModelError(f"{folder} has no {name}; give a whole model folder")
        raise (_refuse_folder(folder) if name == CARD else refused) from fault
    except (OSError, RuntimeError) as fault:  # RuntimeError: links in a circle
        damaged = ModelError(f"{path} cannot be read ({_short(fault)}); copy the model folder again")
        raise unless_denied(damaged, path, fault) from fault
    if len(data) > most_bytes:
        raise ModelError(f"{path} grew while it was read; copy the model folder again")
    return data


def _member_prefix(path: Path) -> str:
    """Return the folder inside an archive that holds the card: "" or one name and a slash.

    Raises
    ------
    ModelError
        It is no archive of a model, its list of files is absurd, or there are two cards.
    """
    try:
        members = _listing(path)
    except ARCHIVE_FAULTS as fault:
        damaged = ModelError(f"{path} is a damaged archive ({_short(fault)}); copy it again")
        raise unless_denied(damaged, path, fault) from fault
    if len(members) > MOST_MEMBERS:
        raise ModelError(f"{path} lists {len(members)} files, a model has a handful; give the archive of one model")
    cards = [name for name in map(PurePosixPath, members) if name.name == CARD]
    near = [name for name in cards if len(name.parts) <= 2 and ".." not in name.parts and not name.is_absolute()]
    if not near and any(PurePosixPath(name).name in ZOO_NAMES for name in members):
        raise ModelError(f"{path} {FOREIGN}")
    if len(near) != 1:
        content = "holds no card.json" if not near else f"holds {len(near)} cards"
        raise ModelError(f"{path} {content}, so it is not the archive of one cellxlate model; give the model folder")
    return near[0].as_posix().removesuffix(CARD)


def _listing(path: Path) -> list[str]:
    """Return the names in an archive; ModelError if there are more than a model can have: zipfile reads all at once."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - END_BYTES - LONGEST_COMMENT, 0))
        tail = file.read()
    at = tail.rfind(END_OF_LISTING)
    if at >= 0 and len(tail) >= at + END_BYTES:
        listing_bytes = int.from_bytes(tail[at + 12 : at + 16], "little")
        if listing_bytes > LARGEST_LISTING_BYTES or tail[max(at - 20, 0) :].startswith(BIG_LISTING):
            raise ModelError(f"{path} lists too many files for one model; give the archive of one model")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _holds_pickle(path: Path) -> bool:
    try:
        return any(name.endswith((".pkl", ".pickle")) for name in _listing(path))
    except (*ARCHIVE_FAULTS, ModelError):
        return False


def _short(fault: BaseException) -> str:
    return one_line(fault) or type(fault).__name__
