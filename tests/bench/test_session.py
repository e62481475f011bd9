"""Whole sessions of ``pytest --benchmark-only`` on tiny grids, as a user starts them: records, choices, ways to end early."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from augment import BACKENDS
from bench.display import summary_lines
from bench.jobs.grid import Grid, plan
from bench.records import RECORDS, Case, Disturbance, Overhead, Plan, Speed, gather, load_run
from bench.session import BenchSession, _new_plan, start_session
from tests.conftest import PATIENCE_S, one_line, present, wait_until

ROOT = Path(__file__).parents[2]
GRID = ("--device", "cpu", "--data", "synthetic", "--batch-sizes", "4", "--case-seconds", "0.01")
# One thread: two would wait for each other at every tiny op while other processes have the cores.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "--benchmark-only", "-p", "no:cacheprovider", *options]


# "=" before a folder: pytest takes an existing path after an option that it does not know yet for one with tests.
def bench(*options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(path)] if path else []
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        command(*options), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


# ---- the order of items, and the table at the end ---------------------------------------------------------------------


def planned(**changes: object) -> list[Speed]:
    grid = {"recipes": (), "backends": ("torchvision", "kornia"), "ops": ("Invert", "AugMix", "Hue")} | changes
    return plan(Grid(**grid), memory_bytes=lambda device: 2**50)  # type: ignore[arg-type]


def test_rounds_are_whole_and_shuffled_and_compiled_cases_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = copy.copy(BACKENDS["kornia"])
    object.__setattr__(backend, "compiled", True)
    monkeypatch.setitem(BACKENDS, "kornia", backend)
    session = BenchSession.__new__(BenchSession)
    session.plan = Plan(suite="grid", cases=(*planned(), Overhead(status="not_run", device="cpu")), rounds=3, seed=7)
    session._runner = None
    items = [case for suite in ("training", "ops", "recipes") for case in session.items(suite)]
    ordered = sorted(items, key=session.place)
    assert [case.status for case in ordered].count("unsupported") == 1  # shown once
    assert ordered[0].status == "unsupported"
    assert [(case.kind, case.round) for case in ordered[-3:]] == [("overhead", number) for number in range(3)]
    timed = [case for case in ordered if isinstance(case, Speed) and case.status == "not_run"]
    compiled = [(case.subject, case.round) for case in timed if case.backend == "kornia"]
    assert compiled == [
        (subject, number) for subject in dict.fromkeys(subject for subject, _ in compiled) for number in range(3)
    ]
    eager = [[str(case.subject) for case in timed if case.backend == "torchvision" and case.round == n] for n in range(3)]
    assert [sorted(subjects) for subjects in eager] == [["AugMix", "Hue", "Invert"]] * 3
    assert len({tuple(subjects) for subjects in eager}) > 1


def test_the_summary_has_medians_spread_and_what_was_not_measured() -> None:
    cases = planned(ops=("AugMix", "Invert"))
    rates = {("Invert", "torchvision"): (1000.0, 1100.0, 1300.0), ("Invert", "kornia"): (5.0,)}
    records = [
        msgspec.structs.replace(case, status="ok", round=number, images_per_s=rate)
        for case in cases
        for number, rate in enumerate(rates.get((str(case.subject), str(case.backend)), ()))
    ]
    measured: list[Case] = list(gather(cases, records))
    lines = summary_lines(measured, width=200)
    assert "ops on cpu, batch 256, 32 x 32, float32" in lines
    (invert,) = [line for line in lines if line.startswith("Invert")]
    assert invert.split() == ["Invert", "1,100", "±14%", "b", "5", "i"]
    (augmix,) = [line for line in lines if line.startswith("AugMix")]
    assert augmix.endswith("-")
    assert lines[-1] == "1 of 4 planned cases were not measured."
    noisy = Disturbance(others_cpu=0.46)
    disturbed = list(gather(cases, [msgspec.structs.replace(records[0], disturbance=noisy), *records[1:]]))
    assert "1 of 4 rounds were disturbed, at worst: others used 46% of the CPU." in summary_lines(disturbed, width=200)
    assert "1,100 ±14%" not in "\n".join(summary_lines(measured, width=25))


# ---- sessions ---------------------------------------------------------------------------------------------------------


FAILING_OP = """
import os
import augment.backends, bench.jobs.grid, bench.jobs.speed
bench.jobs.speed.absent_gpu_host_seconds = dict  # it compiles kernels, for longer than all the others take
build = augment.build

