"""Galleries show what pipelines make of an image: panels against torch's own arithmetic, sheets pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from augment.ops import HorizontalFlip, Op, VerticalFlip
from augment.ops import Normalize as NormalizeOp
from bench.pictures.gallery import draw_gallery, gallery, load_photograph, results, single, working_square
from bench.pictures.sheets import (
    BLOCK_GAP,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    GAP,
    LINE,
    MARGIN,
    PANEL,
    Block,
    Panel,
    Sheet,
    scaled,
    wrapped,
)
from bench.pictures.sheets import _font as font


def noise(count: int = 1, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def shown(panel: Panel) -> Tensor:
    assert panel.image is not None, panel.words
    return torch.from_numpy(panel.image).permute(2, 0, 1)


@pytest.mark.parametrize("backend", ["pil", "torchvision_loop", "torchvision", "kornia", "kornia_shared"])
def test_flip_panels_are_the_flipped_input(backend: str) -> None:
    """Exact: flips move values, and uint8 -> float -> uint8 brings each back."""
    images = noise()
    assert torch.equal(shown(single(images, "HorizontalFlip", backend, seed=0)), images[0].flip(-1))
    assert torch.equal(shown(single(images, "VerticalFlip", backend, seed=0)), images[0].flip(-2))


@pytest.mark.parametrize("backend", ["torchvision_loop", "torchvision", "kornia", "kornia_shared"])
def test_eight_results_are_eight_draws(backend: str) -> None:
    """Each panel is the image or its mirror image, and both appear: all equal by chance once in 128 seeds, not in this one."""
    images = noise()
    panels = [shown(panel) for panel in results(images, "HorizontalFlip", backend, seed=1)]
    mirrored = [torch.equal(panel, images[0].flip(-1)) for panel in panels]
    assert len(panels) == 8
    assert all(flipped or torch.equal(panel, images[0]) for flipped, panel in zip(mirrored, panels, strict=True))
    assert len(set(mirrored)) == 2


@pytest.mark.parametrize("backend", ["pil", "torchvision", "kornia"])
def test_normalisation_is_undone_for_showing(backend: str) -> None:
    """Within 1/255: mean and std are applied and undone in float32, then rounded to uint8."""
    images = noise()
    ops: list[Op] = [VerticalFlip(p=1.0), NormalizeOp(mean=(0.1, 0.5, 0.9), std=(0.3, 0.2, 0.1))]
    difference = shown(results(images, ops, backend, seed=0)[0]).int() - images[0].flip(-2).int()
    assert difference.abs().max() <= 1


def test_nothing_random_is_shown_once() -> None:
    assert len(results(noise(), "CenterCrop", "torchvision", seed=0)) == 1


@pytest.mark.parametrize("backend", ["torchvision", "kornia"])
def test_mixup_words_are_the_weight_of_the_first_image(backend: str) -> None:
    """Black mixed with white is grey of 1 - weight: the words must agree, to their two digits and a grey level."""
    images = torch.cat([torch.zeros(1, 3, 32, 32), torch.full((3, 3, 32, 32), 255)]).to(torch.uint8)
    for panel in results(images, "MixUp", backend, seed=0):
        weight = float(panel.words.removeprefix("own label "))
        assert float(shown(panel).float().mean()) / 255 == pytest.approx(1 - weight, abs=0.005 + 1 / 255)


def test_the_same_seed_gives_the_same_panels() -> None:
    first, again, other = (results(noise(), "crop_flip", "kornia", seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(shown(a), shown(b)) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(shown(a), shown(b)) for a, b in zip(first, other, strict=True))


def test_what_a_backend_lacks_says_so_and_the_rest_is_drawn(tmp_path: Path) -> None:
    assert single(noise(), "AugMix", "kornia", seed=0) == Panel(image=None, words="unsupported")
    paths = draw_gallery(noise(), tmp_path, backends=["kornia"], ops=["AugMix", "Invert"])
    assert [path.name for path in paths] == ["gallery-kornia.png"]


def test_a_cell_that_fails_does_not_take_the_sheet_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr("bench.pictures.gallery.build", broken)
    assert single(noise(), "Invert", "torchvision", seed=0).words == "failed: no kernel"
    assert draw_gallery(noise(), tmp_path, backends=["torchvision"], ops=["Invert"])[0].exists()


def test_a_sheet_holds_the_panels_pixel_by_pixel(tmp_path: Path) -> None:
    """A 32-pixel image fills its panel four times enlarged, each pixel repeated, at the place of the first panel."""
    image = noise()[0].permute(1, 2, 0).numpy()
    sheet = Sheet(2 * MARGIN + BLOCK_WIDTH, 2 * MARGIN + BLOCK_HEIGHT)
    sheet.block(MARGIN, MARGIN, Block(title="x", panels=[Panel(image=image), Panel(image=image[:, ::-1])]), side=32)
    sheet.save(tmp_path / "sheet.png")
    pixels = np.array(Image.open(tmp_path / "sheet.png"))
    top = MARGIN + 3 * LINE + 8
    enlarged = image.repeat(PANEL // 32, axis=0).repeat(PANEL // 32, axis=1)
    assert np.array_equal(pixels[top : top + PANEL, MARGIN : MARGIN + PANEL], enlarged)
    left = MARGIN + PANEL + GAP
    assert np.array_equal(pixels[top : top + PANEL, left : left + PANEL], enlarged[:, ::-1])


def test_a_gallery_has_a_sheet_a_backend_and_one_for_all(tmp_path: Path) -> None:
    paths = draw_gallery(
        noise(3), tmp_path / "new", backends=["torchvision", "pil"], ops=["Rotate"], recipes=["cutmix", "flip"]
    )
    assert [path.name for path in paths] == ["gallery-torchvision.png", "gallery-pil.png", "gallery-side-by-side.png"]
    width, height = Image.open(paths[0]).size
    assert width == 2 * MARGIN + 3 * BLOCK_WIDTH + 2 * BLOCK_GAP
    assert height > BLOCK_HEIGHT


def test_the_original_comes_first(tmp_path: Path) -> None:
    images = noise()
    path = draw_gallery(images, tmp_path, backends=["torchvision"], ops=["Invert"])[0]
    corner = np.array(Image.open(path))[MARGIN : MARGIN + PANEL, MARGIN : MARGIN + PANEL]
    assert np.array_equal(corner, np.array(scaled(images[0].permute(1, 2, 0).numpy(), 32)))


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


def test_images_are_read_upright_and_in_colour(tmp_path: Path) -> None:
    """Grey with transparency, and a photograph that its EXIF tag turns by 90 degrees: the red left half comes out on top."""
    Image.new("LA", (20, 30), (100, 128)).save(tmp_path / "grey.png")
    assert load_photograph(tmp_path / "grey.png").shape == (1, 3, 30, 20)
    turned = Image.new("RGB", (40, 20), (0, 0, 255))
    turned.paste((255, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn 90 degrees clockwise to show"
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = load_photograph(tmp_path / "turned.png")
    assert upright.shape == (1, 3, 40, 20)
    assert upright[0, :, 5, 10].tolist() == [255, 0, 0]


def test_photographs_are_decoded_as_in_training(tmp_path: Path) -> None:
    """16 bits: the upper 8, where Pillow's own conversion would make all but the darkest white."""
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150).save(tmp_path / "deep.png")
    expected = torch.arange(400).mul(150).div(256, rounding_mode="floor").view(1, 1, 20, 20).expand(-1, 3, -1, -1)
    assert load_photograph(tmp_path / "deep.png").equal(expected.to(torch.uint8))


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "words.jpg"
    text.write_text("no image")
    whole = tmp_path / "whole.jpg"
    Image.fromarray(noise(side=64)[0].permute(1, 2, 0).numpy()).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-500])
    for path in (text, cut, tmp_path / "missing.png", tmp_path):
        with pytest.raises(ValueError, match="cannot read an image from") as caught:
            gallery(image=path, out=tmp_path / "out")
        assert "\n" not in str(caught.value)
    for names in ({"backends": ["nope"]}, {"ops": ["nope"]}, {"recipes": ["nope"]}):
        with pytest.raises(ValueError, match=r"unknown .* 'nope'; known: "):
            gallery(image=whole, out=tmp_path / "out", **names)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 16 x 16"):
        working_square(noise(side=8))
    with pytest.raises(ValueError, match="uint8"):
        working_square(noise().float())
    assert not (tmp_path / "out").exists()


def test_captions_fit_their_width() -> None:
    text = "RandomCrop then HorizontalFlip then ColorJitter then RandomResizedCrop then Normalize and much more than fits"
    lines = wrapped(text, 160, font(12), 3)
    assert len(lines) == 3
    assert all(font(12).getlength(line) <= 160 for line in lines)
    assert lines[-1].endswith("…")
    assert wrapped("short", 160, font(12), 3) == ["short"]


def test_an_op_by_value_is_drawn_too() -> None:
    images = noise()
    assert torch.equal(shown(results(images, [HorizontalFlip(p=1.0)], "torchvision", seed=0, count=1)[0]), images[0].flip(-1))
