"""Strips: what each op and recipe does on each backend, and how far from the reference, small enough to travel in a report.

A strip is one picture: a column for the original and each backend, the results above, their differences below. A run's folder
keeps them with ``gallery.json``, from which the report reads what they show; the report itself needs no torch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from augment.catalog import BACKENDS, ROWS, eager_backends, lane, resolve
from augment.recipes import RECIPES
from bench.pictures.gallery import row, working_square
from bench.pictures.sheets import Panel
from bench.records.runs import GALLERY, SCHEMA, write_json

SIDE, GAP = 64, 2
"""Pixels: larger images are reduced to the side, so that all strips together stay below a few megabytes."""
ENHANCED = 8
"""Differences are multiplied by this, else nobody would see one of 3/255."""
REFERENCES = ("torchvision", "torchvision_loop", "fused", "kornia", "pil")
"""What the others are held against: the first of these that is there."""


def draw_strips(
    images: Tensor,
    folder: Path,
    *,
    dataset: str,
    backends: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    seed: int = 0,
    drawn: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Write a PNG for every op and recipe, and gallery.json, into a run's gallery; returns what gallery.json says.

    Args:
        images: uint8 [N, 3, H, W]; the most colourful is augmented, the others are partners in MixUp and CutMix.
        folder: that of the run.
        dataset: what the images are called.
        backends: names; None means all but the compiled ones, which draw what the others draw.
        ops, recipes: names; None means all.
        seed: of all draws.
        drawn: called after each backend of each strip.

    Raises ValueError for images that cannot be used, OSError when a file cannot be written.
    """
    square = _colourful_first(_small(working_square(images)))
    chosen = eager_backends(square.device) if backends is None else backends
    names = [b.name for b in BACKENDS.values() if not b.compiled and b.name in chosen]
    reference = next((name for name in REFERENCES if name in names), names[0])
    out = (folder / GALLERY).parent
    out.mkdir(parents=True, exist_ok=True)
    subjects = [*(ROWS if ops is None else ops), *(RECIPES if recipes is None else recipes)]
    side = square.shape[-1]
    shown = [_strip(square, subject, names, reference, seed, out, drawn) for subject in subjects]
    record = {
        **{"schema": SCHEMA, "dataset": dataset, "side": side, "cell": side + GAP, "seed": seed},
        **{"reference": reference, "enhanced": ENHANCED, "columns": ["original", *names], "subjects": shown},
    }
    write_json(folder / GALLERY, record)
    return record


def _small(square: Tensor) -> Tensor:
    if square.shape[-1] <= SIDE:
        return square
    arrays = [Image.fromarray(_array(one)).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for one in square]
    stacked = np.stack([np.asarray(one) for one in arrays])
    return square.new_tensor(stacked).permute(0, 3, 1, 2).contiguous()


def _colourful_first(square: Tensor) -> Tensor:
    """On a grey image nobody sees what a change of hue does."""
    high, low = square.amax(1).float(), square.amin(1).float()
    return square[(high - low).mean((1, 2)).argsort(descending=True)]


def _array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


def _strip(
    square: Tensor, subject: str, names: Sequence[str], reference: str, seed: int, out: Path, drawn: Callable[[], object]
) -> dict[str, Any]:
    block = row(square, subject, names, seed, drawn)
    panels = dict(zip(names, block.panels, strict=True))
    comparable = _comparable(subject, square.shape[-1])
    against = panels[reference].image if comparable else None
    cells = {name: _cell(panels[name], None if name == reference else against) for name in names}
    images = [_array(square[0]), *(panels[name].image for name in names)]
    differences = [None, *(_difference(panels[name].image, against) if name != reference else None for name in names)]
    file = f"{subject}.png"
    _picture(images, differences if comparable else [], square.shape[-1]).save(out / file, optimize=True)
    kind = "op" if subject in ROWS else "recipe"
    told = {"subject": subject, "kind": kind, "detail": block.detail, "file": file, "comparable": comparable}
    return {**told, "cells": cells}


def _comparable(subject: str, side: int) -> bool:
    """Whether all backends were given the same parameters, so that a difference says something of the backend."""
    if subject in ROWS:
        return ROWS[subject].pinned_at is not None
    return lane(resolve(subject, side), REFERENCES[0]) == "fixed"


def _cell(panel: Panel, against: np.ndarray | None) -> dict[str, Any]:
    """What became of a cell, and its distance from the reference in units of 1/255."""
    if panel.image is None:
        return {"status": "unsupported" if panel.words.startswith("unsupported") else "failed", "reason": panel.words}
    if against is None or against.shape != panel.image.shape:
        return {"status": "ok"}
    error = np.abs(panel.image.astype(int) - against.astype(int))
    return {"status": "ok", "max_error": int(error.max()), "mean_error": round(float(error.mean()), 4)}


def _difference(image: np.ndarray | None, against: np.ndarray | None) -> np.ndarray | None:
    if image is None or against is None or image.shape != against.shape:
        return None
    return np.minimum(np.abs(image.astype(int) - against.astype(int)) * ENHANCED, 255).astype(np.uint8)


def _picture(images: Sequence[np.ndarray | None], differences: Sequence[np.ndarray | None], side: int) -> Image.Image:
    """Cells of ``side`` + GAP pixels, see-through where there is nothing."""
    cell = side + GAP
    rows = [images, differences] if differences else [images]
    picture = Image.new("RGBA", (len(images) * cell, len(rows) * cell), (0, 0, 0, 0))
    for down, arrays in enumerate(rows):
        for across, array in enumerate(arrays):
            if array is None:
                continue
            image = Image.fromarray(array)
            if max(image.size) > side:
                image.thumbnail((side, side), Image.Resampling.LANCZOS)
            inset = ((side - image.width) // 2, (side - image.height) // 2)
            picture.paste(image, (across * cell + inset[0], down * cell + inset[1]))
    return picture
