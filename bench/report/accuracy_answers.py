"""What the first screen says of accuracy: which recipe trains best, and whether the backend changes what is reached."""

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.comparison.seeds import FEWEST_SEEDS, Estimate
from bench.report.accuracy import (
    audit_words,
    baseline,
    difference,
    interval,
    number_of_epochs,
    points_words,
    sweep_of,
)
from bench.report.arms import Arm, setting_words, settings
from bench.report.blocks import Answer, Code, Inline
from bench.report.context import Context
from bench.report.failures import failed_answers
from bench.report.quantities import counted, listed, percent, word

RECIPE = "Which recipe trains best?"
BACKEND = "Does the backend change what is reached?"
REACHED = "What accuracy is reached?"
FEW = f"too few seeds for an interval, which takes {FEWEST_SEEDS}"


def accuracy_answers(context: Context) -> list[Answer]:
    """Of the setting with the most ways to train; nothing where accuracy was not asked for."""
    arms = compared(context)
    if not arms:
        return failed_answers(context, "accuracy", RECIPE) or _planned(context)
    firsts = best_of_each(arms)
    if len(firsts) > 1:
        return [_recipe(firsts, baseline(arms, context.run.plan)), *_backend(arms, context)]
    return [*_reached(firsts[0]), *_backend(arms, context)]


def _planned(context: Context) -> list[Answer]:
    """Of a sweep that has no record yet."""
    cells = sweep_of(context.run.plan).get("cells")
    if not isinstance(cells, list) or not cells:
        return []
    told = f"none of {counted(len(cells), 'planned training run')} has run."
    return [Answer(question=RECIPE, answer="Not known from this run", evidence=told)]


def accuracy_note(context: Context) -> str:
    """What the answers rest on, in a sentence; empty where there are none."""
    arms = compared(context)
    if not arms:
        return ""
    epochs = counted(number_of_epochs(arms[0]), "epoch")
    chosen = " The best of several is picked after the fact, which flatters it." if len(best_of_each(arms)) > 1 else ""
    return (
        "Accuracy: test accuracy after the last epoch, ± half the 95 % interval over seeds; differences are between runs of "
        f"the same seed.{chosen} Setting: {setting_words(arms)}, {epochs}."
    )


def compared(context: Context) -> list[Arm]:
    """The arms with a test accuracy, of the setting that has the most of them."""
    groups = settings(context.run.training, "accuracy")
    return max(([arm for arm in arms if arm.values("test_accuracy")] for arms in groups), key=len, default=[])


def mean(arm: Arm) -> float:
    return statistics.fmean(arm.values("test_accuracy"))


def scored(arm: Arm) -> str:
    """Such as "50.8 % ±2.1 points (3 seeds)"."""
    values = arm.values("test_accuracy")
    return f"{percent(mean(arm))}{interval(values)} ({counted(len(values), 'seed')})"


def undecided(one: Estimate | None) -> bool:
    """Whether two arms cannot be told apart: they share no seed, too few of them, or the interval includes zero."""
    return one is None or not one.excludes_zero


def best_of_each(arms: Sequence[Arm]) -> list[Arm]:
    """Of each recipe the arm that reached most, the best first."""
    firsts: dict[str, Arm] = {}
    for arm in sorted(arms, key=mean, reverse=True):
        firsts.setdefault(word(arm.first, "recipe"), arm)
    return list(firsts.values())


def _recipe(firsts: Sequence[Arm], base: Arm | None) -> Answer:
    best, *others = firsts
    equal = [arm for arm in others if undecided(difference(best, arm))]
    names = [_named(arm) for arm in (best, *equal)]
    answer = names[0] if not equal else f"Undecided: {listed(names[:-1], 5)} or {names[-1]}"
    recipe = word(best.first, "recipe")
    text: list[Inline] = [Code(recipe), f", {best.label}, reaches {scored(best)}."]
    if base is not None and word(base.first, "recipe") == recipe:
        text.append(" It is the baseline.")
    elif base is not None:
        text += [" Minus the baseline ", Code(word(base.first, "recipe")), f", {base.label}: {_told(difference(best, base))}."]
    rows = [arm for arm in others if base is None or word(arm.first, "recipe") != word(base.first, "recipe")]
    for index, arm in enumerate(rows):
        text += [", " if index else " Minus the best: ", Code(word(arm.first, "recipe"))]
        text.append(f" {points_words(difference(arm, best))}")
    if rows:
        text.append(" points.")
    if any(one is None or one.half is None for one in (difference(best, arm) for arm in equal)):
        text.append(f" {FEW[0].upper()}{FEW[1:]}.")
    return Answer(question=RECIPE, answer=answer, evidence=text)


