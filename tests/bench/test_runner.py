"""The runner: every repetition once, whatever fails, dies or is interrupted, and among processes that share a folder."""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from bench import noise, runner
from bench.noise import Watch
from bench.records import RUNNING, Disturbance, Gpu, Plan, Record, append, encode, load_run, read
from bench.runner import (
    Runner,
    add_cases,
    await_owners,
    await_plan,
    exit_code,
    find_missing,
    load_plan,
    resume,
    run_cases,
    start,
)
from tests.bench.stored import CASE, ENVIRONMENT, OTHER, SAMPLES, failed, measure, speeds, store, trained
from tests.conftest import PATIENCE_S, one_line, present

ROOT = Path(__file__).parents[2]
CASES = [trained("throughput", status="not_run", backend=name) for name in ("pil", "kornia", "torchvision", "fused")]
PLAN = Plan(suite="training", cases=tuple(CASES), rounds=2, settings={"seconds": 1.0})
MANY = [trained("accuracy", status="not_run", seed=seed) for seed in range(40)]
CELLS = MANY[:3]


def broken(case: Record) -> Record:
    raise RuntimeError("no room\nfor it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return start(tmp_path / "run", PLAN, ENVIRONMENT, "cpu")


def journal(folder: Path) -> list[tuple[str, int, str]]:
    return [(str(r.backend), r.round, r.status) for r in load_run(folder).records]


# ---- plan, measure, append --------------------------------------------------------------------------------------------


def test_every_repetition_is_measured_once_round_after_round(folder: Path) -> None:
    seen: list[tuple[Any, ...]] = []
    run_cases(folder, CASES, measure, rounds=2, on_record=lambda record, done, total: seen.append((record.round, done, total)))
    assert journal(folder) == [(str(case.backend), number, "ok") for number in range(2) for case in CASES]
    assert seen == [(number // 4, number + 1, 8) for number in range(8)]
    assert not (folder / RUNNING).exists()
    run_cases(folder, CASES, broken, rounds=2)  # nothing is left to do
    assert len(journal(folder)) == 8


def test_rounds_are_shuffled_alike_for_all_processes_and_unsupported_cases_left_out(folder: Path) -> None:
    orders = [[case.key for case in Runner(folder).pending(CASES, 3, seed=5)] for _ in range(2)]
    assert orders[0] == orders[1]
    rounds = [[key[2] for key in orders[0][4 * n : 4 * n + 4]] for n in range(3)]
    assert [sorted(names) for names in rounds] == [sorted(str(case.backend) for case in CASES)] * 3
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]
    unsupported = replace(CASES[0], status="unsupported", reason="no such op")
    left = Runner(folder).pending([*CELLS, unsupported], rounds=4)
    assert [case.seed for case in left] == [0, 1, 2], "a seed is a case of its own"  # type: ignore[attr-defined]


def test_a_failure_is_a_record_and_the_others_go_on(folder: Path) -> None:
    from augment import UnsupportedOp

    unsupported = UnsupportedOp("Invert", "kornia")
    errors = {"pil": RuntimeError("no room\nfor it"), "kornia": unsupported, "fused": KeyError("x")}

    def fails_for_three(case: Record) -> Record:
        if case.backend in errors:
            raise errors[case.backend]
        return measure(case)

    run_cases(folder, CASES, fails_for_three)
    records = load_run(folder).records
    assert [record.status for record in records] == ["failed", "unsupported", "ok", "failed"]
    assert records[0].reason == "RuntimeError: no room"
    assert "is not supported by backend kornia" in str(records[1].reason)
    assert all(record.recipe == "flip" for record in records)  # type: ignore[attr-defined]


def test_a_value_that_is_not_finite_and_another_case_are_failures(folder: Path) -> None:
    run_cases(folder, CASES[:1], lambda case: replace(measure(case), examples_per_s=float("nan")))
    run_cases(folder, CASES[1:2], lambda case: replace(measure(case), batch_size=1))
    records = load_run(folder).records
    assert records[0].reason == "ValueError: examples_per_s is not finite"
    assert str(records[1].reason).startswith("RuntimeError: measured ('throughput', ")


def test_a_library_that_disturbs_the_next_case_does_not_change_its_draws_nor_threads_and_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library seeds all generators, sets PyTorch's thread count and leaves a thread that never sleeps."""
    monkeypatch.setattr(Watch, "disturbance", lambda watch: Disturbance(others_cpu=0.0))
    monkeypatch.setattr(Watch, "busy_threads", 0.0)
    monkeypatch.setattr(noise, "BUSY_THREADS", 0.05)  # a machine that is busy itself may run a spinning thread for less
    end = threading.Event()

    def spin() -> None:
        while not end.is_set():
            pass

    def disturb() -> None:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        torch.set_num_threads(torch.get_num_threads() + 1)
        threading.Thread(target=spin, daemon=True).start()

    def run(name: str, library: Callable[[], None]) -> tuple[dict[Any, Any], list[Record]]:
        state: dict[Any, Any] = {}
        monkeypatch.setattr(Watch, "looked_at", set())

        def measure_and_draw(case: Record) -> Record:
            if case.backend != "pil":
                state[case.key] = random.random(), np.random.random(), torch.rand(()).item(), torch.get_num_threads()  # noqa: NPY002
            elif case.round == 0:
                library()
            return measure(case)

        target = start(folder.parent / name, PLAN, ENVIRONMENT, "cpu")
        run_cases(target, CASES, measure_and_draw, rounds=2)
        return state, load_run(target).records

    expected, records = run("quiet", lambda: None)
    assert (len(set(expected.values())), [record.is_disturbed for record in records]) == (6, [False] * 8)
    try:
        state, records = run("disturbed", disturb)
    finally:
        end.set()
    assert (state, [record.is_disturbed for record in records]) == (expected, [True] * 8)
    assert "threads that a library left used" in records[1].disturbance.words  # type: ignore[union-attr]


def test_an_interrupt_or_a_request_to_stop_keeps_what_is_there_and_is_no_failure(folder: Path) -> None:
    def interrupted(case: Record) -> Record:
        if case.backend == "kornia":
            raise KeyboardInterrupt
        return measure(case)

    with pytest.raises(KeyboardInterrupt):
        run_cases(folder, CASES, interrupted)
    assert journal(folder) == [("pil", 0, "ok")]
    assert [case.status for case in load_run(folder).cases()] == ["ok", "not_run", "not_run", "not_run"]
    answers = iter([True, True, False])
    run_cases(folder, CASES, measure, keep_going=lambda: next(answers))
    assert len(journal(folder)) == 3


def test_cases_join_the_plan_before_they_are_measured(folder: Path) -> None:
    add_cases(folder, CELLS)
    run_cases(folder, [replace(CASES[0], recipe="none")], broken)
    plan = present(read(folder / "plan.json", Plan))
    assert (plan.suite, len(plan.cases)) == ("training", len(CASES) + len(CELLS) + 1)
    assert len(load_run(folder).missing) == len(CASES) + len(CELLS)
    with pytest.raises(ValueError, match="is not finite"):
        add_cases(folder, [replace(CASES[0], recipe="x", learning_rate=float("nan"))])


def test_a_case_of_the_grid_that_failed_in_a_round_is_left_out_of_the_others(tmp_path: Path) -> None:
    folder = start(tmp_path / "run", Plan(suite="quick", cases=(CASE, OTHER), rounds=3), ENVIRONMENT, "cpu")
    good = {case.backend: speeds(case, SAMPLES[:1])[0] for case in (CASE, OTHER)}

    def fails_late(case: Record) -> Record:
        return replace(good[case.backend], round=case.round) if (case.backend, case.round) != ("pil", 1) else broken(case)

    run_cases(folder, [CASE, OTHER], fails_late, rounds=3)
    assert Counter(record.backend for record in load_run(folder).records) == {"kornia": 3, "pil": 2}
    assert [case.status for case in load_run(folder).cases()] == ["ok", "failed"]


def test_rounds_end_once_the_median_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six quiet rounds at least, and disturbed ones do not count."""
    folder = start(tmp_path / "run", replace(PLAN, cases=tuple(CASES[:2]), target=0.05), ENVIRONMENT, "cpu")
    number = 0

    def measure_noisily(case: Record) -> Record:
        nonlocal number
        number = case.round
        speed = 100.0 + (50 * case.round if case.backend == "pil" else case.round)
        return replace(trained("throughput", backend=case.backend, round=case.round), examples_per_s=speed)

    @contextmanager
    def watch() -> Iterator[Any]:
        yield SimpleNamespace(disturbance=lambda: Disturbance(others_cpu=0.5 if number == 0 else 0.0))

    monkeypatch.setattr(runner, "watch", watch)
    run_cases(folder, CASES[:2], measure_noisily, rounds=12)
    assert Counter(record.backend for record in load_run(folder).records) == {"pil": 12, "kornia": 7}
    assert Runner(folder).pending(CASES[:2], rounds=12) == []
    assert [Runner(folder).is_settled(case) for case in CASES[:2]] == [False, True]


# ---- resume -----------------------------------------------------------------------------------------------------------


def test_a_resumed_run_does_what_is_left_and_may_be_asked_for_more(folder: Path) -> None:
    run_cases(folder, CASES[:2], measure)
    more = replace(CASES[0], recipe="crop_flip")
    plan = resume(folder, replace(PLAN, cases=(*PLAN.cases, more), rounds=3), ENVIRONMENT)
    assert (len(plan.cases), plan.rounds) == (5, 3)
    assert (read(folder / "plan.json", Plan), len(Runner(folder).pending(plan.cases, plan.rounds))) == (plan, 13)


def test_failures_are_tried_again_when_asked_for_once_each(folder: Path) -> None:
    run_cases(folder, CASES, broken)
    resume(folder, PLAN, ENVIRONMENT)
    assert Runner(folder).pending(CASES) == []
    resume(folder, PLAN, ENVIRONMENT, retry_failed=True)
    run_cases(folder, CASES, broken)
    assert len(journal(folder)) == 8
    run_cases(folder, CASES, measure)
    assert len(journal(folder)) == 8, "by whoever shares the plan"
    resume(folder, PLAN, ENVIRONMENT, retry_failed=True)
    run_cases(folder, CASES, measure)
    assert [status for _, _, status in journal(folder)[8:]] == ["ok"] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": (Gpu(name="H200"),)}, r"GPU 0 name none -> H200"),
        ({"machine": "there"}, r"machine here -> there"),
        ({"dataset": None}, r"dataset name cifar10 -> None"),
        ({"commit": None}, r"commit aaaaaaaaaaaa -> None"),
    ],
)
def test_other_machines_data_and_code_cannot_resume(changes: dict[str, Any], words: str, folder: Path) -> None:
    with one_line(rf"cannot resume .* here \(.*{words}.*\): choose another --results"):
        resume(folder, PLAN, replace(ENVIRONMENT, **changes))


def test_other_settings_and_suites_cannot_resume(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(seconds 1 -> 2\)"):
        resume(folder, replace(PLAN, settings={"seconds": 2.0}), ENVIRONMENT)
    with pytest.raises(ValueError, match="it holds a run of training, not sweep"):
        resume(folder, replace(PLAN, suite="sweep"), ENVIRONMENT)
    with pytest.raises(ValueError, match="holds no run"):
        load_plan(tmp_path)
    (folder / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot resume .* \(plan.json cannot be read"):
        load_plan(folder)


def test_the_repetition_on_which_a_process_died_is_not_tried_again(folder: Path) -> None:
    (folder / RUNNING).write_bytes(encode(CASES[1]))
    assert [case.backend for case in Runner(folder).pending(CASES)] == ["pil", "torchvision", "fused"]
    assert not (folder / RUNNING).exists()
    assert [(r.backend, r.status, r.reason) for r in load_run(folder).records] == [("kornia", "failed", "process died")]
    resume(folder, PLAN, ENVIRONMENT, retry_failed=True)
    assert len(Runner(folder).pending(CASES)) == 4


# ---- among processes --------------------------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from bench.records import load_run
from bench.runner import run_cases
from tests.bench.stored import measure, trained
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
def wait(case, *counts):
    load_run(folder).cases()  # to look at a run must not end its locks
    print(case.seed, flush=True)
    sys.stdin.read()
    return measure(case)
after = mode == "after"
cells = [trained("accuracy", status="not_run", seed=seed) for seed in range(3)]
run_cases(folder, cells, measure if after else wait, shared=mode == "shared", on_record=wait if after else lambda *_: None)
"""


@pytest.fixture
def holder(request: pytest.FixtureRequest, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that measures the first cell, one of several ("shared") or alone, or has just done so ("after")."""
    add_cases(folder, CELLS)
    command = [sys.executable, "-c", HOLD, str(folder), getattr(request, "param", "shared")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("holder", "after"), [("alone", "failed: process died"), ("shared", "not_run: None")], indirect=["holder"]
)
def test_what_another_process_measures_is_running_until_the_process_ends(
    holder: subprocess.Popen[str], after: str, folder: Path
) -> None:
    def states() -> list[str]:
        return [f"{case.status}: {case.reason}" for case in load_run(folder).cases("accuracy", "throughput")][-2:]

    assert states() == ["not_run: not yet its turn", "not_run: running now"]
    assert [record.seed for record in load_run(folder).running] == [0]  # type: ignore[attr-defined]
    if after != "not_run: None":
        with pytest.raises(ValueError, match=r"another process measures in .*: wait until it ends"):
            Runner(folder)
    holder.kill()
    holder.wait()
    assert (states()[-1], load_run(folder).running) == (after, [])


@pytest.mark.parametrize("holder", ["after"], indirect=True)
def test_a_process_has_its_run_between_two_repetitions_too(holder: subprocess.Popen[str], folder: Path) -> None:
    plan = (folder / "plan.json").read_bytes()
    with pytest.raises(ValueError, match=r"another process measures in .*: wait until it ends"):
        run_cases(folder, CASES, measure)
    assert (folder / "plan.json").read_bytes() == plan
    assert load_run(folder).running == []
    holder.kill()
    holder.wait()
    run_cases(folder, CELLS, measure)
    assert [record.seed for record in load_run(folder).records] == [0, 1, 2]  # type: ignore[attr-defined]


def test_a_claim_keeps_others_out_and_goes_with_its_process(
    holder: subprocess.Popen[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempted() -> list[int]:
        done: list[Any] = []
        run_cases(folder, CELLS, measure, shared=True, on_record=lambda record, *_: done.append(record))
        return [record.seed for record in done]

    assert attempted() == [1, 2]
    waits: list[float] = []

    def kill(seconds: float) -> None:
        waits.append(seconds)
        holder.kill()  # -9: it cannot tidy up
        holder.wait()

    monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=kill))
    await_owners(folder, CELLS)
    assert (len(waits), find_missing(folder, CELLS)) == (1, CELLS[:1])
    assert (attempted(), attempted()) == ([0], [])


def test_a_case_that_its_owner_finished_meanwhile_is_not_repeated(folder: Path) -> None:
    """Its record comes between the look at the journal and the claim."""
    late = Runner(folder, shared=True)
    append(folder, measure(CELLS[0]))
    assert late.attempt(CELLS[0], broken) is None


SHARE = """
import pathlib, sys, time
from bench.runner import run_cases
from tests.bench.stored import measure, trained
cells = [trained("accuracy", status="not_run", seed=seed) for seed in range(40)]
run_cases(pathlib.Path(sys.argv[1]), cells, lambda case: time.sleep(0.002) or measure(case), shared=True)
"""


def test_processes_that_share_a_folder_lose_and_repeat_nothing_though_one_is_killed(folder: Path) -> None:
    command = [sys.executable, "-c", SHARE, str(folder)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    while not (folder / "records.jsonl").exists():
        time.sleep(0.01)
        assert any(process.poll() is None for process in processes)
    processes[0].kill()
    assert [process.wait(PATIENCE_S) for process in processes[1:]] == [0, 0]
    # What the killed process had claimed may have been passed over; whoever resumes does it.
    again: list[Any] = []
    run_cases(folder, MANY, measure, shared=True, on_record=lambda *record: again.append(record))
    assert len(again) <= 1
    run = load_run(folder)
    assert run.problems == []
    assert Counter(record.seed for record in run.records) == dict.fromkeys(range(40), 1)  # type: ignore[attr-defined]


def test_other_ranks_wait_for_the_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PLAN_WAIT_S", 0.0)
    with pytest.raises(ValueError, match="--results must be a folder that all processes share"):
        await_plan(folder.parent)
    assert await_plan(folder) == replace(PLAN, settings={"seconds": 1})


# ---- exit codes -------------------------------------------------------------------------------------------------------

CELL = trained("accuracy")
NO_ROOM = "RuntimeError: the GPU is full"


@pytest.mark.parametrize(
    ("records", "code", "line"),
    [
        ([CELL], 0, ""),
        ([CELL, replace(failed(CELL, seed=1), status="unsupported")], 0, ""),
        ([failed(CELL), CELL], 0, ""),
        ([CELL, failed(CELL, NO_ROOM, seed=1)], 1, f"augmark: 1 of 2 failed, the first: {NO_ROOM}\n"),
        ([failed(CELL, NO_ROOM), failed(CELL, NO_ROOM, seed=1)], 1, f"augmark: 2 of 2 failed, the first: {NO_ROOM}\n"),
        ([replace(failed(CELL, NO_ROOM), status="unsupported")], 1, f"augmark: 1 of 1 failed, the first: {NO_ROOM}\n"),
        ([CELL, failed(trained("throughput"))], 0, ""),
    ],
)
def test_the_exit_code_is_1_where_something_failed_or_nothing_succeeded(
    records: list[Any], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store(tmp_path / "run", {}, records=records)
    assert (exit_code(folder, "accuracy"), capsys.readouterr().err) == (code, line)
