"""What the first screen says of photographs: what to train of a pretrained network, where the time goes, how to decode."""

from collections.abc import Mapping, Sequence

from bench.comparison.seeds import FEWEST_SEEDS
from bench.report.accuracy import difference, points_words
from bench.report.accuracy_answers import FEW, mean, scored, undecided
from bench.report.answer import apart, trained
from bench.report.arms import Arm, Record, gathered, succeeded
from bench.report.blocks import Answer, Break, Inline
from bench.report.context import Context
from bench.report.failures import failed_answers
from bench.report.finetune import MODES, SETTING, START, arm_words
from bench.report.finetune_figures import FETCHING, PARTS, parts, placement_words
from bench.report.quantities import counted, number, percent, rounded, spread, word

TRAINED = "Which layers should be trained?"
TIME = "Photographs: what takes the time?"
DECODER = "Which decoder is fastest?"
MANNER = ("mode", "recipe", "backend", "augment_on", "num_workers")
MOST_SETTINGS = 2
UNDECIDED = "undecided"
OVERLAP = "not told apart: their rounds overlap"


# ---- fine-tuning ------------------------------------------------------------------------------------------------------


def finetune_answers(context: Context) -> list[Answer]:
    """Of the setting with the most runs, and what the others say; nothing where nothing was fine-tuned."""
    groups = [
        [arm for arm in map(_arm, gathered(records, START)) if arm.values("test_accuracy")]
        for records in sorted(gathered(succeeded(context.run.training, "finetune"), SETTING), key=len, reverse=True)
    ]
    told = [sorted(arms, key=mean, reverse=True) for arms in groups if arms]
    if not told:
        return failed_answers(context, "finetune", TRAINED)
    evidence: list[Inline] = []
    for arms in told[:MOST_SETTINGS]:
        evidence += [*([Break()] if evidence else []), _evidence(arms)]
    verdicts = list(dict.fromkeys(map(_verdict, told)))
    if len(verdicts) == 1:
        return [Answer(question=TRAINED, answer=verdicts[0], evidence=evidence)]
    answer = "; ".join(
        f"with {word(arms[0].first, 'train_images')} photographs {_lower(_verdict(arms))}" for arms in told[:MOST_SETTINGS]
    )
    return [Answer(question=TRAINED, answer=answer[0].upper() + answer[1:], evidence=evidence)]


def _arm(records: Sequence[Record]) -> Arm:
    return Arm(records=records)


def _mode(arm: Arm) -> str:
    mode = word(arm.first, "mode")
    return MODES.get(mode, mode)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _verdict(arms: Sequence[Arm]) -> str:
    """What is ahead, or that it is undecided; ``arms`` with the best first."""
    best, *others = arms
    equal = [arm for arm in others if undecided(difference(best, arm))]
    if not others:
        return f"Only {_mode(best)} tried"
    words = _mode(best) if not equal else "Undecided" + ("" if len(equal) == len(others) else f": {_either([best, *equal])}")
    return words[0].upper() + words[1:]


def _either(arms: Sequence[Arm]) -> str:
    return " or ".join(_mode(arm) for arm in arms)


def _evidence(arms: Sequence[Arm]) -> str:
    """What each arm reached, and how far the best is ahead of the others."""
    best, *others = arms
    one = best.first
    names = [_mode(arm) for arm in arms]
    names = names if len(set(names)) == len(names) else [arm_words(arm) for arm in arms]
    reached = "; ".join(f"{name} {scored(arm)}" for name, arm in zip(names, arms, strict=True))
    gaps = [difference(best, arm) for arm in others]
    ahead = " and ".join(points_words(gap) for gap in gaps)
    told = f"{word(one, 'model')}, {word(one, 'train_images')} photographs to train on: {reached}."
    if ahead:
        told += f" The first is ahead by {ahead} points, by runs of the same seed."
    if any(gap is None or gap.n < FEWEST_SEEDS for gap in gaps):
        told += f" {FEW[0].upper()}{FEW[1:]}."
    return told


def finetune_note(context: Context) -> str:
    """What the answer rests on; empty where nothing was fine-tuned."""
    if not succeeded(context.run.training, "finetune"):
        return ""
    return (
        "Fine-tuning: accuracy on the validation photographs after the last epoch, ± half the 95 % interval over seeds; "
        "undecided where the interval of a difference includes zero."
    )


# ---- where the time goes ----------------------------------------------------------------------------------------------


