"""A recipe as few passes over the batch, for kernels that do all of a pass to an image before they store it.

A pass reads an image once and writes one: whole-pixel moves, then at most one resampling, mirrored where asked, then any number
of changes of values. ``passes(recipe)`` cuts a recipe where that cannot go on: at a second resampling, at one behind changed
values, and at a second op that needs the whole image (a mean, a range, a histogram) first. ``encode`` puts a pass into numbers
for ``augment.native`` and ``augment.triton_kernels``.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from augment import ops, policies, stages
from augment.geometry import output_size
from augment.ops import Op

WAYS = (*policies.KERNELS, "hue", "grayscale")
"""What can be done to an image's values; policies draw an index into the first of them."""

MEASURING = ("contrast", "autocontrast", "equalize")
"""Ways that need something of the whole image before they can change its first pixel."""

SAMPLERS = ("take", "window", "resize", "rotate", "affine", "chosen", "mixup", "cutmix", "perspective", "blur", "augmix")
DRAWS = ("factor", "applied", "jitter", "policy", "erase", "normalize", "noise")
MOVES = ("flip", "crop", "shift")

CHAIN = 3
"""Ops of each chain of an AugMix."""

SIZES = {"order": 4, "factors": 4, "arguments": policies.ARGUMENTS, "corners": 8}
"""Numbers that are drawn for an image, or for each op of its policy, by parameter; 1 for all others."""

STATISTICS = 8
"""Numbers that are measured of an image: the mean of its grey version, each channel's least and greatest value, and a spare."""
LEVELS = 3 * 256
"""Numbers that follow those where histograms are equalised: what each of 256 levels becomes, in each channel."""


