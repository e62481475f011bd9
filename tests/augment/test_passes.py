"""Where recipes are cut into passes, and what a pass becomes in numbers; expectations are worked out by hand."""

import pytest

from augment import fused, ops, passes
from augment.catalog import resolve
from augment.ops import Op
from augment.passes import DRAWS, MOVES, SAMPLERS, Pass
from augment.sampling import SAMPLERS as DRAWN

FLIP, CROP, SHIFT = (MOVES.index(name) for name in ("flip", "crop", "shift"))


def shape(recipe: list[Op]) -> list[str]:
    """A word a pass: moves, "*" for a resampling, mirrors, "+" for each change of values."""
    return [
        "m" * len(each.moves) + "*" * bool(each.sampler) + "m" * len(each.mirrors) + "+" * len(each.colours)
        for each in passes.passes(recipe)
    ]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("none", ["+"]),
        ("flip", ["m+"]),
        ("crop_flip_cutout", ["mm++"]),
        ("d2l", ["m+", "*+"]),  # values change before the resampling
        ("imagenet", ["*m+"]),
        ("imagenet_eval", ["*", "m+"]),  # a crop sees the resized image's own edge
        ("trivialaugment", ["mm*++"]),
        ("randaugment", ["mm*+", "*++"]),
        ("augmix", ["mm*+"]),
        ("mixup", ["mm*+"]),
    ],
)
def test_recipes_are_cut_where_they_must_be(recipe: str, expected: list[str]) -> None:
    assert shape(list(resolve(recipe, 32))) == expected


def test_what_ends_a_pass() -> None:
    flip, crop, turn = ops.HorizontalFlip(), ops.RandomCrop(), ops.Rotate()
    assert shape([flip, crop, flip, crop]) == ["mmm", "m"]  # a second crop sees black where the first one cut
    assert shape([turn, flip, flip, turn]) == ["*mm", "*"]
    assert shape([ops.Invert(), flip]) == ["+", "m"]
    assert shape([ops.Contrast(), ops.Hue(), ops.Equalize()]) == ["++", "+"]  # two that need the whole image
    assert shape([ops.Contrast(), ops.GaussianBlur(), flip, ops.Contrast()]) == ["+", "*m+"]
    assert shape([flip, ops.AugMix(), flip]) == ["m*", "m"]  # its ops see the image as it is, not mirrored
    assert shape([ops.RandAugment(num_ops=3)]) == ["*+", "*+", "*+"]
    assert shape([]) == []


def test_every_op_is_a_pass_and_reads_only_what_is_drawn() -> None:
    for kind in DRAWN:
        planned = fused.plan([kind()])
        params = planned.sample(2, 64, 64)
        for each in passes.passes(planned.ops):
            assert {name for _, name in each.parameters()} <= set(params[0])


def test_a_crop_between_flips_in_numbers() -> None:
    recipe = [
        ops.HorizontalFlip(),
        ops.RandomCrop(size=20, padding=2),
        ops.VerticalFlip(),
        ops.Normalize(mean=(0.5,) * 3, std=(0.25,) * 3),
    ]
    (one,) = passes.passes(recipe)
    assert one.parameters() == ((0, "applied"), (1, "top"), (1, "left"), (2, "applied"))
    encoded = passes.encode(one, 24, 30)
    assert encoded.sizes == (24, 30, 20, 20, 20, 20)
    # (axis, kind, parameter, number): the last pixel of the axis for a flip, the padding that a crop leaves out
    assert encoded.moves == ((1, FLIP, 0, 29), (0, CROP, 1, -2), (1, CROP, 2, -2), (0, FLIP, 3, 19))
    assert encoded.steps[1][7:] == (4.0, -2.0) * 3
    assert encoded.measured == 0


def test_center_crops_round_as_torchvision() -> None:
    for side, expected in (
        (23, 2),
        (24, 2),
        (25, 2),
        (27, 4),
        (17, -1),
        (16, -2),
    ):  # round((side - 20) / 2); half of what is missing
        (one,) = passes.passes([ops.CenterCrop(size=20)])
        assert passes.encode(one, side, side).moves[0] == (0, SHIFT, 0, expected)


def test_what_is_measured_and_what_must_be_exact() -> None:
    def encoded(*recipe: Op) -> passes.Encoded:
        first = passes.passes(recipe)[0]
        return passes.encode(first, 8, 8)

    assert encoded(ops.Hue()).measured == 0
    assert encoded(ops.ColorJitter()).measured == passes.STATISTICS
    assert encoded(ops.RandAugment()).measured == passes.STATISTICS + passes.LEVELS
    assert not encoded(ops.RandomCrop(size=8), ops.Hue()).is_exact
    assert encoded(
        ops.RandomCrop(size=8), ops.CenterCrop(size=4), ops.Solarize()
    ).is_exact  # two passes; the threshold is later


def test_a_blur_by_axes() -> None:
    (one,) = passes.passes([ops.HorizontalFlip(), ops.GaussianBlur(kernel_size=3), ops.VerticalFlip(), ops.Contrast()])
    down, across = passes.by_axes(one)
    assert (len(down.moves), len(down.mirrors), len(down.colours)) == (1, 0, 0)
    assert (len(across.moves), len(across.mirrors), len(across.colours)) == (0, 1, 1)
    assert [each.parameters() for each in (down, across)] == [
        ((0, "applied"), (1, "sigma")),
        ((1, "sigma"), (2, "applied"), (3, "factor")),
    ]
    kind = SAMPLERS.index("blur")
    assert passes.encode(down, 9, 7).steps[0] == (kind, 1, 0, 0, 0, 3, 0.0)
    encoded = passes.encode(across, 9, 7, start=2)  # behind the two of the first
    assert encoded.steps[0] == (kind, 2, 0, 1, 0, 3, 0.0)
    assert (encoded.moves, encoded.at, encoded.steps[1][1]) == (((2, FLIP, 3, 8),), 1, 4)
    assert passes.by_axes(Pass()) == (Pass(),)


def test_chains_and_what_follows() -> None:
    (one,) = passes.passes([ops.RandomCrop(size=8), ops.AugMix(width=4), ops.Contrast(), ops.Normalize()])
    chains, rest = passes.chains_first(one)
    assert chains.parameters() + rest.parameters() == one.parameters()
    assert (len(chains.colours), len(rest.colours)) == (0, 2)
    op = passes.op_of_chains(passes.encode(chains, 10, 11))
    assert op is not None
    assert op.sizes == (8, 8) * 3
    chosen, policy = op.steps
    # behind top and left: the kernel and its arguments, of 4 chains of 3 ops
    assert chosen[:5] == (SAMPLERS.index("chosen"), 2, 2**11 - 1, 0, 12)
    assert policy[:5] == (DRAWS.index("policy"), 2, 2**11 - 1, 0, 12)
    assert (op.measured, op.at) == (passes.STATISTICS + passes.LEVELS, 1)
    assert passes.op_of_chains(passes.encode(rest, 8, 8)) is None
