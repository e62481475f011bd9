"""Published runs: what may be published, what is copied, and an index that is what the records say."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from bench.records.published import INDEX, index, objections, publish
from bench.records.runs import load_run
from tests.bench.stored import CASE, ENVIRONMENT, OTHER, VERDICT, audited, store, trained

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
PASSES = [[0.1, 0.2]] * 3


def fit(folder: Path, **changes: Any) -> Path:
    """A run that may be published, but for ``changes``."""
    samples = changes.pop("samples", {CASE: PASSES, OTHER: "out of memory"})
    return store(folder, samples, audit=changes.pop("audit", audited(VERDICT)), **changes)


def console() -> Console:
    return Console(file=StringIO())


def test_the_committed_index_is_what_the_records_say() -> None:
    """If this fails: augmark publish."""
    assert (PUBLISHED / INDEX).read_text(encoding="utf-8") == index(PUBLISHED)


def test_publishing_copies_the_records_and_writes_report_and_index(tmp_path: Path) -> None:
    run, published = fit(tmp_path / "2026-run"), tmp_path / "published"
    (run / "checkpoint.pt").write_bytes(b"weights")
    (run / "gallery").mkdir()
    (run / "gallery" / "Invert.png").write_bytes(b"picture")
    assert publish([run], published, console()) == published / INDEX
    copied = published / "2026-run"
    for name in ("plan.json", "ops.json", "environment.json", "audit.json"):
        assert (copied / name).read_bytes() == (run / name).read_bytes()
    assert (copied / "report" / "index.html").exists()
    assert (copied / "gallery" / "Invert.png").exists()
    assert not (copied / "checkpoint.pt").exists(), "weights are no record"
    assert (published / INDEX).read_text(encoding="utf-8") == index(published)
    with pytest.raises(ValueError, match="holds a run called 2026-run already"):
        publish([run], published, console())


def test_the_index_has_a_row_a_run_the_newest_first(tmp_path: Path) -> None:
    fit(tmp_path / "older", time="2026-01-02T00:00:00+00:00", training=[trained("throughput", round=0)] * 2)
    fit(tmp_path / "newer", gpus=[{"name": "H100 <b>x</b>"}] * 2)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(index(tmp_path))
    rows = html.split("<tr>")[2:]
    assert ["newer" in rows[0], "older" in rows[1], len(rows)] == [True, True, 2]
    assert "2 GPUs H100 &lt;b&gt;x&lt;/b&gt;" in rows[0], "names are escaped"
    # By hand: 100 images a call, two calls in 0.3 s.
    assert "a draw for each image: kornia on cpu 667 (±0.0 %, 3 passes)" in rows[0]
    assert "1 of 2 cases measured" in rows[0]
    assert "1 failed" in rows[0]
    assert "2 throughput" in rows[1]
    assert "1 exact" in rows[0]


def test_what_cannot_be_read_is_a_line_and_the_rest_is_there(tmp_path: Path) -> None:
    fit(tmp_path / "good")
    cut = fit(tmp_path / "cut")
    (cut / "ops.json").write_text('{"schema": 1, "measu')
    (tmp_path / "foreign").mkdir()
    text = index(tmp_path)
    assert "`good`" in text
    assert "`cut`" in text
    notes = [line for line in text.splitlines() if line.startswith("- ")]
    assert notes[0].startswith("- foreign holds no run")
    assert notes[1].startswith("- cut: ops.json cannot be read")
    assert len(notes) == 2


def test_an_empty_folder_has_an_index_too(tmp_path: Path) -> None:
    assert "None yet." in index(tmp_path)
    with pytest.raises(ValueError, match="publish a run there first"):
        publish([], tmp_path / "absent", console())


def without(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def broken(run: Path) -> None:
    data = json.loads((run / "ops.json").read_text())
    data["measurements"][0]["rounds"] = -1
    (run / "ops.json").write_text(json.dumps(data))


OBJECTIONS: dict[str, tuple[dict[str, Any], Callable[[Path], None] | None, str]] = {
    "uncommitted": ({"commit": {"id": "a" * 40, "dirty": True}}, None, "commit first"),
    "no commit": ({"commit": None}, None, "the commit is not known"),
    "fallback": (
        {"dataset": {"name": "synthetic", "fingerprint": "s", "fallback": "no CIFAR-10"}}, None, "not real (no CIFAR-10)",
    ),
    "drawn": ({"dataset": {"name": "synthetic", "fingerprint": "s", "fallback": None}}, None, "not real (drawn shapes)"),
    "drawn to train on": ({"training": [trained("throughput", round=0, dataset="synthetic (9 images)")]}, None, "not real"),
    "busy": ({"cpu": {**ENVIRONMENT["cpu"], "load_1min": 2.6}}, None, "load 2.6 on 2 cores"),
    "unsteady": ({"samples": {CASE: [[0.1], [0.1], [0.3]]}}, None, "differ by ±33 % in the middle case"),
    "two passes": ({"samples": {CASE: PASSES[:2]}}, None, "1 case rest on fewer than 3 passes"),
    "not run": ({"samples": {CASE: PASSES, OTHER: []}}, None, "1 case did not run"),
    "nothing": ({"samples": {CASE: "process died"}}, None, "nothing was measured"),
    "not audited": ({}, without("audit.json"), "was not audited"),
    "against the schema": ({}, broken, "rounds: -1 is less than the minimum of 0"),
}  # fmt: skip


@pytest.mark.parametrize("what", OBJECTIONS)
def test_what_may_not_be_published(tmp_path: Path, what: str) -> None:
    changes, change, told = OBJECTIONS[what]
    run = fit(tmp_path / "run", **changes)
    if change is not None:
        change(run)
    assert any(told in objection for objection in objections(load_run(run))), objections(load_run(run))
    with pytest.raises(ValueError, match="cannot be published: ") as error:
        publish([run], tmp_path / "published", console())
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "published").exists(), "nothing is copied"


def test_a_fit_run_meets_no_objection(tmp_path: Path) -> None:
    assert objections(load_run(fit(tmp_path / "run"))) == []
