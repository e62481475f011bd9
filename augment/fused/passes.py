"""A recipe as few passes over the batch: a pass reads each image once and writes it once.

A pass is whole-pixel moves, then at most one resampling, mirrored if flips follow, then any number of changes of values.
``passes(recipe)`` cuts a recipe at a second resampling, at one behind changed values, and at a second op that measures the
whole image (a mean, a range, a histogram). ``encode`` puts a pass into records of named fields, which C reads as structs
(``fused.build`` makes them from these classes) and Triton as constants (``fused.triton_points.get``).
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from augment.distributions import CHAIN
from augment.fused.kinds import CHANGES, MOVES, POINTS, SAMPLERS, Kind, drawn_sizes, kind_of
from augment.fused.tensors import POINT_OPS
from augment.op import Op

MEASURES = {name: POINT_OPS[name].measures for name in POINTS if name in POINT_OPS and POINT_OPS[name].measures}
"""Point ops that measure the whole image before they change its first pixel, and what."""

STATISTICS = 8
"""Numbers measured of an image: the mean of its grey version, each channel's least and greatest value, and a spare."""
LEVELS = 3 * 256
"""Numbers that follow for a histogram: the value that each of 256 levels gets, in each channel."""


@dataclass(frozen=True, slots=True)
class Part:
    """An op of a pass, by its index in the recipe; ``place`` counts the ops that a policy draws, the axes of a blur."""

    index: int
    op: Op
    place: int = 0

    @property
    def kind(self) -> Kind:
        """Return the kind of the op."""
        return kind_of(self.op)


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading and writing of a batch, in the order of the fields. Equal passes have equal ``repr``, which names them.

    ``is_exact``: the last bit of uint8 images' values matters, since a threshold follows in this pass or a later one.
    """

    moves: tuple[Part, ...] = ()
    sampler: Part | None = None
    mirrors: tuple[Part, ...] = ()
    changes: tuple[Part, ...] = ()
    is_exact: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts in order, each once."""
        sampler = (self.sampler,) if self.sampler else ()
        return tuple(dict.fromkeys((*self.moves, *sampler, *self.mirrors, *self.changes)))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the results."""
        for part in (*self.moves, *([self.sampler] if self.sampler else [])):
            height, width = part.op.output_size(height, width)
        return height, width

    @property
    def sampling(self) -> str:
        """Name of the source of its pixels, in SAMPLERS."""
        return self.sampler.kind.sampler if self.sampler else "take"

    @property
    def mixes(self) -> bool:
        """Return whether other images of the batch are read too."""
        return self.sampling in ("mixup", "cutmix")

    def parameters(self) -> tuple[tuple[int, str], ...]:
        """Return the drawn tensors that are read, as (index of the op, name), in the order in which ``encode`` counts."""
        return tuple((part.index, name) for part in self.parts for name in part.kind.parameters(part.op))


# ---- recipes in passes ------------------------------------------------------------------------------------------------


def passes(recipe: Sequence[Op], *, is_rounded: bool = False) -> tuple[Pass, ...]:
    """Return the recipe in passes. ``is_rounded``: results become uint8, so that the last bit before may matter."""
    made: list[Pass] = []
    for part in _parts(recipe):
        joined = _join(made[-1], part) if made else None
        if joined is not None:
            made[-1] = joined
        else:
            first = _join(Pass(), part)
            assert first is not None
            made.append(first)
    is_exact = is_rounded or any(
        POINT_OPS[name].is_step for op in recipe for name in kind_of(op).points(op) if name in POINT_OPS
    )
    return tuple(replace(step, is_exact=is_exact) for step in made)


def _parts(recipe: Sequence[Op]) -> Iterator[Part]:
    for index, op in enumerate(recipe):
        for place in range(kind_of(op).places(op)):
            yield Part(index, op, place)


def _measures(part: Part) -> bool:
    return any(name in MEASURES for name in part.kind.points(part.op))


def _join(before: Pass, part: Part) -> Pass | None:
    """Return the pass with one more op; None if the op needs a pass of its own."""
    kind, is_flip, moves = part.kind, part.kind.move == "flip", {move.kind.move for move in before.moves}
    is_fresh = before.sampler is None and not before.changes
    if kind.move:
        if is_fresh and (is_flip or moves <= {"flip"}):  # a second crop sees black at the first one's edge
            return replace(before, moves=(*before.moves, part))
        if is_flip and not before.changes and before.sampling != "augmix":  # its ops see no mirrored image
            return replace(before, mirrors=(*before.mirrors, part))
        return None
    if _measures(part) and any(map(_measures, before.changes)):
        return None
    if kind.sampler:
        if not is_fresh or "reflect" in moves:  # kernels mirror borders only where pixels are just moved
            return None
        return replace(before, sampler=part, changes=(part,) if kind.change else ())
    return replace(before, changes=(*before.changes, part))


def stretches(steps: Sequence[Pass]) -> list[tuple[Pass, ...]]:
    """Return passes in stretches for one call or launch. A pass that mixes images starts one: it needs all of them at once."""
    groups: list[tuple[Pass, ...]] = []
    for step in steps:
        if groups and not step.mixes:
            groups[-1] += (step,)
        else:
            groups.append((step,))
    return groups


def split_sampling(step: Pass) -> tuple[Pass, ...]:
    """Return the pass, or two: of a blur along columns, then along rows; of a resizing, then what measures its result."""
    if step.sampling == "blur":
        assert step.sampler is not None
        down = Pass(moves=step.moves, sampler=step.sampler, is_exact=step.is_exact)
        return down, replace(step, moves=(), sampler=replace(step.sampler, place=1))
    if step.sampling in ("window", "resize") and any(map(_measures, step.changes)):
        return replace(step, changes=()), Pass(changes=step.changes, is_exact=step.is_exact)
    return (step,)


def split_chains(step: Pass) -> tuple[Pass, ...]:
    """Return the pass, or two if it is an AugMix: the chains, then the changes that follow."""
    if step.sampling != "augmix":
        return (step,)
    return replace(step, changes=()), Pass(changes=step.changes, is_exact=step.is_exact)


# ---- records ----------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Height and width of a pass's source, after its moves, and of its result."""

    height: int
    width: int
    moved_height: int
    moved_width: int
    out_height: int
    out_width: int


