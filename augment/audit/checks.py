"""Determinism and safety of built pipelines: seeds, ranks and workers, and inputs as users have them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augment import catalog
from augment.audit.images import drawn_images
from augment.audit.parity import NUM_CLASSES
from augment.audit.verdicts import Check
from augment.compose import Pipeline, to_float
from augment.ops import Op

MOST_CALLS = 40
"""Calls until two streams of draws must differ: 40 draws at p = 0.2 agree with a chance of 2e-7."""
ODD_SIZES = ((1, 1), (31, 33))


def _labels(pipeline: Pipeline, count: int, device: torch.device) -> Tensor | None:
    return torch.arange(count, device=device) % NUM_CLASSES if pipeline.mixes else None


def _call(pipeline: Pipeline, images: Tensor) -> Tensor:
    labels = _labels(pipeline, len(images), images.device)
    return pipeline(images) if labels is None else pipeline(images, labels)[0]


def _digest(pipeline: Pipeline, images: Tensor, *, calls: int) -> str:
    """A fingerprint of what comes out of ``calls`` calls, from the global random state."""
    state = hashlib.sha256()
    for _ in range(calls):
        state.update(_call(pipeline, images).cpu().numpy().tobytes())
    return state.hexdigest()


def _seeded(pipeline: Pipeline, images: Tensor, seed: int, *, calls: int) -> str:
    torch.manual_seed(seed)
    return _digest(pipeline, images, calls=calls)


def _rank_seed(seed: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])


def _ever_differs(pipeline: Pipeline, images: Tensor, seeds: tuple[int, int]) -> bool:
    def differ(calls: int) -> bool:
        return len({_seeded(pipeline, images, seed, calls=calls) for seed in seeds}) == 2

    return any(differ(calls) for calls in (1, 6, MOST_CALLS))


def determinism(ops: Sequence[Op], backend: str, *, device: torch.device, image_size: int, seed: int) -> tuple[Check, ...]:
    """Same seed, same batch; two seeds and the seeds of two ranks, other batches (where anything is drawn)."""
    pipeline = catalog.build(ops, backend, device=device, image_size=image_size, num_classes=NUM_CLASSES)
    images = drawn_images(8, image_size, seed).to(device)
    same = _seeded(pipeline, images, seed, calls=2) == _seeded(pipeline, images, seed, calls=2)
    checks = [Check(name="same seed, same batch", ok=same)]
    if pipeline.draws == "fixed":
        return tuple(checks)
    ranks = (_rank_seed(seed, 0), _rank_seed(seed, 1))
    return (
        *checks,
        Check(name="two seeds differ", ok=_ever_differs(pipeline, images, (seed, seed + 1))),
        Check(
            name="two ranks differ", ok=_ever_differs(pipeline, images, ranks), detail="by two derived seeds, in one process"
        ),
    )


class WorkerDraws(Dataset[list[str]]):
    """Two items, one a worker: fingerprints of what each pipeline draws in that worker."""

    def __init__(self, subjects: Sequence[tuple[tuple[Op, ...], str]], image_size: int) -> None:
        self.subjects = tuple(subjects)
        self.image_size = image_size

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> list[str]:
        torch.set_num_threads(1)
        images = drawn_images(2, self.image_size)
        fingerprints = []
        for ops, backend in self.subjects:
            pipeline = catalog.build(ops, backend, image_size=self.image_size, num_classes=NUM_CLASSES)
            calls = MOST_CALLS if any(getattr(op, "p", 1.0) < 1 for op in ops) else 6
            fingerprints.append(_digest(pipeline, images, calls=calls))
        return fingerprints


def two_workers(subjects: Sequence[tuple[tuple[Op, ...], str]], *, image_size: int = 32) -> list[Check]:
    """One check a subject: two loader workers draw differently. Subjects that draw nothing must not be among them."""
    if not subjects:
        return []
    loader = DataLoader(WorkerDraws(subjects, image_size), batch_size=None, num_workers=2)
    first, second = list(loader)
    detail = "two processes of a DataLoader"
    return [Check(name="two workers differ", ok=a != b, detail=detail) for a, b in zip(first, second, strict=True)]


# ---- safety -----------------------------------------------------------------------------------------------------------


def _refusal(problem: Exception) -> str:
    return f"{type(problem).__name__}: {str(problem).splitlines()[0][:120] if str(problem) else ''}"


def _try(pipeline: Pipeline, images: Tensor) -> tuple[Tensor | None, str, bool]:
    """(result, what was said, whether a refusal is meant as one: libraries check with all three of these)."""
    try:
        return _call(pipeline, images), "", True
    except (ValueError, RuntimeError, AssertionError) as problem:
        return None, _refusal(problem), True
    except (TypeError, LookupError, ArithmeticError) as problem:
        return None, _refusal(problem), False


def _untouched(pipeline: Pipeline, images: Tensor) -> list[Check]:
    checks = []
    for name, batch in (("uint8", images), ("float", to_float(images))):
        before = batch.clone()
        result = _call(pipeline, batch)
        checks.append(Check(name=f"input not mutated ({name})", ok=bool(torch.equal(batch, before))))
        shared = result.untyped_storage().data_ptr() == batch.untyped_storage().data_ptr()
        checks.append(Check(name=f"no view returned ({name})", ok=not shared))
    return checks


def _range(pipeline: Pipeline, images: Tensor) -> list[Check]:
    result = _call(pipeline, images)
    low, high = float(result.min()), float(result.max())
    bounded = any(op.name == "Normalize" for op in pipeline.ops) or (low >= -1e-6 and high <= 1 + 1e-6)
    return [
        Check(name="finite", ok=bool(torch.isfinite(result).all())),
        Check(name="range", ok=bounded, detail=f"{low:.3f} to {high:.3f}"),
        Check(name="dtype as asked", ok=result.dtype == pipeline.dtype, detail=str(result.dtype).removeprefix("torch.")),
    ]


def _sizes(pipeline: Pipeline, device: torch.device) -> list[Check]:
    checks = []
    for height, width in ODD_SIZES:
        images = drawn_images(2, max(height, width))[:, :, :height, :width].contiguous().to(device)
        result, said, clear = _try(pipeline, images)
        fine = result is None or (len(result) == 2 and result.shape[1] == 3 and bool(torch.isfinite(result).all()))
        checks.append(Check(name=f"{height}x{width}", ok=clear and fine, detail=said))
    return checks


def _layouts(pipeline: Pipeline, images: Tensor, seed: int) -> list[Check]:
    floats = to_float(images)
    wide = torch.empty((*floats.shape[:-1], floats.shape[-1] * 2), device=floats.device)[..., ::2]
    layouts = {
        "non-contiguous input": wide.copy_(floats),
        "channels_last input": floats.contiguous(memory_format=torch.channels_last),
    }
    torch.manual_seed(seed)
    wanted = _call(pipeline, floats)
    checks = []
    for name, batch in layouts.items():
        torch.manual_seed(seed)
        got, said, _ = _try(pipeline, batch)
        same = got is not None and got.shape == wanted.shape and bool(torch.isfinite(got).all())
        # another layout may add up in another order, which stays far below a grey step; noise is drawn in memory order
        if got is not None and same and all(op.name != "GaussianNoise" for op in pipeline.ops):
            same = float((got - wanted).abs().max()) < 0.02 / 255
        checks.append(Check(name=name, ok=same, detail=said))
    return checks


def _gradient(pipeline: Pipeline, images: Tensor) -> Check:
    batch = to_float(images).clone().requires_grad_()
    try:
        result = _call(pipeline, batch)
        if not result.requires_grad:
            return Check(name="gradient", ok=True, detail="none flows back")
        result.sum().backward()
    except (RuntimeError, ValueError, TypeError) as problem:
        return Check(name="gradient", ok=True, detail=f"none: {_refusal(problem)}")
    assert batch.grad is not None
    return Check(name="gradient", ok=bool(torch.isfinite(batch.grad).all()), detail="flows to the images")


def safety(ops: Sequence[Op], backend: str, *, device: torch.device, image_size: int, seed: int) -> tuple[Check, ...]:
    """Inputs as users have them: layouts, odd sizes, one image, none; and the input stays as it was."""
    pipeline = catalog.build(ops, backend, device=device, image_size=image_size, num_classes=NUM_CLASSES)
    images = drawn_images(4, image_size, seed).to(device)
    torch.manual_seed(seed)
    one, said, _ = _try(pipeline, images[:1])
    _, refusal, _ = _try(pipeline, images[:0])
    checks = [
        *_untouched(pipeline, images),
        *_range(pipeline, images),
        *_sizes(pipeline, device),
        *_layouts(pipeline, images, seed),
        Check(name="batch of 1", ok=one is not None and len(one) == 1, detail=said),
        Check(name="empty batch refused", ok=refusal.startswith("ValueError"), detail=refusal),
    ]
    if catalog.find_backend(backend).library != "pil":
        checks.append(_gradient(pipeline, images))
    return tuple(checks)
