"""Photographs: which layers to train, where the time goes, and which decoder is fastest."""

import statistics
from collections.abc import Sequence
from functools import partial

from bench.records import Run
from bench.report.blocks import BREAK, Answer, Block, Bullets, Code, Paragraph, Section
from bench.report.facts.accuracy import difference
from bench.report.facts.arms import Arm
from bench.report.facts.lanes import slower
from bench.report.facts.photographs import Race, finetune_settings, image_ms, placements, races, undecided_with, winners_by_size
from bench.report.facts.placement import speeds
from bench.report.figures import Figure, Line, Look, Panel, Row, bars, lines, series_look
from bench.report.sections.accuracy import FEW, each_seed, learning_figure, mean_score
from bench.report.sections.state import failed_section
from bench.report.sections.training import VERDICTS
from bench.report.tables import Column, build_table, words_column
from bench.report.words import (
    UNKNOWN,
    capitalised,
    counted,
    interval,
    label,
    listed,
    lowered,
    measured,
    percent,
    points,
    rounded,
    scored,
    with_spread,
)

TUNING, TIME, DECODING = "Fine-tuning on photographs", "Photographs: where the time goes", "Decoding JPEG files"
TRAINED, TAKES, DECODER = "Which layers should be trained?", "Photographs: what takes the time?", "Which decoder is fastest?"
MODES = {"full": "all layers", "frozen": "the last layer", "scratch": "all layers, from random weights"}
TUNING_METHOD = (
    "Accuracy on the validation photographs after the last epoch. The best epoch, whose weights are kept, is chosen on the "
    "photographs that it is measured on, so its accuracy flatters. Memory: the most that torch held on an accelerator, else "
    "the largest resident size of the training process."
)
TIME_METHOD = (
    "Milliseconds a photograph. Waiting, copying, augmenting and the step add up to the wall time of the training process; "
    "decoding and augmenting where photographs are fetched (thin bars) are those of all loader workers together and run "
    "beside it. On the device, a worker cuts the window of RandomResizedCrop (shrunk in 8 bits beyond 512 pixels), and the "
    "device resizes it with antialiasing, for every backend alike."
)
DECODE_METHOD = (
    "Whole files from memory to RGB pixels; megapixels and bytes are those of the file. Medians of the rounds, ± half the "
    "range."
)
CURVES = (("train_loss", "train loss", 1), ("test_accuracy", "validation accuracy, %", 100))
PARTS = {
    "forward_backward": ("forward and backward", Look("work")),
    "optimizer": ("optimizer", Look("quiet")),
    "augment": ("augmenting on the device", Look("s6")),
    "copy": ("copying", Look("s4")),
    "wait": ("waiting", Look("wait")),
    "other": ("other", Look("grid")),
    "decode_s": ("decoding where fetched", Look("s0")),
    "worker_augment_s": ("augmenting where fetched", Look("s1")),
}
MOST_SETTINGS, MOST_SKIPPED = 2, 20


# ---- fine-tuning ----------------------------------------------------------------------------------------------------------


def arm_name(arm: Arm) -> str:
    """Return "the last layer, no augmentation, features computed once"."""
    once = ", features computed once" if arm.mode == "frozen" and arm.is_bare else ""
    return f"{MODES.get(arm.mode, arm.mode)}; {label(arm)}{once}"


def finetune_section(run: Run) -> Section | None:
    """Fine-tuning: for each setting curves, a table and the files that were skipped."""
    groups = finetune_settings(run)
    if not groups:
        return failed_section(run, "finetune", TUNING, TRAINED)
    blocks: list[Block] = [Paragraph(TUNING_METHOD)]
    for index, arms in enumerate(groups, start=1):
        blocks += [
            Paragraph(f"Setting: {_tuning_setting(arms[0])}."),
            learning_figure(f"finetune-{index}", arms, list(map(arm_name, arms)), CURVES),
        ]
        blocks += [_tuning_table(arms), *_skipped(arms[0])]
    shown = groups[:MOST_SETTINGS]
    evidence: list[str] = []
    for arms in shown:
        evidence += [*([BREAK] if evidence else []), _tuning_evidence(arms)]
    verdicts = dict.fromkeys(map(_layers, groups))
    several = "; ".join(f"with {arms[0].train_images} photographs {lowered(_layers(arms))}" for arms in shown)
    answer = next(iter(verdicts)) if len(verdicts) == 1 else capitalised(several)
    note = "Fine-tuning: accuracy on the validation photographs after the last epoch, ± half the 95 % interval over seeds; "
    note += "undecided where the interval of a difference includes zero."
    return Section(title=TUNING, blocks=blocks, answers=[Answer(question=TRAINED, answer=answer, evidence=evidence)], note=note)


