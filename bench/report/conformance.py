"""The conformance table: which library does what torchvision v2 does, as Markdown made from a stored audit alone.

``augmark audit`` prints it, and writes it between the markers of a page, short for README or full for docs/semantics.md.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bench.records import Audit, AuditCell, Run, group_by, markdown_table
from bench.report.facts.state import ASIDES, list_remarks, name_verdict, verdict_counts

COLUMNS = {
    "torchvision_loop": "torchvision loop", "torchvision": "torchvision batch", "pil": "PIL", "kornia": "Kornia",
    "dali": "DALI", "dali_torchvision": "DALI's torchvision API", "albumentations": "Albumentations", "cvcuda": "CV-CUDA",
    "triton_augment": "triton-augment", "fused": "fused",
}  # fmt: skip
"""Names of the libraries on pages, by backend. What drives a library once more in another way stands in the audit alone."""
GROUPS = {"op": "ops, equal parameters", "default": "ops, own defaults", "recipe": "recipes"}
BLOCK = re.compile(r"(<!-- conformance: (short|full) -->\n).*?(<!-- end of conformance -->)", re.DOTALL)


def fill(page: str, run: Run, folder: Path) -> str:
    """Return a page in ``folder`` with the tables of a run between its markers.

    Raises:
        ValueError: the run has no audit, or the page no markers.
    """
    if not BLOCK.search(page):
        raise ValueError("no place for the table: add the lines <!-- conformance: full --> and <!-- end of conformance -->")
    link = Path(os.path.relpath(run.path.resolve(), folder.resolve())).as_posix()
    tables = {"short": build_short_table(run), "full": build_full_table(run, brief=True)}
    about = f"From the audit of [{run.name}]({link}): {', '.join(map(' '.join, _require_audit(run).versions.items()))}."
    return BLOCK.sub(lambda match: f"{match[1]}\n{about}\n\n{tables[match[2]]}\n\n{match[3]}", page)


def build_short_table(run: Run) -> str:
    """Return a row of counts for each library, and a line on what is different in it. Raises ValueError without an audit."""
    audit = _require_audit(run)
    rows, lines = [], []
    for backend, library in COLUMNS.items():
        cells = [cell for cell in audit.verdicts if cell.backend == backend]
        rows.append([library, *(_count(cell for cell in cells if _group(cell) == group) for group in GROUPS)])
        different = [cell for cell in cells if cell.verdict == "different" and cell.kind == "op"]
        causes = group_by(different, lambda cell: ASIDES.sub("", cell.cause))
        if causes:
            differences = (f"{', '.join(f'`{cell.subject}`' for cell in group)}: {cause}" for cause, group in causes.items())
            lines.append(f"- **{library}** differs in {'; '.join(differences)}.")
    return "\n".join([markdown_table(["", *GROUPS.values()], rows), "", *lines])


def build_full_table(run: Run, *, brief: bool = False) -> str:
    """Return tables of ops and recipes by library, and every cause, note and finding. Raises ValueError without an audit.

    Args:
        run: holds the audit.
        brief: leave out what has no name in ``COLUMNS``, and the figures of causes.
    """
    audit = _require_audit(run)
    audited = dict.fromkeys(cell.backend for cell in audit.verdicts)
    columns = [backend for backend in (COLUMNS if brief else audited) if backend in audited]
    names = [COLUMNS.get(backend, backend) for backend in columns]
    lines = [f"{audit.n} draws a distribution; {audit.images}; device {audit.device}."]
    for group, title in GROUPS.items():
        subjects = dict.fromkeys(cell.subject for cell in audit.verdicts if _group(cell) == group)
        rows = [[f"`{name}`", *(_cell(audit.find(name, backend), brief) for backend in columns)] for name in subjects]
        lines += ["", markdown_table([title, *names], rows)] if rows else []
    noted = list_remarks(audit, columns, brief=brief)
    lines += ["", *(f"- {text} ({list_places(cells)})" for text, cells in noted.items())]
    missing = ", ".join(name for backend, name in COLUMNS.items() if brief and backend not in audited)
    lines += [f"- not measured: {missing}"] if missing else []
    for finding, texts in group_by(audit.findings, lambda text: text.partition(": ")[2]).items():
        lines.append(f"- not as declared: {finding} ({', '.join(text.partition(': ')[0] for text in texts)})")
    return "\n".join(lines)


def _require_audit(run: Run) -> Audit:
    if run.audit is None or not run.audit.verdicts:
        raise ValueError(f"{run.path} was not audited: augmark audit --out {run.path} adds that")
    return run.audit


def _group(cell: AuditCell) -> str:
    return "default" if cell.subject.startswith("Default") else cell.kind


def _count(cells: Iterable[AuditCell]) -> str:
    return ", ".join(f"{count} {name_verdict(verdict)}" for verdict, count in verdict_counts(cells).items()) or "not measured"


def _cell(cell: AuditCell | None, brief: bool) -> str:
    error = "" if cell is None or (brief and cell.verdict == "exact") else cell.error_words
    return f"{name_verdict(cell.verdict)} {error}".rstrip() if cell else ""


def list_places(cells: Iterable[AuditCell]) -> str:
    """Return the libraries of cells with their subjects."""
    by_library = group_by(cells, lambda cell: COLUMNS.get(cell.backend, cell.backend))
    return "; ".join(f"{library}: {', '.join(f'`{cell.subject}`' for cell in group)}" for library, group in by_library.items())
