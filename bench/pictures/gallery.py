"""The gallery: what each op and recipe makes of one image, as one looks at augmentations before using them.

``draw_gallery`` writes a sheet a backend with 2 x 4 random results of everything, and one sheet with the backends beside
each other. Results come from ``augment.build``, so a sheet shows what is benchmarked and trained with.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from augment.catalog import BACKENDS, ROWS, build, eager_backends, find_backend, lane, place, resolve
from augment.compose import Pipeline, to_dtype
from augment.ops import Normalize, Op
from augment.recipes import RECIPES
from augment.rows.row import UnsupportedOp
from bench.grid.cases import one_line
from bench.pictures.sheets import BLOCK_GAP, BLOCK_HEIGHT, BLOCK_WIDTH, GAP, LINE, MARGIN, PANEL, Block, Panel, Sheet
from training.data import load
from training.photos import DECODE_ERRORS, PHOTO_SUFFIXES, channels_first, upright

RESULTS = 8
SMALLEST, LARGEST = 16, 128
USUAL = 32
"""Sides in pixels: smaller images are refused, larger ones reduced, so that panels show each pixel (noise, blur)."""

BLOCKS_ACROSS = 3
HEADER = PANEL + 2 * LINE
LABEL_WIDTH = 224
SIDE_HEADER = 116
CALLS = {
    "per_image": "a draw per image",
    "per_batch": "a draw per batch",
    "mixed": "some draws per image, some per batch",
    "fixed": "nothing random",
}


def gallery(
    *,
    image: Path | None = None,
    data: str = "auto",
    data_root: Path = Path("data"),
    out: Path = Path("gallery"),
    backends: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Path]:
    """``draw_gallery`` for a photograph, or else for an image of a data set, with progress on the terminal.

    Raises ValueError, in one line, for what cannot be read and for unknown names, OSError when nothing can be written.
    """
    chosen = _backends(backends)  # names are checked before a data set is decoded
    subjects = _subjects(ops, recipes)
    images = load_photograph(image) if image else _some_images(data, data_root)
    with Progress(transient=True) as bar:
        task = bar.add_task("gallery", total=len(chosen) * len(subjects) * (2 if len(chosen) > 1 else 1))
        drawn = lambda: bar.advance(task)  # noqa: E731
        return draw_gallery(images, out, backends=backends, ops=ops, recipes=recipes, seed=seed, drawn=drawn)


def _some_images(data: str, root: Path) -> Tensor:
    """RESULTS images spread over the classes of a data set, uint8 [N, 3, S, S]."""
    dataset = load(data, root=root, image_size=_side(Path(data)))
    return spread_out(dataset.train.images)


def spread_out(images: Tensor) -> Tensor:
    """RESULTS of a data set's images, or all where it has fewer, from its first to its last."""
    return images[torch.linspace(0, len(images) - 1, min(RESULTS, len(images))).long()]


def _side(folder: Path) -> int:
    """The size at which to decode a data set: the usual one, or for a folder of larger images that of its first image."""
    first = next((path for path in sorted(folder.glob("train/*/*")) if path.suffix.lower() in PHOTO_SUFFIXES), None)
    return USUAL if first is None else min(LARGEST, max(USUAL, min(load_photograph(first).shape[-2:])))


def load_photograph(path: Path) -> Tensor:
    """Read an image file as uint8 [1, 3, H, W], upright. Raises ValueError with one line if it cannot be read."""
    try:
        return torch.from_numpy(channels_first(upright(path.read_bytes())))[None]
    except DECODE_ERRORS as error:
        raise ValueError(f"cannot read an image from {path}: {one_line(error)}") from None


