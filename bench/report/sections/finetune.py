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
    for index, cases in enumerate(groups, start=1):
        names = [f"{mode(case)}; {label(case)}" for case in cases]
        blocks += [Paragraph(f"Setting: {_setting(cases[0])}."), learning_figure(f"finetune-{index}", cases, names, CURVES)]
        scratch = next((case for case in cases if case.mode == "scratch"), None)
        blocks += [*score_table(cases, scratch), *_skipped_files(cases[0])]
    answer = Answer(TRAINED, _layers(groups[0]), _evidence(groups[0]))
    return Section(title=TUNING, blocks=blocks, answers=[answer], note=TUNING_NOTE)


def _layers(cases: Sequence[Case]) -> str:
    """Return which layers lead, or that it is undecided."""
    names = list(map(mode, (cases[0], *undecided_with(cases))))
    if len(cases) == 1 or len(names) == 1:
        return capitalise(names[0]) if len(cases) > 1 else f"Only {names[0]} tried"
    return "Undecided" + ("" if len(names) == len(cases) else f": {' or '.join(names)}")


def _evidence(cases: Sequence[Case]) -> str:
    best, *rivals = cases
    text = f"{best.model}, {best.train_images} photographs to train on: "
    text += f"{mode(best)}, {label(best)}, {format_score(best)}"
    for case in rivals[:1]:
        gap = difference(best, case)
        text += f"; minus the next, {mode(case)}, {label(case)}: {points(gap)} points"
        text += f", {FEW}" if gap is None or gap.half is None else ""
    return f"{text}."


def _setting(case: Case) -> str:
    norms = ", batch norm keeps its statistics" if case.keep_statistics else ""
    width = f" of width {case.width}" if case.width else ""
    rate = f"SGD {case.learning_rate} (last layer, or all from random weights: times {case.head_rate})"
    size = f"{case.model}{width} at {case.image_size} pixels, {case.num_epochs} epochs, batch {case.batch_size}"
    images = f"{case.train_images} photographs to train on, {case.test_images} to validate on"
    return f"{size}, {rate}, a tenth every {case.decay_every} epochs{norms}, on {case.device}; data {case.dataset}: {images}"


def _skipped_files(case: Case) -> list[Block]:
    files = case.skipped_files or ()
    return [Paragraph(f"{plural(len(files), 'file')} skipped:"), Bullets(cut_list(files))] if files else []
