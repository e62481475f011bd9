"""Checkpoints: replaced in one move, so that a whole one always exists, and read without executing anything in them.

``save`` and ``load`` take any payload of tensors and plain values; ``Checkpoint`` is a training run's.
"""

import io
import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.results import EpochStats

NAME = "checkpoint.pt"
"""File name of a run's checkpoint in its folder."""


class BadCheckpoint(ValueError):
    """A file that is no checkpoint, only a part of one, holds more than weights, or is another run's."""


def save(path: Path, payload: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path``, which is whole at any moment: the old file or the new one.

    The payload goes to ``<path>.tmp`` first, is forced to the disk and then takes the place of ``path`` in one move. Raises
    OSError (a full disk, no permission) with ``path`` as it was.
    """
    buffer = io.BytesIO()  # torch's own writer turns a full disk into an error of its own, and Python's does not
    torch.save(dict(payload), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        kept = ", the one before is kept" if path.exists() else ""
        raise OSError(error.errno, f"cannot write {path}{kept}: {error.strerror}") from None
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Force the move itself to the disk, where folders can be opened (on Windows they cannot)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path: Path) -> dict[str, Any]:
    """Return the payload that ``save`` wrote, tensors on the CPU, weights and plain values only.

    Raises:
        OSError: for a file that cannot be read (FileNotFoundError if there is none).
        BadCheckpoint: for one that is truncated, damaged, no checkpoint, or holds objects that would have to be executed.
    """
    content = path.read_bytes()
    _check_whole(path, content)
    try:
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(f"{path} holds more than weights and was not loaded: {_reason(error)}") from None
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise BadCheckpoint(f"{path} is damaged ({type(error).__name__}): take an older one, or start anew") from None
    if not isinstance(payload, dict):
        raise BadCheckpoint(f"{path} is not a checkpoint of ours: it holds a {type(payload).__name__}")
    return payload


def _check_whole(path: Path, content: bytes) -> None:
    """Check the archive's checksums; torch reads a file with changed bytes without complaint."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError):
        raise BadCheckpoint(f"{path} is no checkpoint, or only a part of one: take an older one, or start anew") from None
    if damaged is not None:
        raise BadCheckpoint(f"{path} is damaged ({damaged}): take an older one, or start anew")


def _reason(error: Exception) -> str:
    """Return which object torch refused; torch's own advice is how to load the file regardless."""
    refused = re.search(r"unsupported global:? (?:global )?([\w.]+)", str(error), re.IGNORECASE)
    return f"it asks for {refused[1]}" if refused else "it would have to run code"


# ---- of a training run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training run after an epoch.

    ``identity`` is what decides the result (config, data, number of processes), as plain values: only a run with the same is
    resumed. ``steps`` counts the optimizer's steps so far, on which alone a schedule depends; ``epochs`` are those that are
    done, ``spent_s`` the seconds that they took with all around them. ``best`` are the weights of the best epoch, ``slow`` the
    slow ones, each empty if there are none. Random streams start anew each epoch, so that none has to be kept.
    """

    identity: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    steps: int
    epochs: tuple[EpochStats, ...]
    spent_s: float
    best: Mapping[str, Any]
    slow: Sequence[Any]

    def write(self, path: Path) -> None:
        """Write the checkpoint. Raises OSError with the one before still whole."""
        save(path, vars(self) | {"epochs": [asdict(stats) for stats in self.epochs]})


def read(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint of the run that has this identity.

    Raises what ``load`` raises, and BadCheckpoint for another run's checkpoint, naming what differs.
    """
    payload = load(path)
    try:
        saved = Checkpoint(
            identity=dict(payload["identity"]), model=payload["model"], optimizer=payload["optimizer"],
            steps=int(payload["steps"]), epochs=tuple(EpochStats(**stats) for stats in payload["epochs"]),
            spent_s=float(payload["spent_s"]), best=payload["best"], slow=list(payload["slow"]),
        )  # fmt: skip
        if not all(math.isfinite(value) for stats in saved.epochs for value in asdict(stats).values()):
            raise ValueError
        differences = _differences(saved.identity, identity)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):  # of values that are none of ours
        raise BadCheckpoint(f"{path} is not the checkpoint of a training run, or that of another version") from None
    if differences:
        raise BadCheckpoint(f"{path} is the checkpoint of another run: {'; '.join(differences)}")
    return saved


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
