"""A sweep from end to end: cases on disk as they end, killed and resumed, shared by workers, failures kept as records."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from rich.console import Console

from bench.jobs import sweep as module
from bench.jobs.sweep import Share, SweepOptions, case_config, give_device, run_worker, sweep, train_share
from bench.records import PLAN, RECORDS, Accuracy, Plan, load_run, project_sweep, read, write
from bench.report.sections.accuracy import accuracy_section
from bench.report.sweep_table import print_table
from tests.bench.stored import store, trained
from tests.conftest import one_line, present, wait_until
from training import distributed, loop
from training.config import TrainConfig
from training.data import Dataset, load
from training.distributed import Ranks
from training.feed import Feed
from training.trainer import ImageTrainer

ROOT = Path(__file__).parents[2]
TINY = TrainConfig(
    data="synthetic", image_size=16, max_train=160, max_test=100, model="resnet8", width=4, epochs=1, batch_size=48,
    device="cpu",
)  # fmt: skip
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def run(folder: Path, **changes: Any) -> tuple[list[Accuracy], str]:
    """Sweep; returns the records after it, and what it printed."""
    settings: dict[str, Any] = {
        "config": dataclasses.replace(TINY, data_root=folder / "root"), "recipes": ("none", "crop_flip"),
        "backends": ("fused",), "seeds": 2, "results": folder / "run", **changes,
    }  # fmt: skip
    console = Console(record=True, width=200)

    def report(folder: Path) -> None:
        print_table(load_run(folder), console)
        console.print("report: page")

    sweep(SweepOptions(**settings), console, report)
    return [record for record in load_run(folder / "run").records if isinstance(record, Accuracy)], console.export_text()


def count(records: list[Accuracy]) -> Counter[tuple[str | None, int]]:
    return Counter((record.recipe, record.seed) for record in records)


def test_a_sweep_leaves_records_a_table_and_can_be_extended(tmp_path: Path) -> None:
    first, text = run(tmp_path)
    assert count(first) == {(recipe, seed): 1 for recipe in ("none", "crop_flip") for seed in range(2)}
    facts = {(r.status, r.device, r.cells_at_once, r.implementation, r.num_epochs) for r in first}
    assert facts == {("ok", "cpu", 1, "c", 1)}
    folder = tmp_path / "run"
    plan = present(load_run(folder).plan)
    assert (plan.baseline, len(plan.cases)) == ("none@fused", 4)
    assert str(tmp_path) not in (folder / PLAN).read_text() + (folder / RECORDS).read_text()  # no path of the machine
    assert not (folder / "claims").exists()
    assert all(part in text for part in ("baseline none@fused", "crop_flip", "minus baseline", "report: page"))
    assert [r.between_s is None for r in first] == [True, False, False, False]  # nothing is before the first case
    assert all(0 < (r.between_s or 1) < 60 for r in first)
    assert "(n = 3); 12 recipes x 16 seeds would take about" in text
    again, _ = run(tmp_path, resume=True)
    assert again == first
    more, text = run(tmp_path, resume=True, seeds=3, recipes=("none", "crop_flip", "flip"))
    assert (more[: len(first)], set(count(more).values())) == (first, {1})
    assert len(more) == 9
    assert "±" in text
    plan = present(load_run(folder).plan)
    assert len(plan.cases) == 9


def test_the_time_of_a_whole_table_is_projected_from_cases_that_followed_another() -> None:
    """192 cases of 0.5 + 3.5 + 1 s, two at a time: 8 minutes. The first case of a process compiles, and does not count."""
    first = Accuracy(status="not_run", train_s=3.5, evaluation_s=1.0, warm_up_s=60.0, cells_at_once=2)
    later = [msgspec.structs.replace(first, seed=seed, between_s=0.5) for seed in (1, 2)]
    words = "between two cases: median 0.5 s, at most 0.5 s (n = 2); 12 recipes x 16 seeds would take about 8 min here"
    assert (project_sweep([first, *later]), project_sweep([first])) == (words, "")


def test_the_report_has_the_projection(tmp_path: Path) -> None:
    records = [trained("accuracy", seed=seed, train_s=4.5, between_s=0.5, cells_at_once=2) for seed in range(2)]
    section = accuracy_section(load_run(store(tmp_path / "run", records=records)))
    assert "12 recipes x 16 seeds would take about 8 min here" in str(section)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_case_is_the_run_that_train_alone_gives(seed: int, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, recipe="crop_flip", backend="fused", seed=seed)
    alone = loop.train(config, load("synthetic", root=tmp_path, image_size=16, max_train=160, max_test=100)).epochs[-1]
    base = dataclasses.replace(TINY, data_root=tmp_path / "root", seed=seed)
    records, _ = run(tmp_path, config=base, recipes=("crop_flip",), seeds=1)
    assert [(r.seed, r.test_accuracy) for r in records] == [(seed, alone.test_accuracy)]
    assert records[0].loss == pytest.approx(alone.train_loss, rel=1e-5)  # stored to 6 digits


def test_what_fails_is_a_record_and_is_tried_again_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", lambda config, dataset, **_: [][config.seed])  # as a GPU that another process has filled
        failed, text = run(tmp_path, recipes=("none",))
    assert [record.status for record in failed] == ["failed", "failed"]
    assert "--retry-failed" in text
    assert run(tmp_path, recipes=("none",), resume=True)[0] == failed
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", lambda config, dataset, **_: [][config.seed])
        assert len(run(tmp_path, recipes=("none",), resume=True, retry_failed=True)[0]) == 4  # once each, not for ever
    records, text = run(tmp_path, recipes=("none",), resume=True, retry_failed=True)
    assert (records[:2], [(record.seed, record.status) for record in records[4:]]) == (failed, [(0, "ok"), (1, "ok")])
    assert "failed:" not in text
    assert run(tmp_path, recipes=("none",), resume=True, retry_failed=True)[0] == records


def test_unsupported_and_diverged_cases_are_records_and_the_others_continue(tmp_path: Path) -> None:
    records, text = run(tmp_path, recipes=("augmix", "none"), backends=("kornia",), seeds=1)
    assert [(r.recipe, r.status) for r in records] == [("augmix", "unsupported"), ("none", "ok")]
    assert "AugMix is not supported by backend kornia" in str(records[0].reason)
    assert "AugMix is not supported by backend kornia" in text
    wild = dataclasses.replace(TINY, data_root=tmp_path / "root", learning_rate=1e30, optimizer="sgd")
    records, _ = run(tmp_path / "wild", config=wild, recipes=("none",), seeds=1)
    assert records[0].status == "failed"
    assert "learning_rate" in str(records[0].reason)


# ---- processes --------------------------------------------------------------------------------------------------------


def test_more_workers_than_cases_leave_nobody_idle(tmp_path: Path) -> None:
    """Processes without a case would only take cores from those that have one."""
    records, _ = run(tmp_path, recipes=("none", "none"), seeds=1, workers=9)  # named twice, it is one case
    assert [(record.seed, record.cells_at_once) for record in records] == [(0, 1)]


@pytest.mark.slow
def test_a_killed_sweep_resumes_without_losing_or_repeating_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a run resumes under the variables that it was started with
    command = [
        *(sys.executable, "-m", "bench.cli", "sweep", "--data", "synthetic", "--data-root", str(tmp_path / "root")),
        *("--image-size", "16", "--max-train", "160", "--max-test", "100", "--model", "resnet8", "--width", "4"),
        *("--epochs", "1", "--batch-size", "48", "--device", "cpu", "--recipes", "none", "crop_flip", "--backends", "fused"),
        *("--seeds", "40", "--workers", "2", "--results", str(tmp_path / "run")),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    journal = tmp_path / "run" / RECORDS
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)  # with its workers
    process.wait()
    kept = load_run(tmp_path / "run").of(Accuracy)
    assert 2 <= len(kept) < 80
    # The plan has 80 cases; of these the first seeds are resumed, which is what a quick test has time for.
    seeds = max(record.seed for record in kept) + 2
    records, _ = run(tmp_path, seeds=seeds, workers=2, resume=True)
    assert records[: len(kept)] == kept
    assert {record.cells_at_once for record in records} == {2}
    assert count(records) == {(recipe, seed): 1 for recipe in ("none", "crop_flip") for seed in range(seeds)}


def test_a_worker_that_dies_leaves_cases_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_share", lambda *_: None)  # as if its processes had died at once
        with pytest.raises(OSError, match=r"4 of 4 cases have not run, the first none@fused, seed 0: add --resume"):
            run(tmp_path)
    assert len(run(tmp_path, resume=True)[0]) == 4


def test_under_torchrun_each_process_takes_cases_and_one_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks one after the other, each told that there are two: neither waits for the other, as DDP would."""
    results = {}
    for rank in ("0", "1"):
        for name, value in (TORCHRUN | {"RANK": rank, "LOCAL_RANK": rank}).items():
            monkeypatch.setenv(name, value)
        results[rank] = run(tmp_path)
    assert (set(count(results["1"][0]).values()), len(results["1"][0])) == ({1}, 4)
    assert ["report: " in results[rank][1] for rank in ("0", "1")] == [True, False]
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="give --results: the folder that all processes share"):
        run(tmp_path, results=None)
    with pytest.raises(ValueError, match="leave --workers out"):
        run(tmp_path, workers=2)


