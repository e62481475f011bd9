"""``augmark run`` from its start to its report, on a CPU and at its smallest, and what its presets ask for."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from bench import presets
from bench.jobs.throughput import Axes, training_configs
from bench.parts import Work, throughput_jobs
from bench.presets import ACCELERATOR, CPU, PartName, Preset, PresetName
from bench.processes import wait_for
from bench.records import RECORDS, Accuracy, Speed, Throughput, load_run
from bench.run import GRACE_S, RunOptions, run
from tests.conftest import PATIENCE_S, present, wait_until
from training.data import load
from training.loop import measure_throughput
from training.presets import PRESETS

SMOKE = [
    *("run", "--preset", "smoke", "--data", "synthetic", "--backends", "torchvision"),
    *("--recipes", "flip", "--device", "cpu", "--rounds", "1"),
]


def start(folder: Path) -> subprocess.Popen[str]:
    # In a session of its own, as a terminal gives one: Ctrl-C goes to the whole group.
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *SMOKE, "--data-root", str(folder), "--results", str(folder / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup, under which tests may run, ignores it
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # two threads would wait for each other where cores are shared
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("number", "wait_s"), [(signal.SIGINT, 0.1), (signal.SIGHUP, 1.0)])
def test_a_signal_before_the_benchmarks_is_a_line(number: signal.Signals, wait_s: float, tmp_path: Path) -> None:
    """While modules are imported, or the benchmarks' process starts; on a slow machine both waits fall into the former."""
    process = start(tmp_path)
    time.sleep(wait_s)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    words = "augmark: interrupted; what was measured is kept"
    assert (process.returncode, output.splitlines()[-1]) == (128 + number, words)
    assert "Traceback" not in output, output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_benchmarks_keeps_what_was_measured(number: signal.Signals, tmp_path: Path) -> None:
    """The terminal's signals go to the whole group, and an impatient user sends two; SIGTERM goes to the command alone."""
    process = start(tmp_path)
    journal = tmp_path / "run" / RECORDS
    wait_until(lambda: journal.exists() and '"samples_us"' in journal.read_text(), process)
    for _ in range(2):
        os.kill(process.pid, number) if number == signal.SIGTERM else os.killpg(process.pid, number)
        time.sleep(0.1)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output, output
    states = {case.status for case in load_run(tmp_path / "run").cases()}
    assert "ok" in states
    assert "failed" not in states  # an interrupted case has not failed
    assert (tmp_path / "run" / "report" / "index.html").exists()


def smallest(preset: Preset) -> Preset:
    return replace(
        preset, grid=("--recipes", "crop_flip", "--backends", "torchvision,fused", "--rounds", "1", "--case-seconds", "0.01"),
        audited_backends=("torchvision_loop", "fused"), audited_recipes=("crop_flip",), audit_draws=100, max_train=100,
        max_test=50, width=4, throughput_seconds=0.01, throughput_rounds=1, throughput_backends=("torchvision", "fused"),
        throughput_workers=(0,), settings=replace(preset.settings, batch_size=50), seeds=(0, 1),
        timed=replace(present(preset.timed), width=4, epochs=1, warm_up_epochs=0.5, batch_size=50, target_accuracy=0.01),
    )  # fmt: skip


def options_of(folder: Path, preset: PresetName = "gpu", minutes: float | None = None) -> RunOptions:
    return RunOptions(
        preset=preset, minutes=minutes, device="cpu", data="synthetic", data_root=folder / "data", results=folder / "run"
    )


PARTS: tuple[PartName, ...] = ("audit", "grid", "throughput", "accuracy", "sweep")


