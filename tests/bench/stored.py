"""Small run folders, written as augmark writes them, for the tests of what reads them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.grid.cases import Case, PlannedCase
from bench.records.measurements import done, join
from bench.records.runs import SCHEMA, append_training, finalise, plan_entry, write_json

CASE = Case(
    suite="recipes", subject="crop_flip", backend="kornia", device="cpu", batch_size=100, image_size=32, dtype="float32"
)  # fmt: skip
OTHER = replace(CASE, backend="pil")
ENVIRONMENT: dict[str, Any] = {
    "schema": SCHEMA,
    "time": "2026-11-24T10:00:00+00:00",
    "machine": "here",
    "platform": "Linux-6.1",
    "cpu": {"model": "EPYC", "usable_cores": 2, "threads": 2, "load_1min": 0.3},
    "gpus": [],
    "python": "3.11.2",
    "packages": {"torch": "2.11.0", "torchvision": "0.26.0", "kornia": "0.9.0", "augmark": "0.1.0"},
    "variables": {},
    "commit": {"id": "a" * 40, "dirty": False},
    "dataset": {"name": "cifar10", "fingerprint": "abc", "fallback": None},
}
SAMPLES = [[0.1, 0.3], [0.2, 0.2, 0.5]]
VERDICT: dict[str, Any] = {"kind": "recipe", "subject": "crop_flip", "backend": "kornia", "verdict": "exact", "cause": ""}


def trained(kind: str, **fields: Any) -> dict[str, Any]:
    shared = {"kind": kind, "status": "ok", "recipe": "flip", "backend": "kornia", "augment_on": "device", "num_workers": 0}
    shared |= {"model": "resnet8", "width": 8, "batch_size": 64, "device": "cpu", "devices": ["cpu"], "draws": "per_image"}
    return {**shared, "dataset": "cifar10", "fingerprint": "abc", "seed": 0, "examples_per_s": 100.0, **fields}


def store(
    folder: Path,
    samples: dict[Case, list[list[float]] | str] | None = None,
    *,
    training: list[dict[str, Any]] | None = None,
    audit: dict[str, Any] | None = None,
    **environment: Any,
) -> Path:
    """A run folder as augmark writes it; a string instead of samples is the reason of a failure."""
    folder.mkdir(parents=True)
    samples = {CASE: SAMPLES} if samples is None else samples
    entries = [plan_entry(PlannedCase(case=case, draws="per_image", status="planned")) for case in samples]
    events = []
    for case, passes in samples.items():
        failed = isinstance(passes, str)
        calls = [] if isinstance(passes, str) else passes
        events += [done(case, number, "ok", samples_s=one) for number, one in enumerate(calls)]
        events += [done(case, 0, "failed", reason=passes)] if failed else []
    write_json(folder / "plan.json", {"schema": SCHEMA, "seed": 1, "passes": 2, "case_seconds": 0.1, "cases": entries})
    write_json(folder / "environment.json", {**ENVIRONMENT, **environment})
    finalise(folder, join(entries, events, died=False))
    for record in training or []:
        append_training(folder, record)
    if audit is not None:
        write_json(folder / "audit.json", {"schema": SCHEMA, **audit})
    return folder


def audited(*verdicts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "verdicts": list(verdicts),
        "findings": [],
        "images": "x",
        "device": "cpu",
        "n": 5,
        "alpha": 0.01,
        "seed": 0,
        **fields,
    }
