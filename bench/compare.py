"""Two runs, case by case: is B faster or slower than A, or can these passes not tell? From stored records, without torch.

**What is compared.** The ratio is images/s of B over A, each the geometric mean over the passes of the run; below 1 means
that B is slower. A pass is one observation: its calls share clocks, caches and neighbours, so a thousand of them are one.

How sure that is: ``bench/contrast.py``.

**What it cannot know.** What differs between two runs but not between the passes of one (heat, a neighbour for that hour)
looks like a change of the code. Compare two runs of the same code first.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.special import ndtri, stdtrit

from bench.contrast import (
    FEWEST_PASSES,
    MANY_CASES,
    Noise,
    Passes,
    Row,
    Verdict,
    contrast,
    holm,
    judged,
    noise_of,
    read_passes,
    single,
    typical_noise,
)
from bench.records import Run, load_run
from bench.report.quantities import counted, listed, percent, rounded

REGRESSION = 1  # exit code

POWER = 0.8
COLOURS: dict[Verdict, str] = {"slower": "red", "faster": "green", "same": "", "unclear": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows worst first; ``overall`` is the geometric mean over cases, None for fewer than ten."""

    names: tuple[str, str]
    threshold: float
    level: float
    rows: list[Row]
    overall: Row | None
    newly_failed: list[tuple[str, str]]
    """Cases that A measured and that failed in B, with the reason."""
    left_out: dict[str, list[str]]
    """Cases without a comparison, by why."""
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Row]:
        """What is called slower and by more than the threshold, all cases together among them."""
        rows = [*([self.overall] if self.overall else []), *self.rows]
        return [row for row in rows if row.verdict == "slower" and row.ratio < 1 - self.threshold]

    @property
    def regressed(self) -> bool:
        return bool(self.regressions or self.newly_failed)


# ---- may the runs be compared -------------------------------------------------------------------------------------------


def machine_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """What must agree for a ratio to be about the code: GPUs, driver, CPU, threads, versions, variables, dataset.

    augbench's own version is not among them: it is what one compares.
    """
    facts: dict[str, str] = {}
    gpus = environment.get("gpus")
    for index, gpu in enumerate(gpus if isinstance(gpus, list) else []):
        keys = ("name", "compute_capability", "multiprocessors", "driver", "max_sm_clock_mhz", "power_limit_w")
        facts |= {f"GPU {index} {key}": str(_part(gpu).get(key)) for key in keys}
    cpu, data = _part(environment.get("cpu")), _part(environment.get("dataset"))
    for key in ("model", "cores", "logical_cores", "usable_cores", "capability", "threads", "interop_threads"):
        facts[f"CPU {key}"] = str(cpu.get(key))
    facts |= {key: str(environment.get(key)) for key in ("cuda", "cudnn", "python")}
    facts |= {name: str(version) for name, version in _part(environment.get("packages")).items() if name != "augbench"}
    facts |= {f"variable {name}": str(value) for name, value in _part(environment.get("variables")).items()}
    return facts | {f"dataset {key}": str(data.get(key)) for key in ("name", "fingerprint")}


