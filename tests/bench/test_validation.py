"""The published schemas: the runs that we write are valid, and each fault is named by file, line and field."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from rich.console import Console

from bench.grid.cases import Case
from bench.records.export import export_command
from bench.records.measurements import Measurement, done, running
from bench.records.runs import SCHEMA, Journal, append_training
from bench.records.training_cases import KINDS
from bench.records.validation import MOST_FAULTS, faults_of, line_of, schema, validate_run
from tests.bench.stored import CASE, OTHER, VERDICT, audited, store

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
NAMES = ("common", "plan", "ops", "journal", "environment", "audit", "training", "export")


# ---- the schemas themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas_and_carry_their_version(name: str) -> None:
    content = schema(name)
    Draft202012Validator.check_schema(content)
    assert content["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert content["$id"] == f"urn:augmark:{name}:{SCHEMA}"


def test_the_schemas_name_every_field_that_is_written() -> None:
    """Or a new field of ours would go unchecked: the dataclasses are what is written."""
    known = schema("ops")["properties"]["measurements"]["items"]["properties"]
    assert {field.name for field in fields(Measurement)} | {"id"} == set(known)
    assert {field.name for field in fields(Case)} == set(schema("common")["$defs"]["case"]["properties"])
    assert set(schema("training")["properties"]["kind"]["enum"]) == set(KINDS)
    trained = schema("training")["properties"]
    measured = {quantity.name for kind in KINDS.values() for quantity in kind.quantities}
    told = {name for kind in KINDS.values() for name in kind.identity}
    assert measured | told <= set(trained)


# ---- what we write is valid -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", sorted(path for path in PUBLISHED.iterdir() if path.is_dir()), ids=lambda path: path.name)
def test_published_runs_are_valid(run: Path) -> None:
    assert validate_run(run) == []


def test_a_run_with_everything_that_can_become_of_a_case_is_valid(tmp_path: Path) -> None:
    assert validate_run(store(tmp_path / "run", {CASE: [[0.1, 0.2]], OTHER: "out of memory"}, audit=audited(VERDICT))) == []


def test_a_run_that_was_killed_is_valid(tmp_path: Path) -> None:
    run = store(tmp_path / "run")
    (run / "ops.json").unlink()
    journal = Journal(run)
    for event in (running(CASE, 0), done(CASE, 0, "ok", samples_s=[0.1]), done(OTHER, 0, "failed", reason="x")):
        journal.append(event)
    journal.close()
    assert validate_run(run) == []


def test_a_real_environment_is_valid() -> None:
    from bench.environment import environment

    assert faults_of(environment({"name": "cifar10", "fingerprint": "abc", "fallback": None}), "environment") == []


def test_a_real_audit_is_valid() -> None:
    from augment.audit import audit

    record = audit(["kornia"], ["Invert", "AugMix"], [], n=100, workers=False).as_record()
    # As it is read back: tuples are lists then.
    assert faults_of(json.loads(json.dumps({"schema": SCHEMA, **record})), "audit") == []


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    """A config and a data set on which a training takes a second."""
    from training.config import TrainConfig
    from training.data import load

    config = TrainConfig(model="resnet8", width=4, epochs=1, batch_size=16, device="cpu", recipe="flip", backend="fused")
    return config, load("synthetic", root=Path("unused"), max_train=32, max_test=32)


def unnamed(run: Path) -> set[str]:
    """Fields of training records that no schema describes: allowed in what others wrote, not in what we do."""
    records = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    return {name for record in records for name in record} - set(schema("training")["properties"])


def test_real_records_of_the_trainer_are_valid(small: tuple[Any, Any], tmp_path: Path) -> None:
    from bench.endtoend.feeding import measure_feed
    from bench.endtoend.outcomes import failure
    from bench.grid.overhead import measure_overhead
    from training.loop import measure_throughput, train

    config, data = small
    rounds = [
        measure_throughput(config, data, seconds=0.01).as_record(),
        measure_feed(config, data, seconds=0.01).as_record(),
        measure_overhead(config, data, seconds=0.01),
        failure("throughput", config, data, "OutOfMemoryError: no room"),
    ]
    run = store(tmp_path / "run", training=[*({**record, "round": 0} for record in rounds), train(config, data).as_record()])
    assert validate_run(run) == []
    assert unnamed(run) == set()


def photographs(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("ants", "bees"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                noise = Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8))
                noise.save(folder / split / name / f"{number}.jpg")
    return folder


def test_real_records_of_fine_tuning_and_decoding_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.endtoend import decoding
    from bench.endtoend import finetune as tuning
    from training.finetune import finetune, load_photographs
    from training.finetune_config import FinetuneConfig

    config = FinetuneConfig(
        data=str(photographs(tmp_path / "images")), data_root=tmp_path / "cache", mode="scratch", model="resnet8", width=4,
        image_size=32, batch_size=4, epochs=1, num_workers=0, device="cpu", augment_on="none",
    )  # fmt: skip
    data = load_photographs(config)
    run = tmp_path / "run"
    monkeypatch.setattr(tuning, "SPLIT_BACKENDS", ("fused",))  # one says what all do
    monkeypatch.setattr(tuning, "_reported", lambda folder, console: folder)
    tuning.split(config, 1, run, Console(quiet=True))
    files = [file.read_bytes() for file in (data.train.files or ())[:2]]
    decoding.measure_decoding(
        files, run, Console(quiet=True), sizes=(32,), workers=(1,), rounds=1, seconds=0.001,
        dataset={"dataset": data.name, "fingerprint": data.fingerprint},
    )  # fmt: skip
    result, _ = finetune(config, data)
    append_training(run, result.as_record())
    kinds = {json.loads(line)["kind"] for line in (run / "training.jsonl").read_text().splitlines()}
    assert kinds == {"photographs", "decoding", "finetune"}
    assert validate_run(run) == []
    assert unnamed(run) == set()


# ---- faults -----------------------------------------------------------------------------------------------------------


def changed(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        data = json.loads((run / file).read_text())
        change(data)
        (run / file).write_text(json.dumps(data, indent=1))

    return apply


def lines(file: str, *texts: str) -> Callable[[Path], object]:
    return lambda run: (run / file).write_text("\n".join(texts) + "\n")


def case_of(data: Any) -> Any:
    return data["measurements"][0]["case"]


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no integer": (
        changed("ops.json", lambda d: case_of(d).update(batch_size="256")),
        "ops.json, line 11: measurements[0].case.batch_size: '256' is not of type 'integer'",
    ),
    "missing field": (
        changed("ops.json", lambda d: d["measurements"][1].pop("status")),
        "ops.json, line 46: measurements[1].status: missing",
    ),
    "unknown status": (
        changed("plan.json", lambda d: d["cases"][0].update(status="splendid")),
        "plan.json, line 20: cases[0].status: 'splendid' is not one of",
    ),
    "newer version": (
        changed("plan.json", lambda d: d.update(schema=SCHEMA + 1)),
        f"plan.json, line 2: schema: written by a newer augmark (schema {SCHEMA + 1}, this one knows {SCHEMA})",
    ),
    "foreign JSON": (lambda run: (run / "audit.json").write_text("[1]"), "audit.json, line 1: the whole: [1] is not"),
    "cut off": (
        lambda run: (run / "ops.json").write_text((run / "ops.json").read_text()[:300]),
        "ops.json, line 14: no JSON: ",
    ),
    "no text": (lambda run: (run / "plan.json").write_bytes(b"\xff\xfe"), "plan.json, line 1: no UTF-8 text"),
    "NaN": (
        lambda run: (run / "environment.json").write_text('{"schema": 1,\n"load": NaN}'),
        "environment.json, line 2: NaN is no JSON: unknown numbers are null",
    ),
    "too deep": (lines("training.jsonl", "[" * 100_000), "training.jsonl, line 1: no JSON of ours: nested too deeply"),
    "a line cut off": (lines("training.jsonl", '{"kind": "accu'), "training.jsonl, line 1: no JSON: "),
    "an unknown kind": (
        lines("training.jsonl", "", '{"kind": "magic", "status": "ok"}'),
        "training.jsonl, line 2: kind: 'magic' is not one of",
    ),
    "a share beyond one": (
        lines("training.jsonl", '{"kind": "accuracy", "status": "failed", "reason": "x", "test_accuracy": 93.5}'),
        "training.jsonl, line 1: test_accuracy: 93.5 is greater than the maximum of 1",
    ),
    "a failure without a reason": (
        lines("training.jsonl", '{"kind": "accuracy", "status": "failed"}'),
        "training.jsonl, line 1: reason: missing",
    ),
    "a pass without samples": (
        lines("ops.jsonl", '{"event": "done", "id": "x", "pass": 0, "status": "ok"}'),
        "ops.jsonl, line 1: samples_s: missing",
    ),
    "no environment": (lambda run: (run / "environment.json").unlink(), "environment.json: missing"),
    "no plan": (lambda run: (run / "plan.json").unlink(), "plan.json: missing"),
    "a case that was not planned": (
        changed("plan.json", lambda d: d["cases"].pop()),
        f"ops.json: the case {OTHER.id} was not planned",
    ),
    "a case that is missing": (
        changed("ops.json", lambda d: d["measurements"].pop()),
        f"ops.json: the planned case {OTHER.id} is missing",
    ),
    "a case twice": (
        changed("ops.json", lambda d: d["measurements"].append(d["measurements"][0])),
        f"ops.json: the case {CASE.id} stands there twice",
    ),
    "another's id": (
        changed("ops.json", lambda d: case_of(d).update(image_size=64)),
        f"ops.json: {CASE.id} is the id of another case",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_one_line_with_file_line_and_field(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = store(tmp_path / "run", {CASE: [[0.1]], OTHER: [[0.2]]}, audit=audited(VERDICT))
    break_it, told = FAULTS[what]
    break_it(run)
    faults = validate_run(run)
    assert any(fault.startswith(told) for fault in faults), faults
    assert all("\n" not in fault for fault in faults)
    assert export_command([run], "csv", None, validate=True) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"{run}: {fault}" for fault in faults]


def test_a_valid_run_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = store(tmp_path / "run")
    assert export_command([run], "csv", None, validate=True) == 0
    assert capsys.readouterr().out == f"{run}: valid\n"


def test_a_foreign_file_does_not_fill_the_screen(tmp_path: Path) -> None:
    run = store(tmp_path / "run")
    for _ in range(100):
        append_training(run, {"kind": "magic", "status": "ok"})
    faults = validate_run(run)
    assert len(faults) == MOST_FAULTS + 1
    assert faults[-1] == f"training.jsonl: {100 - MOST_FAULTS} more faults"


def test_the_line_of_a_field_is_that_of_the_text() -> None:
    """Against a text whose every value says on which line it stands."""
    text = '{\n "a": 2, "b": [\n  3,\n\n  {"c": "5 \\" ]}, {", "d": {}},\n  6\n ], "e": 7\n}'
    places: dict[int, list[list[str | int]]] = {1: [[]], 2: [["a"]], 3: [["b", 0]], 6: [["b", 2]], 7: [["e"]]}
    places[5] = [["b", 1, "c"], ["b", 1, "missing"]]
    for line, keys in ((line, keys) for line, every in places.items() for keys in every):
        assert line_of(text, keys) == line, keys
    data = {"x": [asdict(CASE)] * 3, "y": {"z": [1, 2.5, None]}}
    assert line_of(json.dumps(data, indent=1), ["y", "z", 2]) == json.dumps(data, indent=1).splitlines().index("   null") + 1


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run folder"):
        validate_run(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert len(validate_run(tmp_path / "empty")) == 2
