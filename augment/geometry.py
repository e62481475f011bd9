"""Where pixels go: flips and crops as exact index maps, warps as one bilinear sampling, resizing as weights of neighbours.

Pure functions on batches, parameters given per image. Matrices map a pixel of the result to its source, in pixels about the
image's centre (x to the right, y down), as torchvision's ``affine`` does inside.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from augment import ops, threads
from augment.ops import Op

LARGE = 64 * 64
"""Pixels of a result from which a CPU resizes image by image: the calls for each cost less than cache misses."""


def output_size(op: Op, height: int, width: int) -> tuple[int, int]:
    """Height and width of an op's result. Raises ValueError where the image is too small for the op."""
    if isinstance(op, ops.RandomCrop) and min(height, width) + 2 * op.padding < op.size:
        raise ValueError(
            f"RandomCrop(size={op.size}, padding={op.padding}) needs larger images than {height}x{width}: raise padding"
        )
    if isinstance(op, ops.GaussianBlur) and op.kernel_size // 2 >= min(height, width):
        raise ValueError(f"GaussianBlur(kernel_size={op.kernel_size}) reflects more than a {height}x{width} image: lower it")
    if isinstance(op, ops.RandomCrop | ops.RandomResizedCrop | ops.CenterCrop):
        return op.size, op.size
    if isinstance(op, ops.Resize):
        shorter, longer = sorted((height, width))
        other = int(op.size * longer / shorter)
        return (op.size, other) if height <= width else (other, op.size)
    return height, width


# ---- flips and crops: exact -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Axis:
    """What flips and at most one crop leave of an axis of ``side`` pixels, an answer for each image of a batch.

    ``size`` pixels from ``start`` (int64 [B]; None is 0) on, of the axis with ``padding`` black ones at either end; read
    backwards where ``turned`` (bool [B]; None is nowhere).
    """

    side: int
    size: int
    padding: int = 0
    start: Tensor | None = None
    turned: Tensor | None = None

    def flip(self, applied: Tensor) -> None:
        """Mirror what is there, for the images for which ``applied`` bool [B] is True."""
        self.turned = applied if self.turned is None else self.turned ^ applied

    def crop(self, start: Tensor, size: int, padding: int) -> None:
        """Keep ``size`` pixels from ``start`` [B] on, after padding. Only once: a second crop would see black there."""
        assert self.start is None
        if self.turned is not None:
            start = torch.where(self.turned, self.side + 2 * padding - size - start, start)
        self.start, self.size, self.padding = start, size, padding

    def center_crop(self, batch: int, size: int, device: torch.device) -> None:
        """Keep the central ``size`` pixels, by torchvision's rounding."""
        missing = max(size - self.side, 0)
        padding = (missing + 1) // 2
        # Where an odd number is missing, torchvision pads one less in front: that much of our padding is left out.
        start = padding - missing // 2 if missing else round((self.side - size) / 2)
        self.crop(torch.full((batch,), start, device=device), size, padding)

    def places(self, batch: int, device: torch.device) -> Tensor:
        """Where each pixel of the result lies on the padded axis, int64 [B, size]."""
        steps = torch.arange(self.size, device=device).expand(batch, -1)
        if self.turned is not None:
            steps = torch.where(self.turned[:, None], self.size - 1 - steps, steps)
        return steps if self.start is None else steps + self.start[:, None]


