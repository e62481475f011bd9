"""Verdicts: a class for each measured cell, with its cause, and findings that contradict what the op declares."""

from collections.abc import Collection, Sequence
from typing import Any

from augment.audit.measure import DrawnQuantity, Facts, Measurements
from augment.audit.parity import ROUNDING, TARGETS, classify, worst_mean
from augment.audit.record import CLASSES, Class, DrawTest, Lane, Parity, Verdict
from augment.audit.statistics import holm
from augment.backends import find_backend
from augment.op import Op

NEAR = 0.05
"""A deviation of the draws below a twentieth of the range is ``close`` where the op declares it."""
DECIDING = ("as drawn", "pinned")


def judge(measurements: Measurements, alpha: float) -> tuple[Verdict, ...]:
    """Return a verdict for everything measured. ``alpha``: chance that any test of a correct distribution is rejected."""
    all_facts = measurements.facts
    # backends that share a builder share its tests
    drawn = {id(quantity): quantity for facts in all_facts.values() for draws in facts.draws for quantity in draws}
    rejected = holm([quantity.result.p_value for quantity in drawn.values()], alpha)
    tests = {key: _test(quantity, no) for (key, quantity), no in zip(drawn.items(), rejected, strict=True)}
    verdicts = []
    for (subject, backend), facts in all_facts.items():
        audited = {op for op in facts.ops if facts.kind == "recipe" and (op.name, backend) in all_facts}
        common: dict[str, Any] = {"subject": subject, "kind": facts.kind, "backend": backend, "lane": facts.lane}
        common |= {"checks": tuple(facts.checks), "parity": tuple(facts.parity)}
        verdicts.append(Verdict(**common, **_judge(facts, backend, tests, audited)))
    return tuple(verdicts)


def _test(quantity: DrawnQuantity, rejected: bool) -> DrawTest:
    result = quantity.result
    return DrawTest(
        parameter=quantity.parameter, law=quantity.law, n=quantity.n, statistic=result.statistic, p_value=result.p_value,
        distance=result.distance, rejected=rejected,
    )  # fmt: skip


def _judge(facts: Facts, backend: str, tests: dict[int, DrawTest], audited: Collection[Op]) -> dict[str, Any]:
    """Return verdict, cause, notes and findings. ``audited``: ops whose findings another verdict has."""
    if facts.unsupported:
        return {"verdict": "unsupported", "cause": facts.unsupported}
    findings = [f"check failed: {c.name} {c.detail}".strip() for c in facts.checks if not c.ok]
    if facts.lane and not facts.lane.ok:
        findings.append(f"declared lane {facts.lane.declared}, measured {facts.lane.measured}")
    if facts.unaudited:
        return {"verdict": "unaudited", "cause": facts.unaudited, "findings": tuple(findings)}
    chosen = find_backend(backend)
    declared = facts.ops[0].differs.get(chosen.library, "") if facts.kind == "op" else ""
    verdict, causes, pixel_findings = _judge_pixels(facts, declared)
    findings += pixel_findings
    notes = [*facts.notes, *(_lane_notes(facts.lane) if facts.lane and facts.kind == "op" else ())]
    for op, draws in zip(facts.ops, facts.draws, strict=True):
        rejected = [(quantity, tests[id(quantity)]) for quantity in draws if tests[id(quantity)].rejected]
        deviations = [test for quantity, test in rejected if quantity.is_decisive]
        if deviations:
            draws_verdict, cause = _judge_draws(op, op.differs.get(chosen.library, ""), deviations)
            verdict = max(verdict, draws_verdict, key=CLASSES.index)
            causes.append(cause)
            if not op.differs.get(chosen.library) and op not in audited:
                findings.append(f"draws differ and the op does not declare it: {_sizes(deviations)}")
        notes += [f"other draws of {t.parameter} (by {t.distance:.2g})" for q, t in rejected if not q.is_decisive]
    # a difference in what images share cannot be seen where all of them share one draw
    if declared and verdict == "exact" and not notes and chosen.lane == "per_image":
        findings.append(f"the op declares a difference that was not measured: {declared}")
    return {
        "verdict": verdict, "cause": "; ".join(dict.fromkeys(causes)), "notes": tuple(dict.fromkeys(notes)),
        "findings": tuple(dict.fromkeys(findings)), "tests": tuple(tests[id(q)] for draws in facts.draws for q in draws),
    }  # fmt: skip


def _lane_notes(lane: Lane) -> list[str]:
    """Return a note on parameters that are drawn otherwise than the op as a whole."""
    others = [name for name, drawn in lane.parameters.items() if drawn not in (lane.measured, "fixed")]
    if not others or lane.measured not in ("per_image", "per_batch"):
        return []
    return [f"drawn {'once per batch' if lane.measured == 'per_image' else 'for each image'}: {', '.join(others)}"]


def _judge_pixels(facts: Facts, declared: str) -> tuple[Class, list[str], list[str]]:
    """Return class, causes and findings of the parity measurements that decide."""
    deciding = [p for p in facts.parity if p.setting in DECIDING]
    verdict = classify(deciding)
    if verdict == "exact":
        return verdict, [], []
    floats = [p for p in facts.parity if p.setting == "fed floats"]
    if floats and classify(floats) == "exact" and worst_mean(deciding) <= ROUNDING:
        return "close", [f"8-bit rounding between ops, exact on floats (mean {worst_mean(deciding):.2g})"], []
    causes = [facts.cause] if facts.cause else []
    causes += _target_causes(deciding)
    if classify([p for p in deciding if p.setting == "as drawn"]) == "exact":
        causes.append("a pinned parameter does not arrive as it was given")
    causes += [declared] if declared and not facts.cause else []
    findings = []
    if facts.kind == "op" and not declared and (verdict == "different" or not causes):
        findings.append(f"pixels differ and the op does not declare it ({facts.cause or 'unexplained'})")
    elif declared and not facts.cause:
        findings.append(f"pixels differ, and no replay shows that it is as the op declares: {declared}")
    return verdict, causes or ["unexplained"], findings


def _target_causes(deciding: Sequence[Parity]) -> list[str]:
    error = max(p.target_error for p in deciding)
    return [f"label weights are off by up to {error:.2g}"] if error > TARGETS else []


def _judge_draws(op: Op, declared: str, deviations: Sequence[DrawTest]) -> tuple[Class, str]:
    """Return class and cause of an op's draws that deviate."""
    cause = f"draws of {op.name} differ in {_sizes(deviations)}"
    if not declared:
        return "different", cause
    is_near = max(test.distance for test in deviations) <= NEAR
    return "close" if is_near else "different", f"{declared} ({cause})"


def _sizes(deviations: Sequence[DrawTest]) -> str:
    sizes = ", ".join(f"{test.parameter} (by {test.distance:.2g})" for test in deviations[:4])
    return sizes + (f" and {len(deviations) - 4} more" if len(deviations) > 4 else "")