def draw_gallery(
    images: Tensor,
    out: Path,
    *,
    backends: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    seed: int = 0,
    drawn: Callable[[], object] = lambda: None,
) -> list[Path]:
    """Draw a sheet for each backend and, for two or more, one with the backends beside each other.

    Args:
        images: uint8 [N, 3, H, W]; the first is augmented, the others are partners in MixUp and CutMix (without others:
            flipped versions of the first). The centre square is taken, reduced to 128 pixels if it is larger.
        out: folder for ``gallery-<backend>.png`` and ``gallery-side-by-side.png``; made if missing.
        backends: names; None means all but the compiled ones, which draw what the others draw.
        ops, recipes: names; None for both means everything, None for one of them means none of that kind.
        seed: of all draws; the same seed gives the same sheets.
        drawn: called after each op or recipe of each sheet.

    Raises ValueError for unknown names and images that cannot be used, OSError when a file cannot be written.
    """
    chosen, subjects = _backends(backends), _subjects(ops, recipes)
    square = working_square(images)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for backend in chosen:
        blocks = []
        for subject in subjects:
            blocks.append(block(square, subject, backend, seed))
            drawn()
        paths.append(_backend_sheet(square, blocks, backend, seed, out / f"gallery-{backend}.png"))
    if len(chosen) > 1:
        rows = [row(square, subject, chosen, seed, drawn) for subject in subjects]
        paths.append(_side_by_side(square, rows, chosen, out / "gallery-side-by-side.png"))
    return paths


def _backends(names: Sequence[str] | None) -> list[str]:
    if names is None:
        return eager_backends(torch.device("cpu"))
    return list(dict.fromkeys(find_backend(name).name for name in names))


def _subjects(ops: Sequence[str] | None, recipes: Sequence[str] | None) -> list[str]:
    for what, names, known in (("op", ops, ROWS), ("recipe", recipes, RECIPES)):
        for name in names or ():
            if name not in known:
                raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    if ops is None and recipes is None:
        return [*ROWS, *RECIPES]
    return list(dict.fromkeys([*(ops or ()), *(recipes or ())]))


def working_square(images: Tensor) -> Tensor:
    """The centre squares of uint8 [N, 3, H, W] images, at most 128 pixels wide: uint8 [N, 3, S, S]."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or len(images) == 0:
        raise ValueError(f"the gallery needs uint8 images [N, 3, H, W], got {images.dtype} {list(images.shape)}")
    height, width = images.shape[-2:]
    side = min(height, width)
    if side < SMALLEST:
        raise ValueError(f"the gallery needs images of at least {SMALLEST} x {SMALLEST} pixels, got {width} x {height}")
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, :, top : top + side, left : left + side]
    if side > LARGEST:
        small = [Image.fromarray(_array(image)).resize((LARGEST, LARGEST), Image.Resampling.LANCZOS) for image in square]
        square = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in small])
    return square.contiguous()


def _array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


# ---- results ----------------------------------------------------------------------------------------------------------


def results(images: Tensor, subject: str | Sequence[Op], backend: str, seed: int, count: int = RESULTS) -> list[Panel]:
    """``count`` random results for the first of the images, denormalised to uint8.

    Where all is drawn per image they are one batch of copies; otherwise each is a batch of its own, and where nothing is
    random there is only one. Mixing takes the other images as partners and says how much of the own label is left.
    Raises UnsupportedOp.
    """
    generator = torch.Generator().manual_seed(seed)
    device = place(backend, images.device)
    images = images.to(device)
    pipeline = build(subject, backend, device=device, image_size=images.shape[-1], num_classes=2, generator=generator)
    if pipeline.mixes:
        return [_mixed(pipeline, batch) for batch in itertools.islice(_partnered(images), count)]
    first = images[:1]
    if pipeline.draws == "per_image":
        batch = pipeline(first.expand(count, -1, -1, -1).contiguous())
    else:
        batch = torch.cat([pipeline(first) for _ in range(1 if pipeline.draws == "fixed" else count)])
    return [Panel(image=_array(image)) for image in _shown(batch.cpu(), pipeline)]


def _partnered(images: Tensor) -> Iterator[Tensor]:
    """Batches that begin with the first image; its partners take turns in the place behind it and in the last one."""
    others = images[1:RESULTS]
    if len(others) == 0:
        first = images[:1]
        others = torch.cat([first.flip(-1), first.flip(-2), first.rot90(1, (-2, -1)), first.flip(-1, -2)])
    for turn in itertools.count():
        yield torch.cat([images[:1], others.roll(turn, 0)])


def _mixed(pipeline: Pipeline, batch: Tensor) -> Panel:
    labels = torch.ones(len(batch), dtype=torch.int64)
    labels[0] = 0  # so that the first column of the targets is the weight of the first image's label
    mixed, targets = pipeline(batch, labels)
    return Panel(image=_array(_shown(mixed[:1], pipeline)[0]), words=f"own label {float(targets[0, 0]):.2f}")


def _shown(batch: Tensor, pipeline: Pipeline) -> Tensor:
    """A pipeline's float result as uint8 images: normalisation is undone, the rest stays."""
    for op in reversed(pipeline.ops):
        if isinstance(op, Normalize):
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (op.mean, op.std))
            batch = batch * std + mean
    return to_dtype(batch, torch.uint8)


