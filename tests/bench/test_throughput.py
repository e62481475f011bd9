"""``augmark throughput``: its cases, their records, utilisation, resuming, and users' mistakes."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from rich.console import Console

from bench import limits
from bench.jobs.job import JobOptions, measure_cases, open_folder, plan_training
from bench.jobs.throughput import (
    Axes,
    ThroughputOptions,
    lone_workers,
    matmul_peak,
    measure_feed,
    throughput,
    throughput_job,
    training_configs,
    with_utilisation,
    worker_counts,
)
from bench.records import ENVIRONMENT, RECORDS, Environment, Feed, Throughput, load_run, read, write
from tests.conftest import present
from training.config import TrainConfig, resolve_auto, validate
from training.data import Dataset

BASE = TrainConfig(model="resnet8", width=4, device="cpu", batch_size=16)
FLIP = Axes(recipes=("flip",), backends=None, workers=(0, 3), decode=("workers",))
QUIET = Console(file=io.StringIO())
EXTRAS = {"triton_augment", "dali", "dali_torchvision", "cvcuda", "albumentations"}
"""Backends that are there where their packages are."""


# ---- the cases --------------------------------------------------------------------------------------------------------


def placement(config: TrainConfig) -> tuple[Any, ...]:
    return (config.augment_on, config.effective_backend, config.resident, config.num_workers, config.decode)


def test_the_cases_are_the_ceiling_every_backend_and_every_number_of_workers() -> None:
    """Written out by hand for one recipe, two numbers of workers, images in files, on a CPU."""
    fed = [(0, "workers"), (3, "workers")]
    placed = [placement(config) for config in training_configs(BASE, FLIP) if config.backend not in EXTRAS]
    assert sorted(placed) == sorted([
        ("frozen", "torchvision", False, 0, "ahead"),
        ("none", "torchvision", True, 0, "ahead"),
        *(("workers", "pil", False, *loader) for loader in fed),
        *(("workers", "torchvision_loop", False, *loader) for loader in fed),
        *(("device", name, True, 0, "ahead") for name in ("torchvision", "kornia", "kornia_shared", "fused")),
        *(("device", "fused", False, *loader) for loader in fed),
    ])  # fmt: skip
    assert sorted(placement(config) for config in lone_workers(BASE, FLIP) if config.backend not in EXTRAS) == [
        ("none", "torchvision", False, 1, "workers"),
        ("workers", "pil", False, 1, "workers"),
        ("workers", "torchvision_loop", False, 1, "workers"),
    ]


def test_cases_are_valid_and_have_names_of_their_own(shapes: Dataset) -> None:
    configs = list(training_configs(BASE, replace(FLIP, recipes=("flip", "mixup"), decode=("ahead", "workers"))))
    for config in configs:
        validate(config)
    cases = [plan_training(Throughput, config, shapes) for config in configs]
    assert len({case.name for case in cases}) == len({case.case_key for case in cases}) == len(configs)


def test_on_cuda_compiled_backends_and_a_second_stream_come_along() -> None:
    configs = list(training_configs(replace(BASE, device="cuda:0"), FLIP))
    on_device = {(c.backend, c.augment_stream) for c in configs if c.augment_on == "device" and c.resident}
    on_device -= {(name, False) for name in EXTRAS}
    eager = {"torchvision", "kornia", "kornia_shared", "fused"}
    compiled = {"torchvision_compiled", "kornia_compiled", "fused_compiled"}
    assert on_device == {(name, False) for name in eager | compiled} | {("fused", True)}


def test_only_chosen_backends_are_measured_without_what_they_lack() -> None:
    kornia = replace(FLIP, recipes=("augmix", "flip"), backends=("kornia",))  # kornia has no AugMix as it is defined
    configs = list(training_configs(BASE, kornia))
    assert {(c.recipe, c.backend) for c in configs if c.augments} == {("flip", "kornia")}
    assert [c.augment_on for c in configs].count("device") == 3


def test_numbers_of_workers_double_up_to_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, counts in ((1, (0, 1)), (2, (0, 1, 2)), (6, (0, 1, 2, 4, 6))):
        monkeypatch.setattr("bench.jobs.throughput.usable_cpus", lambda cores=cores: cores)
        assert worker_counts() == counts


# ---- measuring --------------------------------------------------------------------------------------------------------


def test_a_lone_worker_delivers_what_was_counted(shapes: Dataset) -> None:
    config = replace(BASE, augment_on="workers", backend="pil", num_workers=1)
    record = measure_feed(plan_training(Feed, config, shapes), config, shapes, seconds=0.05)
    assert record.batches is not None
    assert record.examples is not None
    assert record.wall_s is not None
    assert record.batches >= 2
    # An epoch is 6 batches of 16 and one of 4.
    assert 4 < record.examples / record.batches <= 16
    assert record.examples_per_s == pytest.approx(record.examples / record.wall_s)


def planned(**changes: Any) -> Throughput:
    record = Throughput(status="failed", reason="made up", flops_per_example=2_000_000_000, examples_per_s=3000.0)
    return msgspec.structs.replace(record, **changes)


@pytest.mark.parametrize(
    ("changes", "peak", "share"),
    [
        ({}, 24e12, 0.25),  # 2e9 operations an image at 3,000 images/s are 6e12 of 24e12 a second
        ({"devices": ("cuda:0", "cuda:1")}, 24e12, 0.125),
        ({"flops_per_example": None}, 24e12, None),
        ({"examples_per_s": None}, 24e12, None),
        ({}, None, None),
    ],
)
def test_the_utilisation_by_hand(changes: dict[str, Any], peak: float | None, share: float | None) -> None:
    record = with_utilisation(planned(**changes), peak, "bfloat16")
    assert (record.model_flops_utilisation, record.matmul_flops_per_s, record.matmul_precision) == (share, peak, "bfloat16")


def test_a_run_has_one_peak_of_matrix_products_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Dataset
) -> None:
    from bench.environment import environment

    write(tmp_path / ENVIRONMENT, environment({"name": "shapes", "fingerprint": "abc"}))
    rates = iter([5e10, 7e10])
    monkeypatch.setattr(limits, "matmul_flops", lambda device, precision: next(rates))
    assert matmul_peak(tmp_path, "cpu", "float32") == (5e10, "float32")
    assert matmul_peak(tmp_path, "cpu", "float32") == (5e10, "float32")  # as it stands in the folder
    assert matmul_peak(tmp_path, "cpu", "bfloat16") == (7e10, "bfloat16")
    kept = present(read(tmp_path / ENVIRONMENT, Environment))
    assert kept.matmul_flops_per_s == {"cpu": {"float32": 5e10, "bfloat16": 7e10}}

    def full(device: str, precision: str) -> float:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(limits, "matmul_flops", full)
    write(tmp_path / ENVIRONMENT, msgspec.structs.replace(kept, matmul_flops_per_s={}))
    assert matmul_peak(tmp_path, "cpu", "float32") == (None, "float32")


@pytest.mark.gpu
def test_every_case_of_a_gpu_gives_a_result(shapes: Dataset, tmp_path: Path) -> None:
    axes = Axes(recipes=("flip",), backends=("fused", "torchvision", "pil"), workers=(0, 1), decode=("ahead",))
    base = resolve_auto(replace(BASE, device="cuda:0", precision="auto"), torch.device("cuda:0"))
    job = throughput_job(base, axes, shapes, seconds=0.05, rounds=1, suite="throughput")
    folder = open_folder(job, JobOptions(results=tmp_path / "run"), QUIET)
    measure_cases(job, folder, QUIET)
    records = load_run(folder).of(Throughput)
    assert len(records) + len(load_run(folder).of(Feed)) == len(job.cases)
    assert any(record.augment_stream for record in records)
    assert {record.precision for record in records} == {"bfloat16"}


# ---- the command ------------------------------------------------------------------------------------------------------


def run(folder: Path, **changes: Any) -> list[Any]:
    """Run the command and return all records of the folder."""
    options = ThroughputOptions(
        data="synthetic", data_root=folder, recipes=("flip", "flip"), backends=("torchvision",), workers=(0, 0), seconds=0.01,
        rounds=2, model="resnet8", width=4, max_train=100, batch_size=16, device="cpu", results=folder / "run",
    )  # fmt: skip
    throughput(replace(options, **changes), QUIET, lambda folder: None)
    return load_run(folder / "run").records


def test_a_broken_off_run_resumes_where_it_was_and_only_where_its_numbers_compare(tmp_path: Path) -> None:
    records, folder = run(tmp_path), tmp_path / "run"
    rounds = [[r.case_key for r in records if r.round == number] for number in (0, 1)]
    # Frozen, none, resident, fetched; one worker alone: what is named twice is measured once.
    assert len(rounds[0]) == len(set(rounds[0])) == 5
    assert sorted(map(repr, rounds[0])) == sorted(map(repr, rounds[1]))
    assert rounds[0] != rounds[1]
    assert {record.status for record in records} == {"ok"}
    lines = (folder / RECORDS).read_text().splitlines()
    (folder / RECORDS).write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        run(tmp_path)
    again = run(tmp_path, resume=True)
    assert (again[:3], {record.key for record in again}) == (records[:3], {record.key for record in records})
    assert len(again) == len(records)
    with pytest.raises(ValueError, match=r"cannot resume .* here \(dataset name synthetic \(100 .* -> synthetic \(50 "):
        run(tmp_path, resume=True, max_train=50)
