"""Result of a sweep as tables for the terminal."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.records import SETTING, Accuracy, Run, project_sweep, unresolved_failures
from bench.statistics import SEEDS_SHOWN, estimate, seeds_needed

COLUMNS = ("n", "accuracy", "minus baseline", f"seeds {'/'.join(map(str, SEEDS_SHOWN))}", "examples/s")


def print_table(run: Run, console: Console) -> None:
    """Print a table per setting (accuracy, paired difference from the baseline, seeds needed), and the failures."""
    settings: dict[tuple[object, ...], dict[str, list[Accuracy]]] = {}
    for record in run.of(Accuracy):
        setting = (*(getattr(record, name) for name in SETTING), record.num_epochs)
        settings.setdefault(setting, {}).setdefault(f"{record.recipe}@{record.backend}", []).append(record)
    for arms in settings.values():
        chosen = run.plan.baseline if run.plan else None
        baseline = chosen if chosen in arms else next(iter(arms))
        table = Table(title=f"test accuracy after the last epoch, baseline {baseline}", box=None, title_justify="left")
        table.add_column("recipe@backend", overflow="fold")
        for column in COLUMNS:
            table.add_column(column, justify="right", overflow="fold")  # no digit is lost in a narrow terminal
        for name in sorted(arms, key=lambda name: -statistics.fmean(_points(arms[name]).values())):
            table.add_row(name, *_row(arms[name], None if name == baseline else arms[baseline]))
        console.print(table)
        if words := project_sweep([record for arm in arms.values() for record in arm]):
            console.print(words)
        console.print(
            f"n: seeds; ±: 95 % interval; minus baseline: in points, over the same seeds; seeds: how many a difference of "
            f"{', '.join(map(str, SEEDS_SHOWN))} points takes"
        )
    failed = unresolved_failures(run.records)
    unsupported = [record for record in run.records if record.status == "unsupported"]
    for record in {record.key: record for record in (*unsupported, *failed) if isinstance(record, Accuracy)}.values():
        console.print(
            Text.assemble((record.status, "red"), f": {record.recipe}@{record.backend}, seed {record.seed}: {record.reason}")
        )
    if failed:
        console.print("to train them again: the same command with --resume --retry-failed")


def _points(arm: Sequence[Accuracy]) -> dict[int, float]:
    """Test accuracy in points by seed."""
    return {record.seed: 100 * (record.test_accuracy or 0.0) for record in arm}


def _row(arm: Sequence[Accuracy], baseline: Sequence[Accuracy] | None) -> list[str]:
    points = _points(arm)
    score = estimate(list(points.values()))
    compared = ["baseline", ""]
    if baseline is not None:
        reference = _points(baseline)
        pairs = [points[seed] - reference[seed] for seed in points if seed in reference]
        compared = ["?", "?"]
        if pairs:
            difference = estimate(pairs)
            needed = [str(seeds_needed(difference.sd, shown)) for shown in SEEDS_SHOWN] if difference.sd is not None else ["?"]
            compared = [f"{difference.mean:+.2f}{_interval(difference.half)}", "/".join(needed)]
    speeds = [record.examples_per_s for record in arm if record.examples_per_s]
    speed = f"{statistics.median(speeds):,.0f}" if speeds else "?"
    return [str(len(points)), f"{score.mean:.1f} %{_interval(score.half)}", *compared, speed]


def _interval(half: float | None) -> str:
    return "" if half is None else f" ±{half:.2f}"
