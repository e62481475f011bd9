"""Two runs, case by case: is B faster or slower than A, or can these rounds not tell? From stored records, without torch.

**What is compared.** The ratio is images/s of B over A, each the geometric mean over the rounds of the run; below 1 means
that B is slower. A round is one observation: its calls share clocks, caches and neighbours, so a thousand of them are one. A
way to train is a case too, with its examples/s. Test accuracies are compared seed by seed.

**Verdicts.** By t tests with Holm's correction over all cases, at one level for the whole comparison: the chance that anything
is called where nothing changed. ``same`` when the interval lies within the threshold on either side. Else ``unclear``: too
noisy, or too few rounds or seeds to tell. From ten cases of the grid on, half of the level goes to one more question, whether
all cases together have shifted. ``bench/changes.py`` says how sure a single change is.

**What it cannot know.** What differs between two runs but not between the rounds of one (heat, a neighbour for that hour)
looks like a change of the code. What differs between processes is allowed for where a run has a certificate (``augmark
calibrate``). Without one compare two runs of the same code first. Rounds measured in turns (``augmark turns``) are compared in
pairs: what drifts cancels, and a pair of processes is one observation.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.special import ndtri, stdtrit

from bench.changes import Change, Limits, Verdict, judge, read_rates, scores_of
from bench.records import (
    Calibration,
    Case,
    Run,
    code_facts,
    differences,
    format_number,
    join,
    load_run,
    machine_facts,
    percent,
    plural,
    worst_disturbance,
)
from bench.statistics import FEWEST_PASSES, FEWEST_ROUNDS, FEWEST_SEEDS, POWER

REGRESSION = 1  # exit code
COMPARABLE = ""
NEWLY_FAILED = "measured in A, failed in B"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Changes of speed and accuracy, worst first; ``overall`` is that of all cases of the grid, None for fewer than ten.

    ``newly_failed`` are cases that A measured and that failed in B, with the reason; ``left_out`` those without a comparison,
    by cause, of which A did measure ``lost``; ``differences`` those of the machines; ``notes`` what else differs;
    ``observations`` of a speed are rounds, or pairs of processes, of which an interval takes the ``fewest``.
    """

    names: tuple[str, str]
    limits: Limits
    speeds: list[Change]
    scores: list[Change]
    overall: Change | None
    newly_failed: list[tuple[str, str]]
    left_out: dict[str, list[str]]
    lost: int
    differences: list[str]
    notes: list[str]
    observations: str = "rounds"
    fewest: int = FEWEST_ROUNDS

    @property
    def regressions(self) -> list[Change]:
        """Changes called slower or worse and beyond the threshold, that of all cases together among them."""
        changes = [*([self.overall] if self.overall else []), *self.speeds, *self.scores]
        return [c for c in changes if c.verdict in ("slower", "worse") and c.effect < -self.limits.margin(c)]

    @property
    def has_regression(self) -> bool:
        """Return whether anything got slower, worse, or failed."""
        return bool(self.regressions or self.newly_failed)


def compare_runs(a: Run, b: Run, *, limits: Limits | None = None, across_machines: bool = False) -> Comparison:
    """Compare the cases that both runs measured.

    Args:
        a: the run to compare with.
        b: the run in question.
        limits: what counts as a change.
        across_machines: compare runs of different machines, versions or data all the same.

    Raises:
        ValueError: the runs differ in machine, versions or data, or have no case in common.
    """
    limits = limits or Limits()
    differ = _check_machines(a, b, across_machines)
    cases_a, cases_b = ({case.name: case for case in run.cases() if case.first.compared} for run in (a, b))
    left_out: dict[str, list[str]] = {}
    for name in dict.fromkeys([*cases_a, *cases_b]):
        left_out.setdefault(_why_not(cases_a.get(name), cases_b.get(name)), []).append(name)
    pairs = {name: (cases_a[name], cases_b[name]) for name in left_out.pop(COMPARABLE, ())}
    failed = [(name, str(cases_b[name].reason)) for name in left_out.pop(NEWLY_FAILED, ())]
    if not pairs:
        raise ValueError(_explain_nothing(a, b, failed))
    certificates = [record for run in (a, b) for record in run.records if isinstance(record, Calibration)]
    in_turns = are_in_turns(a, b)
    changes, overall = judge(pairs, limits, None if in_turns else certificates)
    return Comparison(
        names=(a.name, b.name) if a.name != b.name else (str(a.path), str(b.path)),
        limits=limits,
        speeds=[change for change in changes if not change.is_score],
        scores=[change for change in changes if change.is_score],
        overall=overall,
        newly_failed=failed,
        left_out=left_out,
        lost=sum(_state(cases_a.get(name)) == "measured" for names in left_out.values() for name in names),
        differences=differ,
        notes=[*_notes(a, b), *(f"{run.path}: {problem}" for run in (a, b) for problem in run.problems)],
        **({"observations": "pairs of processes", "fewest": FEWEST_PASSES} if in_turns else {}),  # type: ignore[arg-type]
    )


