"""Files become layers, and layers files."""

from cellxlate.plugin.files.read import reader
from cellxlate.plugin.files.write import write_image, write_images

__all__ = ["reader", "write_image", "write_images"]
