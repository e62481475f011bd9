"""Test accuracy by recipe and backend: paired differences, seeds, seconds to a target."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from bench.records import Audit, Run
from bench.report.facts.arms import Arm, firsts, settings, value
from bench.statistics import Estimate, estimate


def with_accuracy(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms with a test accuracy."""
    return [arm for arm in arms if arm.values("test_accuracy")]


def main_setting(run: Run) -> list[Arm]:
    """Return the arms of the setting that has the most with a test accuracy."""
    return max(map(with_accuracy, settings(run.records, "accuracy")), key=len, default=[])


def score(arm: Arm) -> float:
    """Return the mean test accuracy over seeds."""
    return arm.mean("test_accuracy") or 0.0


def best_by_recipe(arms: Sequence[Arm]) -> list[Arm]:
    """Return the best arm of each recipe, the best first."""
    return firsts(sorted(arms, key=score, reverse=True), "recipe")


def baseline(arms: Sequence[Arm], run: Run) -> Arm | None:
    """Return the arm that others are compared with: the sweep's baseline, else training without augmentation."""
    named = run.plan.baseline if run.plan else None
    candidates = [arm for arm in arms if f"{arm.recipe}@{arm.backend}" == named]
    return next(iter([*candidates, *(arm for arm in arms if arm.recipe == "none")]), None)


def difference(arm: Arm, base: Arm) -> Estimate | None:
    """Return points of test accuracy of ``arm`` above ``base``, over shared seeds; None if they share none."""
    scores, base_scores = ({value(r, "seed"): value(r, "test_accuracy") for r in side.records} for side in (arm, base))
    points = [100 * (scores[seed] - base_scores[seed]) for seed in scores if seed in base_scores]
    return estimate(points) if points else None


def is_undecided(gap: Estimate | None) -> bool:
    """Return whether two arms cannot be distinguished: no shared seed, too few, or an interval around zero."""
    return gap is None or not gap.excludes_zero


@dataclass(frozen=True, kw_only=True)
class BackendPair:
    """Two backends that train with one recipe, and the difference of what they reach, in points."""

    a: Arm
    b: Arm
    gap: Estimate
    is_equal: bool | None
    """The audit calls their augmentation equal; None if it was not audited."""
    reason: str


def backend_pairs(arms: Sequence[Arm], audit: Audit | None) -> list[BackendPair]:
    """Return the pairs that share a recipe and a seed."""
    pairs = []
    for a, b in combinations(arms, 2):
        gap = difference(a, b)
        if a.recipe == b.recipe and gap is not None:
            is_audited = audit is not None and audit.find(a.recipe, a.backend) and audit.find(b.recipe, b.backend)
            is_equal, reason = audit.comparable(a.recipe, [a.backend, b.backend]) if audit and is_audited else (None, "")
            pairs.append(BackendPair(a=a, b=b, gap=gap, is_equal=is_equal, reason=reason))
    return pairs


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other equals in both coordinates and beats in one, from left to right."""

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(rival != point and rival[0] >= point[0] and rival[1] >= point[1] for rival in points)

    return sorted({point for point in points if not is_beaten(point)})


def num_epochs(arm: Arm) -> int:
    """Return how many epochs the runs of an arm lasted."""
    return max(len(value(record, "epochs") or ()) for record in arm.records) or int(arm.num_epochs or 0)


def curves(arm: Arm, name: str) -> list[list[tuple[float, float]]]:
    """Return (epoch, value) of a field for each seed that has it."""
    rows = [
        [(float(e.epoch), getattr(e, name)) for e in value(r, "epochs") or () if getattr(e, name) is not None]
        for r in arm.records
    ]
    return [row for row in rows if row]


def mean_curve(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean by epoch over the seeds that have it."""
    by_epoch: dict[float, list[float]] = {}
    for epoch, content in (point for run in runs for point in run):
        by_epoch.setdefault(epoch, []).append(content)
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(by_epoch.items())]


def with_target(arm: Arm) -> Arm | None:
    """Return the runs of an arm that named a target accuracy; resumed ones may have run elsewhere at first and are left out."""
    named = [record for record in arm.records if value(record, "target_accuracy") and not value(record, "resumed_after")]
    return Arm(records=named) if named else None


def soonest(arms: Sequence[Arm]) -> Arm | None:
    """Return the arm that most seeds brought to its target, and of those the soonest."""
    named = [target for arm in arms if (target := with_target(arm))]
    shares = {id(arm): len(arm.values("seconds_to_target")) / len(arm.records) for arm in named}
    return min(named, key=lambda arm: (-shares[id(arm)], arm.mean("seconds_to_target") or 0.0), default=None)
