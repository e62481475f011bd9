"""Exports, read back by others' readers: every number is that of the records, nothing planned is missing."""

import csv
import json
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.records.export import export, export_command, left_out, rows
from bench.records.formats import COLUMNS
from bench.records.measurements import Measurement
from bench.records.merging import load_runs, merge
from bench.records.runs import Run, load_run
from bench.records.training_cases import training_cases
from bench.records.validation import faults_of, schema
from tests.bench.stored import CASE, OTHER, store, trained

SAMPLES = [[0.1, 0.3], [0.2, 0.2, 0.5], [0.25]]
RATES = [500.0, 1000 / 3, 400.0]  # by hand: 100 images a call
NAME = "throughput-flip-kornia-device-resnet8-w8-cpu-b64"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training = [
        trained("throughput", round=n, examples_per_s=rate, wait_share=0.1) for n, rate in enumerate([90.0, 110.0, 130.0])
    ]
    training += [trained("accuracy", seed=seed, test_accuracy=0.5 + seed / 10, num_epochs=2) for seed in range(3)]
    training += [trained("throughput", status="failed", reason="no room", backend="pil", examples_per_s=None)]
    return store(tmp_path / "run", {CASE: SAMPLES, OTHER: 'out of memory, "quoted", <b>bold</b>'}, training=training)


def text(folder: Path, format: Any) -> str:
    exported = export(load_run(folder), format, None)
    assert exported is not None
    return exported


def check(found: list[dict[str, Any]]) -> None:
    """The rows of ``folder`` as any reader gives them, numbers as numbers and None for what is unknown."""
    assert [set(row) for row in found] == [{column.name for column in COLUMNS}] * len(found)
    cell = {(row["name"], row["quantity"]): row for row in found}
    speed = cell[CASE.id, "images_per_s"]
    assert (speed["value"], speed["low"], speed["high"], speed["n"]) == (400.0, pytest.approx(min(RATES)), max(RATES), 3)
    assert (speed["unit"], speed["better"], speed["statistic"], speed["draws"]) == ("images/s", "more", "median", "per_image")
    wall = cell[CASE.id, "wall_s_median"]
    assert (wall["value"], wall["n"], wall["unit"], wall["better"]) == (pytest.approx(0.225), 6, "s", "less")
    failed = cell[OTHER.id, None]
    assert (failed["status"], failed["reason"]) == ("failed", 'out of memory, "quoted", <b>bold</b>')
    assert (failed["value"], failed["n"], failed["unit"]) == (None, None, None)
    rate = cell[NAME, "examples_per_s"]
    assert (rate["value"], rate["low"], rate["high"], rate["n"], rate["statistic"]) == (110.0, 90.0, 130.0, 3, "median")
    score = cell[NAME.replace("throughput", "accuracy"), "test_accuracy"]
    assert (score["value"], score["n"], score["statistic"]) == (pytest.approx(0.6), 3, "mean")
    assert cell[NAME.replace("kornia", "pil"), None]["reason"] == "no room"


def test_what_a_call_moves_and_launches_is_exported(tmp_path: Path) -> None:
    known = {"bytes_moved": 4096, "roofline_share": 0.25, "launches": 7, "syncs": 2}
    run = Run(path=tmp_path, name="run", environment={}, training=[], problems=[], measurements=[ok(**known)])
    found = {row["quantity"]: row for row in rows(run) if row["quantity"] in known}
    assert {name: row["value"] for name, row in found.items()} == known
    assert {row["better"] for row in found.values()} == {"neither", "less"}, "no second line for what images/s says already"
    assert not faults_of(json.loads(export(run, "json", None) or ""), "export")


def ok(**known: Any) -> Measurement:
    return Measurement(case=CASE, status="ok", draws="per_image", images_per_s=5.0, images_per_s_passes=[5.0], **known)


