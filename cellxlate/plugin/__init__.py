"""The napari plugin: samples, and widgets that bind the lower rooms to layers."""
