"""What the first screen says of training on several processes: what they gain, and whether they drew apart."""

import statistics
from collections.abc import Sequence

from bench.report.arms import Arm, Record, gathered, setting_words, succeeded
from bench.report.blocks import Answer
from bench.report.context import Context
from bench.report.failures import failed_answers
from bench.report.quantities import UNKNOWN, counted, number, percent, rounded, word
from bench.report.scaling import JOB, SHARED, most_processes, on_cpu, processes, speed_words
from bench.report.tax import ratios

GAIN = "Does training scale over processes?"
DRAWS = "Did two processes draw the same?"


def scaling_answers(context: Context) -> list[Answer]:
    """Of the setting with the most records; nothing where scaling was not asked for."""
    arms = _arms(context)
    alone = next((arm for arm in arms if processes(arm) == 1 and arm.median("examples_per_s")), None)
    told = most_processes(arms)
    gains = [_gain(told, alone)] if told else failed_answers(context, "scaling", GAIN)
    return [*gains, *_draws(context)]


def scaling_note(context: Context) -> str:
    """What the answers rest on, in a sentence; empty where there are none."""
    arms = _arms(context)
    if not most_processes(arms):
        return ""
    alike = "the processes share the cores, so that efficiency is the speed-up itself"
    means = alike if on_cpu(arms[0]) else "efficiency is the speed-up over one process by the number of devices"
    return (
        "Processes: examples/s of all together, medians of the rounds, ± half the range between them; speed-ups by pairs of "
        f"one round, with the smallest and the largest; {means}. "
        f"Setting: {setting_words([min(arms, key=processes)])}, batches as in the table."
    )


def _arms(context: Context) -> list[Arm]:
    group = max(gathered(succeeded(context.run.training, "scaling"), SHARED), key=len, default=[])
    return [Arm(records=records) for records in gathered(group, JOB)]


def _gain(told: Sequence[Arm], alone: Arm | None) -> Answer:
    """The most processes of each sort against one, and every number between them."""
    answers, sentences = [], []
    for arm in told:
        pairs = ratios(arm.records, alone.records) if alone is not None else []
        sort = f"{processes(arm)} processes, {word(arm.first, 'scaling')} scaling"
        if pairs:
            middle, (sure, doubt) = statistics.median(pairs), _sure(pairs)
            efficiency = percent(middle / (1 if on_cpu(arm) else processes(arm)), 0)
            answers.append(f"{sort}: {rounded(middle)} times one{sure}")
            sentences.append(f"{speed_words(arm, alone)}, efficiency {efficiency}, {counted(len(pairs), 'pair')}{doubt}")
        else:
            answers.append(f"{sort}: not known, no round of one process")
            sentences.append(speed_words(arm, alone))
    single = "" if alone is None else f" One process: {speed_words(alone, None)}."
    return Answer(question=GAIN, answer="; ".join(answers), evidence=f"{'; '.join(sentences)}.{single}")


def _sure(pairs: Sequence[float]) -> tuple[str, str]:
    """What is said beside a speed-up, in short and in full; nothing where every pair of rounds says the same."""
    if len(pairs) < 2:
        return ", not certain", ", so not certain"
    return ("", "") if min(pairs) > 1 or max(pairs) < 1 else (", undecided", ", on both sides of one: undecided")


def _draws(context: Context) -> list[Answer]:
    """Whether ranks drew apart, of all jobs whose ranks draw by themselves."""
    several = [
        one
        for one in context.run.training
        if one.get("kind") == "scaling" and _ranks(one) > 1 and one.get("parallel") != "data_parallel"
    ]
    drawn = [one for one in several if one.get("draws") != "fixed" and one.get("shared_draws") is not None]
    if not drawn:
        return []
    alike = [one for one in drawn if one.get("shared_draws")]
    if alike:
        reason = word(alike[0], "reason", UNKNOWN)
        told = f"{len(alike)} of {counted(len(drawn), 'job')}: {reason}."
        return [Answer(question=DRAWS, answer="Yes: their draws are not independent", evidence=told)]
    jobs = counted(len(drawn), "job")
    told = f"In {jobs} of {_range(drawn)} processes no two first augmented batches were alike, all made from one image."
    return [Answer(question=DRAWS, answer="No, no two alike", evidence=told)]


def _ranks(record: Record) -> int:
    return int(number(record, "processes") or 1)


def _range(records: Sequence[Record]) -> str:
    counts = sorted({_ranks(one) for one in records})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
