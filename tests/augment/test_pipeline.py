"""Promises of every pipeline, whatever the ops: its own memory, clear errors, seeds that repeat."""

import multiprocessing
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from augment import BACKENDS, build, ops, resolve
from augment.op import Op
from augment.pipeline import Pipeline, to_dtype
from tests.augment.test_backends import EAGER
from tests.conftest import one_line


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("op", [ops.HorizontalFlip(p=0.0), ops.CenterCrop(size=8), ops.RandomCrop(size=8, padding=0)])
def test_result_shares_no_memory_with_the_input(op: Op, backend: str, images: Tensor) -> None:
    source = images.float() / 255
    before = source.clone()
    result = build(op, backend)(source)
    result.zero_()
    assert torch.equal(source, before)
    assert result.is_contiguous()


@pytest.mark.parametrize("backend", EAGER)
def test_memory_layout_of_the_input_does_not_matter(backend: str, images: Tensor) -> None:
    pipeline = build([ops.Contrast(low=0.6, high=0.6), ops.Normalize()], backend)
    expected = pipeline(images)
    assert torch.equal(pipeline(images.contiguous(memory_format=torch.channels_last)), expected)
    strided = torch.zeros(8, 3, 32, 64, dtype=torch.uint8)
    strided[..., ::2] = images
    assert torch.equal(pipeline(strided[..., ::2]), expected)


@pytest.mark.parametrize("backend", EAGER)
def test_memory_layout_of_the_result_is_the_one_asked_for(backend: str, images: Tensor) -> None:
    subject = [ops.HorizontalFlip(p=0.0), ops.Normalize()]
    channels_last = build(subject, backend, memory_format=torch.channels_last)(images)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(channels_last, build(subject, backend)(images))
    source = images.float().contiguous(memory_format=torch.channels_last)
    kept = build([ops.HorizontalFlip(p=0.0)], backend, memory_format=torch.channels_last)(source)
    assert kept.data_ptr() != source.data_ptr()


@pytest.mark.parametrize("backend", [name for name, b in BACKENDS.items() if not b.compiled])
def test_a_generator_repeats_and_leaves_the_global_ones_alone(backend: str, images: Tensor) -> None:
    """So the next case draws what it would have drawn."""
    if reason := BACKENDS[backend].why_not(torch.device("cpu")):
        pytest.skip(reason)

    def states() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002

    before, recipe = states(), {"dali_torchvision": "imagenet"}.get(backend, "crop_jitter")  # it has no jitter
    pipelines = [build(recipe, backend, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    (first, following), repeated, reseeded = [(pipeline(images), pipeline(images)) for pipeline in pipelines]
    assert states() == before
    assert torch.equal(first, repeated[0])
    assert torch.equal(following, repeated[1])
    assert not torch.equal(first, reseeded[0])
    assert not torch.equal(first, following)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(3, 32, 32), r"\[B, 3, H, W\]"),
        (torch.zeros(2, 1, 32, 32), r"\[B, 3, H, W\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), "uint8"),
        (torch.zeros(0, 3, 32, 32), "empty"),
    ],
)
@pytest.mark.parametrize("backend", EAGER)
def test_wrong_images_are_refused_in_one_line(wrong: Tensor, message: str, backend: str) -> None:
    with one_line(message):
        build("flip", backend)(wrong)


LABELS: list[tuple[Any, str]] = [
    (None, "labels"),
    *((labels, r"labels must be int64 \[8\]") for labels in (torch.arange(7), torch.zeros(8), torch.zeros(8, 10).long())),
    *((torch.zeros(8, dtype=dtype), r"labels must be int64 \[8\]") for dtype in (torch.bool, torch.int32, torch.complex64)),
    ([0] * 8, "labels must be a tensor int64 .* got list"),
    (torch.arange(8).numpy(), "got ndarray"),
    (torch.arange(8, device="meta"), "the labels are on meta, the images on cpu"),
    (torch.arange(8) - 1, "labels must be 0 to 9 .*got -1 to 6"),
    (torch.arange(8) + 3, "labels must be 0 to 9 .*got 3 to 10"),
]


@pytest.mark.parametrize("recipe", ["mixup", "cutmix"])
@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize(("labels", "message"), LABELS)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str, backend: str, recipe: str, images: Tensor) -> None:
    with one_line(message):
        build(recipe, backend)(images, labels)


