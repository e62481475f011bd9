"""``augmark finetune``: one run, or a comparison of what is trained over paired seeds."""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from bench.jobs.job import (
    Job,
    JobOptions,
    Report,
    data_facts,
    fill,
    once,
    open_folder,
    plan_training,
    reporting,
    run_job,
    take,
)
from bench.records import Finetune, append, load_run, lock_run, under_way
from bench.runner import Measure
from training.config import FinetuneConfig, validate
from training.train import epoch_line

if TYPE_CHECKING:
    import torch

    from training.data import Dataset

UNFINISHED = "unfinished"
"""Folder, within a comparison's, of the checkpoints of the case that runs."""
ARMS: tuple[dict[str, Any], ...] = (
    {"mode": "full"},
    {"mode": "frozen"},
    {"mode": "frozen", "augment_on": "none"},
    {"mode": "scratch"},
)
"""Modes that are compared: all layers, the last one alone, the last one on features computed once, and from scratch."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(JobOptions):
    """Options of ``augmark finetune``."""

    config: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    compare: bool = False
    """All layers, the last one (with augmentation, and on features computed once) and from scratch, with every seed."""
    seeds: tuple[int, ...] | None = None
    """Seeds of --compare (default: 0 1 2)."""


def run_one(options: FinetuneOptions, console: Console, report: Report) -> Path:
    """Fine-tune once, a line per epoch; the folder keeps best.pt, checkpoint.pt, the record and a report.

    Returns the run folder. Raises ValueError for what cannot be run, OSError where nothing can be written.
    """
    from training.checkpoint import NAME
    from training.finetune import BEST, finetune, load_photographs

    config, out = options.config, options.results
    device = check_configs([config])
    if out is not None and (out / NAME).exists() and not options.resume:
        raise ValueError(f"{out} already holds a run: add --resume to resume it, or take another --results")
    dataset = load_photographs(config)
    job = finetune_job([config], dataset, device)
    folder = open_folder(job, options, console)
    describe_data(dataset, console)
    with reporting(folder, report):
        console.print("epoch    loss  train acc   val acc  examples/s   wait")
        # Not by the runner: a mistake, such as the checkpoint of another run, is the user's here and no result.
        with lock_run(folder), under_way(folder, job.cases[0]):
            result, _ = finetune(
                config, dataset, out=folder, resume=options.resume,
                on_epoch=lambda stats: console.print(epoch_line(stats)),
            )  # fmt: skip
        record = fill(job.cases[0], result)
        console.print(
            f"last epoch {result.last.test_accuracy:.1%}, best {result.best_accuracy:.1%} (epoch {result.best_epoch}, kept in "
            f"{folder / BEST}; chosen on the photographs that it is measured on)"
        )
        if record.key not in {stored.key for stored in load_run(folder).of(Finetune)}:
            append(folder, record)
    return folder


def compare(options: FinetuneOptions, console: Console, report: Report) -> Path:
    """Run every arm with every seed and write the report; a resumed run gets those that it lacks.

    Within a seed all arms share order and augmentation; they take turns in a shuffled order. An interrupted run resumes from
    its last epoch. Returns the run folder. Raises as ``run_one``.
    """
    from training.finetune import load_photographs

    configs = list(comparison_configs(options.config, take(options.seeds, (0, 1, 2))))
    device = check_configs(configs)
    return run_job(finetune_job(configs, load_photographs(options.config), device), options, console, report)


def check_configs(configs: Sequence[FinetuneConfig]) -> "torch.device":
    """Check settings and weights before photographs are decoded and others run. Returns the device of the first."""
    from training import transfer
    from training.sources.folders import photo_folder, training_files

    devices = [validate(config) for config in configs]
    training_files(photo_folder(configs[0].data))  # listed before ImageNet's weights are fetched
    for model, width, init in once((config.model, config.width, config.effective_init) for config in configs):
        transfer.create(model, width=width, init=init, num_classes=2)
    return devices[0]


def comparison_configs(config: FinetuneConfig, seeds: tuple[int, ...]) -> Iterator[FinetuneConfig]:
    """Yield every arm with every seed, the arms of a seed in a shuffled order."""
    for seed in seeds:
        # Where nothing is augmented, two of the arms are the same.
        arms = once(replace(config, seed=seed, **arm) for arm in ARMS)
        yield from random.Random(seed).sample(arms, len(arms))


def finetune_resumable(config: FinetuneConfig, dataset: "Dataset", folder: Path) -> Any:
    """Fine-tune, from the checkpoint in ``folder`` if it is this run's."""
    from training.checkpoint import NAME, BadCheckpoint
    from training.finetune import finetune

    try:
        return finetune(config, dataset, out=folder, resume=(folder / NAME).exists())[0]
    except BadCheckpoint:  # that of another run
        return finetune(config, dataset, out=folder)[0]


# ---- cases and display ------------------------------------------------------------------------------------------------


def finetune_job(configs: Sequence[FinetuneConfig], dataset: "Dataset", device: "torch.device") -> Job:
    """Return the job of these runs; a run that was interrupted resumes from its last epoch."""
    cases = [plan_tuning(config, dataset, device) for config in configs]
    config_of = {case.key: config for case, config in zip(cases, configs, strict=True)}

    def make_measure(folder: Path) -> Measure:
        def measure(case: Finetune) -> Finetune:
            record = fill(case, finetune_resumable(config_of[case.key], dataset, folder / UNFINISHED))
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            return record

        return measure

    return Job(
        name="finetune", suite="finetune", device=str(device), cases=tuple(cases), open=make_measure, shuffle=False,
        dataset=data_facts(dataset) | {"source": None},
    )  # fmt: skip


def plan_tuning(config: FinetuneConfig, dataset: "Dataset", device: "torch.device") -> Finetune:
    """Return a planned case, with the digest of the weights that it starts from."""
    from training.finetune import identity

    facts = identity(config, dataset)
    return plan_training(
        Finetune, config, dataset, device=str(device), init_digest=facts.get("init_digest"), num_epochs=config.epochs,
        skipped=len(dataset.skipped), skipped_files=list(dataset.skipped),
    )  # fmt: skip


def describe_data(dataset: "Dataset", console: Console) -> None:
    """Print how many photographs there are, and how many were skipped."""
    sizes = f"{len(dataset.train):,} photographs to train on, {len(dataset.test):,} to validate on"
    console.print(f"data: {dataset.name}, {sizes}")
    if dataset.skipped:
        console.print(f"skipped: {len(dataset.skipped)}, first {dataset.skipped[0]}")
