"""From JPEG files to batches: which arm to choose, what limits it, and where an image's time goes."""

import math
from collections.abc import Mapping
from functools import partial
from operator import attrgetter

from bench.records import UNKNOWN, Case, Run, format_number, group_by, percent, plural
from bench.report.blocks import BREAK, Answer, Block, Bullets, Code, Heading, Paragraph, Quiet, Section, Text
from bench.report.facts.cases import LANES, find_ties
from bench.report.facts.pipeline import OTHER, STEP, WAIT, Feeding, Span, feedings, ratio, verdict
from bench.report.figures import Line, Look, Row, bars, lines, series_look
from bench.report.sections.state import failed_section, require_quiet
from bench.report.tables import Column, build_table, words_column
from bench.report.words import capitalise, judge, name_or_undecided, with_spread

TITLE, QUESTION = "From JPEG files to batches", "How should photographs be fed?"
METHOD = """Each arm is a list of stages. A stage has the share of time that the arm saves with the stage's recorded results in
its place, without loader workers; whole and part take turns batch by batch, with the device waited for after each. Where the
arm has workers, its photographs are fetched in one thread then, as in a worker. Nothing makes the stages add up: their sum
stands beside the whole. With workers, the rate is predicted from the slowest of workers, training process and cores; the
prediction's error is stated. Windows are cut where photographs are decoded; those beyond 512 pixels are shrunk there in 8 bits.
The clock starts once every worker has sent a batch. All files were read before (a warm page cache, which hides the disk),
unless the setting says cold. DALI's graph keeps two batches in work ahead, in the order of the files."""
STAGES: Mapping[str, Look] = {
    "read": Look("s3"), "decode": Look("s0"), "cut": Look("s7"), "augment": Look("s1"), "collate": Look("s4"),
    "copy": Look("s6"), WAIT: Look("wait"), STEP: Look("work"), OTHER: Look("grid"),
}  # fmt: skip
NOUNS = {
    "read": "reading files", "decode": "decoding", "cut": "cutting windows", "augment": "augmentation", "collate": "collating",
    "copy": "copying to the device", STEP: "the training step",
}  # fmt: skip
MOST_LINES = 8
LEAST_BALANCE = 0.75
"""Sum of the stages, as a share of the whole, below which (and as far above it) they explain nothing."""


def pipeline_section(run: Run) -> Section | None:
    """Return the arms of each setting: limits, stages, recipes, workers and decoders."""
    groups = feedings(run)
    if not groups:
        return failed_section(run, "pipeline", TITLE, QUESTION)
    blocks: list[Block] = []
    for index, feeding in enumerate(groups, start=1):
        blocks += [Paragraph(f"Setting: {_setting(feeding.first)}."), *_limits(feeding), *_stages(feeding, index)]
        blocks += [*_recipes(run, feeding), *_workers(feeding, index), *_decoders(feeding), *_odd_files(feeding.first)]
    return Section(title=TITLE, blocks=[*blocks, Paragraph(METHOD)], answers=_answer(run, groups[0]))


def _setting(case: Case) -> str:
    size = f"batches of {case.batch_size}, {case.precision} of {case.image_size} pixels, on {case.device}"
    return f"{size}; data {case.dataset}, page cache {case.page_cache}"


def name(case: Case) -> str:
    """Return "fused in 2 workers, decoded by pil" or "fused on the device, decoded by pil in the training process"."""
    count = int(case.num_workers or 0)
    fetched = f"in {plural(count, 'worker')}" if count else "in the training process"
    trained = f", {case.model} behind it" if case.model else ""
    if case.augment_on is None:
        return f"{case.decoder} alone {fetched}"
    if case.augment_on == "workers":
        return f"{case.backend} {fetched}{trained}"
    source = "packed photographs read" if case.decoder == "packed" else f"decoded by {case.decoder}"
    return f"{case.backend} on the device, {source} {fetched}{trained}"


# ---- the answer and the limits ----------------------------------------------------------------------------------------


def _answer(run: Run, feeding: Feeding) -> list[Answer]:
    """Return the fastest arm of the first recipe that does it as it is defined (if none is known to, of all), and its limit."""
    ranked = feeding.best(feeding.whole(feeding.recipe))
    cases = [case for case in ranked if verdict(run, case)[0]] or ranked
    if not cases:
        return []
    best, rounds = cases[0], plural(len(cases[0].records), "round")
    evidence = f"{feeding.recipe} ({verdict(run, best)[1]}) at {best.image_size} pixels: "
    evidence += f"{with_spread(best, 'images_per_s')} images/s, {rounds}"
    for case in cases[1:2]:
        evidence += f"; next {name(case)}, {with_spread(case, 'images_per_s')}, {judge(best, case)}"
    answer = capitalise(name_or_undecided([name(case) for case in find_ties(cases)[:3]]))
    return [require_quiet(Answer(QUESTION, answer, f"{evidence}. {limit(feeding, best)}".strip()), cases[:2])]


