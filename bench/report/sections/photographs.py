"""Photographs: which layers to train, where the time goes, and which decoder is fastest."""

from collections.abc import Sequence
from itertools import chain

from bench.records import Run, counted, percent, rounded
from bench.report.blocks import Answer, Block, Bullets, Code, Paragraph, Section
from bench.report.facts.accuracy import difference
from bench.report.facts.arms import Arm
from bench.report.facts.photographs import Race, finetune_settings, image_ms, placements, races, undecided_with, winners_by_size
from bench.report.figures import Figure, Line, lines, series_look
from bench.report.sections.accuracy import FEW, each_seed, learning_figure, mean_score
from bench.report.sections.parts import PARTS, Split, split_blocks
from bench.report.sections.state import failed_section
from bench.report.sections.training import speed_words, verdict
from bench.report.tables import Column, build_table, words_column
from bench.report.words import capitalise, format_score, interval, label, name_of, points, with_spread
from bench.statistics import SPREAD

TUNING, TIME, DECODING = "Fine-tuning on photographs", "Photographs: where the time goes", "Decoding JPEG files"
TRAINED, TAKES, DECODER = "Which layers should be trained?", "Photographs: what takes the time?", "Which decoder is fastest?"
MODES = {"full": "all layers", "frozen": "the last layer", "scratch": "all layers, from random weights"}
TUNING_NOTE = """Fine-tuning: accuracy on the validation photographs after the last epoch, ± half the 95 % interval over seeds;
undecided where the interval of a difference includes zero."""
TUNING_METHOD = """The best epoch, whose weights are kept, is chosen on the photographs that it is measured on, so its accuracy
flatters. Memory: the most that torch held on an accelerator, else the largest resident size of the training process."""
TIME_METHOD = """The parts of the training process add up to its wall time. Decoding and augmenting where photographs are
fetched (thin bars) are those of all loader workers together and run beside it. On the device, a worker cuts the window of
RandomResizedCrop (shrunk in 8 bits beyond 512 pixels), and the device resizes it with antialiasing, for every backend alike."""
DECODE_METHOD = f"""Whole files from memory to RGB pixels; megapixels and bytes are those of the file. Medians of the rounds,
{SPREAD}. A size is undecided if intervals overlap at one of its numbers of processes, or another decoder leads there."""
CURVES = {"train_loss": ("train loss", 1), "test_accuracy": ("validation accuracy, %", 100)}
MOST_SKIPPED = 20


# ---- fine-tuning ----------------------------------------------------------------------------------------------------------


def mode(arm: Arm) -> str:
    """Return which layers are trained."""
    return MODES.get(arm.mode, str(arm.mode))


def augmentation(arm: Arm) -> str:
    """Return how photographs are augmented."""
    return label(arm) + (", features computed once" if arm.mode == "frozen" and arm.is_bare else "")


def finetune_section(run: Run) -> Section | None:
    """Return fine-tuning: for each setting curves, a table and the files that were skipped."""
    groups = finetune_settings(run)
    if not groups:
        return failed_section(run, "finetune", TUNING, TRAINED)
    blocks: list[Block] = [Paragraph(TUNING_METHOD)]
    for index, arms in enumerate(groups, start=1):
        names = [f"{mode(arm)}; {augmentation(arm)}" for arm in arms]
        blocks += [Paragraph(f"Setting: {_setting(arms[0])}."), learning_figure(f"finetune-{index}", arms, names, CURVES)]
        blocks += [_tuning_table(arms), *_skipped_files(arms[0])]
    answer = Answer(TRAINED, _layers(groups[0]), _evidence(groups[0]))
    return Section(title=TUNING, blocks=blocks, answers=[answer], note=TUNING_NOTE)


def _layers(arms: Sequence[Arm]) -> str:
    """Return which layers lead, or that it is undecided."""
    names = list(map(mode, (arms[0], *undecided_with(arms))))
    if len(arms) == 1 or len(names) == 1:
        return capitalise(names[0]) if len(arms) > 1 else f"Only {names[0]} tried"
    return "Undecided" + ("" if len(names) == len(arms) else f": {' or '.join(names)}")