class MoveRecord(NamedTuple):
    """A move along one axis: 0 rows, 1 columns before the resampling, 2 and 3 behind it. ``start``: drawn tensor."""

    axis: int
    kind: int
    start: int
    offset: int


class StepRecord(NamedTuple):
    """The resampling of a pass (first record), or a change of values. Numbers of drawn tensors are -1 if there is none."""

    sampler: int = 0
    change: int = 0
    first: int = 0
    """First drawn tensor of the op."""
    applied: int = -1
    strengths: int = -1
    """Drawn tensor of strengths; -1: ``strength`` for all images."""
    strength: float = 0.0
    point: int = 0
    points: int = 0
    """Point ops that an image may go through, as bits."""
    place: int = 0
    places: int = 0
    chains: int = 0
    antialias: int = 0
    kernel_size: int = 0
    value: float = 0.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)


class PassRecord(NamedTuple):
    """A pass for images of one size, in the constants of a kernel.

    ``steps``: the resampling, then each change of values. ``measured``: numbers that step ``at`` measures of each image, 0 if
    none does. ``chain_op``: an op of an AugMix's chains, as a policy that draws them all.
    """

    sizes: Sizes
    moves: tuple[MoveRecord, ...]
    steps: tuple[StepRecord, ...]
    measured: int
    at: int
    is_exact: bool
    chain_op: "PassRecord | None" = None

    @property
    def pixels(self) -> int:
        """Number of pixels of a result."""
        return self.sizes.out_height * self.sizes.out_width


