"""State of a run: its data sets, what ran under the name fused, what failed and what is missing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.records import Audit, AuditCell, Record, Run, left_failed

KIND_NAMES = {"speed": "benchmarks"}
STATUSES = ("failed", "not_run", "unsupported")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of images, what it was used for, and why it is not real, if it is not."""

    name: str
    fingerprint: str
    uses: Sequence[str]
    fallback: str | None

    @property
    def is_synthetic(self) -> bool:
        return bool(self.fallback) or "synthetic" in self.name.lower()


def image_sets(run: Run) -> list[ImageSet]:
    """Return the image sets of a run."""
    rows: list[tuple[str, str, str, str | None]] = []
    data = run.environment.dataset if run.environment else None
    if data:
        rows.append((data.name, data.fingerprint, "benchmarks", data.fallback))
    for record in run.records:
        name = getattr(record, "dataset", None)
        if name:
            rows.append((name, getattr(record, "fingerprint", None) or "", record.kind, getattr(record, "fallback", None)))
    uses: dict[tuple[str, str], dict[str, str | None]] = {}
    for name, fingerprint, use, fallback in rows:
        kinds = uses.setdefault((name, fingerprint), {})
        kinds[use] = kinds.get(use) or fallback
    return [
        ImageSet(name=name, fingerprint=fingerprint, uses=list(kinds), fallback=next((f for f in kinds.values() if f), None))
        for (name, fingerprint), kinds in uses.items()
    ]


def devices(run: Run) -> list[str]:
    """Return the devices that were measured on; the first of a kind by its short name."""
    return list(dict.fromkeys(case.first.device.replace(":0", "") for case in run.cases() if case.first.device != "auto"))


def implementations(run: Run) -> dict[tuple[str, str], set[str]]:
    """Return which implementations ran, by backend and device."""
    ran: dict[tuple[str, str], set[str]] = {}
    for record in run.records:
        if record.status == "ok" and record.implementation:
            ran.setdefault((str(record.backend), record.device.replace(":0", "")), set()).add(record.implementation)
    return ran


def fallbacks(run: Run) -> list[str]:
    """Return the devices on which ``fused`` fell back to tensors."""
    return [device for (backend, device), ran in implementations(run).items() if backend == "fused" and "tensors" in ran]


def failures_of(run: Run, kind: str) -> Sequence[Record]:
    """Return the records of a kind that was tried in vain; none if some succeeded, or if it was not tried."""
    tried = [record for record in run.records if record.kind == kind and record.status != "unsupported"]
    return [] if any(record.status == "ok" for record in tried) else tried


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Cases of a kind on a backend and device that share a status and a reason."""

    status: str
    kind: str
    backend: str
    device: str
    reason: str | None
    cases: Sequence[Any]


def missing(run: Run) -> list[Missing]:
    """Return what failed, did not run or is unsupported, the worst first; a failure that a later success mended is left out."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for case in run.cases():
        if case.status in STATUSES:
            # "AugMix is not supported by kornia" is one reason for many ops
            reason = (case.reason or "").replace(str(case.first.subject), "…")
            kind = getattr(case.first, "suite", case.kind)
            groups.setdefault(
                (case.status, kind, case.first.backend or case.first.subject or "", case.first.device, reason), []
            ).append(case)
    rows = []
    for (status, kind, backend, device, reason), cases in sorted(groups.items(), key=lambda item: STATUSES.index(item[0][0])):
        subjects = {case.first.subject for case in cases}
        text = (reason if len(subjects) > 1 else cases[0].reason) or None
        rows.append(Missing(status=status, kind=kind, backend=backend, device=device, reason=text, cases=cases))
    return rows


def status_counts(run: Run) -> Counter[str]:
    """Return how many cases have which status."""
    return Counter(case.status for case in run.cases())


def unresolved(run: Run) -> int:
    """Return how many records are failures that no success of the same case and repetition superseded."""
    return len(left_failed(run.records))


# ---- audit ----------------------------------------------------------------------------------------------------------------

VERDICTS = ("exact", "close", "different", "unaudited", "unsupported")


def verdict_counts(run: Run) -> dict[str, int]:
    """Return how many cells the audit gave which verdict."""
    counts = Counter[str](cell.verdict for cell in run.audit.verdicts) if run.audit else Counter[str]()
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def causes(audit: Audit) -> dict[tuple[str, str], list[AuditCell]]:
    """Return the cells by verdict and cause, the worst verdict first; exact and unsupported cells have none."""
    groups: dict[tuple[str, str], list[AuditCell]] = {}
    for cell in audit.verdicts:
        if cell.verdict in ("close", "different", "unaudited"):
            groups.setdefault((cell.verdict, cell.cause), []).append(cell)
    return dict(sorted(groups.items(), key=lambda item: -VERDICTS.index(item[0][0])))