def _or_why_not(make: Callable[[], list[Panel]]) -> list[Panel]:
    """The panels, or one that says why there are none: a cell that fails must not take the sheet with it."""
    try:
        return make()
    except UnsupportedOp as error:
        reason = str(error).partition(": ")[2]
        return [Panel(image=None, words="unsupported" + (f": {reason}" if reason else ""))]
    except Exception as error:  # whatever a library raises
        return [Panel(image=None, words=f"failed: {one_line(error)}")]


def block(images: Tensor, subject: str, backend: str, seed: int) -> Block:
    """The part of a backend's sheet that shows an op or recipe."""
    panels = _or_why_not(lambda: results(images, subject, backend, seed))
    ops = resolve(subject, images.shape[-1])
    aside = CALLS[lane(ops, backend)] if panels[0].image is not None else ""
    return Block(title=subject, aside=aside, detail=_described(subject, ops), panels=panels)


def row(images: Tensor, subject: str, backends: Sequence[str], seed: int, drawn: Callable[[], object]) -> Block:
    """An op or recipe with one result of each backend; ``drawn`` is called after each."""
    panels = []
    for backend in backends:
        panels.append(single(images, subject, backend, seed))
        drawn()
    return Block(title=subject, detail=_described(subject, _calm(subject, images.shape[-1])), panels=panels)


def single(images: Tensor, subject: str, backend: str, seed: int) -> Panel:
    """One result for the sheet with the backends beside each other: pinned where the op can be, else the first of the
    draws with that seed that changes the image.
    """
    ops = _calm(subject, images.shape[-1])
    is_pinned = subject in ROWS and ROWS[subject].pinned_at is not None
    panels = _or_why_not(lambda: results(images, ops, backend, seed, count=1 if is_pinned else RESULTS))
    return next((panel for panel in panels if _differs(panel.image, _array(images[0]))), panels[0])


def _differs(image: np.ndarray | None, original: np.ndarray) -> bool:
    if image is None or image.shape != original.shape:
        return True
    return int(np.abs(image.astype(int) - original.astype(int)).max()) > 2  # undoing a normalisation may round


def _calm(subject: str, side: int) -> tuple[Op, ...]:
    """An op in its pinned setting, or else applied for certain; recipes stay as they are."""
    if subject not in ROWS:
        return resolve(subject, side)
    row = ROWS[subject]
    op = row.pinned_at(side) if row.pinned_at else row.at(side)
    if row.pinned_at is None and hasattr(op, "p"):
        changes: dict[str, Any] = {"p": 1.0}  # Op itself has no p, which mypy would hold against a keyword
        op = dataclasses.replace(op, **changes)
    return (op,)


# ---- words ------------------------------------------------------------------------------------------------------------