def broken(subject, backend, **options):
    pipeline = build(subject, backend, **options)
    if (subject, backend) == ("GaussianBlur", "kornia"):
        def fail(*batch):
            os.write(2, b"a line of C on stderr")
            raise RuntimeError("planted failure" + chr(10) + "with a second line")
        pipeline._run = fail
    return pipeline

augment.build = broken
"""
GOOD = ("ops-Invert-torchvision", "ops-Invert-kornia", "ops-Invert-fused", "recipes-flip-torchvision", "recipes-mixup-fused")
CHOSEN = " or ".join(f"{name}-cpu" for name in (*GOOD, "ops-AugMix-kornia", "ops-GaussianBlur-kornia")) + " or overhead"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run some ops and recipes, of which one op fails, and the trainer's overhead."""
    folder = tmp_path_factory.mktemp("run") / "results"
    (folder.parent / "failing_op.py").write_text(FAILING_OP)
    options = ("--rounds", "2", f"--results={folder}", "--benchmark-json", str(folder.parent / "benchmark.json"))
    return folder, bench(*GRID, *options, "-k", CHOSEN, "-p", "failing_op", path=folder.parent)


@pytest.mark.slow
def test_a_run_leaves_its_plan_records_and_environment(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert {path.name for path in folder.iterdir()} == {"plan.json", "records.jsonl", "environment.json", "lock"}
    run = load_run(folder)
    assert run.problems == []
    cases = {case.name.partition("-cpu")[0]: case for case in run.cases("speed")}
    assert cases.pop("ops-AugMix-kornia").status == "unsupported"
    failed = cases.pop("ops-GaussianBlur-kornia")
    assert (failed.status, failed.reason) == ("failed", "RuntimeError: planted failure")
    assert {name: case.status for name, case in cases.items()} == dict.fromkeys(GOOD, "ok")
    for case in cases.values():
        assert [record.round for record in case.records] == [0, 1]
        assert len(case.records[0].samples_us) >= 3
        assert (case.first.threads, case.first.batch_size, case.first.device_s_median) == (1, 4, None)
        assert case.values("warmup_calls")
        assert case.values("peak_bytes")
        assert case.implementation == ("c" if case.first.backend == "fused" else None)
    overhead = [(r.round, r.device, r.augment_on, r.resident, bool(r.fingerprint)) for r in run.of(Overhead)]
    assert overhead == [(number, "cpu", "none", True, True) for number in (0, 1)]
    here = present(run.environment)
    assert present(here.dataset).name.startswith("synthetic")
    assert here.copy_bytes_per_s.keys() == {"cpu"}
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    printed = float(rows["Invert"].split()[1].replace(",", ""))
    assert printed == pytest.approx(cases["ops-Invert-torchvision"].median("images_per_s"), rel=1e-4)  # stored to 6 digits
    assert "Measuring 7 cases in 2 rounds" in done.stdout
    # Nothing of tests/ was collected, and no table of pytest-benchmark is there.
    assert not re.search("test_report|OPS: Operations Per Second|Traceback", done.stdout)
    assert "a line of C" not in done.stderr
    data = json.loads((folder.parent / "benchmark.json").read_text())
    assert len(data["benchmarks"]) == 2 * len((*GOOD, "overhead"))
    assert {"images_per_s", "backend", "lane", "round", "implementation"} <= set(data["benchmarks"][0]["extra_info"])
    assert "gpus" in data["machine_info"]


@pytest.mark.slow
def test_a_finished_run_is_measured_once(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Also the trainer's overhead, whose images are not known when it is planned."""
    folder, _ = finished
    records = (folder / RECORDS).read_text()
    options = ("--resume", "--data", "synthetic", "-k", CHOSEN, f"--results={folder}", "-p", "failing_op")
    done = bench(*options, path=folder.parent)
    assert done.returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout + done.stderr
    assert (folder / RECORDS).read_text() == records


@pytest.mark.slow
def test_k_chooses_and_nothing_is_written_when_only_collecting() -> None:
    options = (*GRID, "--ops", "all", "--recipes", "all", "--rounds", "2")
    done = bench(*options, "-k", "HorizontalFlip-torchvision-cpu", "--collect-only", "-q")
    ids = [line.partition("[")[2].rstrip("]") for line in done.stdout.splitlines() if "::" in line]
    assert ids == [f"ops-HorizontalFlip-torchvision-cpu-b4-s32-float32-round{n}" for n in (1, 2)]
    assert "Measuring" not in done.stdout
    plain = [argument for argument in command("bench", "--collect-only", "-q") if argument != "--benchmark-only"]
    done = subprocess.run(plain, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "no tests collected" in done.stdout


# ---- early ends -------------------------------------------------------------------------------------------------------

LONG = (*GRID, "--ops", "Invert,HorizontalFlip,GaussianBlur", "--backends", "torchvision,kornia", "--rounds", "20")


@pytest.mark.slow
def test_a_killed_run_keeps_what_was_measured_and_can_be_resumed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*LONG, f"--results={tmp_path}"), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    journal = tmp_path / RECORDS
    wait_until(lambda: journal.exists() and journal.read_text().count('"samples_us"') >= 8, process)
    process.kill()
    process.communicate()
    before = load_run(tmp_path)
    assert len(before.of(Speed)) >= 8
    dead = {case.name for case in before.cases() if case.status == "failed"}
    assert len(dead) <= 1  # none, if it was killed between two cases
    done = bench("--resume", f"--results={tmp_path}", "-k", "Invert", "--data", "synthetic")
    assert done.returncode == 0, done.stdout
    after = load_run(tmp_path)
    assert after.of(Speed)[: len(before.of(Speed))] == before.of(Speed)
    assert all(len(c.records) == 20 for c in after.cases() if c.first.subject == "Invert" and c.name not in dead)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_stops_the_run_in_one_line_and_prints_what_there_is(tmp_path: Path) -> None:
    plugin = "import bench.runner\ndef full(*_):\n    open('/dev/full', 'w').write('x' * 10**5)\nbench.runner.append = full\n"
    (tmp_path / "full_disk.py").write_text(plugin)
    folder = tmp_path / "run"
    options = ("--ops", "Invert", "--backends", "torchvision", "--rounds", "2", f"--results={folder}", "-p", "full_disk")
    done = bench(*GRID, *options, path=tmp_path)
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout + done.stderr
    assert f"ERROR: cannot write to {folder}: No space left on device" in done.stdout
    assert "images/s" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_plan_has_what_was_asked_for() -> None:
    options = {"device": ["cpu"], "ops": ["Invert"], "rounds": 9, "case_seconds": 0.5, "target": 0.05, "suite": "quick"}
    stored = _new_plan(Config(**options))  # type: ignore[arg-type]
    assert (stored.rounds, stored.case_seconds, stored.target, stored.suite) == (9, 0.5, 0.05, "quick")
    assert {case.kind for case in stored.cases} == {"speed"}  # single ops are asked for, and nothing else
    usual = _new_plan(Config(device=["cpu"]))  # type: ignore[arg-type]
    assert (usual.rounds, usual.target, usual.suite) == (3, None, "grid")
    assert {case.kind for case in usual.cases} == {"speed", "overhead"}


class Config:
    """Options of pytest, as a session reads them."""

    def __init__(self, **options: object) -> None:
        self.options = options

    def getoption(self, name: str) -> object:
        return self.options.get(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": ["Flp"]}, "unknown op 'Flp'; known: HorizontalFlip"),
        ({"resume": True}, "--resume needs --results DIR, the folder of the run to resume"),
        ({"resume": True, "results": Path("/nowhere")}, "/nowhere is no run folder"),
        ({"resume": True, "results": Path("/nowhere"), "ops": ["Invert"]}, "leave out --ops"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_in_the_plan_is_one_line(options: dict[str, object], message: str) -> None:
    with one_line(re.escape(message), pytest.UsageError):
        start_session(Config(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-sizes", "0"), "give whole numbers from 1 on, such as 32,256; got '0'"),
        pytest.param(("--ops", "Invert", "--data", "no-such-folder"), "ERROR: no folder", marks=pytest.mark.slow),
        pytest.param(
            ("--ops", "Invert", "--data", "synthetic", "--results", "pyproject.toml/below"), "ERROR: ", marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_users_mistake_is_one_line(options: tuple[str, ...], message: str) -> None:
    done = bench(*options)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
