"""Kinds of structures in depth: planes that fit together, blurred more along z than within planes.

Paths climb, bodies are cut at each plane, membranes lean, and textures are splines in three dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Any

import numpy as np
from scipy import ndimage

from cellxlate.stacks.samples.drawing import (
    MASK_LEVEL,
    SPLINE_STD,
    STEP_PX,
    Array,
    Bools,
    Canvas,
    Floats,
    Light,
    headings_from,
    splat,
    spline_basis,
    walks,
)
from cellxlate.stacks.samples.outlines import (
    Bodies,
    Profile,
    choose_bodies,
    edges_between,
    fill,
    jittered_lattice,
    without_small_holes,
)


@dataclass(frozen=True)
class Room:
    """A canvas with planes: how many, how far apart they lie in pixels, and the blur along z in planes."""

    canvas: Canvas
    planes: int
    spacing_px: float
    axial: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns."""
        return (self.planes, *self.canvas.shape)

    def blur(self, light: Array, sigma: float | None = None) -> Floats:
        """Blur as in focus, or within planes by another width."""
        within = self.canvas.psf_px if sigma is None else sigma
        blurred: Floats = ndimage.gaussian_filter(
            light.astype(np.float32, copy=False), (self.axial, within, within), mode="nearest", truncate=3.0
        )
        return blurred

    def splat(self, points: Array, depths: Array, weights: Array) -> Floats:
        """Add points (count, 2) at depths in planes to the pixels around each; (Z, Y, X)."""
        first = np.floor(depths).astype(np.intp)
        above = depths - first
        light = np.zeros(self.shape, np.float32)
        for plane in range(self.planes):
            for at, share in ((plane, 1.0 - above), (plane - 1, above)):
                chosen = first == at
                if chosen.any():
                    light[plane] += splat(self.canvas, points[chosen], (weights * share)[chosen])
        return light

    def noise(self, grain_px: float) -> Callable[[int], Floats]:
        """Return what gives planes of smooth noise of zero mean and about unit variance in three dimensions."""
        rng, grain_px = self.canvas.rng, max(grain_px, 1.0)
        along = spline_basis(self.planes, max(grain_px / self.spacing_px, 1.0), float(rng.random()))
        down, over = (spline_basis(size, grain_px, float(rng.random())) for size in self.canvas.shape)
        knots = rng.standard_normal((along.shape[1], down.shape[1], over.shape[1]), dtype=np.float32)
        height = np.float32(SPLINE_STD**1.5)

        def plane(number: int) -> Floats:
            noise: Array = down @ (np.tensordot(along[number], knots, 1) @ over.T) / height
            return noise

        return plane


def _depths(room: Room, count: int) -> Array:
    """Draw depths in planes: all over the volume, or in a layer."""
    canvas = room.canvas
    if canvas.chance(0.5):
        return canvas.rng.uniform(-1.0, room.planes, count)
    return room.planes * canvas.between(0.3, 0.7) + canvas.rng.normal(0.0, 0.12 * room.planes, count)


def _tubes(room: Room, points: Array, depths: Array, weights: Array, radius_px: float) -> Light:
    """Blur points of paths to tubes; the mask is where an evenly bright path would have a part of its light."""
    within = sqrt((0.5 * radius_px) ** 2 + room.canvas.psf_px**2)
    thick = replace(room, axial=sqrt((0.5 * radius_px / room.spacing_px) ** 2 + room.axial**2))
    height = np.float32(2.0 * pi * within * sqrt(thick.axial**2 + 1.0 / 6.0))
    even = thick.blur(room.splat(points, depths, np.full(len(points), STEP_PX, np.float32)), within) * height
    light = thick.blur(room.splat(points, depths, STEP_PX * weights), within) * height
    return light, even > MASK_LEVEL


def _paths(
    room: Room, starts: Array, *, length_px: float, persistence_px: float, tilt: float, spread: float, radius_px: float
) -> Light:
    """Draw paths from starts that climb by a tilt and wave."""
    canvas, count = room.canvas, len(starts)
    points, walk, along = walks(
        canvas, starts, length_px=length_px, persistence_px=persistence_px, headings=headings_from(canvas, starts)
    )
    climb = tilt * canvas.rng.standard_normal(count) * length_px / room.spacing_px
    wave = 0.3 * tilt * length_px / room.spacing_px * canvas.rng.standard_normal(count)
    phase = canvas.rng.uniform(0.0, 2.0 * pi, count)
    depths = _depths(room, count)[walk] + climb[walk] * (along - 0.5) + wave[walk] * np.sin(4.0 * along + phase[walk])
    return _tubes(room, points, depths, canvas.brightness(count, spread)[walk], radius_px)


