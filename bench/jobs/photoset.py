"""Photographs that ``augmark pipeline`` reads: chosen from a folder, or made from it in other numbers, sizes and qualities.

Every file is decoded once before anything is measured. Files that Pillow cannot decode are left out, for all arms alike; those
that a JPEG library alone would show otherwise (other formats, CMYK, turned by EXIF) are noted, and Pillow decodes them in all.
"""

import functools
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bench.records import one_line, plural

FROM_CACHE = 0.1
"""Share of files that may remain in the page cache of a cold pass."""


@dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """Files of photographs. ``odd``: files, by index, that every decoder leaves to Pillow, ``skipped``: those left out; why."""

    name: str
    fingerprint: str
    files: tuple[Path, ...]
    odd: Mapping[int, str]
    skipped: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return what an environment says about the images."""
        source = f"{plural(len(self.files), 'photograph')}, {len(self.odd)} not plain JPEG, {len(self.skipped)} left out"
        return {"name": self.name, "fingerprint": self.fingerprint, "source": source, "fallback": None}


@dataclass(frozen=True, kw_only=True)
class Making:
    """Recipe for making photographs: each ``repeat`` times, and with a ``size`` (width, height) as JPEG of that ``quality``."""

    repeat: int = 1
    size: tuple[int, int] | None = None
    quality: int = 90

    @property
    def changes(self) -> bool:
        """Return whether files are made at all."""
        return self.repeat > 1 or self.size is not None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) of "500x375". Raises ValueError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(1 <= side <= 65_535 for side in size):
        raise ValueError(f"size must be WIDTHxHEIGHT, each at most 65,535, such as 500x375, got {text!r}")
    return size


def load_photographs(folder: Path, count: int, making: Making, cache: Path) -> PhotoSet:
    """Choose at most ``count`` photographs, evenly spaced over all files below a folder, and make what is asked for of them.

    Raises ValueError for a folder without photographs, OSError where the cache cannot be written.
    """
    from training.sources.dataset import digest
    from training.sources.decoders import oddity
    from training.terminal import printable

    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: --data takes a folder with photographs")
    files = list_photographs(folder)
    skipped: list[str] = []
    chosen = list(islice(readable(_evenly(files, count), folder, skipped), count))
    if not chosen:
        reason = f"; the first of {len(skipped)}: {skipped[0]}" if skipped else ""
        raise ValueError(f"no readable photographs in {folder}{reason}")
    if making.changes:
        chosen = make_photographs(chosen, making, cache)
    hashes, odd = list[tuple[str, str]](), dict[int, str]()
    for index, file in enumerate(chosen):
        content = file.read_bytes()
        hashes.append((printable(file.name), hashlib.sha256(content).hexdigest()))
        if (oddness := oddity(content)) is not None:
            odd[index] = f"{hashes[-1][0]}: {oddness}"
    size = "" if making.size is None else " as {}x{}".format(*making.size)
    return PhotoSet(
        name=printable(folder.resolve().name) + size, fingerprint=digest(hashes), files=tuple(chosen), odd=odd,
        skipped=tuple(skipped),
    )  # fmt: skip


def list_photographs(folder: Path) -> list[Path]:
    """Return all files below a folder with a photograph's suffix, sorted, without hidden ones."""
    from training.sources.decode import PHOTO_SUFFIXES

    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _evenly(files: Sequence[Path], count: int) -> Iterator[Path]:
    """Yield evenly spaced files first, then those between them, which replace the undecodable."""
    step = max(1, len(files) // count)
    return (file for offset in range(step) for file in files[offset::step])


def readable(files: Iterable[Path], folder: Path, skipped: list[str]) -> Iterator[Path]:
    """Yield files that Pillow can decode; note the others, with the reason, in ``skipped``."""
    from training.sources.decode import DECODE_ERRORS, upright
    from training.terminal import printable

    for file in files:
        try:
            with warnings.catch_warnings(action="ignore"):  # about damaged tags, which cost no image
                upright(file.read_bytes())
        except DECODE_ERRORS as error:
            skipped.append(printable(f"{file.relative_to(folder)}: {one_line(error)}"))
        else:
            yield file


def make_photographs(chosen: Sequence[Path], making: Making, cache: Path) -> list[Path]:
    """Return made files, from the cache where they were made before. A set appears by one rename once it is complete."""
    from training.sources.dataset import digest

    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in chosen]
    key = digest(hashes, making.repeat, making.size, making.quality)
    target = cache / f"photographs-{key}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=target.name, dir=cache))
        try:
            for index, file in enumerate(chosen):
                content = file.read_bytes()
                made, suffix = (content, file.suffix) if making.size is None else (encode(content, making), ".jpg")
                for copy in range(making.repeat):
                    (scratch / f"{copy:04}-{index:06}{suffix}").write_bytes(made)
            os.sync()  # the page cache cannot drop what is not written yet
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return sorted(target.iterdir())


def encode(content: bytes, making: Making) -> bytes:
    """Return a photograph as JPEG of the size that is to be made: resized, and cut at the longer sides."""
    from PIL import Image, ImageOps

    from training.sources.decode import upright

    assert making.size is not None
    file = io.BytesIO()
    ImageOps.fit(upright(content), making.size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=making.quality)
    return file.getvalue()


# ---- the page cache ---------------------------------------------------------------------------------------------------


def drop_from_cache(files: Sequence[Path]) -> None:
    """Ask the system to forget the contents of files, as far as that needs no rights.

    Raises ValueError if it keeps them, as file systems in memory do.
    """
    if not hasattr(os, "posix_fadvise"):
        raise ValueError("this system cannot drop files from its page cache: leave --cold out")
    kept = 0
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            kept += _is_cached(descriptor)
        finally:
            os.close(descriptor)
    if kept > FROM_CACHE * len(files):
        raise ValueError(f"{kept} of {len(files)} files stay in the page cache: leave --cold out, or put them on a disk")


@functools.cache
def disk_rate(files: tuple[Path, ...]) -> float | None:
    """Return files/s that the disk gives, read one after the other; None where the system keeps them in its page cache."""
    try:
        drop_from_cache(files)
    except ValueError:
        return None
    begin = time.perf_counter()
    for file in files:
        file.read_bytes()
    return len(files) / (time.perf_counter() - begin)


def _is_cached(descriptor: int) -> bool:
    """Return whether the start of a file can be read without waiting for a disk; True where the system does not tell."""
    try:
        return os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return True
