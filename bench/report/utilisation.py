"""How much of a device's own arithmetic training takes: model FLOPs utilisation, where records tell it."""

from collections.abc import Sequence

from bench.report.answer import usual_recipe
from bench.report.arms import Arm, ceiling, settings
from bench.report.blocks import Answer, Block, Code, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.quantities import UNKNOWN, counted, percent, rounded, word

SHARE, PEAK, FLOPS = "model_flops_utilisation", "matmul_flops_per_s", "flops_per_example"
QUESTION = "How much of the device's arithmetic does training use?"
MEANING = (
    "Model FLOPs utilisation, as Chowdhery et al. 2022 (PaLM, appendix B) define it, is the arithmetic that the steps had to "
    "do over what the device could have done meanwhile; here the latter is not the vendor's figure but what a large matrix "
    "product reaches on this very device in this run. Matrix products and convolutions count, forward and back, two operations "
    "a multiply-add; augmentation does not."
)
UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def utilisation_blocks(arms: Sequence[Arm]) -> list[Block]:
    """What a step takes, what the device can do, and the share of each arm; nothing for records that do not tell."""
    told = [arm for arm in arms if arm.values(SHARE)]
    if not told:
        return []
    words = f"{MEANING} A step of this model takes {_flop(told[0].median(FLOPS))} an image; the device's own matmul rate is "
    header: list[Text] = ["placement", "model FLOP/s", "share of the device's own matmul rate", "n, rounds"]
    rows: list[list[Text]] = [[_name(arm), _rate(arm), share_words(arm), str(len(arm.values(SHARE)))] for arm in told]
    return [Paragraph(f"{words}{_peaks(told)}."), Table(header=header, rows=rows, numeric=frozenset({1, 2, 3}))]


def utilisation_findings(context: Context) -> list[Text]:
    """A sentence for each setting: the fastest arm of the usual recipe, and the ceiling."""
    items: list[Text] = []
    for arms in sorted(settings(context.run.training, "throughput"), key=len, reverse=True):
        best, top = _best(arms), ceiling([arm for arm in arms if arm.values(SHARE)])
        if best is None:
            continue
        first = f"Training {word(best.first, 'model')} with "
        bare = f"; the ceiling {share_words(top)}" if top is not None else ""
        whole = f" takes {share_words(best)} of the device's own matmul rate, {_peaks([best])}{bare}."
        items.append([first, Code(word(best.first, "recipe")), f", {best.label},{whole}"])
    return items


def utilisation_answers(context: Context) -> list[Answer]:
    """The share of the setting with the most arms; nothing where records do not tell."""
    told = utilisation_findings(context)
    groups = sorted(settings(context.run.training, "throughput"), key=len, reverse=True)
    best = next((arm for arms in groups if (arm := _best(arms)) is not None), None)
    if best is None or not told:
        return []
    return [Answer(question=QUESTION, answer=share_words(best), evidence=told[0])]


def _best(arms: Sequence[Arm]) -> Arm | None:
    """The arm of the usual recipe that takes most; None where no augmented arm tells."""
    augmented = [arm for arm in arms if arm.values(SHARE) and not arm.is_bare]
    recipe = usual_recipe(dict.fromkeys(word(arm.first, "recipe") for arm in augmented))
    ours = [arm for arm in augmented if word(arm.first, "recipe") == recipe]
    return max(ours, key=lambda arm: arm.median(SHARE) or 0.0, default=None)


def share_words(arm: Arm) -> str:
    """The median share with the smallest and the largest of the rounds."""
    values = arm.values(SHARE)
    if not values:
        return UNKNOWN
    span = f" ({100 * min(values):.1f} to {percent(max(values))})" if len(values) > 1 else ""
    return percent(arm.median(SHARE) or 0.0) + span


def _peaks(arms: Sequence[Arm]) -> str:
    """Such as "712 TFLOP/s in bfloat16": one a precision and device, however many runs measured it."""
    found: dict[str, str] = {}
    for arm in arms:
        devices = arm.first.get("devices")
        several = f" on each of {counted(len(devices), 'device')}" if isinstance(devices, list) and len(devices) > 1 else ""
        found.setdefault(word(arm.first, "matmul_precision") + several, _flop(arm.median(PEAK), "FLOP/s"))
    return ", ".join(f"{rate} in {precision}" for precision, rate in found.items())


def _rate(arm: Arm) -> str:
    flops, speed = arm.median(FLOPS), arm.median("examples_per_s")
    return _flop(flops * speed, "FLOP/s") if flops and speed else UNKNOWN


def _flop(value: float | None, unit: str = "FLOP") -> str:
    """Such as "3.33 GFLOP"."""
    if not value:
        return UNKNOWN
    size, prefix = next(((size, prefix) for size, prefix in UNITS if value >= size), UNITS[-1])
    return f"{rounded(value / size)} {prefix}{unit}"


def _name(arm: Arm) -> Text:
    backend = word(arm.first, "backend")
    return arm.label if arm.is_bare else [Code(backend), arm.label.removeprefix(backend)]