def _evidence(arms: Sequence[Arm]) -> str:
    best, *rivals = arms
    text = (
        f"{best.model}, {best.train_images} photographs to train on: {mode(best)}, {augmentation(best)}, {format_score(best)}"
    )
    for arm in rivals[:1]:
        gap = difference(best, arm)
        text += f"; minus the next, {_treatment(arm)}: {points(gap)} points"
        text += f", {FEW}" if gap is None or gap.half is None else ""
    return f"{text}."


def _treatment(arm: Arm) -> str:
    return f"{mode(arm)}, {augmentation(arm)}"


def _setting(arm: Arm) -> str:
    norms = ", batch norm keeps its statistics" if arm.keep_statistics else ""
    width = f" of width {arm.width}" if arm.width else ""
    rate = f"SGD {arm.learning_rate} (last layer, or all from random weights: times {arm.head_rate})"
    return (
        f"{arm.model}{width} at {arm.image_size} pixels, {arm.num_epochs} epochs, batch {arm.batch_size}, {rate}, a tenth "
        f"every {arm.decay_every} epochs{norms}, on {arm.device}; data {arm.dataset}: {arm.train_images} photographs to train "
        f"on, {arm.test_images} to validate on"
    )


def _tuning_table(arms: Sequence[Arm]) -> Block:
    scratch = next((arm for arm in arms if arm.mode == "scratch"), None)
    columns = [
        words_column("what is trained", mode),
        words_column("starting from", lambda arm: [Code(arm.init)]),
        words_column("augmented by", lambda arm: augmentation(arm) if arm.mode == "frozen" else name_of(arm)),
        Column("last epoch, mean", mean_score),
        Column("each seed", each_seed),
        Column("seeds", lambda arm: str(len(arm.values("test_accuracy")))),
        Column(
            "minus scratch, points", lambda arm: "" if scratch is None or arm is scratch else points(difference(arm, scratch))
        ),
        Column("best epoch, mean", lambda arm: percent(arm.mean("best_accuracy")) + interval(arm.values("best_accuracy"))),
        Column("examples/s", lambda arm: with_spread(arm, "examples_per_s")),
        Column("seconds a run", lambda arm: rounded(arm.median("total_s"))),
        Column("of it features, s", lambda arm: rounded(arm.median("features_s")) if arm.median("features_s") else ""),
        Column("memory, MiB", lambda arm: rounded((arm.median("peak_bytes") or arm.median("resident_bytes") or 0) / 2**20)),
    ]
    return build_table(columns, arms)


def _skipped_files(arm: Arm) -> list[Block]:
    files = arm.skipped_files or ()
    ends = [f"and {len(files) - MOST_SKIPPED:,} more"] if len(files) > MOST_SKIPPED else []
    return [Paragraph(f"{counted(len(files), 'file')} skipped:"), Bullets([*files[:MOST_SKIPPED], *ends])] if files else []


# ---- where the time goes --------------------------------------------------------------------------------------------------


def _placement(arm: Arm) -> str:
    """Return an arm's label with its loader workers."""
    return label(arm) + (f", {counted(int(arm.num_workers or 0), 'worker')}" if arm.augment_on == "device" else "")


def time_section(run: Run) -> Section | None:
    """Return decoding, augmentation and the step at the network's size, by placement."""
    groups = placements(run)
    if not groups:
        return failed_section(run, "photographs", TIME, TAKES)
    blocks: list[Block] = [Paragraph(TIME_METHOD)]
    for index, arms in enumerate(groups, start=1):
        first = arms[0]
        words = f"{first.model} ({mode(first)} trained) at {first.image_size} pixels, batch {first.batch_size}"
        splits = [Split(_placement(arm), arm, *image_ms(arm)) for arm in arms]
        blocks += [Paragraph(f"Setting: {words}, on {first.device}, data {first.dataset}.")]
        blocks += split_blocks(f"photographs-{index}", "a photograph", splits)
    return Section(title=TIME, blocks=blocks, answers=_time_answer(groups[0]))


