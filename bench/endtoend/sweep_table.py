"""What a sweep found, as tables for the terminal."""

import statistics

from rich.console import Console
from rich.table import Table

from bench.comparison.seeds import TO_BE_SEEN
from bench.records.runs import Run
from bench.records.training_cases import left_failed
from bench.report.accuracy import baseline, difference, interval, points_words, seeds_to_see
from bench.report.arms import Arm, Record, settings
from bench.report.quantities import UNKNOWN, percent, rounded, word

COLUMNS = ("n", "accuracy", "minus baseline", f"seeds {'/'.join(map(str, TO_BE_SEEN))}", "examples/s")


def print_table(run: Run, console: Console) -> None:
    """A table for each setting: accuracy with its interval, paired difference from the baseline, seeds needed for smaller."""
    for arms in settings(run.training, "accuracy"):
        base = baseline(arms, run.plan)
        name = "" if base is None else f", baseline {_name(base)}"
        table = Table(title=f"test accuracy after the last epoch{name}", box=None, title_justify="left")
        table.add_column("recipe@backend", overflow="fold")
        for column in COLUMNS:
            table.add_column(column, justify="right", overflow="fold")  # no digit is lost in a narrow terminal
        for arm in sorted(arms, key=lambda arm: -statistics.fmean(arm.values("test_accuracy") or [0.0])):
            table.add_row(*_row(arm, base))
        console.print(table)
        console.print(
            f"n: seeds; ±: 95 % interval; minus baseline: in points, over the same seeds; seeds: how many a difference of "
            f"{', '.join(map(str, TO_BE_SEEN))} points takes"
        )
    failed = left_failed(run.training)
    latest = {_cell(record): record for record in run.training if record.get("status") == "unsupported" or record in failed}
    for cell, record in latest.items():
        console.print(f"[red]{word(record, 'status')}:[/] {cell}: ", end="")
        console.print(word(record, "reason"), markup=False, highlight=False)
    if failed:
        console.print("trained again by the same command with --resume --retry-failed")


def _cell(record: Record) -> str:
    return f"{word(record, 'recipe')}@{word(record, 'backend')}, seed {word(record, 'seed')}"


def _name(arm: Arm) -> str:
    return f"{word(arm.first, 'recipe')}@{word(arm.first, 'backend')}"


def _row(arm: Arm, base: Arm | None) -> list[str]:
    values, speed = arm.values("test_accuracy"), arm.median("examples_per_s")
    one = None if base is None else difference(arm, base)
    needed = seeds_to_see(one)
    compared = (
        ["baseline", ""]
        if arm is base
        else [points_words(one), "/".join(dict.fromkeys(needed) if set(needed) == {UNKNOWN} else needed)]
    )
    return [
        _name(arm),
        str(len(values)),
        percent(statistics.fmean(values)) + interval(values).removesuffix(" points") if values else UNKNOWN,
        *compared,
        rounded(speed) if speed else UNKNOWN,
    ]
