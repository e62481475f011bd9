"""Head and tail of the report: warnings, what was measured on, the merged runs, method, and what is missing."""

from collections.abc import Iterable, Sequence

from bench.records import (
    UNKNOWN,
    Case,
    Environment,
    Gpu,
    Run,
    Source,
    format_number,
    join,
    percent,
    plural,
    worst_disturbance,
)
from bench.report.blocks import Answer, Block, Bullets, Code, Paragraph, Section, Strong, Table, Text, Warning
from bench.report.facts.placement import UTILISATION, above_ceiling, host_bound_ceilings
from bench.report.facts.state import (
    Missing,
    devices,
    disturbed_cases,
    failures_of,
    fallbacks,
    image_sets,
    implementations,
    missing,
    status_counts,
    verdict_counts,
)
from bench.report.tables import build_table, words_column
from bench.report.words import NOISY, capitalise, date, label
from bench.statistics import half_interval, reached_target

PACKAGES = ("augmark", "torch", "torchvision", "kornia", "numpy", "pillow", "triton")
METHOD_TITLE, MISSING_TITLE = "How it was measured", "What failed, is unsupported or did not run"
TENSORS = "Its speeds there are not those of the C or Triton kernels."
ABOVE = "The ceiling does less work, so that is a contradiction: something else bounds it, or others used the machine."
HOST_BOUND = "so what augmentation costs is hidden. Train with --graph on, --compile or a larger --batch-size."
TIMED = """A benchmark times a batch on the device through a pipeline into new memory, by wall time, with the device
synchronised before and after each call. Recipes start from one uint8 batch and end in the same normalised dtype for every
backend; ops start from floats in [0, 1]. images/s of a round: batch size times calls over the seconds of all calls, so calls
that skip an op of p < 1 count as often as they happen. A library that draws once per batch does less work and augments less, so
lanes are never ranked together."""


# ---- sections of kinds without a result -----------------------------------------------------------------------------------


def no_answer(question: str, evidence: str) -> Answer:
    """Return that a run does not answer a question."""
    return Answer(question, "Not known from this run", evidence)


def require_quiet(answer: Answer, cases: Iterable[Case]) -> Answer:
    """Return an answer that rests on ``cases``, or that it is not measurable if others disturbed some of them."""
    worst = worst_disturbance(record for case in cases if case.is_disturbed for record in case.records)
    if worst is None:
        return answer
    evidence = f"{capitalise(worst.words)}: measure again where it is quiet. The table below has what was measured."
    return Answer(answer.question, "Not measurable here", evidence)


def failed_section(run: Run, kind: str, title: str, question: str) -> Section | None:
    """Return a section that says that all records of a kind failed; None if it was not tried."""
    failed = failures_of(run, kind)
    if not failed:
        return None
    words = f"the only {kind} record is a failure" if len(failed) == 1 else f"all {len(failed):,} {kind} records are failures"
    reasons = join(dict.fromkeys(record.reason or "no reason was kept" for record in failed), 2)
    answer = Answer(question, "Not known: it failed", f"{capitalise(words)}: {reasons}.")
    return Section(title=title, blocks=[Paragraph(f"Not measured: {words}; the reasons stand at the end.")], answers=[answer])


# ---- head -----------------------------------------------------------------------------------------------------------------


def title(run: Run) -> str:
    """Return the heading of the report."""
    machines = join(dict.fromkeys(environment.machine for environment in run.environments.values()), 4) or run.name
    place = run.environment
    hardware = {"cpu": place.cpu.model, "cuda": next((gpu.name for gpu in place.gpus), "")} if place else {}
    named = [f"{name} ({model})" if (model := hardware.get(name.partition(":")[0])) else name for name in devices(run)]
    measured = plural(len(run.sources), "run") if has_groups(run) else ", ".join(named) or "nothing measured"
    return f"Image augmentation on {machines}: {measured}"


