"""Image folders: train/<class>/* and test/<class>/* (or val/<class>/*), decoded once."""

import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.dataset import Dataset, Split, digest
from training.decoded import FORMAT, Append, cached
from training.photos import DECODE_ERRORS, PHOTO_SUFFIXES, decode

LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg (or val/<class>/*.jpg)"
CHUNK = 64  # files a task: enough to make the pool's own cost small, few enough to keep photographs of 224 pixels in memory
PROGRESS_AFTER_S = 2.0


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    relative: str
    label: int
    is_train: bool
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    images: np.ndarray  # uint8 [k, 3, H, W], of the files that could be read
    files: list[_File]
    hashes: list[str]
    skipped: list[str]


def load_folder(folder: Path, *, root: Path, image_size: int) -> Dataset:
    """Decode an image folder, or take it from the cache under ``root``.

    Every file directly in a class folder whose suffix is a photograph's is decoded as ``training.photos.decode`` says; the
    others and those that cannot be decoded are listed in ``skipped``. Hidden files are ignored. Where there is a test/ and a
    val/, test/ is used.

    Fingerprint: the image size, the classes, and for each decoded file, by name, its relative name and the SHA-256 of its
    bytes: the same on every machine. Cache key: the image size and each file's relative name, size and time of change.

    Raises ValueError, in one line, for a folder that is not laid out so, has one class or none, or a class without images.
    """
    folder = folder.resolve()
    test, classes, files, skipped = _listed(folder)
    key = digest(FORMAT, image_size, [(f.relative, f.size, f.mtime_ns) for f in files])

    def fill(append: Append) -> tuple[np.ndarray, dict[str, Any]]:
        return _decode_all(files, image_size, folder, classes, append)

    decoded = cached(root, key, image_size=image_size, fill=fill)
    count = int(decoded.info["train"])
    images, labels = torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)
    paths = tuple(folder / relative for relative in decoded.info["files"])
    return Dataset(
        name=folder.name,
        fingerprint=decoded.info["fingerprint"],
        source=f"image folder {folder.name}, {test.name}/ for testing",
        classes=classes,
        train=Split(images=images[:count], labels=labels[:count], files=paths[:count]),
        test=Split(images=images[count:], labels=labels[count:], files=paths[count:]),
        skipped=(*skipped, *decoded.info["skipped"]),
    )


def training_files(folder: Path) -> tuple[Path, ...]:
    """The files of the training images by class and name, none of them opened. Raises as ``load_folder`` for the layout."""
    _, _, files, _ = _listed(folder.resolve())
    return tuple(file.path for file in files if file.is_train)


# ---- layout -----------------------------------------------------------------------------------------------------------


def _listed(folder: Path) -> tuple[Path, tuple[str, ...], list[_File], list[str]]:
    """The folder of test images, the classes, the files, and what is no image and why."""
    test = _check_layout(folder)
    classes = _check_classes(folder, test)
    files, skipped = _list_files(folder, test, classes)
    if not files:
        raise ValueError(f"no images in {folder}: expected {LAYOUT}")
    return test, classes, files, skipped


def _check_layout(folder: Path) -> Path:
    """The folder of test images."""
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: --data takes auto, cifar10, synthetic or a folder with {LAYOUT}")
    if not (folder / "train").is_dir():
        raise ValueError(f"no train/ in {folder}: expected {LAYOUT}")
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None:
        raise ValueError(f"neither test/ nor val/ in {folder}: expected {LAYOUT}")
    return test


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted, hidden ones left out."""
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")))


def _check_classes(folder: Path, test: Path) -> tuple[str, ...]:
    classes, in_test = class_folders(folder / "train"), class_folders(test)
    if not classes:
        raise ValueError(f"no class folders in {folder / 'train'}: expected {LAYOUT}")
    if classes != in_test:
        differing = ", ".join(sorted(set(classes) ^ set(in_test)))
        raise ValueError(f"class folders differ between train/ and {test.name}/ of {folder}: {differing}")
    if len(classes) == 1:
        raise ValueError(f"only one class, {classes[0]!r}, in {folder}: a classifier needs at least two")
    return classes


def _list_files(folder: Path, test: Path, classes: Sequence[str]) -> tuple[list[_File], list[str]]:
    files, skipped = [], []
    for split in (folder / "train", test):
        for label, name in enumerate(classes):
            for entry in sorted(os.scandir(split / name), key=lambda entry: entry.name):
                relative = f"{split.name}/{name}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if not entry.is_file():
                    skipped.append(f"{relative}: not a file")
                    continue
                if Path(entry.name).suffix.lower() not in PHOTO_SUFFIXES:
                    skipped.append(f"{relative}: not a photograph's file type")
                    continue
                stat = entry.stat()
                files.append(
                    _File(
                        path=Path(entry.path), relative=relative, label=label, is_train=split is not test,
                        size=stat.st_size, mtime_ns=stat.st_mtime_ns,
                    )
                )  # fmt: skip
    return files, skipped


# ---- decoding ---------------------------------------------------------------------------------------------------------


def _decode_all(
    files: Sequence[_File], image_size: int, folder: Path, classes: Sequence[str], append: Append
) -> tuple[np.ndarray, dict[str, Any]]:
    kept: list[_File] = []
    hashes: list[str] = []
    skipped: list[str] = []
    for chunk in _with_progress(_chunks(files, image_size), len(files), f"decoding {folder.name}"):
        append(chunk.images)
        kept += chunk.files
        hashes += chunk.hashes
        skipped += chunk.skipped
    _check_every_class(kept, classes, folder, skipped)
    info = {
        "train": sum(file.is_train for file in kept),
        "fingerprint": digest(image_size, classes, [(f.relative, h) for f, h in zip(kept, hashes, strict=True)]),
        "files": [file.relative for file in kept],
        "skipped": skipped,
    }
    return np.array([file.label for file in kept], np.int64), info


def _chunks(files: Sequence[_File], image_size: int) -> Iterator[_Chunk]:
    # Pillow lets go of the interpreter while it decodes, so that threads do. It warns of large images, which are skipped here,
    # and of damaged tags, without a word of which file.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        parts = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
        yield from pool.map(lambda part: _decode_some(part, image_size), parts)


def _decode_some(files: Sequence[_File], image_size: int) -> _Chunk:
    images = np.empty((len(files), 3, image_size, image_size), np.uint8)
    chunk = _Chunk(images=images, files=[], hashes=[], skipped=[])
    for file in files:
        try:
            content = file.path.read_bytes()
            images[len(chunk.files)] = decode(content, image_size)
        except DECODE_ERRORS as error:
            chunk.skipped.append(f"{file.relative}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        chunk.files.append(file)
        chunk.hashes.append(hashlib.sha256(content).hexdigest())
    return _Chunk(images=images[: len(chunk.files)], files=chunk.files, hashes=chunk.hashes, skipped=chunk.skipped)


def _check_every_class(kept: Sequence[_File], classes: Sequence[str], folder: Path, skipped: Sequence[str]) -> None:
    for is_train in (True, False):
        there = {file.label for file in kept if file.is_train == is_train}
        for label, name in enumerate(classes):
            if label not in there:
                split = "train" if is_train else "test (or val)"
                why = f"; skipped were {len(skipped)}, first {skipped[0]}" if skipped else ""
                raise ValueError(f"no readable image of class {name!r} for {split} in {folder}{why}")


def _with_progress(chunks: Iterator[_Chunk], total: int, what: str) -> Iterator[_Chunk]:
    """Pass chunks on, with a progress bar on stderr once it has taken a few seconds."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=total)
    started = time.monotonic()
    try:
        for chunk in chunks:
            progress.advance(task, len(chunk.files) + len(chunk.skipped))
            if time.monotonic() - started > PROGRESS_AFTER_S:
                progress.start()  # does nothing when it has started
            yield chunk
    finally:
        progress.stop()
