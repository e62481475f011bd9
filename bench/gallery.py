"""Gallery of every op and recipe on every backend: pictures of what ``augment.build`` makes of one image.

``draw_strips`` writes the pictures of a run's report, ``draw_page`` a page of them with random results below.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from augment import BACKENDS, OPS, RECIPES, UnsupportedOp, build, eager_backends, fallback_device, lane, resolve
from augment.op import Op
from augment.ops import Normalize
from augment.pipeline import Pipeline, to_dtype
from bench.records import Run, one_line
from bench.report.facts.gallery import INDEX, Gallery, Picture
from bench.report.page import write_gallery
from training.config import DATA_SETS
from training.data import load
from training.sources.decode import DECODE_ERRORS, channels_first, upright
from training.sources.folders import training_files

RESULTS = 8
SMALLEST, DEFAULT_SIDE, LARGEST = 16, 32, 128
"""Sides in pixels: smaller images are refused, larger ones reduced, so that each pixel shows (noise, blur)."""
STRIP_SIDE, GAP = 64, 2
"""Pixels: all strips of a run together stay below a few megabytes."""
ENHANCED = 8
"""Factor of differences: 3/255 would not be visible."""
REFERENCES = ("torchvision", "torchvision_loop", "fused", "kornia", "pil")
"""The first of these that is drawn is what others are compared with."""
RANDOM_ROWS = 4
Pixels = npt.NDArray[np.uint8]
Subject = str | Sequence[Op]


class Panel(NamedTuple):
    """An image, uint8 [h, w, 3], or None with the words that say why."""

    image: Pixels | None
    words: str = ""


# ---- images ---------------------------------------------------------------------------------------------------------------


def load_photograph(path: Path) -> Tensor:
    """Return an image file as uint8 [1, 3, H, W], upright. Raises ValueError in one line."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise ValueError("it is not a file")
        return torch.from_numpy(channels_first(upright(path.read_bytes())))[None]
    except DECODE_ERRORS as error:
        raise ValueError(f"cannot read an image from {path}: {one_line(error)}") from None


def _load_images(data: str, root: Path, download: bool) -> Tensor:
    """Return images of a data set; those of a folder at the size of its first readable one."""
    side = DEFAULT_SIDE
    for path in () if data in DATA_SETS else training_files(Path(data)):
        with contextlib.suppress(ValueError):  # damaged, as some of a folder may be
            side = min(LARGEST, max(DEFAULT_SIDE, min(load_photograph(path).shape[-2:])))
            break
    return spread_out(load(data, root=root, image_size=side, download=download).train.images)


def spread_out(images: Tensor) -> Tensor:
    """Return RESULTS of a data set's images, from its first to its last, or all if it has fewer."""
    return images[torch.linspace(0, len(images) - 1, min(RESULTS, len(images))).long()]