def warnings(run: Run) -> list[Warning]:
    """Return what a reader must know before any number."""
    notes = [(part.name, part.environment.note) for part in run.parts if part.environment and part.environment.note]
    pairs = [(f"fused fell back to plain tensors on {device}.", TENSORS) for device in fallbacks(run)]
    if disturbed := disturbed_cases(run):
        worst = worst_disturbance(record for case in disturbed for record in case.records)
        measured = sum(case.status == "ok" for case in run.cases())
        words = f"{worst.words if worst else ''} while {len(disturbed)} of {plural(measured, 'case')} were measured."
        pairs.append(("Not measurable here:", f"{words} Those figures are marked, and no answer rests on them."))
    for case, top in above_ceiling(run):
        speeds = f"{label(case)} reaches {format_number(case.rate)} examples/s, {label(top)} {format_number(top.rate)}."
        pairs.append(("A placement lies above the ceiling:", f"{speeds} {ABOVE}"))
    for top in host_bound_ceilings(run):
        busy = f"its kernels run {percent(top.median('gpu_busy'), 0)} of the time (model FLOPs utilisation "
        start = f"The ceiling (training on one prepared batch) on {top.device} is bound by the host:"
        pairs.append((start, f"{busy}{percent(top.median(UTILISATION))}), {HOST_BOUND}"))
    reasons = sorted({images.fallback or "these images are drawn shapes" for images in image_sets(run) if images.is_synthetic})
    if reasons:
        pairs.append(("Not a real data set:", f"{'; '.join(reasons)}. Accuracies say nothing about CIFAR-10."))
    if run.problems:
        words = f"{plural(len(run.problems), 'part')} could not be read; see the end."
        pairs.append(("This report is not of the whole run:", words))
    texts: list[Text] = [[Strong("Note on"), " ", Code(name), f": {note}"] for name, note in notes]
    return [Warning(text) for text in (*texts, *([Strong(start), f" {words}"] for start, words in pairs))]


def facts(run: Run) -> list[tuple[Text, Text]]:
    """Return machine, versions, commit and images as names with words."""
    images = "; ".join(f"{i.name} (fingerprint {i.fingerprint}; {', '.join(i.uses)})" for i in image_sets(run)) or UNKNOWN
    ran = "; ".join(
        f"{backend} on {device}: {', '.join(sorted(names))}" for (backend, device), names in implementations(run).items()
    )
    rows: list[tuple[Text, Text]] = [("Audit", audit_words(run)), ("Images", images), ("Implementation", ran or UNKNOWN)]
    if has_groups(run):  # no processor, version or commit holds for all
        return rows
    return [*rows, *(_machine(run.environment).items() if run.environment else []), ("Run", [Code(run.name)])]


def has_groups(run: Run) -> bool:
    """Return whether runs of several machines or codes were merged."""
    return len({source.place for source in run.sources}) > 1


def _machine(environment: Environment) -> dict[str, Text]:
    packages = [f"{name} {environment.packages[name]}" for name in PACKAGES if name in environment.packages]
    versions = [*packages, *([f"CUDA {environment.cuda}"] if environment.cuda else []), f"Python {environment.python}"]
    variables = ", ".join(f"{name}={content}" for name, content in environment.variables.items())
    cpu, commit = environment.cpu, environment.commit
    states: dict[bool | None, str] = {True: Strong("with uncommitted changes"), False: "clean", None: "changes not known"}
    cores, threads = ("{} logical", cpu.logical_cores), ("{} torch threads", cpu.threads)
    load, memory = ("load {:.1f} at the start", cpu.load_1min), ("{:.0f} GiB", _gib(cpu.memory_bytes))
    processor = [cpu.model, f"{cpu.usable_cores} usable cores", *_write_present(cores, threads, load, memory)]
    return {
        "Machine": f"{environment.machine}, {environment.platform}",
        "CPU": ", ".join(processor),
        "GPU": "; ".join(map(_gpu, environment.gpus)) or "none",
        "Versions": ", ".join(versions),
        "Variables": variables or "none that change speed",
        "Commit": [Code(commit.id[:12]), ", ", states[commit.dirty]] if commit else UNKNOWN,
        "Date": date(environment.time),
    }


def _gpu(gpu: Gpu) -> str:
    memory, clock = ("{:.0f} GiB", _gib(gpu.memory_bytes)), ("SM clock {:.0f} MHz", gpu.sm_clock_mhz)
    power, heat = ("limit {:.0f} W", gpu.power_limit_w), ("{:.0f} °C", gpu.temperature_c)
    return ", ".join([gpu.name, *_write_present(memory, ("driver {}", gpu.driver), clock, power, heat)])


def _write_present(*units: tuple[str, object]) -> list[str]:
    return [unit.format(content) for unit, content in units if content is not None]


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def audit_words(run: Run) -> str:
    """Return how many cells got which verdict."""
    counts = verdict_counts(run.audit.verdicts if run.audit else ())
    if not counts:
        return "failed" if run.audit and run.audit.failed else "not audited in this run"
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{plural(sum(counts.values()), 'cell')}, an op or recipe on a backend: {verdicts}"


def lacking(run: Run) -> str:
    """Return that the answers lack failed cases; empty if they do not."""
    counts = status_counts(run)
    failed = plural(counts["failed"], "case") + " failed" if counts["failed"] else ""
    parts = "; ".join(filter(None, (failed, _without_record(run))))
    return f"Lacking: {parts}. The reasons stand at the end." if parts else ""


