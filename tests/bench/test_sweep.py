"""A sweep from end to end: cells on disk as they end, killed and resumed, shared by workers, failures kept as records."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench import cli
from bench.endtoend.sweep import SweepOptions, sweep
from bench.records.runs import load_run
from training.config import TrainConfig

ROOT = Path(__file__).parents[2]
TINY = TrainConfig(
    data="synthetic", image_size=16, max_train=160, max_test=100, model="resnet8", width=4, epochs=1, batch_size=48,
    device="cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options(folder: Path, **changes: Any) -> SweepOptions:
    given: dict[str, Any] = {
        "config": dataclasses.replace(TINY, data_root=folder / "root"), "recipes": ("none", "crop_flip"),
        "backends": ("fused",), "seeds": 2, "results": folder / "run", **changes,
    }  # fmt: skip
    return SweepOptions(**given)


def run(folder: Path, **changes: Any) -> tuple[list[dict[str, Any]], str]:
    """The records after a sweep, and what it printed."""
    console = Console(record=True, width=120)
    sweep(options(folder, **changes), console)
    return load_run(folder / "run").training, console.export_text()


def names(records: list[dict[str, Any]]) -> Counter[tuple[str, str, int]]:
    return Counter((record["recipe"], record["backend"], record["seed"]) for record in records)


def test_a_sweep_leaves_a_run_folder_and_a_table(tmp_path: Path) -> None:
    records, said = run(tmp_path, seeds=3)
    assert names(records) == {(recipe, "fused", seed): 1 for recipe in ("none", "crop_flip") for seed in range(3)}
    assert {(r["kind"], r["status"], r["device"], r["cells_at_once"]) for r in records} == {("accuracy", "ok", "cpu", 1)}
    folder = tmp_path / "run"
    assert json.loads((folder / "environment.json").read_text())["dataset"]["name"].startswith("synthetic")
    plan = json.loads((folder / "plan.json").read_text())["sweep"]
    assert plan["baseline"] == "none@fused"
    assert len(plan["cells"]) == 6
    assert str(tmp_path) not in json.dumps([plan, records])  # no path of the machine
    assert (folder / "report" / "index.html").exists()
    assert not (folder / "claims").exists()
    for part in ("none@fused", "crop_flip@fused", "baseline", "±"):
        assert part in said


def test_more_can_be_asked_of_a_sweep_and_nothing_is_repeated(tmp_path: Path) -> None:
    first, _ = run(tmp_path)
    again, _ = run(tmp_path, resume=True)
    assert again == first
    more, _ = run(tmp_path, resume=True, seeds=3, recipes=("none", "crop_flip", "flip"))
    assert more[: len(first)] == first
    assert set(names(more).values()) == {1}
    assert len(more) == 9
    assert len(load_run(tmp_path / "run").plan["sweep"]["cells"]) == 9


@pytest.mark.parametrize("seed", [0, 3])
def test_cells_are_the_runs_that_train_alone_gives(seed: int, tmp_path: Path) -> None:
    from training.data import load
    from training.loop import train

    config = dataclasses.replace(TINY, recipe="crop_flip", backend="fused", seed=seed)
    alone = train(config, load("synthetic", root=tmp_path, image_size=16, max_train=160, max_test=100)).as_record()
    base = dataclasses.replace(TINY, data_root=tmp_path / "root", seed=seed)
    records, _ = run(tmp_path, config=base, recipes=("crop_flip",), seeds=1)
    assert [(r["seed"], r["test_accuracy"], r["loss"]) for r in records] == [(seed, alone["test_accuracy"], alone["loss"])]


def test_a_cell_that_fails_is_a_record_and_the_others_go_on(tmp_path: Path) -> None:
    records, said = run(tmp_path, recipes=("augmix", "none"), backends=("kornia",), seeds=1)
    assert [(r["recipe"], r["status"]) for r in records] == [("augmix", "unsupported"), ("none", "ok")]
    assert "AugMix is not supported by backend kornia" in records[0]["reason"]
    assert "AugMix is not supported by backend kornia" in said.replace("\n", " ")
    assert "AugMix is not supported" in (tmp_path / "run" / "report" / "report.md").read_text()
    assert run(tmp_path, recipes=("augmix", "none"), backends=("kornia",), seeds=1, resume=True)[0] == records


def test_cells_that_failed_are_tried_again_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import loop

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", lambda config, dataset: [][config.seed])  # as a GPU that another process has filled
        failed, said = run(tmp_path, recipes=("none",))
    assert [record["status"] for record in failed] == ["failed", "failed"]
    assert "--retry-failed" in said
    assert run(tmp_path, recipes=("none",), resume=True)[0] == failed
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", lambda config, dataset: [][config.seed])
        assert len(run(tmp_path, recipes=("none",), resume=True, retry_failed=True)[0]) == 4  # once each, not for ever
    records, said = run(tmp_path, recipes=("none",), resume=True, retry_failed=True)
    assert records[:2] == failed
    assert [(record["seed"], record["status"]) for record in records[4:]] == [(0, "ok"), (1, "ok")]
    assert "failed:" not in said
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "6 training records, 0 of them failed; 4 more failures gave a result when tried again." in report
    assert "IndexError" not in report, "what was made good is no longer listed"
    assert run(tmp_path, recipes=("none",), resume=True, retry_failed=True)[0] == records


def test_more_workers_than_cells_leave_nobody_idle(tmp_path: Path) -> None:
    """Processes without a cell would only take cores from those that have one."""
    records, _ = run(tmp_path, recipes=("none", "none"), seeds=1, workers=9)  # named twice, it is one cell
    assert [(record["seed"], record["cells_at_once"]) for record in records] == [(0, 1)]


def test_a_training_that_diverges_is_a_record(tmp_path: Path) -> None:
    wild = dataclasses.replace(TINY, data_root=tmp_path / "root", learning_rate=1e30, optimizer="sgd")
    records, _ = run(tmp_path, config=wild, recipes=("none",), seeds=1)
    assert records[0]["status"] == "failed"
    assert "take a smaller learning_rate" in records[0]["reason"]


def test_two_workers_share_and_never_run_the_same_cell(tmp_path: Path) -> None:
    records, _ = run(tmp_path, workers=2, seeds=4)
    assert names(records) == {(recipe, "fused", seed): 1 for recipe in ("none", "crop_flip") for seed in range(4)}
    assert {record["cells_at_once"] for record in records} == {2}


def test_a_killed_sweep_goes_on_without_losing_or_repeating_a_cell(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "bench.cli", "sweep", "--data", "synthetic", "--data-root", str(tmp_path / "root")),
        *("--image-size", "16", "--max-train", "160", "--max-test", "100", "--model", "resnet8", "--width", "4"),
        *("--epochs", "1", "--batch-size", "48", "--device", "cpu", "--recipes", "none", "crop_flip", "--backends", "fused"),
        *("--seeds", "40", "--workers", "2", "--results", str(tmp_path / "run")),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, start_new_session=True
    )
    journal = tmp_path / "run" / "training.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # with its workers
    process.wait()
    before = journal.read_bytes()
    kept = [json.loads(line) for line in before.splitlines(keepends=True) if line.endswith(b"\n")]
    assert 2 <= len(kept) < 80
    # The plan has 80 cells; of these the first seeds are gone on with, which is what a quick test has time for.
    seeds = max(record["seed"] for record in kept) + 2
    records, _ = run(tmp_path, seeds=seeds, resume=True)
    assert records[: len(kept)] == kept
    assert names(records) == {(recipe, "fused", seed): 1 for recipe in ("none", "crop_flip") for seed in range(seeds)}


def test_a_worker_that_dies_leaves_cells_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.endtoend.sweep._work", lambda share, dataset: None)  # as if its processes had died at once
    with pytest.raises(OSError, match=r"4 of 4 cells have not run, the first none@fused, seed 0: go on with --resume"):
        run(tmp_path)
    monkeypatch.undo()
    assert len(run(tmp_path, resume=True)[0]) == 4


def test_under_torchrun_each_process_takes_cells_and_one_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ranks one after the other, each told that there are two: neither waits for the other, as DDP would."""
    told = {}
    for rank in ("0", "1"):
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, rank)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, "2")
        told[rank] = run(tmp_path)
    assert set(names(told["1"][0]).values()) == {1}
    assert len(told["1"][0]) == 4
    assert "report: " in told["0"][1]
    assert "report: " not in told["1"][1]
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="give --results: the folder that all processes share"):
        run(tmp_path, results=None)
    with pytest.raises(ValueError, match="leave --workers out"):
        run(tmp_path, workers=2)


