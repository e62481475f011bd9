"""Sections on photographs: what fine-tuning gives, where the time goes at a network's usual size, and how fast files decode."""

import statistics
from collections.abc import Sequence

from bench.comparison.seeds import FEWEST_SEEDS, Estimate
from bench.report.accuracy import difference, interval, points_words
from bench.report.arms import Arm, Record, gathered, succeeded, with_spread
from bench.report.blocks import Block, Bullets, Code, Heading, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.failures import failed_section
from bench.report.finetune_figures import decoding_figure, finetune_figure, photographs_figure, placement_words
from bench.report.quantities import UNKNOWN, counted, listed, number, percent, rounded, word

SETTING = (
    *("model", "width", "image_size", "batch_size", "num_epochs", "learning_rate", "head_rate", "momentum", "decay_every"),
    *("keep_statistics", "dataset", "fingerprint", "train_images", "test_images", "device"),
)
START = ("mode", "init", "init_digest", "recipe", "backend", "augment_on", "num_workers")
MODES = {
    "full": "all layers",
    "frozen": "the last layer",
    "scratch": "all layers, from random weights",
}
MOST_SKIPPED = 20
ACCURACIES = (
    "Accuracy on the validation photographs after the last epoch; beside it that of the best epoch, whose weights are the ones "
    "kept. The best epoch is chosen on the photographs that it is measured on, so its accuracy flatters: compare the last."
)
MEMORY = (
    "Memory: the most that torch held on an accelerator, else the largest resident size of the training process as seen after "
    "each batch, without its loader workers; what earlier runs of the same process left behind is part of that."
)
SPLIT = (
    "Milliseconds a photograph. Waiting, copying, augmenting and the step add up to the wall time of the training process, an "
    "epoch from start to end. Decoding and augmenting where photographs are fetched are those of all loader workers together: "
    "they pass meanwhile, and training waits for them as far as they are not fast enough, or where there are no workers."
)
BOUNDED = (
    "On the device: a worker draws the window of RandomResizedCrop from a photograph's own height and width and sends that "
    "window; the device resizes each image's window as torchvision's resized_crop with antialiasing does, "
    "for every backend alike, and the backend does the rest of the recipe. A window longer than 512 pixels, which would make "
    "batches too large, is resized by the worker, in 8 bits as torchvision does it with 8-bit images: about a level of 255 "
    "from floats at most."
)
DECODING = (
    "Whole files from memory to RGB pixels; megapixels and bytes are those of the file, whatever was decoded of it. Median of "
    "the rounds, ± half the range between them. Photographs of the set, resized to the shorter side, saved as JPEG of quality"
)


# ---- in short ----------------------------------------------------------------------------------------------------------


def finetune_findings(context: Context) -> list[Text]:
    """What every arm of the largest setting reached, scratch too; nothing where nothing was fine-tuned."""
    group: Sequence[Record] = max(gathered(succeeded(context.run.training, "finetune"), SETTING), key=len, default=[])
    arms = [arm for own in gathered(group, START) if (arm := Arm(records=own)).values("test_accuracy")]
    if not arms:
        return []
    told = [
        f"{arm_words(arm)} {percent(statistics.fmean(values))}{interval(values)} ({counted(len(values), 'seed')})"
        for arm, values in ((arm, arm.values("test_accuracy")) for arm in arms)
    ]
    one = arms[0].first
    return [
        f"Fine-tuning {word(one, 'model')} on {word(one, 'dataset')}, validation accuracy after epoch "
        f"{word(one, 'num_epochs')}: {', '.join(told)}."
    ]


# ---- fine-tuning ------------------------------------------------------------------------------------------------------


def finetune_section(context: Context) -> list[Block]:
    """Fine-tuning, where it was measured: for each setting curves and a table, and the files that were skipped."""
    records = succeeded(context.run.training, "finetune")
    if not records:
        return failed_section(context, "finetune", "Fine-tuning on photographs")
    blocks: list[Block] = [Heading(text="Fine-tuning on photographs"), Paragraph(ACCURACIES)]
    for index, group in enumerate(gathered(records, SETTING), start=1):
        arms = [Arm(records=own) for own in gathered(group, START)]
        blocks.append(Paragraph(f"Setting: {_setting_words(arms[0].first)}."))
        blocks.append(_curves(context, arms, index))
        blocks.append(_finetune_table(arms))
        blocks += _verdicts(arms)
        blocks += _skipped(arms[0].first)
    return [*blocks, Paragraph(MEMORY)]


def _setting_words(one: Record) -> str:
    own = "" if one.get("width") is None else f" of width {one['width']}"
    kept = ", batch norm keeps its statistics" if one.get("keep_statistics") is True else ""
    fast = f"the last layer (from random weights all of them) {word(one, 'head_rate')} times that"
    steps = f"SGD {word(one, 'learning_rate')}, {fast}, a tenth every"
    return (
        f"{word(one, 'model')}{own} at {word(one, 'image_size')} pixels, {word(one, 'num_epochs')} epochs, batch "
        f"{word(one, 'batch_size')}, {steps} {word(one, 'decay_every')} epochs{kept}, on {word(one, 'device')}; data "
        f"{word(one, 'dataset')}, {word(one, 'train_images')} photographs to train on and {word(one, 'test_images')} to "
        "validate on"
    )


