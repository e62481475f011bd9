"""Albumentations against torchvision's functionals, on the parameters that it drew."""

import pytest
import torch

from augment.audit import audit
from augment.backends import albumentations
from augment.ops.colour import ABOUT_BLACK, ADDITIVE, OWN_COUNT, WHITE_UNCOUNTED
from augment.ops.defaults import LINEAR, WIDE

installed = pytest.mark.skipif(
    albumentations.PACKAGE.why_not(torch.device("cpu")) is not None, reason="Albumentations is not installed"
)
EXACT = (
    *("HorizontalFlip", "VerticalFlip", "RandomCrop", "ReflectCrop", "Rotate", "CenterCrop", "Brightness", "Contrast", "Hue"),
    *("Saturation", "ColorJitter", "Grayscale", "Solarize", "Posterize", "Invert", "GaussianBlur", "Normalize", "Cutout"),
)


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
