"""What a run learns from: source and target opened and checked, and the shipped model that is nearest to the source."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cellxlate.choice import choose_by, looks_of, shipped_model
from cellxlate.model.bundle import Bundle
from cellxlate.quality.trust.likeness import WindowFeatures
from cellxlate.settings import TrainSettings
from cellxlate.stacks.read.open import find_images, open_stack
from cellxlate.training.alone.domain import alone_domain
from cellxlate.training.fields.files import check_stack, open_domain
from cellxlate.training.fields.generalist import generalist_domains
from cellxlate.training.fields.masks import attach_masks
from cellxlate.training.fields.patches import Domain

MOST_LOOKED_AT = 8
"""Files, to tell which shipped model is nearest."""


def open_domains(
    paths: tuple[list[Path], list[Path]],
    settings: TrainSettings,
    channel: str | int | None,
    masks: list[Path],
    files: ExitStack,
    beside: Sequence[str | int] = (),
) -> tuple[Domain, ...]:
    """Open source and target, with their masks, check everything about them, and have their files closed in the end."""
    if settings.backward == "alone":
        source = alone_domain(paths[0], settings, channel)
        return source, source
    if settings.backward == "any-camera":
        return generalist_domains(paths[1], masks, settings, channel, files)
    domains: tuple[Domain, ...] = ()
    for number, own in enumerate(paths):
        domain = open_domain(
            own, number=number, patch_px=settings.patch_px, load_px=settings.load_px, channel=channel,
            guide=settings.guide, beside=beside,
        )  # fmt: skip
        files.callback(domain.close)
        domains += (domain,)
    if masks:
        domains = attach_masks(domains, masks)
        for domain in domains:
            files.callback(domain.close)
    return domains


def nearest_model(source: Sequence[Path], channel: str | int | None) -> Bundle:
    """Load the shipped model that is nearest to some files and folders, of which a few are looked at.

    Raises
    ------
    InputError
        There is nothing to read, or several channels and none is chosen.
    """
    files = find_images(source, "source")[0]
    looks: list[WindowFeatures] = []
    for path in files[:: -(-len(files) // MOST_LOOKED_AT)]:
        with open_stack(path) as stack:
            looks += looks_of(stack, check_stack(stack, path, 1, channel))
    return shipped_model(choose_by([looks]))