def as_values(row: dict[str, str]) -> dict[str, Any]:
    kinds: dict[str, Callable[[str], Any]] = {"text": str, "integer": int, "number": float}
    return {column.name: kinds[column.type](row[column.name]) if row[column.name] else None for column in COLUMNS}


# ---- each format by another reader ------------------------------------------------------------------------------------


def test_rows(folder: Path) -> None:
    check([dict(row) for row in rows(load_run(folder))])


def test_csv_by_the_standard_library_and_by_pandas(folder: Path, tmp_path: Path) -> None:
    check([as_values(row) for row in csv.DictReader(StringIO(text(folder, "csv")))])
    out = tmp_path / "out.csv"
    assert export(load_run(folder), "csv", out) is None
    frame = pd.read_csv(out, engine="python")  # its faster parser may be off in the last digit
    assert list(frame.columns) == [column.name for column in COLUMNS]
    assert [None if math.isnan(value) else value for value in frame["value"]] == [r["value"] for r in rows(load_run(folder))]


def test_json_keeps_its_schema_and_its_environment(folder: Path) -> None:
    document = json.loads(text(folder, "json"))
    assert faults_of(document, "export") == []
    check(document["rows"])
    assert document["runs"] == [{"name": "run", "environment": load_run(folder).environment}]


