"""Decoded data sets, what is known of them, and class-balanced subsets."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """``images`` uint8 [N, 3, H, W] and ``labels`` int64 [N], in the order of classes, then of file names.

    ``files`` holds the file of each image, so that it can be decoded again; None if there is no such file.
    """

    images: Tensor
    labels: Tensor
    files: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device; no copy if it is there already."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Identity and sizes of a data set, as plain values; ``fallback`` and ``skipped`` as in ``Dataset``."""

    name: str
    fingerprint: str
    fallback: str | None
    skipped: tuple[str, ...]
    train_images: int
    test_images: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A decoded data set. ``fingerprint`` names its content: 16 hex digits of a SHA-256, defined by each source.

    ``source`` says in words where the images are from. ``fallback`` is the reason why ``auto`` took the synthetic set, else
    None. ``skipped`` lists the files left out, each with the reason.
    """

    name: str
    fingerprint: str
    source: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    fallback: str | None = None
    skipped: tuple[str, ...] = ()

    @property
    def facts(self) -> DataFacts:
        """Identity and sizes, without the images."""
        return DataFacts(
            name=self.name, fingerprint=self.fingerprint, fallback=self.fallback, skipped=self.skipped,
            train_images=len(self.train), test_images=len(self.test),
        )  # fmt: skip


def digest(*parts: object) -> str:
    """Return 16 hex digits of the SHA-256 of the parts' representations; equal on every machine for plain values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def subset(dataset: Dataset, *, max_train: int | None, max_test: int | None, seed: int) -> Dataset:
    """Return at most so many images, equally many of each class (as far as a class has them), chosen by ``seed``.

    The order is kept. A number that is no multiple of the classes is rounded down to one. The subset's name tells its sizes,
    and its fingerprint differs from the whole set's. Raises ValueError for less than one image a class.
    """
    train = _balance(dataset.train, max_train, len(dataset.classes), "max_train", seed)
    test = _balance(dataset.test, max_test, len(dataset.classes), "max_test", seed)
    if train is dataset.train and test is dataset.test:
        return dataset
    name = f"{dataset.name} ({len(train):,} + {len(test):,} images)"
    fingerprint = digest(dataset.fingerprint, len(train), len(test), seed)
    return dataclasses.replace(dataset, name=name, fingerprint=fingerprint, train=train, test=test)


def _balance(split: Split, limit: int | None, classes: int, option: str, seed: int) -> Split:
    if limit is None or limit >= len(split):
        return split
    if limit < classes:
        raise ValueError(f"{option} must be at least {classes}, one image a class, got {limit}")
    rng = np.random.default_rng((seed, len(split)))
    labels = split.labels.numpy()
    chosen = [rng.permutation(np.flatnonzero(labels == label))[: limit // classes] for label in range(classes)]
    indices = torch.from_numpy(np.sort(np.concatenate(chosen)))
    files = None if split.files is None else tuple(split.files[index] for index in indices.tolist())
    return Split(images=split.images[indices], labels=split.labels[indices], files=files)
