"""From evidence to verdicts: one class each, with its cause, and what the catalog does not say and should."""

from collections.abc import Collection, Sequence
from typing import Any

from augment import catalog
from augment.audit.evidence import Evidence, Facts, TestedDraws
from augment.audit.laws import holm
from augment.audit.parity import ROUNDING, TARGETS, classify, means
from augment.audit.verdicts import CLASSES, Class, DrawTest, Lane, Verdict
from augment.ops import Op

NEAR = 0.05
"""A deviation of the draws below a twentieth of the range is ``close`` where the catalog names it."""


def judge(evidence: Evidence, alpha: float) -> tuple[Verdict, ...]:
    """A verdict for everything measured. ``alpha``: chance that any test of a correct distribution is rejected."""
    every = [draw for draws in evidence.draws.values() for draw in draws]
    rejected = dict(zip(map(id, every), holm([draw.result.p_value for draw in every], alpha), strict=True))
    tests = {key: [_test(draw, rejected[id(draw)]) for draw in draws] for key, draws in evidence.draws.items()}
    judged = []
    for (subject, backend), facts in evidence.facts.items():
        drawn = [] if facts.unsupported else [tests.get(evidence.draw_key(op, backend), []) for op in facts.ops]
        audited = {op for op in facts.ops if facts.kind == "recipe" and (op.name, backend) in evidence.facts}
        judged.append(_judge(subject, backend, facts, drawn, audited))
    return tuple(judged)


def _test(draw: TestedDraws, rejected: bool) -> DrawTest:
    return DrawTest(
        parameter=draw.parameter, law=draw.law, n=draw.n, statistic=draw.result.statistic, p_value=draw.result.p_value,
        distance=draw.result.distance, rejected=rejected,
    )  # fmt: skip


def _worse(a: Class, b: Class) -> Class:
    return max(a, b, key=CLASSES.index)


def _judge(subject: str, backend: str, facts: Facts, drawn: Sequence[Sequence[DrawTest]], audited: Collection[Op]) -> Verdict:
    """Facts to a verdict. ``drawn``: the tests of each op's draws; ``audited``: ops whose findings another verdict has."""
    common: dict[str, Any] = {"subject": subject, "kind": facts.kind, "backend": backend, "lane": facts.lane}
    common |= {"checks": tuple(facts.checks), "parity": tuple(facts.parity)}
    if facts.unsupported:
        return Verdict(verdict="unsupported", cause=facts.unsupported, **common)
    findings = [f"check failed: {c.name} {c.detail}".strip() for c in facts.checks if not c.ok]
    if facts.lane and not facts.lane.ok:
        findings.append(f"declared lane {facts.lane.declared}, measured {facts.lane.measured}")
    if facts.unaudited:
        return Verdict(verdict="unaudited", cause=facts.unaudited, findings=tuple(findings), **common)
    verdict, causes, more = _judge_pixels(facts, backend)
    findings += more
    notes = [*facts.notes, *(_lane_notes(facts.lane) if facts.kind == "op" else ())]
    for op, tests in zip(facts.ops, drawn, strict=True):
        found, cause, unnamed = _judge_draws(op, backend, tests)
        verdict = _worse(verdict, found)
        causes += [cause] if cause else []
        findings += unnamed if op not in audited else []
        notes += [f"other draws of {t.parameter} (by {t.distance:.2g})" for t in tests if t.rejected and " at " in t.parameter]
    chosen = catalog.find_backend(backend)
    named = catalog.ROWS[facts.ops[0].name].differs.get(chosen.library, "")
    # a difference in what images share cannot be seen where all of them share one draw
    if facts.kind == "op" and named and verdict == "exact" and not notes and chosen.draws == "per_image":
        findings.append(f"the catalog names a difference that was not measured: {named}")
    return Verdict(
        verdict=verdict, cause="; ".join(dict.fromkeys(causes)), tests=tuple(t for tests in drawn for t in tests),
        notes=tuple(dict.fromkeys(notes)), findings=tuple(dict.fromkeys(findings)), **common,
    )  # fmt: skip


def _lane_notes(lane: Lane | None) -> list[str]:
    """Parameters that are drawn otherwise than the op as a whole."""
    if lane is None or lane.measured not in ("per_image", "per_batch"):
        return []
    other = [name for name, drawn in lane.parameters.items() if drawn not in (lane.measured, "fixed")]
    if not other:
        return []
    how = "once a batch" if lane.measured == "per_image" else "for each image"
    return [f"drawn {how}: {', '.join(other)}"]


def _judge_pixels(facts: Facts, backend: str) -> tuple[Class, list[str], list[str]]:
    """(class, causes, findings) of the parity measurements that decide."""
    deciding = [p for p in facts.parity if p.setting in ("as drawn", "pinned")]
    verdict = classify(deciding)
    if verdict == "exact":
        return verdict, [], []
    causes = [facts.cause] if facts.cause else []
    floats = [p for p in facts.parity if p.setting == "fed floats"]
    if floats and classify(floats) == "exact" and max(means(deciding)) <= ROUNDING:
        return "close", [f"8-bit rounding between ops, exact on floats (mean {max(means(deciding)):.2g})"], []
    if off := [p for p in deciding if p.target_error > TARGETS]:
        causes.append(f"label weights are off by up to {max(p.target_error for p in off):.2g}")
    drawn = [p for p in deciding if p.setting == "as drawn"]
    if classify(drawn) == "exact":
        causes.append("a pinned parameter does not arrive as it was given")
    library = catalog.find_backend(backend).library
    named = catalog.ROWS[facts.ops[0].name].differs.get(library, "") if facts.kind == "op" else ""
    causes += [named] if named and not facts.cause else []
    findings = []
    if (verdict == "different" or not causes) and facts.kind == "op" and not named:
        findings.append(f"pixels differ and the catalog does not say so ({facts.cause or 'unexplained'})")
    elif named and not facts.cause:
        findings.append(f"pixels differ, and no replay shows that it is as the catalog says: {named}")
    return verdict, causes or ["unexplained"], findings


def _judge_draws(op: Op, backend: str, tests: Sequence[DrawTest]) -> tuple[Class, str, list[str]]:
    """(class, cause, findings) of an op's draws; those on elongated images do not decide."""
    off = [test for test in tests if test.rejected and " at " not in test.parameter]
    if not off:
        return "exact", "", []
    named = catalog.ROWS[op.name].differs.get(catalog.find_backend(backend).library, "")
    far = max(test.distance for test in off)
    measured = ", ".join(f"{test.parameter} (by {test.distance:.2g})" for test in off[:4])
    measured += f" and {len(off) - 4} more" if len(off) > 4 else ""
    cause = f"draws of {op.name} differ in {measured}"
    if named:
        cause = f"{named} ({cause})"
        return ("close" if far <= NEAR else "different"), cause, []
    return "different", cause, [f"draws differ and the catalog does not say so: {measured}"]
