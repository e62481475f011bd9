"""Checkpoints: written so that there is always a whole one, read so that nothing in them can run.

``save`` and ``load`` are for any payload of tensors and plain values; ``Checkpoint`` is that of a training run.
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
"""What a run's checkpoint is called in its folder."""


class BadCheckpoint(ValueError):
    """A file that is no checkpoint, only a part of one, holds more than weights, or is that of another run."""


def save(path: Path, payload: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path``; whatever happens meanwhile, ``path`` is whole: the old one or the new one.

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
    """The payload that ``save`` wrote, tensors on the CPU. Weights and plain values only: nothing in the file is executed.

    Raises OSError for a file that cannot be read (FileNotFoundError where there is none), BadCheckpoint (a ValueError) for one
    that is truncated, damaged, no checkpoint at all, or that holds objects other than tensors and plain values.
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
    """torch reads a file whose bytes have changed without a word; the archive's checksums tell."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError):
        raise BadCheckpoint(f"{path} is no checkpoint, or only a part of one: take an older one, or start anew") from None
    if damaged is not None:
        raise BadCheckpoint(f"{path} is damaged ({damaged}): take an older one, or start anew")


def _reason(error: Exception) -> str:
    """torch's advice is how to load the file regardless; what matters is which object it refused."""
    refused = re.search(r"unsupported global:? (?:global )?([\w.]+)", str(error), re.IGNORECASE)
    return f"it asks for {refused[1]}" if refused else "it would have to run code"


# ---- of a training run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training run after an epoch.

    ``identity`` is what decides the result (config, data, number of processes), as plain values: a run goes on only from a
    checkpoint with the same. ``steps`` counts the optimizer's steps so far, on which alone a schedule depends; ``epochs`` are
    those that are done. Random streams start anew each epoch, so that none has to be kept.
    """

    identity: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    steps: int
    epochs: tuple[EpochStats, ...]

    def write(self, path: Path) -> None:
        """Raises OSError with the checkpoint that was there still whole."""
        save(
            path,
            {
                "identity": dict(self.identity),
                "model": self.model,
                "optimizer": self.optimizer,
                "steps": self.steps,
                "epochs": [asdict(stats) for stats in self.epochs],
            },
        )


def read(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of the run that has this identity.

    Raises what ``load`` raises, and BadCheckpoint for the checkpoint of another run, naming what differs.
    """
    payload = load(path)
    try:
        found = Checkpoint(
            identity=dict(payload["identity"]), model=payload["model"], optimizer=payload["optimizer"],
            steps=int(payload["steps"]), epochs=tuple(EpochStats(**stats) for stats in payload["epochs"]),
        )  # fmt: skip
        if not all(math.isfinite(value) for stats in found.epochs for value in asdict(stats).values()):
            raise ValueError
        differences = _differences(found.identity, identity)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):  # of values that are none of ours
        raise BadCheckpoint(f"{path} is not the checkpoint of a training run, or that of another version") from None
    if differences:
        raise BadCheckpoint(f"{path} is the checkpoint of another run: {'; '.join(differences)}")
    return found


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"{name} is {found.get(name)} there and {wanted.get(name)} here"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]