def _thickness(room: Room, radius_px: float) -> float:
    """Return how many layers of things of a radius lie in the volume, at least 1."""
    return max(room.planes * room.spacing_px / (2.0 * radius_px + 4.0 * room.axial * room.spacing_px), 1.0)


def _filaments(room: Room) -> Light:
    canvas, scale = room.canvas, room.canvas.scale
    radius_px = canvas.decades(0.2, 2.5) * scale
    length_px = canvas.decades(30.0, 400.0) * scale
    density = canvas.decades(0.008, 0.3) / scale * _thickness(room, radius_px)
    count = max(int(density * canvas.area_px / length_px), 1)
    return _paths(
        room,
        canvas.places(count, min(0.5 * length_px, 100.0)),
        length_px=length_px,
        persistence_px=canvas.decades(12.0, 800.0) * scale,
        tilt=canvas.decades(0.02, 0.5),
        spread=canvas.between(0.2, 1.1),
        radius_px=radius_px,
    )


def _tubules(room: Room) -> Light:
    canvas, scale = room.canvas, room.canvas.scale
    radius_px = canvas.decades(1.0, 4.0) * scale
    length_px = radius_px * canvas.decades(2.0, 40.0)
    density = canvas.decades(0.02, 0.4) / (2.0 * radius_px) * _thickness(room, radius_px)
    count = max(int(density * canvas.area_px / length_px), 1)
    light, mask = _paths(
        room,
        canvas.places(count, min(0.5 * length_px, 60.0)),
        length_px=length_px,
        persistence_px=canvas.decades(6.0, 60.0) * scale,
        tilt=canvas.decades(0.05, 0.8),
        spread=canvas.between(0.1, 0.8),
        radius_px=radius_px,
    )
    return light * _textures(room, 2.0 * radius_px, canvas.between(0.05, 0.4)), mask


def _membranes(room: Room) -> Light:
    canvas, scale, rng = room.canvas, room.canvas.scale, room.canvas.rng
    spacing_px = canvas.decades(10.0, 90.0) * scale
    places = jittered_lattice(canvas, spacing_px)
    lean = canvas.decades(0.05, 0.6) * rng.standard_normal(places.shape)  # of each place, per pixel of depth
    bend_px = canvas.decades(8.0, 40.0) * scale
    strength_px = np.float32(canvas.between(0.02, 0.16) * bend_px)
    bends = room.noise(bend_px), room.noise(bend_px)
    uneven, contrast = room.noise(canvas.decades(4.0, 30.0) * scale), canvas.between(0.1, 0.7)
    present, least = room.noise(canvas.decades(6.0, 30.0) * scale), canvas.between(-4.0, -0.8)
    even, bright = np.zeros(room.shape, np.float32), np.zeros(room.shape, np.float32)
    for plane in range(room.planes):
        away_px = (plane - 0.5 * room.planes) * room.spacing_px
        reach = 0.5 * spacing_px * np.tanh(lean * away_px / (0.5 * spacing_px))  # places pass each other by no more
        points: Array = edges_between(canvas, places + reach)[0]
        at = tuple(points.T.astype(np.intp).clip(0, np.asarray(canvas.shape)[:, None] - 1))
        seen = present(plane)[at] > least
        points = points + strength_px * np.stack([bend(plane)[at] for bend in bends], axis=1)
        weights = np.exp(np.float32(contrast) * uneven(plane)[at])
        even[plane] = splat(canvas, points[seen], np.full(int(seen.sum()), STEP_PX))
        bright[plane] = splat(canvas, points[seen], STEP_PX * weights[seen])
    within = sqrt((0.5 * canvas.decades(0.4, 4.0) * scale) ** 2 + canvas.psf_px**2)
    height = np.float32(sqrt(2.0 * pi) * within)
    return room.blur(bright, within) * height, room.blur(even, within) * height > MASK_LEVEL


