"""Batches that the grid augments: real images if available, on the device and in the dtype of the case."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.records import Speed

IMAGES = 256
"""Most distinct images; larger batches repeat them, which costs an augmentation the same."""
CACHE_BYTES = 512 * 2**20


class Inputs:
    """Batches by case, from one data set (``training.data.load``).

    The data set is decoded once at 32 x 32 and enlarged from there: the time of an augmentation does not depend on detail, and
    a whole set decoded at 512 x 512 does not fit into memory. Raises ValueError for a data set that cannot be read.
    """

    def __init__(self, data: str, root: Path, *, download: bool = False) -> None:
        from training.data import load

        dataset = load(data, root=root, image_size=32, download=download)
        self.dataset: dict[str, Any] = {name: getattr(dataset, name) for name in ("name", "fingerprint", "source", "fallback")}
        """Name, fingerprint, source, and why a substitute was taken if one was."""
        # Evenly over the set, which may be ordered by class; a copy, so that the set itself can be freed.
        self._images = dataset.train.images[:: max(1, len(dataset.train) // IMAGES)][:IMAGES].clone()
        self._batches: OrderedDict[tuple[Any, ...], tuple[Tensor, Tensor]] = OrderedDict()

    def _resized(self, height: int, width: int, count: int) -> Tensor:
        images, side = self._images[:count], max(height, width)
        if side != images.shape[-1]:
            images = nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        top, left = (side - height) // 2, (side - width) // 2
        return images[:, :, top : top + height, left : left + width][torch.arange(count) % len(images)]

    def batch(self, case: Speed) -> tuple[Tensor, Tensor]:
        """Return images [B, 3, H, W] and labels int64 [B] (of ten classes) on the case's device.

        Recipes get uint8; ops get ``case.dtype``, floats in [0, 1].
        """
        assert case.batch_size is not None
        assert case.image_size is not None
        dtype = torch.uint8 if case.suite == "recipes" else getattr(torch, case.dtype)
        key = (case.device, case.batch_size, case.image_size, case.width, dtype)
        if key not in self._batches:
            images = self._resized(case.image_size, case.width, case.batch_size).to(case.device)
            if dtype != torch.uint8:
                images = (images.float() / 255).to(dtype)
            self._batches[key] = (images.contiguous(), torch.arange(case.batch_size, device=case.device) % 10)
            while len(self._batches) > 1 and sum(i.nbytes for i, _ in self._batches.values()) > CACHE_BYTES:
                self._batches.popitem(last=False)
        self._batches.move_to_end(key)
        return self._batches[key]

    def clear(self) -> None:
        """Free the batches, after a case ran out of memory."""
        self._batches.clear()