@functools.lru_cache(maxsize=256)
def encode(step: Pass, height: int, width: int, start: int = 0) -> PassRecord:
    """Return the pass for images of that size; its drawn tensors are counted from ``start`` on."""
    first: dict[int, int] = {}
    for place, (index, _) in enumerate(step.parameters(), start):
        first.setdefault(index, place)
    moves: list[MoveRecord] = []
    moved, result = (height, width), step.output_size(height, width)
    for part in step.moves:
        moves += _moves(part, first, moved, 0)
        moved = part.op.output_size(*moved)
    for part in step.mirrors:
        moves += _moves(part, first, result, 2)
    names = {name for part in step.changes for name in part.kind.points(part.op)}
    record = PassRecord(
        sizes=Sizes(height, width, *moved, *result),
        moves=tuple(moves),
        steps=(_step(step.sampler, first, is_sampler=True), *(_step(part, first) for part in step.changes)),
        measured=_measured(names),
        at=next((place for place, part in enumerate(step.changes, 1) if _measures(part)), 0),
        is_exact=step.is_exact,
    )
    return _with_chain_op(record, step.sampler) if step.sampler and step.sampling == "augmix" else record


class StretchRecord(NamedTuple):
    """Passes of one call for images of one size.

    ``parameters``: drawn tensors that they read, as (index of the op, name); ``numbers``: how many each has for an image.
    """

    passes: tuple[PassRecord, ...]
    parameters: tuple[tuple[int, str], ...]
    numbers: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def encode_stretch(stretch: tuple[Pass, ...], height: int, width: int) -> StretchRecord:
    """Return passes, one after the other, for images of that size."""
    records: list[PassRecord] = []
    parameters: list[tuple[int, str]] = []
    numbers: list[int] = []
    for step in stretch:
        records.append(encode(step, height, width, len(parameters)))
        height, width = step.output_size(height, width)
        for part in step.parts:
            names = part.kind.parameters(part.op)
            parameters += [(part.index, name) for name in names]
            numbers += [drawn_sizes(part.op, height, width)[name] for name in names]
    return StretchRecord(tuple(records), tuple(parameters), tuple(numbers))


def _measured(names: set[str]) -> int:
    measures = {MEASURES[name] for name in names if name in MEASURES}
    return (STATISTICS + LEVELS * ("histogram" in measures)) * bool(measures)


def _moves(part: Part, first: dict[int, int], size: tuple[int, int], behind: int) -> list[MoveRecord]:
    kind, start = part.kind, first.get(part.index, 0)
    has_starts = len(kind.reads) > 1  # one for each axis
    return [
        MoveRecord(axis + behind, MOVES.index(kind.move), start + axis * has_starts, kind.offset(part.op, size[axis]))
        for axis in kind.axes
    ]


def _step(part: Part | None, first: dict[int, int], *, is_sampler: bool = False) -> StepRecord:
    if part is None:
        return StepRecord(SAMPLERS.index("take"))
    op, kind, start = part.op, part.kind, first.get(part.index, 0)
    named = {name: start + i for i, name in enumerate(kind.parameters(op))}
    record = StepRecord(
        sampler=SAMPLERS.index(kind.sampler) if is_sampler else 0,
        change=CHANGES.index(kind.change or "none"),
        first=start,
        applied=named.get("applied", -1),
        strengths=named.get(kind.strength, -1),
        points=sum(1 << POINTS.index(name) for name in kind.points(op)),
        place=part.place,
        places=kind.places(op),
    )
    return record._replace(**kind.constants(op))


def _with_chain_op(record: PassRecord, chains: Part) -> PassRecord:
    policy, points = CHANGES.index("policy"), chains.kind.points(chains.op)
    drawn = record.steps[0]._replace(change=policy, places=CHAIN * record.steps[0].chains)
    steps = (drawn._replace(sampler=SAMPLERS.index("neighbours")), drawn._replace(sampler=0))
    size = record.sizes[4:]
    chain_op = PassRecord(Sizes(*size, *size, *size), (), steps, _measured(set(points)), 1, record.is_exact)
    return record._replace(chain_op=chain_op)


def check_sizes(images: Tensor, drawn: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Raise ValueError for drawn tensors of another size than kernels read: ``sizes`` numbers for each image."""
    for value, size in zip(drawn, sizes, strict=True):
        if value.numel() != len(images) * size:
            raise ValueError(
                f"parameters {list(value.shape)} do not fit images {list(images.shape)}: apply what was drawn for them"
            )
