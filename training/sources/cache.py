"""Cache of decoded data sets: one uint8 array in an .npy file that is memory-mapped.

A set's folder is named by its key, so that changed files make another entry. It appears by one rename when it is complete: a
killed or failed decoding leaves nothing that could be taken for a set.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 3
"""Part of every key; raise it when decoding, or the noted facts, change."""

Append = Callable[[np.ndarray], None]
"""Function that takes the next images, uint8 [k, 3, H, W]."""
Fill = Callable[[Append], tuple[np.ndarray, dict[str, Any]]]
"""Hands over all images in order; returns their labels, int64 [N], and the facts to note (JSON values)."""


@dataclass(frozen=True, kw_only=True)
class DecodedSet:
    """``images`` uint8 [N, 3, H, W] mapped copy-on-write, ``labels`` int64 [N], ``info`` as noted by the source."""

    images: np.ndarray
    labels: np.ndarray
    info: dict[str, Any]


def load_cached(root: Path, key: str, *, image_size: int, fill: Fill) -> DecodedSet:
    """Return the set of that key, decoded by ``fill`` unless a cache holds it.

    A new entry goes to the first writable folder of ``root``/.cache, the user's cache folder and the temporary folder.
    """
    folders = [root / ".cache", *_user_cache(), Path(tempfile.gettempdir()) / "augmark-cache"]
    for folder in folders:
        entry = _read(folder / key)
        if entry is not None:
            return entry
    target = next((folder for folder in folders if _is_writable(folder)), None)
    if target is None:
        raise OSError(f"no place to cache decoded images: none of {', '.join(map(str, folders))} can be written")
    _write(target / key, image_size, fill)
    written = _read(target / key)
    assert written is not None, "a cache entry that was just written cannot be read"
    return written


def _user_cache() -> list[Path]:
    """Return our folder in the user's cache; none for a user without a home."""
    try:
        return [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "augmark"]
    except RuntimeError:  # Path.home finds none
        return []


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _read(entry: Path) -> DecodedSet | None:
    """Return the entry, or None if it is missing or damaged; a damaged one is removed so that it is made anew."""
    if not entry.is_dir():
        return None
    try:
        labels = np.load(entry / "labels.npy")
        # Mapped copy-on-write ("c"), not read-only: torch warns about memory that it must not write.
        images = np.load(entry / "images.npy", mmap_mode="c")
        info = json.loads((entry / "info.json").read_text())
    except (OSError, ValueError, EOFError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return DecodedSet(images=images, labels=labels, info=info)


def _write(entry: Path, image_size: int, fill: Fill) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{entry.name}-", dir=entry.parent))
    try:
        # Plain writes, not a writable map: a full disk is then an OSError, not a bus error that kills the process.
        with open(scratch / "images.npy", "wb") as file:
            _write_header(file, 0, image_size)
            labels, info = fill(lambda images: _append(file, images))
            file.seek(0)  # the count is known now; numpy leaves room in the header for a larger number
            _write_header(file, len(labels), image_size)
        np.save(scratch / "labels.npy", labels)
        (scratch / "info.json").write_text(json.dumps(info))
        scratch.chmod(0o755)
        try:
            scratch.rename(entry)
        except OSError:  # another process was faster, with the same content
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_header(file: BinaryIO, count: int, image_size: int) -> None:
    shape = (count, 3, image_size, image_size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _append(file: BinaryIO, images: np.ndarray) -> None:
    file.write(np.ascontiguousarray(images, np.uint8).data)
