"""Draws of ours and of torchvision at settings that no table benchmarks, against the audit's laws; all seeds are fixed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from augment import find_backend, ops, policies
from augment.audit.laws import laws, observe
from augment.fused.sample import Params, sample
from augment.op import Op
from tests.conftest import present

# Seeds are fixed, so a test passes always or never. Of about 300 p-values the smallest is below this by chance with a
# probability of 3 %: it was not, and a wrong distribution at this sample size gives far less.
LEVEL = 1e-4
SHAPE = (24, 32)

SETTINGS = [
    *(ops.HorizontalFlip(p=p) for p in (0.0, 0.2, 1.0)),
    ops.RandomCrop(size=20, padding=2),
    ops.RandomResizedCrop(scale=(0.1, 1.0), ratio=(0.5, 2.0)),
    ops.RandomResizedCrop(scale=(0.9, 1.0), ratio=(2.0, 3.0)),  # hardly ever fits
    ops.Rotate(degrees=(-10.0, 30.0)),
    ops.Affine(translate=(0.2, 0.05)),
    ops.Perspective(distortion=0.5, p=0.3),
    ops.Brightness(low=0.2, high=0.4),
    ops.Hue(),
    ops.ColorJitter(brightness=(0.2, 0.4)),
    ops.GaussianBlur(sigma=(0.5, 2.0)),
    ops.GaussianNoise(sigma=0.2),
    ops.RandomErasing(p=0.9, scale=(0.3, 0.6)),
    ops.RandomErasing(p=0.3),
    ops.Cutout(side=0.6),
    *(kind(alpha=alpha) for kind in (ops.MixUp, ops.CutMix) for alpha in (0.5, 1.0, 3.0)),  # far below 0.5, float32 rounds to 1
    ops.RandAugment(num_ops=3, magnitude=7),
    ops.TrivialAugmentWide(),
    ops.AutoAugment(),
    ops.AugMix(severity=3, width=2, alpha=0.7),
]


def draw(op: Op, height: int, width: int, count: int) -> Params:
    return sample([op], count, height, width, torch.Generator().manual_seed(5))[0]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("backend", "count"), [("fused", 20_000), ("torchvision_loop", 1000)])
@pytest.mark.parametrize("op", SETTINGS, ids=str)
def test_draws_follow_the_laws(op: Op, backend: str, count: int) -> None:
    recorder = present(find_backend(backend).trace([op], device=torch.device("cpu"), num_classes=10).recorders[0])
    torch.manual_seed(7)
    images = 10 if op.drawn_names == ("noise",) else count  # an image has noise enough
    drawn = observe(op, recorder.sample(images, SHAPE), SHAPE)
    rare = {name for name, law in laws(op, SHAPE).items() if len(drawn.get(name, ())) == 0}  # an op that is never applied
    p_values = {name: law.test(drawn[name]).p_value for name, law in laws(op, SHAPE).items() if name not in rare}
    assert min(p_values.values()) > LEVEL, p_values


@pytest.mark.parametrize("size", [(20, 100), (100, 20)])
def test_fallback_is_torchvisions(size: tuple[int, int]) -> None:
    drawn = draw(ops.RandomResizedCrop(scale=(1.0, 1.0)), *size, 200)  # a nearly square window of the whole area never fits
    made = v2.RandomResizedCrop(32, scale=(1.0, 1.0)).make_params([torch.zeros(3, *size)])
    for name in ("top", "left", "height", "width"):
        assert set(drawn[name].tolist()) == {made[name]}


def test_parameters_of_an_op_are_independent() -> None:
    drawn = draw(ops.ColorJitter(), 32, 32, 20_000)
    first = (drawn["order"][:, 0] == 0).float()
    numbers = torch.cat([first[:, None], drawn["factors"]], 1).T
    off = torch.corrcoef(numbers) - torch.eye(5)
    assert off.abs().max() < 4 / 20_000**0.5  # four standard deviations


def test_a_chain_of_augmix_is_not_interrupted() -> None:
    drawn = draw(ops.AugMix(width=2), 32, 32, 2000)
    is_op = drawn["op"] < len(policies.AUGMIX.names) - 1
    assert bool((is_op[..., :-1] | ~is_op[..., 1:]).all())
    torch.testing.assert_close(drawn["weights"].sum(1), torch.ones(2000))


TORCHVISION_SPACES = [
    (policies.RANDAUGMENT, v2.RandAugment._AUGMENTATION_SPACE),
    (policies.AUTOAUGMENT, v2.AutoAugment._AUGMENTATION_SPACE),
    (policies.TRIVIALAUGMENT, v2.TrivialAugmentWide._AUGMENTATION_SPACE),
    (policies.AUGMIX, v2.AugMix._AUGMENTATION_SPACE),
]


@pytest.mark.parametrize(("space", "expected"), TORCHVISION_SPACES)
def test_magnitudes_are_torchvisions(
    space: policies.Space, expected: dict[str, tuple[Callable[..., Tensor | None], bool]]
) -> None:
    assert set(space.names) - {"Identity"} == set(expected) - {"Identity"}
    for name, (magnitudes, is_signed) in expected.items():
        published = magnitudes(space.bins, 24, 40)
        assert published is None or torch.equal(space.magnitudes[name](space.bins, 24, 40).float(), published.float())
        assert is_signed is (name not in policies.UNSIGNED)


def test_pairs_of_autoaugment_are_torchvisions() -> None:
    table = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    assert [tuple((name, p, bin or 0) for name, p, bin in pair) for pair in table] == list(policies.CIFAR10_PAIRS)
