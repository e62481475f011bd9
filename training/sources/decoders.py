"""Decoders of photographs by library. All return what Pillow's ``upright`` shows, up to the rounding of their arithmetic.

JPEG libraries treat other formats, CMYK and EXIF orientations each in its own way. Such files (those with an ``oddity``) are
left to Pillow, whatever the decoder, so that all decoders turn and convert the same images.
"""

import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.sources.decode import DECODE_ERRORS, orientation, upright

DRAFT_SIDE = 224
"""Shorter side that the draft decoder is asked for: the usual input of a network."""


def oddity(content: bytes) -> str | None:
    """Return what sets a file apart from a JPEG of grey or YCbCr pixels that lie upright, which all decoders treat alike."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            if image.format != "JPEG":
                return str(image.format)
            if image.mode not in ("RGB", "L"):
                return str(image.mode)
            turn = orientation(image)
            return None if turn == 1 else f"EXIF orientation {turn}"
    except DECODE_ERRORS:
        return "unreadable"


def decode_pil(content: bytes) -> Tensor:
    """Decode with Pillow: uint8 [3, H, W], a view of interleaved pixels that must not be written to."""
    return torch.from_numpy(np.asarray(upright(content))).permute(2, 0, 1)


def decode_pil_draft(content: bytes) -> Tensor:
    """Decode a plain JPEG with Pillow at 1/2, 1/4 or 1/8 of its size, the smallest that is still large enough."""
    with Image.open(io.BytesIO(content)) as image:
        shorter = min(image.size)
        width, height = (max(1, side * min(DRAFT_SIDE, shorter) // shorter) for side in image.size)
        image.draft("RGB", (width, height))
        return torch.from_numpy(np.asarray(image.convert("RGB"))).permute(2, 0, 1)


def _encoded(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def decode_torchvision(content: bytes) -> Tensor:
    """Decode a plain JPEG with torchvision: uint8 [3, H, W]."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(_encoded(content), mode=ImageReadMode.RGB)


def decode_torchcodec(content: bytes) -> Tensor:
    """Decode a plain JPEG with torchcodec: uint8 [3, H, W]."""
    pixels: Tensor = importlib.import_module("torchcodec.decoders").decode_jpeg(content)
    return pixels


def decode_nvjpeg(contents: list[bytes]) -> list[Tensor]:
    """Decode plain JPEG files on a CUDA device with torchvision, which calls nvJPEG."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg([_encoded(content) for content in contents], mode=ImageReadMode.RGB, device="cuda")


def decode_torchcodec_cuda(contents: list[bytes]) -> list[Tensor]:
    """Decode plain JPEG files on a CUDA device with torchcodec."""
    pixels: list[Tensor] = importlib.import_module("torchcodec.decoders").decode_jpeg(contents, device="cuda")
    return pixels


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A way to decode: ``run`` takes the bytes of one file; with ``on_cuda`` those of a batch, in the training process."""

    run: Callable[[Any], Any]
    on_cuda: bool = False
    package: str | None = None
    """Package, and extra of this project, that brings the decoder."""

    def missing(self) -> str | None:
        """Return why the decoder cannot run here, or None."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed (pip install -e '.[{self.package}]')"
        return "this machine has no CUDA device" if self.on_cuda and not torch.cuda.is_available() else None

    def run_all(self, contents: list[bytes]) -> list[Tensor]:
        """Decode the bytes of several files."""
        return list(self.run(contents) if self.on_cuda else map(self.run, contents))


DECODERS: Mapping[str, Decoder] = {
    "pil": Decoder(run=decode_pil),
    "torchvision": Decoder(run=decode_torchvision),
    "torchcodec": Decoder(run=decode_torchcodec, package="torchcodec"),
    "pil_draft": Decoder(run=decode_pil_draft),
    "nvjpeg": Decoder(run=decode_nvjpeg, on_cuda=True),
    "torchcodec_cuda": Decoder(run=decode_torchcodec_cuda, on_cuda=True, package="torchcodec"),
}
