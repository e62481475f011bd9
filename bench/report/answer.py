"""The answer in three sentences: where augmentation should run, with which backend, and what that costs in training."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.measurements import Measurement
from bench.report.arms import Arm, ceiling, setting_words, settings, share_of, succeeded
from bench.report.blocks import Answer, Code, Inline
from bench.report.context import Context
from bench.report.failures import failed_answers
from bench.report.lanes import LANES, lane_tables, passes, rate
from bench.report.quantities import counted, percent, rounded, spread, word

COMMON_RECIPES = ("crop_flip", "flip", "d2l", "imagenet")
WHERE, WITH, COST = "Where should augmentation run?", "With which backend?", "What does it cost?"
NOTHING = "nothing"
PLACES = {
    "device": "On the device ({device}), a batch at a time",
    "workers": "In loader workers",
    "process": "In the training process, image by image",
}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The placements of one recipe in one lane and setting, the fastest first, against training without augmentation."""

    recipe: str
    lane: str
    top: Arm
    ranked: Sequence[Arm]

    @property
    def best(self) -> Arm:
        return self.ranked[0]

    @property
    def here(self) -> list[Arm]:
        """Those that augment in the same place as the fastest, itself first."""
        return [arm for arm in self.ranked if place(arm) == place(self.best)]

    @property
    def elsewhere(self) -> list[Arm]:
        return [arm for arm in self.ranked if place(arm) != place(self.best)]


def usual_recipe(names: Iterable[str]) -> str | None:
    """The recipe that an answer is given for: a common one where it was measured, else the first."""
    known = list(names)
    return next((name for name in (*COMMON_RECIPES, *known) if name in known), None)


def place(arm: Arm) -> str:
    """A key of ``PLACES``."""
    where = arm.first.get("augment_on")
    return "device" if where == "device" else "workers" if arm.first.get("num_workers") else "process"


def placement_answers(context: Context) -> list[Answer]:
    """Where, with which backend and at what cost; nothing where training speed was not asked for."""
    contest = contest_of(context)
    if contest is None:
        return _no_contest(context)
    alone = fastest_alone(context, contest)
    tied = _tied(contest, alone)
    return [_where(contest), _with(contest, tied, alone), _costs(contest, tied[0])]


def placement_note(context: Context) -> str:
    """What the answers rest on, in a sentence; empty where there are none."""
    contest = contest_of(context)
    if contest is None:
        return ""
    setting = f"recipe {contest.recipe}, {LANES[contest.lane]}; {setting_words([contest.best])}"
    return f"Training speed: medians of the rounds, ± half the range between them; {setting}."


def _no_contest(context: Context) -> list[Answer]:
    """Training speed was asked for, and not known with and without augmentation in one setting."""
    measured = succeeded(context.run.training, "throughput")
    if not measured:
        return failed_answers(context, "throughput", WHERE)
    number = counted(len(measured), "record")
    told = f"{number} of training speed, but not with and without augmentation in one setting."
    return [Answer(question=WHERE, answer="Not known from this run", evidence=told)]


def contest_of(context: Context) -> Contest | None:
    """The usual recipe's placements in the setting with the most arms; of its lanes the first that was measured."""
    groups = [arms for arms in settings(context.run.training, "throughput") if ceiling(arms)]
    for arms in sorted(groups, key=len, reverse=True):
        top = ceiling(arms)
        tried = [arm for arm in arms if not arm.is_bare and arm.median("examples_per_s")]
        recipe = usual_recipe(dict.fromkeys(word(arm.first, "recipe") for arm in tried))
        mine = [arm for arm in tried if word(arm.first, "recipe") == recipe]
        lane = next((name for name in LANES if any(arm.lane == name for arm in mine)), None)
        if top is not None and recipe is not None and lane is not None:
            ranked = sorted((arm for arm in mine if arm.lane == lane), key=lambda arm: -(arm.median("examples_per_s") or 0))
            return Contest(recipe=recipe, lane=lane, top=top, ranked=ranked)
    return None


