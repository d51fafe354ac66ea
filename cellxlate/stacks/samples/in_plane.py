"""Kinds of structures in one plane: each draws its light and its mask on a canvas."""

from collections.abc import Callable
from math import pi, sqrt

import numpy as np

from cellxlate.stacks.samples.drawing import (
    Array,
    Canvas,
    Light,
    headings_from,
    line_light,
    nothing,
    spots,
    together,
    walks,
)
from cellxlate.stacks.samples.outlines import (
    Profile,
    body_mask,
    choose_bodies,
    condense,
    edges_between,
    fill,
    jittered_lattice,
    nuclear_shade,
    outline_points,
    texture,
    with_spots,
)


def _filaments(canvas: Canvas) -> Light:
    """Draw actin or microtubules: persistent walks of a few widths, crossing, bundled, aligned or from centres."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = nothing(canvas)
    spread = canvas.between(0.2, 1.1)
    density = canvas.decades(0.008, 0.5) / scale  # length on an area
    layers = int(rng.integers(1, 3))
    persistence_px = canvas.decades(12.0, 800.0) * scale
    length_px = canvas.decades(30.0, 400.0) * scale
    for _ in range(layers):
        count = max(int(density / layers * canvas.area_px / min(length_px, 1.2 * max(canvas.shape))), 1)
        reach_px = min(0.5 * length_px, 100.0)
        starts: Array = canvas.places(count, reach_px)
        headings = headings_from(canvas, starts)
        if canvas.chance(0.2):  # microtubules from their centres
            centres = canvas.places(int(rng.integers(1, 1 + max(1, int(3 / scale)))))
            starts = centres[rng.integers(0, len(centres), count)] + rng.normal(0.0, 3.0 * scale, (count, 2))
            headings = rng.uniform(0.0, 2.0 * pi, count)
        if canvas.chance(0.35):  # bundles
            strands = int(rng.integers(2, 7))
            bundles = -(-count // strands)
            which = rng.integers(0, bundles, count)
            starts = starts[which] + rng.normal(0.0, canvas.between(0.6, 4.0) * scale, (count, 2))
            headings = headings[which] + rng.normal(0.0, 0.06, count)
        points, walk, along = walks(
            canvas, starts.astype(np.float32), length_px=length_px, persistence_px=persistence_px, headings=headings
        )
        weights: Array = canvas.brightness(count, spread)[walk]
        if canvas.chance(0.6):
            phase = rng.uniform(0.0, 2.0 * pi, count).astype(np.float32)[walk]
            waves = np.float32(2.0 * pi * canvas.between(0.5, 4.0))
            weights = weights * (1.0 + canvas.between(0.1, 0.6) * np.sin(waves * along + phase)).astype(np.float32)
        if canvas.chance(0.3):  # speckles of sparse labels
            weights = weights * rng.gamma(canvas.decades(0.1, 1.0), size=len(weights)).astype(np.float32)
        radius_px = canvas.decades(0.2, 2.5) * scale
        light, mask = together((light, mask), line_light(canvas, points, weights, radius_px))
    return light, mask


def _tubules(canvas: Canvas) -> Light:
    """Draw mitochondria: short thick curved tubes, fragments or networks, even or hollow, often around nuclei."""
    scale, rng = canvas.scale, canvas.rng
    radius_px = canvas.decades(1.0, 4.0) * scale
    length_px = radius_px * canvas.decades(2.0, 40.0)
    density = canvas.decades(0.02, 0.6) / (2.0 * radius_px)
    reach_px = min(0.5 * length_px, 60.0)
    count = max(int(density * canvas.area_px / length_px), 1)
    starts: Array = canvas.places(count, reach_px)
    headings = headings_from(canvas, starts) if canvas.chance(0.3) else rng.uniform(0.0, 2.0 * pi, count)
    if canvas.chance(0.6):  # in cells, away from their nuclei
        cell_px = canvas.between(40.0, 110.0) * scale
        centres = canvas.places(1 + int(canvas.between(0.2, 1.0) * canvas.area_px / (6.0 * cell_px**2)), cell_px)
        toward = rng.uniform(0.0, 2.0 * pi, count)
        away = cell_px * (0.35 + np.abs(rng.normal(0.0, 0.35, count)))
        starts = centres[rng.integers(0, len(centres), count)]
        starts = starts + (away * np.stack([np.sin(toward), np.cos(toward)])).T
        starts[:1] = canvas.places(1)
        headings = headings if canvas.chance(0.4) else toward + rng.normal(0.0, 0.7, count)
    persistence_px = canvas.decades(6.0, 60.0) * scale
    points, walk, along = walks(
        canvas, starts.astype(np.float32), length_px=length_px, persistence_px=persistence_px, headings=headings
    )
    if canvas.chance(0.35) and len(points) > 10:  # branches
        chosen = points[rng.integers(0, len(points), max(count // 2, 1))]
        branches, branch, far = walks(
            canvas,
            chosen,
            length_px=0.5 * length_px + radius_px,
            persistence_px=persistence_px,
            headings=rng.uniform(0.0, 2.0 * pi, len(chosen)),
        )
        points = np.concatenate([points, branches])
        walk, along = np.concatenate([walk, branch % count]), np.concatenate([along, far])
    weights = canvas.brightness(count, canvas.between(0.1, 0.8))[walk]
    flat = canvas.chance(0.7)
    hollow = canvas.between(0.3, 0.8) if canvas.chance(0.25) else 0.0
    light, mask = line_light(canvas, points, weights, radius_px, flat=flat, hollow=hollow)
    if canvas.chance(0.6):
        grains = canvas.noise(canvas.between(0.8, 2.5) * max(radius_px, canvas.psf_px))
        light = light * np.exp(canvas.between(0.1, 0.5) * grains)
    return light, mask


def _membranes(canvas: Canvas) -> Light:
    """Draw membranes: bent edges between the nearest of many places, or outlines, of uneven thickness, with gaps."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = nothing(canvas)
    if canvas.chance(0.75):
        points: Array
        points, edge = edges_between(canvas, jittered_lattice(canvas, canvas.decades(10.0, 90.0) * scale))
    else:
        bodies = choose_bodies(canvas, canvas.decades(8.0, 70.0) * scale, cover=canvas.decades(0.15, 1.2))
        points, edge = outline_points(bodies)
    bend_px = canvas.decades(6.0, 40.0) * scale
    strength_px = np.float32(canvas.between(0.02, 0.16) * bend_px)
    at = tuple(points.T.astype(np.intp).clip(0, np.asarray(canvas.shape)[:, None] - 1))
    points = points + strength_px * np.stack([canvas.noise(bend_px)[at], canvas.noise(bend_px)[at]], axis=1)
    weights = canvas.brightness(int(edge.max(initial=0)) + 1, canvas.between(0.05, 0.7))[edge]
    weights = weights * np.exp(canvas.between(0.1, 0.6) * canvas.noise(canvas.decades(2.0, 30.0) * scale)[at])
    if canvas.chance(0.3):
        present = canvas.noise(canvas.decades(4.0, 20.0) * scale)[at] > canvas.between(-1.8, -0.6)
        points, weights, edge = points[present], weights[present], edge[present]
    layers = int(rng.integers(1, 3))
    for layer in range(layers):
        chosen = edge % layers == layer
        radius_px = canvas.decades(0.4, 4.0) * scale
        part = line_light(
            canvas, points[chosen], weights[chosen], radius_px, flat=radius_px > 2.0 and canvas.chance(0.5)
        )
        light, mask = together((light, mask), part)
    return light, mask