def limit(feeding: Feeding, case: Case) -> str:
    """Return what limits a case, and whether its disk would; "" where no stages were left out."""
    return f"{_slowest_stage(feeding, case)}{_disk(case)}".strip()


def _slowest_stage(feeding: Feeding, case: Case) -> str:
    """Return a sentence such as "Decoding alone reaches 610 images/s in 2 workers, augmentation 9 times that: ..."."""
    parts: Mapping[str, float] = {stage: span.value for stage, span in feeding.parts(case).items()}
    if parts and not LEAST_BALANCE < feeding.balance(case) < 2 - LEAST_BALANCE:
        return f"Its stages add up to {percent(feeding.balance(case), 0)} of the whole: what limits it is not known."
    units, where = 1, "in the training process"
    if (predicted := feeding.prediction(case)) is not None:
        counts = {"workers": (int(case.num_workers), "worker"), "cores": (int(case.cores or 1), "core")}
        parts = predicted.parts
        if predicted.resource in counts:
            units, noun = counts[predicted.resource]
            where = f"{'in' if noun == 'worker' else 'on'} {plural(units, noun)}"
    first, *rivals = sorted((stage for stage in parts if parts[stage] > 0), key=lambda stage: -parts[stage]) or [""]
    if not first:
        return ""
    text = f"{capitalise(NOUNS[first])} alone reaches {format_number(units / parts[first])} images/s {where}"
    text += f", {NOUNS[rivals[0]]} {format_number(parts[first] / parts[rivals[0]], 2)} times that" if rivals else ""
    return f"{text}: {'the disk' if first == 'read' else NOUNS[first]} is the limit."


def _disk(case: Case) -> str:
    """Return a sentence about a disk that is slower than a case whose files lay in memory."""
    readers = int(case.num_workers) or 1
    if case.page_cache == "cold" or (case.disk_images_per_s or math.inf) * readers > case.rate:
        return ""
    words = f"{format_number(case.disk_images_per_s)} files/s a reader"
    return f" Files lay in memory here; from the disk they come at {words}: the disk is the limit then."


def _limits(feeding: Feeding) -> list[Block]:
    cases = feeding.best(feeding.whole(feeding.recipe))[:MOST_LINES]
    cases += feeding.best(feeding.whole(feeding.recipe, trained=True))
    items = [f"{name(case)}: {format_number(case.rate)} images/s. {words}" for case in cases if (words := limit(feeding, case))]
    return [Bullets(items)] if items else []


# ---- stages -----------------------------------------------------------------------------------------------------------


def _attributed(feeding: Feeding) -> list[Case]:
    cases = feeding.whole(feeding.recipe) + feeding.whole(feeding.recipe, trained=True)
    return sorted(filter(feeding.parts, cases), key=lambda case: (case.model or "", case.arm, case.num_workers))


def _stages(feeding: Feeding, index: int) -> list[Block]:
    """Return the stacked bars by arm and the table with sums, wholes and predictions."""
    cases = _attributed(feeding)
    if not cases:
        return []
    rows, used = list[Row](), set[str]()
    for lane, group in group_by(cases, attrgetter("lane")).items():
        rows.append(Row(LANES.get(lane, UNKNOWN)))
        for case in group:
            own, fetched = split(feeding, case)
            used |= {*own, *fetched}
            label = ", ".join([case.arm, plural(int(case.num_workers), "worker"), *filter(None, [case.model])])
            rows.append(Row(label, (), own, fetched, f"{format_number(case.rate)}/s"))
    legend = {stage: look for stage, look in STAGES.items() if stage in used}
    alternative = "Milliseconds an image by stage: stacked bars of the training process; below, thin, the stages of workers."
    figure = bars(f"pipeline-{index}-stages", alternative, rows, legend, "milliseconds an image")
    names = [stage for stage in STAGES if any(stage in feeding.parts(case) for case in cases)]
    columns = [
        words_column("arm", name),
        *(Column(stage, partial(_stage, feeding, stage)) for stage in names),
        Column("whole", lambda case: format_number(1e3 * feeding.serial_s(case))),
        Column("sum : whole", lambda case: percent(feeding.balance(case), 0)),
        Column("predicted images/s", partial(_prediction, feeding)),
        Column("measured images/s", _measured),
    ]
    words = "Stages and whole (one stage after the other): milliseconds an image, intervals below. Below a predicted rate: "
    words += "the resource that sets it, and the prediction's error. Below a measured rate: the share of waiting for workers."
    return [Heading("Where an image's time goes"), figure, Paragraph(words), build_table(columns, cases)]


