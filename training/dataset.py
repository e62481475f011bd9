"""What a decoded data set is, and class-balanced subsets of it."""

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

    ``files`` holds the file of each image, for who wants to decode it again; None where there is no such file.
    """

    images: Tensor
    labels: Tensor
    files: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """The same on a device: this one, if it is there already."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A decoded data set. ``fingerprint`` names its content: 16 hex digits of a SHA-256, defined by each source.

    ``source`` says in words where it is from, ``fallback`` (None unless ``auto`` found no CIFAR-10) why it is the synthetic
    set, and ``skipped`` lists the files left out, each with the reason.
    """

    name: str
    fingerprint: str
    source: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    fallback: str | None = None
    skipped: tuple[str, ...] = ()


def digest(*parts: object) -> str:
    """16 hex digits of the SHA-256 of the parts' representations: for plain values, the same on every machine."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def subset(dataset: Dataset, *, max_train: int | None, max_test: int | None, seed: int) -> Dataset:
    """At most so many images, equally many of each class (as far as a class has them), chosen by ``seed``; order is kept.

    A number that is no multiple of the classes is rounded down to one. The name then tells the sizes and the fingerprint is
    another. Raises ValueError for less than one image a class.
    """
    train = _balanced(dataset.train, max_train, len(dataset.classes), "max_train", seed)
    test = _balanced(dataset.test, max_test, len(dataset.classes), "max_test", seed)
    if train is dataset.train and test is dataset.test:
        return dataset
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name} ({len(train):,} + {len(test):,} images)",
        fingerprint=digest(dataset.fingerprint, len(train), len(test), seed),
        train=train,
        test=test,
    )


def _balanced(split: Split, most: int | None, classes: int, option: str, seed: int) -> Split:
    if most is None or most >= len(split):
        return split
    if most < classes:
        raise ValueError(f"{option} must be at least {classes}, one image a class, got {most}")
    rng = np.random.default_rng((seed, len(split)))
    labels = split.labels.numpy()
    chosen = [rng.permutation(np.flatnonzero(labels == label))[: most // classes] for label in range(classes)]
    indices = torch.from_numpy(np.sort(np.concatenate(chosen)))
    files = None if split.files is None else tuple(split.files[index] for index in indices.tolist())
    return Split(images=split.images[indices], labels=split.labels[indices], files=files)