def working_square(images: Tensor, largest: int = LARGEST) -> Tensor:
    """Return the centre squares of uint8 [N, 3, H, W] images, reduced to ``largest`` pixels. Raises ValueError."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or len(images) == 0:
        raise ValueError(f"the gallery needs uint8 images [N, 3, H, W], got {images.dtype} {list(images.shape)}")
    height, width = images.shape[-2:]
    side = min(height, width)
    if side < SMALLEST:
        raise ValueError(f"the gallery needs images of at least {SMALLEST} x {SMALLEST} pixels, got {width} x {height}")
    y, x = (height - side) // 2, (width - side) // 2
    square = images[:, :, y : y + side, x : x + side]
    if side > largest:
        reduced = [Image.fromarray(_pixels(image)).resize((largest, largest), Image.Resampling.LANCZOS) for image in square]
        square = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in reduced])
    return square.contiguous()


def _pixels(image: Tensor) -> Pixels:
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


# ---- results --------------------------------------------------------------------------------------------------------------


def draw_results(images: Tensor, subject: Subject, backend: str, seed: int, count: int = RESULTS) -> list[Panel]:
    """Return ``count`` random results for the first image, denormalised to uint8; one if nothing is random.

    Parameters drawn per image come from one batch of copies, others from ``count`` batches. Mixing takes the other images as
    partners. Raises UnsupportedOp.
    """
    generator = torch.Generator().manual_seed(seed)
    device = fallback_device(backend, images.device)
    images = images.to(device)
    pipeline = build(subject, backend, device=device, image_size=images.shape[-1], num_classes=2, generator=generator)
    first = images[:1]
    if pipeline.mixes:
        mixtures = (pipeline(b, b.new_zeros(len(b), dtype=torch.int64))[0] for b in _with_partners(images))
        batch = torch.cat([mixture[:1] for mixture in itertools.islice(mixtures, count)])
    elif pipeline.lane == "per_image":
        batch = pipeline(first.expand(count, -1, -1, -1).contiguous())
    else:
        batch = torch.cat([pipeline(first) for _ in range(1 if pipeline.lane == "fixed" else count)])
    return [Panel(_pixels(image)) for image in _denormalise(batch.cpu(), pipeline)]


def _with_partners(images: Tensor) -> Iterator[Tensor]:
    """Yield batches that begin with the first image; its partners take turns behind it."""
    partners = images[1:RESULTS]
    if len(partners) == 0:
        first = images[:1]
        partners = torch.cat([first.flip(-1), first.flip(-2), first.rot90(1, (-2, -1)), first.flip(-1, -2)])
    for turn in itertools.count():
        yield torch.cat([images[:1], partners.roll(turn, 0)])


def _denormalise(batch: Tensor, pipeline: Pipeline) -> Tensor:
    for op in reversed(pipeline.ops):
        if isinstance(op, Normalize):
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (op.mean, op.std))
            batch = batch * std + mean
    return to_dtype(batch, torch.uint8)


def _or_reason(draw: Callable[[], list[Panel]]) -> list[Panel]:
    """Return the panels, or one with the reason: a cell that fails must not take the others with it."""
    try:
        return draw()
    except UnsupportedOp as error:
        reason = str(error).partition(": ")[2]
        return [Panel(None, "unsupported" + (f": {reason}" if reason else ""))]
    except Exception as error:  # libraries raise anything
        return [Panel(None, f"failed: {one_line(error)}")]


def draw_single(images: Tensor, subject: str, backend: str, seed: int) -> Panel:
    """Return one result: in the op's pinned setting if it has one, else the first draw that changes the image."""
    ops, is_pinned = _comparable_ops(subject, images.shape[-1])
    panels = _or_reason(lambda: draw_results(images, ops, backend, seed, count=1 if is_pinned else RESULTS))
    return next((panel for panel in panels if _is_changed(panel.image, _pixels(images[0]))), panels[0])


def _is_changed(image: Pixels | None, original: Pixels) -> bool:
    if image is None or image.shape != original.shape:
        return True
    return int(np.abs(image.astype(int) - original.astype(int)).max()) > 2  # undoing a normalisation may round


def _comparable_ops(subject: str, side: int) -> tuple[tuple[Op, ...], bool]:
    """Return an op in its pinned setting, else applied for certain, or a recipe; and whether all backends get the same ops."""
    if subject not in OPS:
        ops = resolve(subject, side)
        return ops, lane(ops, REFERENCES[0]) == "fixed"
    pinned = OPS[subject].pinned(side)
    if pinned is not None:
        return (pinned,), True
    op = OPS[subject].at(side)
    changes: dict[str, Any] = {"p": 1.0} if hasattr(op, "p") else {}
    return (dataclasses.replace(op, **changes),), False  # type: ignore[type-var]


def _describe(subject: str, ops: Sequence[Op]) -> str:
    """Return the parameters of an op, or the ops of a recipe."""
    return " + ".join(op.name for op in ops) if subject not in OPS else repr(ops[0]).partition("(")[2].removesuffix(")")


# ---- pictures -------------------------------------------------------------------------------------------------------------


