"""``augmark audit``: runs the audit on images of a data set with a progress bar, prints its verdicts, keeps audit.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.records.runs import AUDIT, SCHEMA, write_json

if TYPE_CHECKING:
    from training.dataset import Dataset

IMAGES = 16
"""Real images that parameters are replayed on; a law is tested on many more draws, of which these are only the background."""
COLOURS = {"exact": "green", "close": "green", "different": "yellow", "unaudited": "red", "unsupported": "dim"}


def run_audit(
    dataset: "Dataset",
    folder: Path,
    console: Console,
    *,
    backends: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    device: str = "cpu",
    draws: int = 10_000,
) -> dict[str, Any]:
    """Audit on images of the data set and write ``folder/audit.json``; returns what was written.

    Raises ValueError for unknown names, OSError when the folder cannot be written.
    """
    from augment.audit import audit

    step = max(1, len(dataset.test) // IMAGES)
    images = dataset.test.images[::step][:IMAGES]
    columns = (TextColumn("audit"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        if not console.is_terminal:
            console.print("audit: a minute or three")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)

        report = audit(
            backends, ops, recipes, n=draws, device=device, images=images,
            images_name=f"{len(images)} test images of {dataset.name}", on_progress=show,
        )  # fmt: skip
    record = {"schema": SCHEMA, **report.as_record()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / AUDIT, record)
    return record


def print_audit(record: dict[str, Any], console: Console) -> None:
    """A row a subject, a column a backend; then every cause, and what contradicts the catalog."""
    verdicts = record["verdicts"]
    backends = list(dict.fromkeys(one["backend"] for one in verdicts))
    cells = {(one["subject"], one["backend"]): one for one in verdicts}
    table = Table("", *backends, title="verdict and largest error in 1/255", box=None)
    for subject in dict.fromkeys(one["subject"] for one in verdicts):
        table.add_row(subject, *(_cell(cells.get((subject, backend))) for backend in backends))
    console.print(table)
    causes: dict[str, list[str]] = {}
    for one in verdicts:
        # "Hue is not supported by backend x" stands in the table; what follows it is the reason, where there is one.
        cause = one["cause"].partition(": ")[2] if one["verdict"] == "unsupported" else one["cause"]
        if cause:
            causes.setdefault(f"{one['verdict']}: {cause}", []).append(f"{one['subject']} on {one['backend']}")
    for cause, where in causes.items():
        console.print(f"[bold]{escape(cause)}[/]: {', '.join(where)}", highlight=False)
    for finding in record["findings"]:
        console.print(f"[red]not as the catalog says:[/] {finding}", highlight=False)


def _cell(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return ""
    colour = COLOURS[verdict["verdict"]]
    error = "" if verdict["verdict"] in ("unaudited", "unsupported") else f" {verdict['worst']['max_error']:.2g}"
    return f"[{colour}]{verdict['verdict']}{error}[/]"
