"""Verdicts: a class for each measured cell, with its cause, and findings that contradict what the op declares."""

from collections.abc import Collection, Sequence

from augment.audit.parity import ROUNDING, TARGETS, classify, worst_mean
from augment.audit.record import CLASSES, Class, DrawTest, Verdict
from augment.audit.statistics import holm
from augment.backends import find_backend
from augment.op import Op

NEAR = 0.05
"""A deviation of the draws below a twentieth of the range is ``close`` where the op declares it."""


def reject(draws: Collection[list[DrawTest]], alpha: float) -> None:
    """Mark in lists of tests those that are rejected. ``alpha``: chance that any test of a correct distribution is."""
    rejected = iter(holm([test.p_value for tests in draws for test in tests], alpha))
    for tests in draws:
        tests[:] = [test._replace(rejected=next(rejected)) for test in tests]


def judge(cell: Verdict, ops: Sequence[Op], draws: Sequence[tuple[str, str, list[DrawTest]]], audited: Sequence[str]) -> None:
    """Complete the verdict on a measured cell.

    Args:
        cell: holds the cause of pixel differences.
        ops: of the cell.
        draws: what draws, its declared difference, and the tests of its draws: of each op, or of the cell's outputs.
        audited: ops whose findings another verdict has.
    """
    cell.findings = [f"check failed: {check.name} {check.detail}".strip() for check in cell.checks if not check.ok]
    if cell.lane and not cell.lane.ok:
        cell.findings.append(f"declared lane {cell.lane.declared}, measured {cell.lane.measured}")
    if cell.verdict in ("unaudited", "unsupported"):
        return
    backend = find_backend(cell.backend)
    declared = ops[0].differs.get(backend.library, "") if cell.kind == "op" else ""
    cell.verdict, causes = _judge_pixels(cell, declared)
    cell.notes += _lane_notes(cell) if cell.kind == "op" else []
    for name, difference, tests in draws:
        cell.tests += tests
        if deviations := [test for test in tests if test.rejected and test.is_decisive]:
            verdict, cause = _judge_draws(name, difference, deviations)
            cell.verdict = max(cell.verdict, verdict, key=CLASSES.index)
            causes = [*(pixels for pixels in causes if pixels not in cause), cause]
            if not difference and name not in audited:
                cell.findings.append(f"draws differ and the op does not declare it: {_sizes(deviations)}")
        cell.notes += [f"other draws of {t.parameter} (by {t.distance:.2g})" for t in tests if t.rejected and not t.is_decisive]
    # a difference in what images share cannot be seen where all of them share one draw
    if declared and cell.verdict == "exact" and not cell.notes and backend.lane == "per_image":
        cell.findings.append(f"the op declares a difference that was not measured: {declared}")
    cell.cause = "; ".join(dict.fromkeys(causes))


def _lane_notes(cell: Verdict) -> list[str]:
    """Return a note on parameters that are drawn otherwise than the op as a whole."""
    if cell.lane is None or cell.lane.measured not in ("per_image", "per_batch"):
        return []
    differing = [name for name, drawn in cell.lane.parameters.items() if drawn not in (cell.lane.measured, "fixed")]
    how = "once per batch" if cell.lane.measured == "per_image" else "for each image"
    return [f"drawn {how}: {', '.join(differing)}"] if differing else []


def _judge_pixels(cell: Verdict, declared: str) -> tuple[Class, list[str]]:
    """Return class and causes of the parity measurements that decide; findings are added to the cell."""
    deciding = [p for p in cell.parity if p.setting in ("as drawn", "pinned")]
    if not deciding:  # only outputs are known
        return "close", [cell.cause]
    verdict = classify(deciding)
    if verdict == "exact":
        return verdict, []
    floats = [p for p in cell.parity if p.setting == "fed floats"]
    if floats and classify(floats) == "exact" and worst_mean(deciding) <= ROUNDING:
        return "close", [f"8-bit rounding between ops, exact on floats (mean {worst_mean(deciding):.2g})"]
    causes = [cell.cause] if cell.cause else []
    if (error := max(p.target_error for p in deciding)) > TARGETS:
        causes.append(f"label weights are off by up to {error:.2g}")
    as_drawn = [p for p in deciding if p.setting == "as drawn"]
    if as_drawn and classify(as_drawn) == "exact":
        causes.append("a pinned parameter does not arrive as it was given")
    causes += [declared] if declared and not cell.cause else []
    if cell.kind == "op" and not declared and (verdict == "different" or not causes):
        cell.findings.append(f"pixels differ and the op does not declare it ({cell.cause or 'unexplained'})")
    elif declared and not cell.cause:
        cell.findings.append(f"pixels differ, and no replay shows that it is as the op declares: {declared}")
    return verdict, causes or ["unexplained"]


def _judge_draws(name: str, declared: str, deviations: Sequence[DrawTest]) -> tuple[Class, str]:
    """Return class and cause of draws that deviate."""
    cause = f"draws of {name} differ in {_sizes(deviations)}"
    if not declared:
        return "different", cause
    is_near = max(test.distance for test in deviations) <= NEAR
    return "close" if is_near else "different", f"{declared} ({cause})"


def _sizes(deviations: Sequence[DrawTest]) -> str:
    sizes = ", ".join(f"{test.parameter} (by {test.distance:.2g})" for test in deviations[:4])
    return sizes + (f" and {len(deviations) - 4} more" if len(deviations) > 4 else "")
