"""What the fused backend draws, against closed forms and against torchvision's own draws; all seeds are fixed."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from augment import ops, policies
from augment.ops import Op
from augment.sampling import SAMPLERS, Params, sample

COUNT = 20_000
# Seeds are fixed, so a test passes always or never. Of the forty-odd p-values here the smallest is below this by chance with
# a probability of 0.4 %: it was not, and a wrong distribution at this sample size gives far less.
LEVEL = 1e-4


def draw(op: Op, height: int = 32, width: int = 32, count: int = COUNT, seed: int = 5) -> Params:
    return sample([op], count, height, width, torch.Generator().manual_seed(seed))[0]


def assert_follows(values: Tensor, cdf: Callable[..., object]) -> None:
    assert stats.kstest(values.double().numpy(), cdf).pvalue > LEVEL


def assert_counts(observed: Mapping[Any, int], expected: Mapping[Any, float]) -> None:
    """``expected``: probabilities, of which nothing else may have been drawn."""
    assert set(observed) <= set(expected)
    total = sum(observed.values())
    assert stats.chisquare([observed.get(k, 0) for k in expected], [p * total for p in expected.values()]).pvalue > LEVEL


def assert_same_law(ours: Tensor, theirs: Tensor) -> None:
    """Two samples of whole numbers, by chi-squared on at most 30 cells of equal size."""
    edges = torch.quantile(theirs.double(), torch.linspace(0, 1, 31, dtype=torch.float64)).unique()
    table = torch.stack([torch.bucketize(x.double(), edges[1:-1]).bincount(minlength=len(edges)) for x in (ours, theirs)])
    assert stats.chi2_contingency(table[:, table.sum(0) > 0].numpy()).pvalue > LEVEL


def theirs(transform: v2.Transform, height: int, width: int, count: int = 4000) -> list[dict[str, object]]:
    image = [torch.zeros(3, height, width)]
    return [transform.make_params(image) for _ in range(count)]


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("kind", [kind for kind, sampler in SAMPLERS.items() if sampler is SAMPLERS[ops.Invert]])
def test_applied_at_rate_p(kind: type[Op], p: float) -> None:
    applied = draw(kind(p=p))["applied"].sum()  # type: ignore[call-arg]
    assert stats.binomtest(int(applied), COUNT, p).pvalue > LEVEL


def test_crop_positions() -> None:
    drawn = draw(ops.RandomCrop(size=30, padding=2), 32, 40)
    for key, places in (("top", 7), ("left", 15)):
        assert_counts(Counter(drawn[key].tolist()), dict.fromkeys(range(places), 1 / places))


@pytest.mark.parametrize("size", [(32, 32), (32, 48)], ids=str)
@pytest.mark.parametrize("setting", [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.1, 1.0), (0.5, 2.0))], ids=str)
def test_resized_crop_windows(setting: tuple[ops.Range, ops.Range], size: tuple[int, int]) -> None:
    scale, ratio = setting
    drawn = draw(ops.RandomResizedCrop(size=32, scale=scale, ratio=ratio), *size)
    expected = theirs(v2.RandomResizedCrop(32, scale=scale, ratio=ratio), *size)
    for key in ("top", "left", "height", "width"):
        assert_same_law(drawn[key], torch.tensor([float(p[key]) for p in expected]))  # type: ignore[arg-type]
    assert bool((drawn["top"] + drawn["height"] <= size[0]).all())
    assert bool((drawn["left"] + drawn["width"] <= size[1]).all())
    assert bool(((drawn["top"] >= 0) & (drawn["left"] >= 0) & (drawn["height"] >= 1) & (drawn["width"] >= 1)).all())


@pytest.mark.parametrize(("size", "window"), [((20, 100), (0, 36, 20, 27)), ((100, 20), (36, 0, 27, 20)), ((30, 30), None)])
def test_fallback_is_the_largest_centred_window(size: tuple[int, int], window: tuple[int, ...] | None) -> None:
    # A window of the whole area and nearly square fits an oblong image never, a square one in about every second try.
    drawn = draw(ops.RandomResizedCrop(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3)), *size, count=200)
    boxes = {tuple(int(drawn[key][i]) for key in ("top", "left", "height", "width")) for i in range(200)}
    if window is not None:
        expected = theirs(v2.RandomResizedCrop(32, scale=(1.0, 1.0)), *size, count=1)[0]
        assert boxes == {window}
        assert window == tuple(expected[key] for key in ("top", "left", "height", "width"))
    else:
        assert (0, 0, 30, 30) in boxes


def test_rotation_and_affine() -> None:
    assert_follows(draw(ops.Rotate(degrees=(-10.0, 30.0)))["angle"], stats.uniform(-10, 40).cdf)
    drawn = draw(ops.Affine(), 32, 64)
    assert_follows(drawn["angle"], stats.uniform(-15, 30).cdf)
    assert_follows(drawn["scale"], stats.uniform(0.9, 0.2).cdf)
    assert_follows(drawn["shear"], stats.uniform(-10, 20).cdf)
    for key, reach in (("translate_x", 6.4), ("translate_y", 3.2)):
        shifts = range(-math.ceil(reach), math.ceil(reach) + 1)
        cells = {float(k): max(min(k + 0.5, reach) - max(k - 0.5, -reach), 0) / (2 * reach) for k in shifts}
        assert_counts(Counter(drawn[key].tolist()), {k: p for k, p in cells.items() if p > 0})


def test_perspective_corners() -> None:
    drawn = draw(ops.Perspective(distortion=0.5, p=0.3), 20, 32)
    assert stats.binomtest(int(drawn["applied"].sum()), COUNT, 0.3).pvalue > LEVEL
    x_of = {False: range(9), True: range(23, 32)}  # left, right: up to half of half the side, inclusive
    y_of = {False: range(6), True: range(14, 20)}  # top, bottom
    for corner, (right, bottom) in enumerate([(False, False), (True, False), (True, True), (False, True)]):
        for axis, places in ((0, x_of[right]), (1, y_of[bottom])):
            assert_counts(Counter(drawn["corners"][:, corner, axis].tolist()), {i: 1 / len(places) for i in places})


def test_factors() -> None:
    for op in (ops.Brightness(), ops.Contrast(), ops.Saturation()):
        assert_follows(draw(op)["factor"], stats.uniform(0.5, 1.0).cdf)
    assert_follows(draw(ops.Hue())["factor"], stats.uniform(-0.1, 0.2).cdf)
    assert_follows(draw(ops.GaussianBlur(sigma=(0.5, 2.0)))["sigma"], stats.uniform(0.5, 1.5).cdf)


def test_color_jitter_orders_and_factors() -> None:
    drawn = draw(ops.ColorJitter(brightness=(0.2, 0.4)))
    for column, (low, width) in enumerate([(0.2, 0.2), (0.5, 1.0), (0.5, 1.0), (-0.5, 1.0)]):
        assert_follows(drawn["factors"][:, column], stats.uniform(low, width).cdf)
    orders = Counter(map(tuple, drawn["order"].tolist()))
    assert_counts(orders, dict.fromkeys(permutations(range(4)), 1 / 24))
    # The order says nothing about the factors.
    first = drawn["factors"][drawn["order"][:, 0] == 0, 0]
    assert_follows(first, stats.uniform(0.2, 0.2).cdf)


def test_noise() -> None:
    noise = draw(ops.GaussianNoise(sigma=0.2), 8, 8, count=200)["noise"]
    assert noise.shape == (200, 3, 8, 8)
    assert_follows(noise.flatten(), stats.norm(0, 0.2).cdf)


@pytest.mark.parametrize("op", [ops.RandomErasing(p=1.0), ops.RandomErasing(p=1.0, scale=(0.3, 1.0))], ids=str)
def test_erased_rectangles(op: ops.RandomErasing) -> None:
    drawn = draw(op, 24, 32)
    expected = theirs(v2.RandomErasing(1.0, scale=op.scale, ratio=op.ratio), 24, 32)
    # torchvision says "nothing to erase" by the whole image and no value; ours is an empty rectangle.
    heights = torch.tensor([float(p["h"]) if p["v"] is not None else 0.0 for p in expected])  # type: ignore[arg-type]
    assert_same_law(drawn["height"], heights)
    erased = drawn["height"] > 0
    for key, other in (("top", "i"), ("left", "j"), ("width", "w")):
        values = torch.tensor([float(p[other]) for p in expected if p["v"] is not None])  # type: ignore[arg-type]
        assert_same_law(drawn[key][erased], values)


def test_erasing_rate_and_cutout() -> None:
    erased = draw(ops.RandomErasing(p=0.3))["height"] > 0  # at these settings a window always fits within ten tries
    assert stats.binomtest(int(erased.sum()), COUNT, 0.3).pvalue > LEVEL
    drawn = draw(ops.Cutout(side=0.5), 32, 32)
    assert set(drawn["height"].tolist()) == set(drawn["width"].tolist()) == {16.0}
    assert_counts(Counter(drawn["top"].tolist()), {float(i): 1 / 17 for i in range(17)})


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])  # below 0.5 a share of draws rounds to 1 in float32, in torchvision too
def test_mixing_weights(alpha: float) -> None:
    assert_follows(draw(ops.MixUp(alpha=alpha))["lam"], stats.beta(alpha, alpha).cdf)
    drawn = draw(ops.CutMix(alpha=alpha), 24, 32)
    transform = v2.CutMix(alpha=alpha, num_classes=2)
    expected = theirs(transform, 24, 32)
    assert_same_law(drawn["lam"], torch.tensor([float(p["lam_adjusted"]) for p in expected]))  # type: ignore[arg-type]
    for key, place in (("left", 0), ("top", 1)):
        assert_same_law(drawn[key], torch.tensor([float(p["box"][place]) for p in expected]))  # type: ignore[index]


@pytest.mark.parametrize(
    ("op", "space", "bins"),
    [
        (ops.RandAugment(num_ops=3, magnitude=7), policies.RANDAUGMENT, [7]),
        (ops.TrivialAugmentWide(), policies.TRIVIALAUGMENT, list(range(31))),
    ],
)
def test_policies_choose_evenly(op: Op, space: policies.Space, bins: list[int]) -> None:
    drawn = draw(op, count=6000)
    cells = {(name, bin, sign): 1 / (14 * len(bins) * 2) for name in range(14) for bin in bins for sign in (True, False)}
    observed = Counter(zip(*(drawn[key].flatten().tolist() for key in ("op", "bin", "negative")), strict=True))
    assert_counts(observed, cells)
    assert len(space.names) == 14


def test_autoaugment_pairs_and_rates() -> None:
    drawn = draw(ops.AutoAugment(), count=50_000)
    assert_counts(Counter(drawn["pair"].tolist()), dict.fromkeys(range(25), 1 / 25))
    table = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    identity = policies.AUTOAUGMENT.names.index("Identity")
    for pair, places in enumerate(table):
        rows = drawn["pair"] == pair
        for place, (name, p, magnitude) in enumerate(places):
            chosen = drawn["op"][rows, place]
            assert set(chosen.tolist()) <= {identity, policies.AUTOAUGMENT.names.index(name)}
            assert stats.binomtest(int((chosen != identity).sum()), len(chosen), p).pvalue > LEVEL / 2
            assert magnitude is None or set(drawn["bin"][rows, place].tolist()) == {magnitude}


def test_augmix_chains() -> None:
    drawn = draw(ops.AugMix(severity=3, width=2, alpha=0.7), count=8000)
    space = policies.AUGMIX
    real = drawn["op"] < len(space.names) - 1
    assert_counts(Counter(real.sum(2).flatten().tolist()), dict.fromkeys((1, 2, 3), 1 / 3))
    assert bool((real[..., :-1] | ~real[..., 1:]).all())  # a chain is not interrupted
    assert_counts(Counter(drawn["op"][real].tolist()), dict.fromkeys(range(13), 1 / 13))
    assert_counts(Counter(drawn["bin"].flatten().tolist()), dict.fromkeys(range(3), 1 / 3))
    weights = drawn["weights"]
    torch.testing.assert_close(weights.sum(1), torch.ones(8000))
    assert_follows(weights[:, 0], stats.beta(0.7, 0.7).cdf)
    assert_follows(weights[:, 1] / weights[:, 1:].sum(1), stats.beta(0.7, 0.7).cdf)


THEIR_SPACES = [
    (policies.RANDAUGMENT, v2.RandAugment._AUGMENTATION_SPACE),
    (policies.AUTOAUGMENT, v2.AutoAugment._AUGMENTATION_SPACE),
    (policies.TRIVIALAUGMENT, v2.TrivialAugmentWide._AUGMENTATION_SPACE),
    (policies.AUGMIX, v2.AugMix._AUGMENTATION_SPACE),
]


@pytest.mark.parametrize(("space", "expected"), THEIR_SPACES)
def test_magnitudes_are_torchvisions(
    space: policies.Space, expected: dict[str, tuple[Callable[..., Tensor | None], bool]]
) -> None:
    assert set(space.names) - {"Identity"} == set(expected) - {"Identity"}
    for name, (magnitudes, signed) in expected.items():
        theirs = magnitudes(space.bins, 24, 40)
        assert theirs is None or torch.equal(space.magnitudes[name](space.bins, 24, 40).float(), theirs.float())
        assert signed is (name not in policies.UNSIGNED)


EVERY_OP = [kind() for kind in SAMPLERS]


@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: op.name)
def test_a_generator_decides_everything_and_nothing_else_moves(op: Op) -> None:
    before = torch.random.get_rng_state()
    first, again = (sample([op], 50, 40, 40, torch.Generator().manual_seed(1))[0] for _ in range(2))
    other = sample([op], 50, 40, 40, torch.Generator().manual_seed(2))[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(len(values) == 50 for values in first.values())
    assert not first or any(not torch.equal(first[key], other[key]) for key in first)


def test_without_a_generator_the_global_one_is_used() -> None:
    torch.manual_seed(3)
    first = sample([ops.Rotate()], 5, 8, 8)[0]["angle"]
    torch.manual_seed(3)
    assert torch.equal(first, sample([ops.Rotate()], 5, 8, 8)[0]["angle"])


def test_sizes_follow_the_ops() -> None:
    params = sample([ops.RandomCrop(size=20, padding=0), ops.GaussianNoise()], 3, 64, 48)
    assert params[1]["noise"].shape == (3, 3, 20, 20)
    with pytest.raises(ValueError, match=r"RandomCrop.*16x16.*padding"):
        sample([ops.CenterCrop(size=16), ops.RandomCrop(size=32, padding=4)], 3, 64, 48)
    with pytest.raises(ValueError, match=r"GaussianBlur.*2x64"):
        sample([ops.GaussianBlur()], 3, 2, 64)
