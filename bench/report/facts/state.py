"""State of a run: its data sets, what ran under the name fused, what failed and what is missing."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from bench.records import Audit, AuditCell, Case, Record, Run, group_by

STATUSES = ("failed", "not_run", "unsupported")


class ImageSet(NamedTuple):
    """A set of images, what it was used for, and why it is not real, if it is not."""

    name: str
    fingerprint: str
    uses: dict[str, str | None]

    @property
    def fallback(self) -> str | None:
        return next((reason for reason in self.uses.values() if reason), None)

    @property
    def is_synthetic(self) -> bool:
        return bool(self.fallback) or "synthetic" in self.name.lower()


def image_sets(run: Run) -> list[ImageSet]:
    """Return the image sets of a run."""
    data = [environment.dataset for environment in run.environments.values() if environment.dataset]
    rows = [(images.name, images.fingerprint, "benchmarks", images.fallback) for images in data]
    trained: list[Any] = [record for record in run.records if getattr(record, "dataset", None)]
    rows += [(record.dataset, record.fingerprint, record.kind, record.fallback) for record in trained]
    sets: dict[tuple[str, str], ImageSet] = {}
    for name, fingerprint, use, fallback in rows:
        uses = sets.setdefault((name, fingerprint), ImageSet(name, fingerprint, {})).uses
        uses[use] = uses.get(use) or fallback
    return list(sets.values())


def devices(run: Run) -> list[str]:
    """Return the devices that were measured on; the first of a kind by its short name."""
    return list(dict.fromkeys(case.device.replace(":0", "") for case in run.cases() if case.device != "auto"))


def implementations(run: Run) -> dict[tuple[str, str], set[str]]:
    """Return which implementations ran, by backend and device."""
    ran: dict[tuple[str, str], set[str]] = {}
    for record in run.records:
        if record.status == "ok" and record.implementation:
            ran.setdefault((str(record.backend), record.device.replace(":0", "")), set()).add(record.implementation)
    return ran


def fallbacks(run: Run) -> list[str]:
    """Return the devices on which ``fused``, the only backend with implementations, fell back to tensors."""
    return [device for (_, device), ran in implementations(run).items() if "tensors" in ran]


def failures_of(run: Run, kind: str) -> Sequence[Record]:
    """Return the records of a kind that was tried in vain; none if some successes, or if it was not tried."""
    tried = [record for record in run.records if record.kind == kind and record.status != "unsupported"]
    return [] if any(record.status == "ok" for record in tried) else tried


class Missing(NamedTuple):
    """Cases of a kind on a backend and device that share a status and a reason."""

    status: str
    kind: str
    backend: str
    device: str
    reason: str
    cases: list[Any]


def missing(run: Run) -> list[Missing]:
    """Return what failed, did not run or is unsupported, the worst first; a failure that a later success mended is left out."""

    def key(case: Case) -> tuple[str, str, str, str, str]:
        reason = (case.reason or "").replace(str(case.subject), "…")  # "… is not supported by kornia": one for many ops
        return case.status, case.suite or case.kind, case.backend or case.subject or "", case.device, reason

    groups = group_by((case for case in run.cases() if case.status in STATUSES), key)
    return sorted((Missing(*row, cases) for row, cases in groups.items()), key=lambda row: STATUSES.index(row.status))


def disturbed_cases(run: Run) -> list[Case]:
    """Return the cases repeated by round of which others disturbed too many rounds."""
    return [case for case in run.cases() if case.records and case.repetition == "round" and case.is_disturbed]


def status_counts(run: Run) -> Counter[str]:
    """Return how many cases have which status."""
    return Counter(case.status for case in run.cases())


# ---- audit ----------------------------------------------------------------------------------------------------------------

VERDICTS = ("exact", "close", "different", "unaudited", "unsupported")


def verdict_counts(cells: Iterable[AuditCell]) -> dict[str, int]:
    """Return how many cells the audit gave which verdict."""
    counts = Counter[str](cell.verdict for cell in cells)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


ASIDES = re.compile(r" \((?:[^()]|\([^()]*\))*\)")
"""Pattern of text in brackets, with one level of brackets within."""


def list_remarks(audit: Audit, backends: Collection[str], *, brief: bool = False) -> dict[str, list[AuditCell]]:
    """Return why cells are not exact, and what is true of them outside of the benchmarked setting: the worst first.

    A recipe whose op has the cause has none of its own. ``brief``: leave out the figures of causes.
    """
    lines: dict[str, list[AuditCell]] = {}
    own = [(op.backend, f"{op.subject}: {op.cause}") for op in audit.verdicts if op.kind == "op" and op.cause]
    cells = [cell for cell in audit.verdicts if cell.backend in backends]
    for cell in sorted(cells, key=lambda cell: -VERDICTS.index(cell.verdict)):
        # "Hue is not supported by backend x" stands in the table; what follows it is the reason, where there is one.
        cause = cell.cause.partition(": ")[2] if cell.verdict == "unsupported" else cell.cause
        if any(backend == cell.backend and line in cause for backend, line in own):
            cause = ""
        texts = [f": {ASIDES.sub('', cause) if brief else cause}"] if cause else []
        link = "and" if cell.verdict == "different" else "but"
        for text in [*texts, *(f", {link} {note}" for note in cell.notes)]:
            lines.setdefault(" ".join(f"{name_verdict(cell.verdict)}{text}".split()), []).append(cell)
    return lines


def name_verdict(verdict: str) -> str:
    """Return a verdict as readers meet it."""
    return "missing" if verdict == "unsupported" else verdict
