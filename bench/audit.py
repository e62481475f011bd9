"""The audit of backends on images of a data set, with a progress bar; writes audit.json."""

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.records import AUDIT, Audit, write
from training.cpus import usable_cpus

if TYPE_CHECKING:
    from training.data import Dataset

IMAGES = 16
"""Real images that parameters are replayed on; a law is tested on many more draws, of which these are only the background."""
MOST_PROCESSES, SUBJECTS_A_PROCESS = 8, 4
"""A process takes seconds to start: few subjects are audited in this one."""
FEWER = "audit fewer backends at once (--backends), with fewer --draws"


def run_audit(
    dataset: "Dataset", folder: Path, console: Console, *, backends: Sequence[str] | None = None,
    ops: Sequence[str] | None = None, recipes: Sequence[str] | None = None, device: str = "cpu", draws: int = 10_000,
) -> Audit:  # fmt: skip
    """Audit on images of the data set and write ``folder/audit.json``; returns what was written.

    Raises ValueError for unknown names and where a process was killed, OSError when the folder cannot be written.
    """
    from augment import OPS, RECIPES
    from augment.audit import audit

    subjects = sum(len(table if chosen is None else chosen) for table, chosen in ((OPS, ops), (RECIPES, recipes)))
    step = max(1, len(dataset.test) // IMAGES)
    images = dataset.test.images[::step][:IMAGES]
    columns = (TextColumn("audit"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")
        if not console.is_terminal:
            console.print("audit: a minute or three")

        def show(done: int, total: int, subject: str) -> None:
            progress.update(task, completed=done, total=total, description=subject)

        try:
            report = audit(
                backends, ops, recipes, n=draws, device=device, images=images,
                images_name=f"{len(images)} test images of {dataset.name}", on_progress=show,
                processes=max(1, min(MOST_PROCESSES, usable_cpus(), subjects // SUBJECTS_A_PROCESS)),
            )  # fmt: skip
        except BrokenProcessPool:
            raise ValueError(f"a process of the audit was killed, for want of memory mostly: {FEWER}") from None
    record = msgspec.convert(report, Audit, from_attributes=True)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / AUDIT, record)
    return record
