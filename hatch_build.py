"""Build hook: the manifest at the top of the repository becomes `cellxlate/napari.yaml`, where npe2 looks for it."""

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManifestHook(BuildHookInterface):  # type: ignore[type-arg]
    """Put the napari manifest inside the import package for wheels and for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Include the manifest in a wheel; for an editable install, link it into the package (or copy it)."""
        if self.target_name != "wheel":
            return  # a source archive holds the manifest at its top, where the wheel that is built from it looks
        manifest = Path(self.root) / "napari.yaml"
        if version != "editable":
            build_data["force_include"][str(manifest)] = "cellxlate/napari.yaml"
            return
        inside = Path(self.root) / "cellxlate" / "napari.yaml"
        inside.unlink(missing_ok=True)
        try:
            inside.symlink_to(Path("..") / "napari.yaml")
        except OSError:
            shutil.copyfile(manifest, inside)
