"""The gallery in a run's folder: the pictures are what the backends do, and their differences what they say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.pictures.strips import ENHANCED, GAP, SIDE, draw_strips
from bench.records.runs import GALLERY, load_run

BACKENDS = ("torchvision", "kornia", "fused")


def cells(folder: Path, told: dict[str, Any], subject: str) -> list[list[np.ndarray]]:
    """The cells of a strip, rows above each other, uint8 [side, side, 4]."""
    (one,) = (found for found in told["subjects"] if found["subject"] == subject)
    picture = np.asarray(Image.open((folder / GALLERY).parent / one["file"]))
    side, cell = told["side"], told["cell"]
    rows = [picture[top : top + side] for top in range(0, picture.shape[0], cell)]
    return [[row[:, left : left + side] for left in range(0, picture.shape[1], cell)] for row in rows]


def most_colourful(images: Tensor) -> np.ndarray:
    values = images.permute(0, 2, 3, 1).numpy().astype(int)
    return images.permute(0, 2, 3, 1).numpy()[(values.max(-1) - values.min(-1)).mean((1, 2)).argmax()]


@pytest.fixture
def drawn(tmp_path: Path, images: Tensor) -> tuple[Path, dict[str, Any]]:
    ops = ("HorizontalFlip", "Resize", "Invert", "AugMix", "ColorJitter")
    told = draw_strips(images, tmp_path, dataset="shapes", backends=BACKENDS, ops=ops, recipes=("none", "crop_flip"))
    return tmp_path, told


def test_pictures_show_what_the_op_does(drawn: tuple[Path, dict[str, Any]], images: Tensor) -> None:
    """A flip and an inversion, done again with numpy; to_dtype and back may round by one."""
    folder, told = drawn
    original = most_colourful(images)
    assert told["columns"] == ["original", *BACKENDS]
    for subject, expected in (("HorizontalFlip", original[:, ::-1]), ("Invert", 255 - original)):
        above = cells(folder, told, subject)[0]
        assert np.array_equal(above[0][..., :3], original)
        assert all(np.abs(one[..., :3].astype(int) - expected.astype(int)).max() <= 1 for one in above[1:])


def test_differences_are_those_of_the_pictures(drawn: tuple[Path, dict[str, Any]]) -> None:
    """Recomputed from the pictures in the file: kornia resizes otherwise than torchvision, which is the reference."""
    folder, told = drawn
    above, below = cells(folder, told, "Resize")
    (one,) = (found for found in told["subjects"] if found["subject"] == "Resize")
    reference, kornia = (above[1 + BACKENDS.index(name)].astype(int) for name in ("torchvision", "kornia"))
    there = kornia[..., 3] > 0  # a smaller result stands in the middle of its cell
    error = np.abs(kornia - reference)[..., :3]
    assert error.max() > 1
    assert np.array_equal(below[2][there][:, :3], np.minimum(ENHANCED * error, 255)[there])
    assert one["cells"]["kornia"]["max_error"] == error.max()
    assert one["cells"]["kornia"]["mean_error"] == pytest.approx(error[there].mean(), abs=1e-4)  # stored with four places
    assert not below[0].any()
    assert not below[1].any(), "the reference does not differ from itself"
    assert "max_error" not in one["cells"]["torchvision"]


def test_random_draws_have_no_difference(drawn: tuple[Path, dict[str, Any]]) -> None:
    folder, told = drawn
    for subject in ("ColorJitter", "crop_flip"):
        (one,) = (found for found in told["subjects"] if found["subject"] == subject)
        assert not one["comparable"]
        assert len(cells(folder, told, subject)) == 1
        assert all("max_error" not in cell for cell in one["cells"].values())
    assert len(cells(folder, told, "none")) == 2


def test_what_a_backend_lacks_is_said(drawn: tuple[Path, dict[str, Any]]) -> None:
    folder, told = drawn
    (one,) = (found for found in told["subjects"] if found["subject"] == "AugMix")
    assert one["cells"]["kornia"]["status"] == "unsupported"
    assert not cells(folder, told, "AugMix")[0][2].any()


def test_the_run_reads_it_back(drawn: tuple[Path, dict[str, Any]]) -> None:
    folder, told = drawn
    (folder / "environment.json").write_text(json.dumps({"machine": "box"}))
    assert load_run(folder).gallery == told


def test_large_images_become_small(tmp_path: Path) -> None:
    """A photograph of 300 x 200 pixels: its strip has cells of SIDE, so that a page of strips stays small."""
    images = torch.randint(0, 256, (2, 3, 200, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    told = draw_strips(images, tmp_path, dataset="x", backends=("torchvision",), ops=("Invert",), recipes=())
    with Image.open((tmp_path / GALLERY).parent / "Invert.png") as picture:
        assert picture.size == (2 * (SIDE + GAP), 2 * (SIDE + GAP))
    assert told["cell"] == SIDE + GAP
