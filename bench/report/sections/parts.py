"""Time of training by part: stacked bars and a table of milliseconds."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from bench.records import digits, join
from bench.report.blocks import Block
from bench.report.facts.arms import Arm
from bench.report.figures import Look, Row, bars
from bench.report.tables import Column, build_table, words_column
from bench.report.words import name_of, with_spread


class Part(NamedTuple):
    """Words and colour of a part of the time."""

    words: str
    look: Look


PARTS = {
    "forward_backward": Part("forward and backward", Look("work")),
    "optimizer": Part("optimizer", Look("quiet")),
    "augment": Part("augmentation on the device", Look("s6")),
    "copy": Part("to the device", Look("s4")),
    "wait": Part("waiting for data", Look("wait")),
    "other": Part("other", Look("grid")),
}


class Split(NamedTuple):
    """An arm's milliseconds by part of the training process."""

    label: str
    arm: Arm
    parts: dict[str, float]


def split_blocks(name: str, unit: str, splits: Sequence[Split]) -> list[Block]:
    """Return the bars and a table with the values; nothing for arms without a split."""
    rows = [split for split in splits if split.parts]
    used = [part for part in PARTS if any(split.parts.get(part) for split in rows)]
    if not used:
        return []
    legend = dict(PARTS[part] for part in used)
    speeds = join((f"{split.label} {digits(split.arm.speed)}" for split in rows), 10)
    alternative = f"Milliseconds {unit} by part and placement: stacked bars. Examples per second: {speeds}."
    drawn = [Row(s.label, (), _by_words(s.parts), {}, f"{digits(s.arm.speed)} ex/s") for s in rows]
    columns = [Column(PARTS[part].words, partial(_milliseconds, part)) for part in used]
    whole = Column("all", lambda split: digits(sum(split.parts.values())))
    ends = Column("rounds", lambda split: str(len(split.arm.records)))
    first = [words_column("placement", lambda split: name_of(split.arm, split.label))]
    first += [Column("examples/s", lambda split: with_spread(split.arm, "examples_per_s"))]
    return [bars(name, alternative, drawn, legend, f"milliseconds {unit}"), build_table([*first, *columns, whole, ends], rows)]


def _by_words(parts: Mapping[str, float]) -> dict[str, float]:
    return {shown.words: parts[part] for part, shown in PARTS.items() if parts.get(part)}


def _milliseconds(part: str, split: Split) -> str:
    value = split.parts.get(part, 0.0)
    return digits(value) if value > 0.0005 * sum(split.parts.values()) else "0"
