"""Augmentations as augmark compares them, by library and by way of running. Start at ``build``.

An op stands in ``augment.ops``, a recipe in ``augment.recipes``, a backend in ``augment.backends``, each in one place. An
absent cell *is* "unsupported".
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from augment import fused, ops
from augment.backends import (
    BACKENDS,
    Backend,
    check_supported,
    eager_backends,
    fallback_device,
    find_backend,
    known_differences,
    lane,
)
from augment.op import OPS, Op, UnsupportedOp
from augment.pipeline import Pipeline, check_device
from augment.recipes import PHOTOGRAPH_RECIPES, RECIPES

__all__ = [
    "BACKENDS", "OPS", "PHOTOGRAPH_RECIPES", "RECIPES", "Backend", "Op", "Pipeline", "UnsupportedOp", "build",
    "check_device", "check_supported", "eager_backends", "fallback_device", "find_backend", "fused", "known_differences",
    "lane", "ops", "resolve",
]  # fmt: skip


DEFAULT_SIZE = 32
"""Side of the images of CIFAR, for which named recipes and ops are made by default."""


def resolve(subject: str | Op | Sequence[Op], image_size: int = DEFAULT_SIZE) -> tuple[Op, ...]:
    """Return the ops of a recipe's name, an op's name, an op or several ops. Raises ValueError for an unknown name."""
    if isinstance(subject, str):
        if subject in RECIPES:
            return RECIPES[subject](image_size)
        if subject in OPS:
            return (OPS[subject].at(image_size),)
        raise ValueError(f"unknown recipe or op {subject!r}; known: {', '.join((*RECIPES, *OPS))}")
    return (subject,) if isinstance(subject, Op) else tuple(subject)


def build(
    subject: str | Op | Sequence[Op],
    backend: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int | None = None,
    num_classes: int = 10,
    generator: torch.Generator | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Pipeline:
    """Build a recipe (by name), an op (by name or value) or a sequence of ops for a backend.

    Args:
        subject: what to build.
        backend: name of a backend (``BACKENDS``).
        device: where batches will be; the library's parameters are put there.
        dtype: of the result. Recipes end normalised, single ops in [0, 1] (or uint8, 0..255).
        image_size: side of the square input images, from which named subjects take their sizes. Without it they are made for
            32x32 and refuse other images if that changes them.
        num_classes: length of the soft targets of MixUp and CutMix.
        generator: source of randomness; without one the libraries draw from torch's global generator of the device. A pipeline
            with a generator cannot be traced by ``torch.compile(fullgraph=True)``, which takes no generators.
        memory_format: of the result: torch.contiguous_format or torch.channels_last.

    Returns:
        A pipeline, called with images [B, 3, H, W], and labels where an op mixes them.

    Raises:
        UnsupportedOp: the backend lacks an op, or cannot do it with these parameters, in this dtype or on this device.
        ValueError: unknown recipe, op, backend or device; a dtype that is not an image's; no classes.
    """
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a float type, or torch.uint8, got {dtype}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    ops = resolve(subject, DEFAULT_SIZE if image_size is None else image_size)
    chosen, on_device = find_backend(backend), check_device(device)
    check_supported(ops, backend, dtype, on_device)
    common: dict[str, Any] = {"dtype": dtype, "memory_format": memory_format, "num_classes": num_classes}
    options = {"device": on_device, "generator": generator, **common}
    is_named = isinstance(subject, str)
    has_sizes = is_named and image_size is None and ops != resolve(subject, 2 * DEFAULT_SIZE)
    return Pipeline(
        ops=ops, backend=backend, lane=lane(ops, backend), run=chosen.compose(ops, **options),
        side=DEFAULT_SIZE if has_sizes else None,
        rebuild=partial(build, subject if is_named else ops, backend, image_size=image_size, **options), **common,
    )  # fmt: skip
