"""Results of an audit as plain values; ``bench.records`` stores them and holds the rule which backends are comparable.

Named tuples are stored as lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Class = Literal["exact", "close", "different", "unaudited", "unsupported"]
"""exact: max error <= 1/255; close: mean error <= 1/255, with a named reason; different: anything else, named where known.

A cell whose draws cannot be read, and of which no setting is fixed, is close where its outputs follow torchvision's law.
A recipe that rounds to bytes between its ops, and is exact when fed floats, is close up to a mean of 2/255; its cause says so.
"""

CLASSES: tuple[Class, ...] = ("exact", "close", "different", "unaudited", "unsupported")


class Parity(NamedTuple):
    """Errors against the oracle with the same parameters, in units of 1/255, over all draws of one setting.

    ``setting``: "as drawn" (recipes from bytes, ops from floats), "pinned" (parameters known from the op alone, nothing read
    from the backend), "shrinking" (images twice as large as the op's output), "edges" (flat, two-level and primary-colour
    images of an odd size, p = 1) or "fed floats" (a recipe that is off from bytes, by no more than rounding may cause).
    ``target_error`` is the largest error of a label's weight.
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
    """Lane of an op or recipe. ``distinct``: results among ``batch`` identical images, mean over batches."""

    declared: str
    measured: str
    batch: int
    distinct: float
    parameters: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Return whether the measured lane is the declared one."""
        return self.declared == self.measured


class DrawTest(NamedTuple):
    """Test of one drawn parameter against its law. ``distance`` is the size of the deviation, whatever n.

    ``rejected`` is Holm's verdict over all tests of the audit. A parameter "... at HxW" was drawn for images of a size that is
    not benchmarked; its test is a note and does not decide.
    """

    parameter: str
    law: str
    n: int
    p_value: float
    statistic: float
    distance: float
    rejected: bool = False

    @property
    def is_decisive(self) -> bool:
        """Return whether the parameter was drawn for images of a benchmarked size."""
        return " at " not in self.parameter


@dataclass(frozen=True, kw_only=True)
class Check:
    """One property of determinism or safety."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(kw_only=True)
class Verdict:
    """Verdict on one op or recipe on one backend, and what it rests on; filled by ``measure``, then by ``judge``.

    ``verdict`` is the worse of parity and distributions. ``cause`` names the difference, or why nothing is known;
    ``notes`` are true outside the benchmarked setting; ``findings`` contradict what the op declares.
    """

    subject: str
    kind: Literal["op", "recipe"]
    backend: str
    verdict: Class = "exact"
    cause: str = ""
    lane: Lane | None = None
    parity: list[Parity] = field(default_factory=list)
    tests: list[DrawTest] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """Verdicts of one audit, and what they were measured on. ``alpha`` is the chance of any false alarm among all tests."""

    verdicts: tuple[Verdict, ...]
    versions: Mapping[str, str]
    device: str
    images: str
    seed: int
    n: int
    alpha: float
    seconds: float

    def find(self, subject: str, backend: str) -> Verdict | None:
        """Return the verdict on a subject and a backend, or None."""
        return next((v for v in self.verdicts if (v.subject, v.backend) == (subject, backend)), None)

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that contradicts the declared definitions, and every check that failed."""
        return tuple(f"{v.subject} on {v.backend}: {finding}" for v in self.verdicts for finding in v.findings)
