"""The napari panel: widgets that bind the lower rooms to layers."""
