"""Determinism and safety of built pipelines: seeds, ranks and workers, and inputs as users have them."""

import copy
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
REFUSALS = (ValueError, RuntimeError, AssertionError)
"""Errors that libraries use for checks of their input."""
ODD_SIZES = ((1, 1), (31, 33))


def _call(pipeline: Pipeline, images: Tensor) -> Tensor:
    if not pipeline.mixes:
        return pipeline(images)
    return pipeline(images, torch.arange(len(images), device=images.device) % NUM_CLASSES)[0]


def _seed(pipeline: Pipeline, seed: int) -> Pipeline:
    """Seed PyTorch's generator and return the pipeline, built again if its backend takes a seed only then."""
    torch.manual_seed(seed)
    return pipeline if find_backend(pipeline.backend).reseeds else copy.copy(pipeline)


def _digest(pipeline: Pipeline, images: Tensor, calls: int) -> str:
    """Return a hash of the results of ``calls`` calls."""
    digest = hashlib.sha256()
    for _ in range(calls):
        digest.update(_call(pipeline, images).cpu().numpy().tobytes())
    return digest.hexdigest()


def check_determinism(pipeline: Pipeline, device: torch.device, image_size: int, seed: int) -> Iterator[Check]:
    """Check that a seed gives the same batch again, and two seeds and the seeds of two ranks others (if anything is drawn)."""
    images = synthetic_images(8, image_size, seed).to(device)

    def differ(*seeds: int) -> bool:
        return any(len({_digest(_seed(pipeline, s), images, calls) for s in seeds}) == 2 for calls in (1, 6, MOST_CALLS))

    first, second = (_digest(_seed(pipeline, seed), images, 2) for _ in range(2))
    detail = "" if find_backend(pipeline.backend).reseeds else "built again for each seed"
    yield Check(name="same seed, same batch", ok=first == second, detail=detail)
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


def _try(pipeline: Pipeline, images: Tensor) -> Tensor | Exception:
    try:
        return _call(pipeline, images)
    except (*REFUSALS, TypeError, LookupError, ArithmeticError) as problem:
        return problem


def _line(result: Tensor | Exception) -> str:
    """Return an error in one line; "" for a result."""
    return "" if isinstance(result, Tensor) else f"{type(result).__name__}: {(str(result).splitlines() or [''])[0][:120]}"


def _is_sound(result: Tensor | Exception, shape: Sequence[int | None]) -> bool:
    """Return whether a result is finite and of a shape, in which None is any length."""
    if not isinstance(result, Tensor) or any(n not in (None, size) for n, size in zip(shape, result.shape, strict=True)):
        return False
    return bool(torch.isfinite(result).all())


def check_safety(pipeline: Pipeline, device: torch.device, image_size: int, seed: int) -> Iterator[Check]:
    """Check inputs as users have them: layouts, odd sizes, one image, none; and that the input stays as it was."""
    images = synthetic_images(4, image_size, seed).to(device)
    torch.manual_seed(seed)
    single, empty = _try(pipeline, images[:1]), _try(pipeline, images[:0])
    yield Check(name="batch of 1", ok=isinstance(single, Tensor) and len(single) == 1, detail=_line(single))
    yield Check(name="empty batch refused", ok=isinstance(empty, ValueError), detail=_line(empty))
    for name, batch in (("uint8", images), ("float", to_float(images))):
        before = batch.clone()
        result = _call(pipeline, batch)
        yield Check(name=f"input not mutated ({name})", ok=bool(torch.equal(batch, before)))
        is_shared = result.untyped_storage().data_ptr() == batch.untyped_storage().data_ptr()
        yield Check(name=f"no view returned ({name})", ok=not is_shared)
    low, high = float(result.min()), float(result.max())
    is_bounded = is_normalised(pipeline.ops) or (low >= -1e-6 and high <= 1 + 1e-6)
    yield Check(name="finite", ok=bool(torch.isfinite(result).all()))
    yield Check(name="range", ok=is_bounded, detail=f"{low:.3f} to {high:.3f}")
    yield Check(name="dtype as asked", ok=result.dtype == pipeline.dtype, detail=str(result.dtype).removeprefix("torch."))
    yield from _check_sizes(pipeline, device)
    yield from _check_layouts(pipeline, to_float(images), seed)
    if find_backend(pipeline.backend).library != "pil":
        yield _check_gradient(pipeline, to_float(images).clone().requires_grad_())


def _check_sizes(pipeline: Pipeline, device: torch.device) -> Iterator[Check]:
    for height, width in ODD_SIZES:
        odd = synthetic_images(2, max(height, width))[:, :, :height, :width].contiguous().to(device)
        result = _try(pipeline, odd)
        is_ok = isinstance(result, REFUSALS) or _is_sound(result, (2, 3, None, None))
        yield Check(name=f"{height}x{width}", ok=is_ok, detail=_line(result))


def _check_layouts(pipeline: Pipeline, floats: Tensor, seed: int) -> Iterator[Check]:
    wide = torch.empty((*floats.shape[:-1], floats.shape[-1] * 2), device=floats.device)[..., ::2]
    layouts = {
        "non-contiguous input": wide.copy_(floats),
        "channels_last input": floats.contiguous(memory_format=torch.channels_last),
    }
    is_noisy = any(isinstance(distribution, Normal) for op in pipeline.ops for distribution in op.draws)
    expected = _call(_seed(pipeline, seed), floats)
    for name, batch in layouts.items():
        result = _try(_seed(pipeline, seed), batch)
        is_same = _is_sound(result, expected.shape)
        # another layout may add up in another order, which stays far below a grey step; noise is drawn in memory order
        if isinstance(result, Tensor) and is_same and not is_noisy:
            is_same = float((result - expected).abs().max()) < 0.02 / 255
        yield Check(name=name, ok=is_same, detail=_line(result))


def _check_gradient(pipeline: Pipeline, images: Tensor) -> Check:
    result = _try(pipeline, images)
    try:
        if isinstance(result, Tensor) and result.requires_grad:
            result.sum().backward()
    except RuntimeError as problem:
        result = problem
    if images.grad is None:
        return Check(name="gradient", ok=True, detail=_line(result) or "none flows back")
    return Check(name="gradient", ok=bool(torch.isfinite(images.grad).all()), detail="flows to the images")
