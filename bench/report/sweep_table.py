"""Result of a sweep as tables for the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.records import Accuracy, Case, Run, project_sweep, unresolved_failures
from bench.report.facts.accuracy import baseline, difference, score
from bench.report.facts.cases import settings
from bench.report.words import points
from bench.statistics import SEEDS_SHOWN, estimate, seeds_needed

COLUMNS = ("n", "accuracy", "minus baseline", f"seeds {'/'.join(map(str, SEEDS_SHOWN))}", "examples/s")
LEGEND = (
    "n: seeds; ±: 95 % interval; minus baseline: in points, over the same seeds; seeds: how many a difference of "
    f"{', '.join(map(str, SEEDS_SHOWN))} points takes"
)


def print_table(run: Run, console: Console) -> None:
    """Print a table per setting (accuracy, paired difference from the baseline, seeds needed), and the failures."""
    for arms in settings(run, "accuracy"):
        base = baseline(arms, run) or arms[0]
        table = Table(title=f"test accuracy after the last epoch, baseline {_name(base)}", box=None, title_justify="left")
        table.add_column("recipe@backend", overflow="fold")
        for column in COLUMNS:
            table.add_column(column, justify="right", overflow="fold")  # no digit is lost in a narrow terminal
        for arm in sorted(arms, key=score, reverse=True):
            table.add_row(_name(arm), *_row(arm, base))
        console.print(table)
        if words := project_sweep(record for arm in arms for record in arm.records):
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


def _name(arm: Case) -> str:
    return f"{arm.recipe}@{arm.backend}"


def _row(arm: Case, base: Case) -> list[str]:
    accuracy = estimate([100 * value for value in arm.values("test_accuracy")])
    gap, speed = difference(arm, base), arm.median("examples_per_s")
    compared = ["baseline", ""] if arm is base else [points(gap) if gap else "?", "?"]
    if arm is not base and gap and gap.sd is not None:
        compared[1] = "/".join(str(seeds_needed(gap.sd, shown)) for shown in SEEDS_SHOWN)
    interval = "" if accuracy.half is None else f" ±{accuracy.half:.2f}"
    return [str(accuracy.n), f"{accuracy.mean:.1f} %{interval}", *compared, f"{speed:,.0f}" if speed else "?"]
