"""The entry point as a user calls it, alone and under torchrun: what it prints and keeps, dead processes, ports and devices."""

import contextlib
import csv
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch.distributed as dist

from bench import cli
from tests.conftest import PATIENCE_S, wait_until
from training.checkpoint import load
from training.distributed import Ranks

ROOT = Path(__file__).parents[2]
TINY = [
    *("--data", "synthetic", "--image-size", "16", "--max-train", "200", "--max-test", "50", "--device", "cpu"),
    *("--model", "resnet8", "--width", "4", "--batch-size", "8", "--backend", "kornia", "--recipe", "crop_flip"),
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _command(*arguments: str, processes: int = 0) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    names = ["bench", "train"] if processes else ["training.train"]  # the second is the older name of the first
    return [sys.executable, *launcher, "-m", *names, *TINY, *arguments]


def _call(*arguments: str, processes: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments, processes=processes), cwd=ROOT, env=ENVIRONMENT | variables, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def _started(*arguments: str, processes: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run in the background; kill the run, and all that it started, after the block."""
    process = subprocess.Popen(
        _command(*arguments, processes=processes), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()


def _rows(out: Path) -> list[str]:
    try:
        with open(out / "curves.csv", newline="") as file:
            return [row["epoch"] for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _rank(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def _weights(out: Path) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in load(out / "checkpoint.pt")["model"].values()]


Whole = tuple[int, Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=[0, 2])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Return the number of processes that torchrun started, 0 without it, and the folder and output of a run of six epochs."""
    out = tmp_path_factory.mktemp("run")
    return request.param, out, _call("--epochs", "6", "--out", str(out), processes=request.param)


@pytest.mark.slow
def test_a_run_prints_the_books_lines_and_keeps_its_curves(whole: Whole) -> None:
    processes, out, done = whole
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == ["epoch", *"123456"]  # plain lines, no control characters
    assert "\x1b" not in done.stdout
    result = json.loads((out / "result.json").read_text())
    assert (result["devices"], result["batch_per_device"]) == (["cpu"] * max(1, processes), 8 // max(1, processes))
    last = result["epochs"][-1]
    accuracies = f"train acc {last['train_accuracy']:.3f}, test acc {last['test_accuracy']:.3f}"
    assert lines[-3] == f"loss {last['train_loss']:.3f}, {accuracies}"
    assert re.fullmatch(rf"\d+\.\d examples/sec on {re.escape(str(result['devices']))}", lines[-2])
    assert lines[-1] == f"curves: {out / 'curves.svg'}"
    with open(out / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [epoch["test_accuracy"] for epoch in result["epochs"]]
    for epoch in result["epochs"]:
        assert epoch["examples"] == 200
        # 50 test images, each counted once: a share of 25 or 51 would not be whole here.
        assert epoch["test_accuracy"] * 50 == pytest.approx(round(epoch["test_accuracy"] * 50))


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_resuming_gives_the_weights_of_a_whole_run(whole: Whole, tmp_path: Path) -> None:
    processes, out, _ = whole
    options = ("--epochs", "6", "--out", str(tmp_path))
    with _started(*options, processes=processes) as job:
        wait_until(lambda: bool(_rows(tmp_path)), job)
        victim = _rank(job, 1) if processes else psutil.Process(job.pid)
        victim.kill()
        _, errors = job.communicate(timeout=PATIENCE_S)  # the survivor does not wait for an answer for ever
    assert job.returncode != 0
    if processes:
        cause = errors[errors.index("Root Cause") :]
        assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9 .*\(SIGKILL\)", cause), errors
    kept = _rows(tmp_path)
    assert "1" in kept
    assert "6" not in kept
    resumed = _call(*options, "--resume", processes=processes)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"^resumed after epoch [1-5] of 6", resumed.stdout, re.MULTILINE)
    assert (_rows(tmp_path), _weights(tmp_path)) == (["1", "2", "3", "4", "5", "6"], _weights(out))
    assert (tmp_path / "result.json").exists()


PLANTED = """
import itertools, math, os, sys
from bench import cli
from training import optimise, train

calls, honest, bad = itertools.count(), optimise.loss, int(sys.argv[1])

def planted(*arguments):  # on rank 1 alone; call 0 warms up
    spoilt = next(calls) == bad and os.environ["RANK"] == "1"
    return honest(*arguments) * (math.nan if spoilt else 1)

optimise.loss = planted
train.Display.step = lambda self, number, steps: print("step", number, flush=True)
cli.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_at_the_same_step(tmp_path: Path) -> None:
    """200 images, 8 a step: 25 steps an epoch. Step 28 is the third of epoch 2, and step 35 the next look."""
    script = tmp_path / "planted.py"
    script.write_text(PLANTED)
    command = _command("--epochs", "3", "--out", str(tmp_path / "run"), processes=2)
    command[command.index("-m", 2) : command.index("-m", 2) + 2] = [str(script), "28"]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    cause = "the first gradient that is not: head.bias, step 28"
    message = f"the loss of step 28 (number 3 of epoch 2) is not finite ({cause}): take a smaller learning_rate than 0.001"
    lines = [line for line in done.stderr.splitlines() if line.startswith("augmark")]
    assert lines, done.stderr
    assert set(lines) <= {f"augmark on rank 1: {message}", f"augmark: {message}"}  # torchrun may end a rank before it prints
    steps = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("step ")]
    assert (steps, _rows(tmp_path / "run")) == ([*range(1, 26), *range(1, 11)], ["1"])


@pytest.mark.slow
def test_ranks_do_not_write_over_a_run(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    done = _call("--out", str(tmp_path), processes=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("augmark")]
    message = f"{tmp_path} already holds a run: add --resume to resume it, or take another --out"
    assert lines, done.stderr
    assert set(lines) <= {f"augmark on rank 1: {message}", f"augmark: {message}"}
    assert "bench/cli.py" not in done.stderr, "torchrun's own traceback is the only one"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_port_in_use_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """By the error of PyTorch's store: ``init_process_group`` tries for 20 seconds before."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(cli, "LEAVE_AFTER_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: dist.TCPStore("127.0.0.1", port, 2, True))  # type: ignore[attr-defined]
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", *TINY, "--out", str(tmp_path)])
    assert ended.value.code == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("augmark"))
    assert line.startswith("augmark: the port is in use: start torchrun with --standalone, or with another --master-port")
    assert str(port) in line


class _Among(Ranks):
    """A rank that gathers planted values."""

    values: ClassVar[list[dict[str, object]]] = []

    def gather(self, value: object) -> list[Any]:
        return self.values


def test_ranks_that_were_started_differently_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    same, odd = {"width": 4, "fingerprint": "a"}, {"width": 4, "fingerprint": "b"}
    monkeypatch.setattr(_Among, "values", [same, same, odd])
    with pytest.raises(ValueError, match=r"^ranks 1 and 2 have different settings: fingerprint is a and b; start all with"):
        _Among(rank=1, world=3).check_equal("settings", same)
    monkeypatch.setattr(_Among, "values", [same, same, same])
    _Among(rank=1, world=3).check_equal("settings", same)


def test_errors_of_rank_0_are_raised() -> None:
    assert Ranks().run_on_main(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError, match="by zero"):
        Ranks().run_on_main(lambda: 1 // 0)
