"""Training on several processes: examples/s, speed-up, the slowest rank, and that no two ranks drew the same."""

import statistics
from collections.abc import Sequence

from bench.records import Run
from bench.report.blocks import Answer, Block, Code, Heading, Paragraph, Section, Warning
from bench.report.facts.scaling import Job, RankDraws, largest, rank_draws, tables
from bench.report.figures import Figure, Line, Look, Panel, lines, series_look
from bench.report.sections.state import failed_section
from bench.report.tables import Column, build_table, words_column
from bench.report.words import UNKNOWN, counted, listed, percent, rounded, setting, span, with_spread

TITLE = "Training on several processes"
GAIN, DRAWS = "Does training scale over processes?", "Did two processes draw the same?"
PARALLEL = {"ddp": "DDP, a process each", "data_parallel": "DataParallel, one process", "none": "one process"}
METHOD = (
    "examples/s of all processes together, over the wall time of the slowest; medians of the rounds, ± half the range. "
    "Strong scaling keeps the batch of all together, weak scaling that of each. Efficiency is the speed-up over one process "
    "by the number of devices; processes on a CPU share its cores and count as one device. The slowest rank is the one with "
    "the least examples/s in a bare loop of its own. Draws: the first augmented batches of each rank, made from one image, "
    "are compared."
)


def scaling_section(run: Run) -> Section | None:
    """Return a table and a figure for each setting."""
    groups, draws = tables(run), rank_draws(run)
    if not groups and not (draws and draws.alike):
        return failed_section(run, "scaling", TITLE, GAIN)
    reasons = dict.fromkeys(record.reason for record in draws.alike) if draws else ()
    blocks: list[Block] = [Warning(f"{reason}: the speed of that job is left out.") for reason in reasons]
    blocks.append(Paragraph(METHOD))
    for index, jobs in enumerate(groups, start=1):
        first = jobs[0].arm
        blocks.append(Heading([f"{setting(first)}, {first.recipe} by ", Code(first.backend)]))
        if len({job.processes for job in jobs if job.arm.speed}) > 1:
            blocks.append(_figure(jobs, f"scaling-{index}"))
        blocks.append(build_table(COLUMNS, jobs))
    gains = [_gain(groups[0])] if groups and largest(groups[0]) else []
    return Section(title=TITLE, blocks=blocks, answers=[*gains, *([_drawn(draws)] if draws else [])])


def _gain(jobs: Sequence[Job]) -> Answer:
    """Return what the most processes of each sort gain over one."""
    answers, sentences = [], []
    for job in largest(jobs):
        sort = f"{job.processes} processes, {job.arm.scaling} scaling" + (
            ", DataParallel" if job.arm.parallel == "data_parallel" else ""
        )
        speed = f"{with_spread(job.arm, 'examples_per_s')} examples/s"
        if job.speedup is None:
            answers.append(f"{sort}: not known, no round of one process")
            sentences.append(f"{sort}: {speed}")
            continue
        answers.append(f"{sort}: {rounded(job.speedup)} times one{_doubt(job.speedups)}")
        pairs = f"{counted(len(job.speedups), 'pair')} of rounds{span(job.speedups)}"
        sentences.append(f"{sort}: {speed}, efficiency {percent(job.efficiency, 0)}, {pairs}")
    single = next((job.arm for job in jobs if job.processes == 1 and job.arm.speed), None)
    alone = f" One process: {with_spread(single, 'examples_per_s')} examples/s." if single else ""
    return Answer(question=GAIN, answer="; ".join(answers), evidence=f"{'; '.join(sentences)}.{alone}")


def _doubt(speedups: Sequence[float]) -> str:
    if len(speedups) < 2:
        return ", not certain"
    return "" if min(speedups) > 1 or max(speedups) < 1 else ", undecided"


def _drawn(draws: RankDraws) -> Answer:
    jobs = counted(draws.jobs, "job")
    if draws.alike:
        evidence = f"{len(draws.alike)} of {jobs}: {draws.alike[0].reason}."
        return Answer(question=DRAWS, answer="Yes: their draws are not independent", evidence=evidence)
    ends = " to ".join(map(str, sorted({draws.processes[0], draws.processes[-1]})))
    evidence = f"In {jobs} of {ends} processes no two of the first augmented batches were alike, all made from one image."
    return Answer(question=DRAWS, answer="No, no two alike", evidence=evidence)


def _slowest(job: Job) -> str:
    slowest = job.slowest_rank
    return "" if slowest is None else f"rank {slowest[0]}, {percent(slowest[1], 0)} of the fastest"


def _draws(job: Job) -> str:
    if job.arm.lane == "fixed":
        return "nothing is drawn"
    if job.processes < 2 or job.arm.parallel == "data_parallel":
        return ""
    return "no two ranks alike" if job.arm.draw_digests and not job.arm.shared_draws else UNKNOWN


COLUMNS = [
    Column("processes", lambda job: str(job.processes)),
    words_column("scaling", lambda job: "" if job.arm.scaling == "one" else str(job.arm.scaling)),
    words_column("how", lambda job: PARALLEL.get(job.arm.parallel, UNKNOWN)),
    Column("batch together", lambda job: str(job.arm.batch_size)),
    Column("batch a device", lambda job: str(job.arm.batch_per_device or "")),
    Column("examples/s", lambda job: with_spread(job.arm, "examples_per_s")),
    Column("speed-up", lambda job: "" if job.speedup is None else rounded(job.speedup) + span(job.speedups)),
    Column("efficiency", lambda job: "" if job.efficiency is None else percent(job.efficiency, 0)),
    words_column("slowest rank", _slowest),
    Column("threads a process", lambda job: str(job.arm.threads or "")),
    words_column("draws", _draws),
    Column("rounds", lambda job: str(len(job.arm.values("examples_per_s")))),
]


def _figure(jobs: Sequence[Job], name: str) -> Figure:
    alone = [job for job in jobs if job.processes == 1 and job.arm.speed]
    counts = sorted({job.processes for job in jobs})
    series = []
    for index, sort in enumerate(dict.fromkeys(job.sort for job in jobs if job.processes > 1)):
        members = [job for job in jobs if (job in alone or job.sort == sort) and job.arm.speed]
        rounds = [(job.processes, job.arm.values("examples_per_s")) for job in members]
        series.append(
            Line(
                label=f"{sort[0]} scaling" + (", DataParallel" if sort[1] == "data_parallel" else ""),
                look=series_look(index),
                points=[(count, statistics.median(values)) for count, values in rounds],
                whiskers=[(count, min(values), max(values)) for count, values in rounds],
            )
        )
    if alone:
        shared, base = jobs[0].on_cpu, alone[0].arm.speed
        ideal = [(float(count), base if shared else base * count) for count in counts]
        series.append(Line(label="same cores, no loss" if shared else "ideal", look=Look("quiet", dashes="2 3"), points=ideal))
    speeds = [f"{job.processes} {job.arm.scaling} {rounded(job.arm.speed)}" for job in jobs]
    alternative = f"Examples per second by number of processes: {listed(speeds)}."
    return lines(
        name, alternative, [Panel(title="", lines=series)], "processes", "examples/s, all together", zero=True, ticks=counts
    )
