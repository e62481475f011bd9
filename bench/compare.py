"""Two runs, case by case: is B faster or slower than A, or can these rounds not tell? From stored records, without torch.

**What is compared.** The ratio is images/s of B over A, each the geometric mean over the rounds of the run; below 1 means
that B is slower. A round is one observation: its calls share clocks, caches and neighbours, so a thousand of them are one. A
way to train is a case too, with its examples/s. Test accuracies are compared seed by seed.

**Verdicts.** By t tests with Holm's correction over all cases, at one level for the whole comparison: the chance that anything
is called where nothing changed. ``same`` when the interval lies within the threshold on either side. Else ``unclear``: too
noisy, or too few rounds or seeds to tell. From ten cases of the grid on, half of the level goes to one more question, whether
all cases together have shifted. ``bench/statistics.py`` says how sure a single change is.

**What it cannot know.** What differs between two runs but not between the rounds of one (heat, a neighbour for that hour)
looks like a change of the code. What differs between processes is allowed for where a run has a certificate (``augmark
calibrate``). Without one compare two runs of the same code first. Rounds measured in turns (``augmark turns``) are compared in
pairs: what drifts cancels, and a pair of processes is one observation.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.special import ndtri, stdtrit

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
from bench.statistics import (
    CERTAIN,
    FEWEST_PASSES,
    FEWEST_ROUNDS,
    FEWEST_SEEDS,
    MANY_CASES,
    POWER,
    Change,
    Noise,
    Rates,
    Verdict,
    change_in_turns,
    change_of_rate,
    change_of_score,
    holm,
    moderate,
    read_rates,
    typical_noise,
)

REGRESSION = 1  # exit code
Pairs = Mapping[str, tuple[Rates, Rates]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits beyond which a difference is a change."""

    threshold: float = 0.05
    """Share of images/s that may be lost: a regression is called slower and loses more; same is within it."""
    accuracy_threshold: float = 0.005
    """Share of test accuracy that may be lost, the same way; 0.005 is half a point."""
    level: float = 0.05
    """Chance that anything is called changed where nothing did, over all cases together."""

    def check(self) -> None:
        """Raise ValueError, in one line, for limits that are no shares."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"--threshold is a share of images/s between 0 and 1, such as 0.05; got {self.threshold:g}")
        if not 0 < self.accuracy_threshold < 1:
            share = f"{self.accuracy_threshold:g}"
            raise ValueError(f"--accuracy-threshold is a share between 0 and 1, such as 0.005; got {share}")
        if not 0 < self.level < 0.5:
            raise ValueError(f"--level is a chance between 0 and 0.5, such as 0.05; got {self.level:g}")

    def words(self, scores: bool) -> str:
        """Return the thresholds in words."""
        return percent(self.threshold) + (f" or {100 * self.accuracy_threshold:g} points" if scores else "")


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
        speeds = [*([self.overall] if self.overall else []), *self.speeds]
        slower = [change for change in speeds if change.verdict == "slower" and change.ratio < 1 - self.limits.threshold]
        least = -self.limits.accuracy_threshold
        return [*slower, *(change for change in self.scores if change.verdict == "worse" and change.effect < least)]

    @property
    def regressed(self) -> bool:
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
    anonymous = [f"{run.path} does not say on which machine it was measured" for run in (a, b) if not run.environment]
    differ = anonymous or differences(machine_facts(a.environment), machine_facts(b.environment))
    if anonymous and not across_machines:
        raise ValueError(f"{anonymous[0]}: add --across-machines to compare it all the same")
    if differ and not across_machines:
        raise ValueError(f"the runs differ in {join(differ, 6)}: add --across-machines to compare them all the same")
    cases_a, cases_b = ({case.name: case for case in run.cases() if case.first.compared} for run in (a, b))
    pairs = {name: (cases_a[name], cases_b[name]) for name in cases_a if name in cases_b}
    pairs = {name: pair for name, pair in pairs.items() if _is_comparable(*pair)}
    failed, left_out = _left_out(cases_a, cases_b, pairs)
    if not pairs:
        disturbed = [(f"{run.path}", worst) for run in (a, b) if (worst := worst_disturbance(run.records))]
        cause = "; ".join(f"{path} was disturbed ({worst.words})" for path, worst in disturbed)
        raise ValueError(
            f"not comparable: {cause}: measure again where it is quiet" if cause else
            f"not comparable: {b.path} measured nothing: {failed[0][0]}: {failed[0][1]}" if failed else
            f"{a.path} and {b.path} have no measured case in common: measure the same cases in both"
        )  # fmt: skip
    certificates = [record for run in (a, b) for record in run.records if isinstance(record, Calibration)]
    in_turns = are_in_turns(a, b)
    speeds, scores, overall = _judge(pairs, limits, None if in_turns else process_noise(certificates))
    return Comparison(
        names=(a.name, b.name) if a.name != b.name else (str(a.path), str(b.path)),
        limits=limits,
        speeds=sorted(speeds, key=lambda change: change.effect),
        scores=sorted(scores, key=lambda change: change.effect),
        overall=overall,
        newly_failed=failed,
        left_out=left_out,
        lost=sum(_is_usable(cases_a.get(name)) for names in left_out.values() for name in names),
        differences=differ,
        notes=[*_notes(a, b), *(f"{run.path}: {problem}" for run in (a, b) for problem in run.problems)],
        **({"observations": "pairs of processes", "fewest": FEWEST_PASSES} if in_turns else {}),  # type: ignore[arg-type]
    )


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


def _scores(case: Case) -> dict[int, float]:
    return {r.seed: r.test_accuracy for r in case.records} if case.first.repetition == "seed" else {}


def _is_usable(case: Case | None) -> bool:
    return case is not None and case.status == "ok" and bool(_scores(case) or read_rates(case))


def _is_comparable(a: Case, b: Case) -> bool:
    usable = _is_usable(a) and _is_usable(b) and not _other_settings(a, b)
    if a.first.repetition == "round" and (a.is_disturbed or b.is_disturbed):
        return False
    return usable and (a.first.repetition == "round" or bool(set(_scores(a)) & set(_scores(b))))


def _other_settings(a: Case, b: Case) -> list[str]:
    """Return the settings in which two ways to train of one name differ."""
    return differences(*({name: str(getattr(case.first, name)) for name in case.first.identity} for case in (a, b)))


def _left_out(
    cases_a: Mapping[str, Case], cases_b: Mapping[str, Case], compared: Mapping[str, object]
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Return the cases that B newly fails, with reasons; and those that cannot be compared, by cause."""
    failed: list[tuple[str, str]] = []
    groups: dict[str, list[str]] = {}
    for name in (name for name in dict.fromkeys([*cases_a, *cases_b]) if name not in compared):
        a, b = cases_a.get(name), cases_b.get(name)
        states = (_state(a), _state(b))
        cause = f"{states[0]} in both" if states[0] == states[1] else f"{states[0]} in A, {states[1]} in B"
        if a and b and states == ("measured", "measured"):
            differ = _other_settings(a, b)
            worst = worst_disturbance(record for case in (a, b) if case.is_disturbed for record in case.records)
            disturbed = " and ".join(name for name, case in (("A", a), ("B", b)) if case.is_disturbed)
            cause = f"as {disturbed} was disturbed ({worst.words})" if worst else "with no seed in common"
            cause = f"with other settings ({join(differ, 3)})" if differ else cause
        if b and states == ("measured", "failed"):
            failed.append((name, str(b.reason)))
        else:
            groups.setdefault(cause, []).append(name)
    return failed, groups


