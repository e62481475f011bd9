"""Determinism and safety of built pipelines: seeds, ranks and workers, and inputs as users have them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from augment import build
from augment.audit.images import synthetic_images
from augment.audit.parity import NUM_CLASSES, is_normalised
from augment.audit.record import Check
from augment.backends import find_backend
from augment.distributions import Normal
from augment.op import Op
from augment.pipeline import Pipeline, to_float

MOST_CALLS = 40
"""Calls until two streams of draws must differ: 40 draws at p = 0.2 agree with a chance of 2e-7."""
ODD_SIZES = ((1, 1), (31, 33))


def _call(pipeline: Pipeline, images: Tensor) -> Tensor:
    if not pipeline.mixes:
        return pipeline(images)
    return pipeline(images, torch.arange(len(images), device=images.device) % NUM_CLASSES)[0]


def _digest(pipeline: Pipeline, images: Tensor, calls: int, seed: int | None = None) -> str:
    """Return a hash of the results of ``calls`` calls, from the global random state or from a seed."""
    if seed is not None:
        torch.manual_seed(seed)
    digest = hashlib.sha256()
    for _ in range(calls):
        digest.update(_call(pipeline, images).cpu().numpy().tobytes())
    return digest.hexdigest()


def check_determinism(pipeline: Pipeline, device: torch.device, image_size: int, seed: int) -> Iterator[Check]:
    """Check that a seed gives the same batch again, and two seeds and the seeds of two ranks others (if anything is drawn)."""
    images = synthetic_images(8, image_size, seed).to(device)

    def differ(*seeds: int) -> bool:
        return any(len({_digest(pipeline, images, calls, s) for s in seeds}) == 2 for calls in (1, 6, MOST_CALLS))

    is_same = _digest(pipeline, images, 2, seed) == _digest(pipeline, images, 2, seed)
    yield Check(name="same seed, same batch", ok=is_same)
    if pipeline.lane != "fixed":
        ranks = [int(np.random.SeedSequence([seed, rank]).generate_state(1)[0]) for rank in (0, 1)]
        yield Check(name="two seeds differ", ok=differ(seed, seed + 1))
        yield Check(name="two ranks differ", ok=differ(*ranks), detail="by two derived seeds, in one process")


@dataclass
class WorkerDraws(IterableDataset[list[str]]):
    """One item in each worker: hashes of what each pipeline draws there."""

    subjects: Sequence[tuple[tuple[Op, ...], str]]

    def __iter__(self) -> Iterator[list[str]]:
        torch.set_num_threads(1)
        images = synthetic_images(2, 32)
        digests = []
        for ops, backend in self.subjects:
            calls = MOST_CALLS if any(getattr(op, "p", 1.0) < 1 for op in ops) else 6
            digests.append(_digest(build(ops, backend, num_classes=NUM_CLASSES), images, calls))
        yield digests


def check_workers(subjects: Sequence[tuple[tuple[Op, ...], str]]) -> list[Check]:
    """Check for each subject that two loader workers draw differently. Subjects that draw nothing must not be among them."""
    first, second = DataLoader(WorkerDraws(subjects), batch_size=None, num_workers=2)
    detail = "two processes of a DataLoader"
    return [Check(name="two workers differ", ok=a != b, detail=detail) for a, b in zip(first, second, strict=True)]


# ---- safety -----------------------------------------------------------------------------------------------------------


def _refusal(problem: Exception) -> str:
    return f"{type(problem).__name__}: {str(problem).splitlines()[0][:120] if str(problem) else ''}"


def _try(pipeline: Pipeline, images: Tensor) -> tuple[Tensor | None, str, bool]:
    """Return the result, the error, and whether the error is one that libraries use for checks of their input."""
    try:
        return _call(pipeline, images), "", True
    except (ValueError, RuntimeError, AssertionError) as problem:
        return None, _refusal(problem), True
    except (TypeError, LookupError, ArithmeticError) as problem:
        return None, _refusal(problem), False


def _check_memory(pipeline: Pipeline, images: Tensor) -> Iterator[Check]:
    for name, batch in (("uint8", images), ("float", to_float(images))):
        before = batch.clone()
        result = _call(pipeline, batch)
        yield Check(name=f"input not mutated ({name})", ok=bool(torch.equal(batch, before)))
        is_shared = result.untyped_storage().data_ptr() == batch.untyped_storage().data_ptr()
        yield Check(name=f"no view returned ({name})", ok=not is_shared)


def _check_range(pipeline: Pipeline, images: Tensor) -> Iterator[Check]:
    result = _call(pipeline, images)
    low, high = float(result.min()), float(result.max())
    is_bounded = is_normalised(pipeline.ops) or (low >= -1e-6 and high <= 1 + 1e-6)
    yield Check(name="finite", ok=bool(torch.isfinite(result).all()))
    yield Check(name="range", ok=is_bounded, detail=f"{low:.3f} to {high:.3f}")
    yield Check(name="dtype as asked", ok=result.dtype == pipeline.dtype, detail=str(result.dtype).removeprefix("torch."))


def _check_sizes(pipeline: Pipeline, device: torch.device) -> Iterator[Check]:
    for height, width in ODD_SIZES:
        images = synthetic_images(2, max(height, width))[:, :, :height, :width].contiguous().to(device)
        result, error, is_clear = _try(pipeline, images)
        is_valid = result is None or (len(result) == 2 and result.shape[1] == 3 and bool(torch.isfinite(result).all()))
        yield Check(name=f"{height}x{width}", ok=is_clear and is_valid, detail=error)


def _check_layouts(pipeline: Pipeline, images: Tensor, seed: int) -> Iterator[Check]:
    floats = to_float(images)
    wide = torch.empty((*floats.shape[:-1], floats.shape[-1] * 2), device=floats.device)[..., ::2]
    layouts = {
        "non-contiguous input": wide.copy_(floats),
        "channels_last input": floats.contiguous(memory_format=torch.channels_last),
    }
    is_noisy = any(isinstance(distribution, Normal) for op in pipeline.ops for distribution in op.draws)
    torch.manual_seed(seed)
    expected = _call(pipeline, floats)
    for name, batch in layouts.items():
        torch.manual_seed(seed)
        result, error, _ = _try(pipeline, batch)
        is_valid = result is not None and result.shape == expected.shape and bool(torch.isfinite(result).all())
        # another layout may add up in another order, which stays far below a grey step; noise is drawn in memory order
        if result is not None and is_valid and not is_noisy:
            is_valid = float((result - expected).abs().max()) < 0.02 / 255
        yield Check(name=name, ok=is_valid, detail=error)


def _check_gradient(pipeline: Pipeline, images: Tensor) -> Check:
    batch = to_float(images).clone().requires_grad_()
    detail = "none flows back"
    try:
        result = _call(pipeline, batch)
        if result.requires_grad:
            result.sum().backward()
    except (RuntimeError, ValueError, TypeError) as problem:
        detail = f"none: {_refusal(problem)}"
    if batch.grad is None:
        return Check(name="gradient", ok=True, detail=detail)
    return Check(name="gradient", ok=bool(torch.isfinite(batch.grad).all()), detail="flows to the images")


def check_safety(pipeline: Pipeline, device: torch.device, image_size: int, seed: int) -> Iterator[Check]:
    """Check inputs as users have them: layouts, odd sizes, one image, none; and that the input stays as it was."""
    images = synthetic_images(4, image_size, seed).to(device)
    torch.manual_seed(seed)
    single, error, _ = _try(pipeline, images[:1])
    _, refusal, _ = _try(pipeline, images[:0])
    yield from _check_memory(pipeline, images)
    yield from _check_range(pipeline, images)
    yield from _check_sizes(pipeline, device)
    yield from _check_layouts(pipeline, images, seed)
    yield Check(name="batch of 1", ok=single is not None and len(single) == 1, detail=error)
    yield Check(name="empty batch refused", ok=refusal.startswith("ValueError"), detail=refusal)
    if find_backend(pipeline.backend).library != "pil":
        yield _check_gradient(pipeline, images)
