"""Whatever PyTorch is set to, the fused backend's pixels are the same: default types and devices, autocast, gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from augment import OPS, fused, ops, policies, resolve
from augment.distributions import Params
from augment.fused import cpu
from augment.op import Op
from tests.conftest import present

RECIPES = (
    "flip", "crop_flip_cutout", "d2l", "autoaugment", "randaugment", "trivialaugment", "augmix", "mixup", "cutmix", "imagenet",
)  # fmt: skip
Apply = Callable[[Tensor, Sequence[Params]], Tensor]


def images_of(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def implementations(plan: fused.Plan) -> tuple[Apply, Apply]:
    """Return ``apply`` in C, where there is a compiler, and by tensor operations."""
    return plan.apply, lambda images, params: plan._by_tensors(images, params, None)


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    """No table is kept from other tests, nor for them."""
    policies._tables.cache_clear()
    yield
    policies._tables.cache_clear()


@pytest.mark.usefixtures("fresh_tables")
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, "meta"], ids=str)
@pytest.mark.parametrize("recipe", RECIPES)
def test_defaults_of_pytorch_do_not_matter(recipe: str, default: torch.dtype | str) -> None:
    images, plan = images_of(6, 34, 37), fused.plan(resolve(recipe, 32))
    expected_params = plan.sample(6, 34, 37, torch.Generator().manual_seed(0))
    expected = [apply(images, expected_params) for apply in implementations(plan)]
    policies._tables.cache_clear()
    dtype = torch.get_default_dtype()
    try:
        if isinstance(default, str):
            torch.set_default_device(default)
        else:
            torch.set_default_dtype(default)
        params = plan.sample(6, 34, 37, torch.Generator().manual_seed(0))
        results = [apply(images, params) for apply in implementations(plan)]
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
    for drawn, expected_drawn in zip(params, expected_params, strict=True):
        assert all(torch.equal(drawn[key], expected_drawn[key]) for key in expected_drawn)
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_autocast_does_not_reach_pixels(recipe: str) -> None:
    images, plan = images_of(6, 34, 37), fused.plan(resolve(recipe, 32))
    params = plan.sample(6, 34, 37)
    for apply in implementations(plan):
        expected = apply(images, params)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(apply(images, params), expected)


FUSED = [op.at(32) for op in OPS.values() if op.fused is not None]


@pytest.mark.parametrize("op", [*FUSED, ops.Resize(size=32), ops.RandomResizedCrop(size=72)], ids=str)
def test_gradients_flow_through_every_op(op: Op) -> None:
    images = torch.rand(3, 3, 33, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plan = fused.plan([op, ops.Normalize()])
    plan.apply(images, plan.sample(3, 33, 40)).sum().backward()
    assert bool(present(images.grad).isfinite().all())


@pytest.mark.parametrize("size", [20, 80])
def test_gradients_of_a_resized_crop_are_torchvisions(size: int) -> None:
    images = torch.rand(2, 3, 50, 90, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    plan = fused.plan([ops.RandomResizedCrop(size=size)])
    params = plan.sample(2, 50, 90, torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((plan.apply(images, params) * weights).sum(), images)
    windows = torch.stack([params[0][key] for key in ("top", "left", "height", "width")], 1).int().tolist()
    crops = [F.resized_crop(image, *window, [size] * 2) for image, window in zip(images, windows, strict=True)]
    (expected,) = torch.autograd.grad((torch.stack(crops) * weights).sum(), images)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=0)  # sums of up to a hundred products of float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_images_with_gradients_in_modes_without(mode: Callable[[], AbstractContextManager[None]]) -> None:
    before = torch.get_num_threads()
    images, plan = images_of(5, 34, 37) / 255, fused.plan(resolve("d2l", 32))
    params = plan.sample(5, 34, 37)
    try:
        torch.set_num_threads(3)  # each thread has modes of its own
        for apply in implementations(plan):
            expected = apply(images, params)
            with mode():
                assert torch.equal(apply(images.clone().requires_grad_(), params), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("fresh_tables")
def test_tables_made_in_inference_mode_serve_gradients() -> None:
    plan = fused.plan([ops.RandAugment(), ops.AutoAugment(), ops.Normalize()])
    images = torch.rand(4, 3, 20, 20)
    with torch.inference_mode():
        implementations(plan)[1](images, plan.sample(4, 20, 20))
    images.requires_grad_()
    result, implementation = plan.run(images, plan.sample(4, 20, 20))
    result.sum().backward()
    assert (implementation, float(present(images.grad).abs().sum()) > 0) == ("tensors", True)


def test_parameters_on_another_device_are_not_read_in_c() -> None:
    images, plan = images_of(2, 8, 8), fused.plan([ops.HorizontalFlip(), ops.Normalize()])
    assert cpu.accepts(images, plan.sample(2, 8, 8))
    assert not cpu.accepts(images, [{"applied": torch.zeros(2, dtype=torch.bool, device="meta")}, {}])
