"""Two runs, case by case: is B faster or slower than A, or can these passes not tell? From stored records, without torch.

**What is compared.** The ratio is images/s of B over A, each the geometric mean over the passes of the run; below 1 means
that B is slower. A pass is one observation: its calls share clocks, caches and neighbours, so a thousand of them are one. A way
to train is a case too, with its examples/s, and its rounds for passes. Test accuracies are compared seed by seed.

How sure that is: ``contrast.py`` for speeds, ``scores.py`` for accuracies; all verdicts together share one level.

**What it cannot know.** What differs between two runs but not between the passes of one (heat, a neighbour for that hour)
looks like a change of the code. Compare two runs of the same code first.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.comparison.contrast import (
    FEWEST_PASSES,
    MANY_CASES,
    Noise,
    Passes,
    Row,
    contrast,
    holm,
    judged,
    noise_of,
    read_passes,
    single,
    typical_noise,
)
from bench.comparison.scores import Score, ScoreRow, judged_score, score_row, shared_seeds
from bench.comparison.seeds import FEWEST_SEEDS
from bench.records.machines import code_facts, differences, machine_facts
from bench.records.runs import Run, load_run
from bench.records.training_cases import KINDS, TrainingCase, training_cases
from bench.report.quantities import listed, number

REGRESSION = 1  # exit code


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows and scores worst first; ``overall`` is the geometric mean over benchmark cases, None for fewer than ten.

    ``threshold`` is a share of images/s or examples/s, ``accuracy_threshold`` a share of test accuracy.
    """

    names: tuple[str, str]
    threshold: float
    accuracy_threshold: float
    level: float
    rows: list[Row]
    scores: list[ScoreRow]
    overall: Row | None
    newly_failed: list[tuple[str, str]]
    """Cases that A measured and that failed in B, with the reason."""
    left_out: dict[str, list[str]]
    """Cases without a comparison, by why."""
    lost: int
    """How many of them A did measure."""
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Row | ScoreRow]:
        """What is called slower or worse and by more than the threshold, all cases together among them."""
        rows = [*([self.overall] if self.overall else []), *self.rows]
        slower = [row for row in rows if row.verdict == "slower" and row.ratio < 1 - self.threshold]
        return [*slower, *(row for row in self.scores if row.verdict == "worse" and row.difference < -self.accuracy_threshold)]

    @property
    def regressed(self) -> bool:
        return bool(self.regressions or self.newly_failed)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What one run knows of a case. ``group``: cases that say something of each other's noise; ``settings``: what a way to
    train was, beyond its name."""

    status: str
    reason: str | None
    group: str
    in_grid: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    passes: Passes | None = None
    score: Score | None = None


# ---- may the runs be compared -------------------------------------------------------------------------------------------


def _machine_differences(a: Run, b: Run) -> list[str]:
    unknown = [f"the environment of {run.path} is not known" for run in (a, b) if not run.environment]
    return unknown or differences(machine_facts(a.environment), machine_facts(b.environment))


def _notes(a: Run, b: Run) -> list[str]:
    """What differs and may well: it is said, and refuses nothing."""

    def facts(run: Run) -> dict[str, str]:
        told = {"seconds a case and pass": run.plan.get("case_seconds"), "passes": run.plan.get("passes")}
        return code_facts(run.environment) | {name: str(value) for name, value in told.items()}

    return differences(facts(a), facts(b))


# ---- the cases of a run -------------------------------------------------------------------------------------------------


def _cases(run: Run) -> dict[str, _Case]:
    cases: dict[str, _Case] = {}
    for one in run.measurements:
        passes = read_passes(one) if one.status == "ok" else None
        usable = passes if passes is not None and len(passes.logs) else None
        cases[one.case.id] = _Case(status=one.status, reason=one.reason, group=one.case.device, in_grid=True, passes=usable)
    for case in training_cases(run.training):
        cases[case.name] = _trained(case)
    return cases


def _trained(case: TrainingCase) -> _Case:
    kind = KINDS[case.kind]
    group = f"{case.kind} on {case.first.get('device')}"
    shared = _Case(status=case.status, reason=None if case.records else case.reason, group=group, settings=case.settings)
    if kind.repeated == "seed":
        return replace(shared, score=_score(case))
    told = kind.quantities[0]
    rates = [value for value in case.values(told.name) if value > 0]
    # Of a quantity that should be small the inverse is compared, so that below 1 always means worse.
    logs = np.log(np.array(rates, dtype=float)) * (-1 if told.better == "less" else 1)
    passes = Passes(logs, 0.0) if rates else None
    return replace(shared, passes=passes)


def _score(case: TrainingCase) -> Score | None:
    name = KINDS[case.kind].quantities[0].name
    found = [(record.get("seed"), number(record, name)) for record in case.records]
    by_seed = {seed: value for seed, value in found if isinstance(seed, int) and value is not None}
    images = case.first.get("test_images")
    return Score(by_seed=by_seed, images=images if isinstance(images, int) and images > 0 else None) if by_seed else None


# ---- the comparison -----------------------------------------------------------------------------------------------------


def compare_runs(
    a: Run,
    b: Run,
    *,
    threshold: float = 0.05,
    accuracy_threshold: float = 0.005,
    level: float = 0.05,
    across_machines: bool = False,
) -> Comparison:
    """Compare the cases that both runs measured.

    ``threshold`` is the share of images/s or examples/s that may be lost, ``accuracy_threshold`` that of test accuracy,
    ``level`` the chance of any wrong verdict that something changed. Raises ValueError for runs of different machines,
    versions or data unless ``across_machines``, for runs without a case in common, and for a threshold or level that is none.
    """
    _check_limits(threshold, accuracy_threshold, level)
    differ = _machine_differences(a, b)
    if differ and not across_machines:
        raise ValueError(f"the runs differ in {listed(differ, 6)}: add --across-machines to compare them all the same")
    in_a, in_b = _cases(a), _cases(b)
    pairs = {name: (in_a[name], in_b[name]) for name in in_a if name in in_b and _comparable(in_a[name], in_b[name])}
    if not pairs:
        raise ValueError(f"{a.path} and {b.path} have no measured case in common: measure the same cases in both")
    failed, left_out = _left_out(in_a, in_b, pairs)
    rows, scores, overall = _judged(pairs, threshold, accuracy_threshold, level)
    return Comparison(
        names=(a.name, b.name) if a.name != b.name else (str(a.path), str(b.path)),
        threshold=threshold,
        accuracy_threshold=accuracy_threshold,
        level=level,
        rows=sorted(rows, key=lambda row: row.ratio),
        scores=sorted(scores, key=lambda row: row.difference),
        overall=overall,
        newly_failed=failed,
        left_out=left_out,
        lost=sum(_usable(in_a.get(name)) for names in left_out.values() for name in names),
        differences=differ,
        notes=[*_notes(a, b), *(f"{run.path}: {problem}" for run in (a, b) for problem in run.problems)],
    )


def _check_limits(threshold: float, accuracy_threshold: float, level: float) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold is a share of images/s between 0 and 1, such as 0.05; got {threshold:g}")
    if not 0 < accuracy_threshold < 1:
        raise ValueError(f"--accuracy-threshold is a share between 0 and 1, such as 0.005; got {accuracy_threshold:g}")
    if not 0 < level < 0.5:
        raise ValueError(f"--level is a chance between 0 and 0.5, such as 0.05; got {level:g}")


def _usable(case: _Case | None) -> bool:
    return case is not None and (case.passes is not None or case.score is not None)


def _comparable(a: _Case, b: _Case) -> bool:
    if _otherwise(a, b):
        return False
    if a.score is not None and b.score is not None:
        return bool(shared_seeds(a.score, b.score))
    return a.passes is not None and b.passes is not None


def _otherwise(a: _Case, b: _Case) -> list[str]:
    """In which settings two ways to train of one name differ, among those that both records know."""
    return [f"{n} {a.settings[n]} -> {b.settings[n]}" for n in a.settings if n in b.settings and a.settings[n] != b.settings[n]]


def _left_out(
    in_a: Mapping[str, _Case], in_b: Mapping[str, _Case], compared: Mapping[str, object]
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Cases that B newly fails, with reasons; and those that cannot be compared, by why."""
    failed: list[tuple[str, str]] = []
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*in_a, *in_b]):
        if name in compared:
            continue
        a, b = in_a.get(name), in_b.get(name)
        if _usable(a) and b is not None and b.status == "failed":
            failed.append((name, b.reason or "no reason was kept"))
            continue
        groups.setdefault(_why(a, b), []).append(name)
    return failed, groups