def tile(rows: Sequence[Sequence[Pixels | None]], side: int) -> Image.Image:
    """Return images in rows of cells of ``side`` + GAP pixels, transparent where there is none."""
    cell = side + GAP
    picture = Image.new("RGBA", (max(map(len, rows)) * cell, len(rows) * cell), (0, 0, 0, 0))
    for down, row in enumerate(rows):
        for across, pixels in enumerate(row):
            if pixels is not None:
                image = Image.fromarray(pixels)
                image.thumbnail((side, side), Image.Resampling.LANCZOS)
                inset = ((side - image.width) // 2, (side - image.height) // 2)
                picture.paste(image, (across * cell + inset[0], down * cell + inset[1]))
    return picture


def draw_page(
    *, image: Path | None = None, data: str = "auto", data_root: Path = Path("data"), download: bool = False, out: Path,
    backends: Sequence[str] | None = None, ops: Sequence[str] | None = None, recipes: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write ``index.html`` with a strip of every op and recipe, random results of each backend below; return its path.

    The image is a photograph or one of a data set. Names default to all ops and recipes, and all backends but compiled ones.

    Raises:
        ValueError: in one line, for what cannot be read.
        OSError: nothing can be written.
    """
    if ops is not None or recipes is not None:  # a choice asks for nothing else
        ops, recipes = ops or (), recipes or ()
    images = load_photograph(image) if image else _load_images(data, data_root, download)
    draw_strips(
        images, out, dataset=image.name if image else data, backends=backends, ops=ops, recipes=recipes, seed=seed,
        results=RANDOM_ROWS, track=partial(track, description="gallery", transient=True),
    )  # fmt: skip
    return write_gallery(Run(path=out, name=out.name))


# ---- strips of a run ------------------------------------------------------------------------------------------------------


def draw_strips(
    images: Tensor, folder: Path, *, dataset: str, backends: Sequence[str] | None = None, ops: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None, seed: int = 0, results: int = 0,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Gallery:  # fmt: skip
    """Write a PNG an op and recipe, and ``gallery.json``, into the gallery of a run's folder.

    Args:
        images: uint8 [N, 3, H, W]; the most colourful is augmented, the others are partners of MixUp and CutMix.
        folder: Folder of the run.
        dataset: Name of the images.
        backends: Names; None means all but compiled ones.
        ops: Names; None means all.
        recipes: Names; None means all.
        seed: Seed of all draws.
        results: Rows of random results below.
        track: Passes the names of ops and recipes on, to show the progress.

    Raises:
        ValueError: the images cannot be used.
        OSError: a file cannot be written.
    """
    square = working_square(images, STRIP_SIDE)
    values = square.float()  # a change of hue does not show on a grey image
    square = square[(values.amax(1) - values.amin(1)).mean((1, 2)).argsort(descending=True)]
    names = backends or eager_backends(torch.device("cpu"))
    chosen = [name for name, backend in BACKENDS.items() if not backend.compiled and name in names]
    if not chosen:
        raise ValueError("the gallery does not draw compiled backends, which do the same: name others")
    reference = next((name for name in REFERENCES if name in chosen), chosen[0])
    (folder / INDEX).parent.mkdir(parents=True, exist_ok=True)
    subjects = list(dict.fromkeys([*(OPS if ops is None else ops), *(RECIPES if recipes is None else recipes)]))
    draw = partial(_draw_strip, square, names=chosen, reference=reference, seed=seed, folder=folder, results=results)
    side = square.shape[-1]
    gallery = Gallery(
        dataset=dataset, side=side, cell=side + GAP, seed=seed, reference=reference, enhanced=ENHANCED,
        backends=tuple(chosen), pictures=tuple(map(draw, track(subjects))), results=results,
    )  # fmt: skip
    (folder / INDEX).write_bytes(msgspec.json.encode(gallery))
    return gallery


def _draw_strip(
    square: Tensor, subject: str, *, names: Sequence[str], reference: str, seed: int, folder: Path, results: int
) -> Picture:
    side = square.shape[-1]
    ops, is_comparable = _comparable_ops(subject, side)
    panels = {name: draw_single(square, subject, name, seed) for name in names}
    errors: dict[str, tuple[float, float]] = {}
    differences: list[Pixels | None] = [None]
    for name, (image, _) in panels.items():
        base = panels[reference].image if is_comparable and name != reference else None
        if image is None or base is None or image.shape != base.shape:
            differences.append(None)
            continue
        error = np.abs(image.astype(int) - base.astype(int))
        errors[name] = (float(error.max()), round(float(error.mean()), 4))
        differences.append(np.minimum(error * ENHANCED, 255).astype(np.uint8))
    rows = [[_pixels(square[0]), *(panel.image for panel in panels.values())], *([differences] if is_comparable else [])]
    if results:
        drawn = [_or_reason(partial(draw_results, square, subject, name, seed, results)) for name in names]
        rows += [[None, *(panel.image for panel in row)] for row in itertools.zip_longest(*drawn, fillvalue=Panel(None))]
    tile(rows, side).save((folder / INDEX).with_name(f"{subject}.png"), optimize=True)
    return Picture(
        subject=subject,
        kind="op" if subject in OPS else "recipe",
        detail=_describe(subject, ops),
        file=f"{subject}.png",
        errors=errors,
        reasons={name: panel.words for name, panel in panels.items() if panel.image is None},
    )
