"""Head and tail of the report: warnings, what was measured on, the merged runs, method, and what is missing."""

from collections.abc import Sequence
from functools import partial

from bench.records import Commit, Cpu, Environment, Gpu, Run, Source, code_facts, differences, machine_facts
from bench.report.blocks import Answer, Block, Bullets, Code, Paragraph, Section, Strong, Text
from bench.report.facts.lanes import passes, rate
from bench.report.facts.state import (
    Missing,
    devices,
    failures_of,
    fallbacks,
    image_sets,
    implementations,
    missing,
    status_counts,
    unresolved,
    verdict_counts,
)
from bench.report.tables import Column, build_table, words_column
from bench.report.words import NOISY, UNKNOWN, capitalised, counted, date, listed, percent
from bench.statistics import half_range

PACKAGES = ("augmark", "torch", "torchvision", "kornia", "numpy", "pillow", "triton")
METHOD_TITLE, MISSING_TITLE = "How it was measured", "What failed, is unsupported or did not run"
TIMED = """A benchmark times a batch on the device through a pipeline into new memory, by wall time, with the device
synchronised before and after each call. Recipes start from one uint8 batch and end in the same normalised dtype for every
backend; ops start from floats in [0, 1]. images/s of a round: batch size times calls over the seconds of all calls, so calls
that skip an op of p < 1 count as often as they happen. A library that draws once per batch does less work and augments less, so
lanes are never ranked together."""
TRAINING = "Training: wall time over the steps, from a synchronised start to a synchronised end."
MOST_ROWS = 100


# ---- sections of kinds without a result -----------------------------------------------------------------------------------


def unanswered(question: str, evidence: str) -> Answer:
    """Return that a run does not answer a question."""
    return Answer(question, "Not known from this run", evidence)


def failed_section(run: Run, kind: str, title: str, question: str) -> Section | None:
    """Return a section that says that all records of a kind failed; None if it was not tried."""
    failed = failures_of(run, kind)
    if not failed:
        return None
    words = f"the only {kind} record is a failure" if len(failed) == 1 else f"all {len(failed):,} {kind} records are failures"
    reasons = listed(dict.fromkeys(record.reason or "no reason was kept" for record in failed), 2)
    answer = Answer(question, "Not known: it failed", f"{capitalised(words)}: {reasons}.")
    return Section(title=title, blocks=[Paragraph(f"Not measured: {words}; the reasons stand at the end.")], answers=[answer])


# ---- head -----------------------------------------------------------------------------------------------------------------


def title(run: Run) -> str:
    """Return the heading of the report."""
    machine = run.environment.machine if run.environment else run.name
    several = len({source.group for source in run.sources}) > 1
    return f"Image augmentation on {machine}: {counted(len(run.sources), 'run') if several else _devices(run)}"


def _devices(run: Run) -> str:
    gpus = run.environment.gpus if run.environment else ()
    cpu = run.environment.cpu.model if run.environment else None
    hardware = {"cpu": cpu, "cuda": gpus[0].name if gpus else None}
    named = [(name, hardware.get(name.partition(":")[0])) for name in devices(run)]
    return ", ".join(f"{name} ({model})" if model else name for name, model in named) or "nothing measured"


def warnings(run: Run) -> list[Text]:
    """Return what a reader must know before any number."""
    texts: list[Text] = []
    notes = [(source.name, source.environment.note) for source in run.sources if source.environment and source.environment.note]
    if not run.sources and run.environment and run.environment.note:
        notes = [(run.name, run.environment.note)]
    texts += [[Strong("Note on "), Code(name), f": {note}"] for name, note in notes]
    for device in fallbacks(run):
        texts.append(
            [
                Strong(f"fused fell back to plain tensors on {device}."),
                " Its speeds there are not those of the C or Triton kernels.",
            ]
        )
    sets = [images for images in image_sets(run) if images.is_synthetic]
    reasons = dict.fromkeys(images.fallback or "" for images in sets)
    for reason in sorted(reasons, reverse=True)[:1]:
        words = f" {reason}." if reason else " These images are drawn shapes."
        texts.append([Strong("Not a real data set."), f"{words} Accuracies say nothing about CIFAR-10."])
    if run.problems:
        problems = counted(len(run.problems), "part")
        texts.append([Strong("This report is not of the whole run."), f" {problems} could not be read; see the end."])
    return texts