def arm_words(arm: Arm) -> str:
    """Such as "the last layer, no augmentation (features computed once)"."""
    mode = word(arm.first, "mode")
    augmented = (
        arm.label.replace("no augmentation", "no augmentation, features computed once") if mode == "frozen" else arm.label
    )
    return f"{MODES.get(mode, mode)}; {augmented}"


def _curves(context: Context, arms: Sequence[Arm], index: int) -> Block:
    means = [f"{arm_words(arm)} {percent(statistics.fmean(values))}" for arm in arms if (values := arm.values("test_accuracy"))]
    alternative = (
        "Curves by epoch: train loss and accuracy on the validation photographs, a colour an arm, a thin line a seed, a thick "
        f"one for their mean. After the last epoch: {listed(means)}."
    )
    labels = [arm_words(arm) for arm in arms]
    return context.figure(f"finetune-{index}", lambda path: finetune_figure(arms, labels, path), alternative)


def _verdicts(arms: Sequence[Arm]) -> list[Block]:
    """Whether each arm is ahead of training from scratch, in words; nothing where scratch was not trained."""
    scratch = _scratch(arms)
    if scratch is None:
        return []
    return [Bullets([f"{arm_words(arm)}: {_verdict(difference(arm, scratch))}." for arm in arms if not _is_scratch(arm)])]


def _verdict(one: Estimate | None) -> str:
    if one is None:
        return "shares no seed with training from scratch, so nothing is said of which is ahead"
    told = f"{points_words(one)} points, {counted(one.n, 'pair')} of runs of the same seed"
    if one.half is None:
        return f"too few seeds to tell it from training from scratch ({told}; an interval takes {FEWEST_SEEDS})"
    if not one.excludes_zero:
        return f"not to be told from training from scratch ({told}; the interval includes zero)"
    return f"{'ahead of' if one.mean > 0 else 'behind'} training from scratch after the last epoch ({told})"


def _is_scratch(arm: Arm) -> bool:
    return arm.first.get("mode") == "scratch"


def _scratch(arms: Sequence[Arm]) -> Arm | None:
    return next((arm for arm in arms if _is_scratch(arm)), None)


def _finetune_table(arms: Sequence[Arm]) -> Table:
    header = [
        *("what is trained", "starting from", "augmented by", "last epoch, mean", "each seed", "n, seeds"),
        *("minus scratch, points (same seeds)", "best epoch, mean", "examples/s", "seconds a run", "memory"),
    ]
    scratch = _scratch(arms)
    return Table(header=header, rows=[_finetune_row(arm, scratch) for arm in arms], numeric=frozenset(range(3, 11)))


def _finetune_row(arm: Arm, scratch: Arm | None) -> list[Text]:
    tests, best = arm.values("test_accuracy"), arm.values("best_accuracy")
    mode = word(arm.first, "mode")
    total = arm.median("total_s")
    once = arm.median("features_s")
    seconds = UNKNOWN if total is None else rounded(total) + (f" ({rounded(once)} for features)" if once else "")
    return [
        MODES.get(mode, mode),
        [Code(word(arm.first, "init"))],
        arm.label,
        percent(statistics.fmean(tests)) + interval(tests) if tests else UNKNOWN,
        ", ".join(percent(value) for value in tests) or UNKNOWN,
        str(len(tests)),
        "" if arm is scratch else UNKNOWN if scratch is None else points_words(difference(arm, scratch)),
        percent(statistics.fmean(best)) + interval(best) if best else UNKNOWN,
        with_spread(arm, "examples_per_s"),
        seconds,
        _memory(arm),
    ]


def _memory(arm: Arm) -> str:
    peak = arm.median("peak_bytes") or arm.median("resident_bytes")
    return UNKNOWN if peak is None else f"{rounded(peak / 2**20)} MiB"


def _skipped(one: Record) -> list[Block]:
    files = one.get("skipped_files")
    if not isinstance(files, list) or not files:
        return []
    more = [f"and {len(files) - MOST_SKIPPED:,} more"] if len(files) > MOST_SKIPPED else []
    return [Paragraph(f"{counted(len(files), 'file')} skipped:"), Bullets([*map(str, files[:MOST_SKIPPED]), *more])]


# ---- where the time goes ----------------------------------------------------------------------------------------------


