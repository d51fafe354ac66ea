"""Commands of napari's menus."""


def preview_attention() -> None:
    """Open the panel `Enhance cells` for the selected image, and show what its model's attention selects there."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return
    _, panel = viewer.window.add_plugin_dock_widget("cellxlate", "Enhance cells")
    active = viewer.layers.selection.active
    if active in panel.image_layer.choices:
        panel.image_layer.value = active
    panel.preview.value = True
