"""Where recipes are cut into passes, and the records of passes; expectations are worked out by hand."""

from collections.abc import Sequence

import pytest

from augment import OPS, fused, ops, resolve
from augment.fused.kinds import CHANGES, MOVES, POINTS, SAMPLERS
from augment.fused.passes import (
    LEVELS,
    STATISTICS,
    MoveRecord,
    Pass,
    PassRecord,
    Sizes,
    encode,
    encode_stretch,
    passes,
    split_chains,
    split_sampling,
    stretches,
)
from augment.op import Op
from tests.augment.fused.cases import SUPPORTED
from tests.conftest import present

FLIP, CROP, SHIFT = (MOVES.index(name) for name in ("flip", "crop", "shift"))
FLIPPED, CROPPED, TURNED = ops.HorizontalFlip(), ops.RandomCrop(), ops.Rotate()


def shape(recipe: Sequence[Op]) -> list[str]:
    """Return a word for each pass: moves, "*" for a resampling, mirrors, "+" for each change of values."""
    return [
        "m" * len(step.moves) + "*" * bool(step.sampler) + "m" * len(step.mirrors) + "+" * len(step.changes)
        for step in passes(recipe)
    ]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("none", ["+"]),
        ("flip", ["m+"]),
        ("crop_flip_cutout", ["mm++"]),
        ("airbench", ["mm+"]),
        ([ops.ReflectCrop(size=20), ops.CutMix(), ops.Normalize()], ["m", "*+"]),  # mixing mirrors no border
        ("d2l", ["m+", "*+"]),  # values change before the resampling
        ("imagenet", ["*m+"]),
        ("imagenet_eval", ["*", "m+"]),  # a crop sees the resized image's own edge
        ("trivialaugment", ["mm*++"]),
        ("randaugment", ["mm*+", "*++"]),
        ("augmix", ["mm*+"]),
        ("mixup", ["mm*+"]),
        ([FLIPPED, CROPPED, FLIPPED, CROPPED], ["mmm", "m"]),  # a second crop sees black where the first one cut
        ([TURNED, FLIPPED, FLIPPED, TURNED], ["*mm", "*"]),
        ([ops.Invert(), FLIPPED], ["+", "m"]),
        ([ops.Contrast(), ops.Hue(), ops.Equalize()], ["++", "+"]),  # two that measure the whole image
        ([ops.Contrast(), ops.GaussianBlur(), FLIPPED, ops.Contrast()], ["+", "*m+"]),
        ([FLIPPED, ops.AugMix(), FLIPPED], ["m*", "m"]),  # the ops of chains see no mirrored image
        ([ops.RandAugment(num_ops=3)], ["*+", "*+", "*+"]),
        ([], []),
    ],
    ids=str,
)
def test_recipes_are_cut_where_they_must_be(recipe: str | list[Op], expected: list[str]) -> None:
    assert shape(resolve(recipe, 32)) == expected


def test_stretches_end_only_before_ops_that_mix_images() -> None:
    chain = [ops.Contrast(), TURNED, ops.MixUp(), ops.Contrast(), TURNED, ops.CutMix(), ops.Normalize()]
    assert [len(stretch) for stretch in stretches(passes(chain))] == [2, 2, 1]


@pytest.mark.parametrize("name", SUPPORTED)
def test_kernels_read_only_what_is_drawn(name: str) -> None:
    plan = fused.plan([OPS[name]()])
    (params,) = plan.sample(2, 64, 64)
    for step in passes(plan.ops):
        record = encode_stretch((step,), 64, 64)
        assert record.parameters == step.parameters()
        assert [params[key].numel() for _, key in record.parameters] == [2 * number for number in record.numbers]


def test_a_crop_between_flips() -> None:
    normalize = ops.Normalize(mean=(0.5,) * 3, std=(0.25,) * 3)
    (step,) = passes([FLIPPED, ops.RandomCrop(size=20, padding=2), ops.VerticalFlip(), normalize])
    assert step.parameters() == ((0, "applied"), (1, "top"), (1, "left"), (2, "applied"))
    record = encode(step, 24, 30)
    assert record.sizes == Sizes(24, 30, 20, 20, 20, 20)
    # offsets: the last pixel of the axis for a flip, the padding that a crop leaves out
    assert record.moves == (
        MoveRecord(1, FLIP, 0, 29), MoveRecord(0, CROP, 1, -2), MoveRecord(1, CROP, 2, -2), MoveRecord(0, FLIP, 3, 19),
    )  # fmt: skip
    assert (record.steps[1].gain, record.steps[1].bias, record.measured) == ((4.0,) * 3, (-2.0,) * 3, 0)


