"""What can be done to an image: one frozen dataclass per op, in canonical units.

The docstring of an op *is* its definition; every backend is held to it. Conventions shared by all:

- Intensities are on a scale where 0 is black and 1 is white, whatever the dtype of the images.
- Lengths are pixels, angles degrees (positive is counter-clockwise), ``p`` the probability that the op is applied, drawn for
  each image in a per-image backend and for the batch in a per-batch one.
- A pair ``(low, high)`` is drawn uniformly; ``low == high`` pins it.
- Resampling is bilinear; what comes from outside the image is 0 (black).
- The definitions are torchvision's (``torchvision.transforms.v2``) applied to one image, unless an op says otherwise.
- Where the libraries' defaults differ, the op pins one of them, and a second op, ``Default...``, leaves each library its own.

Nothing here knows a library; ``augment.catalog`` says how each one does each op.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Range = tuple[float, float]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An augmentation and its parameters. Subclasses are plain values: equal parameters make equal ops."""

    @property
    def name(self) -> str:
        """The op's name in tables and on the command line."""
        return type(self).__name__


def _check_p(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must lie in [0, 1], got {p}")


def _check_range(name: str, bounds: Range, low: float = float("-inf"), high: float = float("inf")) -> None:
    if not low <= bounds[0] <= bounds[1] <= high:
        raise ValueError(f"{name} must be a pair (low, high) with {low} <= low <= high <= {high}, got {bounds}")


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name} must be at least 1 pixel, got {size}")


# ---- geometry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizontalFlip(Op):
    """Mirror left and right with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerticalFlip(Op):
    """Mirror top and bottom with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop(Op):
    """Pad every side with ``padding`` black pixels, then cut a ``size`` x ``size`` window, every position equally likely."""

    size: int = 32
    padding: int = 4

    def __post_init__(self) -> None:
        _check_size("size", self.size)
        if self.padding < 0:
            raise ValueError(f"padding must not be negative, got {self.padding}")


