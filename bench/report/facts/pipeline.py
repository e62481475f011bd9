"""From files to batches: seconds of an image by stage, the rate that they predict where they overlap, and what limits it.

**Attribution.** A stage has the share of time that the arm saves with the stage's recorded results in its place, without loader
workers; whole and part take turns batch by batch. For cases with workers, photographs are fetched in one thread meanwhile, as a
worker does. Nothing makes the shares add up: their sum stands beside the whole.

**Prediction.** With workers, the rate is that of the slowest of three resources: the workers (their number over the seconds of
the stages that they run), the training process (one over the seconds of its own stages) and the cores (their number over the
CPU seconds of an image, fetched in one thread).
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

from bench.records import COMPARABLE, AuditCell, Case, Pipeline, Run, group_by
from bench.report.facts.cases import settings
from bench.statistics import median_interval

BASELINE = "torchvision_loop-workers"
CROP = "RandomResizedCrop"
STEP, WAIT, OTHER = "step", "wait", "other"
OTHER_PIXELS = {"packed": "photographs shrunk and cut beforehand", "pil_draft": "DCT-scaled photographs"}
"""Decoders whose results are other pixels."""


class Span(NamedTuple):
    """A median over rounds and its interval, None for too few rounds."""

    value: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Span":
        """Return the span of at least one value."""
        return cls(statistics.median(values), median_interval(values))


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """All cases of a setting."""

    cases: Sequence[Case]

    @property
    def first(self) -> Case:
        """A case, for what all share."""
        return self.cases[0]

    @cached_property
    def recipe(self) -> str | None:
        """The recipe whose stages were attributed: the first with a stage left out, else the first."""
        cases = sorted((case for case in self.cases if case.recipe), key=lambda case: case.without is None)
        return cases[0].recipe if cases else None

    def find(self, like: Case, **changes: Any) -> Case | None:
        """Return the case that has the changes and is else like another; None if it was not measured."""
        manner = {name: getattr(like, name) for name in Pipeline.manner} | changes
        return next((case for case in self.cases if all(getattr(case, n) == value for n, value in manner.items())), None)

    def whole(self, recipe: str | None = None, *, trained: bool = False) -> list[Case]:
        """Return the cases with all stages, of a recipe if one is named; photographs decoded alone have none."""
        cases = [case for case in self.cases if case.recipe and case.without is None and bool(case.model) == trained]
        return [case for case in cases if recipe in (None, case.recipe)]

    def best(self, cases: Sequence[Case]) -> list[Case]:
        """Return the fastest number of workers of each arm and recipe, the fastest first."""
        ranked = sorted(cases, key=lambda case: -case.rate)
        return [fastest for fastest, *_ in group_by(ranked, attrgetter("arm", "recipe")).values()]

    def parts(self, case: Case) -> dict[str, Span]:
        """Return seconds an image by stage; empty where stages were not left out in turn."""
        arms, whole_s = self._without(case), self._whole_s(case)
        shares = {arm.without: [1 - r.wall_s / r.whole_s for r in arm.records] for arm in arms}
        parts = {stage: Span.of([share * whole_s for share in values]) for stage, values in shares.items()}
        step = self._step(case) if parts else None
        return parts if step is None else {**parts, STEP: step}

    def _without(self, case: Case) -> list[Case]:
        """Return the case without each stage, fetched in one thread if it has workers; empty unless all were measured."""
        threads = 1 if case.num_workers else None
        alone = {"num_workers": 0, "model": None, "fetch_threads": threads}
        arms = [self.find(case, without=stage, **alone) for stage in case.stages or ()]
        complete = [arm for arm in arms if arm and None not in {record.whole_s for record in arm.records}]
        return complete if len(complete) == len(arms) else []

    def _whole_s(self, case: Case) -> float:
        """Return seconds an image of all stages but the step, one after the other; 0 if unknown."""
        wholes = [r.whole_s / r.images for arm in self._without(case) for r in arm.records]
        return statistics.median(wholes) if wholes else 0.0

    def _step(self, case: Case, seconds: Callable[[Any], float] = lambda record: 1 / record.images_per_s) -> Span | None:
        """Return seconds an image that the network's step takes, without workers and paired by round."""
        alone = {"num_workers": 0, "fetch_threads": None}
        whole, trained = self.find(case, model=None, **alone), self.find(case, **alone)
        if not (case.model and whole and trained):
            return None
        fed = {record.round: seconds(record) for record in whole.records}
        more = [seconds(record) - fed[record.round] for record in trained.records if record.round in fed]
        return Span.of(more) if more else None

    def serial_s(self, case: Case) -> float:
        """Return seconds an image of all stages, one after the other, in the threads that they have in a case."""
        step = self._step(case)
        return self._whole_s(case) + (step.value if step else 0.0)

    def balance(self, case: Case) -> float:
        """Return the sum of a case's stages as a share of the whole."""
        return sum(span.value for span in self.parts(case).values()) / self.serial_s(case)

    def prediction(self, case: Case) -> "Prediction | None":
        """Return the rate that the stages predict for a case with workers, None where they are not known."""
        parts = self.parts(case)
        if not parts or not case.num_workers:
            return None
        fetched = {name: parts[name].value for name in case.fetched or () if name in parts}
        own = {name: span.value for name, span in parts.items() if name not in fetched}
        cpu_s = statistics.median(cpu_s for arm in self._without(case) for cpu_s in arm.values("cpu_s_per_image"))
        cpu_s += step.value if (step := self._step(case, lambda record: record.cpu_s_per_image or 0.0)) else 0.0
        rates = {
            "workers": case.num_workers / max(sum(fetched.values()), 1e-9),
            "process": 1 / max(sum(own.values()), 1e-9),
            "cores": (case.cores or 1) / max(cpu_s, 1e-9),
        }
        resource = min(rates, key=lambda name: rates[name])
        return Prediction(resource, rates[resource], {"workers": fetched, "process": own, "cores": fetched | own}[resource])