def _why(a: _Case | None, b: _Case | None) -> str:
    """Why a case cannot be compared."""
    if a is not None and b is not None and _usable(a) and _usable(b):
        differ = _otherwise(a, b)
        return f"with other settings ({listed(differ, 3)})" if differ else "with no seed in common"
    states = [_state(one) for one in (a, b)]
    return f"{states[0]} in both" if states[0] == states[1] else f"{states[0]} in A, {states[1]} in B"


def _state(case: _Case | None) -> str:
    if case is None:
        return "not planned"
    return "measured" if _usable(case) else "no usable pass" if case.status == "ok" else case.status.replace("_", " ")


# ---- verdicts -----------------------------------------------------------------------------------------------------------


def _judged(
    pairs: Mapping[str, tuple[_Case, _Case]], threshold: float, accuracy_threshold: float, level: float
) -> tuple[list[Row], list[ScoreRow], Row | None]:
    """Speeds, accuracies, and all benchmark cases together, with one level for all verdicts."""
    speeds = {name: (a.passes, b.passes) for name, (a, b) in pairs.items() if a.passes is not None and b.passes is not None}
    noises = _noises(speeds, {name: pairs[name][0].group for name in speeds})
    rows = [
        contrast(name, *speeds[name], *noises[name], level) if name in noises else single(name, *speeds[name])
        for name in speeds
    ]
    scores = [
        score_row(name, a.score, b.score, level)
        for name, (a, b) in pairs.items()
        if a.score is not None and b.score is not None
    ]
    grid = {name: speeds[name] for name in noises if pairs[name][0].in_grid}
    overall = _overall(grid, noises, level)
    share = 2 if overall else 1  # of the level, half for each question
    asked = [row for row in rows if row.name in noises] + [row for row in scores if row.n >= FEWEST_SEEDS]
    p = {row.name: share * one for row, one in zip(asked, holm([row.p for row in asked]), strict=True)}
    return (
        [judged(row, p.get(row.name, 1.0), threshold, level) for row in rows],
        [judged_score(row, p.get(row.name, 1.0), accuracy_threshold, level) for row in scores],
        overall and judged(overall, share * overall.p, threshold, level),
    )


