"""Fine-tuning on photographs: which layers to train."""

from collections.abc import Sequence

from bench.records import Case, Run, cut_list, digits, percent, plural
from bench.report.blocks import Answer, Block, Bullets, Code, Paragraph, Section
from bench.report.facts.accuracy import difference, finetune_settings, undecided_with
from bench.report.sections.accuracy import FEW, each_seed, learning_figure
from bench.report.sections.state import failed_section
from bench.report.tables import Column, build_table, words_column
from bench.report.words import capitalise, format_score, interval, label, mean_score, name_of, points, with_spread

TUNING, TRAINED = "Fine-tuning on photographs", "Which layers should be trained?"
MODES = {"full": "all layers", "frozen": "the last layer", "scratch": "all layers, from random weights"}
TUNING_NOTE = """Fine-tuning: accuracy on the validation photographs after the last epoch, ± half the 95 % interval over seeds;
undecided where the interval of a difference includes zero."""
TUNING_METHOD = """The best epoch, whose weights are kept, is chosen on the photographs that it is measured on, so its accuracy
flatters. Memory: the most that torch held on an accelerator, else the largest resident size of the training process."""
CURVES = {"train_loss": ("train loss", 1), "test_accuracy": ("validation accuracy, %", 100)}


def mode(arm: Case) -> str:
    """Return which layers are trained."""
    return MODES.get(arm.mode, str(arm.mode))


def augmentation(arm: Case) -> str:
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


def _layers(arms: Sequence[Case]) -> str:
    """Return which layers lead, or that it is undecided."""
    names = list(map(mode, (arms[0], *undecided_with(arms))))
    if len(arms) == 1 or len(names) == 1:
        return capitalise(names[0]) if len(arms) > 1 else f"Only {names[0]} tried"
    return "Undecided" + ("" if len(names) == len(arms) else f": {' or '.join(names)}")


def _evidence(arms: Sequence[Case]) -> str:
    best, *rivals = arms
    text = f"{best.model}, {best.train_images} photographs to train on: "
    text += f"{mode(best)}, {augmentation(best)}, {format_score(best)}"
    for arm in rivals[:1]:
        gap = difference(best, arm)
        text += f"; minus the next, {mode(arm)}, {augmentation(arm)}: {points(gap)} points"
        text += f", {FEW}" if gap is None or gap.half is None else ""
    return f"{text}."


def _setting(arm: Case) -> str:
    norms = ", batch norm keeps its statistics" if arm.keep_statistics else ""
    width = f" of width {arm.width}" if arm.width else ""
    rate = f"SGD {arm.learning_rate} (last layer, or all from random weights: times {arm.head_rate})"
    return (
        f"{arm.model}{width} at {arm.image_size} pixels, {arm.num_epochs} epochs, batch {arm.batch_size}, {rate}, a tenth "
        f"every {arm.decay_every} epochs{norms}, on {arm.device}; data {arm.dataset}: {arm.train_images} photographs to train "
        f"on, {arm.test_images} to validate on"
    )


def _tuning_table(arms: Sequence[Case]) -> Block:
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
        Column("seconds a run", lambda arm: digits(arm.median("total_s"))),
        Column("of it features, s", lambda arm: digits(arm.median("features_s")) if arm.median("features_s") else ""),
        Column("memory, MiB", lambda arm: digits((arm.median("peak_bytes") or arm.median("resident_bytes") or 0) / 2**20)),
    ]
    return build_table(columns, arms)


def _skipped_files(arm: Case) -> list[Block]:
    files = arm.skipped_files or ()
    return [Paragraph(f"{plural(len(files), 'file')} skipped:"), Bullets(cut_list(files))] if files else []