@dataclass(frozen=True, slots=True)
class Part:
    """One op of a pass, by its place in the recipe; ``place`` counts the ops that a policy draws, the axes of a blur."""

    index: int
    op: Op
    place: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """What is done to a batch in one go, in this order. Equal passes have equal ``repr``, which names them.

    ``is_exact``: whether the last bit of uint8 images' values matters, as it does if a threshold follows, here or later.
    """

    moves: tuple[Part, ...] = ()
    sampler: Part | None = None
    mirrors: tuple[Part, ...] = ()
    colours: tuple[Part, ...] = ()
    is_exact: bool = False

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of its results."""
        for part in (*self.moves, *([self.sampler] if self.sampler else [])):
            height, width = output_size(part.op, height, width)
        return height, width

    @property
    def mixes(self) -> bool:
        """Whether it reads other images of the batch too."""
        return self.sampler is not None and isinstance(self.sampler.op, stages.MIXING)

    def parameters(self) -> tuple[tuple[int, str], ...]:
        """Which drawn tensors it needs, as (place of the op in the recipe, name), in the order in which ``encode`` counts."""
        parts = dict.fromkeys((*self.moves, *([self.sampler] if self.sampler else []), *self.mirrors, *self.colours))
        return tuple((part.index, name) for part in parts for name in NAMES[type(part.op)])


# ---- which ops a pass can do ------------------------------------------------------------------------------------------

_WINDOW = ("top", "left", "height", "width")
_POLICY = ("kernel", "arguments")

NAMES: dict[type[Op], tuple[str, ...]] = {
    ops.HorizontalFlip: ("applied",),
    ops.VerticalFlip: ("applied",),
    ops.RandomCrop: ("top", "left"),
    ops.CenterCrop: (),
    ops.RandomResizedCrop: _WINDOW,
    ops.Resize: (),
    ops.Rotate: ("angle",),
    ops.Affine: ("angle", "translate_x", "translate_y", "scale", "shear"),
    ops.MixUp: ("lam",),
    ops.CutMix: _WINDOW,
    ops.Brightness: ("factor",),
    ops.Contrast: ("factor",),
    ops.Saturation: ("factor",),
    ops.Hue: ("factor",),
    ops.ColorJitter: ("order", "factors"),
    ops.Grayscale: ("applied",),
    ops.Solarize: ("applied",),
    ops.Posterize: ("applied",),
    ops.Equalize: ("applied",),
    ops.AutoContrast: ("applied",),
    ops.Invert: ("applied",),
    ops.Sharpness: ("applied",),
    ops.RandomErasing: _WINDOW,
    ops.Cutout: _WINDOW,
    ops.Normalize: (),
    ops.AutoAugment: _POLICY,
    ops.RandAugment: _POLICY,
    ops.TrivialAugmentWide: _POLICY,
    ops.AugMix: (*_POLICY, "weights"),
    ops.Perspective: ("applied", "corners"),
    ops.GaussianBlur: ("sigma",),
    ops.GaussianNoise: ("noise",),
}
"""What a pass reads of what was drawn for an op."""

SAMPLED: dict[type[Op], str] = {
    ops.RandomResizedCrop: "window", ops.Resize: "resize", ops.Rotate: "rotate", ops.Affine: "affine",
    ops.MixUp: "mixup", ops.CutMix: "cutmix", ops.Sharpness: "chosen",
    ops.AutoAugment: "chosen", ops.RandAugment: "chosen", ops.TrivialAugmentWide: "chosen",
    ops.AugMix: "augmix", ops.Perspective: "perspective", ops.GaussianBlur: "blur",
}  # fmt: skip

WAYS_OF: dict[type[Op], tuple[str, ...]] = {
    ops.Brightness: ("brightness",), ops.Contrast: ("contrast",), ops.Saturation: ("saturation",), ops.Hue: ("hue",),
    ops.ColorJitter: ("brightness", "contrast", "saturation", "hue"),
    ops.Grayscale: ("grayscale",), ops.Solarize: ("solarize",), ops.Posterize: ("posterize",), ops.Equalize: ("equalize",),
    ops.AutoContrast: ("autocontrast",), ops.Invert: ("invert",), ops.Sharpness: ("sharpness",),
    ops.AutoAugment: policies.KERNELS,
    ops.RandAugment: policies.KERNELS[:-1],  # only AutoAugment inverts
    ops.TrivialAugmentWide: policies.KERNELS[:-1],
}  # fmt: skip

DRAWN: dict[str, str] = {"factor": "factor", "applied": "applied", "order": "jitter", "kernel": "policy"}
"""How the way of an op is drawn, by the first of its names."""


def ways_of(op: Op) -> tuple[str, ...]:
    """What this very op may do to an image's values."""
    return op.changing if isinstance(op, ops.ColorJitter) else WAYS_OF.get(type(op), ())


def _measures(op: Op) -> bool:
    return any(way in MEASURING for way in ways_of(op))


def passes(recipe: Sequence[Op], *, is_rounded: bool = False) -> tuple[Pass, ...]:
    """The recipe in passes. ``is_rounded``: results become uint8, so that the last bit before may matter."""
    found: list[Pass] = []
    for part in _parts(recipe):
        joined = _joined(found[-1], part) if found else None
        if joined is not None:
            found[-1] = joined
        else:
            first = _joined(Pass(), part)
            assert first is not None
            found.append(first)
    is_exact = is_rounded or any("solarize" in WAYS_OF.get(type(op), ()) or isinstance(op, ops.AugMix) for op in recipe)
    return tuple(replace(each, is_exact=is_exact) for each in found)


def _parts(recipe: Sequence[Op]) -> Iterator[Part]:
    for index, op in enumerate(recipe):
        for place in range(places(op)):
            yield Part(index, op, place)


def places(op: Op) -> int:
    """How many ops a policy draws for each image."""
    if isinstance(op, ops.RandAugment):
        return op.num_ops
    return 2 if isinstance(op, ops.AutoAugment) else 1