def take_window(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The pixels that the axes leave: images [B, 3, H, W] of any dtype -> [B, 3, rows.size, columns.size]."""
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        return _copy_rows(images, rows, columns)
    batch, channels, height, width = images.shape
    y = rows.places(batch, images.device) - rows.padding
    x = columns.places(batch, images.device) - columns.padding
    index = (y * width)[:, :, None] + x[:, None, :]
    index = index.clamp_(0, height * width - 1).view(batch, 1, -1).expand(-1, channels, -1)
    taken = images.reshape(batch, channels, -1).gather(2, index).view(batch, channels, rows.size, columns.size)
    if rows.padding or columns.padding:
        seen = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
        taken = taken.masked_fill(~seen, 0)
    return taken


def _copy_rows(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """``take_window`` on a CPU, which copies a stretch of a row several times faster than it gathers its pixels."""
    batch, channels = images.shape[:2]
    if rows.start is None and rows.turned is None and columns.start is None and columns.turned is not None:
        # Mirrored or not and nothing else, the commonest case of all: whole images are copied.
        both = torch.cat([images, images.flip(3)])
        return both.index_select(0, torch.arange(batch, device=images.device) + columns.turned * batch)
    if rows.padding or columns.padding:
        images = pad(images, (columns.padding, columns.padding, rows.padding, rows.padding))
    height, width = images.shape[2:]
    begin = torch.zeros(batch, dtype=torch.int64, device=images.device) if columns.start is None else columns.start
    if columns.turned is not None:  # a mirrored copy behind the images: a stretch read backwards is one read forwards there
        begin = torch.where(columns.turned, images.numel() + width - columns.size - begin, begin)
        images = torch.stack([images, images.flip(3)])
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    row = planes * height + rows.places(batch, images.device)[:, None, :]
    stretches = images.reshape(-1).as_strided((images.numel() - columns.size + 1, columns.size), (1, 1))
    taken = stretches.index_select(0, (row * width + begin[:, None, None]).view(-1))
    return taken.view(batch, channels, rows.size, columns.size)


# ---- warps ------------------------------------------------------------------------------------------------------------


def centred_pixels(side: int, device: torch.device) -> Tensor:
    """Positions of the pixels of an axis about its centre, float32 [side]."""
    return torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Affine sampling: float [B, 3, H, W], matrices [B, 6] (row by row) -> the same shape; black comes from outside."""
    height, width = images.shape[-2:]
    # grid_sample: half a side is 1
    half = torch.arange(2, device=images.device, dtype=torch.float32) * (height - width) / 2 + width / 2
    x_weight, y_weight, shift = (matrices.to(torch.float32).view(-1, 2, 3) / half[:, None]).unbind(2)
    along = x_weight[:, :, None] * centred_pixels(width, images.device)
    down = y_weight[:, :, None] * centred_pixels(height, images.device) + shift[:, :, None]
    grid = (along[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def rotation(angle: Tensor) -> Tensor:
    """Matrices [B, 6] that turn counter-clockwise by ``angle`` degrees [B]."""
    cos, sin, zero = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle)), torch.zeros_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero], 1)


def affine(angle: Tensor, shift_x: Tensor, shift_y: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Matrices [B, 6] of torchvision's ``affine``: degrees (clockwise), pixels, factor, degrees along x; all [B]."""
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
    """The projective map [B, 9] that takes the corners to those of the image; its last entry is 1.

    The map from the unit square to a quadrilateral has a closed form (Heckbert 1989); this is its inverse, scaled. Corners
    on one line, as those of an image of one pixel's width, have no such map: nothing moves.
    """
    # Determinants of whole numbers up to side**3: float32 would lose them. MPS has nothing wider.
    exact = torch.float32 if corners.device.type == "mps" else torch.float64
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (each.unbind(1) for each in corners.to(exact).unbind(1))
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    det = dx1 * dy2 - dx2 * dy1
    g, h = (sum_x * dy2 - dx2 * sum_y) / det, (dx1 * sum_y - sum_x * dy1) / det
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    u = torch.stack([e - f * h, c * h - b, b * f - c * e], 1) * (width - 1)
    v = torch.stack([f * g - d, a - c * g, c * d - a * f], 1) * (height - 1)
    w = torch.stack([d * h - e * g, b * g - a * h, a * e - b * d], 1)
    found = torch.cat([u, v, w], 1) / w[:, 2:]
    nothing_moves = torch.eye(3, device=corners.device, dtype=exact).view(1, 9)
    return torch.where(found.isfinite().all(1, keepdim=True), found, nothing_moves)


# ---- resizing ---------------------------------------------------------------------------------------------------------


def resize(images: Tensor, height: int, width: int, *, antialias: bool) -> Tensor:
    """All images to one size: float [B, 3, H, W] -> [B, 3, height, width]."""
    return interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=antialias)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each place of a result's axis the source pixels that make it: ``places`` int64 and ``weights`` [K, B, size]."""

    places: Tensor
    weights: Tensor

    def mirrored(self, mirror: Tensor | None) -> "Neighbours":
        """The axis reversed where ``mirror`` bool [B] says so."""
        if mirror is None:
            return self
        places, weights = (torch.where(mirror[:, None], each.flip(2), each) for each in (self.places, self.weights))
        return Neighbours(places, weights)


