"""CIFAR-10 in its official layout, read and downloaded by torchvision."""

import http.client
import socket
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from training.sources.cache import FORMAT, Append, load_cached
from training.sources.dataset import Dataset, Split, digest
from training.sources.decode import fit

TIMEOUT_S = 10.0
"""Longest wait for a connection, or for the next bytes of one."""


def is_present(root: Path) -> bool:
    """Return whether the official folder lies under ``root``; its content is checked when it is decoded."""
    return (root / CIFAR10.base_folder).is_dir()


def load_cifar10(root: Path, *, image_size: int) -> Dataset:
    """Read the official set under ``root``, or its cached copy there.

    Images are in the set's own order. Another ``image_size`` than 32 resizes them (bilinear, antialiased). Every file's MD5 is
    checked when it is first read. Fingerprint: the image size and the MD5 of each file, as torchvision lists them.

    Raises ValueError if the set is missing or damaged.
    """
    folder = root / CIFAR10.base_folder
    files = [*CIFAR10.train_list, *CIFAR10.test_list]
    paths = [folder / name for name, _ in files]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise ValueError(
            f"no CIFAR-10 under {root} ({missing.name} is missing): add --download, or put {CIFAR10.base_folder}/ there"
        )
    fingerprint = digest(image_size, files)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = digest(FORMAT, fingerprint, stats)
    decoded = load_cached(root, key, image_size=image_size, fill=lambda append: _decode(root, image_size, append))
    count = int(decoded.info["train"])
    images, labels = torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)
    return Dataset(
        name="cifar10", fingerprint=fingerprint, source="CIFAR-10, official files", classes=tuple(decoded.info["classes"]),
        train=Split(images=images[:count], labels=labels[:count]), test=Split(images=images[count:], labels=labels[count:]),
    )  # fmt: skip


def _decode(root: Path, image_size: int, append: Append) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        parts = [CIFAR10(root, train=train) for train in (True, False)]
    except RuntimeError:  # torchvision raises it for an MD5 that differs
        raise ValueError(f"CIFAR-10 under {root} is damaged: remove {CIFAR10.base_folder}/ there, or add --download") from None
    for part in parts:
        append(_resize(part.data, image_size).transpose(0, 3, 1, 2))
    labels = np.array([label for part in parts for label in part.targets], np.int64)
    return labels, {"train": len(parts[0].targets), "classes": list(parts[0].classes)}


def _resize(images_BHWC: np.ndarray, size: int) -> np.ndarray:
    if images_BHWC.shape[1] == size:
        return images_BHWC
    return np.stack([np.asarray(fit(Image.fromarray(image), size)) for image in images_BHWC])


# ---- download ---------------------------------------------------------------------------------------------------------


def download_cifar10(root: Path) -> None:
    """Download and unpack the official archive into ``root``, unless it is there and whole.

    Raises ValueError if the server fails or stalls, the disk is full, or the archive's MD5 is not the official one; a wrong
    archive is removed.
    """
    archive = root / CIFAR10.filename
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets none: a stalled connection would hang for ever
    try:
        CIFAR10(root, download=True)
    except (OSError, RuntimeError, tarfile.TarError, http.client.HTTPException, EOFError, zlib.error) as error:
        archive.unlink(missing_ok=True)  # it would block the next attempt
        reason = "the MD5 of the archive is not the official one" if isinstance(error, RuntimeError) else error
        raise ValueError(f"CIFAR-10 could not be downloaded from {CIFAR10.url}: {reason}") from error
    finally:
        socket.setdefaulttimeout(before)
