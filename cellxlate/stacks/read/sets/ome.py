"""OME-TIFF sets, whose images or planes lie in several files: which file holds what, and which files are one stack."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import tifffile

from cellxlate.errors import InputError
from cellxlate.locations import Location
from cellxlate.stacks.limits.ome import check_inside, check_ome
from cellxlate.stacks.limits.tiff import check_first_directory
from cellxlate.stacks.metadata.ome_xml import declares_entities, parse
from cellxlate.stacks.naming import COMPANION
from cellxlate.stacks.read.sets.acquisition import first_image_in, images_of
from cellxlate.stacks.stack import READ_FAULTS

MOST_COMPANION_BYTES = 2**28
AnyPlace = TypeVar("AnyPlace", bound=Location)
OWN_UUID = re.compile(r"""<(?:\w+:)?OME\s[^>]*?\bUUID\s*=\s*["']([^"']+)""")
AN_IMAGE = re.compile(r"<(?:\w+:)?Image[\s>]")


@dataclass(frozen=True)
class OmeDocument:
    """The OME-XML that says what one file of a set holds.

    Attributes
    ----------
    text : str
        The document as it is to be read: planes named by the file they lie in, images by their position.
    names : tuple of str
        Of its images, in their order.
    files : tuple of tuple of str
        For each image, the names of the files that its planes lie in; empty where the document names none.
    stated : str
        The document as it was written.
    uuids : mapping
        Which UUID the document states for each file, by its name in lower case.
    """

    text: str
    names: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    stated: str
    uuids: Mapping[str, str]

    def require_rights(self, folder: Path) -> None:
        """Raise PermissionError where a file of the set is there and may not be read: it would count as missing."""
        for name in {name for files in self.files for name in files}:
            with suppress(FileNotFoundError):
                (folder / name).open("rb").close()

    def first_in(self, name: str) -> int:
        """Return the position of the first image with a plane in a file, 0 where none has."""
        return next((at for at, files in enumerate(self.files) if not files or name in files), 0)


def speaks_of_several(text: str) -> bool:
    """Return whether OME-XML names files, refers to another document, or describes several images."""
    return "FileName" in text or "BinaryOnly" in text or len(AN_IMAGE.findall(text)) > 1


def is_companion(path: Path) -> bool:
    """Return whether a path is named as OME-XML that lies beside its TIFF files."""
    return path.name.lower().endswith(COMPANION)


def read_companion(path: Path) -> str:
    """Return the OME-XML of a companion file.

    Raises
    ------
    InputError
        It is no plain file of text, or too long.
    """
    try:
        if not path.is_file():
            raise InputError(f"the OME-XML of this set, {path.name}, is not there; put all its files into one folder")
        if path.stat().st_size > MOST_COMPANION_BYTES:
            raise InputError(f"{path.name} is longer than 256 MiB, which no OME-XML is; copy it again")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is no OME-XML (it is not UTF-8 text); copy the set again") from None
    if parse(text) is None:
        raise InputError(f"{path.name} is no OME-XML that can be read; copy the set again")
    return text


def document_of(text: str, path: Path) -> OmeDocument | None:
    """Return the document that says what a TIFF file holds: its own, its companion's, or the one its BinaryOnly names.

    None where the text cannot be parsed.

    Raises
    ------
    InputError
        The document that is named is missing, or asks for files outside the folder.

    Notes
    -----
    A plane belongs to the file whose name stands beside it; its UUID decides only where there is no name, or where no
    plane has the name of this file, which was renamed then. Writers that put the same document into every file leave
    the same UUID in all of them.
    """
    root = parse(text)
    if root is None:
        return None
    only = root.find("{*}BinaryOnly")
    if only is not None:
        text, root = _referred(only, path)
    images = root.findall("{*}Image")
    uuids = _stated_uuids(images)
    _name_by_file(root, images, path)
    files = tuple(_files_of(image, path.name) for image in images)
    names = tuple(image.get("Name") or "" for image in images)
    for number, image in enumerate(images):
        image.set("Name", str(number))
    return OmeDocument(ElementTree.tostring(root, encoding="unicode"), names, files, text, uuids)


def _referred(only: Element, path: Path) -> tuple[str, Element]:
    """Return the document that a BinaryOnly element refers to."""
    name = only.get("MetadataFile") or ""
    check_inside(name)
    named = path.parent / name
    if not name or named == path:
        raise InputError("its OME-XML names no file with the description of its planes; put all files into one folder")
    if named.suffix.lower() in (".ome", ".xml"):
        text = read_companion(named)
    else:
        if not named.is_file():
            raise InputError(f"the OME-XML of this set, {name}, is not there; put all its files into one folder")
        check_first_directory(named)
        with tifffile.TiffFile(named) as file:
            text = file.pages.first.description
    check_ome(text, path.parent)
    root = parse(text)
    if root is None or root.find("{*}BinaryOnly") is not None:
        raise InputError(f"{name}, which should hold the OME-XML of this set, holds none; copy the set again")
    return text, root


def foreign_files(document: OmeDocument, files: Sequence[Path]) -> tuple[str, ...]:
    """Return a line where none of the files of an image has the UUID that the document states for its name.

    Raises
    ------
    InputError
        Some files have their UUID and others do not, or have that of another name: files were swapped, or one is of
        another acquisition.

    Notes
    -----
    Writers that put the same document into every file leave one UUID in all of them, which says nothing.
    """
    if all(_is_itself(document, file) for file in files):
        return ()
    folder = files[0].parent
    own = {name: uuid for name in document.uuids if (uuid := _own_uuid(folder / name)) is not None}
    own |= {file.name.lower(): uuid for file in files if (uuid := _own_uuid(file)) is not None}
    if len(own) > 1 and len(set(own.values())) == 1:
        return ()
    wrong = [file.name for file in files if not _is_itself(document, file)]
    if len(own) > len(wrong) or set(own.values()) & set(document.uuids.values()):
        raise InputError(
            f"the OME-XML of the set states another UUID than {' and '.join(wrong[:5])} has: files were exchanged, or "
            "one is of another acquisition; copy the set again"
        )
    return ("the files of the set have other UUIDs than its OME-XML states, so they are told apart by their names",)


def _is_itself(document: OmeDocument, file: Path) -> bool:
    stated = document.uuids.get(file.name.lower())
    own = _own_uuid(file) if stated else None
    return own is None or own == stated


def _own_uuid(path: Path) -> str | None:
    """Return the UUID that the OME-XML inside a file states for it, or None."""
    with suppress(InputError, tifffile.TiffFileError, OSError, ValueError, LookupError, TypeError), _quietly():
        check_first_directory(path)
        with tifffile.TiffFile(path) as file:
            stated = OWN_UUID.search(file.pages.first.description)
            return stated[1].lower() if stated else None
    return None


def _stated_uuids(images: Sequence[Element]) -> dict[str, str]:
    """Return the UUID of each file that is named, by its name; files that are given several have none."""
    uuids_of: dict[str, set[str]] = {}
    for uuid in (uuid for image in images for uuid in _uuids(image)):
        if uuid.get("FileName") and uuid.text:
            uuids_of.setdefault(str(uuid.get("FileName")).lower(), set()).add(uuid.text.strip().lower())
    return {name: uuids.pop() for name, uuids in uuids_of.items() if len(uuids) == 1}


def _uuids(image: Element) -> list[Element]:
    return image.findall("{*}Pixels/{*}TiffData/{*}UUID")


def _name_by_file(root: Element, images: Sequence[Element], path: Path) -> None:
    """Make the name of the file the identity of each plane."""
    uuids = [uuid for image in images for uuid in _uuids(image)]
    own, stated = f"file:{path.name}", root.get("UUID")
    named = {str(uuid.get("FileName")).lower() for uuid in uuids if uuid.get("FileName")}
    renamed = path.name.lower() not in named
    by_uuid = {uuid.text: str(uuid.get("FileName")) for uuid in uuids if uuid.get("FileName") and uuid.text}
    for uuid in uuids:
        name = uuid.get("FileName") or by_uuid.get(uuid.text or "", "")
        is_own = name.lower() == path.name.lower() or ((renamed or not name) and uuid.text in (stated, None))
        if not is_own and not name:
            raise InputError(
                f"its OME-XML has planes in another file, {str(uuid.text)[:60]}, and does not name it; convert the "
                "set to one file"
            )
        uuid.text = own if is_own else f"file:{name}"
        uuid.set("FileName", path.name if is_own else name)
    root.set("UUID", own)
    for plane in (plane for image in images for plane in image.findall("{*}Pixels/{*}TiffData")):
        if not any(plane.get(count) for count in ("PlaneCount", "NumPlanes", "IFD")):
            holder = plane.find("{*}UUID")
            if holder is not None and not (path.parent / str(holder.get("FileName"))).exists():
                plane.set("PlaneCount", "1")  # how many are missing is not known


def _files_of(image: Element, own: str) -> tuple[str, ...]:
    """Return the names of the files that the planes of an image lie in; planes without a name lie in the own one."""
    names: dict[str, None] = {}
    for plane in image.findall("{*}Pixels/{*}TiffData"):
        uuid = plane.find("{*}UUID")
        names[own if uuid is None else str(uuid.get("FileName"))] = None
    return tuple(names)


def first_file(path: Path, text: str) -> Path:
    """Return the first TIFF file that a companion names.

    Raises
    ------
    InputError
        It names none.
    """
    root = parse(text)
    for image in root.findall("{*}Image") if root is not None else ():
        for uuid in _uuids(image):
            if uuid.get("FileName"):
                return path.parent / str(uuid.get("FileName"))
    raise InputError(f"{path.name} names no TIFF file; give the TIFF files themselves")


def one_of_each(paths: Sequence[AnyPlace]) -> list[AnyPlace]:
    """Return paths without those that would give a stack of an earlier one again, as files of one OME-TIFF set do.

    Files that cannot be read stay, so that opening them says why.
    """
    if len(paths) < 2:
        return list(paths)
    firsts: list[AnyPlace] = []
    taken: set[tuple[int, frozenset[Path]]] = set()
    described = {path for one in paths if isinstance(one, Path) and is_companion(one) for path in _described(one)}
    for path in paths:
        stack = _stack_of(path) if isinstance(path, Path) and path.is_file() else None
        if path.absolute() in described if stack is None else stack in taken:
            continue
        if stack is not None:
            taken.add(stack)
        firsts.append(path)
    return firsts


def _described(companion: Path) -> set[Path]:
    """Return the files that a companion names."""
    with suppress(InputError, OSError):
        root = parse(read_companion(companion))
        images = root.findall("{*}Image") if root is not None else []
        folder = companion.parent.absolute()
        return {folder / str(uuid.get("FileName")) for image in images for uuid in _uuids(image)}
    return set()


def _stack_of(path: Path) -> tuple[int, frozenset[Path]] | None:
    """Return what tells the stack that a file gives by default from others: the image and the files it lies in."""
    try:
        if is_companion(path):
            text = read_companion(path)
            path = first_file(path, text)
        else:
            check_first_directory(path)
            with _quietly(), tifffile.TiffFile(path) as file:
                if file.is_mmstack:
                    return _micromanager_stack(file)
                text = (file.ome_metadata or "") if file.is_ome else ""
        if declares_entities(text) or not speaks_of_several(text):
            return None
        document = document_of(text, path)
    except (InputError, *READ_FAULTS):
        return None
    if document is None or not document.files:
        return None
    image = document.first_in(path.name)
    return image, frozenset(path.parent.absolute() / name.lower() for name in document.files[image])


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep tifffile's log off the terminal; opening a file says what is wrong with it."""
    handler, logger = logging.NullHandler(), logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _micromanager_stack(file: tifffile.TiffFile) -> tuple[int, frozenset[Path]] | None:
    """Return what tells a stack of Micro-Manager, a position that may go on in further files, from others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = images_of(file)
    number = first_image_in(file, images)
    if images[number].kind != "mmstack":
        return None
    pages = [page for page in images[number] if page is not None]
    return number, frozenset(Path(page.parent.filehandle.path).absolute() for page in pages)
