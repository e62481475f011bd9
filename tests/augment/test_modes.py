"""Whatever PyTorch is set to, the fused backend's pixels are the same: default types and devices, autocast, gradients."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from augment import build, fused, geometry, kernels, native, ops, policies
from augment.catalog import resolve
from augment.ops import Op
from augment.sampling import SAMPLERS
from bench.grid.timing import peak_bytes

RECIPES = ("flip", "crop_flip_cutout", "d2l", "autoaugment", "randaugment", "trivialaugment", "augmix", "mixup", "cutmix")
SIZED: dict[type[Op], Op] = {
    ops.RandomCrop: ops.RandomCrop(size=32, padding=4),
    ops.RandomResizedCrop: ops.RandomResizedCrop(size=32),
    ops.CenterCrop: ops.CenterCrop(size=32),
    ops.Resize: ops.Resize(size=32),
}


def images_of(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def both(planned: fused.Plan) -> tuple[fused.Plan, fused.Plan]:
    """As a CPU has it, and by tensor kernels alone."""
    return planned, fused.Plan(planned.ops, planned.stages)


def forget_tables() -> None:
    for kept in (policies._tables, policies._kept_pair_tables, kernels._constants):
        kept.cache_clear()


@pytest.fixture
def fresh_tables() -> Iterator[None]:
    """No table is kept from other tests, nor for them."""
    forget_tables()
    yield
    forget_tables()


@pytest.mark.usefixtures("fresh_tables")
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, "meta"], ids=str)
@pytest.mark.parametrize("recipe", [*RECIPES, "imagenet"])
def test_defaults_of_pytorch_do_not_matter(recipe: str, default: torch.dtype | str) -> None:
    images, plans = images_of(6, 34, 37), both(fused.plan(resolve(recipe, 32)))
    draw = lambda: plans[0].sample(6, 34, 37, torch.Generator().manual_seed(0))  # noqa: E731
    params = draw()
    expected = [planned.apply(images, params) for planned in plans]
    forget_tables()
    dtype = torch.get_default_dtype()
    try:
        if isinstance(default, str):
            torch.set_default_device(default)
        else:
            torch.set_default_dtype(default)
        drawn = draw()
        results = [planned.apply(images, drawn) for planned in plans]
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
    for each, there in zip(drawn, params, strict=True):
        assert all(torch.equal(each[key], there[key]) for key in there)
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


@pytest.mark.parametrize("recipe", [*RECIPES, "imagenet"])
def test_autocast_does_not_reach_pixels(recipe: str) -> None:
    images = images_of(6, 34, 37)
    for planned in both(fused.plan(resolve(recipe, 32))):
        params = planned.sample(6, 34, 37)
        expected = planned.apply(images, params)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(planned.apply(images, params), expected)


@pytest.mark.parametrize("op", [*(SIZED.get(kind) or kind() for kind in SAMPLERS), ops.RandomResizedCrop(size=72)], ids=str)
def test_gradients_flow_through_every_op(op: Op) -> None:
    images = torch.rand(3, 3, 33, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    planned = fused.plan([op, ops.Normalize()])
    planned.apply(images, planned.sample(3, 33, 40)).sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())


@pytest.mark.parametrize("size", [20, 80])
def test_gradients_of_a_resized_crop_are_torchvisions(size: int) -> None:
    images = torch.rand(2, 3, 50, 90, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    planned = fused.plan([ops.RandomResizedCrop(size=size)])
    params = planned.sample(2, 50, 90, torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((planned.apply(images, params) * weights).sum(), images)
    windows = torch.stack([params[0][key] for key in ("top", "left", "height", "width")], 1).int().tolist()
    crops = [F.resized_crop(image, *window, [size] * 2) for image, window in zip(images, windows, strict=True)]
    (expected,) = torch.autograd.grad((torch.stack(crops) * weights).sum(), images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # sums of up to a hundred products of float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_images_that_want_gradients_without_any(
    mode: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by tensor kernels, and on threads, where each has modes of its own."""
    monkeypatch.setattr(geometry, "LARGE", 1)
    before = torch.get_num_threads()
    images = images_of(5, 34, 37) / 255
    planned = fused.plan(resolve("d2l", 32))
    params = planned.sample(5, 34, 37)
    try:
        torch.set_num_threads(3)
        for way in both(planned):
            expected = way.apply(images, params)
            with mode():
                assert torch.equal(way.apply(images.clone().requires_grad_(), params), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("fresh_tables")
def test_tables_made_in_inference_mode_serve_gradients() -> None:
    planned = fused.plan([ops.RandAugment(), ops.AutoAugment(), ops.Normalize()])
    images = torch.rand(4, 3, 20, 20)
    with torch.inference_mode():
        fused.Plan(planned.ops, planned.stages).apply(images, planned.sample(4, 20, 20))
    images.requires_grad_()
    planned.apply(images, planned.sample(4, 20, 20)).sum().backward()
    assert images.grad is not None


def test_parameters_on_another_device_are_not_read() -> None:
    images, planned = images_of(2, 8, 8), fused.plan([ops.HorizontalFlip(), ops.Normalize()])
    assert native.takes(images, planned.sample(2, 8, 8))
    elsewhere = [{"applied": torch.zeros(2, dtype=torch.bool, device="meta")}, {}]
    assert not native.takes(images, elsewhere)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recipe", [*RECIPES, "imagenet", "imagenet_eval"])
def test_memory_is_the_result_and_one_float_copy(recipe: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """What PyTorch allocates; the library's own is room for the image that a thread works on."""
    images = images_of(4, 256, 320) if recipe.startswith("imagenet") else images_of(64, 32, 32)
    labels = torch.zeros(len(images), dtype=torch.int64)
    pipeline = build(recipe, "fused", dtype=dtype, memory_format=layout)
    result, _ = pipeline(images, labels)  # tables are made and kept
    peak = peak_bytes(lambda: pipeline(images, labels), "cpu")
    assert peak is not None
    # Drawn numbers are within the 5 %.
    assert peak <= result.nbytes + 1.05 * 4 * max(images.numel(), result.numel())
