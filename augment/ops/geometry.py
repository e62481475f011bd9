"""Flips, crops and resampling."""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from augment.backends.albumentations import albumentations
from augment.backends.dali import LINEAR, dali, draw_declared, numbers, warp
from augment.backends.dali_torchvision import WINDOW, dali_torchvision
from augment.backends.kornia import kornia, window_reads
from augment.backends.torchvision import torchvision
from augment.backends.triton_augment import triton_augment
from augment.distributions import Chance, Corners, Position, Shift, Uniform, Window
from augment.fused import kinds
from augment.op import ChanceOp, Drawn, Op, Range, box_reads, op

BILINEAR = InterpolationMode.BILINEAR
NEAREST = InterpolationMode.NEAREST
ODD_MARGIN = "half of an odd margin is rounded down, not to an even number"
REPEATED = "antialias repeats the border pixels, torchvision weighs those inside alone"
BESIDE = "the filter reads pixels beside the window"
BORDERS = {"constant": 0, "reflect": 4}
"""cv2.BORDER_CONSTANT and cv2.BORDER_REFLECT_101, without importing it."""
PIL_BORDER = "the border is not blended with the black outside"


@op
class HorizontalFlip(ChanceOp):
    """Mirror left and right with probability ``p``."""

    cells = (
        torchvision(lambda op: v2.RandomHorizontalFlip(op.p))
        | kornia(lambda op: K.RandomHorizontalFlip(p=op.p))
        | triton_augment(
            "TritonRandomHorizontalFlip", lambda op: {"p": op.p}, (2, 2), renamed={"p": "horizontal_flip_p"},
            applied=lambda args: args.get("flip_mask", args.get("flip_horizontal")),
        )
        | dali(lambda ndd, op, images, drawn: ndd.flip(images, horizontal=drawn["applied"]))
        | dali_torchvision("RandomHorizontalFlip", lambda op, white: {"p": op.p}, applied="0")
        | albumentations(lambda A, op, white: [A.HorizontalFlip(p=op.p)])
    )  # fmt: skip
    fused = kinds.flip(axis=1)
    oracle = lambda op, image, drawn: F.horizontal_flip(image)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternatingFlip(HorizontalFlip):
    """``HorizontalFlip`` for each batch alone. In training, an image that is mirrored in one epoch is not in the next one.

    The feed of small images knows images and epochs: it mirrors them before the recipe, which it builds without this op. So
    the trainer's flip is no part of a fused pass, and has a draw for each image on every backend. Photographs and cases
    outside of training get the plain random flip.
    """


@op
class VerticalFlip(ChanceOp):
    """Mirror top and bottom with probability ``p``."""

    cells = (
        torchvision(lambda op: v2.RandomVerticalFlip(op.p))
        | kornia(lambda op: K.RandomVerticalFlip(p=op.p))
        | dali(lambda ndd, op, images, drawn: ndd.flip(images, horizontal=0, vertical=drawn["applied"]))
        | dali_torchvision("RandomVerticalFlip", lambda op, white: {"p": op.p}, applied="0")
        | albumentations(lambda A, op, white: [A.VerticalFlip(p=op.p)])
    )
    fused = kinds.flip(axis=0)
    oracle = lambda op, image, drawn: F.vertical_flip(image)


def _draw_position(op: Any, draws: Any) -> Drawn:
    height, width = (side + 2 * op.padding - op.size + 1 for side in draws.shape)
    return {"top": draws.integer(height), "left": draws.integer(width)}


