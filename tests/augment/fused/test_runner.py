"""The fused backend's runner: what it says ran, where Triton is used, and ``torch.compile``: one graph, whatever the batch."""

import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from augment import build, fused, ops, resolve
from augment.fused import runner
from tests.augment.fused.cases import AFTER_A_JUMP, DEVICE, NEEDS_TRITON, assert_same, by_tensors, draw, on_device, pictures

COMPILED = 2e-4
"""Float32 sums in another order, divided by standard deviations."""


def test_what_ran_is_told() -> None:
    images = pictures(2, 32, 32)
    pipeline = build("crop_flip", "fused")
    assert pipeline.implementation == "c"
    pipeline(images)
    assert pipeline.implementation == "c"
    pipeline(images.float().requires_grad_())
    assert pipeline.implementation == "tensors"
    assert pickle.loads(pickle.dumps(build("flip", "fused_compiled"))).implementation == "inductor"
    assert [build("flip", backend).implementation for backend in ("torchvision", "kornia")] == [None, None]


def test_a_generator_elsewhere_is_refused() -> None:
    run = fused.compose([ops.Invert()], num_classes=10, generator=torch.Generator())
    with pytest.raises(ValueError, match="generator is on cpu"):
        run(pictures(2, 32, 32).to("meta"), None)


# ---- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["d2l", "randaugment", "imagenet", "cutmix"])
def test_compiles_whole_and_once_for_all_batch_sizes_and_contents(recipe: str) -> None:
    """Graph capture only: what a compiler makes of it is its own affair, and takes minutes."""
    torch._dynamo.reset()
    counter = CompileCounter()
    plan = fused.plan(resolve(recipe, 32))
    apply = runner.compile_whole(plan, backend=counter)
    for seed, count in enumerate((6, 9, 6, 17)):
        images = pictures(count, 48, 48)
        params = draw(plan, images, seed)
        result, implementation = apply(images, params)
        assert implementation == "inductor"
        assert_same(result, by_tensors(plan, images, params), COMPILED, AFTER_A_JUMP if recipe == "randaugment" else 0.0)
    assert counter.frame_count == 1


def test_without_a_compiler_one_warning_and_the_same_pixels() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise FileNotFoundError("no compiler")

    torch._dynamo.reset()
    images, plan = pictures(4, 16, 16), fused.plan([ops.Invert(), ops.Normalize()])
    params = draw(plan, images)
    apply = runner.compile_whole(plan, backend=broken)
    with pytest.warns(RuntimeWarning, match=r"torch\.compile failed.*without it") as caught:
        results = [apply(images, params) for _ in range(3)]
    assert len(caught) == 1
    for result, implementation in results:
        assert implementation == "c"
        assert torch.equal(result, plan.apply(images, params))


@pytest.mark.parametrize("recipe", ["d2l", "cutmix", "autoaugment"])
def test_a_whole_pipeline_is_one_graph(recipe: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    augment = build(recipe, "fused", image_size=12, device=DEVICE)
    step = torch.compile(lambda images, labels: augment(images, labels)[0].sum(), fullgraph=True, backend=counter)
    for count in (3, 5, 7):
        assert math.isfinite(step(pictures(count, 12, 12).to(DEVICE), torch.arange(count, device=DEVICE)))
    assert counter.frame_count <= 2  # the second time it learns that sizes change


@NEEDS_TRITON
def test_triton_compiles_whole_and_once_for_all_batch_sizes() -> None:
    from augment.fused import cuda

    torch._dynamo.reset()
    counter, plan = CompileCounter(), fused.plan(resolve("randaugment", 12))
    apply = cuda.apply_plan(plan, torch.float32)
    step = torch.compile(lambda images, params: apply(images, params) * 2, fullgraph=True, backend=counter)
    for seed, count in enumerate((3, 5, 3)):
        images = pictures(count, 12, 12).to(DEVICE)
        params = on_device(draw(plan, images, seed))
        for tensor in (images, *(value for drawn in params for value in drawn.values())):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        torch.testing.assert_close(step(images, params), apply(images, params) * 2)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_reduce_overhead_draws_anew_and_follows_the_seed_whatever_the_batch() -> None:
    """CUDA graphs on a GPU; on a CPU the same code without them."""
    torch._dynamo.reset()
    augment = build("crop_flip", "fused", image_size=12, device=DEVICE)
    step = torch.compile(lambda images: augment(images) * 1.0, fullgraph=True, mode="reduce-overhead")
    for count in (9, 4):
        images = pictures(count, 12, 12).to(DEVICE)

        def call(seed: int | None = None, images: torch.Tensor = images) -> torch.Tensor:
            if seed is not None:
                torch.manual_seed(seed)
            return step(images).clone()

        for _ in range(3):  # compiles, then captures
            call()
        first, second, again = call(1), call(), call(1)
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
        assert first.shape == images.shape


# ---- devices ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@NEEDS_TRITON
@pytest.mark.usefixtures("has_cuda")
def test_where_triton_fails_there_is_one_warning_and_tensor_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    from augment.fused import cuda

    def broken(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler.\nMore.")

    monkeypatch.setattr(cuda, "check", broken)
    match = r"no Triton \(Failed to find C compiler\.\): the fused .* tensor kernels"
    with pytest.warns(RuntimeWarning, match=match) as caught:
        run = fused.compose(resolve("crop_flip", 32), num_classes=10, device="cuda")
    assert (len(caught), run.implementation) == (1, "tensors")
    assert run(pictures(2, 32, 32), None)[0].shape == (2, 3, 32, 32)


@NEEDS_TRITON
@pytest.mark.usefixtures("has_cuda")
def test_images_elsewhere_do_not_reach_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    from augment.fused import cuda

    monkeypatch.setattr(cuda, "check", lambda device: None)
    monkeypatch.setattr(cuda, "_launch", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = fused.compose(resolve("crop_flip", 32), num_classes=10, device="cuda", dtype=torch.bfloat16)
    expected = run.implementation
    assert run(pictures(2, 32, 32), None)[0].dtype == torch.bfloat16
    assert (expected, run.implementation) == ("triton", "c")


@NEEDS_TRITON
@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_other_devices_do_not_ask_for_triton(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from augment.fused import cuda

    monkeypatch.setattr(cuda, "apply_plan", None)
    run = fused.compose([ops.Invert()], num_classes=10, device=device)
    assert run.implementation == ("c" if device == "cpu" else "tensors")
