"""The description of a package of the BioImage Model Zoo, format 0.4 or 0.5, as values: `described` from top to bottom.

What it says of files is a name inside the package; nothing is ever fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from cellxlate.errors import ModelError
from cellxlate.model.foreign.zoo.processing import Binarising, Squashing, Steps, maps_back, way_back
from cellxlate.model.foreign.zoo.stated import Entry
from cellxlate.model.foreign.zoo.tensors import StatedTensor, stated_input, stated_output
from cellxlate.options import TORCHSCRIPT
from cellxlate.stacks.naming import first_names

FORMATS = ("0.4", "0.5")
ONNX_WEIGHTS, TORCHSCRIPT_WEIGHTS = "onnx", "torchscript"
MOST_CITED = 3
ATTENTION = "attention"
"""What an output is called that says where the image may change."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of a package: where it lies in it, and its SHA-256 as the package states it; empty where it does not."""

    source: str
    sha256: str = ""


@dataclass(frozen=True)
class Description:
    """What a package says of its model.

    Attributes
    ----------
    name, licence, citation : str
        In words; empty where it does not say.
    weights : tuple of WeightsFile
        The network, and further files that hold numbers of it.
    is_torchscript : bool
        Whether that is a TorchScript program, which was asked for.
    given : StatedTensor
        Its one input.
    made : tuple of StatedTensor
        Its outputs.
    image : int
        Which of these is the image.
    attention : int or None
        Which is called attention, and has the axes of the image.
    after : tuple of processing
        What is done to that image until it is in counts.
    back : str
        How it comes to counts, in words.
    warnings : tuple of str
        What a reader of a result should know.
    """

    name: str
    weights: tuple[WeightsFile, ...]
    given: StatedTensor
    made: tuple[StatedTensor, ...]
    image: int
    after: Steps
    back: str
    is_torchscript: bool = False
    attention: int | None = None
    licence: str = ""
    citation: str = ""
    warnings: tuple[str, ...] = ()


def described(stated: Entry, *, torchscript: bool = False) -> Description:
    """Return what a description says.

    Parameters
    ----------
    torchscript : bool
        Take TorchScript where there is no ONNX.

    Raises
    ------
    ModelError
        It is of another kind or format, has no weights that are run here, several inputs, processing that is not known,
        or makes no image of the pixels that it is given.
    """
    version = stated["format_version"].text()
    if stated["type"].text("model") != "model":
        raise ModelError(f"{stated.where} describes a {stated['type'].text()[:40]}, expected a model")
    if not f"{version}.".startswith(tuple(f"{one}." for one in FORMATS)):
        raise ModelError(f"{stated.where} has the format {version[:20] or '?'}, expected {' or '.join(FORMATS)}")
    is_new = version.startswith("0.5")
    kind, weights = _weights(stated["weights"], torchscript=torchscript)
    inputs = list(stated["inputs"])
    if len(inputs) != 1:
        names = first_names([(one["id"] or one["name"]).text("?")[:40] for one in inputs])
        raise ModelError(f"{stated.where} takes {len(inputs)} inputs ({names or 'none'}), expected one image")
    given = stated_input(inputs[0], is_new=is_new)
    made = tuple(stated_output(one, given, is_new=is_new) for one in stated["outputs"])
    image = _image(made, given, stated.where)
    after, back = _to_counts(given, made[image], stated.where)
    gates = (at for at, one in enumerate(made) if at != image and one.name.lower() == ATTENTION)
    attention = next((at for at in gates if made[at].axes == made[image].axes), None)
    return Description(
        stated["name"].text(), weights, given, made, image, after, back, kind == TORCHSCRIPT_WEIGHTS, attention,
        stated["license"].text(), _citation(stated), _warnings(stated, made[image]),
    )  # fmt: skip


