"""Material of the tests of ``augment.fused``: images, settings of ops, chains of ops, and the implementations of a plan."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from augment import OPS, RECIPES, fused, ops, resolve
from augment.distributions import Params
from augment.fused import cpu, kinds
from augment.op import Op
from tests.conftest import smooth_images

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

TOLERANCE = 4e-5
"""For values in [0, 1]: float32 sums in another order; places of pixels in float32, whose last bit is 1e-6 of a side."""
AFTER_A_JUMP = 4e-3
"""Share of values that may differ in chains: behind a warp or a blend a last bit decides at a threshold, a level or a bin, and
makes a whole step. Single ops have no such excuse."""

SUPPORTED = sorted(name for name, op in OPS.items() if op.fused is not None)
SETTINGS: list[Op] = [OPS[name]() for name in SUPPORTED] + [
    ops.Brightness(low=0.0, high=2.5), ops.Contrast(low=0.0, high=2.5), ops.Saturation(low=0.0, high=2.5),
    ops.Hue(low=-0.5, high=0.5), ops.ColorJitter(hue=(0.0, 0.0), contrast=(1.0, 1.0)), ops.Solarize(threshold=0.2, p=1.0),
    ops.Posterize(bits=0, p=1.0), ops.Posterize(bits=2, p=1.0), ops.Equalize(p=1.0), ops.AutoContrast(p=1.0),
    ops.Sharpness(factor=0.2, p=1.0), ops.GaussianBlur(kernel_size=1), ops.GaussianBlur(kernel_size=9, sigma=(0.1, 4.0)),
    ops.GaussianNoise(sigma=0.5), ops.RandomErasing(p=1.0, value=0.3), ops.RandomCrop(size=20, padding=12),
    ops.RandomCrop(size=12, padding=0), ops.ReflectCrop(size=16, padding=6), ops.ReflectCrop(size=4, padding=6),
    ops.CenterCrop(size=9), ops.CenterCrop(size=44), ops.RandomResizedCrop(size=19),
    ops.RandomResizedCrop(size=8, antialias=False), ops.RandomResizedCrop(size=70), ops.Resize(size=10), ops.Resize(size=50),
    ops.Resize(size=11, antialias=False), ops.Affine(degrees=(-180.0, 180.0), scale=(0.3, 2.0), shear=(-60.0, 60.0)),
    ops.Rotate(degrees=(90.0, 90.0)), ops.Perspective(p=1.0), ops.RandAugment(num_ops=1, magnitude=30),
    ops.AugMix(width=1, severity=10),
]  # fmt: skip

CHAINS: dict[str, Sequence[Op]] = {
    "moves": [ops.VerticalFlip(), ops.RandomCrop(size=18, padding=9), ops.HorizontalFlip(), ops.CenterCrop(size=12)],
    "mirrored borders": [ops.HorizontalFlip(), ops.ReflectCrop(size=21, padding=8), ops.VerticalFlip(), ops.Rotate()],
    "mirrors behind a window": [ops.VerticalFlip(), ops.RandomResizedCrop(size=13), ops.HorizontalFlip(), ops.VerticalFlip()],
    "mirrors behind a warp": [ops.HorizontalFlip(), ops.Rotate(), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Invert()],
    "mirrors behind a policy": [ops.TrivialAugmentWide(), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Normalize()],
    "mirrors behind a perspective": [ops.RandomCrop(size=15, padding=4), ops.Perspective(p=1.0), ops.HorizontalFlip()],
    "mirrors about a blur": [ops.VerticalFlip(), ops.GaussianBlur(), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Hue()],
    "mirrors about chains": [ops.HorizontalFlip(), ops.AugMix(), ops.VerticalFlip(), ops.HorizontalFlip()],
    "mixing after values": [ops.Brightness(), ops.HorizontalFlip(), ops.MixUp(), ops.CutMix(), ops.Hue(), ops.Normalize()],
    "moved partners": [ops.RandomCrop(size=21, padding=10), ops.VerticalFlip(), ops.CutMix(), ops.Invert()],
    "passes before mixing": [ops.Contrast(), ops.Rotate(), ops.MixUp(), ops.Contrast(), ops.Rotate(), ops.CutMix()],
    "erased before and after": [ops.Cutout(), ops.RandomErasing(value=0.7), ops.Normalize(), ops.RandomErasing(p=1.0)],
    "neighbourhoods": [ops.ColorJitter(), ops.Perspective(), ops.GaussianNoise(), ops.GaussianBlur(), ops.AugMix()],
    "noise of a crop's size": [ops.CenterCrop(size=14), ops.GaussianNoise(), ops.VerticalFlip(), ops.GaussianNoise()],
    "two measures": [ops.Contrast(), ops.AutoContrast(p=1.0), ops.Grayscale(p=0.5), ops.Contrast()],
}  # fmt: skip
SUBJECTS: dict[str, Sequence[Op]] = {
    **{str(op): [op] for op in SETTINGS}, **CHAINS, **{name: resolve(name, 20) for name in RECIPES if "imagenet" not in name}
}  # fmt: skip


def pictures(count: int, height: int, width: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return smooth images, noise, a grey one and a flat one."""
    images = smooth_images(count, max(height, width))[:, :, :height, :width].contiguous()
    images[1::3] = torch.randint(0, 256, images[1::3].shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if count > 2:
        images[0], images[2] = images[0, :1], 77
    return images if dtype == torch.uint8 else images.to(dtype) / 255


def draw(plan: fused.Plan, images: Tensor, seed: int = 0) -> tuple[Params, ...]:
    """Draw for these images on a CPU."""
    return plan.sample(len(images), images.shape[2], images.shape[3], torch.Generator().manual_seed(seed))


def on_device(params: Sequence[Params]) -> list[Params]:
    return [{name: value.to(DEVICE) for name, value in drawn.items()} for drawn in params]


class Operations(TorchDispatchMode):
    """Names of the operations of PyTorch that run while it is on, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names += [] if func.is_view else [func.overloadpacket.__name__]
        return func(*args, **(kwargs or {}))


def has_thresholds(recipe: Sequence[Op]) -> bool:
    """Return whether a last bit may make a whole step: in policies, and in chains with such a point op."""
    policies = [op for op in recipe if op.fused in (kinds.POLICY, kinds.AUGMIX)]
    return bool(policies) or (
        len(recipe) > 1 and any(isinstance(op, ops.Equalize | ops.Posterize | ops.Solarize) for op in recipe)
    )


def assert_same(result: Tensor, expected: Tensor, tolerance: float = TOLERANCE, excused: float = 0.0) -> None:
    assert result.shape == expected.shape
    wrong = (result.cpu().double() - expected.double()).abs() > tolerance
    # In images of a few pixels one excused value is a large share.
    allowed = max(excused, 1.5 / wrong.numel()) if excused else 0.0
    assert float(wrong.double().mean()) <= allowed, f"{int(wrong.sum())} of {wrong.numel()} values differ"


# ---- implementations --------------------------------------------------------------------------------------------------

Run = Callable[[fused.Plan, Tensor, Sequence[Params], torch.dtype | None], Tensor]


def by_tensors(plan: fused.Plan, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor:
    return plan._by_tensors(images, params, dtype)


def in_c(plan: fused.Plan, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor:
    assert cpu.accepts(images, params)
    result, implementation = plan.run(images, params, dtype)
    assert implementation == "c"
    return result


def by_triton(plan: fused.Plan, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor:
    """Apply on CUDA, else in Triton's interpreter; float32 unless said otherwise."""
    from augment.fused import cuda

    apply = cuda.apply_plan(plan, dtype or torch.float32)
    return apply(images.to(DEVICE), on_device(params)).cpu()


try:
    from triton.runtime import interpreter
except ImportError:
    HAS_TRITON = False
else:
    HAS_TRITON, _patch = True, interpreter._patch_lang_tensor

    def _patch_index(tensor: Any, scope: Any) -> None:
        """Let Triton 3.6 loop in its interpreter with NumPy 2.5, whose arrays [1] are no numbers."""
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = _patch_index

NEEDS_TRITON = pytest.mark.skipif(not HAS_TRITON, reason="Triton is missing")
IMPLEMENTATIONS: dict[str, Run] = {"tensors": by_tensors, "c": in_c, "triton": by_triton}
ALL = ["tensors", "c", pytest.param("triton", marks=NEEDS_TRITON)]
KERNELS = ALL[1:]
SLOW_KERNELS = ["c", pytest.param("triton", marks=[NEEDS_TRITON, pytest.mark.slow])]
