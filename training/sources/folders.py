"""Image folders, train/<class>/* and test/<class>/* (or val/<class>/*), decoded once."""

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from training.config import DATA_SETS
from training.cpus import usable_cpus
from training.sources.cache import FORMAT, Append, load_cached
from training.sources.dataset import Dataset, Split, digest
from training.sources.decode import DECODE_ERRORS, PHOTO_SUFFIXES, decode
from training.terminal import printable

LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg (or val/<class>/*.jpg)"
PROGRESS_FROM = 1_000  # files: fewer take no time to speak of


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    relative: str
    label: int
    is_train: bool
    stat: tuple[int, ...]
    """Size, times of change and inode: with equal ones the bytes are the same."""


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """Content of an image folder before decoding; ``skipped`` lists entries that are no photographs, with the reason."""

    test_folder: Path
    classes: tuple[str, ...]
    files: list[_File]
    skipped: list[str]


def load_folder(folder: Path, *, root: Path, image_size: int) -> Dataset:
    """Decode an image folder, or load it from the cache under ``root``.

    Every file directly in a class folder with a photograph's suffix is decoded by ``training.sources.decode``; all others and
    those that cannot be decoded are listed in ``skipped``. Hidden files are ignored. A test/ with classes is preferred to val/.

    Fingerprint: the image size, the classes, and for each decoded file, by name, its relative name and the SHA-256 of its
    bytes: the same on every machine. Cache key: the image size and each file's relative name, size, times of change and inode.

    Raises ValueError, in one line, for a folder without that layout, with fewer than two classes, or a class without images.
    """
    folder = folder.resolve()
    listing = _list(folder)
    key = digest(FORMAT, image_size, [(f.relative, f.stat) for f in listing.files])
    decoded = load_cached(root, key, image_size=image_size, fill=partial(_decode_all, listing, image_size, folder))
    count = int(decoded.info["train"])
    images, labels = torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)
    paths = tuple(folder / relative for relative in decoded.info["files"])
    return Dataset(
        name=printable(folder.name), fingerprint=decoded.info["fingerprint"], classes=listing.classes,
        source=f"image folder {printable(folder.name)}, {listing.test_folder.name}/ for testing",
        train=Split(images=images[:count], labels=labels[:count], files=paths[:count]),
        test=Split(images=images[count:], labels=labels[count:], files=paths[count:]),
        skipped=tuple(map(printable, (*listing.skipped, *decoded.info["skipped"]))),
    )  # fmt: skip


def training_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the training images by class and name, without opening them. Raises as ``load_folder``."""
    return tuple(file.path for file in _list(folder.resolve()).files if file.is_train)


def photo_folder(data: str) -> Path:
    """Return the folder that ``data`` names. Raises ValueError for data sets that are no files."""
    if data in DATA_SETS:
        raise ValueError(f"photographs in files are needed, not {data}: take --data FOLDER")
    return Path(data).expanduser()


# ---- layout -----------------------------------------------------------------------------------------------------------


def _list(folder: Path) -> _Listing:
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: --data takes auto, cifar10, synthetic or a folder with {LAYOUT}")
    if not (folder / "train").is_dir():
        raise ValueError(f"no train/ in {folder}: expected {LAYOUT}")
    candidates = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if not candidates:
        raise ValueError(f"neither test/ nor val/ in {folder}: expected {LAYOUT}")
    test = next((split for split in candidates if class_folders(split)), candidates[0])  # a test/ may have no labels
    train_folders, test_folders = class_folders(folder / "train"), class_folders(test)
    classes = _check_classes(folder, train_folders, test_folders, test.name)
    listing = _Listing(test_folder=test, classes=classes, files=[], skipped=[])
    for names in (train_folders, test_folders):
        for label, name in enumerate(classes):
            _list_class(names[name], label, listing)
    if not listing.files:
        raise ValueError(f"no images in {folder}{_reasons(listing.skipped)}: expected {LAYOUT}")
    return listing


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by name, without hidden ones and ``__MACOSX``, which archivers add.

    Names are in composed form: archives of a Mac hold the same names decomposed.
    """
    paths = [path for path in folder.iterdir() if path.name[0] != "." and path.name != "__MACOSX" and path.is_dir()]
    return {unicodedata.normalize("NFC", path.name): path for path in paths}


def _check_classes(folder: Path, train: Iterable[str], test: Iterable[str], test_name: str) -> tuple[str, ...]:
    classes, differing = tuple(sorted(train)), sorted(set(train) ^ set(test))
    if not classes:
        raise ValueError(f"no class folders in {folder / 'train'}: expected {LAYOUT}")
    if differing:
        raise ValueError(f"class folders differ between train/ and {test_name}/ of {folder}: {', '.join(differing)}")
    if len(classes) == 1:
        raise ValueError(f"only one class, {classes[0]!r}, in {folder}: a classifier needs at least two")
    return classes


def _reasons(skipped: Sequence[str]) -> str:
    return f"; skipped were {len(skipped)}, first {skipped[0]}" if skipped else ""


def _list_class(folder: Path, label: int, listing: _Listing) -> None:
    is_train = folder.parent != listing.test_folder
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        relative = f"{folder.parent.name}/{folder.name}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if not os.path.isfile(entry):
            listing.skipped.append(f"{relative}: not a file")
        elif Path(entry.name).suffix.lower() not in PHOTO_SUFFIXES:
            listing.skipped.append(f"{relative}: not a photograph's file type")
        else:
            stat = entry.stat()
            key = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            file = _File(path=Path(entry.path), relative=relative, label=label, is_train=is_train, stat=key)
            listing.files.append(file)


# ---- decoding ---------------------------------------------------------------------------------------------------------


def _decode_all(listing: _Listing, image_size: int, folder: Path, append: Append) -> tuple[np.ndarray, dict[str, Any]]:
    files: list[_File] = []
    hashes: list[str] = []
    skipped: list[str] = []
    console = Console(stderr=True)
    is_quick = len(listing.files) < PROGRESS_FROM or not console.is_terminal
    options: dict[str, Any] = {"console": console, "transient": True, "disable": is_quick}
    # Threads, as Pillow releases the GIL while it decodes. Its warnings about damaged tags do not name the file.
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cpus()) as pool:
        warnings.simplefilter("ignore")
        decoded = pool.map(partial(_decode_file, size=image_size), listing.files)
        pairs = zip(listing.files, decoded, strict=True)
        for file, result in track(pairs, f"decoding {escape(folder.name)}", len(listing.files), **options):
            if isinstance(result, str):
                skipped.append(f"{file.relative}: {result}")
                continue
            append(result[0][None])
            files.append(file)
            hashes.append(result[1])
    _check_every_class(files, listing.classes, folder, [*listing.skipped, *skipped])
    fingerprint = digest(image_size, listing.classes, [(f.relative, h) for f, h in zip(files, hashes, strict=True)])
    return np.array([file.label for file in files], np.int64), {
        "train": sum(file.is_train for file in files), "fingerprint": fingerprint,
        "files": [file.relative for file in files], "skipped": skipped,
    }  # fmt: skip


def _decode_file(file: _File, size: int) -> tuple[np.ndarray, str] | str:
    """Return (pixels [3, size, size], SHA-256 of the bytes), or the reason why the file cannot be decoded."""
    try:
        content = file.path.read_bytes()
        return decode(content, size), hashlib.sha256(content).hexdigest()
    except DECODE_ERRORS as error:
        return " ".join(str(error).split()) or type(error).__name__


def _check_every_class(files: Sequence[_File], classes: Sequence[str], folder: Path, skipped: Sequence[str]) -> None:
    readable = {(file.is_train, file.label) for file in files}
    for is_train, split in ((True, "train"), (False, "test (or val)")):
        for label, name in enumerate(classes):
            if (is_train, label) not in readable:
                raise ValueError(f"no readable image of class {name!r} for {split} in {folder}{_reasons(skipped)}")
