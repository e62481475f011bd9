"""What a command that measures training ends with: its exit code and one line, by what failed and was not made good."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.endtoend.outcomes import exit_code
from bench.records.runs import append_training, write_json
from bench.records.training_cases import left_failed

pytestmark = pytest.mark.usefixtures("one_thread")

OF_A_CELL = {"kind": "accuracy", "recipe": "flip", "backend": "fused", "model": "resnet8", "num_epochs": 2}


def cell(seed: int, status: str, **fields: Any) -> dict[str, Any]:
    reason = {} if status == "ok" else {"reason": "RuntimeError: the GPU is full"}
    return {**OF_A_CELL, "seed": seed, "status": status, **reason, **fields}


@pytest.mark.parametrize(
    ("training", "left"),
    [
        ([cell(0, "ok"), cell(1, "failed")], [1]),
        ([cell(0, "failed"), cell(0, "ok")], []),
        ([cell(0, "ok"), cell(0, "failed")], []),  # whatever the order: there is a result
        ([cell(0, "failed"), cell(0, "failed")], [0, 0]),
        ([cell(0, "failed"), cell(0, "ok", recipe="none")], [0]),  # another case
        ([cell(0, "failed", num_epochs=1), cell(0, "ok")], [0]),
        ([cell(0, "unsupported"), cell(1, "ok")], []),
        ([{"kind": "photographs", "status": "failed", "mode": "full"},
          {"kind": "photographs", "status": "ok", "mode": "full", "round": 1}], []),  # one that has no round
        ([{"kind": "yet unknown", "status": "failed", "seed": 5}], [5]),
    ],
)  # fmt: skip
def test_a_failure_stays_until_the_same_repetition_has_a_result(training: list[dict[str, Any]], left: list[int]) -> None:
    assert [record.get("seed") for record in left_failed(training)] == left


@pytest.mark.parametrize(
    ("training", "code", "line"),
    [
        ([cell(0, "ok")], 0, ""),
        ([cell(0, "ok"), cell(1, "unsupported")], 0, ""),
        ([cell(0, "failed"), cell(0, "ok")], 0, ""),
        ([cell(0, "ok"), cell(1, "failed")], 1, "augmark: 1 of 2 failed, the first: RuntimeError: the GPU is full\n"),
        ([cell(0, "failed"), cell(1, "failed")], 1, "augmark: 2 of 2 failed, the first: RuntimeError: the GPU is full\n"),
        ([cell(0, "unsupported")], 1, "augmark: 1 of 1 failed, the first: RuntimeError: the GPU is full\n"),
        ([cell(0, "ok"), cell(0, "failed", kind="throughput")], 0, ""),
    ],
)
def test_the_exit_code_is_1_where_something_failed_or_nothing_succeeded(
    training: list[dict[str, Any]], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "environment.json", {"schema": 1})
    for record in training:
        append_training(tmp_path, record)
    assert exit_code(tmp_path, "accuracy") == code
    assert capsys.readouterr().err == line


def _breaks(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no kernel image\nCompile with ...")


TINY = (
    *("--data", "synthetic", "--device", "cpu", "--model", "resnet8", "--width", "4", "--max-train", "100"),
    *("--batch-size", "16", "--backends", "torchvision"),
)
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "throughput": (("--seconds", "0.01", "--rounds", "1", "--workers", "0", "--recipes", "flip"), "measure_throughput"),
    "sweep": (("--image-size", "16", "--seeds", "1", "--recipes", "none"), "train"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_all_of_whose_cells_fail_ends_with_1(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import loop

    options, broken = COMMANDS[command]
    monkeypatch.setattr(loop, broken, _breaks)
    monkeypatch.setattr("bench.endtoend.feeding.measure_feed", _breaks)
    with pytest.raises(SystemExit) as stopped:
        main([command, *TINY, *options, "--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "run")])
    assert stopped.value.code == 1
    records = [json.loads(line) for line in (tmp_path / "run" / "training.jsonl").read_text().splitlines()]
    number = len(records)
    told = capsys.readouterr().err.strip()  # progress may have left an empty line
    assert told == f"augmark: {number} of {number} failed, the first: RuntimeError: no kernel image"
    assert (tmp_path / "run" / "report" / "index.html").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_left_is_no_fault(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command, around = [sys.executable, "-m", "bench.cli", "--help"], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=around, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
