"""What a report ends with: what is missing and why, how it was measured, and where the records are."""

from collections import Counter
from collections.abc import Sequence

from bench.records.measurements import Measurement, finite
from bench.report.arms import Arm, Record
from bench.report.blocks import Block, Bullets, Code, Heading, Link, Paragraph, Table, Text
from bench.report.context import FIGURES, Context
from bench.report.finetune import arm_words
from bench.report.lanes import LANES, passes, rate
from bench.report.quantities import NOISY, UNKNOWN, counted, half_range, listed, percent, word

MOST_ROWS = 100

TIMED = (
    "What is timed: a batch that already lies on the device goes through the pipeline into memory of its own. Recipes start "
    "from the same uint8 batch and end in the same normalised dtype for every backend; ops start from floats in [0, 1]."
)
RATE = (
    "images/s of a pass is batch size times calls over the seconds of all calls, so batches that skipped an op of p < 1 "
    "count as often as they happened; the figure quoted is the median of the passes."
)
CLOCKS = (
    "Clocks: wall time with the device synchronised before and after each call; where a device has a clock of its own, the "
    "same call by that one too. Building, compiling and warming up come before and are recorded apart."
)
LANES_WORDS = (
    f"Lanes: {'; '.join(LANES.values())}. A library that draws once for a batch does less work and augments less, so lanes "
    "are never ranked together."
)
RATIOS = (
    "Ratios stand only within a lane, against the baseline named in the table, and only where both do the op as it is "
    "defined; cells with a named difference show their own images/s and a footnote."
)
TRAINING = (
    "Training: wall time over the steps, from a synchronised start to a synchronised end; waiting is the time in which the "
    "CPU, or an accelerator, stood without a batch. Augmentation in workers therefore shows as waiting, on the device as a "
    "longer step."
)
TIMED_STEPS = ("throughput", "accuracy", "scaling", "finetune", "photographs", "overhead")
STATUS = {"failed": "failed", "not_run": "not run", "unsupported": "unsupported"}
FILES = (
    ("environment.json", "machine, devices, versions, commit, data set"),
    ("gallery/gallery.json", "what the pictures show of each op on each backend"),
    ("audit.json", "whether the backends do the same: errors, lanes, distributions, a verdict a cell"),
    ("plan.json", "every planned case and the order in which they ran"),
    ("ops.json", "every case with all samples"),
    ("ops.jsonl", "the journal of a run that has not ended"),
    ("training.jsonl", "training throughput and accuracy, a record a line"),
    ("measurements.csv", "a row a case"),
)


# ---- what is missing --------------------------------------------------------------------------------------------------


def missing(context: Context) -> list[Block]:
    """What failed, what is unsupported, what was not run, and why; nothing planned disappears."""
    run = context.run
    counts = Counter(one.status for one in run.measurements)
    blocks: list[Block] = [Heading(text="What failed, is unsupported or was not run")]
    planned = counted(len(run.measurements), "planned case")
    became = f"{counts['ok']:,} measured, {counts['unsupported']:,} unsupported, {counts['failed']:,} failed"
    cases = [f"{planned}: {became}, {counts['not_run']:,} not run."] if run.measurements else []
    trained = [_training_words(context)] if run.training else []
    blocks.append(Paragraph(" ".join([*cases, *trained]) or "No case was planned, and there is no training record."))
    rows = [*_case_rows(run.measurements), *_training_rows(context)]
    if rows:
        header = ["what became of it", "suite", "subjects", "backend", "device", "batch and pixels", "why"]
        blocks.append(Table(header=header, rows=rows[:MOST_ROWS]))
    if len(rows) > MOST_ROWS:
        blocks.append(Paragraph(f"{len(rows) - MOST_ROWS:,} more rows are in measurements.csv."))
    if run.problems:
        blocks.append(Paragraph("Could not be read:"))
        blocks.append(Bullets(run.problems[:MOST_ROWS]))
    return blocks


def not_measured(context: Context, absent: Sequence[str]) -> list[Block]:
    """The last line: what a run can measure and this one did not set out to, so that nothing vanishes without a word."""
    if not absent:
        return []
    merged = " Pictures of ops stand in the reports of the single runs." if context.run.parts else ""
    several = "these runs" if context.run.parts else "this run"
    return [Paragraph(f"Not measured in {several}: {'; '.join(absent)}.{merged}")]


def _training_words(context: Context) -> str:
    every = context.run.training
    counts = Counter(str(record.get("status", "ok")) for record in every)
    failed = len(left_failed(every))
    others = f" and {counts['unsupported']:,} unsupported" if counts["unsupported"] else ""
    mended = len(every) - counts["ok"] - counts["unsupported"] - failed
    again = f"; {counted(mended, 'more failure')} gave a result when tried again" if mended else ""
    return f"{counted(len(every), 'training record')}, {failed:,} of them failed{others}{again}."