@dataclass(frozen=True, slots=True, kw_only=True)
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

    def __post_init__(self) -> None:
        _check_size("size", self.size)
        _check_range("scale", self.scale, 0.0, 1.0)
        _check_range("ratio", self.ratio, 1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotate(Op):
    """Rotate about the image's centre by an angle in ``degrees``; the frame keeps its size."""

    degrees: Range = (-15.0, 15.0)

    def __post_init__(self) -> None:
        _check_range("degrees", self.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
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

    def __post_init__(self) -> None:
        _check_range("degrees", self.degrees)
        _check_range("scale", self.scale, 1e-6)
        _check_range("shear", self.shear, -89.0, 89.0)
        if not all(0.0 <= t <= 1.0 for t in self.translate):
            raise ValueError(f"translate must be two shares in [0, 1], got {self.translate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Perspective(Op):
    """With probability ``p`` move each corner inwards by up to ``distortion`` times half the side, then warp to it."""

    distortion: float = 0.5
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)
        _check_range("distortion", (self.distortion, self.distortion), 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Op):
    """Resize so that the shorter side is ``size`` pixels, the aspect ratio kept."""

    size: int = 32
    antialias: bool = True

    def __post_init__(self) -> None:
        _check_size("size", self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterCrop(Op):
    """Cut the central ``size`` x ``size`` window."""

    size: int = 32

    def __post_init__(self) -> None:
        _check_size("size", self.size)


# ---- colour -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Brightness(Op):
    """Multiply by a factor in [low, high] and clamp: multiplicative, as torchvision and PIL."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast(Op):
    """Blend with the mean of the image's grey version by a factor in [low, high]: factor * x + (1 - factor) * mean."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation(Op):
    """Blend with the image's grey version (ITU-R 601 luma) by a factor in [low, high]."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hue(Op):
    """Shift the hue in HSV by a number of turns in [low, high], each within [-0.5, 0.5]."""

    low: float = -0.1
    high: float = 0.1

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), -0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorJitter(Op):
    """Brightness, Contrast, Saturation and Hue, each with its own factor, in a random order (all 24 equally likely)."""

    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: Range = (-0.5, 0.5)

    def __post_init__(self) -> None:
        _check_range("brightness", self.brightness, 0.0)
        _check_range("contrast", self.contrast, 0.0)
        _check_range("saturation", self.saturation, 0.0)
        _check_range("hue", self.hue, -0.5, 0.5)

    @property
    def changing(self) -> tuple[str, ...]:
        """Those of the four whose range is more than the factor that changes nothing; torchvision leaves out the others."""
        neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
        return tuple(name for name, factor in neutral.items() if getattr(self, name) != (factor, factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grayscale(Op):
    """With probability ``p`` replace all three channels by the grey version (0.2989 R + 0.587 G + 0.114 B)."""

    p: float = 0.2

    def __post_init__(self) -> None:
        _check_p(self.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solarize(Op):
    """With probability ``p`` invert every value that is at least ``threshold`` (0 to 1)."""

    threshold: float = 0.5
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)
        _check_range("threshold", (self.threshold, self.threshold), 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterize(Op):
    """With probability ``p`` keep only the ``bits`` highest of the 8 bits of each value."""

    bits: int = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)
        if not 0 <= self.bits <= 8:
            raise ValueError(f"bits must lie in 0..8, got {self.bits}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalize(Op):
    """With probability ``p`` equalise the histogram of each channel (256 bins, PIL's formula)."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoContrast(Op):
    """With probability ``p`` stretch each channel so that its darkest value becomes 0 and its brightest 1."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invert(Op):
    """With probability ``p`` replace every value by 1 minus it."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpness(Op):
    """With probability ``p`` blend with a smoothed version by ``factor``: 0 is smoothed, 1 the image, above 1 sharper.

    The smoothing kernel is [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels stay as they are (PIL).
    """

    factor: float = 2.0
    p: float = 0.5

    def __post_init__(self) -> None:
        _check_p(self.p)
        _check_range("factor", (self.factor, self.factor), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianBlur(Op):
    """Convolve with a Gaussian of standard deviation in ``sigma`` pixels, cut to ``kernel_size``, borders reflected."""

    kernel_size: int = 5
    sigma: Range = (0.1, 2.0)

    def __post_init__(self) -> None:
        _check_range("sigma", self.sigma, 1e-6)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {self.kernel_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise(Op):
    """Add normal noise of standard deviation ``sigma``, independent for every value, and clamp to [0, 1]. Needs float."""

    sigma: float = 0.1

    def __post_init__(self) -> None:
        _check_range("sigma", (self.sigma, self.sigma), 0.0)


# ---- erasing, normalisation -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomErasing(Op):
    """With probability ``p`` set a rectangle to ``value``.

    Its area is uniform in ``scale`` times the image's, its height over width log-uniform in ``ratio``; it lies wholly inside
    the image; after ten that do not fit nothing is erased. Source: Zhong et al. 2017, as in torchvision.
    """

    p: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: float = 0.0

    def __post_init__(self) -> None:
        _check_p(self.p)
        _check_range("scale", self.scale, 0.0, 1.0)
        _check_range("ratio", self.ratio, 1e-6)
        _check_range("value", (self.value, self.value), 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout(Op):
    """Set a square whose side is ``side`` times the image's side to black, wholly inside the image.

    DeVries & Taylor 2017 let the square stick out of the image; the libraries only offer one that does not (their
    RandomErasing with a pinned size), and that is what is defined and compared here.
    """

    side: float = 0.5

    def __post_init__(self) -> None:
        _check_range("side", (self.side, self.side), 0.0, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize(Op):
    """Subtract ``mean`` and divide by ``std``, a number per channel on the 0 to 1 scale. Needs float."""

    mean: tuple[float, float, float] = CIFAR10_MEAN
    std: tuple[float, float, float] = CIFAR10_STD

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


# ---- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoAugment(Op):
    """One of 25 pairs of ops, learnt on CIFAR-10 (Cubuk et al. 2019), as tabulated in torchvision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandAugment(Op):
    """``num_ops`` ops drawn with replacement from torchvision's 14, at ``magnitude`` of 31 bins (Cubuk et al. 2020)."""

    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.num_ops < 1 or not 0 <= self.magnitude <= 30:
            raise ValueError(f"num_ops must be at least 1 and magnitude in 0..30, got {self.num_ops}, {self.magnitude}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrivialAugmentWide(Op):
    """One op of 14 at one of 31 magnitudes, all equally likely (Mueller & Hutter 2021, the wide space)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugMix(Op):
    """Mix ``width`` chains of 1 to 3 ops with Dirichlet weights, then with the image by a Beta weight (Hendrycks et al.)."""

    severity: int = 3
    width: int = 3
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.severity <= 10 or self.width < 1 or self.alpha <= 0:
            raise ValueError(f"need severity in 1..10, width >= 1, alpha > 0, got {self}")


# ---- images with labels -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MixUp(Op):
    """Replace each image by lam * image + (1 - lam) * partner, the one-hot labels likewise (Zhang et al. 2018).

    lam is drawn from Beta(alpha, alpha): once a batch in a per-batch backend, for each image in a per-image one. Partners
    come from the same batch.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_range("alpha", (self.alpha, self.alpha), 1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutMix(Op):
    """Paste a rectangle of a partner image; the label's weight is the share of area that is left (Yun et al. 2019).

    The rectangle has sqrt(1 - lam) times the image's sides with lam from Beta(alpha, alpha), a uniform centre, and is cut
    at the image's border; the weights are those of the visible rectangle.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_range("alpha", (self.alpha, self.alpha), 1e-6)


# ---- libraries' own defaults ------------------------------------------------------------------------------------------
#
# What a library does where only the parameters below are given: defined by torchvision's default, and not pinned elsewhere.


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRotate(Op):
    """Rotate by an angle in ``degrees``, the interpolation left as it is: the nearest pixel in torchvision."""

    degrees: Range = (-15.0, 15.0)

    def __post_init__(self) -> None:
        _check_range("degrees", self.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultResize(Op):
    """Resize the shorter side to ``size`` pixels, nothing else given: bilinear and antialiased in torchvision."""

    size: int = 32

    def __post_init__(self) -> None:
        _check_size("size", self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRandomResizedCrop(Op):
    """RandomResizedCrop of which only ``size``, ``scale`` and ``ratio`` are given: antialiased in torchvision."""

    size: int = 32
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check_size("size", self.size)
        _check_range("scale", self.scale, 0.0, 1.0)
        _check_range("ratio", self.ratio, 1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultBrightness(Op):
    """A factor in [low, high] given to the library's class for brightness: torchvision multiplies by it."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultContrast(Op):
    """A factor in [low, high] given to the library's class for contrast: torchvision blends with the grey mean by it."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultSaturation(Op):
    """A factor in [low, high] given to the library's class for saturation: torchvision blends with the grey version by it."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        _check_range("low, high", (self.low, self.high), 0.0)


def subclasses() -> Iterator[type[Op]]:
    """All op classes, in the order of this file."""
    yield from Op.__subclasses__()
