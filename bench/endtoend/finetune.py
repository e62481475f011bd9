"""``augmark finetune``: one run, a comparison of what is trained over paired seeds, or where the time goes by placement."""

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.grid.cases import one_line
from bench.records.runs import TRAINING, append_training, load_run, run_folder, write_json
from training.finetune_config import FinetuneConfig, validate

if TYPE_CHECKING:
    import torch

    from training.dataset import Dataset
    from training.finetune import Finetuner
    from training.finetune_results import FinetuneEpoch

UNFINISHED = "unfinished"
"""The folder, within a comparison's, of the run that goes on."""
ARMS: tuple[dict[str, Any], ...] = (
    {"mode": "full"},
    {"mode": "frozen"},
    {"mode": "frozen", "augment_on": "none"},
    {"mode": "scratch"},
)
"""What is compared: all layers, the last one alone, the last one on features that are computed once, and from scratch."""
SPLIT_BACKENDS = ("fused", "kornia", "torchvision_loop", "pil")


def run_one(config: FinetuneConfig, out: Path | None, console: Console, *, resume: bool = False) -> Path:
    """Fine-tune once, a line an epoch; the folder keeps best.pt, checkpoint.pt, the record and a report. Returns the folder.

    Raises ValueError for what cannot be run, OSError where nothing can be written.
    """
    from training.checkpoint import NAME
    from training.finetune import BEST, finetune

    _check(config)
    if out is not None and (out / NAME).exists() and not resume:
        raise ValueError(f"{out} already holds a run: add --resume to go on with it, or take another --out")
    folder = _folder(out, "finetune")

    def begin(dataset: "Dataset") -> None:
        _begin(dataset, folder, console)
        console.print("epoch    loss  train acc   val acc  examples/s   wait")

    result, _ = finetune(
        config, out=folder, resume=resume, on_data=begin,
        on_epoch=lambda stats: console.print(_epoch_line(stats), highlight=False),
    )  # fmt: skip
    record = result.as_record()
    if result.resumed_after < config.epochs or _key(record) not in _already_done(folder):  # a run that is over counts once
        append_training(folder, record)
    console.print(
        f"last epoch {result.test_accuracy:.1%}, best {result.best_accuracy:.1%} (epoch {result.best_epoch}, kept in "
        f"{folder / BEST}; chosen on the photographs that it is measured on)"
    )
    return _reported(folder, console)


def compare(config: FinetuneConfig, seeds: tuple[int, ...], out: Path | None, console: Console) -> Path:
    """Run every arm with every seed and write the report; a folder that holds some of the runs already gets the others.

    Within a seed all arms share order and augmentation; they take turns in a shuffled order. A run that was interrupted goes
    on from its last epoch. Returns the run's folder. Raises as ``run_one``.
    """
    from training.finetune import finetune, load_photographs

    if not seeds:
        raise ValueError("seeds must not be empty")
    jobs = list(_jobs(config, seeds))
    _check(*jobs)
    dataset = load_photographs(config)
    folder = _folder(out, "finetune")
    _begin(dataset, folder, console)
    done = _already_done(folder)
    unfinished = folder / UNFINISHED
    for number, job in enumerate(jobs, start=1):
        if _key(_identity(job, dataset)) in done:
            continue
        with console.status(f"fine-tuning {number}/{len(jobs)}: {_label(job)}"):
            record = _recorded(job, dataset, lambda job=job: _resumable(finetune, job, dataset, unfinished))  # type: ignore[misc]
        append_training(folder, record)
        shutil.rmtree(unfinished, ignore_errors=True)
        console.print(f"{number}/{len(jobs)}  {_label(job)}: {_outcome(record)}", highlight=False)
    return _reported(folder, console)


def _check(*configs: FinetuneConfig) -> "torch.device":
    """Find what is wrong with settings and weights before photographs are decoded and others run; the first one's device."""
    from training import transfer

    devices = [validate(config) for config in configs]
    for model, width, init in dict.fromkeys((one.model, one.width, one.effective_init) for one in configs):
        transfer.create(model, width=width, init=init, num_classes=2)
    return devices[0]


def _jobs(config: FinetuneConfig, seeds: tuple[int, ...]) -> Iterator[FinetuneConfig]:
    for seed in seeds:
        # Where nothing is augmented, two of the arms are the same.
        own = list(dict.fromkeys(replace(config, seed=seed, **arm) for arm in ARMS))
        yield from random.Random(seed).sample(own, len(own))


def _resumable(finetune: Callable[..., Any], job: FinetuneConfig, dataset: "Dataset", folder: Path) -> dict[str, Any]:
    from training.checkpoint import NAME, BadCheckpoint

    try:
        result, _ = finetune(job, dataset, out=folder, resume=(folder / NAME).exists())
    except BadCheckpoint:  # that of another run
        result, _ = finetune(job, dataset, out=folder)
    record: dict[str, Any] = result.as_record()
    return record


# ---- where the time goes ----------------------------------------------------------------------------------------------