def _state(case: Case | None) -> str:
    if case is None:
        return "not planned"
    return "measured" if _is_usable(case) else "no usable round" if case.status == "ok" else case.status.replace("_", " ")


# ---- verdicts ---------------------------------------------------------------------------------------------------------


def process_noise(certificates: Sequence[Calibration]) -> Noise:
    """Return the variance of a log rate from process to process, as the runs' certificates know it; 0 without any.

    That of the case that varies most: a case that is not in the certificate may be like any of its cases. A certificate knows
    it from one process of each pair.
    """
    apart = [record for record in certificates if record.method == "apart"]
    spreads = [(record.between_sd or 0.0, max(1, (record.processes or 2) // 2 - 1)) for record in apart]
    sd, df = max(spreads, default=(0.0, 1))
    return Noise(sd**2, df)


def _judge(
    pairs: Mapping[str, tuple[Case, Case]], limits: Limits, processes: Noise | None
) -> tuple[list[Change], list[Change], Change | None]:
    """Return changes of speed, of accuracy, and of the grid as a whole, with one level for all verdicts.

    ``processes`` is the noise from process to process, None for rounds in turns.
    """
    speeds, scores, changes, level = {}, [], [], limits.level
    for name, (a, b) in pairs.items():
        if _scores(a):
            images = min((r.test_images for case in (a, b) for r in case.records if r.test_images), default=math.inf)
            scores.append(change_of_score(name, _scores(a), _scores(b), images, level))
        elif processes is None:
            changes.append(change_in_turns(name, a, b, level))
        elif (rates_a := read_rates(a.quiet)) and (rates_b := read_rates(b.quiet)):
            speeds[name] = rates_a, rates_b
    noises = _noises(speeds, {name: f"{pairs[name][0].kind} on {pairs[name][0].first.device}" for name in speeds})
    changes += [change_of_rate(name, *speeds[name], noises.get(name), level, processes or CERTAIN) for name in speeds]
    grid = {name: speeds[name] for name in noises if pairs[name][0].kind == "speed"}
    overall = _overall(grid, noises, level)
    share, limit = 2 if overall else 1, -math.log1p(-limits.threshold)  # of the level, half for each question
    tested = [change for change in (*changes, *scores) if math.isfinite(change.high)]
    adjusted = zip(tested, holm([change.p for change in tested]), strict=True)
    p = {change.name: share * value for change, value in adjusted}
    return (
        [change.judge(p.get(change.name, 1.0), limit, level) for change in changes],
        [change.judge(p.get(change.name, 1.0), limits.accuracy_threshold, level) for change in scores],
        overall and overall.judge(share * overall.p, limit, level),
    )


def _noises(speeds: Pairs, groups: Mapping[str, str]) -> dict[str, tuple[Noise, Noise]]:
    """Return the noise of each case in both runs, where both have enough rounds, with what the cases of its group say of it."""
    typical: dict[str, tuple[Noise, Noise]] = {}
    for group in set(groups.values()):
        sides = zip(*(pair for name, pair in speeds.items() if groups[name] == group), strict=True)
        noise_a, noise_b = (typical_noise(side) for side in sides)
        typical[group] = (noise_a, noise_b)
    noises = {}
    for name, (a, b) in speeds.items():
        if min(len(a.logs), len(b.logs)) >= FEWEST_ROUNDS:
            of_a, of_b = typical[groups[name]]
            noises[name] = (moderate(a, of_a), moderate(b, of_b))
    return noises


def _overall(pairs: Pairs, noises: Mapping[str, tuple[Noise, Noise]], level: float) -> Change | None:
    """Compare all cases together: the mean over cases of each round is one observation, since disturbances are shared."""
    counts = [(len(a.logs), len(b.logs)) for a, b in pairs.values()]
    usual = Counter(counts).most_common(1)[0][0] if counts else (0, 0)
    whole = [case for case, count in zip(pairs, counts, strict=True) if count == usual]
    if len(whole) < MANY_CASES:
        return None
    sides = []
    for side in (0, 1):
        logs = np.mean([pairs[case][side].logs for case in whole], axis=0)
        # Even if cases disturbed each other not at all, their mean would vary so much; three rounds may look calmer by luck.
        floor = float(np.mean([noises[case][side].variance for case in whole])) / len(whole)
        sides.append(Rates(logs, floor))
    a, b = sides
    calm = Noise(0.0, 0.0)
    return change_of_rate(f"all {len(whole)} cases together", a, b, (moderate(a, calm), moderate(b, calm)), level)


# ---- on the terminal --------------------------------------------------------------------------------------------------

COLOURS: Mapping[Verdict, str] = {
    **{"slower": "red", "worse": "red", "faster": "green", "better": "green"},
    **{"same": "", "unclear": "yellow"},
}


def compare(a: Path, b: Path, console: Console, limits: Limits, *, across_machines: bool) -> int:
    """Compare two run folders, print it, and return the exit code: ``REGRESSION`` on a regression, else 0."""
    limits.check()
    result = compare_runs(load_run(a), load_run(b), limits=limits, across_machines=across_machines)
    print_comparison(result, console)
    return REGRESSION if result.regressed else 0


def print_comparison(result: Comparison, console: Console) -> None:
    """Print a line a case, worst first, then what could not be compared and what it comes to."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"A: {result.names[0]}\nB: {result.names[1]}")
    if result.speeds:
        say(
            "images/s of B over A (of training examples/s, of overhead the speed as a share of a bare loop's); "
            f"n = {result.observations} in A, B; below 1: B is slower; intervals are of one case alone, verdicts allow for all"
        )
        say(f"{'ratio':>7}  {1 - result.limits.level:.0%} interval  {'verdict':8} {'A per s':>11} {'B per s':>11}  n     case")
    for change in result.speeds:
        say(_speed_line(change, result.fewest), COLOURS[change.verdict])
    if result.scores:
        say("test accuracy after the last epoch, B minus A in points; n = seeds in both; below 0: B is worse")
        say(f"{'points':>7}  {1 - result.limits.level:.0%} interval  {'verdict':8} {'A':>11} {'B':>11}  n     case")
    for change in result.scores:
        say(_score_line(change), COLOURS[change.verdict])
    for case, reason in result.newly_failed:
        say(f"failed in B only: {case}: {reason}", "red")
    for cause, cases in result.left_out.items():
        say(f"not compared, {plural(len(cases), 'case')} {cause}: {join(cases, 6)}")
    for difference in result.differences:
        say(f"the runs differ, and the ratios show that too: {difference}", "yellow")
    for line in (*(f"note: {note}" for note in result.notes), *summary(result)):
        say(line)


def _interval(change: Change) -> tuple[float, float]:
    return (100 * change.low, 100 * change.high) if change.paired else (math.exp(change.low), math.exp(change.high))


def _speed_line(change: Change, fewest: int) -> str:
    low, high = _interval(change) if math.isfinite(change.high) else (0.0, math.inf)
    interval = f"[{low:.3f}, {high:.3f}]" if math.isfinite(high) else f"n < {fewest}, none"
    rates = " ".join(f"{format_number(rate):>11}" for rate in (change.a, change.b))
    return f"{change.ratio:7.3f}  {interval:14} {change.verdict:8} {rates}  {change.n[0]}, {change.n[1]}  {change.name}"


def _score_line(change: Change) -> str:
    low, high = _interval(change)
    interval = f"[{low:+.2f}, {high:+.2f}]" if math.isfinite(high) else f"n < {FEWEST_SEEDS}, none"
    means = " ".join(f"{percent(mean, 2):>11}" for mean in (change.a, change.b))
    return f"{100 * change.effect:+7.2f}  {interval:14} {change.verdict:8} {means}  {change.n[0]:<4}  {change.name}"


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
