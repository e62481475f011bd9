"""Geometry by tensor operations: crops as index maps, warps as one bilinear sampling, resizing as weights of neighbours.

Pure functions of batches, with parameters for each image. Matrices map a pixel of the result to its source, in pixels about the
image's centre (x to the right, y down), as torchvision's ``affine`` does inside.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad

# ---- whole pixels -----------------------------------------------------------------------------------------------------


def crop(images: Tensor, top: Tensor, left: Tensor, size: int, padding: int, *, is_reflected: bool = False) -> Tensor:
    """Cut a square at ``top``, ``left`` int64 [B] of images padded with black, or mirrored, pixels: [B, 3, size, size]."""
    batch, channels, height, width = images.shape
    pixels = torch.arange(size, device=images.device) - padding
    y, x = top[:, None] + pixels, left[:, None] + pixels
    if is_reflected:
        y, x = reflect(y, height), reflect(x, width)
    index = (y * width)[:, :, None] + x[:, None, :]
    index = index.clamp_(0, height * width - 1).view(batch, 1, size * size).expand(-1, channels, -1)
    cut = images.reshape(batch, channels, height * width).gather(2, index).view(batch, channels, size, size)
    if not padding or is_reflected:
        return cut
    is_inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
    return cut.masked_fill(~is_inside, 0)


def reflect(places: Tensor, side: int) -> Tensor:
    """Mirror places beyond the first and the last pixel of an axis, which are not repeated."""
    return side - 1 - (places.abs() - (side - 1)).abs()


def center_offset(side: int, size: int) -> int:
    """Return where a central crop of ``size`` pixels starts on an axis, by torchvision's rounding; negative: padding."""
    return round((side - size) / 2) if side >= size else -((size - side) // 2)


def center_crop(images: Tensor, size: int) -> Tensor:
    """Cut the central ``size`` x ``size`` pixels, black from outside."""
    top, left = (center_offset(side, size) for side in images.shape[2:])
    return pad(images, (-left, left + size - images.shape[3], -top, top + size - images.shape[2]))


# ---- warps ------------------------------------------------------------------------------------------------------------


def centred_pixels(side: int, device: torch.device) -> Tensor:
    """Return positions of the pixels of an axis about its centre, float32 [side]."""
    return torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample float [B, 3, H, W] images by matrices [B, 6] (row by row); pixels from outside are black."""
    height, width = images.shape[-2:]
    # grid_sample: half a side is 1
    half = torch.arange(2, device=images.device, dtype=torch.float32) * (height - width) / 2 + width / 2
    x_weight, y_weight, shift = (matrices.to(torch.float32).view(-1, 2, 3) / half[:, None]).unbind(2)
    along = x_weight[:, :, None] * centred_pixels(width, images.device)
    down = y_weight[:, :, None] * centred_pixels(height, images.device) + shift[:, :, None]
    grid = (along[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def rotation(angle: Tensor) -> Tensor:
    """Return matrices [B, 6] that turn counter-clockwise by ``angle`` degrees [B]."""
    cos, sin, zero = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle)), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1)


def affine(angle: Tensor, shift_x: Tensor, shift_y: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return matrices [B, 6] of torchvision's ``affine``: degrees (clockwise), pixels, factor, degrees along x; all [B]."""
    cos, sin, tan = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle)), torch.tan(torch.deg2rad(shear))
    a, b = (cos - sin * tan) / scale, (cos * tan + sin) / scale
    c, d = -sin / scale, cos / scale
    return torch.stack([a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)], 1)