def split(config: FinetuneConfig, rounds: int, out: Path | None, console: Console) -> Path:
    """Measure epochs of every placement, ``rounds`` of each after one to warm up, interleaved, and write the report.

    Returns the run's folder. Raises as ``run_one``.
    """
    from training.finetune import Finetuner, load_photographs

    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    device = _check(config)
    dataset = load_photographs(config)
    folder = _folder(out, "finetune")
    _begin(dataset, folder, console)
    tuners: list[tuple[FinetuneConfig, Finetuner]] = []
    for placement in _placements(config):
        try:
            validate(placement)
            tuners.append((placement, Finetuner(placement, dataset, device)))
        except ValueError as error:
            append_training(folder, _failure("photographs", placement, dataset, error))
    for number in range(rounds + 1):
        for placement, tuner in random.Random(number).sample(tuners, len(tuners)):
            try:
                with console.status(f"round {number}/{rounds}: {_label(placement)}"):
                    stats = tuner.run_epoch(number + 1, evaluate=False)
            except OSError:
                raise
            except Exception as error:  # whatever a library raises is the result of this placement
                tuners.remove((placement, tuner))
                append_training(folder, _failure("photographs", placement, dataset, error))
                console.print(f"round {number}/{rounds}  {_label(placement)}: failed ({one_line(error)})", highlight=False)
                continue
            if number > 0:
                append_training(folder, _split_record(placement, dataset, tuner, stats, number))
                speed = stats.examples / stats.wall_s
                console.print(f"round {number}/{rounds}  {_label(placement)}: {speed:,.1f} examples/s", highlight=False)
    return _reported(folder, console)


def _placements(config: FinetuneConfig) -> Iterator[FinetuneConfig]:
    """No augmentation, on the device and in workers by backend, and without workers."""
    from augment import BACKENDS

    yield replace(config, augment_on="none", num_workers=0)
    for backend in SPLIT_BACKENDS:
        if BACKENDS[backend].on_device:
            yield replace(config, augment_on="device", backend=backend)
        yield replace(config, augment_on="workers", backend=backend)
    yield replace(config, augment_on="device", backend="fused", num_workers=0)


def _split_record(
    config: FinetuneConfig, dataset: "Dataset", tuner: "Finetuner", stats: "FinetuneEpoch", number: int
) -> dict[str, Any]:
    values = dataclasses.asdict(stats)
    speed = {"examples_per_s": stats.examples / stats.wall_s, "wait_share": stats.split_s["wait"] / stats.wall_s}
    kept = {name: values[name] for name in ("examples", "wall_s", "split_s", "decode_s", "worker_augment_s")}
    own = {"status": "ok", "device": str(tuner.device), "draws": tuner.feed.draws, "round": number}
    return {**_identity(config, dataset, "photographs"), **own, **kept, **speed}


# ---- records and words ------------------------------------------------------------------------------------------------


def _identity(config: FinetuneConfig, dataset: "Dataset", kind: str = "finetune") -> dict[str, Any]:
    from training.finetune_results import identity

    return {**identity(config, dataset), "kind": kind}


def _failure(kind: str, config: FinetuneConfig, dataset: "Dataset", error: Exception) -> dict[str, Any]:
    from augment import UnsupportedOp
    from training.distributed import resolve_device

    told = {"status": "failed", "reason": f"{type(error).__name__}: {one_line(error)}"}
    if isinstance(error, UnsupportedOp):
        told = {"status": "unsupported", "reason": one_line(error)}
    return _identity(config, dataset, kind) | told | {"device": str(resolve_device(config.device))}


def _recorded(config: FinetuneConfig, dataset: "Dataset", measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record of a run, or of its failure, which must not cost the others; a full disk ends them all."""
    try:
        return measure()
    except OSError:
        raise
    except Exception as error:  # whatever a library raises is the result of this one
        return _failure("finetune", config, dataset, error)


def _already_done(folder: Path) -> set[str]:
    if not (folder / TRAINING).exists():
        return set()
    return {_key(one) for one in load_run(folder).training if one.get("kind") == "finetune" and one.get("status") == "ok"}


def _key(record: dict[str, Any]) -> str:
    fields = {field.name for field in dataclasses.fields(FinetuneConfig)} - {"data_root", "epochs", "device"}
    return repr([(name, record.get(name)) for name in sorted(fields | {"num_epochs", "fingerprint", "init_digest"})])


def _folder(out: Path | None, what: str) -> Path:
    folder = out if out is not None else run_folder(None, what)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _begin(dataset: "Dataset", folder: Path, console: Console) -> None:
    from bench.environment import environment

    console.print(
        f"data: {dataset.name}, {len(dataset.train):,} photographs to train on, {len(dataset.test):,} to validate on; "
        f"results go to {folder}",
        highlight=False,
    )
    if dataset.skipped:
        console.print(f"skipped: {len(dataset.skipped)}, first {dataset.skipped[0]}", highlight=False, markup=False)
    if not (folder / "environment.json").exists():
        known = {"name": dataset.name, "fingerprint": dataset.fingerprint, "fallback": dataset.fallback}
        write_json(folder / "environment.json", environment(known))


def _reported(folder: Path, console: Console) -> Path:
    """The folder, with its report."""
    from bench.report import write_report

    console.print(f"report: {write_report(load_run(folder))}")
    return folder


def _label(config: FinetuneConfig) -> str:
    if config.augment_on == "none":
        return f"{config.mode}, no augmentation, seed {config.seed}"
    return f"{config.mode}, {config.backend} on {config.augment_on} x{config.num_workers}, seed {config.seed}"


def _outcome(record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f"failed ({record['reason']})"
    return f"val accuracy {record['test_accuracy']:.1%}, best {record['best_accuracy']:.1%}, {record['total_s']:.0f} s"


def _epoch_line(stats: "FinetuneEpoch") -> str:
    return (
        f"{stats.epoch:5d}  {stats.train_loss:6.3f}  {stats.train_accuracy:9.3f}  {stats.test_accuracy:8.3f}  "
        f"{stats.examples / stats.wall_s:10,.1f}  {stats.split_s['wait'] / stats.wall_s:5.1%}"
    )