def facts(run: Run) -> list[tuple[str, Text]]:
    """Return machine, versions, commit and images as names with words."""
    images = "; ".join(f"{i.name} (fingerprint {i.fingerprint}; {', '.join(i.uses)})" for i in image_sets(run)) or UNKNOWN
    ran = "; ".join(
        f"{backend} on {device}: {' and '.join(sorted(names))}" for (backend, device), names in implementations(run).items()
    )
    rows: list[tuple[str, Text]] = [
        ("Audit", audit_words(run)),
        ("Images", images),
        *([("Implementation", ran)] if ran else []),
    ]
    if len({source.group for source in run.sources}) > 1:  # no processor, version or commit holds for all
        return [*rows, ("Runs", f"{len(run.sources)} of several machines, versions or commits: a row each below")]
    return [*rows, *(_machine(run.environment) if run.environment else []), ("Run", [Code(run.name)])]


def _machine(environment: Environment) -> list[tuple[str, Text]]:
    packages = [f"{name} {environment.packages[name]}" for name in PACKAGES if name in environment.packages]
    packages += [f"CUDA {environment.cuda}"] if environment.cuda else []
    variables = ", ".join(f"{name}={content}" for name, content in environment.variables.items())
    return [
        ("Machine", f"{environment.machine}, {environment.platform}"),
        ("CPU", _cpu(environment.cpu)),
        ("GPU", "; ".join(map(_gpu, environment.gpus)) or "none"),
        ("Versions", ", ".join([*packages, f"Python {environment.python}"])),
        ("Variables", variables or "none that change speed"),
        ("Commit", _commit(environment.commit)),
        ("Date", date(environment.time)),
    ]


def audit_words(run: Run) -> str:
    """Return how many cells got which verdict."""
    if run.audit is None or not run.audit.verdicts:
        return "failed" if run.audit and run.audit.failed else "not audited in this run"
    counts = verdict_counts(run)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{counted(sum(counts.values()), 'cell')}, an op or recipe on a backend: {verdicts}"


def _cpu(cpu: Cpu) -> str:
    units = (
        ("torch threads: {}", cpu.threads),
        ("{:.0f} GiB", _gib(cpu.memory_bytes)),
        ("load {:.1f} at the start", cpu.load_1min),
    )
    cores = f"{cpu.usable_cores} usable of {cpu.logical_cores or UNKNOWN} logical cores"
    return ", ".join([cpu.model, cores, *(unit.format(content) for unit, content in units if content is not None)])


def _gpu(gpu: Gpu) -> str:
    units = (
        *(("{:.0f} GiB", _gib(gpu.memory_bytes)), ("driver {}", gpu.driver), ("SM clock {:.0f} MHz", gpu.sm_clock_mhz)),
        *(
            ("at most {:.0f} MHz", gpu.max_sm_clock_mhz),
            ("limit {:.0f} W", gpu.power_limit_w),
            ("{:.0f} °C", gpu.temperature_c),
        ),
    )
    return ", ".join([gpu.name, *(unit.format(content) for unit, content in units if content is not None)])


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def _commit(commit: Commit | None) -> Text:
    if commit is None:
        return UNKNOWN
    states: dict[bool | None, str] = {True: Strong("with uncommitted changes"), False: "clean", None: "changes not known"}
    return [Code(commit.id[:12]), ", ", states[commit.dirty]]


def lacking(run: Run) -> str:
    """Return that the answers lack failed cases; empty if they do not."""
    counts, records = status_counts(run), unresolved(run)
    cases = counts["failed"] + counts["not_run"]
    parts = [*([counted(cases, "case")] if cases else []), *([counted(records, "failed record")] if records else [])]
    return f"Failed or not run: {' and '.join(parts)}; the reasons stand at the end." if parts else ""


# ---- merged runs ----------------------------------------------------------------------------------------------------------


def runs_section(run: Run) -> Section | None:
    """Return a row for each merged run, and how the groups differ."""
    if not run.sources:
        return None
    columns = [
        words_column("run", lambda source: [Code(source.name)]),
        words_column("its devices below", lambda source: f"of {source.place}" if source.place else "as they are"),
        Column("group", lambda source: str(source.group + 1)),
        *(words_column(name, partial(_fact, name)) for name in ("Machine", "CPU", "GPU", "Versions", "Commit", "Date")),
        Column("cases measured", lambda source: f"{source.measured:,} of {source.planned:,}"),
        Column("records", lambda source: f"{source.records:,}"),
        words_column("audited", lambda source: "yes" if source.audited else [Strong("no")]),
    ]
    text = "Runs of one group are of the same code on the same machine, and their rounds are joined; other groups stand apart."
    notes: list[Text] = [[Code(source.name), f": {note}"] for source in run.sources for note in source.notes]
    audited = {source.group for source in run.sources if source.audited}
    unaudited = [source.name for source in run.sources if source.group not in audited]
    notes += (
        [f"not audited, so the verdicts are those of other code or machines: {listed(unaudited)}"]
        if audited and unaudited
        else []
    )
    notes += _group_differences(run.sources)
    blocks: list[Block] = [Paragraph(text), build_table(columns, run.sources), *([Bullets(notes)] if notes else [])]
    return Section(title=f"The {counted(len(run.sources), 'run')} in this report", blocks=blocks)