def trained(arm: Arm) -> str:
    """Such as "1,820 examples/s (±3.6 %, 3 rounds)"."""
    values = arm.values("examples_per_s")
    sure = ", ".join(filter(None, (spread(values), counted(len(values), "round"))))
    return f"{rounded(statistics.median(values))} examples/s ({sure})"


def apart(faster: Sequence[float], slower: Sequence[float]) -> bool | None:
    """Whether the slowest of the one lies beyond the fastest of the other; None where one of them has a single value."""
    if len(faster) < 2 or len(slower) < 2:
        return None
    return min(faster) > max(slower)


SURE = {
    True: "slower beyond the spread between rounds",
    False: "not told apart: their rounds overlap",
    None: "of one round, so not certain",
}


def _sure(best: Arm, other: Arm) -> str:
    return SURE[apart(best.values("examples_per_s"), other.values("examples_per_s"))]


def _against(one: Arm, other: Arm) -> str:
    """How ``one`` stands to ``other``, whichever is faster."""
    ours, theirs = one.values("examples_per_s"), other.values("examples_per_s")
    return "faster than that beyond the spread between rounds" if apart(ours, theirs) else SURE[apart(theirs, ours)]


def _where(contest: Contest) -> Answer:
    best, device = contest.best, word(contest.best.first, "device")
    text: list[Inline] = ["There training with ", Code(contest.recipe), f" reaches {trained(best)} by "]
    text += [Code(word(best.first, "backend")), "; "]
    answer = PLACES[place(best)].format(device=device)
    if contest.elsewhere:
        other = contest.elsewhere[0]
        there = _lower(PLACES[place(other)].format(device=device))
        text.append(f"{there}, at best {trained(other)} by ")
        text += [Code(word(other.first, "backend")), f", {_sure(best, other)}."]
        if _has_images(best) and other.first.get("resident") is False:
            answer += ", where the images lie"
            text.append(_fed_alike(contest, other))
        firsts = {place(arm): arm for arm in reversed(contest.elsewhere)}  # of each place its fastest
        ties = {name for name, arm in firsts.items() if _overlap(best, arm)}
        answer += "".join(f", or {_lower(words).format(device=device)}" for name, words in PLACES.items() if name in ties)
    else:
        text.append("no other place was measured.")
    return Answer(question=WHERE, answer=answer, evidence=text)


def _has_images(arm: Arm) -> bool:
    """Whether it trains on images that lie decoded on the device, which spares it more than augmentation."""
    return arm.first.get("resident") is True


def _fed_alike(contest: Contest, other: Arm) -> str:
    """What augmenting in the best place reaches where images have to come there, as they do for ``other``."""
    alike = next((arm for arm in contest.here if arm.first.get("resident") is False), None)
    if alike is None:
        return " Where images have to be brought there first it was not measured."
    return f" Where images have to be brought there first, {alike.label} reaches {trained(alike)}, {_against(alike, other)}."


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _overlap(best: Arm, other: Arm) -> bool:
    return apart(best.values("examples_per_s"), other.values("examples_per_s")) is False


def _tied(contest: Contest, alone: Sequence[Measurement]) -> list[Arm]:
    """In the best place the fastest arm of each backend that training cannot tell from the fastest of all.

    What training cannot tell apart, augmenting ``alone`` may: the fastest by itself goes first.
    """
    order = [one.case.backend for one in alone]
    best = contest.best.values("examples_per_s")
    equal = [arm for arm in _of_each_backend(contest) if apart(best, arm.values("examples_per_s")) is not True]
    names = [word(arm.first, "backend") for arm in equal]
    ranks = [order.index(name) if name in order else len(order) for name in names]
    return [arm for _, arm in sorted(zip(ranks, equal, strict=True), key=lambda pair: pair[0])]


def _of_each_backend(contest: Contest) -> list[Arm]:
    """The fastest arm of each backend in the best place, the fastest first."""
    firsts: dict[str, Arm] = {}
    for arm in contest.here:
        firsts.setdefault(word(arm.first, "backend"), arm)
    return list(firsts.values())