def _layers(arms: Sequence[Arm]) -> str:
    """Return which layers lead, or that it is undecided."""
    equal = undecided_with(arms)
    names = [MODES.get(arm.mode, str(arm.mode)) for arm in (arms[0], *equal)]
    if len(arms) == 1:
        return f"Only {names[0]} tried"
    if not equal:
        return capitalised(names[0])
    return "Undecided" + ("" if len(names) == len(arms) else f": {' or '.join(names)}")


def _tuning_evidence(arms: Sequence[Arm]) -> str:
    best, *others = arms
    modes = [MODES.get(arm.mode, str(arm.mode)) for arm in arms]
    names = modes if len(set(modes)) == len(modes) else list(map(arm_name, arms))
    reached = "; ".join(f"{name} {scored(arm)}" for name, arm in zip(names, arms, strict=True))
    gaps = [difference(best, arm) for arm in others]
    text = f"{best.model}, {best.train_images} photographs to train on: {reached}."
    text += f" The first is ahead by {' and '.join(map(points, gaps))} points, by runs of the same seed." if gaps else ""
    return text + (f" {capitalised(FEW)}." if any(gap is None or gap.half is None for gap in gaps) else "")


def _tuning_setting(arm: Arm) -> str:
    width = "" if arm.width is None else f" of width {arm.width}"
    rate = (
        f"SGD {arm.learning_rate}, the last layer (from random weights all of them) {arm.head_rate} times that, a tenth every"
    )
    kept = ", batch norm keeps its statistics" if arm.keep_statistics else ""
    images = f"data {arm.dataset}, {arm.train_images} photographs to train on and {arm.test_images} to validate on"
    return (
        f"{arm.model}{width} at {arm.image_size} pixels, {arm.num_epochs} epochs, batch {arm.batch_size}, {rate} {arm.decay_every} "
        f"epochs{kept}, on {arm.device}; {images}"
    )


def _tuning_table(arms: Sequence[Arm]) -> Block:
    scratch = next((arm for arm in arms if arm.mode == "scratch"), None)
    columns = [
        words_column("what is trained", lambda arm: MODES.get(arm.mode, str(arm.mode))),
        words_column("starting from", lambda arm: [Code(arm.init)]),
        words_column("augmented by", lambda arm: arm_name(arm).partition("; ")[2]),
        words_column("implementation", lambda arm: arm.implementation or ""),
        Column("last epoch, mean", mean_score),
        Column("each seed", each_seed),
        Column("seeds", lambda arm: str(len(arm.values("test_accuracy")))),
        Column(
            "minus scratch, points", lambda arm: "" if scratch is None or arm is scratch else points(difference(arm, scratch))
        ),
        Column("best epoch, mean", lambda arm: percent(arm.mean("best_accuracy")) + interval(arm.values("best_accuracy"))),
        Column("examples/s", lambda arm: with_spread(arm, "examples_per_s")),
        Column("seconds a run", _run_seconds),
        Column("memory, MiB", _memory),
    ]
    return build_table(columns, arms)


def _run_seconds(arm: Arm) -> str:
    features = arm.median("features_s")
    return rounded(arm.median("total_s")) + (f" ({rounded(features)} for features)" if features else "")


def _memory(arm: Arm) -> str:
    peak = arm.median("peak_bytes") or arm.median("resident_bytes")
    return UNKNOWN if peak is None else rounded(peak / 2**20)


