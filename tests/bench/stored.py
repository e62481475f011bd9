"""Small run folders, written as augmark writes them, for the tests of what reads them."""

from pathlib import Path
from typing import Any

import msgspec

from bench.records import (
    KINDS,
    Audit,
    AuditCell,
    AuditLane,
    Commit,
    Cpu,
    DataSet,
    Environment,
    Gpu,
    Plan,
    Record,
    Speed,
    append,
    write,
)

CASE = Speed(
    suite="recipes", subject="crop_flip", backend="kornia", batch_size=100, image_size=32, lane="per_image", status="not_run"
)  # fmt: skip
OTHER = msgspec.structs.replace(CASE, backend="pil")
GPU = Gpu(name="H100", driver="570.1", temperature_c=40)
ENVIRONMENT = Environment(
    time="2026-11-24T10:00:00+00:00",
    machine="here",
    platform="Linux-6.1",
    cpu=Cpu(model="EPYC", usable_cores=2, threads=2, load_1min=0.3),
    python="3.11.2",
    packages={"torch": "2.11.0", "torchvision": "0.26.0", "kornia": "0.9.0", "augmark": "0.2.0"},
    commit=Commit(id="a" * 40, dirty=False),
    dataset=DataSet(name="cifar10", fingerprint="abc"),
)
SAMPLES = [[0.1, 0.3], [0.2, 0.2, 0.5]]
LANE = AuditLane(declared="per_image", measured="per_image")
VERDICT = AuditCell(kind="recipe", subject="crop_flip", backend="kornia", verdict="exact", lane=LANE)
RESULTS: dict[str, Any] = {
    **{"examples_per_s": 100.0, "examples_per_s_without_wait": 120.0, "wait_share": 0.1, "wall_s": 1.0, "wait_s": 0.1},
    **{"steps": 2, "examples": 100, "batches": 2, "step_over_bare": 1.1, "split_s": {}, "total_s": 3.0},
    **{"num_epochs": 2, "test_accuracy": 0.5, "train_accuracy": 0.6, "loss": 1.0, "best_epoch": 1},
    **{"best_accuracy": 0.5, "processes": 2, "scaling": "weak", "parallel": "ddp", "mode": "full", "init": "imagenet"},
    **{"images_per_s": 10.0, "images": 10, "stages": (), "decoder": "pil"},
    **{"comparisons": 72, "called_from": 0.04, "between_sd": 0.01},
}
SETTING: dict[str, Any] = {
    **{"recipe": "flip", "backend": "kornia", "augment_on": "device", "model": "resnet8", "width": 8, "batch_size": 64},
    **{"image_size": 32, "precision": "float32", "lane": "per_image", "dataset": "cifar10", "fingerprint": "abc"},
    "devices": ("cpu",),
}


def trained(kind: str, **fields: Any) -> Any:
    """Return a successful record of a kind of training (or feeding), with plausible values for what ``fields`` leaves out."""
    struct = KINDS[kind]
    fields_of_kind = {name: value for name, value in (SETTING | RESULTS).items() if name in struct.__struct_fields__}
    if kind not in ("accuracy", "finetune"):
        fields_of_kind.pop("num_epochs", None)
    if kind in ("throughput", "feed"):
        fields_of_kind.pop("parallel", None)
    return struct(**fields_of_kind | fields)


def measure(case: Record) -> Any:
    """Return a successful record of a case; processes of tests import this without torch."""
    return trained(case.kind, backend=case.backend, round=case.round, seed=getattr(case, "seed", 0))


def failed(record: Record, reason: str = "no room", **fields: Any) -> Any:
    """Return the same repetition as a failure."""
    return msgspec.structs.replace(record, status="failed", reason=reason, **fields)


def speeds(case: Speed, rounds: list[list[float]] | str, **fields: Any) -> list[Speed]:
    """Return records of a case from the seconds of its calls by round; a string instead is the reason of a failure."""
    if isinstance(rounds, str):
        return [failed(case, rounds)]
    return [
        msgspec.structs.replace(
            case, status="ok", round=number, images_per_s=(case.batch_size or 0) * len(calls) / sum(calls),
            samples_us=tuple(call * 1e6 for call in calls), **fields,
        )
        for number, calls in enumerate(rounds)
    ]  # fmt: skip


def store(
    folder: Path, samples: dict[Speed, list[list[float]] | str] | None = None, *, records: list[Any] | None = None,
    audit: Audit | None = None, **environment: Any,
) -> Path:  # fmt: skip
    """Write a run folder as augmark does, of a grid (see ``speeds``) and of other records."""
    folder.mkdir(parents=True)
    samples = {CASE: SAMPLES} if samples is None else samples
    planned = [msgspec.structs.replace(record, status="not_run", reason=None) for record in records or []]
    write(folder / "plan.json", Plan(suite="quick", cases=(*samples, *planned), rounds=2, case_seconds=0.1))
    write(folder / "environment.json", msgspec.structs.replace(ENVIRONMENT, **environment))
    for record in [*(record for case, rounds in samples.items() for record in speeds(case, rounds)), *(records or [])]:
        append(folder, record)
    if audit is not None:
        write(folder / "audit.json", audit)
    return folder


def audited(*cells: AuditCell, **fields: Any) -> Audit:
    return Audit(verdicts=cells, images="x", device="cpu", n=5, alpha=0.01, seed=0, **fields)
