"""Fine-tuning on photographs: which layers to train."""

from collections.abc import Sequence

from bench.records import Case, Run, cut_list, plural
from bench.report.blocks import Answer, Block, Bullets, Paragraph, Section
from bench.report.facts.accuracy import difference, score, undecided_with
from bench.report.facts.cases import settings
from bench.report.sections.accuracy import FEW, learning_figure, mode, score_table
from bench.report.sections.state import failed_section
from bench.report.words import capitalise, format_score, label, points

TUNING, TRAINED = "Fine-tuning on photographs", "Which layers should be trained?"
TUNING_NOTE = """Fine-tuning: accuracy on the validation photographs after the last epoch, ± half the 95 % interval over seeds;
undecided where the interval of a difference includes zero."""
TUNING_METHOD = """The best epoch, whose weights are kept, is chosen on the photographs that it is measured on, so its accuracy
flatters. Peak memory: the most that torch held on an accelerator; resident: the largest size of the training process."""
CURVES = {"train_loss": ("train loss", 1), "test_accuracy": ("validation accuracy, %", 100)}


def finetune_section(run: Run) -> Section | None:
    """Return fine-tuning: for each setting curves, a table and the files that were skipped."""
    groups = [sorted(group, key=score, reverse=True) for group in settings(run, "finetune")]
    if not groups:
        return failed_section(run, "finetune", TUNING, TRAINED)
    blocks: list[Block] = [Paragraph(TUNING_METHOD)]
    for index, arms in enumerate(groups, start=1):
        names = [f"{mode(arm)}; {label(arm)}" for arm in arms]
        blocks += [Paragraph(f"Setting: {_setting(arms[0])}."), learning_figure(f"finetune-{index}", arms, names, CURVES)]
        scratch = next((arm for arm in arms if arm.mode == "scratch"), None)
        blocks += [*score_table(arms, scratch), *_skipped_files(arms[0])]
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
    text += f"{mode(best)}, {label(best)}, {format_score(best)}"
    for arm in rivals[:1]:
        gap = difference(best, arm)
        text += f"; minus the next, {mode(arm)}, {label(arm)}: {points(gap)} points"
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


def _skipped_files(arm: Case) -> list[Block]:
    files = arm.skipped_files or ()
    return [Paragraph(f"{plural(len(files), 'file')} skipped:"), Bullets(cut_list(files))] if files else []