def sizes(one: Pass, height: int, width: int) -> list[int]:
    """Numbers for each image in each of the pass's ``parameters``, for images of that size."""
    result = one.output_size(height, width)
    drawn, only = {}, {"noise": 3 * result[0] * result[1]}
    for part in (*one.colours, *([one.sampler] if one.sampler else [])):
        chains = part.op.width if isinstance(part.op, ops.AugMix) else 0
        drawn[part.index] = chains * CHAIN or places(part.op)
        if chains:
            only["weights"] = 1 + chains
    return [only.get(name) or drawn.get(index, 1) * SIZES.get(name, 1) for index, name in one.parameters()]


def by_axes(one: Pass) -> tuple[Pass, ...]:
    """The pass, or two where it blurs: along columns, then along rows and whatever follows."""
    if one.sampler is None or not isinstance(one.sampler.op, ops.GaussianBlur):
        return (one,)
    down = Pass(moves=one.moves, sampler=one.sampler, is_exact=one.is_exact)
    return down, replace(one, moves=(), sampler=replace(one.sampler, place=1))


def chains_first(one: Pass) -> tuple[Pass, ...]:
    """The pass, or two where it is an AugMix: the chains, then whatever follows."""
    if one.sampler is None or not isinstance(one.sampler.op, ops.AugMix):
        return (one,)
    return replace(one, colours=()), Pass(colours=one.colours, is_exact=one.is_exact)


def _joined(so_far: Pass, part: Part) -> Pass | None:
    """The pass with one more op, None where the op needs a pass of its own."""
    is_fresh = so_far.sampler is None and not so_far.colours
    if isinstance(part.op, stages.EXACT):
        has_crop = any(isinstance(each.op, stages.CROPS) for each in so_far.moves)
        if is_fresh and not (has_crop and isinstance(part.op, stages.CROPS)):  # a second crop sees black at the first's edge
            return replace(so_far, moves=(*so_far.moves, part))
        is_upright = so_far.sampler is not None and isinstance(so_far.sampler.op, ops.AugMix)  # its ops see no mirrored image
        if not so_far.colours and not is_upright and isinstance(part.op, stages.FLIPS):
            return replace(so_far, mirrors=(*so_far.mirrors, part))
        return None
    if _measures(part.op) and any(_measures(each.op) for each in so_far.colours):
        return None
    if type(part.op) in SAMPLED:
        colours = (part,) if type(part.op) in WAYS_OF else ()
        return replace(so_far, sampler=part, colours=colours) if is_fresh else None
    return replace(so_far, colours=(*so_far.colours, part))


# ---- in numbers -------------------------------------------------------------------------------------------------------

Record = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A pass for images of one size, in the constants that a kernel is compiled for; hashable.

    ``sizes``: height and width of the source, after the moves, and of the result. ``moves``: records (axis, kind, parameter,
    number), where axes 0 and 1 are rows and columns before the resampling, 2 and 3 those behind it. ``steps``: the resampling,
    then each change of values, as records (kind, first parameter, ways as bits, place, places, number, number, ...).
    ``measured``: how many numbers are measured of each image first, 0 where none are needed, for the record ``at``.
    """

    sizes: tuple[int, ...]
    moves: tuple[Record, ...]
    steps: tuple[Record, ...]
    measured: int
    at: int
    is_exact: bool

    @property
    def pixels(self) -> int:
        """Of a result."""
        return self.sizes[4] * self.sizes[5]


@functools.lru_cache(maxsize=256)
def encode(one: Pass, height: int, width: int, start: int = 0) -> Encoded:
    """The pass for images of that size; its parameters are counted from ``start`` on."""
    first: dict[int, int] = {}
    for place, (index, _) in enumerate(one.parameters(), start):
        first.setdefault(index, place)
    moves: list[Record] = []
    moved, result = (height, width), one.output_size(height, width)
    for part in one.moves:
        moves += [(axis, *_move(part.op, first.get(part.index, 0), axis, moved[axis])) for axis in _axes(part.op)]
        moved = output_size(part.op, *moved)
    for part in one.mirrors:
        moves += [(axis + 2, *_move(part.op, first[part.index], axis, result[axis])) for axis in _axes(part.op)]
    ways = {way for part in one.colours for way in ways_of(part.op)}
    return Encoded(
        sizes=(height, width, *moved, *result),
        moves=tuple(moves),
        steps=(_sampler(one.sampler, first), *(_colour(part, first) for part in one.colours)),
        measured=(STATISTICS + LEVELS * ("equalize" in ways)) * any(way in MEASURING for way in ways),
        at=next((place for place, part in enumerate(one.colours, 1) if _measures(part.op)), 0),
        is_exact=one.is_exact,
    )


def op_of_chains(one: Encoded) -> Encoded | None:
    """An op of an AugMix's chains, as if it were the one of a policy that draws all of them; None for other passes."""
    kind, first, _, _, _, width, *_ = one.steps[0]
    if kind != SAMPLERS.index("augmix"):
        return None
    policy, ways = DRAWS.index("policy"), sum(1 << WAYS.index(way) for way in policies.KERNELS)
    record = (first, ways, 0, CHAIN * width, 0, 0.0)
    steps = ((SAMPLERS.index("chosen"), *record, policy), (policy, *record))
    return Encoded(one.sizes[4:] * 3, (), steps, STATISTICS + LEVELS, 1, one.is_exact)