@pytest.mark.parametrize("subject", ["crop_flip", "d2l", "Resize"])
def test_a_name_that_was_built_for_another_size_refuses_the_batch(subject: str) -> None:
    images = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    pipeline = pickle.loads(pickle.dumps(build(subject, "fused")))
    with pytest.raises(ValueError, match=r"are for 32x32 images, got 224x224: build it with image_size=224"):
        pipeline(images)
    assert build(subject, "fused", image_size=224)(images).shape[-1] in (112, 224)
    for sized in (build("flip", "fused"), build("imagenet", "fused"), build(resolve("crop_flip"), "fused")):
        assert len(sized(images)) == 2  # nothing depends on the size, or the sizes are the caller's


@pytest.mark.parametrize("device", ["nosuch", "cuda:99", "xpu", "cpu:1"])
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_a_device_that_is_not_here_is_refused_by_every_backend(backend: str, device: str) -> None:
    with one_line(f"device '{device}' cannot be used; here: cpu"):
        build("flip", backend, device=device)


def test_what_is_no_image_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be a tensor .* got ndarray"):
        build("flip", "fused")(images.numpy())  # type: ignore[call-overload]
    for dtype in (torch.int32, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match="dtype must be a float type"):
            build("flip", "fused", dtype=dtype)
    with pytest.raises(ValueError, match="num_classes"):
        build("mixup", "fused", num_classes=0)


def test_uint8_survives_the_way_through_floats(images: Tensor) -> None:
    scale = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(to_dtype(to_dtype(scale, dtype), torch.uint8), scale)
    assert to_dtype(scale, torch.float32).max() == 1.0
    assert torch.equal(build("HorizontalFlip", "torchvision", dtype=torch.uint8)(scale).sum(), scale.sum())


@pytest.mark.slow
def test_compiled_pipeline_equals_the_eager_one(images: Tensor) -> None:
    subject = [ops.Contrast(low=0.6, high=0.6), ops.Normalize()]
    for library in ("torchvision", "kornia"):
        compiled, eager = build(subject, f"{library}_compiled")(images), build(subject, library)(images)
        # torchvision's eager path rounds to uint8 after contrast; compiled code keeps to the same dtypes
        torch.testing.assert_close(compiled, eager, atol=1e-5 if library == "kornia" else 1 / 255 / 0.24, rtol=0)


@pytest.mark.parametrize("backend", EAGER)
def test_a_pickled_pipeline_goes_on_where_the_generator_is(backend: str, images: Tensor) -> None:
    options: dict[str, Any] = {"dtype": torch.float16, "memory_format": torch.channels_last, "num_classes": 8}
    pipeline = build("mixup", backend, generator=torch.Generator().manual_seed(1), **options)
    labels = torch.arange(8)
    pipeline(images, labels)
    copy = pickle.loads(pickle.dumps(pipeline))
    (expected, targets), (result, result_targets) = pipeline(images, labels), copy(images, labels)
    assert torch.equal(expected, result)
    assert torch.equal(targets, result_targets)
    assert result.dtype == torch.float16
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert repr(copy) == repr(pipeline)


@pytest.mark.slow
def test_a_spawned_process_runs_a_pipeline_that_it_was_sent(images: Tensor) -> None:
    pipeline = build("crop_jitter", "fused", generator=torch.Generator().manual_seed(1))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(pipeline, (images,))
    torch.testing.assert_close(there, pipeline(images), atol=1e-5, rtol=0)  # it may have other threads, which add up otherwise


def test_pipelines_of_unknown_making_say_that_they_cannot_be_pickled() -> None:
    pipeline = Pipeline(ops=(), backend="fused", lane="fixed", run=lambda *batch: batch, dtype=torch.float32)
    with pytest.raises(TypeError, match=r"only a pipeline that augment\.build made can be pickled"):
        pickle.dumps(pipeline)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [name for name in EAGER if BACKENDS[name].on_device])
def test_runs_on_the_gpu(backend: str, images: Tensor) -> None:
    result = build("d2l", backend, device="cuda")(images.cuda())
    assert result.is_cuda
    assert bool(result.isfinite().all())
