"""Galleries show what pipelines make of an image: panels against torch's own arithmetic, pictures pixel by pixel."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from augment.op import Op
from augment.ops import HorizontalFlip, VerticalFlip
from augment.ops import Normalize as NormalizeOp
from bench.gallery import (
    ENHANCED,
    GAP,
    RANDOM_ROWS,
    STRIP_SIDE,
    Panel,
    draw_page,
    draw_results,
    draw_single,
    draw_strips,
    tile,
    working_square,
)
from bench.records import Run
from bench.report.facts.gallery import INDEX, Gallery, load_gallery
from tests.conftest import one_line, present

BACKENDS = ("torchvision", "kornia", "fused")


def noise(count: int = 1, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def tensor(panel: Panel) -> Tensor:
    assert panel.image is not None, panel.words
    return torch.from_numpy(panel.image).permute(2, 0, 1)


# ---- results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["pil", "torchvision_loop", "torchvision", "kornia", "kornia_shared"])
def test_flip_panels_are_the_flipped_input(backend: str) -> None:
    """Exact: flips move values, and uint8 -> float -> uint8 brings each back."""
    images = noise()
    assert torch.equal(tensor(draw_single(images, "HorizontalFlip", backend, seed=0)), images[0].flip(-1))
    assert torch.equal(tensor(draw_single(images, "VerticalFlip", backend, seed=0)), images[0].flip(-2))


@pytest.mark.parametrize("backend", ["pil", "torchvision", "kornia"])
def test_normalisation_is_undone_for_showing(backend: str) -> None:
    """Within 1/255: mean and std are applied and undone in float32, then rounded to uint8."""
    images = noise()
    ops: list[Op] = [VerticalFlip(p=1.0), NormalizeOp(mean=(0.1, 0.5, 0.9), std=(0.3, 0.2, 0.1))]
    difference = tensor(draw_results(images, ops, backend, seed=0)[0]).int() - images[0].flip(-2).int()
    assert difference.abs().max() <= 1


def test_without_randomness_there_is_one_result() -> None:
    assert len(draw_results(noise(), "CenterCrop", "torchvision", seed=0)) == 1
    ops = [HorizontalFlip(p=1.0)]
    assert torch.equal(tensor(draw_results(noise(), ops, "torchvision", seed=0, count=1)[0]), noise()[0].flip(-1))


@pytest.mark.parametrize("backend", ["torchvision", "kornia"])
def test_mixup_shows_the_first_image_mixed_with_others(backend: str) -> None:
    """Black mixed with white is one grey, to a grey level."""
    images = torch.cat([torch.zeros(1, 3, 32, 32), torch.full((3, 3, 32, 32), 255)]).to(torch.uint8)
    greys = [tensor(panel) for panel in draw_results(images, "MixUp", backend, seed=0)]
    assert len(greys) == 8
    assert all(int(grey.max()) - int(grey.min()) <= 1 for grey in greys)
    assert len({int(grey.max()) for grey in greys}) > 1


def test_the_same_seed_gives_the_same_panels() -> None:
    first, again, reseeded = (draw_results(noise(), "crop_flip", "kornia", seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(tensor(a), tensor(b)) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(tensor(a), tensor(b)) for a, b in zip(first, reseeded, strict=True))


def test_a_cell_that_fails_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    assert draw_single(noise(), "AugMix", "kornia", seed=0) == Panel(image=None, words="unsupported")
    assert "it runs on CUDA only" in draw_single(noise(), "Invert", "cvcuda", seed=0).words
    monkeypatch.setattr("bench.gallery.build", fail)
    assert draw_single(noise(), "Invert", "torchvision", seed=0).words == "failed: no kernel"


# ---- images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "side"), [((500, 333), 128), ((40, 90), 40), ((16, 16), 16)])
def test_photographs_become_centre_squares(shape: tuple[int, int], side: int) -> None:
    """A white disc in the middle stays in the middle: its centre of mass is the square's, to half a pixel of resampling."""
    height, width = shape
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    image[..., height // 2 - 3 : height - height // 2 + 3, width // 2 - 3 : width - width // 2 + 3] = 255
    square = working_square(image)
    assert square.shape == (1, 3, side, side)
    mass = square[0, 0].float()
    middle = (mass.sum(0) * torch.arange(side)).sum() / mass.sum()
    assert float(middle) == pytest.approx((side - 1) / 2, abs=0.5)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    text, whole, cut = tmp_path / "words.jpg", tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    text.write_text("no image")
    Image.fromarray(noise(side=64)[0].permute(1, 2, 0).numpy()).save(whole)
    cut.write_bytes(whole.read_bytes()[:-500])
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (text, cut, tmp_path / "missing.png", tmp_path, tmp_path / "pipe.jpg", Path("/dev/zero")):
        with one_line("cannot read an image from"):
            draw_page(image=path, out=tmp_path / "out")
    with pytest.raises(ValueError, match="at least 16 x 16"):
        working_square(noise(side=8))
    with pytest.raises(ValueError, match="uint8"):
        working_square(noise().float())
    assert not (tmp_path / "out").exists()


# ---- strips ---------------------------------------------------------------------------------------------------------------


def test_the_page_shows_random_results_below_the_strips(tmp_path: Path) -> None:
    """Flips with p = 0.5: each of four random results is the image or its mirror image, pixel by pixel."""
    original = noise()[0].permute(1, 2, 0).numpy()
    Image.fromarray(original).save(tmp_path / "photo.png")
    chosen = {"backends": ["torchvision_loop", "kornia"], "ops": ["HorizontalFlip"], "recipes": ["cutmix"]}
    page = draw_page(image=tmp_path / "photo.png", out=tmp_path / "new", **chosen)  # type: ignore[arg-type]
    assert page.read_text().count("data:image/png;base64,") == 2
    gallery = present(load_gallery(Run(path=page.parent, name="new")))
    rows = cells(page.parent, gallery, "HorizontalFlip")
    assert len(rows) == 2 + RANDOM_ROWS
    assert f"The last {RANDOM_ROWS} rows of each strip: random results." in page.read_text()
    for row in rows[2:]:
        assert not row[0].any()
        assert all(
            np.array_equal(cell[..., :3], original) or np.array_equal(cell[..., :3], original[:, ::-1]) for cell in row[1:]
        )


def cells(folder: Path, gallery: Gallery, subject: str) -> list[list[np.ndarray]]:
    """Return the cells of a strip, rows above each other, uint8 [side, side, 4]."""
    (picture,) = (picture for picture in gallery.pictures if picture.subject == subject)
    pixels = np.asarray(Image.open((folder / INDEX).parent / picture.file))
    rows = [pixels[top : top + gallery.side] for top in range(0, pixels.shape[0], gallery.cell)]
    return [[row[:, left : left + gallery.side] for left in range(0, pixels.shape[1], gallery.cell)] for row in rows]


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gallery, np.ndarray]:
    """Draw strips of two images, the second of which is the more colourful."""
    grey = noise()[:, :1].expand(-1, 3, -1, -1)
    folder = tmp_path_factory.mktemp("run")
    ops = ("HorizontalFlip", "Resize", "Invert", "AugMix", "ColorJitter")
    gallery = draw_strips(
        torch.cat([grey, noise()]), folder, dataset="x", backends=BACKENDS, ops=ops, recipes=("none", "crop_flip"), seed=5
    )
    return folder, gallery, noise()[0].permute(1, 2, 0).numpy()