def _puncta(room: Room) -> Light:
    canvas, scale, rng = room.canvas, room.canvas.scale, room.canvas.rng
    radius_px = canvas.decades(0.05, 1.6) * scale
    density = canvas.decades(1e-4, 0.01) / scale**2 * _thickness(room, radius_px)
    count = max(int(density * canvas.area_px), 1)
    points: Array = canvas.places(count)
    depths = _depths(room, count)
    if canvas.chance(0.5):
        cell_px = canvas.decades(8.0, 60.0) * scale
        centres = canvas.places(1 + int(canvas.decades(0.05, 1.0) * canvas.area_px / (8.0 * cell_px**2)), cell_px)
        which = rng.integers(0, len(centres), count)
        points = centres[which] + rng.normal(0.0, 0.6 * cell_px, (count, 2))
        depths = _depths(room, len(centres))[which] + rng.normal(0.0, 0.4 * cell_px / room.spacing_px, count)
        points[:1] = canvas.places(1)
    within = sqrt(radius_px**2 + canvas.psf_px**2)
    thick = replace(room, axial=sqrt((radius_px / room.spacing_px) ** 2 + room.axial**2))
    depth = sqrt(thick.axial**2 + 1.0 / 6.0)
    height = np.float32((2.0 * pi) ** 1.5 * (within**2 + 1.0 / 6.0) * depth)
    even = thick.blur(room.splat(points, depths, np.ones(count)), within) * height
    weights = canvas.brightness(count, canvas.between(0.1, 1.3))
    return thick.blur(room.splat(points, depths, weights), within) * height, even > MASK_LEVEL


def _textures(room: Room, grain_px: float, contrast: float) -> Floats:
    """Draw a positive texture; (Z, Y, X)."""
    noise = room.noise(grain_px)
    return np.stack([np.exp(np.float32(contrast) * noise(plane)) for plane in range(room.planes)])


def _section(bodies: Bodies, depths: Array, half: Array, plane: int) -> Bodies:
    """Cut ellipsoids at a plane: those that it meets, as large as they are there."""
    height = (plane - depths) / half
    met = np.abs(height) < 0.99
    cut = bodies.chosen(met)
    share = np.sqrt(1.0 - height[met] ** 2)[:, None]
    return replace(cut, half_px=np.maximum(cut.half_px * share, 0.5).astype(np.float32))


def _solid(room: Room, radius_px: float, profile: Profile, **choice: Any) -> tuple[Floats, Floats, Floats]:
    """Fill ellipsoids: light, how far each pixel lies inside one, and inside a nucleus of one; (Z, Y, X) each."""
    canvas, rng = room.canvas, room.canvas.rng
    flat = canvas.between(0.4, 1.0)
    filled = canvas.chance(0.4)
    layers = _thickness(room, flat * radius_px) if filled and canvas.fraction is None else 1.0
    choice["cover"] *= min(layers, 20.0)
    bodies = choose_bodies(canvas, radius_px, **choice)
    half = np.maximum(flat * bodies.half_px.mean(axis=1) / room.spacing_px, 0.6)
    depths = (
        rng.uniform(-1.0, room.planes, len(bodies))
        if filled
        else 0.5 * room.planes + canvas.between(0.0, 0.6) * half * rng.standard_normal(len(bodies))
    )
    depths[0] = 0.5 * room.planes
    share = canvas.between(0.3, 0.5)
    nuclei = replace(
        bodies, half_px=(share * bodies.half_px).astype(np.float32), brightness=np.ones_like(bodies.brightness)
    )
    parts = [np.zeros(room.shape, np.float32) for _ in range(3)]
    for plane in range(room.planes):
        cut = _section(bodies, depths, half, plane)
        if len(cut):
            parts[0][plane], parts[1][plane] = fill(canvas, cut, profile)
        inner = _section(nuclei, depths, share * half, plane)
        if len(inner):
            parts[2][plane] = fill(canvas, inner, Profile())[1]
    return parts[0], parts[1], parts[2]


def _solid_mask(room: Room, cover: Floats) -> Bools:
    mask: Bools = room.blur(cover) > MASK_LEVEL
    return np.stack([without_small_holes(room.canvas, plane) for plane in mask])