def _puncta(canvas: Canvas) -> Light:
    """Draw vesicles or single molecules: spots from unresolved to 4 px, evenly spread, in clusters or in cells."""
    scale, rng = canvas.scale, canvas.rng
    light, mask = nothing(canvas)
    density = canvas.decades(1e-4, 0.02) / scale**2
    count = max(int(density * canvas.area_px), 1)
    points: Array = canvas.places(count)
    layout = canvas.between(0.0, 1.0)
    if layout > 0.5:
        cell_px = canvas.decades(8.0, 60.0) * scale
        centres = canvas.places(1 + int(canvas.decades(0.05, 1.0) * canvas.area_px / (8.0 * cell_px**2)), cell_px)
        toward = rng.uniform(0.0, 2.0 * pi, count)
        away = np.abs(rng.normal(0.0, 0.6, count)) if layout > 0.75 else np.sqrt(rng.uniform(0.1, 1.0, count))
        points = centres[rng.integers(0, len(centres), count)]
        points = points + (cell_px * away * np.stack([np.sin(toward), np.cos(toward)])).T
        points[:1] = canvas.places(1)
        points = points.astype(np.float32)
    weights = canvas.brightness(count, canvas.between(0.1, 1.3))
    layers = int(rng.integers(1, 4))
    for layer in range(layers):
        radius_px = canvas.decades(0.05, 1.6) * scale
        sigma_px = sqrt(radius_px**2 + canvas.psf_px**2)
        part = spots(canvas, points[layer::layers], weights[layer::layers], sigma_px)
        light, mask = together((light, mask), part)
    return light, mask


