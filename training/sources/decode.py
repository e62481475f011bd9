"""Uint8 pixels from the bytes of one photograph: whole at its own size, or a square of a given side."""

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".ppm", ".pgm", ".tif", ".tiff"}
)
DECODE_ERRORS = (Exception,)
"""Exceptions for damaged files: Pillow's plugins raise what their parsing meets (struct.error, AttributeError, ...)."""
MAX_RATIO = 16
"""Ratio of sides from which on a picture is cut before it is resized, so that its resized strip needs no memory."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""Transpositions that undo EXIF orientations."""
PNG = b"\x89PNG\r\n\x1a\n"


def decode(content: bytes, size: int) -> np.ndarray:
    """Return the photograph as RGB uint8 [3, size, size], upright: shorter side resized to ``size``, centre cut out.

    Raises one of DECODE_ERRORS as ``upright`` does.
    """
    return channels_first(fit(upright(content), size))


def upright(content: bytes) -> Image.Image:
    """Return the photograph in RGB at its own size, with its EXIF orientation applied where it can be read.

    Grey, palette and CMYK become RGB, transparency is dropped, 16 bits are cut to their upper 8.

    Raises:
        DECODE_ERRORS: for files that are damaged, have more than ``Image.MAX_IMAGE_PIXELS`` pixels, or float pixels.
    """
    try:
        return _decode_upright(content)
    except DECODE_ERRORS:  # Pillow refuses a PNG for damaged or large metadata too
        if not content.startswith(PNG):
            raise
        return _decode_upright(_drop_metadata(content))


def _drop_metadata(png: bytes) -> bytes:
    """Return a PNG without its ancillary chunks, but for that of transparency."""
    place, chunks = len(PNG), [PNG]
    while place < len(png):
        kind, end = png[place + 4 : place + 8], place + 12 + int.from_bytes(png[place : place + 4], "big")
        if kind[:1].isupper() or kind == b"tRNS":  # an upper-case letter marks critical chunks
            chunks.append(png[place:end])
        place = end
    return b"".join(chunks)


def _decode_upright(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # Pillow's own message holds the address of the bytes in memory
        raise ValueError("empty" if not content else "no image of a kind that Pillow knows") from None
    with image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width} x {image.height} pixels, more than the {limit:,} that Pillow deems safe")
        image.load()
        return _to_rgb(_turn(image))


def _turn(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unlike ImageOps.exif_transpose, never fail for other metadata, which are not read."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of damaged metadata, which cost no image
        return 1


def channels_first(image: Image.Image) -> np.ndarray:
    """Return an RGB image as uint8 [3, H, W] in memory of its own."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits; convert() would clip what is above 255 to white
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("float pixels, whose scale is unknown")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` (bilinear, antialiased) and cut out the central square, rounding as torchvision.

    An image of that size is returned as it is.
    """
    if image.size == (size, size):
        return image
    shorter = min(image.size)
    if shorter != size:
        width, height = (int(size * side / shorter) for side in image.size)
        if max(image.size) > MAX_RATIO * shorter:
            return _fit_strip(image, width, height, size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _fit_strip(image: Image.Image, width: int, height: int, size: int) -> Image.Image:
    """Resize only the part of an image that is the central square once the whole is ``width`` x ``height``."""
    left, top = round((width - size) / 2), round((height - size) / 2)
    x, y = image.width / width, image.height / height
    box = (left * x, top * y, (left + size) * x, (top + size) * y)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