def _named(arm: Arm) -> str:
    """Its recipe, so that "none" cannot be read as "no recipe"."""
    recipe = word(arm.first, "recipe")
    return "no augmentation" if recipe == "none" else recipe


def _told(one: Estimate | None) -> str:
    """Such as "+1.20 ±0.40 points, 3 pairs of seeds: better"."""
    if one is None:
        return "no seed in common, so not known"
    words = f"{points_words(one)} points, {counted(one.n, 'pair')} of seeds"
    if one.half is None:
        return f"{words}, {FEW}"
    return f"{words}: {'not told apart' if undecided(one) else 'better' if one.mean > 0 else 'worse'}"


def _reached(arm: Arm) -> list[Answer]:
    """What one recipe alone reaches; a named target has its own answer."""
    if arm.values("target_accuracy"):
        return []
    text: list[Inline] = ["With ", Code(word(arm.first, "recipe")), f", {arm.label}: {scored(arm)}."]
    return [Answer(question=REACHED, answer=percent(mean(arm)) + interval(arm.values("test_accuracy")), evidence=text)]


class Pair(NamedTuple):
    """Two backends that train with one recipe."""

    arm: Arm
    other: Arm
    one: Estimate

    @property
    def words(self) -> str:
        return (
            f"{word(self.arm.first, 'recipe')}, {self.arm.label} minus {self.other.label}: {points_words(self.one)} points, "
            f"{counted(self.one.n, 'pair')} of seeds"
        )


def _backend(arms: Sequence[Arm], context: Context) -> list[Answer]:
    """Nothing where no recipe was trained with two backends that share a seed."""
    pairs = [
        Pair(arm, other, one)
        for arm, other in itertools.combinations(arms, 2)
        if word(arm.first, "recipe") == word(other.first, "recipe")
        and word(arm.first, "backend") != word(other.first, "backend")
        and (one := difference(arm, other)) is not None
    ]
    if not pairs:
        return []
    sure = [pair for pair in pairs if pair.one.half is not None]
    apart = [pair for pair in sure if pair.one.excludes_zero]
    most = max(sure or pairs, key=lambda pair: abs(pair.one.mean))
    number = counted(len(pairs), "pair")
    if not sure:
        answer, told = "Undecided", f"{number} of backends with one recipe, {FEW}; {most.words}."
    elif apart:
        answer = f"Yes, with {listed(dict.fromkeys(word(pair.arm.first, 'recipe') for pair in apart), 4)}"
        told = f"{len(apart)} of {number} with one recipe differ: {'; '.join(pair.words for pair in apart[:3])}. "
        told += "Each interval is for itself: where nothing differs, one in twenty leaves zero out by chance alone."
    else:
        answer = "No difference that shows"
        widest = max(pair.one.half or 0.0 for pair in sure)
        told = f"Of {number} of backends with one recipe {len(sure)} have an interval, and each includes zero. The largest "
        told += f"difference: {most.words}. What is smaller than the intervals, up to ±{widest:.2f} points, would not show."
    return [Answer(question=BACKEND, answer=answer, evidence=f"{told}{_audited(pairs, context)}")]


def _audited(pairs: Sequence[Pair], context: Context) -> str:
    said = [
        audit_words(context.run.audit, word(a.first, "recipe"), word(a.first, "backend"), word(b.first, "backend"))
        for a, b, _ in pairs
    ]
    if all(words == "not audited" for words in said):
        return ""
    return f" The audit calls the augmentation of {said.count('equal')} of {counted(len(pairs), 'pair')} equal."
