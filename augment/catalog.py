"""The table: which library does which op, and how.

One row an op (``ROWS``), one line a backend (``BACKENDS``); recipes stand in ``augment.recipes``; an absent cell *is*
"unsupported". Parameters are equal in every cell and each default in which the libraries differ is pinned; where a library
cannot do the canonical op but users meet its version, the cell stands and ``Row.differs`` names the difference. ``Default``
rows are the exception: they give a library only what it must be given, so that its own defaults are met.

Adding an op: a dataclass in ``augment.ops`` and a row here. Adding a backend: a line in ``BACKENDS`` and its cells.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import kornia.augmentation as K
import kornia.augmentation.auto as KA
import torch
from torch import nn
from torchvision.transforms import v2

from augment import compose, fused
from augment.compose import Pipeline, Runner, Step
from augment.ops import (
    Affine,
    AugMix,
    AutoAugment,
    AutoContrast,
    Brightness,
    CenterCrop,
    ColorJitter,
    Contrast,
    CutMix,
    Cutout,
    DefaultBrightness,
    DefaultContrast,
    DefaultRandomResizedCrop,
    DefaultResize,
    DefaultRotate,
    DefaultSaturation,
    Equalize,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    HorizontalFlip,
    Hue,
    Invert,
    MixUp,
    Normalize,
    Op,
    Perspective,
    Posterize,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Rotate,
    Saturation,
    Sharpness,
    Solarize,
    TrivialAugmentWide,
    VerticalFlip,
)
from augment.recipes import RECIPES

Library = Literal["pil", "torchvision", "kornia", "fused"]
Draws = Literal["per_image", "per_batch", "mixed", "fixed"]
"""The lane: parameters drawn for each image, once a batch, some ops this and some that way, or nothing is drawn at all."""

BILINEAR = v2.InterpolationMode.BILINEAR
PIL_BORDER = "the border is not blended with the black outside"
PIL_POLICY = f"{PIL_BORDER}; 8-bit arithmetic"
PIL_HUE = "8-bit arithmetic, the hue on PIL's 8-bit wheel"


class UnsupportedOp(ValueError):
    """The backend has no such op (or not with these parameters); known when building, before anything runs."""

    def __init__(self, op: str, backend: str, reason: str = "") -> None:
        super().__init__(f"{op} is not supported by backend {backend}" + (f": {reason}" if reason else ""))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One op of the catalog.

    ``at(image_size)`` is the benchmarked setting for square images of that side, ``pinned_at`` a setting without randomness on
    which all backends must agree (None where there is none). ``build`` maps a library to a builder of the op; builders of
    rows that mix labels take the number of classes as well. ``draws`` overrides a backend's lane where the library does not
    keep to it in this op, ``differs`` names known differences from the definition.
    """

    at: Callable[[int], Op]
    pinned_at: Callable[[int], Op] | None = None
    build: Mapping[Library, Callable[..., Any]]
    random: bool = True
    mixes_labels: bool = False
    needs_float: Collection[str] = ()
    draws: Mapping[Library, Draws] = field(default_factory=dict)
    differs: Mapping[Library, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A library and a way of driving it. ``on_device`` says whether it can take a batch on an accelerator.

    ``compose`` makes a runner of ops built one by one; a backend with ``plan`` takes the ops themselves, all at once, and
    draws from ``generator`` itself.
    """

    name: str
    library: Library
    draws: Draws
    compose: Callable[[Sequence[Step]], Runner] = compose.batched
    plan: Callable[..., Runner] | None = None
    compiled: bool = False
    on_device: bool = True
    about: str = ""


def _torchvision(builder: Callable[..., Any]) -> dict[Library, Callable[..., Any]]:
    """Cells for PIL images and for tensors: torchvision's v2 classes take both."""
    return {"pil": builder, "torchvision": builder}


class _Solarize(v2.RandomSolarize):
    """torchvision's threshold is on the scale of the dtype; ours is a share of it. ``>=`` on uint8 needs the ceiling."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        is_float = isinstance(inpt, torch.Tensor) and inpt.is_floating_point()
        threshold = self.threshold if is_float else -(-self.threshold * 255 // 1)
        return self._call_kernel(v2.functional.solarize, inpt, threshold)


class _Perspective(K.RandomPerspective):
    """Kornia maps pixel centres, counted from 0; torchvision their corners, half a pixel before."""

    def compute_transformation(self, input: Any, params: dict[str, Any], flags: dict[str, Any]) -> Any:
        corners = {name: params[name] - 0.5 for name in ("start_points", "end_points")}
        return super().compute_transformation(input, params | corners, flags)


def _kornia_noise(op: GaussianNoise) -> nn.Module:
    # Kornia's noise is not clamped; the definition is.
    return nn.Sequential(K.RandomGaussianNoise(mean=0.0, std=op.sigma, p=1.0), compose.Clamp())


def _kornia_mixup(op: MixUp, num_classes: int) -> Callable[..., Any]:
    if op.alpha != 1.0:  # Kornia draws lam uniformly, which is Beta(1, 1) and no other Beta
        raise UnsupportedOp("MixUp", "kornia", f"its lam is uniform, so alpha must be 1, got {op.alpha}")
    return compose.KorniaMix(
        K.RandomMixUpV2(lambda_val=(0.0, 1.0), data_keys=["input", "class"]), num_classes, weight_of_partner=True
    )


def _kornia_cutmix(op: CutMix, num_classes: int) -> Callable[..., Any]:
    mix = K.RandomCutMixV2(beta=op.alpha, use_correct_lambda=True, data_keys=["input", "class"])
    return compose.KorniaMix(mix, num_classes, weight_of_partner=False)


ROWS: dict[str, Row] = {
    "HorizontalFlip": Row(
        at=lambda size: HorizontalFlip(),
        pinned_at=lambda size: HorizontalFlip(p=1.0),
        build=_torchvision(lambda op: v2.RandomHorizontalFlip(op.p)) | {"kornia": lambda op: K.RandomHorizontalFlip(p=op.p)},
    ),
    "VerticalFlip": Row(
        at=lambda size: VerticalFlip(),
        pinned_at=lambda size: VerticalFlip(p=1.0),
        build=_torchvision(lambda op: v2.RandomVerticalFlip(op.p)) | {"kornia": lambda op: K.RandomVerticalFlip(p=op.p)},
    ),
    "RandomCrop": Row(
        at=lambda size: RandomCrop(size=size, padding=size // 8),
        pinned_at=lambda size: RandomCrop(size=size, padding=0),
        build=_torchvision(lambda op: v2.RandomCrop(op.size, padding=op.padding))
        | {"kornia": lambda op: K.RandomCrop((op.size, op.size), padding=op.padding)},
    ),
    "RandomResizedCrop": Row(
        at=lambda size: RandomResizedCrop(size=size),
        pinned_at=lambda size: RandomResizedCrop(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        build=_torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio, antialias=op.antialias))
        | {  # torchvision samples at pixel centres, which is Kornia's align_corners=False
            "kornia": lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio, align_corners=False)
        },
        differs={"kornia": "no antialias; the fallback window is not centred"},
    ),
    "Rotate": Row(
        at=lambda size: Rotate(),
        pinned_at=lambda size: Rotate(degrees=(30.0, 30.0)),
        build=_torchvision(lambda op: v2.RandomRotation(op.degrees, interpolation=BILINEAR, fill=None))
        | {"kornia": lambda op: K.RandomRotation(op.degrees, p=1.0)},
        differs={"pil": PIL_BORDER},
    ),
    "Affine": Row(
        at=lambda size: Affine(),
        pinned_at=lambda size: Affine(degrees=(20.0, 20.0), translate=(0.0, 0.0), scale=(1.2, 1.2), shear=(8.0, 8.0)),
        build=_torchvision(
            lambda op: v2.RandomAffine(
                op.degrees, translate=op.translate, scale=op.scale, shear=op.shear, interpolation=BILINEAR, fill=None
            )
        )
        | {
            "kornia": lambda op: K.RandomAffine(
                op.degrees, translate=op.translate, scale=op.scale, shear=op.shear, align_corners=True, p=1.0
            )
        },
        differs={
            "kornia": "shifts are not rounded to whole pixels",
            "pil": PIL_BORDER,
        },
    ),
    "Perspective": Row(
        at=lambda size: Perspective(),
        pinned_at=None,
        build=_torchvision(lambda op: v2.RandomPerspective(op.distortion, p=op.p, fill=None))
        | {"kornia": lambda op: _Perspective(op.distortion, p=op.p, align_corners=True)},
        differs={
            "kornia": "corner shifts are continuous, torchvision's are whole pixels",
            "pil": PIL_BORDER,
        },
    ),
    "Resize": Row(
        at=lambda size: Resize(size=size // 2),
        pinned_at=lambda size: Resize(size=size // 2),
        build=_torchvision(lambda op: v2.Resize(op.size, antialias=op.antialias))
        | {"kornia": lambda op: K.Resize(op.size, align_corners=False, antialias=op.antialias)},
        random=False,
        differs={"kornia": "antialias blurs with a Gaussian, torchvision integrates a triangle"},
    ),
    "CenterCrop": Row(
        at=lambda size: CenterCrop(size=size * 7 // 8),
        pinned_at=lambda size: CenterCrop(size=size * 7 // 8),
        build=_torchvision(lambda op: v2.CenterCrop(op.size)) | {"kornia": lambda op: K.CenterCrop(op.size)},
        random=False,
    ),
    "Brightness": Row(
        at=lambda size: Brightness(),
        pinned_at=lambda size: Brightness(low=1.3, high=1.3),
        build=_torchvision(lambda op: v2.ColorJitter(brightness=(op.low, op.high)))
        | {  # Kornia's RandomBrightness adds; its ColorJitter multiplies, as the definition does
            "kornia": lambda op: K.ColorJitter(brightness=(op.low, op.high))
        },
    ),
    "Contrast": Row(
        at=lambda size: Contrast(),
        pinned_at=lambda size: Contrast(low=0.6, high=0.6),
        build=_torchvision(lambda op: v2.ColorJitter(contrast=(op.low, op.high)))
        | {"kornia": lambda op: K.ColorJitter(contrast=(op.low, op.high))},
    ),
    "Saturation": Row(
        at=lambda size: Saturation(),
        pinned_at=lambda size: Saturation(low=0.4, high=0.4),
        build=_torchvision(lambda op: v2.ColorJitter(saturation=(op.low, op.high)))
        | {"kornia": lambda op: K.ColorJitter(saturation=(op.low, op.high))},
    ),
    "Hue": Row(
        at=lambda size: Hue(),
        pinned_at=lambda size: Hue(low=0.2, high=0.2),
        build=_torchvision(lambda op: v2.ColorJitter(hue=(op.low, op.high)))
        | {"kornia": lambda op: K.ColorJitter(hue=(op.low, op.high))},
        differs={"pil": PIL_HUE},
    ),
    "ColorJitter": Row(
        at=lambda size: ColorJitter(),
        pinned_at=None,
        build=_torchvision(
            lambda op: v2.ColorJitter(brightness=op.brightness, contrast=op.contrast, saturation=op.saturation, hue=op.hue)
        )
        | {
            "kornia": lambda op: K.ColorJitter(
                brightness=op.brightness, contrast=op.contrast, saturation=op.saturation, hue=op.hue
            )
        },
        differs={
            "kornia": "one order of the four ops for the whole batch",
            "pil": PIL_HUE,
        },
    ),
    "Grayscale": Row(
        at=lambda size: Grayscale(),
        pinned_at=lambda size: Grayscale(p=1.0),
        build=_torchvision(lambda op: v2.RandomGrayscale(op.p)) | {"kornia": lambda op: K.RandomGrayscale(p=op.p)},
    ),
    "Solarize": Row(
        at=lambda size: Solarize(),
        pinned_at=lambda size: Solarize(p=1.0),
        build=_torchvision(lambda op: _Solarize(op.threshold, op.p))
        | {  # a single threshold t would be drawn from 0.5 -/+ t, and something would be added first
            "kornia": lambda op: K.RandomSolarize((op.threshold, op.threshold), additions=(0.0, 0.0), p=op.p)
        },
    ),
    "Posterize": Row(
        at=lambda size: Posterize(),
        pinned_at=lambda size: Posterize(p=1.0),
        build=_torchvision(lambda op: v2.RandomPosterize(op.bits, op.p))
        | {"kornia": lambda op: K.RandomPosterize((op.bits, op.bits), p=op.p)},
    ),
    "Equalize": Row(
        at=lambda size: Equalize(),
        pinned_at=lambda size: Equalize(p=1.0),
        build=_torchvision(lambda op: v2.RandomEqualize(op.p)) | {"kornia": lambda op: K.RandomEqualize(p=op.p)},
    ),
    "AutoContrast": Row(
        at=lambda size: AutoContrast(),
        pinned_at=lambda size: AutoContrast(p=1.0),
        build=_torchvision(lambda op: v2.RandomAutocontrast(op.p)) | {"kornia": lambda op: K.RandomAutoContrast(p=op.p)},
    ),
    "Invert": Row(
        at=lambda size: Invert(),
        pinned_at=lambda size: Invert(p=1.0),
        build=_torchvision(lambda op: v2.RandomInvert(op.p)) | {"kornia": lambda op: K.RandomInvert(p=op.p)},
    ),
    "Sharpness": Row(
        at=lambda size: Sharpness(),
        pinned_at=lambda size: Sharpness(p=1.0),
        build=_torchvision(lambda op: v2.RandomAdjustSharpness(op.factor, op.p))
        | {"kornia": lambda op: K.RandomSharpness((op.factor, op.factor), p=op.p)},
    ),
    "GaussianBlur": Row(
        at=lambda size: GaussianBlur(),
        pinned_at=lambda size: GaussianBlur(sigma=(1.0, 1.0)),
        build=_torchvision(lambda op: v2.GaussianBlur(op.kernel_size, op.sigma))
        | {"kornia": lambda op: K.RandomGaussianBlur((op.kernel_size, op.kernel_size), op.sigma, p=1.0)},
    ),
    "GaussianNoise": Row(
        at=lambda size: GaussianNoise(),
        pinned_at=None,
        build=_torchvision(lambda op: v2.GaussianNoise(sigma=op.sigma)) | {"kornia": _kornia_noise},
        needs_float=("pil", "torchvision"),
        draws={"torchvision": "per_image"},  # drawn anew for every pixel of the batch
    ),
    "RandomErasing": Row(
        at=lambda size: RandomErasing(),
        pinned_at=None,
        build=_torchvision(lambda op: v2.RandomErasing(op.p, scale=op.scale, ratio=op.ratio, value=op.value))
        | {"kornia": lambda op: K.RandomErasing(scale=op.scale, ratio=op.ratio, value=op.value, p=op.p)},
        needs_float=("pil",),  # torchvision erases tensors only
        differs={"kornia": "the ratio is uniform on either side of 1, not log-uniform"},
    ),
    "Cutout": Row(
        at=lambda size: Cutout(),
        pinned_at=None,
        build=_torchvision(lambda op: v2.RandomErasing(1.0, scale=(op.side**2,) * 2, ratio=(1.0, 1.0)))
        | {"kornia": lambda op: K.RandomErasing(scale=(op.side**2,) * 2, ratio=(1.0, 1.0), p=1.0)},
        needs_float=("pil",),
    ),
    "Normalize": Row(
        at=lambda size: Normalize(),
        pinned_at=lambda size: Normalize(),
        build=_torchvision(lambda op: v2.Normalize(op.mean, op.std)) | {"kornia": lambda op: K.Normalize(op.mean, op.std)},
        random=False,
        needs_float=("pil", "torchvision", "fused"),
    ),
    "AutoAugment": Row(
        at=lambda size: AutoAugment(),
        build=_torchvision(lambda op: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, interpolation=BILINEAR))
        | {"kornia": lambda op: KA.AutoAugment("cifar10")},
        draws={"kornia": "per_batch"},  # the sub-policy, though its magnitudes and signs are drawn per image
        differs={"kornia": "one sub-policy for the whole batch; other magnitudes", "pil": PIL_POLICY},
    ),
    "RandAugment": Row(
        at=lambda size: RandAugment(),
        build=_torchvision(lambda op: v2.RandAugment(op.num_ops, op.magnitude, interpolation=BILINEAR))
        | {"kornia": lambda op: KA.RandAugment(n=op.num_ops, m=op.magnitude)},
        draws={"kornia": "per_batch"},
        differs={"kornia": "ops drawn once a batch and without replacement; no identity; other ranges", "pil": PIL_POLICY},
    ),
    "TrivialAugmentWide": Row(
        at=lambda size: TrivialAugmentWide(),
        build=_torchvision(lambda op: v2.TrivialAugmentWide(interpolation=BILINEAR))
        | {"kornia": lambda op: KA.TrivialAugment()},
        draws={"kornia": "per_batch"},
        differs={"kornia": "one op for the whole batch; no identity, no colour; narrower ranges", "pil": PIL_POLICY},
    ),
    "AugMix": Row(
        at=lambda size: AugMix(),
        build=_torchvision(
            lambda op: v2.AugMix(severity=op.severity, mixture_width=op.width, alpha=op.alpha, interpolation=BILINEAR)
        ),
        differs={"pil": "8-bit arithmetic"},  # torchvision turns the image into a tensor first: the border is blended
    ),
    "MixUp": Row(
        at=lambda size: MixUp(),
        build=_torchvision(lambda op, classes: v2.MixUp(alpha=op.alpha, num_classes=classes)) | {"kornia": _kornia_mixup},
        mixes_labels=True,
        needs_float=("pil", "torchvision"),
        draws={"pil": "per_batch", "torchvision": "per_batch"},
    ),
    "CutMix": Row(
        at=lambda size: CutMix(),
        build=_torchvision(lambda op, classes: v2.CutMix(alpha=op.alpha, num_classes=classes)) | {"kornia": _kornia_cutmix},
        mixes_labels=True,
        needs_float=("pil", "torchvision"),
        draws={"pil": "per_batch", "torchvision": "per_batch"},
        differs={"kornia": "the box lies wholly inside the image, not centred anywhere and cut off at the border"},
    ),
    # Kornia's own p of 0.5 is not kept in DefaultRotate: it would hide the interpolation behind a coin
    "DefaultRotate": Row(
        at=lambda size: DefaultRotate(),
        pinned_at=lambda size: DefaultRotate(degrees=(30.0, 30.0)),
        build=_torchvision(lambda op: v2.RandomRotation(op.degrees))
        | {"kornia": lambda op: K.RandomRotation(op.degrees, p=1.0)},
        differs={
            "kornia": "bilinear, torchvision takes the nearest pixel",
            "pil": "points midway between two pixels may fall to the other one",
        },
    ),
    "DefaultResize": Row(
        at=lambda size: DefaultResize(size=size // 2),
        pinned_at=lambda size: DefaultResize(size=size // 2),
        build=_torchvision(lambda op: v2.Resize(op.size)) | {"kornia": lambda op: K.Resize(op.size)},
        random=False,
        differs={"kornia": "no antialias; align_corners=True"},
    ),
    "DefaultRandomResizedCrop": Row(
        at=lambda size: DefaultRandomResizedCrop(size=size),
        pinned_at=lambda size: DefaultRandomResizedCrop(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        build=_torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio))
        | {"kornia": lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio)},
        differs={"kornia": "align_corners=True; no antialias; the fallback window is not centred"},
    ),
    "DefaultBrightness": Row(
        at=lambda size: DefaultBrightness(),
        pinned_at=lambda size: DefaultBrightness(low=1.3, high=1.3),
        build=_torchvision(lambda op: v2.ColorJitter(brightness=(op.low, op.high)))
        | {"kornia": lambda op: K.RandomBrightness((op.low, op.high))},
        differs={"kornia": "additive brightness: the factor less 1 is added"},
    ),
    "DefaultContrast": Row(
        at=lambda size: DefaultContrast(),
        pinned_at=lambda size: DefaultContrast(low=0.6, high=0.6),
        build=_torchvision(lambda op: v2.ColorJitter(contrast=(op.low, op.high)))
        | {"kornia": lambda op: K.RandomContrast((op.low, op.high))},
        differs={"kornia": "contrast about black, not about the mean"},
    ),
    "DefaultSaturation": Row(
        at=lambda size: DefaultSaturation(),
        pinned_at=lambda size: DefaultSaturation(low=0.4, high=0.4),
        build=_torchvision(lambda op: v2.ColorJitter(saturation=(op.low, op.high)))
        | {"kornia": lambda op: K.RandomSaturation((op.low, op.high))},
        differs={"kornia": "the saturation of HSV is scaled, torchvision blends with grey"},
    ),
}


# Our own backend plans a recipe as a whole, so its cells are the ops themselves.
for _name in fused.SUPPORTED:
    ROWS[_name] = replace(ROWS[_name], build={**ROWS[_name].build, "fused": lambda op, *_: op})


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="pil", library="pil", draws="per_image", compose=compose.on_pil_images, on_device=False,
            about="torchvision on PIL images, one by one, as in loader workers",
        ),
        Backend(
            name="torchvision_loop", library="torchvision", draws="per_image", compose=compose.image_by_image, on_device=False,
            about="torchvision v2 on tensors, one by one",
        ),
        Backend(
            name="torchvision", library="torchvision", draws="per_batch", compose=compose.batched,
            about="torchvision v2 on the whole batch: every image gets the same draw",
        ),
        Backend(
            name="kornia", library="kornia", draws="per_image", compose=compose.batched,
            about="Kornia on the whole batch, a draw for each image",
        ),
        Backend(
            name="kornia_shared", library="kornia", draws="per_batch", compose=compose.shared_draws,
            about="Kornia with same_on_batch: one draw for the batch",
        ),
        Backend(
            name="torchvision_compiled", library="torchvision", draws="per_batch", compose=compose.compiled, compiled=True,
            about="the torchvision backend through torch.compile",
        ),
        Backend(
            name="kornia_compiled", library="kornia", draws="per_image", compose=compose.compiled, compiled=True,
            about="the kornia backend through torch.compile",
        ),
        Backend(
            name="fused", library="fused", draws="per_image", plan=fused.compose,
            about="ours: torchvision's ops with a draw for each image, the recipe planned as a whole",
        ),
        Backend(
            name="fused_compiled", library="fused", draws="per_image", plan=partial(fused.compose, compile=True), compiled=True,
            about="the fused backend through torch.compile",
        ),
    )
}  # fmt: skip

FLOAT_LIBRARIES: Collection[str] = ("kornia",)
"""Libraries that refuse integer images in every op."""


def resolve(subject: str | Op | Sequence[Op], image_size: int = 32) -> tuple[Op, ...]:
    """The ops that a recipe's name, an op's name, an op or several ops stand for. ValueError for an unknown name."""
    if isinstance(subject, str):
        if subject in RECIPES:
            return RECIPES[subject](image_size)
        if subject in ROWS:
            return (ROWS[subject].at(image_size),)
        raise ValueError(f"unknown recipe or op {subject!r}; known: {', '.join((*RECIPES, *ROWS))}")
    return (subject,) if isinstance(subject, Op) else tuple(subject)


def find_backend(name: str) -> Backend:
    """The backend of that name. ValueError for an unknown one."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def lane(ops: Sequence[Op], backend: str) -> Draws:
    """Whether a backend draws these ops' parameters per image or per batch, some so and some so, or nothing is drawn."""
    chosen = find_backend(backend)
    rows = [ROWS[op.name] for op in ops]
    lanes = {row.draws.get(chosen.library, chosen.draws) for row in rows if row.random}
    if not lanes:
        return "fixed"
    return lanes.pop() if len(lanes) == 1 else "mixed"


def known_differences(ops: Sequence[Op], backend: str) -> str | None:
    """How the backend's version of these ops differs from their definitions, None where it is not known to."""
    library = find_backend(backend).library
    named = {op.name: ROWS[op.name].differs.get(library) for op in ops}
    return "; ".join(f"{name}: {difference}" for name, difference in named.items() if difference) or None


def check_supported(ops: Sequence[Op], backend: str, dtype: torch.dtype = torch.float32) -> None:
    """Raises UnsupportedOp for the first op that the backend lacks, or cannot do in that dtype."""
    library = find_backend(backend).library
    for op in ops:
        row = ROWS[op.name]
        if library not in row.build:
            raise UnsupportedOp(op.name, backend)
        if dtype == torch.uint8 and (library in FLOAT_LIBRARIES or library in row.needs_float):
            raise UnsupportedOp(op.name, backend, "it needs float images")


def build(
    subject: str | Op | Sequence[Op],
    backend: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int = 32,
    num_classes: int = 10,
    generator: torch.Generator | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Pipeline:
    """Build a recipe (by name), an op (by name or value) or a sequence of ops for a backend.

    Args:
        device: where batches will be; the library's parameters are put there.
        dtype: of the result. Recipes end normalised, single ops in [0, 1] (or uint8, 0..255).
        image_size: side of the square input images, from which named subjects take their sizes.
        num_classes: length of the soft targets of MixUp and CutMix.
        generator: source of randomness; without one the libraries draw from torch's global generator of the device.
        memory_format: of the result: torch.contiguous_format or torch.channels_last.

    Raises:
        UnsupportedOp: the backend has no such op, or not in this dtype.
        ValueError: unknown recipe, op or backend; a dtype that is no image's; no classes.
    """
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a float type, or torch.uint8, got {dtype}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    ops = resolve(subject, image_size)
    chosen = find_backend(backend)
    check_supported(ops, backend, dtype)
    if chosen.plan is not None:
        run = chosen.plan(ops, num_classes=num_classes, generator=generator, device=torch.device(device), dtype=dtype)
        generator = None  # the runner has it: the global one is neither seeded nor restored
    else:
        run = chosen.compose([build_step(op, chosen.library, torch.device(device), num_classes) for op in ops])
    return Pipeline(
        ops=ops,
        backend=backend,
        draws=lane(ops, backend),
        mixes=any(ROWS[op.name].mixes_labels for op in ops),
        run=run,
        dtype=dtype,
        generator=generator,
        memory_format=memory_format,
    )


def build_step(op: Op, library: Library, device: torch.device, num_classes: int) -> Step:
    """One op as a library builds it, on the device; ``num_classes`` is for ops that mix labels."""
    row = ROWS[op.name]
    apply = row.build[library](op, num_classes) if row.mixes_labels else row.build[library](op)
    if isinstance(apply, nn.Module):
        apply = apply.to(device)
    needs_float = library in FLOAT_LIBRARIES or library in row.needs_float
    return Step(apply=apply, mixes_labels=row.mixes_labels, needs_float=needs_float)