def test_under_torchrun_a_case_is_a_run_of_its_own(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another rank announced that never comes, a run that joined a group would wait for it."""
    for name, value in {**TORCHRUN, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    base = give_device(TINY, 1)
    assert not {"RANK", "WORLD_SIZE"} & os.environ.keys()
    assert loop.train(base, shapes).devices == ("cpu",)


def test_a_workers_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "train_share", full)
    base = dataclasses.replace(TINY, data_root=tmp_path)
    run_worker(Share(base=base, cases=(), folder=tmp_path, index=1, at_once=2))
    assert capfd.readouterr().err == "error in worker 1: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(("at_once", "threads"), [(1, None), (2, 4), (9, 1)])
def test_processes_at_once_share_the_cores(
    at_once: int, threads: int | None, shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight cores are shared out; a lone process keeps the threads that it has."""
    counts: list[int] = []
    monkeypatch.setattr(module, "usable_cpus", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setattr(module, "measure_cases", lambda *_, **__: None)
    train_share(Share(base=TINY, cases=(), folder=tmp_path, index=0, at_once=at_once), shapes, Console(quiet=True))
    assert counts == ([] if threads is None else [threads])


# ---- what a case is ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path: Path) -> Dataset:
    return load("synthetic", root=tmp_path, image_size=16, max_train=160, max_test=100)


def test_paired_seeds_share_weights_and_order_over_recipes_and_backends(shapes: Dataset) -> None:
    def start(recipe: str, backend: str, seed: int) -> list[torch.Tensor]:
        """Return initial weights, and the labels of two epochs in the order in which they come."""
        config = case_config(TINY, recipe, backend, seed)
        bare = Feed(dataclasses.replace(config, augment_on="none"), shapes, Ranks())  # mixing recipes change labels
        labels = [batch[1] for epoch in (1, 2) for batch in bare.epoch(epoch)]
        return [*ImageTrainer(config, shapes, Ranks()).model.state_dict().values(), *labels]

    for seed in (0, 1):
        first = start("none", "fused", seed)
        for recipe, backend in (("crop_flip", "fused"), ("mixup", "torchvision"), ("crop_flip", "kornia")):
            assert all(a.equal(b) for a, b in zip(first, start(recipe, backend, seed), strict=True))
    assert not all(a.equal(b) for a, b in zip(start("none", "fused", 0), first, strict=True))


def test_a_loop_over_images_gets_workers_beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    base = TrainConfig(device="cpu", resident=True)
    assert case_config(base, "flip", "pil", 4) == dataclasses.replace(base, recipe="flip", backend="pil", seed=4)
    monkeypatch.setattr(distributed, "resolve_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr("bench.jobs.sweep.usable_cpus", lambda: 8)
    config = case_config(base, "flip", "pil", 4, at_once=2)
    assert (config.augment_on, config.num_workers, config.resident) == ("workers", 4, False)
    assert case_config(dataclasses.replace(base, num_workers=3), "flip", "pil", 4).num_workers == 3
    assert case_config(base, "flip", "fused", 4).augment_on == "device"


def test_local_processes_take_turns_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for device in ("auto", "cuda"):
        devices = [give_device(TrainConfig(device=device), index).device for index in range(3)]
        assert devices == ["cuda:0", "cuda:1", "cuda:0"]
    assert give_device(TrainConfig(device="cuda:1"), 0).device == "cuda:1"  # chosen by hand
    assert give_device(TrainConfig(device="cpu"), 1).device == "cpu"


# ---- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none@kornia"}, "unknown baseline 'none@kornia'; this sweep has none@fused, crop_flip@fused"),
        ({"config": dataclasses.replace(TINY, recipe="mixup")}, "take --recipes and --backends instead of --recipe"),
        ({"config": dataclasses.replace(TINY, augment_on="none")}, "take --recipes none"),
        ({"config": dataclasses.replace(TINY, resident=True, augment_on="workers")}, "resident images need no loader"),
        ({"config": dataclasses.replace(TINY, batch_size=1024, compile=True)}, "batch_size 1024 is more than the 160"),
        ({"retry_failed": True}, "--retry-failed goes with --resume"),
        ({"resume": True}, "cannot resume|is no run folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with one_line(message):
        run(tmp_path, **changes)
    assert not (tmp_path / "run").exists()


def test_another_sweep_is_not_resumed_by_any_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, _ = run(tmp_path, recipes=("none",), seeds=1)
    changed = dataclasses.replace(TINY, data_root=tmp_path / "root", epochs=2)
    with pytest.raises(ValueError, match=r"cannot resume .* here \(epochs 1 -> 2\): choose another --results"):
        run(tmp_path, recipes=("none",), seeds=1, resume=True, config=changed)
    with pytest.raises(ValueError, match="already holds a run"):
        run(tmp_path, recipes=("none",), seeds=1)
    for name, value in TORCHRUN.items():  # the plan lies there before rank 0, which refuses it too, has come to read it
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"cannot resume .* here \(epochs 1 -> 2\)"):
        run(tmp_path, recipes=("none",), seeds=2, resume=True, config=changed)
    assert load_run(tmp_path / "run").records == records
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    plan = present(read(tmp_path / "run" / PLAN, Plan))
    write(tmp_path / "run" / PLAN, msgspec.structs.replace(plan, settings=plan.settings | {"device": "cuda"}))
    with pytest.raises(ValueError, match=r"\(device cuda -> cpu\)"):
        run(tmp_path, recipes=("none",), seeds=1, resume=True)
