"""The command line: users' mistakes, exit codes, a closed pipe, and the time of ``--help``."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cli, commands
from bench.jobs.job import absolute, keep_options, reporting
from bench.records import Disturbance, load_run
from tests.bench.conftest import Refuse
from tests.bench.stored import store, trained
from training.terminal import map_paths

VERSION = importlib.metadata.version("augmark")
SHAPES = ["--data", "synthetic", "--device", "cpu"]
EARLY: list[tuple[list[str], str]] = [
    (["nosuch"], "Unrecognized options: nosuch; see augmark --help"),
    (["run", "--backends", "nosuch"], "unknown backend 'nosuch'"),
    (["run", "--recipes", "flop"], "unknown recipe 'flop'"),
    (["run", "--recipes"], "--recipes names nothing"),
    (["run", "--rounds", "0"], "rounds must be at least 1"),
    (["run", "--rounds", "many"], "Error parsing --rounds"),
    (["run", "--minutes", "0"], "minutes must be above 0"),
    (["run", "--device", "cuda:99"], "no device 'cuda:99'"),
    (["audit", "--ops", "Flop", "--data", "synthetic"], "unknown op 'Flop'"),
    (["audit", "--backends", "nosuch"], "unknown backend 'nosuch'"),
    (["audit", "--device", "nosuch"], "nosuch"),
    (["audit", "--device", "cuda:7"], "cuda:7"),
    (["audit", "--draws", "0"], "draws must be at least 100, got 0"),
    (["gallery", "--backends", "nosuch", "--data", "synthetic"], "unknown backend 'nosuch'"),
    (["gallery", "--recipes", "flop", "--data", "synthetic"], "unknown recipe 'flop'"),
    (["train", "--recipe", "flop"], "flop"),
    (["train", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
    (["train", "--resume"], "--resume needs --results"),
    (["train", *SHAPES, "--graph", "on"], "a graph needs one CUDA device and one process, not 1 of cpu: take --graph auto"),
    (["train", "--augment-on", "frozen"], "invalid choice 'frozen' for argument '--augment-on'"),
    (["train", "--data", "~nobody-here/photos"], "cannot resolve ~nobody-here/photos"),
    (["report", "/nowhere/at/all"], "/nowhere/at/all"),
    (["report"], "no runs are named: give at least one"),
    (["compare", "/nowhere/at/all", "/nowhere/at/all"], "/nowhere/at/all"),
    (["compare", "x", "y", "--level", "2"], "--level"),
    (["compare", "x", "y", "--threshold", "nan"], "--threshold is a share"),
    (["export", "/nowhere/at/all"], "/nowhere/at/all"),
    (["pipeline", "--data", "nosuch"], "--data takes a folder with photographs"),
    (["pipeline", "--size", "70000x1", "--data", "x"], "each at most 65,535"),
    (["pipeline", "--recipes", "--data", "x"], "--recipes names nothing"),
    (["pipeline", "--data", "x", "--batch-size", "0"], "batch-size and seconds must be positive"),
    (["sweep", "--seeds", "0"], "--seeds and --workers must be at least 1"),
    (["sweep", "--workers", "100000"], "--workers at most 1,024"),
    (["sweep", "--backends", "opencv"], "unknown backend 'opencv'"),
    (["sweep", "--batch-size", "0"], "batch_size must be at least 1"),
    (["sweep", *SHAPES, "--resume"], "--resume needs --results"),
    (["train", "--num-workers", "100000"], "num_workers must be at most 1,024, got 100000"),
    (["train", "--image-size", "100000"], "image_size must be at least 1 and at most 8,192, got 100000"),
    (["train", "--seed", "99999999999999999999"], "seed must be less than 2**63"),
    (["sweep", "--recipes", "fliip"], "fliip"),
    (["sweep", "--recipes"], "--recipes names nothing"),
    (["sweep", "--recipe", "flip"], "Unrecognized or misplaced options: --recipe"),
    (["sweep", "--augment-on", "none"], "invalid choice 'none' for argument '--augment-on'"),
    (["finetune", "--data", "nosuch"], "nosuch"),
    (["finetune", "--data", "x", "--seeds", "1"], "--seeds goes with --compare"),
    (["throughput", "--rounds", "0"], "rounds must be at least 1, got 0"),
    (["throughput", "--seconds", "0"], "seconds must be above 0 and less than 3600, got 0"),
    (["throughput", "--workers", "1", "-1"], "workers must lie between 0 and 1024, got -1"),
    (["throughput", "--workers"], "--workers names nothing"),
    (["throughput", "--backends", "nosuch"], "unknown backend 'nosuch'"),
    (["throughput", "--recipes", "flop"], "unknown recipe 'flop'"),
    (["throughput", "--recipes"], "--recipes names nothing"),
    (["throughput", "--model", "nosuch"], "unknown model 'nosuch'"),
    (["throughput", "--width", "0"], "width must be at least 1"),
    (["throughput", "--max-train", "0"], "max_train must be at least 1"),
    (["scaling", "--width", "0"], "width must be at least 1"),
    (["scaling", "--max-train", "0"], "max_train must be at least 1"),
    (["scaling", "--processes"], "--processes names nothing"),
    (["scaling", *SHAPES, "--processes", "0"], "processes must be at least 1, got 0"),
    (["scaling", *SHAPES, "--processes", "3", "--batch-size", "32"], "batch_size 32 cannot be shared by 3 processes: take a"),
    (["scaling", *SHAPES, "--backend", "pil"], "backend pil works image by image on the CPU"),
    (["scaling", *SHAPES, "--backend", "nosuch"], "unknown backend 'nosuch'"),
    (["scaling", *SHAPES, "--recipe", "flop"], "unknown recipe 'flop'"),
    (["scaling", *SHAPES, "--seconds", "-1"], "seconds must be above 0"),
    (["calibrate", "--minutes", "0"], "minutes must be above 0"),
    (["turns", sys.executable, sys.executable, "--minutes", "0"], "minutes must be above 0"),
    (["turns", sys.executable, "nowhere"], "nowhere is neither a folder with the project's code nor a Python interpreter"),
    (["turns", sys.executable, sys.executable, "--backends", "nosuch"], "unknown backend 'nosuch'"),
    (["turns", sys.executable, sys.executable, "--backends", "triton_augment"], "no case can be measured: "),
]
"""Mistakes that are told before anything slow."""
LATE: list[tuple[list[str], str]] = [
    (["run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
    (["train", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
    (["throughput", *SHAPES, "--decode", "workers"], "has no files to decode in workers: take --data FOLDER"),
    (["throughput", *SHAPES, "--resume"], "--resume needs --results DIR"),
    (["calibrate", *SHAPES, "--resume"], "--resume needs --results"),
]
"""Mistakes that the data set shows, or that are told after it is loaded."""


def name_arguments(value: Any) -> str:
    return "-".join(value) if isinstance(value, list) else ""


@pytest.mark.parametrize(("arguments", "message"), EARLY, ids=name_arguments)
def test_a_mistake_is_told_before_anything_slow(
    arguments: list[str], message: str, refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.load", lambda *_, **__: pytest.fail("loaded data"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched weights"))
    assert message in refuse(arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "message"), LATE, ids=name_arguments)
def test_mistakes_with_data_are_told_before_anything_is_measured(arguments: list[str], message: str, refuse: Refuse) -> None:
    assert message in refuse(arguments)


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


@pytest.mark.parametrize(("arguments", "unbuffered"), [(["--help"], ""), (["--help"], "1"), (["list", "ops"], "")])
def test_a_closed_pipe_ends_the_command_silently(arguments: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command, variables = [sys.executable, "-m", "bench.cli", *arguments], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=variables, text=True, check=False)
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
    started = map_paths(started, absolute)  # it may be resumed from another folder
    for option in ("--results", "--out"):
        resumed = cli.parse([command, "--resume", option, str(folder)])
        assert resumed == dataclasses.replace(started, resume=True)
    assert cli.parse([command, f"--results={folder}", "--resume"]) == resumed
    another = next(name for name in STARTED if name != command)
    assert another == "run" or cli.stored_defaults([another, "--resume", "--results", str(folder)]) == {}
    changed = {"run": ("rounds", 2), "sweep": ("seeds", 20)}
    if command in changed:
        name, value = changed[command]
        assert cli.parse([command, "--resume", "--results", str(folder), f"--{name}", str(value)]) == dataclasses.replace(
            started, resume=True, **{name: value}
        )


# ---- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_path_of_the_report_comes_last_and_disturbances_are_told(
    is_interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    busy = Disturbance(others_cpu=0.46)
    folder = store(tmp_path / "run", {}, records=[trained("throughput", round=n, disturbance=busy) for n in range(3)])

    def end(command: commands.Calibrate, console: Any) -> None:
        with reporting(folder, commands.reporter(console)):
            if is_interrupted:
                raise KeyboardInterrupt

    monkeypatch.setattr(commands.Calibrate, "execute", end)
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