class Prediction(NamedTuple):
    """The slowest resource, images/s that it allows, and the seconds an image of its stages."""

    resource: str
    rate: float
    parts: Mapping[str, float]

    def error(self, case: Case) -> float:
        """Return how far the predicted rate lies above the measured one, as a share of it."""
        return self.rate / case.rate - 1


def feedings(run: Run) -> list[Feeding]:
    """Return the settings, the one with the most records first."""
    return [Feeding(cases=group) for group in settings(run, "pipeline")]


def verdict(run: Run, case: Case) -> tuple[bool, str]:
    """Return whether a case may be compared with others that do the recipe, and the audit's verdict in words."""
    if case.decoder in OTHER_PIXELS:
        return False, f"other pixels: {OTHER_PIXELS[case.decoder]}"
    if case.differs:
        return False, f"different: {case.differs}"
    if run.audit is None or not run.audit.verdicts:
        return True, "not audited in this run"
    subjects = [case.recipe, *([CROP] if run.audit.find(case.recipe, case.backend) and _is_op(run, case.recipe) else [])]
    cells: list[AuditCell | None] = [run.audit.find(subject, case.backend) for subject in subjects]
    worst = next((cell for cell in cells if cell is None or cell.verdict not in COMPARABLE), cells[0])
    if worst is None or worst.verdict not in COMPARABLE:
        return False, "not audited" if worst is None else f"{worst.verdict}: {worst.cause}".removesuffix(": ")
    return True, next((cell.verdict for cell in cells if cell and cell.verdict == "close"), worst.verdict)


def _is_op(run: Run, subject: str) -> bool:
    return any(cell.subject == subject and cell.kind == "op" for cell in (run.audit.verdicts if run.audit else ()))


def ratio(run: Run, feeding: Feeding, case: Case) -> float | None:
    """Return images/s over those of torchvision in workers, each at its best number; None unless both do the same."""
    base = next((arm for arm in feeding.best(feeding.whole(case.recipe)) if arm.arm == BASELINE), None)
    if (
        case.model
        or base is None
        or case.arm == BASELINE
        or base.lane != case.lane
        or not (verdict(run, base)[0] and verdict(run, case)[0])
    ):
        return None
    return case.rate / base.rate
