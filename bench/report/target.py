"""Seconds of training until a test accuracy was reached, for runs that named one."""

from collections.abc import Sequence

from bench.comparison.seeds import estimate
from bench.report.arms import Arm, Record, gathered, history, settings
from bench.report.blocks import Answer, Block, Code, Inline, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.quantities import UNKNOWN, counted, number, percent, rounded, word

MOST_TOLD = 3
MEANING = (
    "Seconds of training count up to the end of the first epoch with at least the target accuracy, without evaluation and "
    "without the pass before the first epoch that loads libraries and compiles; both stand beside them. Means over seeds, with "
    "the 95 % interval from three seeds on; of warming up the longest, as seeds that follow each other compile once. Where not "
    "all seeds reached the target, the mean is of those that did, which flatters. Runs that were resumed are left out: their "
    "first epochs may have run elsewhere."
)


def target_blocks(arms: Sequence[Arm]) -> list[Block]:
    """A row for each arm and target; nothing where no run named one."""
    told = [one for arm in arms for one in _by_target(arm)]
    if not told:
        return []
    header: list[Text] = ["recipe", "augmented by", "target", "seeds that reached it", "after epoch", "seconds to it"]
    header += ["of all epochs", "evaluation, s", "warming up, s, at most"]
    return [Paragraph(MEANING), Table(header=header, rows=[_row(arm) for arm in told], numeric=frozenset(range(2, 9)))]


def target_findings(context: Context) -> list[Text]:
    """A sentence for each way to train that named a target."""
    return [_sentence(arm) for arm in _ways(context)]


def _ways(context: Context) -> list[Arm]:
    return [one for arms in settings(context.run.training, "accuracy") for arm in arms for one in _by_target(arm)]


def _sentence(arm: Arm) -> Text:
    first, seconds = arm.first, arm.values("seconds_to_target")
    text: list[str | Code] = [f"{word(first, 'model')} on {word(first, 'dataset')} with ", Code(word(first, "recipe"))]
    target = percent(number(first, "target_accuracy") or 0.0)
    if seconds:
        apart = f"at most {_longest(arm, 'warm_up_s')} s of warming up and compiling apart"
        text.append(f" reaches {target} test accuracy in {_seconds(seconds)} s of training ({_reached(arm)}; {apart}).")
    else:
        text.append(f" does not reach {target} test accuracy in {_mean(arm, 'train_s')} s of training ({_reached(arm)}).")
    return text


def target_answers(context: Context) -> list[Answer]:
    """Seconds to the accuracy that runs named, the way to train that all or most seeds brought there first."""
    arms = _ways(context)
    if not arms:
        return []
    best = min(arms, key=lambda arm: (-len(arm.values("seconds_to_target")) / len(arm.records), _middle(arm)))
    seconds = best.values("seconds_to_target")
    target = percent(number(best.first, "target_accuracy") or 0.0)
    reached = "" if len(seconds) == len(best.records) else f", in {_reached(best)}"
    answer = f"{_seconds(seconds)} s of training{reached}" if seconds else "Not reached"
    told: list[Inline] = []
    for sentence in map(_sentence, [best, *(arm for arm in arms if arm is not best)][:MOST_TOLD]):
        told += [*([" "] if told else []), *([sentence] if isinstance(sentence, str) else sentence)]
    if len(arms) > 1:
        told.append(f" The answer is for the soonest of {len(arms)} ways, {best.label}; which that is may be chance.")
    return [Answer(question=f"How long to {target} test accuracy?", answer=answer, evidence=told)]


def _middle(arm: Arm) -> float:
    values = arm.values("seconds_to_target")
    return estimate(values).mean if values else float("inf")


def _by_target(arm: Arm) -> list[Arm]:
    """The runs of an arm by the target that they named, without those that were resumed."""
    named = [record for record in arm.records if number(record, "target_accuracy") and not number(record, "resumed_after")]
    return [Arm(records=records) for records in gathered(named, ("target_accuracy",))]


def _row(arm: Arm) -> list[Text]:
    seconds = arm.values("seconds_to_target")
    return [
        [Code(word(arm.first, "recipe"))],
        arm.label,
        percent(number(arm.first, "target_accuracy") or 0.0),
        _reached(arm),
        _epochs(arm.records),
        _seconds(seconds) if seconds else "not reached",
        _mean(arm, "train_s"),
        _mean(arm, "evaluation_s"),
        _longest(arm, "warm_up_s"),
    ]


def _reached(arm: Arm) -> str:
    return f"{len(arm.values('seconds_to_target'))} of {counted(len(arm.records), 'seed')}"


def _epochs(records: Sequence[Record]) -> str:
    """The first epochs with the target accuracy, from the earliest to the latest over the seeds."""
    firsts = [epoch for record in records if (epoch := _first_epoch(record))]
    return "" if not firsts else f"{min(firsts)}" if min(firsts) == max(firsts) else f"{min(firsts)} to {max(firsts)}"


def _first_epoch(record: Record) -> int | None:
    target = number(record, "target_accuracy") or 1.0
    reached = (index for index, row in enumerate(history(record), 1) if (number(row, "test_accuracy") or 0.0) >= target)
    return next(reached, None)


def _seconds(values: Sequence[float]) -> str:
    """Their mean with half its interval, such as "3.21 ±0.15"."""
    one = estimate(values)
    return rounded(one.mean) + ("" if one.half is None else f" ±{rounded(one.half, 2)}")


def _longest(arm: Arm, name: str) -> str:
    values = arm.values(name)
    return rounded(max(values)) if values else UNKNOWN


def _mean(arm: Arm, name: str) -> str:
    values = arm.values(name)
    return rounded(estimate(values).mean) if values else UNKNOWN
