"""A mask laid onto the planes of an image: one plane for many, or as many as the image has."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.stacks.stack import PlaneIndex, Stack

ROWS_AT_ONCE_PX = 2**24


@dataclass(frozen=True)
class FittedMask:
    """A mask as it lies on an image.

    Attributes
    ----------
    mask : Stack
        Above 0 inside; of its own axes.
    along : tuple of (int or None)
        For each axis of its planes, the position in the image's plane index that it follows; None where its only plane
        lies on all.
    """

    mask: Stack
    along: tuple[int | None, ...]

    def read(self, index: PlaneIndex, rows: slice = slice(None), columns: slice = slice(None)) -> npt.NDArray[np.bool_]:
        """Return which pixels of a window of a plane of the image lie inside, (rows, columns); NaN does not."""
        own = tuple(0 if axis is None else index[axis] for axis in self.along)
        return np.asarray(self.mask.read(own, rows, columns) > 0)

    @cached_property
    def digest(self) -> str:
        """BLAKE2b of 128 bits over which pixels lie inside: numbers of labels do not count."""
        digest = hashlib.blake2b(repr((self.along, self.mask.shape)).encode(), digest_size=16)
        height, width = self.mask.plane_shape
        step = max(ROWS_AT_ONCE_PX // width, 1)
        for index in self.mask.plane_indices():
            for top in range(0, height, step):
                rows = self.mask.read(index, slice(top, min(top + step, height)))
                digest.update(np.packbits(rows > 0, axis=1).tobytes())
        return digest.hexdigest()


def fitted_mask(mask: Stack, like: Stack, name: object) -> FittedMask:
    """Lay a mask onto an image.

    An axis of one plane, or one that the mask does not have, lies on all of the image's. Where a file calls its only
    axis of planes otherwise than the image, as ImageJ calls time depth, the one axis of that length is meant.

    Parameters
    ----------
    mask, like : Stack
        The mask, without colour samples, and the image.
    name : object
        What the mask is called in an error.

    Raises
    ------
    InputError
        Its size is another, or it is not clear which of its planes belongs to which of the image.
    """
    if mask.plane_shape != like.plane_shape:
        own, wanted = (" x ".join(map(str, one.plane_shape)) for one in (mask, like))
        raise InputError(f"{name} is {own} px, {like.name} is {wanted} px (rows x columns); they must agree")
    several = {axis: mask.size(axis) for axis in mask.plane_axes if mask.size(axis) > 1}
    following = {axis: axis for axis, size in several.items() if like.size(axis) == size}
    strange = [axis for axis in several if axis not in following]
    if len(strange) == 1:
        free = [axis for axis in like.plane_axes if axis not in following.values()]
        fitting = [axis for axis in free if like.size(axis) == several[strange[0]]]
        if len(fitting) == 1:
            following[strange.pop()] = fitting[0]
    if strange:
        own, wanted = (f"{one.axes} {' x '.join(map(str, one.shape))}" for one in (mask, like))
        raise InputError(
            f"{name} has the axes {own}, {like.name} {wanted}: which plane belongs to which is not clear; give a mask "
            "of one plane, or with the planes of the stack"
        )
    places = {axis: like.plane_axes.index(of) for axis, of in following.items()}
    return FittedMask(mask, tuple(places.get(axis) for axis in mask.plane_axes))
