"""What is known of a network that others made, as values that travel: to workers, into reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Axes = Literal["YX", "ZYX"]


@dataclass(frozen=True)
class NetworkFile:
    """Where the bytes of a network lie, and which they are.

    Attributes
    ----------
    path : Path
        An ONNX file, or an archive that holds it.
    sha256 : str
        Of all that it computes with: of the file, and of the files that hold its weights.
    member : str
        Its name inside the archive; empty for a plain file.
    program : tuple of (int, bool)
        Of a TorchScript program: sides of an array that it takes, and whether each may be another; empty for ONNX.
    """

    path: Path
    sha256: str
    member: str = ""
    program: tuple[tuple[int, bool], ...] = ()


@dataclass(frozen=True)
class Reach:
    """How far a network looks along one axis of its input, and which sizes it takes there.

    Attributes
    ----------
    halo_px : int or None
        How far around a pixel its outcome looks; None where that is the whole axis, or not known.
    stride : int
        Windows begin at multiples of it, so that strided layers stand where they stand in the whole plane.
    least_px, step_px : int
        Sizes are `least_px` and any number of steps more.
    fixed_px : int or None
        Where there is one size alone.
    margin_px : int
        By how much the outcome is smaller at either side.
    """

    halo_px: int | None
    stride: int = 1
    least_px: int = 1
    step_px: int = 1
    fixed_px: int | None = None
    margin_px: int = 0


@dataclass(frozen=True)
class ForeignModel:
    """An image-to-image network that others made.

    Attributes
    ----------
    name : str
        For reports.
    network : NetworkFile
        What it computes with.
    axes : {"YX", "ZYX"}
        What one window of it spans.
    input_axes, output_axes : str
        The axes of its arrays in their order, of "bczyx"; "byxc" has the channels last.
    channels_in, channels_out : int
        How many it takes together, and how many come back.
    reach : tuple of Reach
        Along each of `axes`.
    input_name, output_name : str
        Of the graph's input, and of the output that is the image.
    attention_name : str
        Of a second output, attention in [0, 1] at the same pixels; empty where there is none.
    not_local : str
        Which of its operators looks at the whole image, in words; empty where none does.
    unknown : tuple of str
        Its operators of which it is not known how far they look.
    operators : mapping of str to int
        How often each occurs.
    bytes_per_px, bytes_per_pair : float
        Memory that it takes per pixel of a window, and beside that for each pair of them, as attention does.
    before, after : tuple
        What is done to counts before, and to its outcome after, in order; empty: it takes counts and returns counts.
    licence, citation : str
        As its package states them; empty where it does not.
    warnings : tuple of str
        What a reader of a result should know.
    to_counts : str
        How its outcome comes to counts, in words.
    takes : str
        Type of the counts that it is made for.
    package : Path or None
        The package that was given, where it comes from one.
    """

    name: str
    network: NetworkFile
    axes: Axes = "YX"
    input_axes: str = "bcyx"
    output_axes: str = "bcyx"
    channels_in: int = 1
    channels_out: int = 1
    reach: tuple[Reach, ...] = (Reach(None), Reach(None))
    input_name: str = ""
    output_name: str = ""
    attention_name: str = ""
    not_local: str = ""
    unknown: tuple[str, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    bytes_per_px: float = 256.0
    bytes_per_pair: float = 0.0
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    licence: str = ""
    citation: str = ""
    warnings: tuple[str, ...] = ()
    to_counts: str = "as the network makes them"
    takes: str = "float32"
    package: Path | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what it computes with."""
        return self.network.sha256

    @property
    def path(self) -> Path:
        """The file that was given."""
        return self.package or self.network.path

    @property
    def is_local(self) -> bool:
        """Whether it is known to look no farther than its halo."""
        return all(one.halo_px is not None for one in self.reach)
