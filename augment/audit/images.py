"""Images for the audit: the user's at the sizes needed, noise, and synthetic ones where the user has none."""

from collections.abc import Sequence

import torch
from torch import Tensor

from augment.pipeline import to_float


def synthetic_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return uint8 [count, 3, size, size]: smooth colour fields with hard-edged boxes."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.rand(count, 3, 6, 6, generator=generator)
    images = torch.nn.functional.interpolate(fields, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    for image in images:
        top, left = (int(v) for v in torch.randint(0, max(size // 2, 1), (2,), generator=generator))
        image[:, top : top + size // 3 + 1, left : left + size // 4 + 1] = torch.rand(3, 1, 1, generator=generator)
    return images.mul(255).round().to(torch.uint8)


def plain_image(size: int) -> Tensor:
    """Return a fixed image, uint8 [3, size, size], that every op changes: without symmetry, and no channel fills 0 to 255."""
    return synthetic_images(1, size)[0].float().mul(0.75).add(32).round().to(torch.uint8)


def at_size(images: Sequence[Tensor], size: int) -> Tensor:
    """Return the centre squares of uint8 images [3, H, W], antialiased: uint8 [N, 3, size, size]."""
    squares = []
    for image in images:
        side = min(image.shape[-2:])
        top, left = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
        square = to_float(image[None, :, top : top + side, left : left + side])
        squares.append(torch.nn.functional.interpolate(square, (size, size), mode="bilinear", antialias=True))
    return torch.cat(squares).mul(255).round().clamp(0, 255).to(torch.uint8)


def edge_images(size: int) -> Tensor:
    """Return uint8 [8, 3, size, size]: flat, in two levels, primary colours, with a flat channel, and a checkerboard."""
    x = torch.arange(size).expand(size, size)
    flat = [torch.full((3, size, size), value) for value in (0, 153, 255)]
    levels = [torch.where(x < size // 2, low, high).expand(3, size, size) for low, high in ((0, 255), (60, 180))]
    primaries = torch.stack([(x * 8 // size >> bit) % 2 * 255 for bit in range(3)])
    gradients = torch.stack([x * 255 // size, torch.full_like(x, 153), x.T * 255 // size])
    checkerboard = ((x + x.T) % 2 * 255).expand(3, size, size)
    return torch.stack([*flat, *levels, primaries, gradients, checkerboard]).to(torch.uint8)


def noise_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return uint8 [count, 3, size, size], every value equally likely and independent."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
