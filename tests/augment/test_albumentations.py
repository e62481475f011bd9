"""Albumentations against torchvision's functionals, on the parameters that it drew."""

import pytest
import torch

from augment import build
from augment.audit import audit
from augment.backends import albumentations
from augment.ops.colour import ABOUT_BLACK, ADDITIVE, OWN_COUNT, WHITE_UNCOUNTED
from augment.ops.defaults import LINEAR, WIDE

installed = pytest.mark.skipif(
    albumentations.PACKAGE.why_not(torch.device("cpu")) is not None, reason="Albumentations is not installed"
)
EXACT: tuple[str, ...] = (
    "HorizontalFlip",
    "VerticalFlip",
    "RandomCrop",
    "ReflectCrop",
    "Rotate",
    "CenterCrop",
    "Brightness",
    "Contrast",
    "Saturation",
    "Hue",
)
EXACT += ("ColorJitter", "Grayscale", "Solarize", "Posterize", "Invert", "GaussianBlur", "Normalize", "Cutout")


@installed
def test_ops_are_torchvisions_with_a_draw_for_each_image() -> None:
    """Replayed by the audit, whose oracles are torchvision's functionals; one grey step is its tolerance."""
    report = audit(["albumentations"], EXACT, ["flip", "crop_flip", "airbench"], n=500)
    assert {cell.subject: (cell.verdict, cell.cause) for cell in report.verdicts if cell.verdict != "exact"} == {}
    assert {cell.lane.measured for cell in report.verdicts if cell.lane is not None} <= {"per_image", "fixed"}
    assert [check for cell in report.verdicts for check in cell.checks if not check.ok] == []


NAMED = {
    "Resize": ("different", "no antialias"),
    "Equalize": ("different", OWN_COUNT),
    "AutoContrast": ("close", WHITE_UNCOUNTED),
    "DefaultRotate": ("different", LINEAR),
    "DefaultResize": ("different", "no antialias"),
    "DefaultBrightness": ("different", ADDITIVE),
    "DefaultContrast": ("different", ABOUT_BLACK),
    "DefaultGaussianBlur": ("different", WIDE),
}


@installed
def test_differences_are_named_by_replay() -> None:
    report = audit(["albumentations"], [*NAMED, "DefaultSaturation", "DefaultColorJitter"], [], n=500, workers=False)
    named = {cell.subject: (cell.verdict, cell.cause) for cell in report.verdicts if cell.cause}
    assert (named, report.findings) == (NAMED, ())


@installed
@pytest.mark.parametrize("recipe", ["crop_flip", "d2l"])
def test_equal_seeds_give_equal_batches_and_calls_differ(recipe: str) -> None:
    images, batches = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8), []
    for _ in range(2):
        pipeline = build(recipe, "albumentations", generator=torch.Generator().manual_seed(1))
        batches.append((pipeline(images), pipeline(images)))
    assert batches[0][0].equal(batches[1][0])
    assert batches[0][1].equal(batches[1][1])
    assert not batches[0][0].equal(batches[0][1])
