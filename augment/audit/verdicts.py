"""What an audit says, as plain values, and the rule that follows from it: no parity, no ratio."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Class = Literal["exact", "close", "different", "unaudited", "unsupported"]
"""exact: max error <= 1/255; close: mean error <= 1/255, with a named reason; different: anything else, named where known.

A recipe that rounds to bytes between its ops, and is exact when fed floats, is close up to a mean of 2/255; its cause says so.
"""

CLASSES: tuple[Class, ...] = ("exact", "close", "different", "unaudited", "unsupported")
COMPARABLE: tuple[Class, ...] = ("exact", "close")


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Errors against the oracle with the same parameters, in units of 1/255, over all draws of one setting.

    ``setting``: "as drawn" (recipes from bytes, ops from floats), "pinned" (parameters known from the op alone, nothing read
    from the backend), "shrinking" (images twice as large as the op's output) or "fed floats" (a recipe that is
    off from bytes, by no more than rounding may cause). ``target_error`` is the largest error of a label's weight.
    """

    images: str
    size: int
    setting: str
    draws: int
    max_error: float
    mean_error: float
    target_error: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Whether parameters are drawn per image. ``distinct``: results among ``batch`` identical images, mean over batches."""

    declared: str
    measured: str
    batch: int
    distinct: float
    parameters: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return self.declared == self.measured


@dataclass(frozen=True, kw_only=True)
class DrawTest:
    """A test of one drawn parameter against its law. ``distance`` is the size of the deviation, whatever n.

    ``rejected`` is Holm's verdict over all tests of the audit.
    """

    parameter: str
    law: str
    n: int
    statistic: float
    p_value: float
    distance: float
    rejected: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """One property of determinism or safety."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All that is known of one op or recipe on one backend.

    ``verdict`` is the worse of parity and distributions. ``cause`` names the difference, or why nothing is known;
    ``notes`` are true outside the benchmarked setting; ``findings`` are what the catalog does not say and should.
    """

    subject: str
    kind: Literal["op", "recipe"]
    backend: str
    verdict: Class
    cause: str
    lane: Lane | None = None
    parity: tuple[Parity, ...] = ()
    tests: tuple[DrawTest, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The verdicts of one audit, and what they were measured on. ``alpha`` is the chance of any false alarm among all tests."""

    verdicts: tuple[Verdict, ...]
    versions: Mapping[str, str]
    device: str
    images: str
    seed: int
    n: int
    alpha: float
    seconds: float

    def find(self, subject: str, backend: str) -> Verdict | None:
        """The verdict on a subject and a backend, if there is one."""
        return next((v for v in self.verdicts if (v.subject, v.backend) == (subject, backend)), None)

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that the catalog does not say and should, and every check that failed."""
        return tuple(f"{v.subject} on {v.backend}: {finding}" for v in self.verdicts for finding in v.findings)

    def as_record(self) -> dict[str, Any]:
        """JSON-able values; ``comparisons`` holds the rule for each pair of backends, so that readers need no torch."""
        record = asdict(self)
        for stored, verdict in zip(record["verdicts"], self.verdicts, strict=True):
            if stored["lane"] is not None and verdict.lane is not None:
                stored["lane"]["ok"] = verdict.lane.ok
            stored["worst"] = worst_parity(verdict.parity)
        record["verdicts"] = list(record["verdicts"])
        return record | {"comparisons": self._comparisons(), "findings": list(self.findings)}

    def _comparisons(self) -> dict[str, dict[str, dict[str, Any]]]:
        by_subject: dict[str, list[str]] = {}
        for verdict in self.verdicts:
            by_subject.setdefault(verdict.subject, []).append(verdict.backend)
        result: dict[str, dict[str, dict[str, Any]]] = {}
        for subject, backends in by_subject.items():
            for a, b in itertools.combinations(backends, 2):
                ok, reason = comparable(self, subject, a, b)
                result.setdefault(subject, {})[f"{a}|{b}"] = {"comparable": ok, "reason": reason}
        return result


def worst_parity(parity: Sequence[Parity]) -> dict[str, float]:
    """The largest errors over the settings that decide the verdict."""
    deciding = [p for p in parity if p.setting in ("as drawn", "pinned")]
    return {
        "max_error": max((p.max_error for p in deciding), default=0.0),
        "mean_error": max((p.mean_error for p in deciding), default=0.0),
        "target_error": max((p.target_error for p in deciding), default=0.0),
    }


def _plain(report: AuditReport | Mapping[str, Any], subject: str, backend: str) -> tuple[str, str, str] | None:
    """(verdict, cause, measured lane) of a report or of its JSON."""
    if isinstance(report, AuditReport):
        found = report.find(subject, backend)
        return None if found is None else (found.verdict, found.cause, found.lane.measured if found.lane else "")
    for stored in report["verdicts"]:
        if (stored["subject"], stored["backend"]) == (subject, backend):
            return stored["verdict"], stored["cause"], (stored["lane"] or {}).get("measured", "")
    return None


def comparable(report: AuditReport | Mapping[str, Any], subject: str, backend_a: str, backend_b: str) -> tuple[bool, str]:
    """Whether a ratio of two backends' speeds means anything, and why (not): same lane, and both at least ``close``.

    ``report`` is an AuditReport or the values of its ``audit.json``.
    """
    reasons: list[str] = []
    lanes: list[str] = []
    for backend in (backend_a, backend_b):
        found = _plain(report, subject, backend)
        if found is None:
            return False, f"{subject} was not audited on {backend}"
        verdict, cause, lane = found
        if verdict not in COMPARABLE:
            return False, f"{backend} is {verdict}" + (f": {cause}" if cause else "")
        lanes.append(lane)
        if verdict == "close":
            reasons.append(f"{backend} is close: {cause}")
    if lanes[0] != lanes[1]:
        return False, f"other lane: {backend_a} draws {lanes[0]}, {backend_b} {lanes[1]}"
    return True, "; ".join(reasons) or "exact on both"