def perspective(images: Tensor, corners: Tensor) -> Tensor:
    """Move the image's corner pixels to ``corners`` [B, 4, 2] ((x, y), clockwise from top left): float [B, 3, H, W].

    On the horizon, which only a ``distortion`` near 1 brings into the image, pixels are black; torchvision's are NaN.
    """
    height, width = images.shape[-2:]
    to_source = _quad_to_rectangle(corners, height, width).to(torch.float32)
    # torchvision evaluates the map, which takes corner pixel 0 to 0, half a pixel further: at the pixels' centres.
    x = (torch.arange(width, device=images.device, dtype=torch.float32) + 0.5)[None, None, :]
    y = (torch.arange(height, device=images.device, dtype=torch.float32) + 0.5)[None, :, None]
    rows = to_source[:, :, None, None].unbind(1)
    below = rows[6] * x + rows[7] * y + rows[8]
    grid = images.new_empty((len(images), height, width, 2), dtype=torch.float32)
    grid[..., 0] = (rows[0] * x + rows[1] * y + rows[2]) / below / (width / 2) - 1
    grid[..., 1] = (rows[3] * x + rows[4] * y + rows[5]) / below / (height / 2) - 1
    # Four half sides from the centre all is black, were there but one pixel; neighbours at infinity would have no weight.
    grid = grid.nan_to_num_(nan=-4.0).clamp_(-4.0, 4.0).to(images.dtype)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _quad_to_rectangle(corners: Tensor, height: int, width: int) -> Tensor:
    """Return the projective map [B, 9] that takes the corners to those of the image; its last entry is 1.

    The map from the unit square to a quadrilateral has a closed form (Heckbert 1989); this is its inverse, scaled. Corners
    on one line, as those of an image of one pixel's width, have no such map: nothing moves.
    """
    # Determinants of whole numbers up to side**3: float32 would lose them. MPS has nothing wider.
    exact = torch.float32 if corners.device.type == "mps" else torch.float64
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (corner.unbind(1) for corner in corners.to(exact).unbind(1))
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    det = dx1 * dy2 - dx2 * dy1
    g, h = (sum_x * dy2 - dx2 * sum_y) / det, (dx1 * sum_y - sum_x * dy1) / det
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    u = torch.stack([e - f * h, c * h - b, b * f - c * e], 1) * (width - 1)
    v = torch.stack([f * g - d, a - c * g, c * d - a * f], 1) * (height - 1)
    w = torch.stack([d * h - e * g, b * g - a * h, a * e - b * d], 1)
    projection = torch.cat([u, v, w], 1) / w[:, 2:]
    identity = torch.eye(3, device=corners.device, dtype=exact).view(1, 9)
    return torch.where(projection.isfinite().all(1, keepdim=True), projection, identity)


# ---- resizing ---------------------------------------------------------------------------------------------------------


def resize(images: Tensor, height: int, width: int, *, antialias: bool) -> Tensor:
    """Resize all images to one size: float [B, 3, H, W] -> [B, 3, height, width]."""
    return interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=antialias)


def neighbours(length: Tensor, size: int, side: int, *, antialias: bool) -> tuple[Tensor, Tensor]:
    """Return PyTorch's bilinear resize of ``length`` pixels [B] (at most ``side``) to ``size`` as weighted source pixels.

    A triangle, ``antialias`` widened where the window shrinks, cut at the window's border and weights made to sum to 1.

    Returns: places int64 and weights float32, both [K, B, size], for a number K of neighbours that suffices for ``side``.
    """
    length = length.to(torch.float32)[:, None]
    step = length / size
    reach = step.clamp(min=1.0) if antialias else torch.ones_like(step)
    centre = (torch.arange(size, device=length.device, dtype=torch.float32) + 0.5) * step
    # The widest window is the whole side, whatever was drawn: the number of neighbours must not depend on values.
    count = math.ceil(2 * max(side / size, 1.0)) if antialias else 2
    places = (centre - reach + 0.5).floor() + torch.arange(count, device=length.device)[:, None, None]
    weights = (1 - ((places + 0.5 - centre) / reach).abs()).clamp_(min=0.0) * ((places >= 0) & (places < length))
    places = places.clamp_(min=0.0).minimum(length - 1)
    return places.to(torch.int64), weights / weights.sum(0)


def resized_crop(images: Tensor, window: Mapping[str, Tensor], size: int, *, antialias: bool) -> Tensor:
    """Cut a window from each image and resize it to ``size`` x ``size``.

    Args:
        images: uint8 or float32 [B, 3, H, W].
        window: ``top``, ``left``, ``height``, ``width``: whole numbers [B].
        size: side of the result.
        antialias: low-pass filter where the window is larger than the result.

    Returns: float32 [B, 3, size, size] in [0, 1].
    """
    white = 1 if images.is_floating_point() else 255
    images = images.to(torch.float32)
    for axis, start, length in ((2, "top", "height"), (3, "left", "width")):
        places, weights = neighbours(window[length], size, images.shape[axis], antialias=antialias)
        places = places + window[start].to(torch.int64)[:, None]
        images = _weigh(images, places, weights / white if axis == 3 else weights, axis)
    return images


def _weigh(images: Tensor, places: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Return weighted sums of neighbours along an axis (2 or 3) of float images [B, 3, H, W]."""
    shape = list(images.shape)
    shape[axis] = places.shape[2]
    view = (-1, 1, shape[2], 1) if axis == 2 else (-1, 1, 1, shape[3])
    terms = [
        images.gather(axis, place.view(view).expand(shape)) * weight.view(view)
        for place, weight in zip(places.unbind(0), weights.unbind(0), strict=True)
    ]
    return sum(terms[1:], start=terms[0])