def _with(contest: Contest, tied: Sequence[Arm], alone: Sequence[Measurement]) -> Answer:
    names = [word(arm.first, "backend") for arm in tied]
    best, *others = _of_each_backend(contest)
    if len(tied) > 1:
        pairs = zip(names, tied, strict=True)
        speeds = " and ".join(f"{name} {rounded(arm.median('examples_per_s') or 0)}" for name, arm in pairs)
        second = next(arm for arm in others if arm in tied)
        text = f"In training {speeds} examples/s, {_sure(best, second)}. "
    elif others:
        following, name = others[0], word(others[0].first, "backend")
        text = f"In training the next, {name}, reaches {trained(following)}, {_sure(best, following)}. "
    else:
        text = "No other was measured there. "
    return Answer(question=WITH, answer=" or ".join(names), evidence=[text, *alone_words(alone)])


def fastest_alone(context: Context, contest: Contest | None) -> list[Measurement]:
    """The backends that do the recipe as it is defined in one lane on one device, most images per second first."""
    tables = [table for table in lane_tables(context.run.measurements, "recipes") if table.lane in ("per_image", "per_batch")]
    if contest is not None:
        device = word(contest.best.first, "device")
        tables = [table for table in tables if table.lane == contest.lane and table.device == device]
    measured = dict.fromkeys(name for table in tables for name in table.subjects if table.ok(name))
    recipe = contest.recipe if contest is not None else usual_recipe(measured)
    for table in tables if recipe else ():
        ranked = [one for one in table.ok(recipe or "") if (recipe, one.case.backend) not in (context.differences or {})]
        if ranked:
            return ranked
    return []


def alone_words(ranked: Sequence[Measurement]) -> list[Inline]:
    """Who augments most images per second without training, and how sure that is."""
    if not ranked:
        return []
    best, *others = ranked
    values = passes(best)
    sure = ", ".join(filter(None, (spread(values), counted(len(values), "pass", "passes"))))
    text: list[Inline] = ["By itself ", Code(best.case.backend), f" is fastest, {rounded(rate(best) or 0)} images/s ({sure})"]
    if not others:
        return [*text, "."]
    words = {True: "", False: ", not told apart: their passes overlap", None: ", of one pass, so not certain"}
    before: list[Inline] = [", before ", Code(others[0].case.backend), f" with {rounded(rate(others[0]) or 0)}"]
    return [*text, *before, f"{words[apart(values, passes(others[0]))]}."]


def _costs(contest: Contest, chosen: Arm) -> Answer:
    """What the backend that the second answer names first costs: the fastest by luck alone would seem to cost less."""
    top, worst = contest.top, contest.ranked[-1]
    text: list[Inline] = [f"{top.bare_words.capitalize()} training reaches {trained(top)}."]
    ours, theirs = chosen.values("examples_per_s"), top.values("examples_per_s")
    separate = apart(theirs, ours)
    if separate is not None:
        low, high = 1 - max(ours) / min(theirs), 1 - min(ours) / max(theirs)
        perhaps = "" if separate else ", so perhaps nothing"
        text += [" With ", Code(word(chosen.first, "backend"))]
        text.append(f" pairs of rounds lie between {_signed(low)} and {_signed(high)} %{perhaps}.")
    if worst is not chosen:
        text.append(f" The slowest of {counted(len(contest.ranked), 'placement')}, {worst.label}, costs {_loss(worst, top)}.")
    lost = _loss(chosen, top)
    if separate:
        answer = f"{lost[0].upper()}{lost[1:]} of the training speed"
    else:
        answer = "Nothing that shows" if lost == NOTHING else f"Perhaps {lost} of the training speed"
    return Answer(question=COST, answer=answer, evidence=text)


def _signed(share: float) -> str:
    return f"{100 * share:.0f}".replace("-", "\N{MINUS SIGN}")


def _loss(arm: Arm, top: Arm) -> str:
    lost = 1 - (share_of(arm, top) or 0)
    return percent(lost, 0) if round(100 * lost) > 0 else NOTHING
