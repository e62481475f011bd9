"""Kornia on the whole batch: a draw for each image, one draw for the batch, and compiled.

A module keeps what it drew in ``_params``, and draws without transforming in ``forward_parameters``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kornia.augmentation as K
import kornia.augmentation.auto as KA
import numpy as np
import torch
from torch import Tensor, nn

from augment.backends import StepBackend
from augment.distributions import Jitter
from augment.op import Builder, Cell, Op, Read, box_reads
from augment.pipeline import Runner, Step, run_batched, run_compiled
from augment.replay import Columns, NoRoute, Recorder


def kornia(build: Builder, refuses: Callable[[Any], str | None] = lambda op: None, /, **reads: Read) -> dict[str, Cell]:
    """Return a cell; ``reads`` are keys of the module's ``_params``."""
    return {"kornia": Cell(build, reads, refuses)}


def window_reads(corners: Callable[[Mapping[str, Any]], Tensor]) -> dict[str, Read]:
    """Return the reads of a window from its corners [B, 4, 2], (x, y) of its outermost pixels clockwise from top left."""

    def box(params: Mapping[str, Any]) -> Sequence[Tensor]:
        first, _, last, _ = corners(params).unbind(1)
        return *first.unbind(1), *(last + 1).unbind(1)

    return box_reads(box)


class Clamp(nn.Module):
    """Clamp to [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.clamp(0.0, 1.0)


class KorniaMix(nn.Module):
    """A Kornia mix op with soft targets.

    Kornia returns rows (label, partner's label, weight); the weight belongs to the partner in its MixUp and to the
    image itself in its CutMix with ``use_correct_lambda``: ``weight_of_partner`` says which.
    """

    def __init__(self, mix: nn.Module, num_classes: int, *, weight_of_partner: bool) -> None:
        super().__init__()
        self.mix = mix
        self.num_classes = num_classes
        self.weight_of_partner = weight_of_partner

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mixed, rows = self.mix(images, labels)
        rows = rows.reshape(-1, 3)
        weight = 1 - rows[:, 2:] if self.weight_of_partner else rows[:, 2:]
        one_hot = [nn.functional.one_hot(rows[:, i].long(), self.num_classes).to(images.dtype) for i in (0, 1)]
        return mixed, weight * one_hot[0] + (1 - weight) * one_hot[1]


def run_shared_draws(steps: Sequence[Step]) -> Runner:
    """Return a runner of modules that draw one set of parameters for the batch."""
    for step in steps:
        for module in step.apply.modules() if isinstance(step.apply, nn.Module) else ():
            if hasattr(module, "same_on_batch"):
                setattr(module, "same_on_batch", True)  # noqa: B010  nn.Module's type admits tensors only
    return run_batched(steps)


# ---- what is drawn ----------------------------------------------------------------------------------------------------


def _slope(degrees: float) -> float:
    return math.tan(math.radians(degrees))


def _less_one(factor: float) -> float:
    return factor - 1


POLICY_OPS: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "ShearX": ("ShearX", "shear_x", _slope),
    "ShearY": ("ShearY", "shear_y", _slope),
    "TranslateX": ("TranslateX", "translate_x", float),
    "TranslateY": ("TranslateY", "translate_y", float),
    "Rotate": ("Rotate", "degrees", float),
    "Brightness": ("Brightness", "brightness_factor", _less_one),
    "Saturate": ("Color", "saturation_factor", _less_one),
    "Contrast": ("Contrast", "contrast_factor", _less_one),
    "Sharpness": ("Sharpness", "sharpness", _less_one),
    "Posterize": ("Posterize", "bits_factor", float),
    "Solarize": ("Solarize", "thresholds", float),
    "SolarizeAdd": ("SolarizeAdd", "additions", float),
    "AutoContrast": ("AutoContrast", "", float),
    "Equalize": ("Equalize", "", float),
    "Invert": ("Invert", "", float),
}
"""Operations of Kornia's policies: torchvision's name, the key of the parameter, its conversion to torchvision's magnitude."""


def _numbers(values: Any) -> np.ndarray:
    return values.detach().double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=float)