def _case_rows(measurements: Sequence[Measurement]) -> list[list[Text]]:
    """A row for each reason, backend and device, the worst first; its subjects and sizes beside each other."""
    groups: dict[tuple[str, str, str, str, str], list[Measurement]] = {}
    for one in measurements:
        if one.status in STATUS:
            # "AugMix is not supported by kornia" is one reason for many ops, not one for each.
            shared = _reason(one).replace(one.case.subject, "…")
            place = (one.status, one.case.suite, one.case.backend, one.case.device, shared)
            groups.setdefault(place, []).append(one)
    order = list(STATUS)
    rows: list[list[Text]] = []
    for key in sorted(groups, key=lambda key: order.index(key[0])):
        status, suite, backend, device, shared = key
        cases = [one.case for one in groups[key]]
        subjects = list(dict.fromkeys(case.subject for case in cases))
        sizes = dict.fromkeys(f"{case.batch_size} of {case.pixels}" for case in cases)
        reason = shared if len(subjects) > 1 else _reason(groups[key][0])
        rows.append([STATUS[status], suite, listed(subjects), [Code(backend)], device, listed(sizes, 4), reason])
    return rows


def _reason(one: Measurement) -> str:
    return one.reason or ("the run ended before it" if one.status == "not_run" else "no reason was kept")


def _training_rows(context: Context) -> list[list[Text]]:
    """A row for each failure that nothing has made good, and for what is unsupported."""
    rows: list[list[Text]] = []
    failed = set(map(id, left_failed(context.run.training)))
    for record in context.run.training:
        status = str(record.get("status", "ok"))
        if status == "unsupported" or id(record) in failed:
            became = STATUS.get(status, "failed")
            what, backend = _training_what(record)
            reason = word(record, "reason")
            rows.append([became, word(record, "kind"), what, [Code(backend)], word(record, "device"), "", reason])
    return rows


def left_failed(training: Sequence[Record]) -> list[Record]:
    """The failures that nothing has made good."""
    from bench.records import training_cases  # which builds on this package

    return training_cases.left_failed(training)


def _training_what(record: Record) -> tuple[str, str]:
    """What was trained, or decoded, and by which library."""
    if record.get("kind") == "decoding":
        return "", word(record, "decoder")
    arm = Arm(records=[record])
    trained = f"{arm_words(arm)}, seed {word(record, 'seed')}" if record.get("kind") == "finetune" else arm.label
    return f"{word(record, 'recipe')}, {trained}", word(record, "backend")


# ---- how it was measured ----------------------------------------------------------------------------------------------


def method(context: Context) -> list[Block]:
    """What is timed, by which clock, how often, and how to read it; numbers from this run, and nothing of what it lacks."""
    items = [TIMED, RATE, CLOCKS, _passes_words(context), LANES_WORDS, RATIOS] if context.run.measurements else []
    items += [TRAINING] if any(record.get("kind") in TIMED_STEPS for record in context.run.training) else []
    return [Heading(text="How it was measured, and how to read it"), Bullets(items)] if items else []


def _passes_words(context: Context) -> str:
    cells = [one for one in context.run.measurements if rate(one) is not None]
    if not cells:
        return "Passes: none was measured."
    counts = sorted({len(passes(one)) for one in cells})
    shares = sorted(share for one in cells if (share := half_range(passes(one))) is not None)
    text = f"Passes: {listed(map(str, counts))}, each over the whole grid in a new order (compiled cases run theirs together)"
    seconds = context.run.plan.get("case_seconds")
    text += f", {seconds} s of samples a case and pass" if finite(seconds) else ""
    text += f"; calls a case: {min(one.rounds for one in cells):,} to {max(one.rounds for one in cells):,}"
    if shares:
        middle = percent(shares[len(shares) // 2])
        text += f". Half the range between passes: {middle} of the median in the middle case, {percent(shares[-1])} at most"
    threads = sorted({one.threads for one in cells if one.threads is not None})
    text += f". Threads set while timing: {listed(map(str, threads)) or UNKNOWN}; fused itself keeps small batches on fewer"
    return f"{text}. Called noisy: cells whose passes differ by more than {percent(NOISY, 0)} of the median either way."


# ---- files ------------------------------------------------------------------------------------------------------------


def files(context: Context) -> list[Block]:
    """The records beside the report."""
    folder = context.run.path
    found = [(folder / name, what) for name, what in FILES if (folder / name).exists()]
    items: list[Text] = [[Link(path.relative_to(folder).as_posix(), context.beside(path)), f": {what}"] for path, what in found]
    if (context.folder / FIGURES).is_dir():
        items.append([Link(f"{FIGURES}/", f"{FIGURES}/"), ": the pictures above, as SVG"])
    return [Heading(text="Files"), Bullets(items) if items else Paragraph("None.")]