def _weights(stated: Entry, *, torchscript: bool) -> tuple[str, tuple[WeightsFile, ...]]:
    """Return which weights are taken, and their files."""
    kinds = stated.names
    kind = ONNX_WEIGHTS
    if ONNX_WEIGHTS not in kinds:
        found = first_names([ascii(one)[1:-1][:40] for one in kinds]) or "none"
        if TORCHSCRIPT_WEIGHTS not in kinds:
            raise ModelError(
                f"{stated.where} are {found}; only onnx is run here, since others can run any program when they are "
                "loaded, or need their own software; ask who made the package for onnx"
            )
        if not torchscript:
            raise ModelError(
                f"{stated.where} are {found}; torchscript can run any program of its own on this computer",
                remedy=("ask who made the package for onnx, or give ", TORCHSCRIPT, " where you trust them"),
            )
        kind = TORCHSCRIPT_WEIGHTS
    entry = stated[kind]
    files = [entry, entry["external_data"]] if entry["external_data"] else [entry]
    return kind, tuple(WeightsFile(source_of(one["source"]), one["sha256"].text().lower()) for one in files)


def source_of(stated: Entry) -> str:
    """Return the name of a file inside a package.

    Raises
    ------
    ModelError
        It lies elsewhere: on the web, or outside the package.
    """
    source = stated.text()
    if not source:
        raise stated.fault("the name of a file in the package")
    if "://" in source or source.startswith("doi:"):
        raise ModelError(
            f"{stated.where} is the address {source[:80]}, and nothing is fetched; download the whole package and give "
            "that"
        )
    path = PurePosixPath(source)
    if path.is_absolute() or ".." in path.parts or "\\" in source or ":" in source or not path.parts:
        raise ModelError(f"{stated.where} is {ascii(source)[:80]}, expected a file inside the package")
    return path.as_posix()


def _image(made: Sequence[StatedTensor], given: StatedTensor, name: str) -> int:
    """Return which output is the image: the first that has the channels and the axes of the input."""
    for number, one in enumerate(made):
        if one.channels == given.channels and set(given.spans) <= set(one.axes):
            return number
    if not {"y", "x"} <= set(given.axes):
        raise ModelError(f"{name} takes axes {given.axes}, expected those of an image, y and x among them")
    if odd := [axis for axis in "ti" if axis in given.axes]:
        raise ModelError(f"{name} takes an axis of {'time' if odd == ['t'] else 'index'}, expected those of an image")
    found = ", ".join(f"{one.name} with {one.channels} channels and axes {one.axes}" for one in made[:4]) or "none"
    raise ModelError(
        f"{name} makes no image like its input, of {given.channels} channels and axes {given.axes}, but {found}; only "
        "image-to-image models propose"
    )


def _to_counts(given: StatedTensor, made: StatedTensor, name: str) -> tuple[Steps, str]:
    """Return what is done to the image until it is in counts, and in words.

    Where post-processing ends in a normalisation, or does not scale at all, the image is in the range of the input
    after its pre-processing: that is undone.
    """
    back = way_back(given.steps)
    if maps_back(made.steps):
        return made.steps, "by the post-processing of the package"
    if lost := [type(step).__name__ for step in given.steps if isinstance(step, Binarising | Squashing)]:
        raise ModelError(
            f"{name} makes of counts what nothing brings back ({lost[0].lower()} before the network, and no scaling "
            "after it); only image-to-image models propose"
        )
    if not back:
        return made.steps, "as the network makes them"
    return (*made.steps, *back), "by undoing the normalisation of the input"


def _citation(stated: Entry) -> str:
    """Return what is to be cited, in words."""
    cited = []
    for one in list(stated["cite"])[:MOST_CITED]:
        where = one["doi"].text() or one["url"].text()
        cited.append(" ".join(part for part in (one["text"].text(), f"({where})" if where else "") if part))
    return "; ".join(one for one in cited if one)


def _warnings(stated: Entry, made: StatedTensor) -> tuple[str, ...]:
    """Return what a reader of a result should know."""
    warnings = []
    if mode := stated["run_mode"]["name"].text():
        warnings.append(f"the package asks to be run by {mode[:60]}, which is not done here")
    if any(isinstance(step, Binarising) for step in made.steps):
        warnings.append("the package makes a mask of 0 and 1 of its outcome, which is hardly an image")
    return tuple(warnings)