def _check_machines(a: Run, b: Run, across_machines: bool) -> list[str]:
    """Return how the machines of two runs differ. Raises ValueError where they do, unless that is asked for."""
    anonymous = [f"{run.path} does not say on which machine it was measured" for run in (a, b) if not run.environment]
    differ = anonymous or differences(machine_facts(a.environment), machine_facts(b.environment))
    if differ and not across_machines:
        cause, runs = (anonymous[0], "it") if anonymous else (f"the runs differ in {join(differ, 6)}", "them")
        raise ValueError(f"{cause}: add --across-machines to compare {runs} all the same")
    return differ


def _explain_nothing(a: Run, b: Run, failed: list[tuple[str, str]]) -> str:
    """Return why no case of two runs can be compared, and what to do."""
    worst = {run.path: worst_disturbance(run.records) for run in (a, b)}
    disturbed = "; ".join(f"{path} was disturbed ({cause.words})" for path, cause in worst.items() if cause)
    if disturbed:
        return f"not comparable: {disturbed}: measure again where it is quiet"
    if failed:
        return f"not comparable: {b.path} measured nothing: {failed[0][0]}: {failed[0][1]}"
    return f"{a.path} and {b.path} have no measured case in common: measure the same cases in both"


def are_in_turns(a: Run, b: Run) -> bool:
    """Return whether the rounds of two runs were measured in turns."""
    names = [run.plan and run.plan.settings.get("turns") for run in (a, b)]
    return names[0] is not None and names[0] == names[1]


def _notes(a: Run, b: Run) -> list[str]:
    """Return what differs and may well: it is said, and refuses nothing."""
    facts = []
    for run in (a, b):
        plan = {"seconds a case and round": run.plan and run.plan.case_seconds, "rounds": run.plan and run.plan.rounds}
        ran = sorted({case.implementation for case in run.cases() if case.implementation})
        facts.append(code_facts(run.environment) | {k: str(v) for k, v in plan.items()} | {"fused runs as": join(ran)})
    return differences(*facts)


# ---- which cases ------------------------------------------------------------------------------------------------------


def _state(case: Case | None) -> str:
    if case is None or case.status != "ok":
        return "not planned" if case is None else case.status.replace("_", " ")
    return "measured" if scores_of(case) or read_rates(case) else "no usable round"


def _why_not(a: Case | None, b: Case | None) -> str:
    """Return why two cases of one name cannot be compared; ``COMPARABLE`` if they can."""
    states = _state(a), _state(b)
    if a is None or b is None or states != ("measured", "measured"):
        return f"{states[0]} in both" if states[0] == states[1] else f"{states[0]} in A, {states[1]} in B"
    if differ := differences(*({name: str(getattr(case.first, name)) for name in case.first.identity} for case in (a, b))):
        return f"with other settings ({join(differ, 3)})"
    if a.first.repetition == "seed":
        return COMPARABLE if scores_of(a).keys() & scores_of(b).keys() else "with no seed in common"
    disturbed = {name: case.disturbance for name, case in (("A", a), ("B", b)) if case.is_disturbed}
    worst = worst_disturbance(record for case in (a, b) if case.is_disturbed for record in case.records)
    return f"as {' and '.join(disturbed)} was disturbed ({worst.words})" if worst else COMPARABLE


# ---- on the terminal --------------------------------------------------------------------------------------------------

COLOURS = {"slower": "red", "worse": "red", "faster": "green", "better": "green", "same": "", "unclear": "yellow"}

SPEEDS = (
    "images/s of B over A (of training examples/s, of overhead the speed as a share of a bare loop's); n = {observations} in "
    "A, B; below 1: B is slower; intervals are of one case alone, verdicts allow for all"
)
SCORES = "test accuracy after the last epoch, B minus A in points; n = seeds in both; below 0: B is worse"


def compare(a: Path, b: Path, console: Console, limits: Limits, *, across_machines: bool) -> int:
    """Compare two run folders, print it, and return the exit code: ``REGRESSION`` on a regression, else 0."""
    limits.check()
    result = compare_runs(load_run(a), load_run(b), limits=limits, across_machines=across_machines)
    print_comparison(result, console)
    return REGRESSION if result.has_regression else 0


