"""Kornia's route: a module keeps what it drew in ``_params``, and draws without transforming in ``forward_parameters``."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kornia.augmentation as K
import kornia.augmentation.auto as KA
import numpy as np
import torch
from torch import Tensor, nn

from augment.audit.columns import DRAWN_AS, POLICIES, WITHOUT_PARAMETERS, Columns, NoRoute
from augment.ops import Op


def _column(params: Mapping[str, Tensor], name: str) -> np.ndarray:
    return params[name].detach().double().cpu().numpy()


def _box_start(params: Mapping[str, Tensor]) -> Columns:
    corners = _column(params, "src")
    return {"left": corners[:, 0, 0], "top": corners[:, 0, 1]}


def _box(params: Mapping[str, Tensor]) -> Columns:
    corners = _column(params, "src")
    size = corners[:, 2] - corners[:, 0] + 1  # the corners are the outermost pixels of the window
    return {"left": corners[:, 0, 0], "top": corners[:, 0, 1], "width": size[:, 0], "height": size[:, 1]}


def _kornia_jitter(params: Mapping[str, Tensor]) -> Columns:
    factors = {name: _column(params, f"{name}_factor") for name in ("brightness", "contrast", "saturation", "hue")}
    count = len(factors["hue"])
    return {"order": np.tile(_column(params, "order"), (count, 1)), **factors}


def _kornia_cutmix(params: Mapping[str, Tensor]) -> Columns:
    corners = _column(params, "crop_src")[0]
    size = corners[:, 2] - corners[:, 0] + 1
    box = np.concatenate([corners[:, 0], corners[:, 0] + size], axis=1)
    return {"box": box, "partner": _column(params, "mix_pairs")[0]}


KORNIA_READERS: dict[str, Callable[[Mapping[str, Tensor]], Columns]] = {
    "RandomCrop": _box_start,
    "RandomResizedCrop": _box,
    "Rotate": lambda params: {"angle": _column(params, "degrees")},
    "Affine": lambda params: {
        "angle": _column(params, "angle"),
        "dx": _column(params, "translations")[:, 0],
        "dy": _column(params, "translations")[:, 1],
        "scale": _column(params, "scale")[:, 0],
        "shear": _column(params, "shear_x"),
    },
    "Perspective": lambda params: {"corners": _column(params, "end_points")},
    "Brightness": lambda params: {"factor": _column(params, "brightness_factor")},
    "Contrast": lambda params: {"factor": _column(params, "contrast_factor")},
    "Saturation": lambda params: {"factor": _column(params, "saturation_factor")},
    "Hue": lambda params: {"factor": _column(params, "hue_factor")},
    "ColorJitter": _kornia_jitter,
    "GaussianBlur": lambda params: {"sigma": _column(params, "sigma")},
    "GaussianNoise": lambda params: {"noise": _column(params, "gaussian_noise")},
    "MixUp": lambda params: {"lam": 1 - _column(params, "mixup_lambdas"), "partner": _column(params, "mixup_pairs")},
    "CutMix": _kornia_cutmix,
}
for _name in ("RandomErasing", "Cutout"):
    KORNIA_READERS[_name] = lambda params: {
        "top": _column(params, "ys"),
        "left": _column(params, "xs"),
        "height": _column(params, "heights"),
        "width": _column(params, "widths"),
    }
KORNIA_READERS |= {name: KORNIA_READERS[plain] for name, plain in DRAWN_AS.items()}

KORNIA_POLICY_OPS: dict[str, tuple[str, str, Callable[[float], float]]] = {
    # Kornia's operation: the canonical name, its parameter, and that parameter in canonical units
    "ShearX": ("ShearX", "shear_x", lambda degrees: math.tan(math.radians(degrees))),
    "ShearY": ("ShearY", "shear_y", lambda degrees: math.tan(math.radians(degrees))),
    "TranslateX": ("TranslateX", "translate_x", float),
    "TranslateY": ("TranslateY", "translate_y", float),
    "Rotate": ("Rotate", "degrees", float),
    "Brightness": ("Brightness", "brightness_factor", lambda factor: factor - 1),
    "Saturate": ("Color", "saturation_factor", lambda factor: factor - 1),
    "Contrast": ("Contrast", "contrast_factor", lambda factor: factor - 1),
    "Sharpness": ("Sharpness", "sharpness", lambda factor: factor - 1),
    "Posterize": ("Posterize", "bits_factor", float),
    "Solarize": ("Solarize", "thresholds", float),
    "SolarizeAdd": ("SolarizeAdd", "additions", float),
    "AutoContrast": ("AutoContrast", "", float),
    "Equalize": ("Equalize", "", float),
    "Invert": ("Invert", "", float),
}


def _kornia_policy(module: Any, items: Sequence[Any], count: int) -> Columns:
    """Kornia's policies keep [(sub-policy, [(operation, its parameters)])], one choice for the whole batch."""
    drawn: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    for item in items:
        sub = module.get_submodule(item.name)
        for entry in item.data:
            name, key, convert = KORNIA_POLICY_OPS[type(sub.get_submodule(entry.name)).__name__]
            applied = _column(entry.data, "batch_prob") > 0.5
            values = _column(entry.data, key) if key else np.zeros(count)
            for i in np.flatnonzero(applied):
                drawn[i].append((name, convert(float(values[i]))))
    ops = np.empty(count, dtype=object)
    ops[:] = drawn
    return {"applied": np.ones(count, dtype=bool), "ops": ops}


ONCE_A_BATCH = POLICIES | {"ColorJitter"}
"""Ops in which Kornia draws something once a call (the sub-policy, the order): independent draws need a call each."""


class KorniaRecorder:
    """Reads ``_params`` of the one Kornia augmentation in a built op."""

    def __init__(self, op: Op, apply: Any) -> None:
        modules = apply.modules() if isinstance(apply, nn.Module) else ()
        kinds = (KA.PolicyAugmentBase,) if op.name in POLICIES else (K.AugmentationBase2D, K.MixAugmentationBaseV2)
        found = [module for module in modules if isinstance(module, kinds)]
        if len(found) != 1 or op.name not in WITHOUT_PARAMETERS | POLICIES | KORNIA_READERS.keys():
            raise NoRoute(f"no way to read what {type(apply).__name__} draws for {op.name}")
        self._op, self._module = op, found[0]

    def clear(self) -> None:
        return None

    def columns(self, count: int) -> Columns:
        return self._read(self._module._params, count)

    def _read(self, params: Any, count: int) -> Columns:
        if self._op.name in POLICIES:
            return _kornia_policy(self._module, params, count)
        reader = KORNIA_READERS.get(self._op.name)
        columns = reader(params) if reader else {}
        if "noise" in columns and len(columns["noise"]) < count:  # same_on_batch keeps one row
            columns["noise"] = np.repeat(columns["noise"], count, axis=0)
        return {"applied": _column(params, "batch_prob") > 0.5, **columns}

    def sample(self, count: int, shape: tuple[int, int], *, shared: bool) -> Columns:
        if self._op.name == "GaussianNoise":
            images = -(-count // (3 * shape[0] * shape[1]))
            noise = np.concatenate([_column(self._draw(1, shape), "gaussian_noise") for _ in range(images)])
            return {"applied": np.ones(count, dtype=bool), "noise": noise.reshape(-1)[:count]}
        if not (shared or self._op.name in ONCE_A_BATCH):
            return self._read(self._draw(count, shape), count)
        parts = [self._read(self._draw(1, shape), 1) for _ in range(count)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _draw(self, count: int, shape: tuple[int, int]) -> Any:
        return self._module.forward_parameters(torch.Size((count, 3, *shape)))