class FakeParts:
    """Parts that take their seconds of a made-up clock and end with an exit code, in place of processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: dict[str, tuple[float, int]]) -> None:
        self.now, self.ends, self.budgets = 0.0, ends, dict[str, float]()
        monkeypatch.setattr("bench.run.time.monotonic", lambda: self.now)
        monkeypatch.setattr("bench.run.wait_for", self.run)

    def run(self, command: list[str], timeout: float, **options: Any) -> int:
        name = command[command.index("--part") + 1]
        self.budgets[name] = 60 * float(command[command.index("--minutes") + 1])
        assert timeout == pytest.approx(self.budgets[name] + GRACE_S, abs=0.1)
        seconds, code = self.ends.get(name, (1.0, 0))
        self.now += seconds
        return code


def test_parts_share_the_time_and_one_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares 1, 2, 1 of 40 s: tests end after 4 of 10 s, so the grid has 24 of 36 s, takes 34, and leaves 2 for the sweep."""
    parts = FakeParts(monkeypatch, {"tests": (4.0, 0), "grid": (34.0, 3)})
    gpu = replace(CPU["gpu"], parts=("tests", "grid", "sweep"), shares=(1.0, 2.0, 1.0))
    monkeypatch.setitem(presets.CPU, "gpu", gpu)
    options, reports, folder = options_of(tmp_path, minutes=40 / 60), list[Path](), tmp_path / "run"
    console = Console(record=True, quiet=False, file=io.StringIO())
    with pytest.raises(ValueError, match=r"nothing was measured in 0\.666667 minutes: take more --minutes"):
        run(options, console, reports.append)  # these parts leave no record
    assert parts.budgets == {name: pytest.approx(s, abs=0.1) for name, s in {"tests": 10, "grid": 24, "sweep": 2}.items()}
    assert reports == [folder]
    assert "grid ended early (exit code 3)" in console.export_text()
    with pytest.raises(ValueError, match="it holds no run"):
        run(replace(options, resume=True), console, reports.append)
    (folder / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot resume"):
        run(replace(options, resume=True), console, reports.append)


def test_a_part_that_is_killed_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: the grid's gets SIGKILL in the middle of a record, as by kill -9 or a driver that takes it along."""
    gpu = replace(CPU["gpu"], parts=("tests", "grid", "sweep"), shares=(1.0, 2.0, 1.0))
    monkeypatch.setitem(presets.CPU, "gpu", gpu)
    folder = tmp_path / "run"
    writes = {
        "grid": "append(folder, trained('accuracy')); (folder / RECORDS).open('a').write('{'); os.kill(os.getpid(), 9)",
        "sweep": "append(folder, trained('accuracy', seed=1))",
    }

    def part(options: RunOptions, work: Work, name: PartName, seconds: float) -> list[str]:
        code = (
            "import os, pathlib; from bench.records import *; from tests.bench.stored import *; folder = pathlib.Path(%r); %s"
        )
        return [sys.executable, "-c", code % (str(folder), writes.get(name, ""))]

    monkeypatch.setattr("bench.run._part_command", part)
    console, reports = Console(record=True, file=io.StringIO()), list[Path]()
    assert run(options_of(tmp_path, minutes=1), console, reports.append) == folder
    assert (tmp_path / "run.tar.gz").exists()
    assert "grid ended early (exit code -9); what it measured is kept" in console.export_text()
    assert reports == [folder]
    assert [record.seed for record in load_run(folder).records if isinstance(record, Accuracy)] == [0, 1]


def wait_until_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # gone, or about to be
        child = psutil.Process(pid)
        assert child.status() == psutil.STATUS_ZOMBIE or child.wait(timeout=10) is None


def test_a_part_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert wait_for(["sh", "-c", f"sleep 600 & echo $! > '{pid}'; wait"], timeout=3) == -signal.SIGTERM
    wait_until_gone(int(pid.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system to end children with their parent, which Linux does")
def test_a_killed_command_leaves_no_child() -> None:
    code = "from bench.processes import wait_for; wait_for(['sh', '-c', 'echo $$; exec sleep 600'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    wait_until_gone(child)


@pytest.mark.slow
def test_parts_run_one_by_one_and_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training preset in its smallest form, in two batch sizes, with a sweep."""
    gpu = replace(
        smallest(CPU["training"]), sweep_recipes=("none", "crop_flip"), sweep_seeds=1, throughput_batch_sizes=(25, 50)
    )
    monkeypatch.setitem(presets.CPU, "gpu", gpu)
    options = options_of(tmp_path, minutes=600)  # the age of this process counts
    console = Console(record=True, file=io.StringIO(), width=200)
    for part in PARTS:
        run(replace(options, part=part), console, lambda folder: None)
    stored = load_run(tmp_path / "run")
    # A certificate is refused where others use the machine.
    assert [record for record in stored.records if record.status != "ok" and record.kind != "calibration"] == []
    audited = {(cell.subject, cell.backend) for cell in present(stored.audit).verdicts}
    assert audited == {("crop_flip", "torchvision_loop"), ("crop_flip", "fused")}
    assert {record.implementation for record in stored.of(Speed) if record.backend == "fused"} == {"c"}
    loops = stored.of(Throughput)
    assert {record.batch_size for record in loops} == {25, 50}
    assert {record.augment_on for record in loops} == {"frozen", "none", "device"}
    assert {record.optimizer for record in loops} == {"sgd"}  # the settings of standard, not the book's
    assert all((record.flops_per_example or 0) > 0 and (record.model_flops_utilisation or 0) > 0 for record in loops)
    assert {record.implementation for record in loops if record.backend == "fused"} == {"c"}
    (peak,) = {record.matmul_flops_per_s for record in loops}
    assert present(stored.environment).matmul_flops_per_s == {"cpu": {"float32": peak}}
    timed = stored.of(Accuracy)
    assert sorted((str(r.recipe), r.seed) for r in timed) == [("crop_flip", 0), ("crop_flip", 1), ("none", 0)]
    assert {(record.model, record.seconds_to_target == record.train_s) for record in timed} == {("speednet", True)}
    assert "accuracy-none-fused" in console.export_text()
    for part in PARTS:
        run(replace(options, part=part), console, lambda folder: None)
    assert load_run(tmp_path / "run").records == stored.records


@pytest.mark.parametrize("chosen", [preset for table in (CPU, ACCELERATOR) for preset in table.values() if preset.shares])
def test_each_part_has_a_share(chosen: Preset) -> None:
    assert (len(chosen.shares), min(chosen.shares) > 0) == (len(chosen.parts), True)


def test_the_shares_of_preset_gpu_are_its_minutes_and_hold_its_accuracy_cells() -> None:
    """Seconds of an H200: 55 to start and compile, 4 a training and its evaluation, 5 a training of airbench."""
    gpu = ACCELERATOR["gpu"]
    assert sum(gpu.shares) == 60 * present(gpu.minutes)
    needed = 55 + len(gpu.seeds) * (4 * len(gpu.recipes) + 5)
    assert dict(zip(gpu.parts, gpu.shares, strict=True))["accuracy"] >= needed


def test_the_ceiling_and_fused_come_first_in_all_batch_sizes(tmp_path: Path) -> None:
    """Time that is too short for all cases of preset gpu still gives the tax of its recipes."""
    gpu = replace(ACCELERATOR["gpu"], settings=replace(PRESETS["standard"], compile=False))
    dataset = load("synthetic", root=tmp_path, max_train=40, max_test=10)
    options, console = RunOptions(preset="gpu"), Console(quiet=True)
    work = Work(options=options, preset=gpu, device="cpu", dataset=dataset, folder=tmp_path, console=console)
    first, second, *rest = throughput_jobs(work)
    for job, whole, batch_size in zip((first, second), rest, (256, 1024), strict=True):
        planned: tuple[Any, ...] = job.cases
        cases = [(case.batch_size, case.augment_on, case.recipe, case.backend) for case in planned]
        fused = [(batch_size, "device", recipe, "fused") for recipe in ("crop_flip", "randaugment", "d2l")]
        assert cases == [(batch_size, "frozen", "none", "torchvision"), *fused]
        assert set(job.cases) < set(whole.cases)


def test_all_cases_and_seeds_share_one_compiled_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than measuring, and past eight compilations of a model's code dynamo would run it eagerly."""
    from torch._dynamo.utils import counters

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **options: compiler(net, backend="eager", **options))
    torch.compiler.reset()
    counters.clear()
    dataset = load("synthetic", root=tmp_path, max_train=40, max_test=10)
    base = replace(PRESETS["standard"], device="cpu", model="resnet8", width=4, batch_size=20, precision="float32")
    axes = Axes(recipes=("crop_flip",), backends=("torchvision", "fused"), workers=(0,), decode=("ahead",))
    for seed in range(3):
        for config in training_configs(replace(base, resident=False, seed=seed), axes):
            measure_throughput(config, dataset, steps=1)
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()
