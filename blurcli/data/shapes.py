"""Procedural images: circles, squares and triangles with soft shading on a smooth background."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from blurcli.base.errors import UsageError
from blurcli.data.dataset import Dataset, Request
from blurcli.data.packed_cache import digest_of, load_packed, pack

KINDS = ("circle", "square", "triangle")
_VERSION = "1"  # part of every fingerprint: raise it when the pixels for the same arguments change
_CHUNK = 1024
_MAX_OBJECTS = 2

Floats = NDArray[np.floating]


def load_shapes(request: Request) -> Dataset:
    """The dataset `shapes`, drawn unless it is in the cache; the classes are `KINDS`.

    Raises:
        UsageError: classes are requested for images with several objects, or the number of classes differs.
        UserError: the cache cannot be written.
    """
    channels, height, width = request.shape
    count, objects = request.options.shapes_count, request.options.shapes_objects
    seed = {"train": 0, "test": 1}[request.split]
    few = f"{objects} object/" if objects < _MAX_OBJECTS else ""
    fingerprint = digest_of(f"shapes-{_VERSION}/{request.split}/{count}/{few}{request.form}")
    images = load_packed(fingerprint, request.shape)
    if images is None:
        chunks = _chunks(count, height, width, channels, seed, objects)
        images = pack((chunk for chunk, _ in chunks), request.shape, lambda: fingerprint)
    dataset = Dataset(images, fingerprint, f"shapes {request.split}")
    if request.classes is None:
        return dataset
    if objects > 1 and isinstance(request.classes, tuple):
        return dataset
    if objects > 1:
        raise UsageError("data.classes: shapes have classes only with one object per image: set data.shapes_objects to 1")
    _, kinds = draw_shapes(count, 1, 1, 1, seed, objects)  # the size changes no random number
    return dataset.with_classes(kinds, KINDS, request.classes)


def draw_shapes(
    count: int, height: int, width: int, channels: int, seed: int, objects: int = _MAX_OBJECTS
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images; image i depends on (seed, i), the size and `objects` only.

    Each image has 1 to `objects` bright objects in separate quadrants on a dark background.

    Args:
        count: number of images.
        height: in pixels.
        width: in pixels.
        channels: 3 for color, 1 for its luma.
        seed: at least 0.
        objects: largest number of objects per image, 1 or 2.

    Returns:
        (count, channels, height, width) uint8, and the index in `KINDS` of the first object of each image, (count,).
    """
    chunks = _chunks(count, height, width, channels, seed, objects)
    images, kinds = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return images, kinds


def _chunks(
    count: int, height: int, width: int, channels: int, seed: int, objects: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The result of `draw_shapes` in parts, to save memory."""
    for first in range(0, count, _CHUNK):
        images, kinds = _draw_chunk(np.random.default_rng([seed, first // _CHUNK]), height, width, objects)
        if channels == 1:
            images = (images * np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]).sum(1, keepdims=True)
        left = count - first
        yield np.rint(images * 255).astype(np.uint8)[:left], kinds[:left]


def _draw_chunk(rng: np.random.Generator, height: int, width: int, objects: int) -> tuple[Floats, NDArray[np.int64]]:
    """`_CHUNK` images, (N, 3, H, W) in [0, 1], and the kinds of their first objects; the shorter side is the unit."""
    side = min(height, width)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / side)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / side)[None, :]

    # Background: bilinear between four dark, related colors at the corners.
    base = _colors(rng, (_CHUNK, 1, 1), saturation=(0.1, 0.5), value=(0.1, 0.25))
    corners = np.clip(base + rng.uniform(-0.05, 0.05, (_CHUNK, 3, 2, 2)).astype(np.float32), 0, 1)
    across, down = x * side / width, y * side / height
    images = (corners[..., 0:1, 0:1] * (1 - across) + corners[..., 0:1, 1:2] * across) * (1 - down)
    images += (corners[..., 1:2, 0:1] * (1 - across) + corners[..., 1:2, 1:2] * across) * down

    counts = rng.integers(1, _MAX_OBJECTS + 1, _CHUNK).clip(max=objects)
    first = np.empty(0, np.int64)
    quadrants = rng.permuted(np.tile(np.arange(4), (_CHUNK, 1)), axis=1)
    for k in range(objects):
        kind = rng.integers(len(KINDS), size=_CHUNK)
        first = first if k else kind
        radius = rng.uniform(0.16, 0.23, _CHUNK)
        jitter = (0.245 - radius) * rng.uniform(-1, 1, (2, _CHUNK))
        center_y = (quadrants[:, k] // 2 * 0.5 + 0.25) * height / side + jitter[0]
        center_x = (quadrants[:, k] % 2 * 0.5 + 0.25) * width / side + jitter[1]
        turn = rng.uniform(-0.15, 0.15, _CHUNK)
        color = _colors(rng, (_CHUNK, 1, 1), saturation=(0.4, 0.85), value=(0.75, 1.0))
        light = rng.uniform(0, 2 * np.pi, _CHUNK)

        dy, dx = y - _per_image(center_y), x - _per_image(center_x)
        outside = _signed_distance(kind, dx, dy, _per_image(radius), turn)
        coverage = np.clip(0.5 - outside * side, 0, 1) * _per_image(counts > k)
        shade = 1 - 0.25 * (0.5 + (np.cos(_per_image(light)) * dx + np.sin(_per_image(light)) * dy) / _per_image(radius) / 2)
        images = images + coverage[:, None] * (color * np.clip(shade, 0, 1)[:, None] - images)
    return images.astype(np.float32), first


def _signed_distance(kind: NDArray[np.int64], dx: Floats, dy: Floats, radius: Floats, turn: NDArray[np.float64]) -> Floats:
    """Distance to the outline, negative inside; polygons are intersections of half-planes. (N, H, W)."""
    distance = np.hypot(dx, dy) - radius
    for corners, inradius, kind_index in ((4, 0.84, 1), (3, 0.6, 2)):
        angles = [2 * np.pi * k / corners + np.pi / 2 + turn for k in range(corners)]
        planes = [np.cos(_per_image(a)) * dx + np.sin(_per_image(a)) * dy for a in angles]
        polygon = np.maximum.reduce(planes) - inradius * radius
        distance = np.where(_per_image(np.equal(kind, kind_index)) > 0, polygon, distance)
    return distance


def _colors(
    rng: np.random.Generator, shape: tuple[int, int, int], saturation: tuple[float, float], value: tuple[float, float]
) -> Floats:
    """Random colors, (N, 3, 1, 1): hue uniform, saturation and value uniform in the given ranges (HSV)."""
    hue = rng.uniform(0, 6, shape)
    s, v = rng.uniform(*saturation, shape), rng.uniform(*value, shape)
    channels = [v * (1 - s * np.clip(np.minimum((n + hue) % 6, 4 - (n + hue) % 6), 0, 1)) for n in (5, 3, 1)]
    return np.stack(channels, axis=1).astype(np.float32)


def _per_image(values: NDArray[np.generic]) -> Floats:
    return values.astype(np.float32)[:, None, None]