def test_a_workers_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from bench.endtoend import sweep as module

    def full(share: Any, dataset: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_work", full)
    base = dataclasses.replace(TINY, data_root=tmp_path)
    module._worker(module._Share(base=base, todo=(), folder=tmp_path, index=1, at_once=2, parent=None))
    assert capfd.readouterr().err == "error in worker 1: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": ("fliip",)}, "fliip"),
        ({"backends": ("opencv",)}, "opencv"),
        ({"seeds": 0}, "--seeds and --workers must be at least 1"),
        ({"workers": 0}, "--seeds and --workers must be at least 1"),
        ({"baseline": "none@kornia"}, "unknown baseline 'none@kornia'; this sweep has none@fused, crop_flip@fused"),
        ({"config": dataclasses.replace(TINY, recipe="mixup")}, "take --recipes and --backends instead of --recipe"),
        ({"config": dataclasses.replace(TINY, augment_on="none")}, "take --recipes none"),
        ({"config": dataclasses.replace(TINY, batch_size=0)}, "batch_size must be at least 1"),
        ({"config": dataclasses.replace(TINY, resident=True, augment_on="workers")}, "resident images need no loader"),
        ({"retry_failed": True}, "--retry-failed goes with --resume"),
        ({"resume": True, "results": None}, "give --results"),
        ({"resume": True}, "cannot be resumed|is no run folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_another_sweep_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, recipes=("none",), seeds=1)
    other = dataclasses.replace(TINY, data_root=tmp_path / "root", epochs=2)
    with pytest.raises(ValueError, match="holds another sweep: its epochs is 1, not 2"):
        run(tmp_path, recipes=("none",), seeds=1, resume=True, config=other)
    with pytest.raises(ValueError, match="already holds a run"):
        run(tmp_path, recipes=("none",), seeds=1)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    plan["sweep"]["settings"]["device"] = "cuda"
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="holds another sweep: its device is cuda, not cpu"):
        run(tmp_path, recipes=("none",), seeds=1, resume=True)


def test_a_rank_that_finds_the_plan_of_another_sweep_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan lies there before rank 0, which refuses it too, has come to read it."""
    records, _ = run(tmp_path, recipes=("none",), seeds=1)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    other = dataclasses.replace(TINY, data_root=tmp_path / "root", epochs=2)
    with pytest.raises(ValueError, match="holds another sweep: its epochs is 1, not 2"):
        run(tmp_path, recipes=("none",), seeds=2, resume=True, config=other)
    assert load_run(tmp_path / "run").training == records


def test_the_command_ends_with_one_line_for_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["sweep", "--recipes", "fliip"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