def _noises(speeds: Mapping[str, tuple[Passes, Passes]], groups: Mapping[str, str]) -> dict[str, tuple[Noise, Noise]]:
    """The noise of each case in both runs, where both have enough passes, with what the cases of its group say of it."""
    typical: dict[str, tuple[Noise, Noise]] = {}
    for group in set(groups.values()):
        here = [pair for name, pair in speeds.items() if groups[name] == group]
        typical[group] = (typical_noise([a for a, _ in here]), typical_noise([b for _, b in here]))
    noises = {}
    for name, (a, b) in speeds.items():
        if min(len(a.logs), len(b.logs)) >= FEWEST_PASSES:
            of_a, of_b = typical[groups[name]]
            noises[name] = (noise_of(a, of_a), noise_of(b, of_b))
    return noises


def _overall(pairs: Mapping[str, tuple[Passes, Passes]], noises: Mapping[str, tuple[Noise, Noise]], level: float) -> Row | None:
    """All cases together: the mean over cases of each pass is one observation, since a disturbed pass disturbs many cases."""
    counts = [(len(a.logs), len(b.logs)) for a, b in pairs.values()]
    usual = Counter(counts).most_common(1)[0][0] if counts else (0, 0)
    whole = [case for case, count in zip(pairs, counts, strict=True) if count == usual]
    if len(whole) < MANY_CASES:
        return None
    sides: list[tuple[Passes, Noise]] = []
    for side in (0, 1):
        logs = np.mean([pairs[case][side].logs for case in whole], axis=0)
        # Even if cases disturbed each other not at all, their mean would vary so much; three passes may look calmer by luck.
        floor = float(np.mean([noises[case][side].variance for case in whole])) / len(whole)
        passes = Passes(logs, floor)
        sides.append((passes, noise_of(passes, Noise(0.0, 0.0))))
    (a, noise_a), (b, noise_b) = sides
    return contrast(f"all {len(whole)} cases together", a, b, noise_a, noise_b, level)


def compare(
    a: Path,
    b: Path,
    console: Console,
    *,
    threshold: float,
    accuracy_threshold: float,
    level: float,
    across_machines: bool,
) -> int:
    """Compare two run folders, print it, and return the exit code: ``REGRESSION`` on a regression, else 0."""
    from bench.comparison.verdicts import print_comparison

    result = compare_runs(
        load_run(a),
        load_run(b),
        threshold=threshold,
        accuracy_threshold=accuracy_threshold,
        level=level,
        across_machines=across_machines,
    )
    print_comparison(result, console)
    return REGRESSION if result.regressed else 0