def test_parquet_by_pyarrow(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    out = tmp_path / "out.parquet"
    export(load_run(folder), "parquet", out)
    table = parquet.read_table(out)
    check(table.to_pylist())
    assert table.schema.field("value").metadata[b"about"] == b"the measured number"


def test_github_action_benchmark_is_its_custom_bigger_is_better(folder: Path) -> None:
    """A list of name, unit, value and, optionally, range and extra: github.com/benchmark-action/github-action-benchmark."""
    entries = json.loads(text(folder, "github-action-benchmark"))
    for entry in entries:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert all(isinstance(value, str) for key, value in entry.items() if key != "value")
        assert isinstance(entry["value"], float)
    by_name = {entry["name"]: entry for entry in entries}
    assert len(by_name) == len(entries)
    speed = by_name[f"{CASE.id} images_per_s"]
    assert (speed["value"], speed["unit"], speed["range"]) == (400.0, "images/s", "± 83.33")  # (500 - 333.3) / 2
    assert not any("wall_s" in name or "wait_share" in name for name in by_name), "less of those is better"
    assert by_name[f"{NAME.replace('throughput', 'accuracy')} test_accuracy"]["value"] == pytest.approx(0.6)


def test_bencher_is_its_metric_format(folder: Path) -> None:
    """Case, measure, then value, lower_value and upper_value: bencher.dev/docs/reference/bencher-metric-format."""
    document = json.loads(text(folder, "bencher"))
    for name, measures in document.items():
        assert 0 < len(name) <= 1024
        for measure, metric in measures.items():
            assert len(measure) <= 64
            assert set(metric) <= {"value", "lower_value", "upper_value"}
            assert metric.get("lower_value", -math.inf) <= metric["value"] <= metric.get("upper_value", math.inf)
    assert document[CASE.id]["images-per-s"] == {"value": 400.0, "lower_value": pytest.approx(1000 / 3), "upper_value": 500.0}
    assert OTHER.id not in document


def test_ways_to_train_that_are_told_apart_have_names_of_their_own_whatever_the_order() -> None:
    every = [trained("scaling", scaling="strong", processes=count, parallel="ddp", round=0) for count in (1, 2, 4)]
    every.append(trained("scaling", scaling="strong", processes=1, parallel="data_parallel", round=0))
    every += [trained("throughput", num_workers=count, augment_on="workers", round=0) for count in (0, 2)]
    every += [trained("throughput", **{flag: True}, round=0) for flag in ("resident", "channels_last", "compile")]
    every += [{"kind": "decoding", "status": "ok", "decoder": "pil", "image_size": size} for size in (256, 512)]
    names = [case.name for case in training_cases(every)]
    assert len(set(names)) == len(every)
    assert sorted(case.name for case in training_cases(every[::-1])) == sorted(names)
    # What is rarer is told apart by a number; compare looks at the settings themselves.
    rates = [trained("throughput", learning_rate=rate, round=0) for rate in (0.1, 0.2)]
    assert [case.name for case in training_cases(rates)] == [NAME, f"{NAME}-2"]


def test_every_column_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    for column in COLUMNS:
        assert f"| `{column.name}` | {column.type} | {column.about} |" in page
    described = schema("export")["properties"]["rows"]["items"]["properties"]
    assert {name: field["description"] for name, field in described.items()} == {one.name: one.about for one in COLUMNS}


# ---- several runs -----------------------------------------------------------------------------------------------------


def test_rows_of_several_runs_say_which_run_they_are_from(tmp_path: Path) -> None:
    records = [trained("throughput", round=0)]
    a, b = store(tmp_path / "a", training=records), store(tmp_path / "b", {CASE: [[0.7]]}, machine="there", training=records)
    c = store(tmp_path / "c", {CASE: [[0.9]]}, time="2026-11-25T10:00:00+00:00")
    runs, problems = load_runs([a, b, c])
    merged = merge(runs, Path("merged"), problems)
    document = json.loads(export(merged, "json", None) or "")
    assert faults_of(document, "export") == []
    told = {(row["run"], row["device"]) for row in document["rows"]}
    assert told == {("a, c", "cpu of here"), ("b", "cpu of there")}
    speeds = {row["run"]: row["n"] for row in document["rows"] if row["quantity"] == "images_per_s"}
    assert speeds == {"a, c": 3, "b": 1}
    assert [one["name"] for one in document["runs"]] == ["a", "c", "b"]
    names = [entry["name"] for entry in json.loads(export(merged, "github-action-benchmark", None) or "")]
    assert len(set(names)) == len(names)


# ---- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_told_and_the_rest_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = store(tmp_path / "good", {CASE: SAMPLES}, training=[trained("<i>magic</i>")])
    ops = json.loads((good / "ops.json").read_text())
    ops["measurements"].append({"case": {"suite": "ops"}})
    ops["measurements"][0]["wall_s_median"] = math.nan
    (good / "ops.json").write_text(json.dumps(ops))
    assert export_command([good, tmp_path / "absent"], "csv", None, validate=False) == 0
    out, err = capsys.readouterr()
    found = [as_values(row) for row in csv.DictReader(StringIO(out))]
    assert [(row["name"], row["quantity"]) for row in found] == [(CASE.id, "images_per_s")]
    assert err.splitlines() == [
        f"augmark: {tmp_path / 'absent'} is no run folder: give a folder that augmark wrote",
        "augmark: good: ops.json, measurement 1 cannot be read and was left out",
        "augmark: 1 training record of the unknown kind '<i>magic</i>' is left out",
    ]


def test_what_an_export_cannot_hold_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = load_run(store(tmp_path / "run", {CASE: "process died"}))
    for format in ("bencher", "github-action-benchmark"):
        with pytest.raises(ValueError, match="no measured number"):
            export(nothing, format, None)
    assert "process died" in (export(nothing, "csv", None) or "")
    with pytest.raises(ValueError, match="--out"):
        export(nothing, "parquet", None)
    with pytest.raises(ValueError, match="unknown format 'xml'"):
        export(nothing, "xml", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no run was given"):
        export_command([], "csv", None, validate=True)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'augmark\[parquet\]'"):
        export(nothing, "parquet", tmp_path / "out.parquet")


def test_kinds_of_a_newer_augmark_are_counted(tmp_path: Path) -> None:
    run = load_run(store(tmp_path / "run", training=[trained("magic"), trained("magic"), {"status": "ok"}]))
    assert left_out(run) == [
        "2 training records of the unknown kind 'magic' are left out",
        "1 training record of the unknown kind 'None' is left out",
    ]
