"""Run folders: nothing measured is lost, nothing planned vanishes, and what is broken is said and not raised."""

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from bench.records import (
    KINDS,
    RECORDS,
    RUNNING,
    Audit,
    AuditTest,
    Case,
    Plan,
    append,
    as_stored,
    encode,
    gather,
    load_run,
    machine_name,
    read,
    run_folder,
    unresolved_failures,
    write,
)
from tests.bench.stored import CASE, OTHER, VERDICT, audited, failed, speeds, store, trained
from tests.conftest import one_line, present

UNSUPPORTED = replace(CASE, backend="fused", status="unsupported", reason="no such op", lane=None)
SAMPLES = [[0.1, 0.3], [0.2, 0.2, 0.5], [0.25]]
EVERY = [speeds(CASE, SAMPLES)[0], *(trained(kind) for kind in KINDS if kind != "speed")]


def only(cases: list[Case]) -> Case:
    assert len(cases) == 1
    return cases[0]


# ---- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", EVERY, ids=lambda record: record.kind)
def test_a_record_reads_back_as_it_was_written_and_is_refused_if_not_finite(record: Any, tmp_path: Path) -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            append(tmp_path, replace(record, **{record.quantities[0].name: value}))
    assert not (tmp_path / RECORDS).exists()
    append(tmp_path, record)
    append(tmp_path, failed(record, round=1, seed=1) if hasattr(record, "seed") else failed(record, round=1))
    run = load_run(tmp_path)
    assert (run.problems, run.records[0]) == ([], record)
    assert (run.records[1].status, run.records[1].reason, run.records[1].case_key) == ("failed", "no room", record.case_key)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "accuracy", "status": "ok"}, "needs recipe, backend"),
        ({"kind": "speed", "status": "failed"}, "needs a reason"),
        ({"kind": "speed", "status": "splendid"}, "Invalid enum value 'splendid'"),
        ({"kind": "speed", "status": "not_run", "magic": 1}, "unknown field `magic`"),
        ({"kind": "magic", "status": "not_run"}, "Invalid value 'magic'"),
        ({"kind": "throughput", "status": "not_run", "wait_share": 1.5}, "<= 1.0 - at `$.wait_share`"),
        ({"kind": "throughput", "status": "not_run", "devices": "cpu"}, "Expected `array`, got `str`"),
    ],
)
def test_what_no_reader_takes_is_a_line_that_says_where(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    append(tmp_path, EVERY[0])
    with (tmp_path / RECORDS).open("a") as file:
        file.write(json.dumps(fields) + "\n")
    run = load_run(tmp_path)
    assert run.records == [as_stored(EVERY[0])]
    assert run.problems[0].startswith("records.jsonl, line 2 cannot be read and was left out: ")
    assert message in run.problems[0]


def test_a_foreign_journal_does_not_fill_the_screen(tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text("{}\n" * 1000)
    assert load_run(tmp_path).problems[20:] == ["records.jsonl: 980 more lines cannot be read"]


def test_numbers_are_rounded_and_defaults_left_out() -> None:
    record = replace(CASE, status="ok", images_per_s=1234567.89, samples_us=(123456.7, 0.0123456), warmup_s=2.0)
    assert json.loads(encode(record)) == {
        **{"kind": "speed", "suite": "recipes", "subject": "crop_flip", "backend": "kornia", "lane": "per_image"},
        **{"batch_size": 100, "image_size": 32, "images_per_s": 1234570, "samples_us": [123500, 0.01235], "warmup_s": 2},
    }
    assert as_stored(record).samples_s == (0.1235, 0.01235e-6)


def test_an_audit_reads_back_from_plain_dataclasses(tmp_path: Path) -> None:
    """Attributes, tuples and numpy values, as ``augment.audit`` gives them."""
    test = AuditTest(parameter="top", law="uniform", n=5, p_value=0.5, statistic=float(np.float64(1.25)), distance=None)
    audit = audited(replace(VERDICT, tests=(test,)), findings=("one",))
    write(tmp_path / "audit.json", audit)
    assert read(tmp_path / "audit.json", Audit) == audit
    again = msgspec.convert(audit, Audit, from_attributes=True)
    assert again.find("crop_flip", "kornia") == audit.verdicts[0]


def test_comparable_needs_the_same_lane_and_close_verdicts() -> None:
    lane = replace(present(VERDICT.lane), measured="per_batch")
    close, different = ({"verdict": "close", "cause": "rounding"}, {"verdict": "different", "cause": "other law"})
    cells = {"kornia": {}, "b": close, "c": {"lane": lane}, "d": different}
    audit = audited(*(replace(VERDICT, backend=backend, **fields) for backend, fields in cells.items()))  # type: ignore[arg-type]
    assert {backend: audit.why_not_compared("crop_flip", ("kornia", backend)) for backend in "bcde"} == {
        "b": "",
        "c": "other lane: kornia draws per_image, c per_batch",
        "d": "d is different: other law",
        "e": "not audited",
    }


# ---- cases ------------------------------------------------------------------------------------------------------------


def test_statistics_of_a_case_are_numpys() -> None:
    first, *later = speeds(CASE, SAMPLES)
    case = only(list(gather([CASE], [replace(first, threads=2, peak_bytes=1000), *later])))
    # By hand: 200 images in 0.4 s, 300 in 0.9 s, 100 in 0.25 s; the median of 500, 333.3 and 400 is 400.
    assert case.values("images_per_s") == pytest.approx([500.0, 1000 / 3, 400.0])
    assert case.median("images_per_s") == pytest.approx(400.0)
    assert case.samples_s == pytest.approx(np.concatenate([np.array(calls) for calls in SAMPLES]))
    assert case.values("wall_s_median") == pytest.approx([statistics.median(calls) for calls in SAMPLES])
    assert (case.status, case.lane, case.threads, case.median("peak_bytes")) == ("ok", "per_image", 2, 1000)
    assert (case.name, case.reason, case.median("launches")) == ("recipes-crop_flip-kornia-cpu-b100-s32-float32", None, None)


def test_the_whole_plan_is_there_whatever_became_of_it() -> None:
    cases = list(gather([CASE, OTHER, UNSUPPORTED], [failed(CASE, "RuntimeError: no")]))
    reasons = {"failed": "RuntimeError: no", "not_run": None, "unsupported": "no such op"}
    assert [(case.status, case.reason) for case in cases] == list(reasons.items())


def test_a_planned_seed_without_a_record_is_missing_though_its_case_has_others(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", {CASE: SAMPLES, OTHER: []}, records=[trained("accuracy", seed=seed) for seed in range(3)])
    lines = (folder / RECORDS).read_text().splitlines()
    (folder / RECORDS).write_text("\n".join(lines[:-1]) + "\n")
    run = load_run(folder)
    assert [case.status for case in run.cases("accuracy")] == ["ok"]
    assert [(case.kind, getattr(case, "seed", None)) for case in run.missing] == [("speed", None), ("accuracy", 2)]
    assert [case.backend for case in run.missing] == ["pil", "kornia"]


def test_a_case_of_the_grid_that_fails_late_is_failed_and_keeps_what_it_had() -> None:
    """Other kinds are as good as the repetitions that worked."""
    case = only(list(gather([CASE], [speeds(CASE, SAMPLES)[0], failed(CASE, "out of memory", round=1)])))
    assert (case.status, case.reason, len(case.records)) == ("failed", "out of memory", 1)
    case = only(list(gather([], [trained("throughput"), failed(trained("throughput", round=1))])))
    assert (case.status, case.reason, len(case.failed)) == ("ok", None, 1)


def test_ways_to_train_have_names_of_their_own_whatever_the_order() -> None:
    records = [trained("scaling", scaling="strong", processes=count) for count in (1, 2, 4)]
    records.append(trained("scaling", scaling="strong", processes=1, parallel="data_parallel"))
    records += [trained("throughput", num_workers=count, augment_on="workers") for count in (0, 2)]
    records += [trained("throughput", **{flag: True}) for flag in ("resident", "channels_last", "compile")]
    records += [trained("pipeline", image_size=size) for size in (256, 512)]
    names = [case.name for case in gather([], records)]
    assert (len(set(names)), sorted(case.name for case in gather([], records[::-1]))) == (len(records), sorted(names))
    # What is rarer is told apart by a number; compare looks at the settings themselves.
    rates = [trained("throughput", learning_rate=rate) for rate in (0.1, 0.2)]
    name = "throughput-flip-kornia-device-resnet8-w8-cpu-b64-s32-float32"
    assert [case.name for case in gather([], rates)] == [name, f"{name}-2"]


CELL = trained("accuracy", test_accuracy=0.5)


@pytest.mark.parametrize(
    ("records", "left"),
    [
        ([CELL, failed(CELL, seed=1)], [1]),
        ([failed(CELL), CELL], []),
        ([CELL, failed(CELL)], []),  # whatever the order: there is a result
        ([failed(CELL), failed(CELL)], [0, 0]),
        ([failed(CELL), replace(CELL, recipe="none")], [0]),  # another case
        ([failed(CELL, num_epochs=1), CELL], [0]),
        ([replace(failed(CELL), status="unsupported"), replace(CELL, seed=1)], []),
    ],
)
def test_a_failure_stays_until_the_same_repetition_has_a_result(records: list[Any], left: list[int]) -> None:
    assert [record.seed for record in unresolved_failures(records)] == left  # type: ignore[attr-defined]


# ---- folders ----------------------------------------------------------------------------------------------------------


def test_the_repetition_that_took_its_process_along_is_failed(tmp_path: Path) -> None:
    store(tmp_path / "run", {CASE: SAMPLES, OTHER: []})
    (tmp_path / "run" / RUNNING).write_bytes(encode(replace(OTHER, round=2)))
    good, dead = load_run(tmp_path / "run").cases()
    assert (good.status, dead.status, dead.reason) == ("ok", "failed", "process died")
    (tmp_path / "run" / RUNNING).write_bytes(encode(replace(CASE, round=2)))  # it wrote its record, and died before tidying up
    assert [case.status for case in load_run(tmp_path / "run").cases()] == ["ok", "not_run"]


def test_a_cut_off_line_costs_only_itself(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", {CASE: SAMPLES[:1]})
    with (folder / RECORDS).open("a") as file:
        file.write('{"kind":"speed","round":1,"ima')
    assert len(load_run(folder).records) == 1
    append(folder, speeds(CASE, SAMPLES)[1])  # what a resumed run adds stands on its own line
    run = load_run(folder)
    assert ([record.round for record in run.records], len(run.problems)) == ([0, 1], 1)
    assert run.problems[0].startswith("records.jsonl, line 2 cannot be read and was left out")


def test_a_record_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store(tmp_path / "run")
    before = (folder / RECORDS).read_bytes()

    def half(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises(OSError, match="No space left"):
        append(folder, CASE)
    assert (folder / RECORDS).read_bytes() == before
    with pytest.raises(OSError, match="No space left"):
        write(folder / "plan.json", Plan(suite="other"))
    assert present(read(folder / "plan.json", Plan)).suite == "quick"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"text"', '{"cases": 3}', "\x00\xff", "[" * 100_000])
def test_foreign_files_become_problems(tmp_path: Path, content: str) -> None:
    names = ["plan.json", "environment.json", "audit.json"]
    for name in names:
        (folder := store(tmp_path / name, audit=audited(VERDICT)) / name).write_text(content, encoding="latin-1")
        run = load_run(folder.parent)
        assert [problem.split(" cannot be read: ")[0] for problem in run.problems] == [name]
        assert only(run.cases()).status == "ok"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        load_run(tmp_path)
    with pytest.raises(ValueError, match="is no run folder"):
        load_run(tmp_path / "absent")


@pytest.mark.parametrize("name", ["ops.json", "ops.jsonl", "training.jsonl"])
def test_records_of_the_old_layout_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with one_line(r"was written by augbench 0\.1, .*: measure it again"):
        load_run(tmp_path)


def test_folders_are_named_by_version_suite_machine_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGMARK_MACHINE", "My Box (2)")
    assert machine_name() == "my-box-2"
    first, second = (run_folder(None, "quick", "0.2.0", "cuda:0", parent=tmp_path) for _ in range(2))
    assert (first.name, second.name) == ("0.2.0--quick--my-box-2--cuda0", "0.2.0--quick--my-box-2--cuda0-2")
    write(first / "plan.json", Plan(suite="quick"))
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        run_folder(first, "quick", "0.2.0", "cpu")
    assert run_folder(tmp_path / "new" / "deep", "quick", "0.2.0", "cpu").is_dir()


def test_files_are_indented_where_they_are_short(tmp_path: Path) -> None:
    for count, is_indented in ((1, True), (300, False)):
        write(tmp_path / "plan.json", Plan(suite="quick", cases=(CASE,) * count))
        assert ("\n " in (tmp_path / "plan.json").read_text()) == is_indented
