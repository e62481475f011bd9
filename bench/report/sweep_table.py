"""Result of a sweep as a table for the terminal: columns of the report's."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.records import Accuracy, Run, project_sweep, unresolved_failures
from bench.report.facts.accuracy import baseline, score
from bench.report.facts.cases import settings
from bench.report.render import plain
from bench.report.sections.accuracy import SEEDS_TO_SEE, score_columns
from bench.report.tables import build_table

COLUMNS = ("recipe", "augmented by", "seeds", "test accuracy, mean", "minus baseline, points", SEEDS_TO_SEE, "examples/s")
LEGEND = "±: half the 95 % interval; minus baseline: over the same seeds; seeds to see: how many such a difference takes"


def print_table(run: Run, console: Console) -> None:
    """Print a table per setting (accuracy, paired difference from the baseline, seeds needed), and the failures."""
    for cases in settings(run, "accuracy"):
        base = baseline(cases, run) or cases[0]
        columns = [column for column in score_columns(cases, base) if column.header in COLUMNS]
        scores = build_table(columns, sorted(cases, key=score, reverse=True))
        title = f"test accuracy after the last epoch, baseline {base.recipe}@{base.backend}"
        table = Table(title=title, box=None, title_justify="left")
        for index, header in enumerate(scores.header):  # no digit is lost in a narrow terminal
            table.add_column(plain(header), justify="right" if index in scores.numeric else "left", overflow="fold")
        for row in scores.rows:
            table.add_row(*map(plain, row))
        console.print(table)
        if words := project_sweep(record for case in cases for record in case.records):
            console.print(words)
        console.print(LEGEND)
    failed = unresolved_failures(run.records)
    unsupported = [record for record in run.records if record.status == "unsupported"]
    for record in {record.key: record for record in (*unsupported, *failed) if isinstance(record, Accuracy)}.values():
        console.print(
            Text.assemble((record.status, "red"), f": {record.recipe}@{record.backend}, seed {record.seed}: {record.reason}")
        )
    if failed:
        console.print("to train them again: the same command with --resume --retry-failed")
