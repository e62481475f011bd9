"""The command line: users' mistakes, exit codes, a closed pipe, and the time of ``--help``."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.jobs.job import keep_options, reporting
from bench.records import Disturbance, load_run
from tests.bench.stored import store, trained

pytestmark = pytest.mark.usefixtures("one_thread")

VERSION = importlib.metadata.version("augmark")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--backends", "nosuch"], "unknown backend 'nosuch'"),
        (["run", "--recipes", "flop"], "unknown recipe 'flop'"),
        (["run", "--rounds", "0"], "rounds must be at least 1"),
        (["run", "--device", "cuda"], "cuda"),
        (["run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["audit", "--ops", "Flop", "--data", "synthetic"], "Flop"),
        (["gallery", "--backends", "nosuch", "--data", "synthetic"], "nosuch"),
        (["train", "--recipe", "flop"], "flop"),
        (["train", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["train", "--resume"], "--resume needs --results"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
        (["compare", "/nowhere/at/all", "/nowhere/at/all"], "/nowhere/at/all"),
        (["export", "/nowhere/at/all"], "/nowhere/at/all"),
        (["pipeline", "--data", "nosuch"], "--data takes a folder with photographs"),
        (["sweep", "--seeds", "0"], "--seeds and --workers must be at least 1"),
        (["sweep", "--recipe", "flip"], "Unrecognized or misplaced options: --recipe"),
        (["sweep", "--augment-on", "none"], "invalid choice 'none' for argument '--augment-on'"),
        (["train", "--augment-on", "frozen"], "invalid choice 'frozen' for argument '--augment-on'"),
        (["run", "--rounds", "many"], "Error parsing --rounds"),
        (["nosuch"], "Unrecognized options: nosuch; see augmark --help"),
        (["calibrate", "--minutes", "0"], "minutes must be above 0"),
        (["calibrate", "--resume"], "--resume needs --results"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments == ["run", "--device", "cuda"] and _has_cuda():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message in error
    assert "\n" not in error
    assert list(tmp_path.glob("runs/*")) == []


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no kernel image\nCompile with ...")


TINY = (
    *("--data", "synthetic", "--device", "cpu", "--model", "resnet8", "--width", "4", "--max-train", "100"),
    *("--batch-size", "16", "--backends", "torchvision"),
)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("throughput", ("--seconds", "0.01", "--rounds", "1", "--workers", "0", "--recipes", "flip")),
        ("sweep", ("--image-size", "16", "--seeds", "1", "--recipes", "none")),
    ],
)
def test_a_command_all_of_whose_cases_fail_writes_the_report_and_ends_with_1(
    command: str, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import loop

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUGMARK_MACHINE", "here")
    monkeypatch.setattr(loop, "measure_throughput", broken)
    monkeypatch.setattr(loop, "train", broken)
    monkeypatch.setattr("bench.jobs.throughput.measure_feed", broken)
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, *TINY, *options, "--data-root", str(tmp_path / "data")])
    assert stopped.value.code == 1
    folder = tmp_path / "runs" / f"{VERSION}--{command}--here--cpu"
    number = len(load_run(folder).records)
    error = capsys.readouterr().err.strip()  # progress may have left an empty line
    assert error == f"augmark: {number} of {number} failed, the first: RuntimeError: no kernel image"
    assert (folder / "report" / "index.html").exists()


def test_training_leaves_its_curves_and_nothing_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUGMARK_MACHINE", "here")
    tiny = [*TINY[:-2], "--epochs", "1", "--max-test", "10", "--data-root", str(tmp_path / "data")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *tiny, "--learning-rate", "1e30", "--optimizer", "sgd"])
    assert stopped.value.code == 2
    assert "learning_rate" in capsys.readouterr().err
    assert list(tmp_path.glob("runs/*")) == []
    cli.main(["train", *tiny])
    assert (tmp_path / "runs" / f"{VERSION}--train--here--cpu" / "curves.svg").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_the_command_silently(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command, variables = [sys.executable, "-m", "bench.cli", "--help"], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=variables, text=True, timeout=60, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


# ---- resuming ---------------------------------------------------------------------------------------------------------

STARTED: dict[str, tuple[str, ...]] = {
    "run": ("--preset", "standard", "--device", "cpu", "--data", "photos", "--recipes", "flip", "d2l", "--rounds", "9"),
    "throughput": ("--recipes", "flip", "--workers", "0", "1", "--data-root", "elsewhere", "--seconds", "0.5"),
    "finetune": ("--data", "photos", "--compare", "--seeds", "3", "4", "--mode", "frozen", "--init", "w.pt"),
    "pipeline": ("--data", "photos", "--images", "8"),
    "scaling": ("--processes", "1", "2", "--recipe", "d2l"),
    "calibrate": ("--minutes", "1", "--device", "cpu"),
    "train": ("--preset", "fast", "--epochs", "7"),
    "sweep": ("--preset", "fast", "--recipes", "flip", "none", "--seeds", "16", "--baseline", "none@fused", "--epochs", "2"),
}


@pytest.mark.parametrize("command", STARTED)
def test_a_resumed_run_knows_its_options_and_others_count(command: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    started = cli.parse([command, *STARTED[command], "--results", str(folder)])
    assert started.results == folder
    keep_options(folder, started)
    for option in ("--results", "--out"):
        resumed = cli.parse([command, "--resume", option, str(folder)])
        assert resumed == dataclasses.replace(started, resume=True)
    assert cli.parse([command, f"--results={folder}", "--resume"]) == resumed
    other = next(name for name in STARTED if name != command)
    assert other == "run" or cli.stored_defaults([other, "--resume", "--results", str(folder)]) == {}
    changed = {"run": ("rounds", 2), "sweep": ("seeds", 20)}
    if command in changed:
        name, value = changed[command]
        assert cli.parse([command, "--resume", "--results", str(folder), f"--{name}", str(value)]) == dataclasses.replace(
            started, resume=True, **{name: value}
        )


def test_what_is_resumed_must_be_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--resume", "--results", str(tmp_path)])
    assert capsys.readouterr().err == f"augmark: cannot resume {tmp_path} (it holds no run): choose another --results\n"
    assert (tmp_path / "options.json").exists() is False


# ---- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_path_of_the_report_comes_last_and_disturbances_are_told(
    is_interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    busy = Disturbance(others_cpu=0.46)
    folder = store(tmp_path / "run", {}, records=[trained("throughput", round=n, disturbance=busy) for n in range(3)])

    def end(command: cli.Calibrate, console: Any) -> None:
        with reporting(folder, cli.reporter(console)):
            if is_interrupted:
                raise KeyboardInterrupt

    monkeypatch.setattr(cli.Calibrate, "execute", end)
    if is_interrupted:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["calibrate"])
        assert stopped.value.code == 130
    else:
        cli.main(["calibrate"])
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "not measurable here: others used 46% of the CPU; the report marks what they disturbed",
        f"report: {folder / 'report' / 'index.html'}",
    ]
    assert err == ("augmark: interrupted; what was measured is kept\n" if is_interrupted else "")