def _time_answer(arms: Sequence[Arm]) -> list[Answer]:
    """Return the largest part of a photograph's time in the fastest placement."""
    ranked = [arm for arm in arms if arm.speed and not arm.is_bare and image_ms(arm)[0]]
    if not ranked:
        return []
    best = ranked[0]
    parts, _ = image_ms(best)
    largest, whole = max(parts, key=lambda name: parts[name]), sum(parts.values()) or 1.0
    evidence = f"With {best.recipe} the fastest placement, {_placement(best)}, reaches {speed_words(best)}: "
    evidence += f"{rounded(parts[largest])} of {rounded(whole)} ms a photograph."
    for arm in ranked[1:2]:
        evidence += f" Next: {_placement(arm)}, {speed_words(arm)}, {verdict(best, arm)}."
    return [Answer(TAKES, capitalise(f"{PARTS[largest].words}: {percent(parts[largest] / whole, 0)} of it"), evidence)]


# ---- decoding -------------------------------------------------------------------------------------------------------------


def decoding_section(run: Run) -> Section | None:
    """Return decoders by image size and number of processes."""
    groups = races(run)
    if not groups:
        return failed_section(run, "decoding", DECODING, DECODER)
    columns = [
        words_column("decoder", lambda arm: [Code(arm.decoder)]),
        Column("shorter side, pixels", lambda arm: str(arm.image_size)),
        Column("processes", lambda arm: str(arm.num_workers)),
        Column("images/s", lambda arm: with_spread(arm, "images_per_s")),
        Column("MB/s of JPEG", lambda arm: with_spread(arm, "mb_per_s")),
        Column("megapixels/s", lambda arm: with_spread(arm, "megapixels_per_s")),
        Column("rounds", lambda arm: str(len(arm.records))),
    ]
    blocks: list[Block] = [Paragraph(DECODE_METHOD)]
    for index, group in enumerate(groups, start=1):
        arms = list(chain.from_iterable(group))
        words = f"JPEG quality {arms[0].quality}, data {arms[0].dataset}, on {arms[0].device}"
        blocks += [Paragraph(f"Setting: {words}."), _decoding_figure(group, f"decoding-{index}"), build_table(columns, arms)]
    sizes: dict[str, list[str]] = {}
    for size, winner in winners_by_size(groups[0]).items():
        sizes.setdefault(winner or "undecided", []).append(str(size))
    places = [name if len(sizes) == 1 else f"{name} at {' and '.join(at)} pixels" for name, at in sizes.items()]
    pairs = f"At {counted(len(groups[0]), 'pair')} of shorter side and number of processes"
    evidence = f"{pairs}; rounds that overlap decide nothing."
    return Section(title=DECODING, blocks=blocks, answers=[Answer(DECODER, capitalise("; ".join(places)), evidence)])


def _decoding_figure(group: Sequence[Race], name: str) -> Figure:
    decoders = sorted({str(arm.decoder) for race in group for arm in race})
    panels: dict[str, list[Line]] = {}
    for size in sorted({race[0].image_size for race in group}):
        for index, decoder in enumerate(decoders):
            arms = [arm for race in group if race[0].image_size == size for arm in race if arm.decoder == decoder]
            rounds = [(max(int(arm.num_workers), 1), arm.values("images_per_s")) for arm in arms]
            series = [Line.of_rounds(decoder, series_look(index), rounds)] if rounds else []
            panels.setdefault(f"{size} pixels", []).extend(series)
    counts = sorted({max(race[0].num_workers, 1) for race in group})
    alternative = "Images per second by number of processes: a panel a shorter side, a line a decoder."
    return lines(name, alternative, panels, "processes", "images/s (log scale)", log="xy", ticks=counts)
