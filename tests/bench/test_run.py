"""``augmark run`` from outside: what a user meets when it goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.records.runs import load_run

SMOKE = [
    *("run", "--preset", "smoke", "--data", "synthetic", "--backends", "torchvision"),
    *("--recipes", "flip", "--device", "cpu", "--passes", "1"),
]


def start(folder: Path) -> subprocess.Popen[str]:
    # In a session of its own, as a terminal gives one: Ctrl-C goes to the whole group.
    return subprocess.Popen(
        [sys.executable, "-m", "bench.cli", *SMOKE, "--data-root", str(folder), "--results", str(folder / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # two threads would wait for each other where cores are shared
    )  # fmt: skip


def test_ctrl_c_during_the_benchmarks_keeps_what_was_measured(tmp_path: Path) -> None:
    process = start(tmp_path)
    journal = tmp_path / "run" / "ops.jsonl"
    deadline = time.monotonic() + 90
    while not (journal.exists() and '"done"' in journal.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no case was measured"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    states = {m.status for m in load_run(tmp_path / "run").measurements}
    assert "ok" in states
    assert "failed" not in states  # an interrupted case has not failed
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_a_whole_smoke_run_leaves_a_report(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    records = [json.loads(line) for line in (tmp_path / "run" / "training.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"throughput", "feed", "accuracy"}
    assert {record["recipe"] for record in records} == {"none", "flip"}
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "Synthetic data set" in report
    assert "`flip`" in report
    assert "crop_flip" not in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--backends", "dali"], "unknown backend 'dali'"),
        (["run", "--recipes", "flop"], "unknown recipe 'flop'"),
        (["run", "--passes", "0"], "passes must be at least 1"),
        (["run", "--device", "cuda"], "cuda"),
        (["run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["audit", "--ops", "Flop", "--data", "synthetic"], "Flop"),
        (["gallery", "--backends", "dali", "--data", "synthetic"], "dali"),
        (["train", "--recipe", "flop"], "flop"),
        (["train", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message in told
    assert "\n" not in told
    assert list(tmp_path.glob("results/*")) == []
