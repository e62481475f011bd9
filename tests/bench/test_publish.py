"""Published runs: what may be published, what is kept of it, and an index that is what the records say."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from bench.publish import INDEX, MOST_SAMPLES, index, objections, publish
from bench.records import AuditCheck, Commit, DataSet, Disturbance, Gpu, append, load_run
from tests.bench.stored import CASE, ENVIRONMENT, OTHER, VERDICT, audited, speeds, store, trained
from tests.conftest import one_line

RESULTS = Path(__file__).parents[2] / "results"
ROUNDS = [[0.1, 0.2]] * 3
FUSED = replace(CASE, backend="fused")


def fit(folder: Path, *, fused: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a run that may be published, but for ``changes``; ``fused`` are fields of its records of fused, without it none."""
    samples = changes.pop("samples", {CASE: ROUNDS, OTHER: "out of memory"} | ({} if fused is None else {FUSED: []}))
    store(folder, samples, audit=changes.pop("audit", audited(VERDICT)), **changes)
    for record in [] if fused is None else speeds(FUSED, ROUNDS, **fused):
        append(folder, record)
    return folder


def console() -> Console:
    return Console(file=StringIO())


def test_the_committed_index_is_what_the_records_say() -> None:
    """If this fails: augmark publish."""
    assert (RESULTS / INDEX).read_text(encoding="utf-8") == index(RESULTS)


def test_publishing_keeps_records_only_and_packs_them(tmp_path: Path) -> None:
    checks = (AuditCheck(name="range", detail="0 to 1"), AuditCheck(name="finite", ok=False, detail="NaN"))
    audit = audited(replace(VERDICT, checks=checks), replace(VERDICT, backend="pil"))
    run, published = fit(tmp_path / "run", samples={CASE: [[0.1] * 100] * 3}, audit=audit), tmp_path / "published"
    (run / "checkpoint.pt").write_bytes(b"weights")
    (run / "gallery").mkdir()
    assert publish([run], published, console()) == published / INDEX
    kept, whole = load_run(published / "run"), load_run(run)
    assert sorted(path.name for path in kept.path.iterdir()) == ["audit.json", "environment.json", "plan.json", "records.jsonl"]
    assert (kept.environment, kept.plan, len(kept.records)) == (whole.environment, whole.plan, len(whole.records))
    assert kept.cases()[0].values("images_per_s") == whole.cases()[0].values("images_per_s")
    assert (len(kept.cases()[0].samples_s), sum(kept.cases()[0].values("calls"))) == (3 * MOST_SAMPLES, 300)
    assert kept.audit is not None
    assert ([check.name for check in kept.audit.verdicts[0].checks], kept.audit.verdicts[0].checks_passed) == (["finite"], 1)
    assert (published / INDEX).read_text(encoding="utf-8") == index(published)
    with pytest.raises(ValueError, match="holds a run called run already"):
        publish([run], published, console())
    assert publish([published / "run"], published, console()) == published / INDEX, "in place: the index alone"


def test_the_index_has_a_row_a_run_the_newest_first(tmp_path: Path) -> None:
    records = [trained("throughput", round=n) for n in range(2)]
    fit(tmp_path / "older", time="2026-01-02T00:00:00+00:00", records=records, note="its clock was [wrong]")
    fit(tmp_path / "newer", gpus=(Gpu(name="H100 <b>x|y</b>"),) * 2)
    rows = [line for line in index(tmp_path).splitlines() if line.startswith("| [")]
    assert ["newer" in rows[0], "older" in rows[1], len(rows)] == [True, True, 2]
    assert "2 GPUs H100 &lt;b&gt;x\\|y&lt;/b&gt;" in rows[0], "names are escaped"
    assert "| 1 speed<br>1 speed failed | 1 exact |" in rows[0]
    assert "1 throughput" in rows[1]
    assert "- older: its clock was \\[wrong\\]" in index(tmp_path)


def test_what_cannot_be_read_is_a_line_and_the_rest_is_there(tmp_path: Path) -> None:
    fit(tmp_path / "good")
    cut = fit(tmp_path / "cut")
    (cut / "plan.json").write_text('{"suite": "qui')
    (tmp_path / "foreign").mkdir()
    text = index(tmp_path)
    assert "`good`" in text
    assert "`cut`" in text
    notes = [line for line in text.splitlines() if line.startswith("- ")]
    assert notes[0].startswith("- foreign holds no run")
    assert notes[1].startswith("- cut: plan.json cannot be read")
    assert len(notes) == 2


def test_an_empty_folder_has_an_index_too(tmp_path: Path) -> None:
    assert "None yet." in index(tmp_path)
    with pytest.raises(ValueError, match="publish a run there first"):
        publish([], tmp_path / "absent", console())


OBJECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "uncommitted": ({"commit": Commit(id="a" * 40, dirty=True)}, "commit first"),
    "no commit": ({"commit": None}, "the commit is not known"),
    "fallback": ({"dataset": DataSet(name="x", fingerprint="s", fallback="no CIFAR-10")}, "not real (no CIFAR-10)"),
    "drawn": ({"dataset": DataSet(name="synthetic", fingerprint="s")}, "not real (drawn shapes)"),
    "drawn to train on": ({"records": [trained("throughput", dataset="synthetic (9 images)")]}, "not real"),
    "busy": ({"cpu": replace(ENVIRONMENT.cpu, load_1min=2.6)}, "load 2.6 on 2 cores"),
    "unsteady": ({"samples": {CASE: [[0.1], [0.1], [0.3]]}}, "differ by ±33 % in the middle case"),
    "two rounds": ({"samples": {CASE: ROUNDS[:2]}}, "1 case rest on fewer than 3 rounds"),
    "not run": ({"samples": {CASE: ROUNDS, OTHER: []}}, "1 planned measurement did not run"),
    "nothing": ({"samples": {CASE: "process died"}}, "nothing was measured"),
    "disturbed": ({"fused": {"disturbance": Disturbance(others_cpu=0.5)}}, "other processes disturbed 1 case"),
    "not audited": ({"audit": None}, "was not audited"),
    "fell back": ({"fused": {"implementation": "tensors"}}, "fused fell back to tensor operations in 1 case"),
}


@pytest.mark.parametrize("what", OBJECTIONS)
def test_what_may_not_be_published(tmp_path: Path, what: str) -> None:
    changes, words = OBJECTIONS[what]
    run = fit(tmp_path / "run", **changes)
    assert any(words in objection for objection in objections(load_run(run))), objections(load_run(run))
    with one_line(f"cannot be published: .*{re.escape(words)}"):
        publish([run], tmp_path / "published", console())
    assert not (tmp_path / "published").exists(), "nothing is copied"


def test_a_fit_run_meets_no_objection_and_a_broken_file_is_one(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", fused={"implementation": "c"})
    assert objections(load_run(run)) == []
    with (run / "records.jsonl").open("a") as file:
        file.write('{"kind": "speed"}\n')
    assert "line 8 cannot be read" in objections(load_run(run))[0]
    (run / "environment.json").unlink()
    assert "the environment is not known" in " ".join(objections(load_run(run)))