def _skipped(arm: Arm) -> list[Block]:
    files = arm.skipped_files or ()
    more = [f"and {len(files) - MOST_SKIPPED:,} more"] if len(files) > MOST_SKIPPED else []
    return [Paragraph(f"{counted(len(files), 'file')} skipped:"), Bullets([*files[:MOST_SKIPPED], *more])] if files else []


# ---- where the time goes --------------------------------------------------------------------------------------------------


def _placement(arm: Arm) -> str:
    """Return an arm's label with its loader workers."""
    if arm.augment_on != "device":
        return label(arm)
    count = int(arm.num_workers or 0)
    return f"{label(arm)}, " + (
        f"{counted(count, 'worker')} {'decodes' if count == 1 else 'decode'}" if count else "no workers"
    )


def time_section(run: Run) -> Section | None:
    """Return decoding, augmentation and the step at the network's size, by placement."""
    groups = placements(run)
    if not groups:
        return failed_section(run, "photographs", TIME, TAKES)
    blocks: list[Block] = [Paragraph(TIME_METHOD)]
    for index, arms in enumerate(groups, start=1):
        first = arms[0]
        title = f"{first.model} ({MODES.get(first.mode, '')} trained) at {first.image_size} pixels, batch {first.batch_size}"
        blocks += [
            Paragraph(f"Setting: {title}, on {first.device}, data {first.dataset}."),
            _time_figure(arms, f"photographs-{index}"),
        ]
        columns = [
            words_column("placement", _placement),
            words_column("implementation", lambda arm: arm.implementation or ""),
            Column("examples/s", lambda arm: with_spread(arm, "examples_per_s")),
            *(Column(f"{words}, ms", partial(_part, name)) for name, (words, _) in PARTS.items()),
            Column("rounds", lambda arm: str(len(arm.records))),
        ]
        blocks.append(build_table(columns, arms))
    return Section(title=TIME, blocks=blocks, answers=_time_answer(groups[0]))


def _part(name: str, arm: Arm) -> str:
    process, fetching = image_ms(arm)
    content = {**process, **fetching}.get(name)
    return "" if content is None else rounded(content)


def _time_figure(arms: Sequence[Arm], name: str) -> Figure:
    rows, used = [], set[str]()
    for arm in arms:
        process, fetching = ({n: part[n] for n in PARTS if part.get(n)} for part in image_ms(arm))
        used |= {*process, *fetching}
        parts, below = ({PARTS[n][0]: ms for n, ms in part.items()} for part in (process, fetching))
        rows.append(Row(label=_placement(arm), parts=parts, below=below, note=f"{rounded(arm.speed)} ex/s"))
    speeds = listed((f"{_placement(arm)} {rounded(arm.speed)}" for arm in arms), 10)
    alternative = "Milliseconds a photograph by placement: the training process, and fetching as thin bars. "
    alternative += f"Examples per second: {speeds}."
    legend = {words: look for n, (words, look) in PARTS.items() if n in used}
    return bars(name, alternative, rows, legend, "milliseconds a photograph")


def _time_answer(arms: Sequence[Arm]) -> list[Answer]:
    """Return the largest part of a photograph's time in the fastest placement."""
    augmented = [arm for arm in arms if arm.speed and not arm.is_bare and image_ms(arm)[0]]
    if not augmented:
        return []
    best, *others = augmented
    process, fetching = image_ms(best)
    most, whole = max(process, key=lambda name: process[name]), sum(process.values()) or 1.0
    answer = capitalised(f"{PARTS[most][0]}: {percent(process[most] / whole, 0)} of it")
    reached = measured(speeds(best), "examples/s")
    evidence = f"With {best.recipe} the fastest placement, {_placement(best)}, reaches {reached}: {rounded(process[most])} of "
    evidence += f"{rounded(whole)} ms a photograph."
    beside = [f"{PARTS[name][0]} {rounded(ms)} ms" for name, ms in fetching.items() if ms]
    evidence += f" Beside it, {', '.join(beside)}." if beside else ""
    if others:
        verdict = VERDICTS[slower(speeds(best), speeds(others[0]))]
        evidence += f" Next: {_placement(others[0])}, {measured(speeds(others[0]), 'examples/s')}, {verdict}."
    return [Answer(question=TAKES, answer=answer, evidence=evidence)]


