"""DALI's dynamic mode against torchvision's functionals, on the parameters that it drew."""

import pytest
import torch

from augment import build
from augment.audit import audit
from augment.backends import dali, find_backend
from augment.op import UnsupportedOp

needs_dali = pytest.mark.skipif(dali.why_not(torch.device("cpu")) is not None, reason="DALI is not installed")
EXACT: tuple[str, ...] = (
    "HorizontalFlip",
    "VerticalFlip",
    "RandomCrop",
    "RandomResizedCrop",
    "Rotate",
    "CenterCrop",
    "Brightness",
    "Contrast",
)
EXACT += ("Saturation", "Grayscale", "GaussianBlur", "Normalize", "Cutout")


@needs_dali
def test_ops_are_torchvisions_with_a_draw_for_each_image() -> None:
    """Replayed by the audit, whose oracles are torchvision's functionals; one grey step is its tolerance."""
    report = audit(["dali"], EXACT, ["flip", "crop_flip", "imagenet"], n=500, workers=False)
    assert {cell.subject: (cell.verdict, cell.cause) for cell in report.verdicts if cell.verdict != "exact"} == {}
    assert {cell.lane.measured for cell in report.verdicts if cell.lane is not None} <= {"per_image", "fixed"}


@needs_dali
@pytest.mark.parametrize("recipe", ["crop_flip", "crop_jitter"])
def test_equal_seeds_give_equal_batches_and_calls_differ(recipe: str) -> None:
    images, batches = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8), []
    for _ in range(2):
        pipeline = build(recipe, "dali", generator=torch.Generator().manual_seed(1))
        batches.append((pipeline(images), pipeline(images)))
    assert batches[0][0].equal(batches[1][0])
    assert batches[0][1].equal(batches[1][1])
    assert not batches[0][0].equal(batches[0][1])


def test_without_the_package_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali, "installed", lambda: None)
    with pytest.raises(UnsupportedOp, match=r"package is missing: pip install -e '\.\[dali\]'"):
        build("flip", "dali")


def test_another_release_is_tried_after_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali, "installed", lambda: "9.0.0")
    with pytest.warns(RuntimeWarning, match=r"DALI 9\.0\.0 is not the tested 2\.4"):
        assert dali.why_not(torch.device("cpu")) is None


def test_it_stays_out_of_loader_workers() -> None:
    assert not find_backend("dali").forks
