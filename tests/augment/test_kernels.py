"""Each batched kernel against torchvision's functional, image by image, with another parameter for every image."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from augment import geometry, kernels

BILINEAR = InterpolationMode.BILINEAR
COUNT = 6
# Float32 sums in another order. A hundredth of the audit's limit for "exact", 1/255.
TOLERANCE = 4e-5

Oracle = Callable[[Tensor, float], Tensor]


def batch(height: int, width: int, seed: int = 0) -> Tensor:
    """[COUNT, 3, height, width] float on 8-bit values: noise, coarse noise, grey, flat, black and white."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (COUNT, 3, height, width), generator=generator)
    images[1] = images[1] // 32 * 32
    images[2] = images[2, :1]
    images[3] = torch.tensor([200, 30, 90])[:, None, None]
    images[4] = 0
    images[5, :, : height // 2] = 255
    return images.float() / 255


def assert_same(result: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "oracle", "low", "high"),
    [
        (kernels.brightness, F.adjust_brightness, 0.0, 2.5),
        (kernels.contrast, F.adjust_contrast, 0.0, 2.5),
        (kernels.saturation, F.adjust_saturation, 0.0, 2.5),
        (kernels.hue, F.adjust_hue, -0.5, 0.5),
        (kernels.sharpness, F.adjust_sharpness, 0.0, 2.5),
        (kernels.solarize, F.solarize, 0.0, 1.0),
        (kernels.posterize, lambda image, bits: F.posterize(image, int(bits)), 0.0, 8.0),
    ],
)
def test_strengths(
    kernel: Callable[[Tensor, Tensor], Tensor], oracle: Oracle, low: float, high: float, size: tuple[int, int]
) -> None:
    images = batch(*size)
    strengths = torch.linspace(low, high, COUNT)
    if kernel is kernels.posterize:
        strengths = torch.tensor([0.0, 1.0, 3.0, 4.0, 7.0, 8.0])
    before = images.clone()
    result = kernel(images, strengths)
    assert torch.equal(images, before)
    assert_same(result, torch.stack([oracle(image, float(s)) for image, s in zip(images, strengths, strict=True)]))


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (1, 1), (40, 80)], ids=str)
@pytest.mark.parametrize(
    ("kernel", "oracle"),
    [
        (kernels.grayscale, lambda image: F.rgb_to_grayscale(image, 3)),
        (kernels.invert, F.invert),
        (kernels.autocontrast, F.autocontrast),
        (kernels.equalize, F.equalize),
    ],
)
def test_kernels_without_strength(
    kernel: Callable[[Tensor], Tensor], oracle: Callable[[Tensor], Tensor], size: tuple[int, int]
) -> None:
    images = batch(*size)
    before = images.clone()
    assert_same(kernel(images), torch.stack([oracle(image) for image in images]))
    assert torch.equal(images, before)


def test_equalize_is_exact_on_eight_bits() -> None:
    images = batch(64, 48)
    eight_bits = torch.stack([F.equalize(image) for image in (images * 255).round().to(torch.uint8)])
    assert torch.equal((kernels.equalize(images) * 255).round().to(torch.uint8), eight_bits)


