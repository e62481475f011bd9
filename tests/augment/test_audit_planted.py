"""Errors planted into a cell of the catalog, one at a time: the audit must name each."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from augment import catalog, compose
from augment.audit import AuditReport, Verdict, audit, comparable
from augment.ops import Brightness, DefaultBrightness, HorizontalFlip, MixUp, Rotate

pytestmark = pytest.mark.usefixtures("one_thread")


def _plant(monkeypatch: pytest.MonkeyPatch, op: str, library: str, builder: Callable[..., Any]) -> None:
    row = catalog.ROWS[op]
    monkeypatch.setitem(catalog.ROWS, op, dataclasses.replace(row, build={**row.build, library: builder}))  # type: ignore[dict-item]


def _report(op: str, *backends: str, n: int = 10_000) -> AuditReport:
    return audit(backends, [op], [], n=n, workers=False)


def _verdict(op: str, backend: str, n: int = 10_000) -> Verdict:
    found = _report(op, backend, n=n).find(op, backend)
    assert found is not None
    return found


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.factor).clamp(0, 1)


def test_brightness_off_by_three_percent_in_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def builder(op: Brightness) -> nn.Module:
        return nn.Sequential(K.ColorJitter(brightness=(op.low, op.high)), Times(1.03))

    _plant(monkeypatch, "Brightness", "kornia", builder)
    found = _verdict("Brightness", "kornia")
    assert found.verdict == "different"
    assert any("catalog does not say so" in finding for finding in found.findings)


def test_brightness_off_by_three_percent_in_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying the read parameters agrees; the pinned setting and the distribution do not."""

    def builder(op: Brightness) -> nn.Module:
        return K.ColorJitter(brightness=(op.low * 1.03, op.high * 1.03))

    _plant(monkeypatch, "Brightness", "kornia", builder)
    found = _verdict("Brightness", "kornia")
    assert found.verdict == "different"
    assert "pinned parameter does not arrive" in found.cause
    assert [test.parameter for test in found.tests if test.rejected] == ["factor"]


class OtherSign(K.RandomRotation):
    def compute_transformation(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]) -> Tensor:
        return super().compute_transformation(input, params | {"degrees": -params["degrees"]}, flags)


def test_rotation_with_the_other_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    def builder(op: Rotate) -> nn.Module:
        return OtherSign(op.degrees, p=1.0)

    _plant(monkeypatch, "Rotate", "kornia", builder)
    found = _verdict("Rotate", "kornia")
    assert found.verdict == "different"
    assert "other sign" in found.cause


@pytest.mark.parametrize(
    ("library", "backend", "builder"),
    [
        ("kornia", "kornia", lambda op: K.RandomHorizontalFlip(p=0.9 * op.p)),
        ("torchvision", "torchvision", lambda op: v2.RandomHorizontalFlip(0.9 * op.p)),
    ],
)
def test_p_of_045_for_05(
    monkeypatch: pytest.MonkeyPatch, library: str, backend: str, builder: Callable[[HorizontalFlip], nn.Module]
) -> None:
    _plant(monkeypatch, "HorizontalFlip", library, builder)
    report = _report("HorizontalFlip", backend, "pil")
    found = report.find("HorizontalFlip", backend)
    assert found is not None
    assert found.verdict == "different"
    assert "applied (by 0.0" in found.cause
    assert not comparable(report, "HorizontalFlip", backend, "pil")[0]


def test_one_draw_for_the_batch_declared_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "Rotate", "kornia", lambda op: K.RandomRotation(op.degrees, p=1.0, same_on_batch=True))
    report = _report("Rotate", "kornia", "torchvision_loop", n=1000)
    found = report.find("Rotate", "kornia")
    assert found is not None
    assert found.lane is not None
    assert (found.lane.declared, found.lane.measured, found.lane.distinct) == ("per_image", "per_batch", 1.0)
    assert "declared lane per_image, measured per_batch" in found.findings
    assert not comparable(report, "Rotate", "kornia", "torchvision_loop")[0]


def test_lambda_on_the_wrong_label(monkeypatch: pytest.MonkeyPatch) -> None:
    def builder(op: MixUp, num_classes: int) -> nn.Module:
        mix = K.RandomMixUpV2(lambda_val=(0.0, 1.0), data_keys=["input", "class"])
        return compose.KorniaMix(mix, num_classes, weight_of_partner=False)

    _plant(monkeypatch, "MixUp", "kornia", builder)
    found = _verdict("MixUp", "kornia", n=1000)
    assert found.verdict == "different"
    assert "label weights" in found.cause
    assert max(p.max_error for p in found.parity) < 0.01  # the pixels are right, which is what makes this one mean


class Careless(nn.Module):
    """Draws from Python's generator, which no seed of torch reaches, and writes into its input."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mul_(0.5 + random.random() / 2)


def test_an_op_without_a_route_is_unaudited_and_its_carelessness_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "Brightness", "kornia", lambda op: Careless())
    report = _report("Brightness", "kornia", "torchvision", n=1000)
    found = report.find("Brightness", "kornia")
    assert found is not None
    assert found.verdict == "unaudited"
    assert "no way to read" in found.cause
    failed = {check.name for check in found.checks if not check.ok}
    assert {"same seed, same batch", "input not mutated (float)"} <= failed
    assert not comparable(report, "Brightness", "kornia", "torchvision")[0]


class NotANumber(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images / torch.zeros(())


def test_nan_is_a_difference_and_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "Invert", "kornia", lambda op: nn.Sequential(K.RandomInvert(p=op.p), NotANumber()))
    found = _verdict("Invert", "kornia", n=1000)
    assert found.verdict == "different"
    assert "finite" in {check.name for check in found.checks if not check.ok}


def test_a_named_difference_does_not_cover_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def builder(op: DefaultBrightness) -> nn.Module:
        return nn.Sequential(K.RandomBrightness((op.low, op.high)), Times(1.03))

    _plant(monkeypatch, "DefaultBrightness", "kornia", builder)
    found = _verdict("DefaultBrightness", "kornia", n=1000)
    assert found.verdict == "different"
    assert any("no replay shows" in finding for finding in found.findings)


def test_a_cell_that_raises_is_unaudited_and_the_others_are_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(images: Tensor) -> Tensor:
        raise AttributeError("no attribute 'flip'")

    _plant(monkeypatch, "Invert", "torchvision", lambda op: apply)
    report = audit(["torchvision"], ["Invert", "Solarize"], [], n=200, workers=False)
    raised, sound = report.find("Invert", "torchvision"), report.find("Solarize", "torchvision")
    assert raised is not None
    assert sound is not None
    assert raised.verdict == "unaudited"
    assert "no attribute 'flip'" in raised.cause
    assert sound.verdict == "exact"
