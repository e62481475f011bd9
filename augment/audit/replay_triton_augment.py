"""The route of triton-augment: what it drew is what its functionals are given, and these are watched while a call runs."""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import catalog, triton_augment
from augment.audit.columns import Columns
from augment.audit.traced import Traced
from augment.compose import Pipeline
from augment.ops import Op
from augment.triton_augment import Call

WATCHED = ("fused_augment", "crop", "horizontal_flip", "rgb_to_grayscale", "affine")
"""The functionals that its classes hand their draws to."""

Given = Mapping[str, Any]
"""The arguments of a functional by name."""


def _numbers(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _jitter(given: Given) -> Columns:
    factors = {name: _numbers(given[f"{name}_factor"]) for name in ("brightness", "contrast", "saturation")}
    count = len(factors["contrast"])
    return {**factors, "hue": np.zeros(count), "order": np.tile(np.arange(4.0), (count, 1))}  # its order is fixed


READERS: dict[str, Callable[[Given], Columns]] = {
    "Rotate": lambda given: {"angle": -_numbers(given["angle"])},  # clockwise there
    "Affine": lambda given: {
        "angle": _numbers(given["angle"]),
        "dx": _numbers(given["translate"])[:, 0],
        "dy": _numbers(given["translate"])[:, 1],
        "scale": _numbers(given["scale"]),
        "shear": _numbers(given["shear"])[:, 0],
    },
    "RandomCrop": lambda given: {"top": _numbers(given["top"]), "left": _numbers(given["left"])},
    "Brightness": lambda given: {"factor": _numbers(given["brightness_factor"])},
    "Contrast": lambda given: {"factor": _numbers(given["contrast_factor"])},
    "Saturation": lambda given: {"factor": _numbers(given["saturation_factor"])},
    "ColorJitter": _jitter,
}
MASKS = {"HorizontalFlip": ("flip_mask", "flip_horizontal"), "Grayscale": ("grayscale_mask", "grayscale")}
"""Ops that draw whether they happen -> the argument that says so, of their own functional and of the fused one."""


@contextlib.contextmanager
def watched(*, without_pixels: bool = False) -> Iterator[list[Given]]:
    """What the functionals are given while the block runs; ``without_pixels`` they hand their images back as they are."""
    functional = importlib.import_module(f"{triton_augment.NAME}.functional")
    originals = {name: getattr(functional, name) for name in WATCHED}
    seen: list[Given] = []

    def watch(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            seen.append(inspect.signature(original).bind(*args, **kwargs).arguments)
            image: Tensor = args[0]
            return image if without_pixels else original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(functional, name, watch(original))
    try:
        yield seen
    finally:
        for name, original in originals.items():
            setattr(functional, name, original)


def read(op: Op, seen: Sequence[Given], count: int) -> Columns:
    """One op's draws from what the functional of its call was given; no call at all leaves every image alone."""
    if op.name in MASKS:
        given = seen[-1] if seen else {}
        mask = next((given[name] for name in MASKS[op.name] if name in given), None)
        return {"applied": np.zeros(count, dtype=bool) if mask is None else mask.cpu().numpy().astype(bool)}
    drawn = READERS[op.name](seen[-1]) if op.name in READERS else {}
    return {"applied": np.ones(count, dtype=bool), **drawn}


class TritonAugmentRecorder:
    """What one op of a call drew in the last one."""

    def __init__(self, op: Op, call: Call, device: torch.device) -> None:
        self._op, self._call, self._device = op, call, device
        self._seen: Sequence[Given] = ()

    def clear(self) -> None:
        self._seen = ()

    def keep(self, seen: Sequence[Given]) -> None:
        """Called by the pipeline, with what the functionals of its call were given."""
        self._seen = seen

    def columns(self, count: int) -> Columns:
        return read(self._op, self._seen, count)

    def sample(self, count: int, shape: tuple[int, int], *, shared: bool) -> Columns:
        images = torch.empty(1, device=self._device).expand(count, 3, *shape)  # nothing reads a pixel
        with watched(without_pixels=True) as seen:
            triton_augment.run_all([self._call], images)
        return read(self._op, seen, count)


def trace_triton_augment(ops: Sequence[Op], backend: str, *, device: torch.device, num_classes: int) -> Traced:
    """A recipe's calls, watched."""
    catalog.check_supported(ops, backend, device=device)
    calls = triton_augment.plan(ops)
    recorders = [[TritonAugmentRecorder(op, call, device) for op in call.ops] for call in calls]

    def watch(call: Call, its_recorders: Sequence[TritonAugmentRecorder]) -> Callable[[Tensor], Tensor]:
        def run(images: Tensor) -> Tensor:
            with watched() as seen:
                result = call(images)
            for recorder in its_recorders:
                recorder.keep(seen)
            return result

        return run

    runner = triton_augment.runner([watch(*pair) for pair in zip(calls, recorders, strict=True)], None)
    options: dict[str, Any] = {"draws": catalog.lane(ops, backend), "mixes": False, "dtype": torch.float32}
    return Traced(Pipeline(ops=ops, backend=backend, run=runner, **options), [one for each in recorders for one in each], ())