def photographs_answers(context: Context) -> list[Answer]:
    """The largest part of a photograph's time in the fastest placement; nothing where it was not asked for."""
    groups = gathered(succeeded(context.run.training, "photographs"), [name for name in SETTING if name != "num_epochs"])
    arms = [_arm(records) for records in gathered(max(groups, key=len, default=[]), MANNER)]
    augmented = [arm for arm in arms if arm.median("examples_per_s") and not arm.is_bare and parts(arm)]
    if not augmented:
        return failed_answers(context, "photographs", TIME)
    ranked = sorted(augmented, key=lambda arm: -(arm.median("examples_per_s") or 0))
    best, *others = ranked
    inside = {name: value for name, value in parts(best).items() if name not in FETCHING}
    most = max(inside, key=lambda name: inside[name])
    whole = sum(inside.values()) or 1.0
    answer = f"{PARTS[most][0]}: {percent(inside[most] / whole, 0)} of it"
    told = f"With {word(best.first, 'recipe')} the fastest placement, {placement_words(best)}, reaches {trained(best)}: "
    told += f"{rounded(inside[most])} of {rounded(whole)} ms a photograph.{_fetched(parts(best))}"
    if others:
        sure = apart(best.values("examples_per_s"), others[0].values("examples_per_s"))
        words = {True: "slower beyond the spread", False: OVERLAP, None: "of one round, so not certain"}[sure]
        told += f" Next: {placement_words(others[0])}, {trained(others[0])}, {words}."
    return [Answer(question=TIME, answer=answer[0].upper() + answer[1:], evidence=told)]


def _fetched(split: Mapping[str, float]) -> str:
    """What passes meanwhile in the loader's workers."""
    told = [f"{PARTS[name][0]} {rounded(split[name])} ms" for name in FETCHING if split.get(name)]
    return f" Beside that, {', '.join(told)}." if told else ""


# ---- decoding ---------------------------------------------------------------------------------------------------------


def decoding_answers(context: Context) -> list[Answer]:
    """Who decodes the most images/s at each size; nothing where it was not asked for."""
    records = [one for one in succeeded(context.run.training, "decoding") if number(one, "images_per_s")]
    group = max(gathered(records, ("dataset", "fingerprint", "quality", "device")), key=len, default=[])
    if not group:
        return failed_answers(context, "decoding", DECODER)
    races = [_race(race) for race in gathered(group, ("image_size", "num_workers"))]
    wins: dict[str, list[str]] = {}
    for own in gathered(sorted(group, key=lambda one: -(number(one, "image_size") or 0)), ("image_size",)):
        firsts = {
            name for race in races if race[0].first.get("image_size") == own[0].get("image_size") for name in _winners(race)
        }
        wins.setdefault(firsts.pop() if len(firsts) == 1 else UNDECIDED, []).append(word(own[0], "image_size"))
    names = list(wins)
    answer = names[0] if len(names) == 1 else "; ".join(f"{name} at {_sizes(sizes)}" for name, sizes in wins.items())
    largest = max(races, key=lambda race: (number(race[0].first, "image_size") or 0, number(race[0].first, "num_workers") or 0))
    return [Answer(question=DECODER, answer=answer, evidence=_raced(largest, len(races)))]


def _race(records: Sequence[Record]) -> list[Arm]:
    """The decoders of one size and number of processes, the fastest first."""
    return sorted(map(_arm, gathered(records, ("decoder",))), key=lambda arm: -(arm.median("images_per_s") or 0))


def _winners(race: Sequence[Arm]) -> list[str]:
    """The fastest decoder, with those whose rounds overlap its own."""
    best = race[0].values("images_per_s")
    return [word(arm.first, "decoder") for arm in race if arm is race[0] or apart(best, arm.values("images_per_s")) is not True]


def _sizes(sizes: Sequence[str]) -> str:
    return f"{' and '.join(sizes)} pixels"


def _raced(race: Sequence[Arm], number_of_races: int) -> str:
    first = race[0].first
    told = [f"{word(arm.first, 'decoder')} {_speed(arm)}" for arm in race]
    shape = f"shorter side of {word(first, 'image_size')} pixels, {word(first, 'num_workers')} at once"
    races = counted(number_of_races, "pair", "pairs")
    return (
        f"At a {shape}: {'; '.join(told)}. Measured at {races} of size and number of processes; undecided where at one of a "
        "size's numbers of processes rounds overlap, or another decoder is ahead."
    )


def _speed(arm: Arm) -> str:
    values = arm.values("images_per_s")
    sure = ", ".join(filter(None, (spread(values), counted(len(values), "round"))))
    return f"{rounded(arm.median('images_per_s') or 0)} images/s ({sure})"
