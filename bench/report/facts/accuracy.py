"""Test accuracy by recipe and backend, and of fine-tuning: paired differences, seeds, seconds to a target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from bench.records import Audit, Case, Run, group_by
from bench.report.facts.cases import firsts
from bench.statistics import Estimate, estimate


def score(case: Case) -> float:
    """Return the mean test accuracy over seeds."""
    return case.mean("test_accuracy") or 0.0


def best_by_recipe(cases: Sequence[Case]) -> list[Case]:
    """Return the best case of each recipe, the best first."""
    return firsts(sorted(cases, key=score, reverse=True), "recipe")


def baseline(cases: Sequence[Case], run: Run) -> Case | None:
    """Return the case that others are compared with: the sweep's baseline, else training without augmentation."""
    named = run.plan.baseline if run.plan else None
    candidates = [case for case in cases if f"{case.recipe}@{case.backend}" == named]
    return next(iter([*candidates, *(case for case in cases if case.recipe == "none")]), None)


def difference(case: Case, base: Case) -> Estimate | None:
    """Return points of test accuracy of ``case`` above ``base``, over shared seeds; None if they share none."""
    scores, base_scores = ({record.seed: record.test_accuracy for record in side.records} for side in (case, base))
    points = [100 * (scores[seed] - base_scores[seed]) for seed in scores if seed in base_scores]
    return estimate(points) if points else None


def is_undecided(gap: Estimate | None) -> bool:
    """Return whether two cases cannot be distinguished: no shared seed, too few, or an interval around zero."""
    return gap is None or not gap.excludes_zero


def undecided_with(ranked: Sequence[Case]) -> list[Case]:
    """Return the cases that cannot be distinguished from the first."""
    return [case for case in ranked[1:] if is_undecided(difference(ranked[0], case))]


@dataclass(frozen=True, kw_only=True)
class BackendPair:
    """Two backends that train with one recipe, and the difference of what they reach, in points."""

    a: Case
    b: Case
    gap: Estimate
    difference: str
    """Reason for which their augmentation is not equal by the audit; empty if it is."""


def backend_pairs(cases: Sequence[Case], audit: Audit | None) -> list[BackendPair]:
    """Return the pairs that share a recipe and a seed."""
    audit = audit or Audit()
    return [
        BackendPair(a=a, b=b, gap=gap, difference=audit.why_not_compared(a.recipe, (a.backend, b.backend)))
        for a, b in combinations(cases, 2)
        if a.recipe == b.recipe and (gap := difference(a, b)) is not None
    ]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other equals in both coordinates and beats in one, from left to right."""

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(rival != point and rival[0] >= point[0] and rival[1] >= point[1] for rival in points)

    return sorted({point for point in points if not is_beaten(point)})


def num_epochs(case: Case) -> int:
    """Return how many epochs the runs of a case lasted."""
    return max(len(record.epochs) for record in case.records) or int(case.num_epochs or 0)


def curves(case: Case, name: str) -> list[list[tuple[float, float]]]:
    """Return (epoch, value) of a field for each seed that has it."""
    rows = [
        [(float(e.epoch), value) for e in record.epochs if (value := getattr(e, name)) is not None] for record in case.records
    ]
    return [row for row in rows if row]


def mean_curve(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean by epoch over the seeds that have it."""
    by_epoch = group_by((point for run in runs for point in run), lambda point: point[0])
    return [(epoch, sum(value for _, value in group) / len(group)) for epoch, group in sorted(by_epoch.items())]


def with_target(case: Case) -> Case | None:
    """Return a case's runs that named a target accuracy; resumed ones may have run elsewhere at first and are left out."""
    named = [record for record in case.records if getattr(record, "target_accuracy", None) and not record.resumed_after]
    return replace(case, records=named) if named else None


def soonest(cases: Sequence[Case]) -> Case | None:
    """Return the case that most seeds brought to its target, and of those the soonest."""

    def order(case: Case) -> tuple[float, float]:
        seconds = case.values("seconds_to_target")
        return -len(seconds) / len(case.records), case.mean("seconds_to_target") or 0.0

    return min(filter(None, map(with_target, cases)), key=order, default=None)
