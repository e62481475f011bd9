"""Recipes: the named sequences of ops that people train with. All end in Normalize."""

from collections.abc import Callable

from augment.op import Op
from augment.ops.colour import IMAGENET_MEAN, IMAGENET_STD, ColorJitter, Grayscale, Normalize
from augment.ops.erasing import Cutout
from augment.ops.geometry import AlternatingFlip, CenterCrop, HorizontalFlip, RandomCrop, RandomResizedCrop, ReflectCrop, Resize
from augment.ops.mixing import CutMix, MixUp
from augment.ops.policies import AugMix, AutoAugment, RandAugment, TrivialAugmentWide


def _crop_flip(size: int) -> tuple[Op, ...]:
    return (RandomCrop(size=size, padding=size // 8), HorizontalFlip())


def _imagenet_normalize() -> Normalize:
    return Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)


RECIPES: dict[str, Callable[[int], tuple[Op, ...]]] = {
    "none": lambda size: (Normalize(),),
    "flip": lambda size: (HorizontalFlip(), Normalize()),
    "crop_flip": lambda size: (*_crop_flip(size), Normalize()),
    "crop_flip_cutout": lambda size: (*_crop_flip(size), Cutout(), Normalize()),
    "airbench": lambda size: (ReflectCrop.at(size), AlternatingFlip(), Normalize()),
    "crop_jitter": lambda size: (
        RandomCrop(size=max(size * 7 // 8, 1), padding=0),
        HorizontalFlip(),
        ColorJitter(hue=(0.0, 0.0)),
        Grayscale(),
        Normalize(),
    ),
    "d2l": lambda size: (
        HorizontalFlip(),
        ColorJitter(),
        RandomResizedCrop(size=size, scale=(0.1, 1.0), ratio=(0.5, 2.0)),
        Normalize(),
    ),
    "autoaugment": lambda size: (*_crop_flip(size), AutoAugment(), Normalize()),
    "randaugment": lambda size: (*_crop_flip(size), RandAugment(), Normalize()),
    "trivialaugment": lambda size: (*_crop_flip(size), TrivialAugmentWide(), Normalize()),
    "augmix": lambda size: (*_crop_flip(size), AugMix(), Normalize()),
    "mixup": lambda size: (*_crop_flip(size), MixUp(), Normalize()),
    "cutmix": lambda size: (*_crop_flip(size), CutMix(), Normalize()),
    "imagenet": lambda size: (RandomResizedCrop(size=224), HorizontalFlip(), _imagenet_normalize()),
    "imagenet_eval": lambda size: (Resize(size=256), CenterCrop(size=224), _imagenet_normalize()),
}
"""Named sequences for square images of a side; mixing comes before Normalize, with which it commutes."""

PHOTOGRAPH_RECIPES = frozenset({"imagenet", "imagenet_eval"})
"""Recipes whose input are photographs of about 256 pixels, whatever the size of the other cases."""