def _read_policy(module: Any, items: Sequence[Any], count: int) -> Columns:
    """Read a policy's [(sub-policy, [(operation, its parameters)])], one choice for the whole batch."""
    drawn: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    for item in items:
        sub_policy = module.get_submodule(item.name)
        for entry in item.data:
            name, key, convert = POLICY_OPS[type(sub_policy.get_submodule(entry.name)).__name__]
            applied = _numbers(entry.data["batch_prob"]) > 0.5
            values = _numbers(entry.data[key]) if key else np.zeros(count)
            for i in np.flatnonzero(applied):
                drawn[i].append((name, convert(float(values[i]))))
    ops = np.empty(count, dtype=object)
    ops[:] = drawn
    return {"applied": np.ones(count, dtype=bool), "ops": ops}


class KorniaRecorder(Recorder):
    """Record of the one Kornia augmentation in a built op."""

    def __init__(self, op: Op, apply: Any) -> None:
        modules = apply.modules() if isinstance(apply, nn.Module) else ()
        self._is_policy = any(distribution.policy for distribution in op.draws)
        kinds = (KA.PolicyAugmentBase,) if self._is_policy else (K.AugmentationBase2D, K.MixAugmentationBaseV2)
        augmentations = [module for module in modules if isinstance(module, kinds)]
        if len(augmentations) != 1:
            raise NoRoute(f"no way to read what {type(apply).__name__} draws for {op.name}")
        self._op, self._module = op, augmentations[0]

    @property
    def draws_singly(self) -> bool:
        """Return whether Kornia draws once per call: with ``same_on_batch``, the op of a policy, the order of a jitter."""
        once = self._is_policy or any(isinstance(distribution, Jitter) for distribution in self._op.draws)
        return once or bool(getattr(self._module, "same_on_batch", False))

    def columns(self, count: int) -> Columns:
        return self._read(self._module._params, count)

    def _read(self, params: Any, count: int) -> Columns:
        if self._is_policy:
            return _read_policy(self._module, params, count)
        cell: Cell = self._op.cells["kornia"]
        names = (*self._op.drawn_names, *(("partner",) if self._op.mixes_labels else ()))
        try:
            drawn = cell.read(names, params)
        except KeyError as problem:
            raise NoRoute(f"Kornia keeps no {problem} of {self._op.name}: name its key in the op's cell") from problem
        columns = {name: _numbers(values) for name, values in drawn.items()}
        # A value that is drawn once per batch has one row.
        columns = {n: np.repeat(v, count, axis=0) if len(v) == 1 < count else v for n, v in columns.items()}
        return {"applied": _numbers(params["batch_prob"]) > 0.5, **columns}

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        if not self.draws_singly:
            return self._read(self._draw(count, shape), count)
        parts = [self._read(self._draw(1, shape), 1) for _ in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _draw(self, count: int, shape: tuple[int, int]) -> Any:
        return self._module.forward_parameters(torch.Size((count, 3, *shape)))


_COMMON: dict[str, Any] = {"library": "kornia", "recorder": KorniaRecorder, "floats_only": True}

BACKENDS = (
    StepBackend(
        name="kornia", lane="per_image", order=40, **_COMMON, about="Kornia on the whole batch, a draw for each image",
    ),
    StepBackend(
        name="kornia_shared", lane="per_batch", order=50, **_COMMON, run_steps=run_shared_draws,
        about="Kornia with same_on_batch: one draw for the batch",
    ),
    StepBackend(
        name="kornia_compiled", lane="per_image", order=70, **_COMMON, run_steps=run_compiled, compiled=True,
        about="the kornia backend through torch.compile",
    ),
)  # fmt: skip