def _crop(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    start = ndd.stack(drawn["top"], drawn["left"]) - op.padding
    policy = {"constant": "pad", "reflect": "reflect_101"}[op.padding_mode]
    return ndd.slice(images, start=start, shape=[op.size] * 2, axes=[0, 1], out_of_bounds_policy=policy, fill_values=0)


@op
class RandomCrop(Op):
    """Pad every side with ``padding`` black pixels, then cut a ``size`` x ``size`` window, every position equally likely."""

    padding_mode: ClassVar[Literal["constant", "reflect"]] = "constant"
    """Name of the border in torchvision and Kornia."""

    size: int = 32
    padding: int = 4

    limits = {"size": (1, math.inf)}
    setting = lambda size: {"size": size, "padding": size // 8}
    draws = (Position(),)
    pins = {"padding": 0}
    cells = (
        torchvision(lambda op: v2.RandomCrop(op.size, padding=op.padding, padding_mode=op.padding_mode))
        | kornia(
            lambda op: K.RandomCrop((op.size, op.size), padding=op.padding, padding_mode=op.padding_mode),
            **window_reads(lambda params: params["src"]),
        )
        | triton_augment(
            "TritonRandomCrop", lambda op: {"size": op.size}, (1, 1), renamed={"size": "crop_size"},
            refuses=lambda op: "it crops without padding, so padding must be 0" if op.padding else None,
        )
        | dali(_crop, _draw_position)
        | dali_torchvision(
            "RandomCrop", lambda op, white: {"size": op.size, "padding": op.padding or None, "padding_mode": op.padding_mode},
            top=lambda drawn: np.floor(drawn["0"]), left=lambda drawn: np.floor(drawn["1"]),
        )
        | albumentations(
            lambda A, op, white: [A.Pad(op.padding, border_mode=BORDERS[op.padding_mode]), A.RandomCrop(op.size, op.size)],
            top=("crop_coords", 1), left=("crop_coords", 0),
        )
    )  # fmt: skip
    fused = kinds.crop()
    oracle = lambda op, image, drawn: F.crop(
        F.pad(image, [op.padding] * 4, padding_mode=op.padding_mode), int(drawn["top"]), int(drawn["left"]), op.size, op.size
    )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        if min(height, width) + 2 * self.padding < self.size:
            raise ValueError(f"{self} needs larger images than {height}x{width}: raise padding")
        return self.size, self.size


@op
class ReflectCrop(RandomCrop):
    """``RandomCrop`` of an image whose ``padding`` pixels on every side mirror the image; its edge is not repeated."""

    padding_mode = "reflect"
    setting = lambda size: {"size": size, "padding": max(size // 16, 1)}
    fused = kinds.crop(is_reflected=True)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        if min(height, width) <= self.padding:
            raise ValueError(f"{self} mirrors more pixels than {height}x{width} images have: take less padding")
        return RandomCrop.output_size(self, height, width)


def window(drawn: Drawn) -> tuple[int, int, int, int]:
    """Return top, left, height and width."""
    return int(drawn["top"]), int(drawn["left"]), int(drawn["height"]), int(drawn["width"])


def resize_corners_aligned(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image [3, H, W] as with align_corners=True, without antialias."""
    return torch.nn.functional.interpolate(image[None], (height, width), mode="bilinear", align_corners=True)[0]


def _filter_weights(length: int, start: float, extent: float, size: int) -> Tensor:
    """Return weights [size, length] of a triangle filter that repeats the outermost pixels outside of the image."""
    scale = extent / size
    reach = max(scale, 1.0)
    centres = start + (torch.arange(size) + 0.5) * scale - 0.5
    places = torch.arange(-math.ceil(reach), length + math.ceil(reach))
    weights = (1 - (places - centres[:, None]).abs() / reach).clamp(min=0)
    return torch.zeros(size, length).index_add_(1, places.clamp(0, length - 1), weights / weights.sum(1, keepdim=True))


def resize_repeated(image: Tensor, size: tuple[int, int], window: tuple[int, int, int, int] | None = None) -> Tensor:
    """Resize an image or a window of it (top, left, height, width) as DALI does, which reads what lies beside the window."""
    top, left, height, width = window or (0, 0, *image.shape[-2:])
    rows = _filter_weights(image.shape[-2], top, height, size[0])
    return rows @ image @ _filter_weights(image.shape[-1], left, width, size[1]).T


def _resized_crop(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    # Not random_resized_crop, whose filter reads pixels beside the window.
    window = ndd.slice(images, drawn["anchor"], drawn["shape"], axes=[0, 1], normalized_anchor=False, normalized_shape=False)
    return ndd.resize(window, size=[op.size] * 2, interp_type=LINEAR, antialias=op.antialias)


ALBUMENTATIONS_WINDOW = box_reads(lambda params: params["crop_coords"])
DALI_WINDOW = {"top": ("anchor", 0), "left": ("anchor", 1), "height": ("shape", 0), "width": ("shape", 1)}


@op
class RandomResizedCrop(Op):
    """Cut a window of random area and aspect ratio and resize it to ``size`` x ``size``.

    The window's area is uniform in ``scale`` times the image's area, its width over height log-uniform in ``ratio``; its
    position is uniform. After ten windows that do not fit: the largest centred window whose ratio is allowed. Source:
    Szegedy et al. 2015, as in torchvision. ``antialias`` low-pass filters where the window is larger than ``size``.
    """

    size: int = 32
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    antialias: bool = True

    limits = {"size": (1, math.inf)}
    setting = lambda size: {"size": size}
    draws = (Window(),)
    pins = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    cells = (
        torchvision(lambda op: v2.RandomResizedCrop(op.size, scale=op.scale, ratio=op.ratio, antialias=op.antialias))
        | kornia(  # torchvision samples at pixel centres, which is Kornia's align_corners=False
            lambda op: K.RandomResizedCrop((op.size, op.size), scale=op.scale, ratio=op.ratio, align_corners=False),
            **window_reads(lambda params: params["src"]),
        )
        | dali(_resized_crop, lambda op, draws: draws.window(op.scale, op.ratio), **DALI_WINDOW)
        | dali_torchvision(
            "RandomResizedCrop",
            lambda op, white: {"size": op.size, "scale": op.scale, "ratio": op.ratio, "antialias": op.antialias},
            **WINDOW,
        )
        | albumentations(
            lambda A, op, white: [A.RandomResizedCrop((op.size, op.size), op.scale, op.ratio, interpolation=1)],
            **ALBUMENTATIONS_WINDOW,
        )
    )
    fused = kinds.WINDOW
    differs = {
        "kornia": "no antialias; the fallback window is not centred",
        "albumentations": "no antialias",
        "dali": REPEATED,
        "dali_torchvision": BESIDE,
    }
    alternatives = {
        BESIDE: lambda op, image, drawn: resize_repeated(image, (op.size, op.size), window(drawn)),
        "no antialias": lambda op, image, drawn: F.resized_crop(image, *window(drawn), [op.size] * 2, BILINEAR, False),
        REPEATED: lambda op, image, drawn: resize_repeated(F.crop(image, *window(drawn)), (op.size, op.size)),
        "align_corners": lambda op, image, drawn: resize_corners_aligned(F.crop(image, *window(drawn)), op.size, op.size),
    }
    oracle = lambda op, image, drawn: F.resized_crop(image, *window(drawn), [op.size] * 2, BILINEAR, op.antialias)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size, self.size


@op
class Rotate(Op):
    """Rotate about the image's centre by an angle in ``degrees``; the frame keeps its size."""

    degrees: Range = (-15.0, 15.0)

    draws = (Uniform("angle", "degrees"),)
    pins = {"degrees": (30.0, 30.0)}
    cells = (
        torchvision(lambda op: v2.RandomRotation(op.degrees, interpolation=BILINEAR, fill=None))
        | kornia(lambda op: K.RandomRotation(op.degrees, p=1.0), angle="degrees")
        | triton_augment(  # positive degrees turn it clockwise, ours the other way round
            "TritonRandomRotation",
            lambda op: {"degrees": (-op.degrees[1], -op.degrees[0]), "interpolation": "bilinear"},
            (0, 0), angle=lambda args: -args["angle"],
        )
        | dali(
            lambda ndd, op, images, drawn: ndd.rotate(
                images, angle=drawn["angle"], interp_type=LINEAR, keep_size=True, fill_value=0.0
            )
        )
        | albumentations(
            lambda A, op, white: [A.Rotate(op.degrees, interpolation=1, border_mode=0, fill=0, p=1.0)],
            angle=lambda params: math.degrees(math.atan2(params["matrix"][0, 1], params["matrix"][0, 0])),
        )
    )  # fmt: skip
    fused = kinds.ROTATE
    warps = True
    differs = {"pil": PIL_BORDER}
    alternatives = {
        "other sign": lambda op, image, drawn: F.rotate(image, -float(drawn["angle"]), BILINEAR),
        "nearest": lambda op, image, drawn: F.rotate(image, float(drawn["angle"]), NEAREST),
        "rotation centre": lambda op, image, drawn: F.rotate(
            image, float(drawn["angle"]), BILINEAR, center=[s / 2 + 0.5 for s in reversed(image.shape[-2:])]
        ),
    }
    oracle = lambda op, image, drawn: F.rotate(image, float(drawn["angle"]), BILINEAR)


def _affine(image: Tensor, drawn: Drawn, sign: float = 1.0, interpolation: InterpolationMode = BILINEAR) -> Tensor:
    shift = [float(drawn["translate_x"]), float(drawn["translate_y"])]
    shear = [float(drawn["shear"]), 0.0]
    return F.affine(image, sign * float(drawn["angle"]), shift, float(drawn["scale"]), shear, interpolation)


def _draw_affine(op: Any, draws: Any) -> Drawn:
    sides = zip(("translate_x", "translate_y"), op.translate, reversed(draws.shape), strict=True)
    shifts = {name: draws.uniform(-share * side, share * side) for name, share, side in sides}
    return shifts | draw_declared(op, draws)


def _warp(ndd: Any, op: Any, images: Any, drawn: Drawn) -> Any:
    """Warp by the inverse of scale, shear along x, rotation and shift, about the centre."""
    angle, shear = (np.radians(numbers(drawn[name])) for name in ("angle", "shear"))
    scale, x, y = (numbers(drawn[name]) for name in ("scale", "translate_x", "translate_y"))
    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(shear)
    matrix = np.stack([cos - sin * tan, cos * tan + sin, -sin, cos], axis=-1).reshape(-1, 2, 2) / scale[:, None, None]
    shift = -(matrix @ np.stack([x, y], axis=-1)[:, :, None])
    return warp(images, np.concatenate([matrix, shift], axis=2))


@op
class Affine(Op):
    """Rotate, shear along x, scale and shift about the image's centre, in torchvision's matrix convention.

    ``degrees`` here turns as torchvision's ``affine`` does: positive is *clockwise* (its ``rotate`` is the other way
    round). ``translate`` is the largest shift as a share of width and height; the shift is uniform between minus and plus
    that share, rounded to whole pixels. ``shear`` is an angle in degrees.
    """

    degrees: Range = (-15.0, 15.0)
    translate: tuple[float, float] = (0.1, 0.1)
    scale: Range = (0.9, 1.1)
    shear: Range = (-10.0, 10.0)

    draws = (
        Uniform("angle", "degrees"),
        Shift("translate_x", "translate", axis=0),
        Shift("translate_y", "translate", axis=1),
        Uniform("scale", "scale", least=1e-6),
        Uniform("shear", "shear", least=-89.0, most=89.0),
    )
    pins = {"degrees": (20.0, 20.0), "translate": (0.0, 0.0), "scale": (1.2, 1.2), "shear": (8.0, 8.0)}
    cells = (
        torchvision(
            lambda op: v2.RandomAffine(**asdict(op), interpolation=BILINEAR, fill=None),
            translate_x=("translate", 0), translate_y=("translate", 1), shear=("shear", 0),
        )
        | kornia(
            lambda op: K.RandomAffine(**asdict(op), align_corners=True, p=1.0),
            translate_x=("translations", 0), translate_y=("translations", 1), scale=("scale", 0), shear="shear_x",
        )
        | triton_augment(
            "TritonRandomAffine", lambda op: {**asdict(op), "interpolation": "bilinear"}, (0, 0),
            translate_x=("translate", 0), translate_y=("translate", 1), shear=("shear", 0),
        )
        | dali(_warp, _draw_affine)
    )  # fmt: skip
    fused = kinds.AFFINE
    warps = True
    differs = {
        "kornia": "shifts are not rounded to whole pixels",
        "triton_augment": "shifts are not rounded to whole pixels",
        "dali": "shifts are not rounded to whole pixels",
        "pil": PIL_BORDER,
    }
    alternatives = {
        "other sign": lambda op, image, drawn: _affine(image, drawn, sign=-1.0),
        "nearest": lambda op, image, drawn: _affine(image, drawn, interpolation=NEAREST),
    }
    oracle = lambda op, image, drawn: _affine(image, drawn)


class _Perspective(K.RandomPerspective):
    """Kornia maps pixel centres, counted from 0; torchvision their corners, half a pixel before."""

    def compute_transformation(self, input: Any, params: dict[str, Any], flags: dict[str, Any]) -> Any:
        corners = {name: params[name] - 0.5 for name in ("start_points", "end_points")}
        return super().compute_transformation(input, params | corners, flags)


def _outer_corners(height: int, width: int) -> Tensor:
    return torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=torch.float64)


def _corners_from_coefficients(params: Drawn) -> Tensor:
    """Return where torchvision moves the corners: its coefficients map where a pixel goes to where it comes from."""
    matrix = torch.tensor([*params["coefficients"], 1.0], dtype=torch.float64).reshape(3, 3).inverse()
    ends = torch.nn.functional.pad(_outer_corners(*params["shape"]), [0, 1], value=1.0) @ matrix.T
    return ends[:, :2] / ends[:, 2:]


def _warp_to(image: Tensor, corners: Any, offset: float) -> Tensor:
    """Warp an image's corners to ``corners`` [4, 2] by a homography of coordinates that start at ``offset``."""
    start = _outer_corners(*image.shape[-2:]) + offset
    end = torch.as_tensor(corners, dtype=torch.float64) + offset
    return F.perspective(image, start.tolist(), end.tolist(), BILINEAR)


@op
class Perspective(Op):
    """With probability ``p`` move each corner inwards by up to ``distortion`` times half the side, then warp to it."""

    distortion: float = 0.5
    p: float = 0.5

    draws = (Corners(), Chance())
    cells = torchvision(
        lambda op: v2.RandomPerspective(op.distortion, p=op.p, fill=None), corners=_corners_from_coefficients
    ) | kornia(lambda op: _Perspective(op.distortion, p=op.p, align_corners=True), corners="end_points")
    fused = kinds.PERSPECTIVE
    warps = True
    differs = {"kornia": "corner shifts are continuous, torchvision's are whole pixels", "pil": PIL_BORDER}
    alternatives = {  # torchvision's homography takes pixel corners, in coordinates where a pixel's centre is at + 0.5
        "the homography acts on pixel centres, not on pixel corners (half a pixel)": lambda op, image, drawn: _warp_to(
            image, drawn["corners"], 0.5
        )
    }
    oracle = lambda op, image, drawn: _warp_to(image, drawn["corners"], 0.0)


def _blur_then_resize(op: Any, image: Tensor, drawn: Drawn) -> Tensor:
    # Kornia's antialias: blur by sigma = (factor - 1) / 2 with a kernel of 4 sigma made odd, then sample.
    shorter = min(image.shape[-2:])
    sigma = max((shorter / op.size - 1) / 2, 0.001)
    kernel = int(max(4 * sigma, 3)) // 2 * 2 + 1
    blurred = F.gaussian_blur(image, [kernel] * 2, [sigma] * 2) if shorter > op.size else image
    return F.resize(blurred, [op.size], BILINEAR, antialias=False)


@op
class Resize(Op):
    """Resize so that the shorter side is ``size`` pixels, the aspect ratio kept."""

    size: int = 32
    antialias: bool = True

    limits = {"size": (1, math.inf)}
    setting = lambda size: {"size": size // 2}
    cells = (
        torchvision(lambda op: v2.Resize(op.size, antialias=op.antialias))
        | kornia(lambda op: K.Resize(op.size, align_corners=False, antialias=op.antialias))
        | dali(
            lambda ndd, op, images, drawn: ndd.resize(
                images, size=op.output_size(*images.shape[0][:2]), interp_type=LINEAR, antialias=op.antialias
            )
        )
        | dali_torchvision("Resize", lambda op, white: {"size": op.size, "antialias": op.antialias})
        | albumentations(lambda A, op, white: [A.SmallestMaxSize(op.size, interpolation=1)])
    )
    fused = kinds.RESIZE
    differs = {
        "kornia": "antialias blurs with a Gaussian, torchvision integrates a triangle",
        "albumentations": "no antialias",
        "dali": REPEATED,
        "dali_torchvision": REPEATED,
    }
    alternatives = {
        "no antialias": lambda op, image, drawn: F.resize(image, [op.size], BILINEAR, antialias=False),
        REPEATED: lambda op, image, drawn: resize_repeated(image, op.output_size(*image.shape[-2:])),
        "antialias blurs with a Gaussian": _blur_then_resize,
    }
    oracle = lambda op, image, drawn: F.resize(image, [op.size], BILINEAR, antialias=op.antialias)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        shorter, longer = sorted((height, width))
        scaled = int(self.size * longer / shorter)
        return (self.size, scaled) if height <= width else (scaled, self.size)


@op
class CenterCrop(Op):
    """Cut the central ``size`` x ``size`` window."""

    size: int = 32

    limits = {"size": (1, math.inf)}
    setting = lambda size: {"size": size * 7 // 8}
    cells = (
        torchvision(lambda op: v2.CenterCrop(op.size))
        | kornia(lambda op: K.CenterCrop(op.size))
        | triton_augment("TritonCenterCrop", lambda op: {"size": op.size})
        | dali(lambda ndd, op, images, drawn: ndd.crop(images, crop=[op.size] * 2, out_of_bounds_policy="pad"))
        | dali_torchvision("CenterCrop", lambda op, white: {"size": op.size})
        | albumentations(lambda A, op, white: [A.CenterCrop(op.size, op.size, pad_if_needed=True)])
    )
    fused = kinds.CENTER_CROP
    differs = dict.fromkeys(("kornia", "triton_augment"), ODD_MARGIN)
    alternatives = {
        ODD_MARGIN: lambda op, image, drawn: F.crop(
            image, *((side - op.size) // 2 for side in image.shape[-2:]), op.size, op.size
        )
    }
    oracle = lambda op, image, drawn: F.center_crop(image, [op.size, op.size])

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size, self.size