def _part(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Such as "torch 2.11.0 -> 2.12.0", one a fact that is not the same in both."""
    names = list(dict.fromkeys([*a, *b]))
    return [f"{n} {a.get(n, 'none')} -> {b.get(n, 'none')}" for n in names if a.get(n) != b.get(n)]


def _machine_differences(a: Run, b: Run) -> list[str]:
    unknown = [f"the environment of {run.path} is not known" for run in (a, b) if not run.environment]
    return unknown or differences(machine_facts(a.environment), machine_facts(b.environment))


def _notes(a: Run, b: Run) -> list[str]:
    """What differs and may well: it is said, and refuses nothing."""

    def facts(run: Run) -> dict[str, str]:
        commit = _part(run.environment.get("commit"))
        known = {"machine": run.environment.get("machine"), "platform": run.environment.get("platform")}
        known["commit"] = str(commit.get("id"))[:12] + (" with changes" if commit.get("dirty") else "")
        known |= {"seconds a case and pass": run.plan.get("case_seconds"), "passes": run.plan.get("passes")}
        return {name: str(value) for name, value in known.items()}

    return differences(facts(a), facts(b))


# ---- the comparison -----------------------------------------------------------------------------------------------------


def compare_runs(a: Run, b: Run, *, threshold: float = 0.05, level: float = 0.05, across_machines: bool = False) -> Comparison:
    """Compare the cases that both runs measured.

    ``threshold`` is the share of images/s that may be lost, ``level`` the chance of any wrong faster or slower.
    Raises ValueError for runs of different machines, versions or data unless ``across_machines``, for runs without a case in
    common, and for a threshold or level that is none.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold is a share of images/s between 0 and 1, such as 0.05; got {threshold:g}")
    if not 0 < level < 0.5:
        raise ValueError(f"--level is a chance between 0 and 0.5, such as 0.05; got {level:g}")
    differ = _machine_differences(a, b)
    if differ and not across_machines:
        raise ValueError(f"the runs differ in {listed(differ, 6)}: add --across-machines to compare them all the same")
    measured_a, measured_b = _usable(a), _usable(b)
    shared = [case for case in measured_a if case in measured_b]
    if not shared:
        raise ValueError(f"{a.path} and {b.path} have no measured case in common: measure the same cases in both")
    rows, overall = _rows({case: (measured_a[case], measured_b[case]) for case in shared}, _devices(a), threshold, level)
    failed, left_out = _left_out(a, b, measured_a, measured_b)
    return Comparison(
        names=(a.name, b.name) if a.name != b.name else (str(a.path), str(b.path)),
        threshold=threshold,
        level=level,
        rows=sorted(rows, key=lambda row: row.ratio),
        overall=overall,
        newly_failed=failed,
        left_out=left_out,
        differences=differ,
        notes=[*_notes(a, b), *(f"{run.path}: {problem}" for run in (a, b) for problem in run.problems)],
    )


def _usable(run: Run) -> dict[str, Passes]:
    every = {m.case.id: read_passes(m) for m in run.measurements if m.status == "ok"}
    return {case: passes for case, passes in every.items() if len(passes.logs)}


def _devices(run: Run) -> dict[str, str]:
    return {m.case.id: m.case.device for m in run.measurements}


def _left_out(
    a: Run, b: Run, usable_a: Mapping[str, Passes], usable_b: Mapping[str, Passes]
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Cases that B newly fails, with reasons; and those that cannot be compared, by why."""
    in_a, in_b = ({m.case.id: m for m in run.measurements} for run in (a, b))
    failed: list[tuple[str, str]] = []
    groups: dict[str, list[str]] = {}
    for case in dict.fromkeys([*in_a, *in_b]):
        if case in usable_a and case in usable_b:
            continue
        there = (in_a.get(case), in_b.get(case))
        if case in usable_a and there[1] is not None and there[1].status == "failed":
            failed.append((case, there[1].reason or "no reason was kept"))
            continue
        states = ["not planned" if m is None else "no usable pass" if m.status == "ok" else m.status for m in there]
        states = ["measured" if case in usable else state for usable, state in zip((usable_a, usable_b), states, strict=True)]
        why = f"{states[0]} in both" if states[0] == states[1] else f"{states[0]} in A, {states[1]} in B"
        groups.setdefault(why.replace("_", " "), []).append(case)
    return failed, groups


def _rows(
    pairs: Mapping[str, tuple[Passes, Passes]], devices: Mapping[str, str], threshold: float, level: float
) -> tuple[list[Row], Row | None]:
    typical: dict[str, tuple[Noise, Noise]] = {}
    for device in {devices[case] for case in pairs}:
        here = [pair for case, pair in pairs.items() if devices[case] == device]
        typical[device] = (typical_noise([a for a, _ in here]), typical_noise([b for _, b in here]))
    rows, noises = [], {}
    for case, (a, b) in pairs.items():
        if min(len(a.logs), len(b.logs)) < FEWEST_PASSES:
            rows.append(single(case, a, b))
            continue
        of_a, of_b = typical[devices[case]]
        noises[case] = (noise_of(a, of_a), noise_of(b, of_b))
        rows.append(contrast(case, a, b, *noises[case], level))
    overall = _overall({case: pairs[case] for case in noises}, noises, level)
    share = 2 if overall else 1  # of the level, half for each question
    adjusted = dict(zip(noises, holm([row.p for row in rows if row.name in noises]), strict=True))
    rows = [judged(row, share * adjusted.get(row.name, 1.0), threshold, level) for row in rows]
    return rows, overall and judged(overall, share * overall.p, threshold, level)


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


# ---- words --------------------------------------------------------------------------------------------------------------


def print_comparison(result: Comparison, console: Console) -> None:
    """One line a case, worst first, then what could not be compared and what it comes to."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"A: {result.names[0]}\nB: {result.names[1]}\nimages/s of B over A; n = passes in A, B; below 1: B is slower")
    say(f"{'ratio':>7}  {1 - result.level:.0%} interval  {'verdict':8} {'A images/s':>11} {'B images/s':>11}  n     case")
    for row in result.rows:
        say(_line(row), COLOURS[row.verdict])
    for case, reason in result.newly_failed:
        say(f"failed in B only: {case}: {reason}", "red")
    for why, cases in result.left_out.items():
        say(f"not compared, {why}: {listed(cases, 6)}")
    for difference in result.differences:
        say(f"the runs differ, and the ratios show that too: {difference}", "yellow")
    for note in result.notes:
        say(f"note: {note}")
    for line in summary(result):
        say(line)


def _line(row: Row) -> str:
    known = math.isfinite(row.high)
    interval = f"[{row.low:.3f}, {row.high:.3f}]" if known else f"n < {FEWEST_PASSES}, none"
    rates = f"{rounded(row.images_per_s_a):>11} {rounded(row.images_per_s_b):>11}"
    return f"{row.ratio:7.3f}  {interval:14} {row.verdict:8} {rates}  {row.passes[0]}, {row.passes[1]}  {row.name}"


def summary(result: Comparison) -> list[str]:
    """What the comparison comes to, a sentence a line; the last is the one that the exit code goes by."""
    verdicts = Counter(row.verdict for row in result.rows)
    names: tuple[Verdict, ...] = ("slower", "faster", "same", "unclear")
    lines = [f"{counted(len(result.rows), 'case')}: " + ", ".join(f"{verdicts[name]} {name}" for name in names)]
    lines[0] += f" (level {result.level:g} for all cases together, Holm; same: within {percent(result.threshold)})"
    if result.overall:
        row = result.overall
        lines.append(f"{row.name}: {row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}], {row.verdict}")
        if row.verdict in ("slower", "faster"):
            lines[-1] += "; a shift of all is often the machine's: compare two runs of the same code before blaming it"
    lines += _resolution(result) if verdicts["unclear"] else []
    names_of = [row.name for row in result.regressions] + [case for case, _ in result.newly_failed]
    found = f"{counted(len(names_of), 'regression')} beyond {percent(result.threshold)} or failed: {listed(names_of, 6)}"
    return [*lines, found if names_of else f"no regression beyond {percent(result.threshold)} was found"]


def _resolution(result: Comparison) -> list[str]:
    """How small a change these passes could have shown, and how many would show one as small as the threshold."""
    rows = [row for row in result.rows if math.isfinite(row.high)]
    if not rows:
        return [f"nothing can be told from so few passes: measure at least {FEWEST_PASSES} in both runs"]
    level = result.level / (2 if result.overall else 1) / len(rows)
    passes = [min(row.passes) for row in rows]
    least = float(np.median([float(stdtrit(row.df, 1 - level / 2)) * row.standard_error for row in rows]))
    # For two equal runs the variance of one pass is n/2 of that of the log ratio.
    variance = float(np.median([row.standard_error**2 * n / 2 for row, n in zip(rows, passes, strict=True)]))
    reach = (float(ndtri(1 - level / 2)) + float(ndtri(POWER))) / math.log1p(-result.threshold)
    needed = max(FEWEST_PASSES, math.ceil(2 * variance * reach**2))
    return [
        f"with {listed(map(str, sorted(set(passes))))} passes, unclear is no all-clear: in a typical case only a loss above "
        f"{percent(-math.expm1(-least))} can be called; one of {percent(result.threshold)} takes about {needed} passes a run"
    ]


def compare(a: Path, b: Path, console: Console, *, threshold: float, level: float, across_machines: bool) -> int:
    """Compare two run folders, print it, and return the exit code: ``REGRESSION`` on a regression, else 0."""
    runs = load_run(a), load_run(b)
    result = compare_runs(*runs, threshold=threshold, level=level, across_machines=across_machines)
    print_comparison(result, console)
    return REGRESSION if result.regressed else 0