def neighbours(length: Tensor, size: int, side: int, *, antialias: bool) -> Neighbours:
    """PyTorch's bilinear resize of ``length`` pixels [B] (at most ``side``) to ``size``: a fixed number of weighted pixels.

    A triangle, ``antialias`` widened where the window shrinks, cut at the window's border and weights made to sum to 1.
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
    return Neighbours(places.to(torch.int64), weights / weights.sum(0))


def resized_crop(
    images: Tensor, window: Mapping[str, Tensor], size: int, *, antialias: bool,
    mirror_x: Tensor | None = None, mirror_y: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Cut a window from each image, resize it to ``size`` x ``size``, then mirror it where asked.

    Args:
        images: uint8 or float32 [B, 3, H, W].
        window: ``top``, ``left``, ``height``, ``width``: whole numbers [B].
        mirror_x: bool [B], left and right; ``mirror_y`` top and bottom; None mirrors none.

    Returns: float32 [B, 3, size, size] in [0, 1]; on a CPU large uint8 results stay uint8, as torchvision rounds them.
    """
    on_cpu = images.device.type == "cpu" and not torch.compiler.is_compiling()
    if torch.is_grad_enabled() and images.requires_grad:
        on_cpu = False  # results that are written into have no gradients
    is_large = size * size >= LARGE
    if on_cpu and is_large and images.dtype == torch.uint8:
        return _resize_windows(images, window, size, antialias, mirror_x, mirror_y)
    rows = neighbours(window["height"], size, images.shape[2], antialias=antialias).mirrored(mirror_y)
    columns = neighbours(window["width"], size, images.shape[3], antialias=antialias).mirrored(mirror_x)
    if not images.is_floating_point():
        columns = Neighbours(columns.places, columns.weights / 255)
    if on_cpu and is_large:
        return _weigh_windows(images, window, rows, columns)
    rows = Neighbours(rows.places + window["top"].to(torch.int64)[:, None], rows.weights)
    columns = Neighbours(columns.places + window["left"].to(torch.int64)[:, None], columns.weights)
    images = images.to(torch.float32)
    return _weigh_by_matrices(images, rows, columns) if on_cpu else _weigh(_weigh(images, rows, 2), columns, 3)


def _boxes(window: Mapping[str, Tensor]) -> list[list[int]]:
    """(top, left, height, width) of each image."""
    return torch.stack([window[key].to(torch.int64) for key in ("top", "left", "height", "width")], 1).tolist()


def _resize_windows(
    images: Tensor, window: Mapping[str, Tensor], size: int, antialias: bool, mirror_x: Tensor | None, mirror_y: Tensor | None
) -> Tensor:
    """uint8 windows by PyTorch's own kernel for bytes, which is what torchvision calls, image by image."""
    result = images.new_empty((len(images), images.shape[1], size, size))
    boxes = _boxes(window)
    mirrored = [(axis, mirror.tolist()) for axis, mirror in ((3, mirror_x), (2, mirror_y)) if mirror is not None]

    def work(part: range) -> None:
        for index in part:
            top, left, height, width = boxes[index]
            # Contiguous: the kernel is much slower on a view.
            image = images[index : index + 1, :, top : top + height, left : left + width].contiguous()
            image = interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
            axes = [axis for axis, applied in mirrored if applied[index]]
            result[index : index + 1] = image.flip(axes) if axes else image

    threads.share(work, len(images))
    return result