def _axes(op: Op) -> tuple[int, ...]:
    """The axes that an op moves along: 0 rows, 1 columns."""
    return {ops.VerticalFlip: (0,), ops.HorizontalFlip: (1,)}.get(type(op), (0, 1))


def _move(op: Op, at: int, axis: int, side: int) -> Record:
    """What a flip or a crop does to an axis of ``side`` pixels; parameters of a crop are its top and its left."""
    match op:
        case ops.RandomCrop():
            return (MOVES.index("crop"), at + axis, -op.padding)
        case ops.CenterCrop():
            missing = max(op.size - side, 0)  # torchvision's rounding, as in geometry.Axis.center_crop
            return (MOVES.index("shift"), 0, -(missing // 2) if missing else round((side - op.size) / 2))
    return (MOVES.index("flip"), at, side - 1)


def _bits(op: Op) -> int:
    return sum(1 << WAYS.index(way) for way in ways_of(op))


def _drawn(part: Part, first: dict[int, int]) -> Record:
    """(kind, first parameter, ways, place, places, the only way, its strength)."""
    op, ways = part.op, WAYS_OF[type(part.op)]
    strength = next((float(getattr(op, name)) for name in ("threshold", "bits", "factor") if hasattr(op, name)), 0.0)
    kind = DRAWS.index(DRAWN[NAMES[type(op)][0]])
    return (kind, first[part.index], _bits(op), part.place, places(op), WAYS.index(ways[0]), strength)


def _sampler(part: Part | None, first: dict[int, int]) -> Record:
    if part is None:
        return (SAMPLERS.index("take"), 0, 0, 0, 0, 0, 0.0)
    kind = SAMPLERS.index(SAMPLED[type(part.op)])
    if type(part.op) in WAYS_OF:
        return (kind, *_drawn(part, first)[1:], _drawn(part, first)[0])
    number = next((int(getattr(part.op, name)) for name in ("antialias", "kernel_size", "width") if hasattr(part.op, name)), 0)
    return (kind, first.get(part.index, 0), 0, part.place, 0, number, 0.0)


def _colour(part: Part, first: dict[int, int]) -> Record:
    match part.op:
        case ops.RandomErasing() | ops.Cutout():
            return (DRAWS.index("erase"), first[part.index], 0, 0, 0, 0, float(getattr(part.op, "value", 0.0)))
        case ops.GaussianNoise():
            return (DRAWS.index("noise"), first[part.index], 0, 0, 0, 0, 0.0)
        case ops.Normalize(mean=mean, std=std):
            numbers = [(1 / s, -m / s) for m, s in zip(mean, std, strict=True)]
            return (DRAWS.index("normalize"), 0, 0, 0, 0, 0, 0.0, *(each for pair in numbers for each in pair))
    return _drawn(part, first)
