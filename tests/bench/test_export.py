"""Exports, read back by others' readers: every number is that of the records, nothing planned is missing."""

import csv
import json
import math
import sys
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace

from bench.export import Document, Row, columns, export, export_command, json_schema, rows, validate_run
from bench.records import Gpu, Kind, Run, append, load_run, load_runs, merge
from tests.bench.stored import CASE, OTHER, VERDICT, audited, failed, speeds, store, trained
from tests.conftest import present

PUBLISHED = Path(__file__).parents[2] / "results"
SAMPLES = [[0.1, 0.3], [0.2, 0.2, 0.5], [0.25]]
NAME = "throughput-flip-kornia-device-resnet8-w8-cpu-b64-s32-float32"
REASON = 'out of memory, "quoted", <b>bold</b>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [trained("throughput", round=n, examples_per_s=rate) for n, rate in enumerate([90.0, 110.0, 130.0])]
    records += [trained("accuracy", seed=seed, test_accuracy=0.5 + seed / 10) for seed in range(3)]
    records += [failed(trained("throughput", backend="pil"))]
    return store(tmp_path / "run", {CASE: SAMPLES, OTHER: REASON}, records=records)


def text(folder: Path, format: Any) -> str:
    exported = present(export(load_run(folder), format, None))
    return exported


def check(exported: list[dict[str, Any]]) -> None:
    """Check the rows of ``folder`` as any reader gives them, numbers as numbers and None for what is unknown."""
    assert [tuple(row) for row in exported] == [Row.__struct_fields__] * len(exported)
    cell = {(row["name"], row["quantity"]): row for row in exported}
    speed = cell[CASE.name, "images_per_s"]
    assert (speed["value"], speed["low"], speed["high"], speed["n"]) == (400.0, 333.333, 500.0, 3)  # by hand: 100 a call
    assert (speed["unit"], speed["better"], speed["statistic"], speed["lane"]) == ("images/s", "more", "median", "per_image")
    wall = cell[CASE.name, "wall_s_median"]
    assert (wall["value"], wall["n"], wall["unit"], wall["better"]) == (pytest.approx(0.225), 6, "s", "less")
    assert wall["interval"] == "10th to 90th percentile of the calls"
    broken = cell[OTHER.name, None]
    assert (broken["status"], broken["reason"]) == ("failed", REASON)
    assert (broken["value"], broken["n"], broken["unit"]) == (None, None, None)
    rate = cell[NAME, "examples_per_s"]
    assert (rate["value"], rate["low"], rate["high"], rate["n"], rate["statistic"]) == (110.0, 90.0, 130.0, 3, "median")
    score = cell[NAME.replace("throughput", "accuracy"), "test_accuracy"]
    assert (score["value"], score["n"], score["statistic"]) == (pytest.approx(0.6), 3, "mean")
    assert cell[NAME.replace("kornia", "pil"), None]["reason"] == "no room"


def test_what_a_call_moves_and_what_ran_is_exported(tmp_path: Path) -> None:
    fields = {"bytes_moved": 4096, "roofline_share": 0.25, "launches": 7, "syncs": 2}
    record = speeds(replace(CASE, backend="fused"), SAMPLES[:1], implementation="triton", **fields)
    exported = {row.quantity: row for row in rows(Run(path=tmp_path, name="run", records=[*record])) if row.quantity in fields}
    assert {name: row.value for name, row in exported.items()} == fields
    assert {row.better for row in exported.values()} == {"neither", "less"}, "no second line for what images/s says already"
    assert {(row.statistic, row.low, row.implementation) for row in exported.values()} == {("single", None, "triton")}


# ---- each format by another reader ------------------------------------------------------------------------------------


def test_csv_by_the_standard_library(folder: Path, tmp_path: Path) -> None:
    kinds = {column.name: {"integer": int, "number": float}.get(column.type, str) for column in columns()}
    read = [
        {name: kinds[name](cell) if cell else None for name, cell in row.items()}
        for row in csv.DictReader(StringIO(text(folder, "csv")))
    ]
    check(read)
    assert export(load_run(folder), "csv", tmp_path / "out.csv") is None
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == text(folder, "csv")


def test_json_decodes_as_its_document(folder: Path) -> None:
    document = msgspec.json.decode(text(folder, "json"), type=Document)
    check(msgspec.to_builtins(document.rows))
    assert [(run.name, run.environment) for run in document.runs] == [("run", load_run(folder).environment)]