def test_posterize_is_within_a_step_of_masking_bits() -> None:
    images = torch.arange(256).expand(1, 3, 1, 256).float() / 255
    for bits in range(9):
        masked = F.posterize(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256), bits).float() / 255
        assert (kernels.posterize(images, torch.tensor([bits]))[0] - masked).abs().max() < 1 / 255


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
def test_gaussian_blur(kernel_size: int) -> None:
    images = batch(17, 23)
    sigmas = torch.linspace(0.1, 3.0, COUNT)
    expected = [F.gaussian_blur(image, [kernel_size] * 2, [float(s)] * 2) for image, s in zip(images, sigmas, strict=True)]
    assert_same(kernels.gaussian_blur(images, sigmas, kernel_size), torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize(dtype: torch.dtype) -> None:
    images = batch(9, 7)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    given = (images * 255).round().to(torch.uint8) if dtype == torch.uint8 else images
    assert_same(kernels.normalize_(given.clone(), mean, std), F.normalize(images, list(mean), list(std)))


def test_erase_sets_the_rectangle() -> None:
    images = batch(12, 10)
    window = {
        "top": torch.tensor([0, 3, 11, 0, 5, 2]), "left": torch.tensor([0, 4, 9, 0, 2, 9]),
        "height": torch.tensor([12, 2, 1, 0, 7, 3]), "width": torch.tensor([10, 5, 1, 4, 3, 1]),
    }  # fmt: skip
    expected = images.clone()
    for index in range(COUNT):
        top, left, height, width = (int(window[key][index]) for key in ("top", "left", "height", "width"))
        expected[index] = F.erase(images[index], top, left, height, width, torch.tensor(0.25))
    assert torch.equal(kernels.erase(images, window, 0.25), expected)


def test_mixing_uses_the_image_before_and_weighs_targets_alike() -> None:
    images = batch(8, 8)
    lam = torch.linspace(0, 1, COUNT)
    mixed = kernels.mixup(images, lam)
    targets = kernels.mix_targets(kernels.one_hot(torch.arange(COUNT), COUNT), lam)
    assert_same(mixed, torch.einsum("bc,cxyz->bxyz", targets, images))
    assert torch.equal(targets[0].nonzero().flatten(), torch.tensor([COUNT - 1]))  # lam 0: all of the partner


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (1, 1), (20, 50)], ids=str)
def test_warp_by_rotation(size: tuple[int, int]) -> None:
    images = batch(*size)
    angles = torch.tensor([0.0, 90.0, -135.0, 17.0, 180.0, -3.5])
    expected = [F.rotate(image, float(a), interpolation=BILINEAR, fill=None) for image, a in zip(images, angles, strict=True)]
    assert_same(geometry.warp(images, geometry.rotation(angles)), torch.stack(expected))


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (20, 50)], ids=str)
def test_warp_by_affine(size: tuple[int, int]) -> None:
    images = batch(*size)
    generator = torch.Generator().manual_seed(3)
    angle, x, y, scale, shear = torch.rand(5, COUNT, generator=generator) * 2 - 1
    angle, x, y, scale, shear = angle * 180, (x * 9).round(), (y * 9).round(), 1 + scale * 0.6, shear * 40
    expected = [
        F.affine(
            images[i], float(angle[i]), [int(x[i]), int(y[i])], float(scale[i]), [float(shear[i]), 0.0],
            interpolation=BILINEAR, fill=None,
        )
        for i in range(COUNT)
    ]  # fmt: skip
    assert_same(geometry.warp(images, geometry.affine(angle, x, y, scale, shear)), torch.stack(expected))


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (64, 96)], ids=str)
def test_perspective(size: tuple[int, int]) -> None:
    height, width = size
    images = batch(height, width)
    start = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    generator = torch.Generator().manual_seed(1)
    inwards = torch.randint(0, min(size) // 3, (COUNT, 4, 2), generator=generator)
    inwards[0] = 0
    corners = torch.tensor(start) + inwards * torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    expected = [F.perspective(images[i], start, corners[i].tolist(), BILINEAR, fill=None) for i in range(COUNT)]
    assert_same(geometry.perspective(images, corners), torch.stack(expected), tolerance=5e-4)  # theirs: rounded coefficients


WINDOWS = {
    "top": torch.tensor([0, 3, 10, 0, 5, 0]), "left": torch.tensor([0, 4, 9, 0, 2, 20]),
    "height": torch.tensor([40, 8, 1, 3, 30, 17]), "width": torch.tensor([50, 5, 1, 40, 3, 17]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [8, 17, 60, 80])  # shrinking and growing; the largest goes image by image on a CPU
def test_resized_crop(size: int, antialias: bool, dtype: torch.dtype) -> None:
    images = batch(40, 50)
    in_bytes = dtype == torch.uint8 and size * size >= geometry.LARGE  # rounded as torchvision rounds bytes
    images = (images * 255).round().to(dtype) if in_bytes else images
    mirror_x, mirror_y = torch.arange(COUNT) % 2 == 0, torch.arange(COUNT) % 3 == 0
    expected = []
    for index in range(COUNT):
        box = [int(WINDOWS[key][index]) for key in ("top", "left", "height", "width")]
        result = F.resized_crop(images[index], *box, [size, size], interpolation=BILINEAR, antialias=antialias)
        result = F.horizontal_flip(result) if mirror_x[index] else result
        expected.append(F.vertical_flip(result) if mirror_y[index] else result)
    result = geometry.resized_crop(
        images if dtype == images.dtype else (images * 255).round().to(dtype),
        WINDOWS,
        size,
        antialias=antialias,
        mirror_x=mirror_x,
        mirror_y=mirror_y,
    )
    assert_same(result, torch.stack(expected))


@pytest.mark.parametrize("compiling", [False, True])  # True: the way accelerators take
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_axes_do_as_the_ops_do(dtype: torch.dtype, compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = (batch(9, 11) * 255).to(dtype)
    flipped = torch.tensor([True, False, True, False, True, False])
    start = torch.arange(COUNT)
    rows, columns = geometry.Axis(9, 9), geometry.Axis(11, 11)
    columns.flip(flipped)
    columns.crop(start, 10, 3)
    columns.flip(start % 3 == 0)
    rows.flip(start == 2)
    rows.center_crop(COUNT, 14, images.device)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    result = geometry.take_window(images, rows, columns)
    for index in range(COUNT):
        image = F.horizontal_flip(images[index]) if flipped[index] else images[index]
        image = F.pad(image, [3, 0, 3, 0])[..., index : index + 10]
        image = F.horizontal_flip(image) if index % 3 == 0 else image
        image = F.vertical_flip(image) if index == 2 else image
        image = F.center_crop(F.pad(image, [4, 0, 4, 0]), [14, 18])[..., 4:14]
        assert torch.equal(result[index], image)


def test_hue_keeps_grey_and_full_turns() -> None:
    images = batch(16, 16)
    for turn in (0.0, 1.0, -1.0):
        assert_same(kernels.hue(images, torch.full((COUNT,), turn)), images)
    assert math.isclose(float(kernels.hue(images, torch.full((COUNT,), 0.3))[2].std(0).max()), 0.0, abs_tol=1e-6)
