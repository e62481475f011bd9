"""audit.json: whether the backends do the same augmentation, cell by cell. No torch here."""

from typing import Literal

import msgspec

from bench.records.base import Amount, Count, Lane, Share, Strict
from bench.records.words import format_number

Verdict = Literal["exact", "close", "different", "unaudited", "unsupported"]
COMPARABLE: tuple[Verdict, ...] = ("exact", "close")
"""Verdicts that allow a ratio of speeds."""


class AuditLane(Strict, frozen=True, kw_only=True):
    """Lane: declared, and measured on ``batch`` identical images."""

    declared: Lane
    measured: str
    batch: Count | None = None
    distinct: Amount | None = None
    """Distinct results among the identical images, mean over batches."""
    parameters: dict[str, str] = {}

    @property
    def ok(self) -> bool:
        """Return whether the measured lane is the declared one."""
        return self.declared == self.measured


class AuditParity(Strict, frozen=True, array_like=True):
    """Errors against the oracle with the same parameters, in units of 1/255; stored as a list, in this order."""

    images: str
    size: Count
    setting: str
    draws: Count
    max_error: Amount
    mean_error: Amount
    target_error: Amount = 0.0


class AuditTest(Strict, frozen=True, array_like=True):
    """Test of a drawn parameter against its law; stored as a list, in this order."""

    parameter: str
    law: str
    n: Count
    p_value: Share
    statistic: float | None = None
    distance: float | None = None
    rejected: bool = False


class AuditCheck(Strict, frozen=True, kw_only=True):
    """One property of determinism or safety."""

    name: str
    ok: bool = True
    detail: str = ""


class AuditCell(Strict, frozen=True, kw_only=True):
    """Verdict on an op or recipe on a backend, and what it rests on."""

    subject: str
    kind: Literal["op", "recipe"]
    backend: str
    verdict: Verdict
    cause: str = ""
    lane: AuditLane | None = None
    parity: tuple[AuditParity, ...] = ()
    tests: tuple[AuditTest, ...] = ()
    checks: tuple[AuditCheck, ...] = ()
    checks_passed: Count = msgspec.field(default=0, name="passed")
    """Checks that passed, beyond those listed: a published audit lists those that failed."""
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def max_error(self) -> float:
        """Largest error in the settings that decide the verdict, in units of 1/255."""
        return max((parity.max_error for parity in self._decisive), default=0.0)

    @property
    def _decisive(self) -> list[AuditParity]:
        return [parity for parity in self.parity if parity.setting in ("as drawn", "pinned")]

    @property
    def mean_error(self) -> float:
        """Mean error in 1/255 that decides on "close": the largest of any size and setting, all images together."""
        groups: dict[tuple[int, str], list[AuditParity]] = {}
        for parity in self._decisive:
            groups.setdefault((parity.size, parity.setting), []).append(parity)
        means = (sum(p.mean_error * p.draws for p in group) / (sum(p.draws for p in group) or 1) for group in groups.values())
        return max(means, default=0.0)

    @property
    def error_words(self) -> str:
        """Error that the verdict goes by, in 1/255: the largest, the mean of close cells, "draws" where only those differ."""
        if self.verdict in ("unaudited", "unsupported"):
            return ""
        if self.verdict == "different" and self.max_error <= 1:
            return "draws"
        size = self.mean_error if self.verdict == "close" else self.max_error
        return f"{'mean ' if self.verdict == 'close' else ''}{'< 0.01' if 0 < size < 0.01 else format_number(size, 2)}"


class Audit(Strict, frozen=True, kw_only=True):
    """audit.json: whether the backends do the same augmentation; ``failed`` says why there are no verdicts."""

    verdicts: tuple[AuditCell, ...] = ()
    failed: str | None = None
    device: str | None = None
    images: str | None = None
    seed: int | str | None = None
    n: int | str | None = None
    """Draws a distribution; several values, as words, where runs were merged."""
    alpha: float | str | None = None
    """Chance of any false alarm."""
    seconds: Amount | None = None
    versions: dict[str, str] = {}
    findings: tuple[str, ...] = ()
    """Contradictions to the declared definitions."""

    def find(self, subject: str | None, backend: str | None) -> AuditCell | None:
        """Return the verdict on a subject on a backend, or None."""
        return next((cell for cell in self.verdicts if (cell.subject, cell.backend) == (subject, backend)), None)

    def why_not_compared(self, subject: str, backends: tuple[str, str]) -> str:
        """Return why no ratio of two backends' speeds means anything; empty if both do the subject, in the same lane."""
        a, b = (self.find(subject, backend) for backend in backends)
        if a is None or b is None:
            return "not audited"
        different = next((cell for cell in (a, b) if cell.verdict not in COMPARABLE), None)
        if different is not None:
            return f"{different.backend} is {different.verdict}: {different.cause}".removesuffix(": ")
        lanes = [cell.lane.measured if cell.lane else "" for cell in (a, b)]
        return "" if lanes[0] == lanes[1] else f"other lane: {a.backend} draws {lanes[0]}, {b.backend} {lanes[1]}"
