"""What panels say."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellxlate.enhancement.job import EnhanceProgress

PANEL_WORDS = {
    "--axes": "Axes",
    "--channel": "Channel",
    "--device": "Device",
    "--intensity source": "Intensity 'as in the image'",
    "--overwrite": "'Replace existing files'",
    "--output-dir": "folder",
    "--threshold": "Threshold",
    "-o": "file name",
}


def in_panel_words(message: str) -> str:
    """Return a message of the command line with the names that the panel gives to its options.

    Examples
    --------
    >>> in_panel_words("out.ome.tif exists already; give --overwrite to replace it or choose another -o")
    "out.ome.tif exists already; give 'Replace existing files' to replace it or choose another file name"
    """
    for option, name in PANEL_WORDS.items():
        message = re.sub(rf"(?<![\w-]){option}(?![\w-])", name, message)
    return message


def time_left(news: "EnhanceProgress") -> str:
    """Return how far a run is and how long it will still take.

    Examples
    --------
    >>> from cellxlate.enhancement.job import EnhanceProgress
    >>> time_left(EnhanceProgress("cells", 3.0, 12, 20.0))
    '3.0 of 12 planes, 20 s so far, about 1 min left'
    """
    left_s = news.seconds * (news.total - news.done) / news.done if news.done else 0.0
    left = f"{left_s:.0f} s" if left_s < 60 else f"{left_s / 60:.0f} min"
    return f"{news.done:.1f} of {news.total} planes, {news.seconds:.0f} s so far, about {left} left"