def _fact(name: str, source: Source) -> Text:
    return dict(_machine(source.environment)).get(name, UNKNOWN) if source.environment else UNKNOWN


def _group_differences(sources: Sequence[Source]) -> list[Text]:
    """Return how each group differs from the first."""
    firsts = {source.group: source for source in reversed(sources)}
    first, *others = (firsts[group] for group in sorted(firsts))
    items: list[Text] = []
    for source in others:
        reasons = ["an environment is not known"]
        if first.environment and source.environment:
            pair = (first.environment, source.environment)
            a, b = (code_facts(side) | machine_facts(side) for side in pair)
            dirty = any(side.commit and side.commit.dirty for side in pair)
            reasons = [*differences(a, b), *(["uncommitted changes"] if dirty else [])]
        items.append(f"group {source.group + 1} differs from the first: {listed(reasons)}")
    return items


# ---- tail -----------------------------------------------------------------------------------------------------------------


def method_section(run: Run) -> Section | None:
    """Return what is timed, how often, and how to read it."""
    cases = [case for case in run.cases("speed") if rate(case)]
    items: list[Text] = [TIMED, _rounds_words(run)] if cases else []
    items += [TRAINING] if any(record.kind not in ("speed", "decoding") for record in run.records) else []
    return Section(title=METHOD_TITLE, blocks=[Bullets(items)]) if items else None


def _rounds_words(run: Run) -> str:
    cases = [case for case in run.cases("speed") if rate(case)]
    counts = sorted({len(passes(case)) for case in cases})
    shares = sorted(share for case in cases if (share := half_range(passes(case))) is not None)
    text = f"Rounds: {listed(map(str, counts))}, each over the whole grid in a new order"
    seconds = run.plan.case_seconds if run.plan else None
    text += f", {seconds:g} s of samples a case and round" if seconds else ""
    calls = [len(case.samples_s) for case in cases]
    text += f"; {min(calls):,} to {max(calls):,} calls a case"
    if shares:
        text += f". Half the range between rounds: {percent(shares[len(shares) // 2])} of the median in the middle case, "
        text += f"{percent(shares[-1])} at most; above {percent(NOISY, 0)} a cell is called noisy"
    threads = sorted({int(case.known("threads")) for case in cases if case.known("threads") is not None})
    return text + (f". Threads: {listed(map(str, threads))}; fused uses fewer for small batches." if threads else ".")


def missing_section(run: Run, absent: Sequence[str]) -> Section:
    """Return what failed, is unsupported or did not run, and why; ``absent`` names what was not to be measured."""
    counts, rows = status_counts(run), missing(run)
    names = {"ok": "measured", "unsupported": "unsupported", "failed": "failed", "not_run": "not run"}
    became = ", ".join(f"{counts[status]:,} {words}" for status, words in names.items())
    total = counted(sum(counts.values()), "case")
    blocks: list[Block] = [Paragraph(f"{total}: {became}." if counts else "No case was planned, and there is no record.")]
    columns = [
        words_column("status", lambda row: row.status.replace("_", " ")),
        words_column("kind", lambda row: row.kind),
        words_column("subjects", lambda row: listed(dict.fromkeys(str(case.first.subject or "") for case in row.cases))),
        words_column("backend", lambda row: [Code(row.backend)]),
        words_column("device", lambda row: row.device),
        words_column("cases", _cases),
        words_column(
            "why", lambda row: row.reason or ("the run ended before it" if row.status == "not_run" else "no reason was kept")
        ),
    ]
    blocks += [build_table(columns, rows[:MOST_ROWS])] if rows else []
    blocks += [Paragraph(f"{len(rows) - MOST_ROWS:,} more rows are left out.")] if len(rows) > MOST_ROWS else []
    blocks += [Paragraph("Could not be read:"), Bullets(run.problems[:MOST_ROWS])] if run.problems else []
    blocks += [Paragraph(f"Not measured: {'; '.join(absent)}.")] if absent else []
    return Section(title=MISSING_TITLE, blocks=blocks)


def _cases(row: Missing) -> str:
    """Return batch and pixels of benchmarks, and how many cases of other kinds."""
    sizes = dict.fromkeys(f"{case.first.batch_size} of {case.first.pixels}" for case in row.cases if case.kind == "speed")
    return listed(sizes, 4) if sizes else str(len(row.cases))
