"""What is said of a kind of training that was tried and did not tell what it should."""

from collections.abc import Sequence

from bench.report.arms import Record, succeeded
from bench.report.blocks import Answer, Block, Heading, Paragraph
from bench.report.context import Context
from bench.report.quantities import counted, listed, word

MOST_REASONS = 2


def all_failed(context: Context, kind: str) -> Sequence[Record]:
    """The records of a kind that was tried in vain; none where some succeeded, or where it was not tried."""
    if succeeded(context.run.training, kind):
        return []
    return [one for one in context.run.training if one.get("kind") == kind and one.get("status") != "unsupported"]


def failed_section(context: Context, kind: str, title: str) -> list[Block]:
    """A section that says so; nothing where the kind was not tried, or succeeded."""
    failed = all_failed(context, kind)
    if not failed:
        return []
    words = f"{_became(failed)}; the reasons stand at the end of this report."
    return [Heading(text=title), Paragraph(f"Not measured: {words}")]


def failed_answers(context: Context, kind: str, question: str) -> list[Answer]:
    """The answer to a question that the run was to answer and could not; nothing where the kind was not tried."""
    failed = all_failed(context, kind)
    if not failed:
        ok = succeeded(context.run.training, kind)
        told = f"{counted(len(ok), f'{kind} record')}, of which none tells it."
        return [Answer(question=question, answer="Not known from this run", evidence=told)] if ok else []
    reasons = listed(dict.fromkeys(word(one, "reason", "no reason was kept") for one in failed), MOST_REASONS)
    return [Answer(question=question, answer="Not known: it failed", evidence=f"{_became(failed)}: {reasons}.")]


def _became(failed: Sequence[Record]) -> str:
    """Such as "all 3 accuracy records are failures"."""
    kind = word(failed[0], "kind")
    return f"the only {kind} record is a failure" if len(failed) == 1 else f"all {len(failed):,} {kind} records are failures"