def _weigh(images: Tensor, near: Neighbours, axis: int) -> Tensor:
    """The weighted sums of neighbours along an axis (2 or 3) of float images [B, 3, H, W]: for accelerators."""
    shape = list(images.shape)
    shape[axis] = near.places.shape[2]
    view = (-1, 1, shape[2], 1) if axis == 2 else (-1, 1, 1, shape[3])
    terms = [
        images.gather(axis, place.view(view).expand(shape)) * weight.view(view)
        for place, weight in zip(near.places.unbind(0), near.weights.unbind(0), strict=True)
    ]
    return sum(terms[1:], start=terms[0])


def _weigh_by_matrices(images: Tensor, rows: Neighbours, columns: Neighbours) -> Tensor:
    """The same by matrices that are mostly zeros, which a CPU multiplies faster than it gathers while images are small."""
    batch, channels, height, width = images.shape
    matrices = []
    for near, side in ((rows, height), (columns, width)):
        matrix = near.weights.new_zeros((batch, near.places.shape[2], side))
        matrices.append(matrix.scatter_add_(2, near.places.permute(1, 2, 0), near.weights.permute(1, 2, 0)))
    size = rows.places.shape[2]
    result = images.new_empty((batch, channels, size, size))
    with torch.autocast("cpu", enabled=False):  # pixels are float32, whatever the network computes in
        # In parts: what is between the two products stays in the cache.
        for some, by_row, by_column, out in zip(*(each.split(32) for each in (images, *matrices, result)), strict=True):
            across = torch.bmm(some.view(-1, channels * height, width), by_column.transpose(1, 2))
            torch.matmul(by_row[:, None], across.view(-1, channels, height, size), out=out)
    return result


def _weigh_windows(images: Tensor, window: Mapping[str, Tensor], rows: Neighbours, columns: Neighbours) -> Tensor:
    """The same image by image on a CPU: the window is cut as a view, and what is worked on stays in the cache."""
    size = rows.places.shape[2]
    result = images.new_empty((len(images), images.shape[1], size, size), dtype=torch.float32)
    boxes = _boxes(window)
    of_rows, of_columns = (list(zip(near.places.unbind(1), near.weights.unbind(1), strict=True)) for near in (rows, columns))

    def work(part: range) -> None:
        for index in part:
            top, left, height, width = boxes[index]
            image = images[index, :, top : top + height, left : left + width].to(torch.float32)
            # Columns are the dearer step: first where it shortens them.
            if height > size:
                _weigh_columns(_weigh_rows(image, *of_rows[index]), *of_columns[index], out=result[index])
            else:
                _weigh_rows(_weigh_columns(image, *of_columns[index]), *of_rows[index], out=result[index])

    threads.share(work, len(images))
    return result


def _weigh_rows(image: Tensor, places: Tensor, weights: Tensor, out: Tensor | None = None) -> Tensor:
    """Of an image [3, H, W] the weighted sums of rows, places and weights [K, size] -> [3, size, W]."""
    out = torch.mul(image.index_select(1, places[0]), weights[0, :, None], out=out)
    for k in range(1, _needed(image.shape[1], places)):
        out.addcmul_(image.index_select(1, places[k]), weights[k, :, None])
    return out


def _weigh_columns(image: Tensor, places: Tensor, weights: Tensor, out: Tensor | None = None) -> Tensor:
    """The same for columns -> [3, H, size]."""
    shape = (*image.shape[:2], places.shape[1])
    out = torch.mul(image.gather(2, places[0].expand(shape)), weights[0], out=out)
    for k in range(1, _needed(image.shape[2], places)):
        out.addcmul_(image.gather(2, places[k].expand(shape)), weights[k])
    return out


def _needed(length: int, places: Tensor) -> int:
    """How many of the neighbours, which suffice for the longest window, have weight when ``length`` pixels are resized."""
    count, size = places.shape
    return min(math.ceil(2 * max(length / size, 1.0)), count)
