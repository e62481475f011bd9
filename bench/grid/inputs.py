"""The batches that are augmented: real images where there are some, on the device and in the dtype of the case."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.grid.cases import Case

IMAGES = 256
"""Different images at most; larger batches repeat them, which costs an augmentation the same."""
CACHE_BYTES = 512 * 2**20


class Inputs:
    """Batches by case, from one dataset (``training.data.load``).

    It is decoded once at 32 x 32, enlarged from there and cut to shape: how long an augmentation takes does not depend on
    detail, and a whole set decoded at 512 x 512 does not fit a memory. ``dataset`` says which it is: name, fingerprint, and
    why a substitute was taken if one was. Raises ValueError for a dataset that cannot be read.
    """

    def __init__(self, data: str, root: Path) -> None:
        from training.data import load

        loaded = load(data, root=root, image_size=32)
        self.dataset: dict[str, Any] = {
            "name": loaded.name,
            "fingerprint": loaded.fingerprint,
            "source": loaded.source,
            "fallback": loaded.fallback,
        }
        # Evenly over the set, as it may be in the order of classes; a copy, so that the set itself can go.
        self._images = loaded.train.images[:: max(1, len(loaded.train) // IMAGES)][:IMAGES].clone()
        self._batches: OrderedDict[tuple[Any, ...], tuple[Tensor, Tensor]] = OrderedDict()

    def _of_size(self, height: int, width: int, count: int) -> Tensor:
        images, side = self._images[:count], max(height, width)
        if side != images.shape[-1]:
            images = nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        top, left = (side - height) // 2, (side - width) // 2
        return images[:, :, top : top + height, left : left + width][torch.arange(count) % len(images)]

    def batch(self, case: Case) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and labels int64 [B] (of ten classes) on the case's device.

        Recipes get uint8; ops get ``case.dtype``, floats in [0, 1].
        """
        dtype = torch.uint8 if case.suite == "recipes" else getattr(torch, case.dtype)
        key = (case.device, case.batch_size, case.image_size, case.width, dtype)
        if key not in self._batches:
            images = self._of_size(case.image_size, case.width, case.batch_size).to(case.device)
            if dtype != torch.uint8:
                images = (images.float() / 255).to(dtype)
            self._batches[key] = (images.contiguous(), torch.arange(case.batch_size, device=case.device) % 10)
            while len(self._batches) > 1 and sum(i.nbytes for i, _ in self._batches.values()) > CACHE_BYTES:
                self._batches.popitem(last=False)
        self._batches.move_to_end(key)
        return self._batches[key]

    def forget(self) -> None:
        """Give the batches' memory back, after a case ran out of it."""
        self._batches.clear()
