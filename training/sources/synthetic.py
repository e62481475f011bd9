"""A data set of drawn shapes that needs no network and no disk, and on which augmentation matters.

Ten shapes, none of which is its own mirror image or another's. In training images every shape faces right and lies near the
centre; test images are mirrored half of the time and shifted by up to a fifth of their side. A net that is trained on flipped
and cropped images therefore does better on them.
"""

from collections.abc import Callable

import numpy as np
import torch

from training.sources.dataset import Dataset, Split, digest

VERSION = 1
"""Part of the fingerprint; raise it when the drawing changes."""

TRAIN_IMAGES = 2000
TEST_IMAGES = 2000
TRAIN_SHIFT, TEST_SHIFT = 1 / 32, 6 / 32  # largest shift, as a share of the side
RADIUS = (0.22, 0.34)  # half the side of a shape, as a share of the image's
TILT_DEGREES = 12.0
NOISE_SD = 18.0  # on the scale 0..255
SUPERSAMPLING = 2  # samples a pixel along each axis, which soften the edges

Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _box(u: np.ndarray, v: np.ndarray, left: float, right: float, top: float, bottom: float) -> np.ndarray:
    return (u > left) & (u < right) & (v > top) & (v < bottom)


def _ring(u: np.ndarray, v: np.ndarray, x: float, y: float, radius: float, thickness: float) -> np.ndarray:
    return np.abs(np.hypot(u - x, v - y) - radius) < thickness / 2


def _pole(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, -0.8, -0.45, -1.0, 1.0)


SHAPES: dict[str, Mask] = {
    "angle": lambda u, v: _pole(u, v) | _box(u, v, -0.8, 0.8, 0.65, 1.0),
    "arrow": lambda u, v: _box(u, v, -1.0, 0.1, -0.2, 0.2) | ((u > 0.0) & (u < 1.0) & (np.abs(v) < 0.9 * (1.0 - u))),
    "comb": lambda u, v: _pole(u, v) | _box(u, v, -0.8, 0.8, -1.0, 1.0) & (np.abs(np.abs(v) - 0.42) > 0.25),
    "crescent": lambda u, v: (np.hypot(u, v) < 0.95) & (np.hypot(u - 0.45, v) > 0.75),
    "flag": lambda u, v: _pole(u, v) | ((u > -0.5) & (u < 0.9) & (np.abs(v + 0.4) < 0.6 * (0.9 - u) / 1.4)),
    "key": lambda u, v: _box(u, v, -1.0, 0.1, -0.17, 0.17) | _ring(u, v, 0.5, 0.0, 0.4, 0.3),
    "loop": lambda u, v: _pole(u, v) | _ring(u, v, -0.1, -0.4, 0.5, 0.32) & (u > -0.8),
    "seven": lambda u, v: _box(u, v, -0.8, 0.8, -1.0, -0.65) | _box(u + 0.6 * v, v, 0.0, 0.4, -1.0, 1.0),
    "wedge": lambda u, v: (u > -0.8) & (v < 0.8) & (v > u),
    "zigzag": lambda u, v: _box(u, np.abs(v), -0.8, 0.8, 0.65, 1.0) | _box(u + 0.8 * v, v, -0.2, 0.2, -1.0, 1.0),
}
"""Masks of the points inside a shape, in coordinates that run right and down from -1 to 1."""


def draw_shapes(*, image_size: int = 32, seed: int = 0, fallback: str | None = None) -> Dataset:
    """Draw 2,000 + 2,000 images, 200 of each class, in a second or two at 32 pixels.

    The fingerprint names the definition: version, image size and seed. These determine the pixels, up to rounding that may
    differ between processors.
    """
    train = _draw_split(TRAIN_IMAGES, image_size, TRAIN_SHIFT, mirrored=0.0, rng=np.random.default_rng((seed, 0)))
    test = _draw_split(TEST_IMAGES, image_size, TEST_SHIFT, mirrored=0.5, rng=np.random.default_rng((seed, 1)))
    return Dataset(
        name="synthetic", fingerprint=digest("synthetic", VERSION, image_size, seed), source="drawn shapes (built in)",
        classes=tuple(SHAPES), train=train, test=test, fallback=fallback,
    )  # fmt: skip


def _draw_split(count: int, size: int, shift: float, *, mirrored: float, rng: np.random.Generator) -> Split:
    per_class = count // len(SHAPES)
    images = [_draw_class(mask, per_class, size, shift, mirrored, rng) for mask in SHAPES.values()]
    labels = torch.arange(len(SHAPES)).repeat_interleave(per_class)
    return Split(images=torch.from_numpy(np.concatenate(images)), labels=labels)


def _draw_class(mask: Mask, count: int, size: int, shift: float, mirrored: float, rng: np.random.Generator) -> np.ndarray:
    inside_BHW = _coverage(mask, count, size, shift, mirrored, rng)[:, None]
    background, shape = _colours(count, rng)
    light_BHW = 1 + rng.uniform(-0.3, 0.3, (count, 1, 1, 1)) * np.linspace(-1, 1, size)
    images = (background + (shape - background) * inside_BHW) * light_BHW
    images += rng.normal(0, NOISE_SD, (count, 3, size, size))
    return images.clip(0, 255).round().astype(np.uint8)


def _coverage(mask: Mask, count: int, size: int, shift: float, mirrored: float, rng: np.random.Generator) -> np.ndarray:
    """Return the share of each pixel that the shape covers, float32 [B, H, W], for shapes placed at random."""
    fine = size * SUPERSAMPLING
    axis = ((np.arange(fine) + 0.5) / fine - 0.5).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    x, y = x - draw(-shift, shift), y - draw(-shift, shift)
    x = np.where(rng.random((count, 1, 1)) < mirrored, -x, x)
    tilt = np.deg2rad(draw(-TILT_DEGREES, TILT_DEGREES))
    radius = draw(*RADIUS)
    u = (x * np.cos(tilt) + y * np.sin(tilt)) / radius
    v = (y * np.cos(tilt) - x * np.sin(tilt)) / radius
    blocks = mask(u, v).reshape(count, size, SUPERSAMPLING, size, SUPERSAMPLING)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def _colours(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw background and shape colours [B, 3, 1, 1] on the scale 0..255; either one is much lighter than the other."""
    dark, light = rng.uniform(0, 110, (count, 3)), rng.uniform(130, 255, (count, 3))
    swap = rng.random((count, 1)) < 0.5
    background, shape = np.where(swap, light, dark), np.where(swap, dark, light)
    return background[:, :, None, None], shape[:, :, None, None]