def _value(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        low, high = (f"{item:g}" for item in value)
        return low if low == high else f"{low}…{high}"
    if isinstance(value, tuple):
        return "/".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameters(op: Op) -> str:
    pairs = [(f.name, getattr(op, f.name)) for f in dataclasses.fields(op)]
    return ", ".join(f"{name} {_value(value)}" for name, value in pairs) or "no parameters"


def _described(subject: str, ops: Sequence[Op]) -> str:
    return _parameters(ops[0]) if subject in ROWS else " → ".join(op.name for op in ops)


# ---- sheets -----------------------------------------------------------------------------------------------------------


def _backend_sheet(images: Tensor, blocks: Sequence[Block], backend: str, seed: int, path: Path) -> Path:
    across = min(BLOCKS_ACROSS, max(2, len(blocks)))  # the header needs the width of two
    width = 2 * MARGIN + across * BLOCK_WIDTH + (across - 1) * BLOCK_GAP
    down = -(-len(blocks) // BLOCKS_ACROSS)
    sheet = Sheet(width, 2 * MARGIN + HEADER + down * (BLOCK_HEIGHT + BLOCK_GAP))
    side = images.shape[-1]
    sheet.panel(MARGIN, MARGIN, Panel(image=_array(images[0])), side)
    x = MARGIN + PANEL + 16
    sheet.text(x, MARGIN, backend, size=22, bold=True)
    note = (
        f"{BACKENDS[backend].about}. Left: the original, {side} x {side} pixels. Below: {RESULTS} random results of each op "
        f"and recipe with seed {seed} (one where nothing is random); what is drawn per batch comes from {RESULTS} calls. "
        "Normalisation is undone for showing."
    )
    sheet.lines(x, MARGIN + 34, note, width - x - MARGIN, count=5, quiet=True)
    for i, one in enumerate(blocks):
        row, column = divmod(i, BLOCKS_ACROSS)
        left = MARGIN + column * (BLOCK_WIDTH + BLOCK_GAP)
        sheet.block(left, MARGIN + HEADER + row * (BLOCK_HEIGHT + BLOCK_GAP), one, side)
    sheet.save(path)
    return path


def _side_by_side(images: Tensor, rows: Sequence[Block], backends: Sequence[str], path: Path) -> Path:
    """Rows are ops and recipes, in two halves beside each other when there are many; columns are the original and backends."""
    halves = 2 if len(rows) > 8 else 1
    down = -(-len(rows) // halves)
    half_width = LABEL_WIDTH + (1 + len(backends)) * (PANEL + GAP)
    sheet = Sheet(halves * half_width + (halves + 1) * MARGIN, 2 * MARGIN + SIDE_HEADER + down * (PANEL + GAP))
    sheet.text(MARGIN, MARGIN, "Backends side by side", size=22, bold=True)
    note = (
        "Ops in a pinned setting where they have one: there the columns agree where the libraries do (Default… ops: each "
        "library as it comes). Otherwise the first draw that changes the image, from the same seed, which each library uses in "
        "its own way. Normalisation is undone for showing."
    )
    sheet.lines(MARGIN, MARGIN + 34, note, half_width * halves - MARGIN, count=3, quiet=True)
    original = Panel(image=_array(images[0]))
    for i, row in enumerate(rows):
        half, line = divmod(i, down)
        left, top = MARGIN + half * (half_width + MARGIN), MARGIN + SIDE_HEADER + line * (PANEL + GAP)
        columns = [left + LABEL_WIDTH + column * (PANEL + GAP) for column in range(1 + len(backends))]
        for x, name in zip(columns, ("original", *backends), strict=True):
            if line == 0:
                sheet.text(x, top - 18, name, size=11)
        sheet.text(left, top + 8, row.title, size=14, bold=True)
        sheet.lines(left, top + 30, row.detail, LABEL_WIDTH - 16, count=5, quiet=True)
        for x, panel in zip(columns, (original, *row.panels), strict=True):
            sheet.panel(x, top, panel, images.shape[-1])
    sheet.save(path)
    return path
