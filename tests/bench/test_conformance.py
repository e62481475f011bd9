"""The conformance table: from a stored audit alone, and what stands on the pages is what the command writes."""

import re
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

import augment.audit
from bench.cli import main
from bench.records import AuditCell, AuditParity, Run, load_run
from bench.report.conformance import build_full_table, build_short_table, fill
from tests.bench.conftest import Refuse
from tests.bench.stored import audited, store
from tests.conftest import present

ROOT = Path(__file__).resolve().parents[2]
PARITY = (AuditParity(images="x", size=32, setting="as drawn", draws=1, max_error=41.0, mean_error=8.1),)
CELLS = (
    AuditCell(kind="op", subject="Resize", backend="kornia", verdict="different", cause="a Gauss (by 0.1 (x))", parity=PARITY),
    AuditCell(kind="op", subject="Resize", backend="pil", verdict="exact", notes=("close where images shrink",)),
    AuditCell(kind="op", subject="DefaultResize", backend="kornia", verdict="different", cause="a Gauss", parity=PARITY),
    AuditCell(
        kind="op", subject="AugMix", backend="kornia", verdict="unsupported",
        cause="AugMix is not supported by backend kornia: no such class",
    ),
    AuditCell(
        kind="recipe", subject="r", backend="kornia", verdict="different", cause="Resize: a Gauss (by 0.1 (x))", parity=PARITY
    ),
)  # fmt: skip
RUN = Run(path=Path("runs/x"), name="x", audit=audited(*CELLS, findings=("Resize on pil: check failed",)))


def test_the_short_table_counts_by_library_and_names_what_differs() -> None:
    lines = build_short_table(RUN).splitlines()
    assert "| Kornia | 1 different, 1 missing | 1 different | 1 different |" in lines
    assert "| PIL | 1 exact | not measured | not measured |" in lines
    assert "| CV-CUDA | not measured | not measured | not measured |" in lines
    assert lines[-1] == "- **Kornia** differs in `Resize`, `DefaultResize`: a Gauss."


def test_the_full_table_has_every_cell_with_its_error_its_cause_and_its_notes() -> None:
    lines = build_full_table(RUN).splitlines()
    assert lines[2:5] == [
        "| ops, equal parameters | Kornia | PIL |",
        "| --- | --- | --- |",
        "| `Resize` | different 41 | exact 0 |",
    ]
    assert "| `AugMix` | missing |  |" in lines
    assert "- different: a Gauss (by 0.1 (x)) (Kornia: `Resize`)" in lines
    assert not [line for line in lines if "Resize:" in line]  # a recipe's cause is that of its op
    assert "- missing: no such class (Kornia: `AugMix`)" in lines
    assert "- exact, but close where images shrink (PIL: `Resize`)" in lines
    assert lines[-1] == "- not as declared: check failed (Resize on pil)"
    brief = build_full_table(RUN, brief=True).splitlines()
    assert "- different: a Gauss (Kornia: `Resize`, `DefaultResize`)" in brief
    assert "- not measured: torchvision loop, torchvision batch, DALI" in "\n".join(brief)


def test_the_command_writes_between_the_markers_and_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = store(tmp_path / "run", {}, audit=RUN.audit), tmp_path / "page.md"
    page.write_text("a\n<!-- conformance: short -->\nold\n<!-- end of conformance -->\nb\n")
    main(["audit", "--run", str(run), "--pages", str(page)])
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text()
    assert text == fill(text, load_run(run), tmp_path)
    assert re.match(r"(?s)a\n<!-- .* -->\n\nFrom the audit of \[run\]\(run\).*`DefaultResize`.*\n<!-- end .*-->\nb\n$", text)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--run", "."], "holds no run"), (["--pages", "page.md"], "no place for the table")]
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path, refuse: Refuse) -> None:
    run = store(tmp_path / "run", {}, audit=RUN.audit)
    (tmp_path / "page.md").write_text("no markers")
    assert message in refuse(["audit", "--run", str(run), *arguments])


@pytest.mark.parametrize("path", ["README.md", "docs/semantics.md"])
def test_committed_tables_are_those_of_the_stored_audit(path: str) -> None:
    page = (ROOT / path).read_text(encoding="utf-8")
    stored = present(re.search(r"<!-- conformance: \w+ -->\n\nFrom the audit of \[(\S+)\]", page))
    assert page == fill(page, load_run(ROOT / "results" / stored[1]), (ROOT / path).parent)


def test_an_audit_whose_process_is_killed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(augment.audit, "audit", killed)
    line = refuse(["audit", "--data", "synthetic", "--data-root", str(tmp_path), "--out", str(tmp_path / "audit")])
    assert line.startswith("augmark: a process of the audit was killed")