def photographs_section(context: Context) -> list[Block]:
    """Decoding, augmentation and the step at the network's size, by placement, where that was measured."""
    records = succeeded(context.run.training, "photographs")
    if not records:
        return failed_section(context, "photographs", "Photographs: where the time goes")
    blocks: list[Block] = [Heading(text="Photographs: where the time goes"), Paragraph(SPLIT), Paragraph(BOUNDED)]
    names = ("mode", "recipe", "backend", "augment_on", "num_workers")
    for index, group in enumerate(gathered(records, [n for n in SETTING if n != "num_epochs"]), start=1):
        arms = [Arm(records=own) for own in gathered(group, names)]
        arms.sort(key=lambda arm: (not arm.is_bare, -(arm.median("examples_per_s") or 0)))
        one = arms[0].first
        setting = (
            f"{word(one, 'model')} ({MODES.get(word(one, 'mode'), '')} trained) at {word(one, 'image_size')} pixels, batch"
        )
        blocks.append(
            Paragraph(
                f"Setting: {setting} {word(one, 'batch_size')}, on {word(one, 'device')}, data {word(one, 'dataset')}; without "
                "augmentation photographs are decoded once, before training."
            )
        )
        speeds = [f"{placement_words(arm)} {rounded(arm.median('examples_per_s') or 0)}" for arm in arms]
        alternative = (
            "Stacked bars by placement: milliseconds a photograph of the training process, and of decoding and augmenting "
            f"where photographs are fetched. Examples per second: {listed(speeds, 10)}."
        )
        draw = lambda path, arms=arms: photographs_figure(arms, path)  # noqa: E731
        blocks.append(context.figure(f"photographs-{index}", draw, alternative))
        blocks.append(_split_table(arms))
    return blocks


def milliseconds(arm: Arm, name: str) -> float | None:
    """A field of the split, or of the fetching, as milliseconds a photograph: the median over rounds."""
    values = []
    for record in arm.records:
        split, examples = record.get("split_s"), number(record, "examples")
        seconds = number(split, name) if isinstance(split, dict) and name in split else number(record, name)
        if seconds is not None and examples:
            values.append(1000 * seconds / examples)
    return statistics.median(values) if values else None


def _split_table(arms: Sequence[Arm]) -> Table:
    columns = {
        "decoding where fetched": "decode_s",
        "augmenting where fetched": "worker_augment_s",
        "waiting": "wait",
        "copying": "copy",
        "augmenting on the device": "augment",
        "forward and backward": "forward_backward",
        "optimizer": "optimizer",
        "all": "wall_s",
    }
    rows: list[list[Text]] = []
    for arm in arms:
        values = [milliseconds(arm, name) for name in columns.values()]
        cells = [UNKNOWN if value is None else rounded(value) for value in values]
        rows.append([placement_words(arm), with_spread(arm, "examples_per_s"), *cells, str(len(arm.records))])
    header = ["placement", "examples/s", *(f"{name}, ms" for name in columns), "n, rounds"]
    return Table(header=header, rows=rows, numeric=frozenset(range(1, len(header))))


# ---- decoding ---------------------------------------------------------------------------------------------------------


def decoding_section(context: Context) -> list[Block]:
    """Decoders by image size and number of processes, where that was measured; those that were left out with the reason."""
    every = [record for record in context.run.training if record.get("kind") == "decoding"]
    if not every:
        return []
    blocks: list[Block] = [Heading(text="Decoding JPEG files")]
    records = [record for record in succeeded(every, "decoding") if number(record, "images_per_s")]
    for index, group in enumerate(gathered(records, ("dataset", "fingerprint", "quality", "device")), start=1):
        arms = [Arm(records=own) for own in gathered(group, ("decoder", "image_size", "num_workers"))]
        arms.sort(
            key=lambda a: (number(a.first, "image_size") or 0, number(a.first, "num_workers") or 0, word(a.first, "decoder"))
        )
        one = arms[0].first
        where = f"; on {one['device']}" if one.get("device") else ""  # only told where runs of several machines were merged
        blocks.append(Paragraph(f"{DECODING} {word(one, 'quality')}; data {word(one, 'dataset')}{where}."))
        best = max(arms, key=lambda arm: arm.median("images_per_s") or 0)
        alternative = (
            "Lines, both axes logarithmic: images per second by number of processes, a panel a shorter side, a line a decoder. "
            f"The fastest is {word(best.first, 'decoder')}, {rounded(best.median('images_per_s') or 0)} images/s."
        )
        draw = lambda path, arms=arms: decoding_figure(arms, path)  # noqa: E731
        blocks.append(context.figure(f"decoding-{index}", draw, alternative))
        blocks.append(_decoding_table(arms))
    out = gathered(
        [one for one in every if one.get("status", "ok") != "ok"], ("decoder", "image_size", "num_workers", "reason")
    )
    left = [f"{word(own[0], 'decoder')}: {word(own[0], 'reason')}" for own in out]
    if left:
        blocks += [Paragraph("Left out or failed:"), Bullets(left)]
    return blocks


def _decoding_table(arms: Sequence[Arm]) -> Table:
    header = ["decoder", "shorter side, pixels", "processes", "images/s", "MB/s of JPEG", "megapixels/s", "n, rounds"]
    rows: list[list[Text]] = [
        [
            [Code(word(arm.first, "decoder"))],
            word(arm.first, "image_size"),
            word(arm.first, "num_workers"),
            *(with_spread(arm, name) for name in ("images_per_s", "mb_per_s", "megapixels_per_s")),
            str(len(arm.records)),
        ]
        for arm in arms
    ]
    return Table(header=header, rows=rows, numeric=frozenset(range(1, 7)))
