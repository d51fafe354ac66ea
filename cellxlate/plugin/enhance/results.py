"""What a run of the panel has made, as layers: the enhanced image is seen first."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cellxlate.plugin.compare.comparison import Pair
from cellxlate.plugin.drawing import as_attention
from cellxlate.plugin.layers import without_samples
from cellxlate.plugin.requests import Adapted, AdaptRequest, EnhanceRequest, Outcome

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer


class Results:
    """Results of this panel, each with its input; those whose layer is removed are let go.

    Parameters
    ----------
    viewer : Viewer
        Where they become layers.
    chosen : callable
        Returns the image layer that is chosen now, or None.
    """

    def __init__(self, viewer: "Viewer", chosen: "Callable[[], Image | None]") -> None:
        self._viewer, self._chosen = viewer, chosen
        self._pairs: list[Pair] = []
        self._runs: dict[Any, tuple[Outcome, EnhanceRequest]] = {}

    def pair(self) -> Pair | None:
        """Return the newest result that is still there with its input; one of the chosen image first."""
        there = [pair for pair in self._pairs if {pair.before, pair.after} <= set(self._viewer.layers)]
        of_chosen = [pair for pair in there if pair.image is self._chosen()]
        pairs = of_chosen or there
        return pairs[-1] if pairs else None

    def reported(self) -> tuple[Outcome, EnhanceRequest] | None:
        """Return the newest run whose result is still there; one of the chosen image first."""
        ran = [pair for pair in self._pairs if pair.after in self._runs and pair.after in self._viewer.layers]
        of_chosen = [pair for pair in ran if pair.image is self._chosen()]
        return self._runs[(of_chosen or ran)[-1].after] if ran else None

    def forget_removed(self) -> bool:
        """Let go of the pixels of results that are no layers any more; return whether the newest is one of them."""
        is_newest = bool(self._pairs) and self._pairs[-1].after not in self._viewer.layers
        self._pairs = [pair for pair in self._pairs if pair.after in self._viewer.layers]
        self._runs = {after: run for after, run in self._runs.items() if after in self._viewer.layers}
        return is_newest

    def add(self, request: EnhanceRequest, layer: "Image", outcome: Outcome) -> None:
        """Add the enhanced image, and over it its attention, which is hidden."""
        look, metadata = request.appearance, {"cellxlate": outcome.report.as_full_dict()}
        enhanced = self._viewer.add_image(
            outcome.image, name=f"{look.name} enhanced", metadata=metadata, multiscale=outcome.is_pyramid,
            **look.placement, **look.shown,
        )  # fmt: skip
        levels = outcome.attention if outcome.is_pyramid else [outcome.attention]
        attention = [without_samples(level, look.axes) for level in levels]
        shown = as_attention()
        over = self._viewer.add_image(
            attention if outcome.is_pyramid else attention[0], name=f"{look.name} attention",
            multiscale=outcome.is_pyramid, **look.placement, **shown | {"metadata": shown["metadata"] | metadata},
        )  # fmt: skip
        self._viewer.layers.selection.active = enhanced
        self._pairs.append(Pair(layer, enhanced, look.axes, attention=over))
        self._runs[enhanced] = outcome, request

    def add_adapted(self, request: AdaptRequest, adapted: Adapted) -> None:
        """Add a part of a plane as both models enhance it."""
        look = request.run.appearance
        names = f"{look.name} before adapting", f"{look.name} adapted"
        before, after = (
            self._viewer.add_image(pixels, name=name, **look.placement, **look.shown)
            for name, pixels in zip(names, (adapted.before, adapted.after), strict=True)
        )
        self._pairs.append(Pair(before, after, look.axes, ("before adapting", "the adapted model"), request.layer))