@pytest.mark.parametrize(("side", "offset"), [(23, 2), (24, 2), (25, 2), (27, 4), (17, -1), (16, -2)])
def test_center_crops_round_as_torchvision(side: int, offset: int) -> None:
    (step,) = passes([ops.CenterCrop(size=20)])
    assert encode(step, side, side).moves[0] == MoveRecord(0, SHIFT, 0, offset)


def test_point_ops_by_drawn_and_fixed_strengths() -> None:
    (step,) = passes([FLIPPED, ops.Hue(), ops.Solarize(threshold=0.25)])
    hue, solarize = encode(step, 8, 8).steps[1:]
    assert (hue.change, hue.applied, hue.strengths, POINTS[hue.point]) == (CHANGES.index("point"), -1, 1, "hue")
    assert (solarize.applied, solarize.strengths, solarize.strength, POINTS[solarize.point]) == (2, -1, 0.25, "solarize")
    assert solarize.points == 1 << POINTS.index("solarize")


def test_what_is_measured_and_what_must_be_exact() -> None:
    def record(*recipe: Op) -> PassRecord:
        return encode(passes(recipe)[0], 8, 8)

    assert record(ops.Hue()).measured == 0
    assert (record(ops.ColorJitter()).measured, record(ops.ColorJitter()).at) == (STATISTICS, 1)
    assert record(ops.RandAugment()).measured == STATISTICS + LEVELS
    assert not record(ops.RandomCrop(size=8), ops.Hue()).is_exact
    assert record(ops.RandomCrop(size=8), ops.CenterCrop(size=4), ops.Solarize()).is_exact  # the threshold is in a later pass


def test_a_blur_by_axes() -> None:
    (step,) = passes([FLIPPED, ops.GaussianBlur(kernel_size=3), ops.VerticalFlip(), ops.Contrast()])
    down, across = split_sampling(step)
    assert (len(down.moves), len(down.mirrors), len(down.changes)) == (1, 0, 0)
    assert (len(across.moves), len(across.mirrors), len(across.changes)) == (0, 1, 1)
    assert down.parameters() == ((0, "applied"), (1, "sigma"))
    assert across.parameters() == ((1, "sigma"), (2, "applied"), (3, "factor"))
    blur = encode(down, 9, 7).steps[0]
    assert (SAMPLERS[blur.sampler], blur.first, blur.place, blur.kernel_size) == ("blur", 1, 0, 3)
    record = encode(across, 9, 7, start=2)  # behind the two of the first
    assert (record.steps[0].first, record.steps[0].place, record.steps[1].strengths) == (2, 1, 4)
    assert (record.moves, record.at) == ((MoveRecord(2, FLIP, 3, 8),), 1)
    assert split_sampling(Pass()) == (Pass(),)


def test_chains_and_what_follows() -> None:
    (step,) = passes([ops.RandomCrop(size=8), ops.AugMix(width=4), ops.Contrast(), ops.Normalize()])
    chains, following = split_chains(step)
    assert chains.parameters() + following.parameters() == step.parameters()
    assert (len(chains.changes), len(following.changes)) == (0, 2)
    op = present(encode(chains, 10, 11).chain_op)
    assert op.sizes == Sizes(*(8, 8) * 3)
    sampled, changed = op.steps
    # behind top and left: the kernel and its arguments, of 4 chains of 3 ops
    assert (SAMPLERS[sampled.sampler], sampled.first, sampled.places) == ("neighbours", 2, 12)
    assert (CHANGES[changed.change], changed.first, changed.places) == ("policy", 2, 12)
    assert (op.measured, op.at) == (STATISTICS + LEVELS, 1)
    assert encode(following, 8, 8).chain_op is None