def _without_record(run: Run) -> str:
    words = plural(len(run.missing), "planned seed or case", "planned seeds and cases")
    now = f" ({len(run.running)} measured now: the run goes on)" if run.running else ""
    return f"{words} without a record{now}" if run.missing else ""


# ---- merged runs ----------------------------------------------------------------------------------------------------------


def runs_section(run: Run) -> Section | None:
    """Return a column for each merged run, and what the groups are."""
    if not run.sources:
        return None
    described = [_describe(source) for source in run.sources]
    names = dict.fromkeys(name for facts in described for name in facts)
    rows = [[name, *(facts.get(name, UNKNOWN) for facts in described)] for name in names]
    table = Table(header=["", *([Code(source.run.name)] for source in run.sources)], rows=rows)
    text = "Runs of one group are of the same code on the same machine, and their rounds are joined; other groups stand apart."
    notes: list[Text] = [[Code(source.run.name), f": {note}"] for source in run.sources for note in source.notes]
    blocks: list[Block] = [Paragraph(text), table, *([Bullets(notes)] if notes else [])]
    return Section(title=f"The {plural(len(run.sources), 'run')} in this report", blocks=blocks)


def _describe(source: Source) -> dict[str, Text]:
    """Return where and with what a run was measured, and how much of it there is."""
    run, place = source.run, source.run.environment
    return {
        "Devices below": f"of {source.place}" if source.place else "as they are",
        "Group": str(source.group + 1),
        **(_machine(place) if place else {}),
        "Cases measured": f"{status_counts(run)['ok']:,} of {len(run.cases()):,}",
        "Records": f"{len(run.records):,}",
        "Audited": "yes" if run.audit and run.audit.verdicts else [Strong("no")],
    }


# ---- tail -----------------------------------------------------------------------------------------------------------------


def method_section(run: Run) -> Section | None:
    """Return what is timed, how often, and how to read it."""
    cases = [case for case in run.cases("speed") if case.rate]
    if not cases:
        return None
    counts, calls = sorted({len(case.rates) for case in cases}), [len(case.samples_s) for case in cases]
    shares = sorted(share for case in cases if (share := half_interval(case.rates)) is not None)
    threads = sorted({case.threads for case in cases} - {None})
    text = f"Rounds: {join(map(str, counts))}, each over the whole grid in a new order; "
    text += f"{min(calls):,} to {max(calls):,} calls a case."
    if shares:
        text += f" Half the interval of the median: {percent(shares[len(shares) // 2])} of it in the middle case, "
        text += f"{percent(shares[-1])} at most; above {percent(NOISY, 0)} a cell is called noisy."
    text += f" {reached_target(cases, run.plan)}" if run.plan and run.plan.target else ""
    text += f" Threads: {join(map(str, threads)) or UNKNOWN}; fused uses fewer for small batches."
    return Section(title=METHOD_TITLE, blocks=[Paragraph(TIMED), Paragraph(text)])


def missing_section(run: Run, absent: Sequence[str]) -> Section:
    """Return what failed, is unsupported or did not run, and why; ``absent`` names what was not to be measured."""
    counts, rows = status_counts(run), missing(run)
    names = {"ok": "measured", "unsupported": "unsupported", "failed": "failed", "not_run": "not run"}
    outcomes = ", ".join(f"{counts[status]:,} {words}" for status, words in names.items())
    total = f"{plural(sum(counts.values()), 'case')}: {'; '.join(filter(None, (outcomes, _without_record(run))))}."
    blocks: list[Block] = [Paragraph(total if counts else "No case was planned, and there is no record.")]
    columns = [
        words_column("status", lambda row: row.status.replace("_", " ")),
        words_column("kind", lambda row: row.kind),
        words_column("subjects", lambda row: join(dict.fromkeys(str(case.subject or "") for case in row.cases))),
        words_column("backend", lambda row: [Code(row.backend)]),
        words_column("device", lambda row: row.device),
        words_column("cases", _cases),
        words_column("why", _why),
    ]
    blocks += [build_table(columns, rows)] if rows else []
    blocks += [Paragraph("Could not be read:"), Bullets(run.problems)] if run.problems else []
    blocks += [Paragraph(f"Not measured: {'; '.join(absent)}.")] if absent else []
    return Section(title=MISSING_TITLE, blocks=blocks)


def _cases(row: Missing) -> str:
    """Return batch and pixels of benchmarks, and how many cases of other kinds."""
    sizes = dict.fromkeys(f"{case.batch_size} of {case.pixels}" for case in row.cases if case.kind == "speed")
    return join(sizes, 4) if sizes else str(len(row.cases))


def _why(row: Missing) -> str:
    is_shared = len({case.subject for case in row.cases}) > 1
    return (row.reason if is_shared else row.cases[0].reason) or "the run ended before it"
