"""Errors in one line, the folder of a run, and seconds to a target."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from training import train as entry
from training.config import TrainConfig
from training.data import Dataset
from training.loop import train
from training.results import EpochStats, seconds_to
from training.train import notes


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data="synthetic", image_size=16, max_train=40, max_test=20, model="resnet8", width=4, epochs=2, device="cpu",
        recipe="none", data_root=tmp_path,
    )  # fmt: skip


# ---- errors --------------------------------------------------------------------------------------------------------------


_MEMORY = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
_RESET = "[../third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:38566: Connection reset by peer"
_TIMEOUT = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 300000ms for recv"
_LOST = "lost contact with another process: see which one died or never came, then --resume ("


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("boom"), None),  # faults of the program are not hidden
        (RuntimeError("NCCL is not built in"), None),
        (ValueError("two\n lines"), "two lines"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: take a smaller"),
        (MemoryError(), "out of memory: take a smaller"),
        (RuntimeError(_MEMORY), "out of memory: take a smaller"),
        (OSError(28, "No space left on device"), "no room to write (No space left on device): free some"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "out of memory: take a smaller"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a loader worker died"),
        (RuntimeError(_RESET), _LOST),
        (RuntimeError(_TIMEOUT), _LOST),
        (dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690,\nremote process exited"), _LOST),
        (dist.DistNetworkError("The client socket has timed out after 60000ms while trying to connect"), _LOST),
    ],
)
def test_errors_of_the_user_and_the_machine_are_one_line(error: Exception, line: str | None) -> None:
    result = entry.describe(error)
    assert (result is None) == (line is None)
    if result is not None and line is not None:
        assert result.startswith(line)
        assert "\n" not in result


# ---- a run's folder -------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_its_epochs(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_the_third(self: entry.Display, step: int, steps: int) -> None:
        if self._epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(entry.Display, "step", interrupt_the_third)
    with pytest.raises(KeyboardInterrupt):
        entry.run(replace(config, epochs=5), tmp_path / "run")
    assert [row["epoch"] for row in entry.read_curves(tmp_path / "run")] == [1, 2]


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_run_is_not_overwritten_whether_it_was_finished_or_not(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(entry.RunFolder, "add", lambda self, stats: pytest.fail("stopped") if stats.epoch == 2 else None)
        with pytest.raises(BaseException, match="stopped"):
            entry.run(config, out)
    before = _content(out)
    refused = f"^{re.escape(str(out))} already holds a run: add --resume to resume it, or take another --out$"
    with pytest.raises(ValueError, match=refused):
        entry.run(config, out)
    assert _content(out) == before
    entry.run(config, out, resume=True)
    # Epoch 1 was never written to the curves, and is there all the same: they are continued from the checkpoint.
    assert [row["epoch"] for row in entry.read_curves(out)] == [1, 2]
    assert json.loads((out / "result.json").read_text())["resumed_after"] == 2
    for gone in ("", "checkpoint.pt", "result.json"):
        (out / gone).unlink() if gone else None
        with pytest.raises(ValueError, match=refused):  # the rows of the curves are a run too
            entry.run(config, out)
    (out / "curves.csv").write_text("epoch,train_loss\n")  # without a row there is nothing to lose
    entry.run(config, out)
    assert [row["epoch"] for row in entry.read_curves(out)] == [1, 2]


def test_another_runs_checkpoint_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    entry.run(replace(config, epochs=1), out)
    before = _content(out)
    assert sorted(before) == ["checkpoint.pt", "curves.csv", "result.json"]
    with pytest.raises(ValueError, match=r"is the checkpoint of another run: width is 4 there and 8 here$"):
        entry.run(replace(config, epochs=1, width=8), out, resume=True)
    assert _content(out) == before


# ---- seconds to a target --------------------------------------------------------------------------------------------------


def test_seconds_count_to_the_end_of_the_first_epoch_that_is_good_enough() -> None:
    """3 s to 50 %, 1.5 s more to exactly 94 %, and later epochs, even below it, do not matter."""
    epochs = [
        EpochStats(epoch=n, train_loss=1, train_accuracy=0.5, test_accuracy=accuracy, examples=10, wall_s=wall_s, wait_s=0)
        for n, (wall_s, accuracy) in enumerate(((3.0, 0.5), (1.5, 0.94), (1.25, 0.9), (1.0, 0.95)), start=1)
    ]
    for target, seconds in ((0.94, 4.5), (0.941, 6.75), (0.1, 3.0), (0.96, None)):
        assert seconds_to(epochs, target) == seconds


def test_a_run_tells_its_seconds_and_what_they_leave_out(tiny: TrainConfig, shapes: Dataset) -> None:
    result = train(replace(tiny, target_accuracy=1e-6), shapes)
    assert result.seconds_to_target == result.epochs[0].wall_s
    assert result.train_s == pytest.approx(sum(epoch.wall_s for epoch in result.epochs))
    assert min(result.warm_up_s, result.evaluation_s) > 0
    (line,) = notes(result)
    assert line.startswith("test acc 0.000 after ")
    unreached = replace(result, config=replace(tiny, target_accuracy=1.0))
    resumed = replace(result, resumed_after=1)  # its first epochs may have run elsewhere
    assert unreached.seconds_to_target is resumed.seconds_to_target is None
    assert "was not reached" in notes(unreached)[0]
    assert "resumed" in notes(resumed)[0]
    assert notes(replace(result, config=tiny)) == []