# ---- decoding -------------------------------------------------------------------------------------------------------------


def decoding_section(run: Run) -> Section | None:
    """Return decoders by image size and number of processes."""
    groups = races(run)
    if not groups:
        return failed_section(run, "decoding", DECODING, DECODER)
    blocks: list[Block] = [Paragraph(DECODE_METHOD)]
    for index, group in enumerate(groups, start=1):
        first = group[0].ranked[0]
        blocks += [Paragraph(f"Setting: JPEG quality {first.quality}, data {first.dataset}, on {first.device}.")]
        blocks += [_decoding_figure(group, f"decoding-{index}"), _decoding_table(group)]
    sizes: dict[str, list[str]] = {}
    for size, winner in winners_by_size(groups[0]).items():
        sizes.setdefault(winner or "undecided", []).append(str(size))
    answer = (
        next(iter(sizes))
        if len(sizes) == 1
        else "; ".join(f"{name} at {' and '.join(at)} pixels" for name, at in sizes.items())
    )
    return Section(
        title=DECODING,
        blocks=blocks,
        answers=[
            Answer(
                question=DECODER,
                answer=capitalised(answer) if answer == "undecided" else answer,
                evidence=_race_evidence(groups[0]),
            )
        ],
    )


def _race_evidence(group: Sequence[Race]) -> str:
    race = group[-1]
    reached = "; ".join(f"{arm.decoder} {measured(arm.values('images_per_s'), 'images/s')}" for arm in race.ranked)
    processes = counted(race.num_workers, "process", "processes")
    return (
        f"At a shorter side of {race.image_size} pixels with {processes}: {reached}. A size is undecided if rounds overlap at one of its "
        f"numbers of processes, or if another decoder leads there ({counted(len(group), 'pair')} of size and processes)."
    )


def _decoding_table(group: Sequence[Race]) -> Block:
    rows = [arm for race in group for arm in sorted(race.ranked, key=lambda arm: str(arm.decoder))]
    columns = [
        words_column("decoder", lambda arm: [Code(arm.decoder)]),
        Column("shorter side, pixels", lambda arm: str(arm.image_size)),
        Column("processes", lambda arm: str(arm.num_workers)),
        Column("images/s", lambda arm: with_spread(arm, "images_per_s")),
        Column("MB/s of JPEG", lambda arm: with_spread(arm, "mb_per_s")),
        Column("megapixels/s", lambda arm: with_spread(arm, "megapixels_per_s")),
        Column("rounds", lambda arm: str(len(arm.records))),
    ]
    return build_table(columns, rows)


def _decoding_figure(group: Sequence[Race], name: str) -> Figure:
    decoders = sorted({str(arm.decoder) for race in group for arm in race.ranked})
    counts = sorted({max(race.num_workers, 1) for race in group})
    panels = []
    for size in sorted({race.image_size for race in group}):
        series = []
        for index, decoder in enumerate(decoders):
            rows = [
                (max(r.num_workers, 1), a.values("images_per_s"))
                for r in group
                if r.image_size == size
                for a in r.ranked
                if a.decoder == decoder
            ]
            ends = [(count, min(values), max(values)) for count, values in rows]
            middles = [(float(count), statistics.median(values)) for count, values in rows]
            series += [Line(label=decoder, look=series_look(index), points=middles, whiskers=ends)] if rows else []
        panels.append(Panel(title=f"{size} pixels", lines=series))
    best = max((arm for race in group for arm in race.ranked), key=lambda arm: arm.median("images_per_s") or 0)
    fastest = f"{best.decoder}, {rounded(best.median('images_per_s'))} images/s"
    alternative = (
        f"Images per second by number of processes: a panel a shorter side, a line a decoder. The fastest is {fastest}."
    )
    return lines(name, alternative, panels, "processes", "images/s (log scale)", log=True, across=4, ticks=counts)