def _blobs(room: Room) -> Light:
    canvas = room.canvas
    radius_px = canvas.decades(4.0, 60.0) * canvas.scale
    profile = Profile(dome=canvas.between(0.0, 0.7), overlap="sum" if canvas.chance(0.3) else "nearest")
    light, cover, _ = _solid(room, radius_px, profile, cover=canvas.decades(0.04, 1.0))
    light = light * _textures(room, radius_px * canvas.decades(0.08, 0.4), canvas.decades(0.05, 0.6))
    return room.blur(light), _solid_mask(room, cover)


def _nuclei(room: Room) -> Light:
    canvas = room.canvas
    radius_px = canvas.decades(5.0, 45.0) * canvas.scale
    profile = Profile(dome=canvas.between(0.0, 0.5))
    light, cover, _ = _solid(
        room,
        radius_px,
        profile,
        cover=canvas.decades(0.04, 0.7),
        irregular=canvas.decades(0.005, 0.05),
        aspect=canvas.between(0.1, 0.7),
        spread=canvas.decades(0.1, 0.7),
    )
    light = light * _textures(room, radius_px * canvas.decades(0.08, 0.35), canvas.decades(0.05, 0.4))
    return room.blur(light), _solid_mask(room, cover)


def _reticulum(room: Room) -> Light:
    canvas, scale = room.canvas, room.canvas.scale
    radius_px = canvas.decades(30.0, 160.0) * scale
    profile = Profile(dome=canvas.between(0.3, 0.8))
    glow, cover, nuclei = _solid(room, radius_px, profile, cover=canvas.decades(0.25, 1.2), irregular=0.06)
    mesh_px, width, base = canvas.decades(2.5, 9.0) * scale, canvas.between(0.12, 0.4), canvas.between(0.15, 0.6)
    first, second = room.noise(mesh_px), room.noise(1.2 * mesh_px)
    light = np.stack(
        [
            glow[plane]
            * (base + np.maximum(np.exp(-((first(plane) / width) ** 2)), 0.7 * np.exp(-((second(plane) / width) ** 2))))
            for plane in range(room.planes)
        ]
    )
    light = light * (1.0 - np.float32(canvas.between(0.3, 0.85)) * nuclei)
    return room.blur(light), _solid_mask(room, cover)


def _cells(room: Room) -> Light:
    canvas = room.canvas
    radius_px = canvas.decades(12.0, 140.0) * canvas.scale
    profile = Profile(dome=canvas.between(0.0, 0.7))
    glow, cover, nuclei = _solid(room, radius_px, profile, cover=canvas.decades(0.1, 1.0), irregular=0.05)
    light = glow * _textures(room, radius_px * canvas.decades(0.04, 0.3), canvas.decades(0.05, 0.4))
    light = room.blur(light * (1.0 - np.float32(canvas.between(-1.0, 0.8)) * nuclei))
    if canvas.chance(0.75):
        inner = (_puncta, _filaments, _tubules)[int(canvas.rng.integers(3))](room)[0]
        held = inner / np.float32(max(float(np.quantile(inner[:, ::3, ::3], 0.99)), 1e-3)) * glow
        light = light + np.float32(canvas.decades(0.3, 4.0)) * np.minimum(held, 3.0 * glow)
    return light, _solid_mask(room, cover)


def _tissue(room: Room) -> Light:
    makers = (_nuclei, _blobs, _filaments, _membranes, _puncta)
    chosen = room.canvas.rng.choice(len(makers), size=2, replace=False)
    parts = [makers[int(number)](room) for number in chosen]
    levels = [max(float(np.quantile(part[0][:, ::2, ::2], 0.995)), 1e-3) for part in parts]
    shares = [np.float32(room.canvas.decades(0.15, 1.0) / level) for level in levels]
    return parts[0][0] * shares[0] + parts[1][0] * shares[1], parts[0][1] | parts[1][1]


MAKERS: dict[str, Callable[[Room], Light]] = {
    "filaments": _filaments,
    "tubules": _tubules,
    "membranes": _membranes,
    "puncta": _puncta,
    "blobs": _blobs,
    "nuclei": _nuclei,
    "reticulum": _reticulum,
    "cells": _cells,
    "tissue": _tissue,
}
