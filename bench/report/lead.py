"""What a report opens with: the questions that this run asked, each with its answer. What it did not ask is not put."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.report.accuracy_answers import accuracy_answers, accuracy_note
from bench.report.answer import placement_answers, placement_note
from bench.report.blocks import Answer, Break, Inline, Lead
from bench.report.context import Context
from bench.report.growth_answers import speed_answers, speed_note
from bench.report.parity import verdict_words
from bench.report.photographs_answers import decoding_answers, finetune_answers, finetune_note, photographs_answers
from bench.report.quantities import counted
from bench.report.scaling_answers import scaling_answers, scaling_note
from bench.report.tail import left_failed
from bench.report.target import target_answers
from bench.report.utilisation import utilisation_answers

SAME = "Is it the same augmentation?"
ONLY = "nothing but the audit was asked for; its verdicts stand below."
WHAT = "What was measured?"


class Asked(NamedTuple):
    """Answers on one thing, none where the run did not measure it, and a sentence on what they rest on."""

    answers: Callable[[Context], Sequence[Answer]]
    note: Callable[[Context], str] = lambda context: ""


ASKED = (
    Asked(placement_answers, placement_note),
    Asked(utilisation_answers),
    Asked(target_answers),
    Asked(accuracy_answers, accuracy_note),
    Asked(scaling_answers, scaling_note),
    Asked(finetune_answers, finetune_note),
    Asked(photographs_answers),
    Asked(decoding_answers),
    Asked(speed_answers, speed_note),
)


def lead(context: Context) -> Lead:
    """The answers of a run; of one that only audited, that; of one without records, that it has none."""
    told = [(answers, asked.note) for asked in ASKED if (answers := asked.answers(context))]
    note: list[Inline] = []
    for _, words in told:
        if sentence := words(context):
            note += [*([Break()] if note else []), sentence]
    if sentence := _failures(context):
        note += [*([Break()] if note else []), sentence]
    answers = [answer for found, _ in told for answer in found]
    return Lead(answers=answers or [_otherwise(context)], note=note)


def _failures(context: Context) -> str:
    """That the answers lack something, where they do."""
    cases = sum(one.status in ("failed", "not_run") for one in context.run.measurements)
    records = len(left_failed(context.run.training))
    lacking = [counted(cases, "case")] if cases else []
    lacking += [counted(records, "training record")] if records else []
    return f"Failed or not run: {' and '.join(lacking)}; the reasons stand at the end." if lacking else ""


def _otherwise(context: Context) -> Answer:
    if context.run.audit.get("verdicts") or context.run.audit.get("failed"):
        failed = bool(context.run.audit.get("failed"))
        return Answer(question=SAME, answer="Not known: it failed" if failed else verdict_words(context), evidence=ONLY)
    return Answer(question=WHAT, answer="Nothing", evidence="this run holds no measurement and no training record.")