def split(feeding: Feeding, case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """Return milliseconds an image in the training process, which add up to the whole, and in loader workers."""
    parts = {stage: 1e3 * max(span.value, 0.0) for stage, span in feeding.parts(case).items()}
    whole = 1e3 / case.rate
    fetched = {stage: value for stage, value in parts.items() if case.num_workers and stage in (case.fetched or ())}
    own = {stage: value for stage, value in parts.items() if stage not in fetched}
    if case.num_workers:
        own[WAIT] = whole * (case.median("wait_share") or 0.0)
    own[OTHER] = max(0.0, whole - sum(own.values()))
    return own, fetched


def _stage(feeding: Feeding, stage: str, case: Case) -> Text:
    span: Span | None = feeding.parts(case).get(stage)
    if span is None:
        return ""
    ends = f"{format_number(1e3 * span.interval[0], 2)} to {format_number(1e3 * span.interval[1], 2)}" if span.interval else ""
    return [format_number(1e3 * span.value), BREAK, Quiet(ends)]


def _measured(case: Case) -> Text:
    waiting = [BREAK, Quiet(f"waiting {percent(case.median('wait_share'), 0)}")] if case.num_workers else []
    return [with_spread(case, "images_per_s"), *waiting]


def _prediction(feeding: Feeding, case: Case) -> Text:
    predicted = feeding.prediction(case)
    if predicted is None:
        return ""
    return [format_number(predicted.rate), BREAK, Quiet(f"{predicted.resource}, {100 * predicted.error(case):+.0f} %")]


# ---- recipes, workers, decoders ---------------------------------------------------------------------------------------


def _recipes(run: Run, feeding: Feeding) -> list[Block]:
    cases = feeding.best(feeding.whole()) + feeding.best(feeding.whole(trained=True))
    order = list(dict.fromkeys(case.recipe for case in feeding.whole()))
    columns = [
        words_column("recipe", lambda case: [Code(case.recipe)]),
        words_column("arm, at its best number of workers", name),
        Column("images/s", lambda case: with_spread(case, "images_per_s")),
        Column("rounds", lambda case: str(len(case.records))),
        Column(": torchvision in workers", lambda case: f"{r:.2f}" if (r := ratio(run, feeding, case)) else ""),
        words_column("audit", lambda case: verdict(run, case)[1]),
        Column("host memory, MiB", lambda case: _mebibytes(case, "host_bytes")),
        Column("device memory, MiB", lambda case: _mebibytes(case, "device_bytes")),
    ]
    ranked = sorted(cases, key=lambda case: (order.index(case.recipe), bool(case.model), -case.rate))
    words = "An op stands for RandomResizedCrop, the op, Normalize. Host memory: what a pass adds to the idle training process."
    return [Heading("Recipes and ops"), Paragraph(words), build_table(columns, ranked)] if ranked else []


def _mebibytes(case: Case, quantity: str) -> str:
    return format_number(largest / 2**20) if (largest := max(case.values(quantity), default=0.0)) else ""


def _workers(feeding: Feeding, index: int) -> list[Block]:
    """Return images/s over the number of workers, an arm a line."""
    cases = [*_alone(feeding), *feeding.whole(feeding.recipe)]
    counts = sorted({int(case.num_workers) for case in cases})
    if len(counts) < 2:
        return []
    by_arm = group_by(sorted(cases, key=lambda case: -case.rate), attrgetter("arm"))
    series = [
        Line.of_rounds(arm, series_look(i), sorted((int(case.num_workers), case.rates) for case in group))
        for i, (arm, group) in enumerate(by_arm.items())
    ]
    alternative = "Images per second by number of loader workers: a line an arm; 0: the training process fetches."
    panel, name = {"": series[:MOST_LINES]}, f"pipeline-{index}-workers"
    return [lines(name, alternative, panel, "loader workers", "images/s", zero=True, ticks=counts)]


def _alone(feeding: Feeding) -> list[Case]:
    return [case for case in feeding.cases if case.recipe is None]


def _decoders(feeding: Feeding) -> list[Block]:
    cases = _alone(feeding)
    peers = sorted({peer for case in cases for peer in case.pixel_differences or ()})
    if not cases:
        return []
    columns = [
        words_column("decoder", lambda case: [Code(case.decoder)]),
        Column("workers", lambda case: str(case.num_workers)),
        Column("images/s, files to pixels", lambda case: with_spread(case, "images_per_s")),
        *(words_column(f"to {peer}: largest, mean", partial(_difference, peer)) for peer in peers),
    ]
    words = "Differences of pixels are in levels of 255; images of two sizes are compared at the smaller."
    return [Heading("Decoders alone"), Paragraph(words), build_table(columns, sorted(cases, key=lambda c: -c.rate))]


def _difference(peer: str, case: Case) -> str:
    pairs = [record.pixel_differences[peer] for record in case.records if peer in (record.pixel_differences or ())]
    return f"{pairs[0][0]:.0f}, {format_number(pairs[0][1], 2)}" if pairs else ""


def _odd_files(case: Case) -> list[Block]:
    """Return the files that no arm shows, and those that Pillow decodes in all."""
    lists = {"Left out": case.skipped_files, "Decoded, and turned upright, by Pillow": case.odd_files}
    blocks: list[Block] = []
    for words, files in lists.items():
        blocks += [Paragraph(f"{words}, in all arms alike:"), Bullets(files)] if files else []
    return blocks
