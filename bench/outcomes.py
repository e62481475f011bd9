"""What became of a measurement of training: its record, also where it failed, and how both are told."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.cases import one_line

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data import Dataset


def recorded(kind: str, config: "TrainConfig", dataset: "Dataset", measure: Callable[[], Any]) -> dict[str, Any]:
    """The record of a measurement, or of its failure: one way to train that fails must not cost the others."""
    try:
        record: dict[str, Any] = measure().as_record()
    except Exception as error:  # whatever a library raises is the result of this one
        record = failure(kind, config, dataset, f"{type(error).__name__}: {one_line(error)}")
    return record


def failure(kind: str, config: "TrainConfig", dataset: "Dataset", reason: str) -> dict[str, Any]:
    """The record of a measurement that gave nothing."""
    identity = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "fallback": dataset.fallback}
    record = {"kind": kind, "status": "failed", "reason": reason, **config.as_record(), **identity}
    record["num_epochs"] = record.pop("epochs")  # as in the records of runs that succeeded
    return record


def outcome(record: dict[str, Any], name: str, wording: str) -> str:
    """A record in a few words: ``wording`` with the value of ``name``, or why there is none."""
    return wording.format(record[name]) if record["status"] == "ok" else f"failed ({record['reason']})"