def _blobs(canvas: Canvas) -> Light:
    """Draw textured cells of 8 to 400 px: smooth or irregular, with spots and bright edges, sparse to overlapping."""
    large = canvas.chance(0.15)
    radius_px = (canvas.decades(40.0, 200.0) if large else canvas.decades(4.0, 50.0)) * canvas.scale
    bodies = choose_bodies(canvas, radius_px, cover=canvas.decades(0.04, 1.3))
    profile = Profile(
        dome=canvas.between(0.0, 0.85) if canvas.chance(0.6) else 0.0,
        rim=canvas.between(0.2, 3.0) if canvas.chance(0.25) else 0.0,
        rim_px=max(canvas.between(0.05, 0.2) * radius_px, canvas.psf_px),
        overlap="sum" if canvas.chance(0.4) else "nearest",
    )
    light, cover = fill(canvas, bodies, profile)
    if canvas.chance(0.85):
        light = light * texture(canvas, radius_px * canvas.decades(0.05, 0.4), canvas.decades(0.05, 0.6))
    if canvas.chance(0.4):
        light = with_spots(canvas, light, bodies, radius_px)
    return canvas.blur(light, canvas.psf_px), body_mask(canvas, cover)


def _nuclei(canvas: Canvas) -> Light:
    """Draw nuclei with chromatin and nucleoli, some of them condensed, dividing or in fragments."""
    scale, rng = canvas.scale, canvas.rng
    radius_px = canvas.decades(5.0, 45.0) * scale
    bodies = choose_bodies(
        canvas,
        radius_px,
        cover=canvas.decades(0.04, 0.9),
        irregular=canvas.decades(0.005, 0.05),
        aspect=canvas.between(0.1, 0.7),
        spread=canvas.decades(0.1, 0.7),
    )
    profile = Profile(
        dome=canvas.between(0.0, 0.6),
        rim=canvas.between(0.1, 0.6) if canvas.chance(0.3) else 0.0,
        rim_px=0.15 * radius_px,
        overlap="sum" if canvas.chance(0.2) else "nearest",
    )
    special = rng.random(len(bodies)) < canvas.decades(0.02, 0.3)
    resting = bodies.chosen(~special) if special.any() else bodies
    light, cover = nothing(canvas)[0], nothing(canvas)[0]
    if len(resting):
        light, cover = fill(canvas, resting, profile)
        light = light * texture(canvas, radius_px * canvas.decades(0.06, 0.35), canvas.decades(0.05, 0.4))
        if canvas.chance(0.6):
            light = with_spots(canvas, light, resting, radius_px)
    if special.any():
        condensed = condense(canvas, bodies.chosen(special))
        more, body = fill(canvas, condensed, Profile(dome=0.3))
        light = np.maximum(light, more * texture(canvas, max(0.15 * radius_px, 1.0), 0.25))
        cover = np.maximum(cover, body)
    return canvas.blur(light, canvas.psf_px), body_mask(canvas, cover)


