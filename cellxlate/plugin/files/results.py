"""Files that an enhancement wrote, opened again: what is seen first is the enhanced image."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cellxlate.plugin.drawing import OURS, attention_look

if TYPE_CHECKING:
    from napari.types import LayerData

PART = re.compile(r"_(attention|confidence)(?=\.(?:ome\.)?(?:tiff?|zarr)$)", re.IGNORECASE)


def as_part_of_result(path: Path, layer: "LayerData") -> "LayerData":
    """Return a layer of NAME_attention or NAME_confidence as an overlay, hidden where NAME_enhanced is in view.

    Attention of one byte is shown in the colours of the panel. Other files stay as they are. Where attention is opened
    before its image, as files are sorted, it lies under it and need not be hidden.
    """
    part = PART.search(path.name)
    if part is None or layer[1].get("rgb"):
        return layer
    pixels, options, kind = layer
    options = {**options, "metadata": {**options.get("metadata", {}), OURS: True}}
    levels = pixels if isinstance(pixels, list) else [pixels]
    if part[1].lower() == "attention" and levels[0].dtype == "uint8":
        options |= attention_look()
    enhanced = path.with_name(f"{path.name[: part.start()]}_enhanced{path.name[part.end() :]}")
    if _is_in_view(enhanced):
        options["visible"] = False
    return pixels, options, kind


def _is_in_view(path: Path) -> bool:
    import napari

    viewer = napari.current_viewer()
    shown = [layer.source.path for layer in viewer.layers if layer.visible and layer.source.path] if viewer else []
    return any(Path(own).resolve() == path.resolve() for own in shown)