def print_comparison(result: Comparison, console: Console) -> None:
    """Print a line a case, worst first, then what could not be compared and what it comes to."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"A: {result.names[0]}\nB: {result.names[1]}")
    tables = ((result.speeds, SPEEDS, "ratio", " per s"), (result.scores, SCORES, "points", ""))
    for changes, about, effect, unit in tables:
        if changes:
            say(about.format(observations=result.observations))
            interval = f"{1 - result.limits.level:.0%} interval"
            say(f"{effect:>7}  {interval}  {'verdict':8} {'A' + unit:>11} {'B' + unit:>11}  n     case")
        for change in changes:
            say(_line(change, result.fewest), COLOURS[change.verdict])
    for case, reason in result.newly_failed:
        say(f"failed in B only: {case}: {reason}", "red")
    for cause, cases in result.left_out.items():
        say(f"not compared, {plural(len(cases), 'case')} {cause}: {join(cases, 6)}")
    for difference in result.differences:
        say(f"the runs differ, and the ratios show that too: {difference}", "yellow")
    for line in (*(f"note: {note}" for note in result.notes), *summary(result)):
        say(line)


def _interval(change: Change) -> tuple[float, float]:
    return (100 * change.low, 100 * change.high) if change.is_score else (math.exp(change.low), math.exp(change.high))


def _line(change: Change, fewest: int) -> str:
    low, high = _interval(change)
    if change.is_score:
        effect, interval, n = f"{100 * change.effect:+.2f}", f"[{low:+.2f}, {high:+.2f}]", f"{change.n[0]:<4}"
    else:
        effect, interval, n = f"{change.ratio:.3f}", f"[{low:.3f}, {high:.3f}]", f"{change.n[0]}, {change.n[1]}"
    if not math.isfinite(change.high):
        interval = f"n < {FEWEST_SEEDS if change.is_score else fewest}, none"
    a, b = (percent(mean, 2) if change.is_score else format_number(mean) for mean in (change.a, change.b))
    return f"{effect:>7}  {interval:14} {change.verdict:8} {a:>11} {b:>11}  {n}  {change.name}"


def summary(result: Comparison) -> list[str]:
    """Return what the comparison comes to, a sentence a line; the last is the one that the exit code goes by."""
    lines, limits = [], result.limits
    if result.speeds:
        words = f"(level {limits.level:g} for all cases together, Holm; same: within {percent(limits.threshold)})"
        lines.append(f"{plural(len(result.speeds), 'case')}: {_verdicts(result.speeds, ('slower', 'faster'))} {words}")
    if result.scores:
        words = f"(same: within {100 * limits.accuracy_threshold:g} points)"
        counts = plural(len(result.scores), "accuracy", "accuracies")
        lines.append(f"{counts}: {_verdicts(result.scores, ('worse', 'better'))} {words}")
    if result.overall:
        change, (low, high) = result.overall, _interval(result.overall)
        lines.append(f"{change.name}: {change.ratio:.3f} [{low:.3f}, {high:.3f}], {change.verdict}")
        if change.verdict in ("slower", "faster"):
            lines[-1] += "; a shift of all is often the machine's: compare two runs of the same code before blaming it"
    lines += _resolution(result) if any(change.verdict == "unclear" for change in result.speeds) else []
    if result.lost:
        words = f"{plural(result.lost, 'case')} that A measured could not be compared, as said above"
        lines.append(f"{words}: that is no all-clear for them")
    names = [change.name for change in result.regressions] + [case for case, _ in result.newly_failed]
    beyond = f"beyond {limits.words(scores=bool(result.scores))}"
    regressions = f"{plural(len(names), 'regression')} {beyond} or failed: {join(names, 6)}"
    return [*lines, regressions if names else f"no regression {beyond} was found"]


def _verdicts(changes: list[Change], names: tuple[Verdict, Verdict]) -> str:
    verdicts = Counter(change.verdict for change in changes)
    return ", ".join(f"{verdicts[name]} {name}" for name in (*names, "same", "unclear"))


def _resolution(result: Comparison) -> list[str]:
    """Return how small a change these rounds could have shown, and how many would show one as small as the threshold."""
    changes = [change for change in result.speeds if math.isfinite(change.high)]
    if not changes:
        return [f"nothing can be told from so few {result.observations}: measure at least {result.fewest} in both runs"]
    level = result.limits.level / (2 if result.overall else 1) / len(changes)
    rounds = [min(change.n) for change in changes]
    least = float(np.median([float(stdtrit(change.df, 1 - level / 2)) * change.error for change in changes]))
    # For two equal runs the variance of one round is n/2 of that of the log ratio.
    variance = float(np.median([change.error**2 * n / 2 for change, n in zip(changes, rounds, strict=True)]))
    reach = (float(ndtri(1 - level / 2)) + float(ndtri(POWER))) / math.log1p(-result.limits.threshold)
    needed = max(result.fewest, math.ceil(2 * variance * reach**2))
    counts = join(map(str, sorted(set(rounds))))
    return [
        f"with {counts} {result.observations}, unclear is no all-clear: in a typical case only a loss above "
        f"{percent(-math.expm1(-least))} can be called; one of {percent(result.limits.threshold)} takes about {needed}"
    ]