def _reticulum(canvas: Canvas) -> Light:
    """Draw networks in bodies of cells: level lines of smooth noise, denser towards the nuclei, which stay dark."""
    scale = canvas.scale
    radius_px = canvas.decades(30.0, 160.0) * scale
    bodies = choose_bodies(canvas, radius_px, cover=canvas.decades(0.25, 1.3), irregular=canvas.decades(0.03, 0.12))
    glow, cover = fill(canvas, bodies, Profile(dome=canvas.between(0.3, 0.85)))
    mesh_px = canvas.decades(2.5, 9.0) * scale
    width = canvas.between(0.12, 0.4)
    first, second = canvas.noise(mesh_px), canvas.noise(mesh_px * canvas.between(0.8, 1.6))
    net = np.maximum(np.exp(-((first / width) ** 2)), canvas.between(0.3, 1.0) * np.exp(-((second / width) ** 2)))
    net = net * np.exp(canvas.between(0.1, 0.6) * canvas.noise(mesh_px * canvas.between(2.0, 8.0)))
    light = glow * (canvas.between(0.15, 0.6) + net)
    if canvas.chance(0.7):
        light = light * nuclear_shade(canvas, bodies, canvas.between(0.5, 0.85))
    return canvas.blur(light, canvas.psf_px), body_mask(canvas, cover)


def _cells(canvas: Canvas) -> Light:
    """Draw bodies of cells that glow and hold puncta, filaments or tubules, with bright or dark nuclei."""
    radius_px = canvas.decades(12.0, 140.0) * canvas.scale
    bodies = choose_bodies(canvas, radius_px, cover=canvas.decades(0.1, 1.2), irregular=canvas.decades(0.02, 0.12))
    glow, cover = fill(
        canvas,
        bodies,
        Profile(
            dome=canvas.between(0.0, 0.85),
            rim=canvas.between(0.2, 2.0) if canvas.chance(0.3) else 0.0,
            rim_px=max(0.06 * radius_px, canvas.psf_px),
            overlap="sum" if canvas.chance(0.3) else "nearest",
        ),
    )
    light = glow * texture(canvas, radius_px * canvas.decades(0.04, 0.3), canvas.decades(0.05, 0.4))
    if canvas.chance(0.7):
        light = light * nuclear_shade(canvas, bodies, canvas.between(-1.0, 0.8))
    light = canvas.blur(light, canvas.psf_px)
    if canvas.chance(0.75):
        inner = (_puncta, _filaments, _tubules)[int(canvas.rng.integers(3))](canvas)[0]
        held = inner / np.float32(max(float(np.quantile(inner[::3, ::3], 0.99)), 1e-3)) * glow
        light = light + np.float32(canvas.decades(0.3, 4.0)) * np.minimum(held, 3.0 * glow)
    return light, body_mask(canvas, cover)


def _tissue(canvas: Canvas) -> Light:
    """Draw dense tissue: nuclei, fibres and membranes of very different brightness on top of each other."""
    light, mask = nothing(canvas)
    makers = (_nuclei, _blobs, _filaments, _membranes, _puncta)
    weights = (0.3, 0.25, 0.2, 0.15, 0.1)
    for number in canvas.rng.choice(len(makers), size=2, replace=False, p=weights):
        more, where = makers[int(number)](canvas)
        level = float(np.quantile(more[::2, ::2], 0.995))
        part = more * np.float32(canvas.decades(0.15, 1.0) / max(level, 1e-3))
        part = part * np.exp(canvas.between(0.2, 0.8) * canvas.noise(canvas.decades(20.0, 120.0) * canvas.scale))
        light, mask = light + part, mask | where
    return light, mask


MAKERS: dict[str, Callable[[Canvas], Light]] = {
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
