"""Training on several processes: examples/s, speed-up, the slowest rank, and that no two ranks drew the same."""

from collections.abc import Sequence

from bench.records import UNKNOWN, Run, format_number, join, percent, plural
from bench.report.blocks import Answer, Block, Code, Paragraph, Section, Warning
from bench.report.facts.scaling import Job, alike_draws, largest, tables
from bench.report.figures import Figure, Line, Look, lines, series_look
from bench.report.sections.state import failed_section, require_quiet
from bench.report.tables import Column, build_table, words_column
from bench.report.words import setting, span, with_spread
from bench.statistics import SPREAD

TITLE = "Training on several processes"
GAIN = "Does training scale over processes?"
PARALLEL = {"ddp": "DDP, a process each", "data_parallel": "DataParallel, one process", "none": "one process"}
METHOD = f"""examples/s of all processes together, over the wall time of the slowest; medians of the rounds, {SPREAD}.
Strong scaling keeps the batch of all together, weak scaling that of each. Efficiency: speed-up over one process by the number
of devices; a CPU is one device, however many processes share it. Slowest rank: in a bare loop of its own. Draws: the first
augmented batches of each rank, made from one image, are compared."""


def scaling_section(run: Run) -> Section | None:
    """Return a table and a figure for each setting."""
    groups, reasons = tables(run), dict.fromkeys(record.reason for record in alike_draws(run))
    if not groups and not reasons:
        return failed_section(run, "scaling", TITLE, GAIN)
    blocks: list[Block] = [Warning(f"{reason}: the speed of that job is left out.") for reason in reasons]
    blocks.append(Paragraph(METHOD))
    for index, jobs in enumerate(groups, start=1):
        first = jobs[0].case
        blocks.append(Paragraph([f"Setting: {setting(first)}, {first.recipe} by ", Code(first.backend), "; batches vary."]))
        blocks += [_figure(jobs, f"scaling-{index}")] if len({job.processes for job in jobs}) > 1 else []
        blocks.append(build_table(COLUMNS, jobs))
    gains = [_gain(largest(groups[0]))] if groups and largest(groups[0]) else []
    return Section(title=TITLE, blocks=blocks, answers=gains)


def _name(job: Job) -> str:
    return f"{job.case.scaling} scaling" + (", DataParallel" if job.case.parallel == "data_parallel" else "")


def _gain(jobs: Sequence[Job]) -> Answer:
    """Return what the most processes of each sort gain over one."""
    answers, sentences = [], []
    for job in jobs:
        doubt = "" if job.is_sure else ", not certain" if len(job.speedups) < 2 else ", undecided"
        times = (
            "not known, no round of one process" if job.speedup is None else f"{format_number(job.speedup)} times one{doubt}"
        )
        answers.append(f"{job.processes} processes, {_name(job)}: {times}")
        pairs = f"{plural(len(job.speedups), 'pair')} of rounds{span(job.speedups)}"
        sentences.append(f"{_name(job)} {with_spread(job.case, 'examples_per_s')} examples/s, {pairs}")
    return require_quiet(Answer(GAIN, "; ".join(answers), f"{'; '.join(sentences)}."), [job.case for job in jobs])


def _slowest(job: Job) -> str:
    if job.slowest_rank is None:
        return ""
    rank, share = job.slowest_rank
    return f"rank {rank}, {percent(share, 0)} of the fastest"


def _draws(job: Job) -> str:
    if job.processes < 2 or job.case.parallel == "data_parallel" or job.case.lane == "fixed":
        return "nothing is drawn" if job.case.lane == "fixed" else ""
    return "no two ranks alike" if job.case.draw_digests and not job.case.shared_draws else UNKNOWN


COLUMNS = [
    Column("processes", lambda job: str(job.processes)),
    words_column("scaling", lambda job: "" if job.case.scaling == "one" else str(job.case.scaling)),
    words_column("how", lambda job: PARALLEL.get(job.case.parallel, UNKNOWN)),
    Column("batch together", lambda job: str(job.case.batch_size)),
    Column("batch a device", lambda job: str(job.case.batch_per_device or "")),
    Column("examples/s", lambda job: with_spread(job.case, "examples_per_s")),
    Column("speed-up", lambda job: "" if job.speedup is None else format_number(job.speedup) + span(job.speedups)),
    Column("efficiency", lambda job: "" if job.efficiency is None else percent(job.efficiency, 0)),
    words_column("slowest rank", _slowest),
    Column("threads a process", lambda job: str(job.case.threads or "")),
    words_column("draws", _draws),
    words_column("implementation", lambda job: job.case.implementation or ""),
    Column("rounds", lambda job: str(len(job.case.rates))),
]


def _figure(jobs: Sequence[Job], name: str) -> Figure:
    alone = [job for job in jobs if job.processes == 1]
    series = []
    for index, sort in enumerate(dict.fromkeys(job.sort for job in jobs if job.processes > 1)):
        members = [job for job in jobs if job in alone or job.sort == sort]
        rounds = [(job.processes, job.case.rates) for job in members]
        series.append(Line.of_rounds(_name(members[-1]), series_look(index), rounds))
    counts = sorted({job.processes for job in jobs})
    if alone:
        ideal = [(count, alone[0].case.rate * (1 if jobs[0].on_cpu else count)) for count in counts]
        series.append(Line("same cores, no loss" if jobs[0].on_cpu else "ideal", Look("quiet", dashes="2 3"), ideal))
    speeds = join(f"{job.processes} {job.case.scaling} {format_number(job.case.rate)}" for job in jobs)
    alternative = f"Examples per second by number of processes: {speeds}."
    return lines(name, alternative, {"": series}, "processes", "examples/s, all together", zero=True, ticks=counts)
