"""What became of a measurement of training: its record, also where it failed, and how both are told."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from bench.grid.cases import one_line

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.data import Dataset


def recorded(kind: str, config: "TrainConfig", dataset: "Dataset", measure: Callable[[], Any]) -> dict[str, Any]:
    """The record of a measurement, or of its failure: one way to train that fails must not cost the others."""
    from augment import UnsupportedOp

    try:
        record: dict[str, Any] = measure().as_record()
    except UnsupportedOp as error:
        record = failure(kind, config, dataset, one_line(error)) | {"status": "unsupported"}
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
    """A record in a few words, for rich: ``wording`` with the value of ``name``, or why there is none."""
    return wording.format(record[name]) if record["status"] == "ok" else f"{record['status']} ({escape(record['reason'])})"


def exit_code(folder: Path, *kinds: str) -> int:
    """1 where a measurement of these kinds in a run's folder failed and nothing has made it good, or where none has a result;
    a line on stderr then says so. Else 0."""
    from bench.records.runs import load_run
    from bench.records.training_cases import left_failed

    mine = [record for record in load_run(folder).training if record.get("kind") in kinds]
    failed, good = left_failed(mine), [record for record in mine if record.get("status", "ok") == "ok"]
    missing = failed or ([] if good else mine)
    if missing:
        reason = one_line(ValueError(missing[0].get("reason") or "no reason was kept"))
        print(f"augmark: {len(missing)} of {len(missing) + len(good)} failed, the first: {reason}", file=sys.stderr)
    return 1 if missing else 0
