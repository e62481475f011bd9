"""The entry point as a user calls it, alone and under torchrun."""

import csv
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from training import train as entry
from training.config import TrainConfig

ROOT = Path(__file__).parents[2]
TINY = [
    *("--data", "synthetic", "--image-size", "16", "--max-train", "90", "--max-test", "50", "--device", "cpu"),
    *("--model", "resnet8", "--width", "4", "--epochs", "2", "--batch-size", "16"),
    *("--backend", "kornia", "--recipe", "crop_flip"),
]


def _call(*arguments: str, processes: int = 0) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    command = [sys.executable, *launcher, "-m", "training.train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def _check_output(stdout: str, devices: str) -> None:
    lines = stdout.splitlines()
    assert re.fullmatch(r"loss \d\.\d{3}, train acc 0\.\d{3}, test acc 0\.\d{3}", lines[-2])
    assert re.fullmatch(rf"\d+\.\d examples/sec on {re.escape(devices)}", lines[-1])
    assert [line.split()[0] for line in lines[1:4]] == ["epoch", "1", "2"]  # plain lines, no control characters
    assert "\x1b" not in stdout


def test_a_run_prints_the_books_lines_and_keeps_its_curves(tmp_path: Path) -> None:
    done = _call(*TINY, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    _check_output(done.stdout, "['cpu']")
    with open(tmp_path / "run" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [float(row["test_accuracy"]) for row in rows] == [epoch["test_accuracy"] for epoch in record["epochs"]]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert f"loss {record['loss']:.3f}, train acc {record['train_accuracy']:.3f}" in done.stdout


def test_two_processes_train_one_model_and_count_each_test_image_once(tmp_path: Path) -> None:
    done = _call(*TINY, "--out", str(tmp_path), processes=2)
    assert done.returncode == 0, done.stderr
    _check_output(done.stdout, "['cpu', 'cpu']")  # once: rank 0 alone prints
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["devices"] == ["cpu", "cpu"]
    assert record["batch_per_device"] == 8
    for epoch in record["epochs"]:
        assert epoch["examples"] == 90
        # 50 test images, each counted once: a share of 25 or 51 would not be whole here.
        assert epoch["test_accuracy"] * 50 == pytest.approx(round(epoch["test_accuracy"] * 50))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "error: no folder "),
        (["--recipe", "fliip"], "error: unknown recipe 'fliip'; known: "),
        (["--batch-size", "0"], "error: batch_size must be at least 1, got 0"),
        (["--data", "synthetic", "--out", "README.md/under-a-file"], "error: "),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "README.md").touch()
    config = {name[2:].replace("-", "_"): value for name, value in zip(arguments[::2], arguments[1::2], strict=True)}
    out = config.pop("out", None)
    if "batch_size" in config:
        config |= {"batch_size": int(config["batch_size"])}  # type: ignore[dict-item]
    code = entry.main(TrainConfig(device="cpu", **config), tmp_path / out if out else None)  # type: ignore[arg-type]
    stderr = capsys.readouterr().err
    assert code == 2
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1


def test_faults_of_the_program_are_not_hidden() -> None:
    assert entry.describe(RuntimeError("boom")) is None
    assert entry.describe(ValueError("two\n lines")) == "two lines"
    import torch

    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    ):
        assert "out of memory" in (entry.describe(error) or "")
    assert "fewer num_workers" in (entry.describe(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")) or "")


def test_epochs_are_kept_when_a_run_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        data="synthetic", image_size=16, max_train=90, max_test=50, model="resnet8", width=4, epochs=5, device="cpu",
        recipe="none", data_root=tmp_path,
    )  # fmt: skip

    def die_in_the_third(self: object, step: int, steps: int) -> None:
        if self._epoch == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    monkeypatch.setattr(entry.Display, "step", die_in_the_third)
    assert entry.main(config, tmp_path / "run") == 130
    assert len((tmp_path / "run" / "curves.csv").read_text().splitlines()) == 1 + 2


def test_a_run_is_not_overwritten_whether_it_was_finished_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(
        data="synthetic", image_size=16, max_train=40, max_test=20, model="resnet8", width=4, epochs=2, device="cpu",
        recipe="none", data_root=tmp_path,
    )  # fmt: skip
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(entry.RunFolder, "add", lambda self, stats: pytest.fail("stopped") if stats.epoch == 2 else None)
        with pytest.raises(BaseException, match="stopped"):
            entry.main(config, out)
    kept = {file.name: file.read_bytes() for file in out.iterdir()}
    refused = f"error: {out} already holds a run: add --resume to resume it, or take another --out\n"
    assert entry.main(config, out) == 2
    assert capsys.readouterr().err == refused
    assert {file.name: file.read_bytes() for file in out.iterdir()} == kept
    assert entry.main(config, out, resume=True) == 0
    # Epoch 1 was never written to the curves, and is there all the same: they are continued from the checkpoint.
    assert [row["epoch"] for row in entry.read_curves(out)] == [1, 2]
    assert json.loads((out / "result.json").read_text())["resumed_after"] == 2
    for gone in ("", "checkpoint.pt", "result.json"):
        (out / gone).unlink() if gone else None
        assert entry.main(config, out) == 2, "the rows of the curves are a run too"
        assert capsys.readouterr().err == refused
    (out / "curves.csv").write_text("epoch,train_loss\n")  # killed in its first epoch: nothing to lose
    assert entry.main(config, out) == 0
    assert [row["epoch"] for row in entry.read_curves(out)] == [1, 2]
    assert entry.main(config, None, resume=True) == 2
    assert "error: --resume needs --out" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_leaves_the_folder_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(
        data="synthetic", image_size=16, max_train=40, max_test=20, model="resnet8", width=4, epochs=1, device="cpu",
        recipe="none", data_root=tmp_path,
    )  # fmt: skip
    out = tmp_path / "run"
    assert entry.main(config, out) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert sorted(before) == ["checkpoint.pt", "curves.csv", "result.json"]
    capsys.readouterr()
    assert entry.main(dataclasses.replace(config, model="resnet18"), out, resume=True) == 2
    assert capsys.readouterr().err.endswith("is the checkpoint of another run: model is resnet8 there and resnet18 here\n")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_row_of_the_curves_that_was_cut_off_is_none(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("epoch,train_loss\r\n1,0.5\r\n2,0.2", newline="")
    assert entry.read_curves(tmp_path) == [{"epoch": 1.0, "train_loss": 0.5}]
    (tmp_path / "curves.csv").write_text("epoch,tra")
    assert entry.read_curves(tmp_path) == []
