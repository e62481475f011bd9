"""Peak memory of the fused backend on a CPU: beside its result, at most one float copy of the batch.

Measured as records have it (``bench.grid.timing.peak_bytes``): by the profiler, which sees each allocation and release of
PyTorch's own allocator, those inside kernels among them, and so misses no temporary, whoever holds it. The C library's memory
is not PyTorch's: it has room for a few images a thread, whatever the batch.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from augment import RECIPES, build, native, parts
from augment.catalog import resolve
from augment.ops import Op
from augment.sampling import SAMPLERS
from bench.grid.timing import peak_bytes

DRAWN = 1024
"""Bytes that may be drawn for an image on the way: a few hundred numbers at most, of an AugMix or of ten tries of a window."""
TABLES = 2**14
"""And for what does not grow with the batch."""

SUBJECTS = [*(kind.__name__ for kind in SAMPLERS), *RECIPES]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def extra_copies(recipe: Sequence[Op], images: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> float:
    """Peak beyond the result and ``DRAWN``, in float copies of the batch, where ops resize it of its larger size."""
    pipeline, labels = build(recipe, "fused", dtype=dtype, memory_format=layout), torch.arange(len(images)) % 10
    results: list[Tensor] = []

    def call() -> None:
        results.clear()
        results.append(pipeline(images, labels)[0])

    call()  # tables are made, code is compiled
    result = results[0]
    results.clear()
    peak = peak_bytes(lambda: pipeline(images, labels), "cpu")
    assert peak is not None
    assert peak >= result.nbytes, "the measure did not see the result"
    drawn = DRAWN * len(images) + TABLES
    return (peak - result.nbytes - drawn) / (4 * max(images.numel(), result.numel()))


def images_of(batch: int, side: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    return images.contiguous(memory_format=layout)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_at_most_one_copy_beside_the_result(subject: str) -> None:
    for dtype in (torch.uint8, torch.float32):
        for layout in LAYOUTS:
            images = images_of(64, 32, dtype, layout)
            for wanted in (torch.float32, torch.bfloat16):
                for kept in LAYOUTS:
                    used = extra_copies(resolve(subject, 32), images, wanted, kept)
                    assert used <= 1.0, (subject, dtype, layout, wanted, kept)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("subject", ["augmix", "imagenet_eval", "GaussianBlur", "Perspective"])
def test_large_images(subject: str) -> None:
    images = images_of(3, 230, torch.uint8, torch.contiguous_format)
    assert extra_copies(resolve(subject, 230), images, torch.float32, torch.contiguous_format) <= 1.0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_tensor_kernels_need_little_more(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, of batches large enough for parts: a quarter of a copy is what kernels take for one of eight."""
    monkeypatch.setattr(native, "takes", lambda images, params: False)
    monkeypatch.setattr(parts, "SMALL", 64 * 1024)
    monkeypatch.setattr(parts, "VALUES_A_PART", 1)
    for dtype in (torch.uint8, torch.float32):
        images = images_of(64, 32, dtype, torch.contiguous_format)
        used = extra_copies(resolve(subject, 32), images, torch.float32, torch.contiguous_format)
        assert used <= 1.25, (subject, dtype)