def test_strips_are_drawn_with_the_seed(strips: tuple[Path, Gallery, np.ndarray]) -> None:
    images = torch.cat([noise(), noise()[:, :1].expand(-1, 3, -1, -1)])
    shown = cells(strips[0], strips[1], "ColorJitter")[0][1 + BACKENDS.index("kornia")][..., :3]
    alike, differing = (draw_single(images, "ColorJitter", "kornia", seed).image for seed in (5, 0))
    assert np.array_equal(shown, present(alike))
    assert not np.array_equal(shown, present(differing))


def test_pictures_show_what_the_op_does(strips: tuple[Path, Gallery, np.ndarray]) -> None:
    """A flip and an inversion, done again with numpy; to_dtype and back may round by one."""
    folder, gallery, original = strips
    for subject, expected in (("HorizontalFlip", original[:, ::-1]), ("Invert", 255 - original)):
        first, *results = cells(folder, gallery, subject)[0]
        assert np.array_equal(first[..., :3], original)
        assert all(np.abs(pixels[..., :3].astype(int) - expected.astype(int)).max() <= 1 for pixels in results)


def test_differences_are_those_of_the_pictures(strips: tuple[Path, Gallery, np.ndarray]) -> None:
    """Recomputed from the pictures in the file: kornia resizes otherwise than torchvision, which is the reference."""
    folder, gallery, _ = strips
    above, below = cells(folder, gallery, "Resize")
    (picture,) = (picture for picture in gallery.pictures if picture.subject == "Resize")
    reference, kornia = (above[1 + BACKENDS.index(name)].astype(int) for name in ("torchvision", "kornia"))
    inside = kornia[..., 3] > 0  # a smaller result stands in the middle of its cell
    error = np.abs(kornia - reference)[..., :3]
    assert error.max() > 1
    assert np.array_equal(below[2][inside][:, :3], np.minimum(ENHANCED * error, 255)[inside])
    assert picture.errors["kornia"] == pytest.approx((error.max(), error[inside].mean()), abs=1e-4)  # stored with four places
    assert not below[0].any()
    assert not below[1].any(), "the reference does not differ from itself"
    assert "torchvision" not in picture.errors


def test_drawn_parameters_show_no_difference_and_gaps_their_reason(strips: tuple[Path, Gallery, np.ndarray]) -> None:
    folder, gallery, _ = strips
    pictures = {picture.subject: picture for picture in gallery.pictures}
    for subject in ("ColorJitter", "crop_flip"):
        assert len(cells(folder, gallery, subject)) == 1
        assert not pictures[subject].errors
    assert (len(cells(folder, gallery, "none")), pictures["AugMix"].reasons) == (2, {"kornia": "unsupported"})
    assert not cells(folder, gallery, "AugMix")[0][2].any()
    assert load_gallery(Run(path=folder, name="run")) == gallery


def test_large_images_become_small(tmp_path: Path) -> None:
    """A photograph of 300 x 200 pixels: its strip has cells of STRIP_SIDE, so that a page of strips stays small."""
    images = torch.randint(0, 256, (2, 3, 200, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gallery = draw_strips(images, tmp_path, dataset="x", backends=("torchvision",), ops=("Invert",), recipes=())
    with Image.open((tmp_path / INDEX).parent / "Invert.png") as picture:
        assert picture.size == (2 * (STRIP_SIDE + GAP), 2 * (STRIP_SIDE + GAP))
    assert gallery.cell == STRIP_SIDE + GAP
    assert tile([[None, None]], 4).size == (12, 6)