def test_parquet_by_pyarrow(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra")
    export(load_run(folder), "parquet", tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
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
    speed = by_name[f"{CASE.name} images_per_s"]
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
    assert document[CASE.name]["images-per-s"] == {"value": 400.0, "lower_value": 333.333, "upper_value": 500.0}
    assert OTHER.name not in document


def test_every_column_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    for column in columns():
        assert f"| `{column.name}` | {column.type} | {column.about} |" in page


def test_rows_of_several_runs_say_which_run_they_are_from(tmp_path: Path) -> None:
    records = [trained("throughput")]
    a, b = store(tmp_path / "a", records=records), store(tmp_path / "b", {CASE: [[0.7]]}, machine="there", records=records)
    c = store(tmp_path / "c", {CASE: [[0.9]]}, time="2026-11-25T10:00:00+00:00")
    runs, problems = load_runs([a, b, c])
    document = json.loads(export(merge(runs, Path("merged"), problems), "json", None) or "")
    assert {(row["run"], row["device"]) for row in document["rows"]} == {("a, c", "cpu of here"), ("b", "cpu of there")}
    assert {row["run"]: row["n"] for row in document["rows"] if row["quantity"] == "images_per_s"} == {"a, c": 3, "b": 1}
    assert [run["name"] for run in document["runs"]] == ["a", "c", "b"]


# ---- the published schema, and validation -----------------------------------------------------------------------------


def test_the_schema_is_one_and_has_every_kind_with_the_meaning_of_its_fields() -> None:
    document = json_schema()
    json.dumps(document)
    definitions = document["$defs"]
    assert {part["$ref"].removeprefix("#/$defs/") for part in document["oneOf"]} == {kind.__name__ for kind in get_args(Kind)}
    assert {"Plan", "Environment", "Audit", "Document", "Row"} <= set(definitions)
    speed, accuracy = definitions["Speed"]["properties"], definitions["Accuracy"]["properties"]
    assert speed["launches"]["description"] == "Kernels of a call on CUDA."
    assert accuracy["augment_on"]["description"].startswith("none: normalised alone"), "of a base class"
    assert speed["status"]["enum"] == ["failed", "not_run", "ok", "unsupported"]
    assert speed["images_per_s"]["anyOf"][0] == {"type": "number", "exclusiveMinimum": 0}


@pytest.mark.parametrize("run", sorted(path for path in PUBLISHED.iterdir() if path.is_dir()), ids=lambda path: path.name)
def test_published_runs_are_valid_small_and_records_only(run: Path) -> None:
    assert validate_run(run) == []
    assert {path.name for path in run.iterdir()} <= {"plan.json", "environment.json", "audit.json", "records.jsonl"}
    # What a clone can carry: fifty rounds of thirty cases and an audit of ten backends, half of it each, take 1.1 MB.
    assert sum(path.stat().st_size for path in run.iterdir()) <= 1.6e6


def test_faults_are_told_a_line_each(folder: Path) -> None:
    assert validate_run(folder) == []
    append(folder, replace(speeds(CASE, SAMPLES)[0], subject="unplanned"))
    append(folder, speeds(CASE, SAMPLES)[0])
    (folder / "environment.json").write_text('{"time": 5}')
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"kind": "speed", "images_per_s": -1}\n')
    faults = validate_run(folder)
    expected = (
        "environment.json cannot be read: ",
        "records.jsonl, line 14 cannot be read",
        "records.jsonl: the case recipes-unplanned",
    )
    for fault, words in zip(faults, (*expected, "records.jsonl: a repetition of recipes-crop_flip"), strict=True):
        assert fault.startswith(words)
    (folder / "environment.json").unlink()
    assert "environment.json: missing" in validate_run(folder)


def test_validation_ends_with_2_and_lines_on_stderr(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_command([folder], "csv", None, validate=True) == 0
    assert capsys.readouterr().out == f"{folder}: valid\n"
    empty = store(tmp_path / "empty", {}, audit=audited(VERDICT))
    assert export_command([folder, empty], "csv", None, validate=True) == 2
    assert capsys.readouterr().err == f"{empty}: no records.jsonl: the folder holds nothing that was measured\n"
    assert export_command([], "csv", None, validate=False, schema=True) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(json_schema()))


# ---- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_told_and_the_rest_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = store(tmp_path / "good", {CASE: SAMPLES}, gpus=(Gpu(name="<i>"),))
    with (good / "records.jsonl").open("a") as file:
        file.write('{"kind": "<i>magic</i>"}\n')
    assert export_command([good, tmp_path / "absent"], "csv", None, validate=False) == 0
    out, err = capsys.readouterr()
    assert {row["name"] for row in csv.DictReader(StringIO(out))} == {CASE.name}
    assert err.splitlines() == [
        f"augmark: {tmp_path / 'absent'} is no run folder: give a folder that augmark wrote",
        "augmark: good: records.jsonl, line 4 cannot be read and was left out: Invalid value '<i>magic</i>' - at `$.kind`",
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
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install -e '\.\[parquet\]'"):
        export(nothing, "parquet", tmp_path / "out.parquet")
