"""Errors planted into a cell of an op or into a distribution, one at a time: the audit must name each."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from augment import BACKENDS, OPS, distributions, fused
from augment.audit import Verdict, audit
from augment.backends.kornia import Clamp, KorniaMix
from augment.fused.sample import sample
from augment.replay import NoRoute
from tests.conftest import present

pytestmark = pytest.mark.usefixtures("one_thread")


def _plant(monkeypatch: pytest.MonkeyPatch, op: str, library: str, build: Callable[..., Any]) -> None:
    cells = OPS[op].cells
    monkeypatch.setattr(OPS[op], "cells", {**cells, library: dataclasses.replace(cells[library], build=build)})


def _verdict(op: str, backend: str, n: int = 1000) -> Verdict:
    verdict = present(audit([backend], [op], [], n=n, workers=False).find(op, backend))
    return verdict


class Times(nn.Module):
    """Multiply by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.factor).clamp(0, 1)


class OtherSign(K.RandomRotation):
    """Rotate clockwise."""

    def compute_transformation(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]) -> Tensor:
        return super().compute_transformation(input, params | {"degrees": -params["degrees"]}, flags)


class NotANumber(nn.Module):
    """Divide by zero."""

    def forward(self, images: Tensor) -> Tensor:
        return images / torch.zeros(())


def _mixup_with_exchanged_weights(op: Any, num_classes: int) -> nn.Module:
    mix = K.RandomMixUpV2(lambda_val=(0.0, 1.0), data_keys=["input", "class"])
    return KorniaMix(mix, num_classes, weight_of_partner=False)


@pytest.mark.parametrize(
    ("op", "backend", "build", "evidence"),
    [
        (
            "Brightness", "kornia", lambda op: nn.Sequential(K.ColorJitter(brightness=(op.low, op.high)), Times(1.03)),
            "pixels differ and the op does not declare it",
        ),
        (  # replaying the drawn parameters agrees; the pinned setting and the distribution do not
            "Brightness", "kornia", lambda op: K.ColorJitter(brightness=(op.low * 1.03, op.high * 1.03)),
            "a pinned parameter does not arrive as it was given; draws of Brightness differ in factor",
        ),
        ("Rotate", "kornia", lambda op: OtherSign(op.degrees, p=1.0), "other sign"),
        ("HorizontalFlip", "kornia", lambda op: K.RandomHorizontalFlip(p=0.9 * op.p), "differ in applied (by 0.0"),
        ("HorizontalFlip", "torchvision", lambda op: v2.RandomHorizontalFlip(0.9 * op.p), "differ in applied (by 0.0"),
        ("MixUp", "kornia", _mixup_with_exchanged_weights, "label weights are off by"),
        ("Invert", "kornia", lambda op: nn.Sequential(K.RandomInvert(p=op.p), NotANumber()), "check failed: finite"),
        (  # a declared difference does not cover another one
            "DefaultBrightness", "kornia", lambda op: nn.Sequential(K.RandomBrightness((op.low, op.high)), Times(1.03)),
            "no replay shows that it is as the op declares",
        ),
    ],
)  # fmt: skip
def test_planted_errors_are_named(
    op: str, backend: str, build: Callable[..., Any], evidence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(monkeypatch, op, backend, build)
    verdict = _verdict(op, backend, n=10_000)
    assert verdict.verdict == "different"
    assert evidence in "; ".join((verdict.cause, *verdict.findings))


def test_one_draw_per_batch_declared_per_image_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "Rotate", "kornia", lambda op: K.RandomRotation(op.degrees, p=1.0, same_on_batch=True))
    verdict = _verdict("Rotate", "kornia")
    assert verdict.lane is not None
    assert (verdict.lane.declared, verdict.lane.measured, verdict.lane.distinct) == ("per_image", "per_batch", 1.0)
    assert "declared lane per_image, measured per_batch" in verdict.findings


class Careless(nn.Module):
    """Draw from Python's generator, which no seed of torch reaches, and write into the input."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mul_(0.5 + random.random() / 2)


def test_an_op_without_a_route_is_judged_by_its_outputs_and_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "Brightness", "kornia", lambda op: Careless())
    verdict = _verdict("Brightness", "kornia")
    assert verdict.verdict == "different"
    assert "no way to read" in "; ".join(verdict.notes)
    failed = {check.name for check in verdict.checks if not check.ok}
    assert {"same seed, same batch", "input not mutated (float)"} <= failed


def test_a_cell_that_raises_is_unaudited_and_the_others_are_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(images: Tensor) -> Tensor:
        raise AttributeError("no attribute 'flip'")

    _plant(monkeypatch, "Invert", "torchvision", lambda op: apply)
    report = audit(["torchvision"], ["Invert", "Solarize"], [], n=200, workers=False)
    assert [verdict.verdict for verdict in report.verdicts] == ["unaudited", "exact"]
    assert "no attribute 'flip'" in report.verdicts[0].cause


# ---- draws that cannot be read -------------------------------------------------------------------------------------------


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take their recorders away from three backends, so that outputs and fixed parameters are all that is known."""

    def refuse(op: Any, module: Any) -> Any:
        raise NoRoute("planted: nothing to read")

    for name in ("torchvision", "kornia", "pil"):
        backend: Any = BACKENDS[name]
        monkeypatch.setitem(BACKENDS, name, dataclasses.replace(backend, recorder=refuse))


def _narrow(low: float, high: float) -> tuple[float, float]:
    return low + 0.05 * (high - low), high - 0.05 * (high - low)


@pytest.mark.slow
@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize(
    ("op", "backend", "verdict"),
    [
        ("Invert", "kornia", "exact"),
        ("HorizontalFlip", "kornia", "exact"),
        ("Brightness", "kornia", "exact"),
        ("Brightness", "pil", "exact"),
        ("Rotate", "kornia", "exact"),
        ("Resize", "pil", "exact"),  # draws nothing
        ("Resize", "kornia", "different"),
        ("GaussianNoise", "kornia", "close"),  # no setting of it is without randomness
        ("RandomErasing", "kornia", "close"),
        ("Brightness", "torchvision", "unaudited"),  # torchvision's outputs are what others are compared with
    ],
)
def test_outputs_give_the_verdict_where_draws_cannot_be_read(op: str, backend: str, verdict: str) -> None:
    cell = _verdict(op, backend, n=10_000)
    assert (cell.verdict, cell.findings) == (verdict, [])
    assert {test.n for test in cell.tests} <= {10_000}
    assert "planted: nothing to read" in "; ".join((cell.cause, *cell.notes))


@pytest.mark.slow
@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize(
    ("op", "build"),
    [
        ("GaussianNoise", lambda op: nn.Sequential(K.RandomGaussianNoise(std=1.1 * op.sigma, p=1.0), Clamp())),
        ("HorizontalFlip", lambda op: K.RandomHorizontalFlip(p=0.9 * op.p)),
        ("Brightness", lambda op: K.ColorJitter(brightness=_narrow(op.low, op.high))),
        ("Rotate", lambda op: K.RandomRotation(_narrow(*op.degrees), p=1.0)),
    ],
)
def test_errors_are_found_in_outputs(op: str, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, op, "kornia", build)
    cell = _verdict(op, "kornia", n=10_000)
    assert cell.verdict == "different"
    assert f"draws of {op} differ in output" in cell.cause
    assert any("the op does not declare it: output" in finding for finding in cell.findings)


@pytest.mark.slow
@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize(("p", "verdict"), [(0.5, "close"), (0.4, "different")])
def test_a_recipe_is_judged_by_its_outputs(p: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, "HorizontalFlip", "kornia", lambda op: K.RandomHorizontalFlip(p=p))
    cell = present(audit(["kornia"], [], ["flip"], n=10_000, workers=False).find("flip", "kornia"))
    assert cell.verdict == verdict, cell.cause


# ---- errors in distributions --------------------------------------------------------------------------------------------

Error = Callable[[distributions.Params], distributions.Params]


def _off_by_one(name: str) -> Error:
    return lambda params: {**params, name: (params[name] - 1).clamp(min=0)}


def _positive(params: distributions.Params) -> distributions.Params:
    return {**params, "negative": torch.zeros_like(params["negative"])}


PLANTED: dict[type[distributions.Distribution], Error] = {
    distributions.Chance: lambda params: {"applied": params["applied"] & (torch.rand(len(params["applied"])) < 0.9)},
    distributions.Uniform: lambda params: {name: 1.1 * values for name, values in params.items()},
    distributions.Shift: lambda params: {name: values.abs() for name, values in params.items()},
    distributions.Position: _off_by_one("top"),
    distributions.Window: _off_by_one("left"),
    distributions.Rectangle: _off_by_one("height"),
    distributions.Square: _off_by_one("left"),
    distributions.Corners: lambda params: {"corners": params["corners"].clamp(min=1)},
    distributions.Jitter: lambda params: {**params, "order": torch.arange(4).repeat(len(params["order"]), 1)},
    distributions.Normal: lambda params: {"noise": 1.2 * params["noise"]},
    distributions.Beta: lambda params: {"lam": params["lam"].sqrt()},
    distributions.Box: _off_by_one("top"),
    distributions.Choice: _positive,
    distributions.Pair: _positive,
    distributions.Chains: _positive,
    distributions.MixtureWeights: lambda params: {"weights": params["weights"].sort().values},
}
"""An error for each distribution, made of what its formula draws."""


def _subclasses(base: type[Any]) -> list[type[Any]]:
    children: list[type[Any]] = base.__subclasses__()
    return [cls for child in children for cls in (child, *_subclasses(child))]


@pytest.mark.parametrize("cls", _subclasses(distributions.Distribution))
def test_an_error_in_the_formula_of_a_distribution_is_found(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    op = next(op for op in OPS.values() if any(type(distribution) is cls for distribution in op.draws))
    setting = op.at(32)
    distribution = next(distribution for distribution in setting.draws if type(distribution) is cls)
    names = (*distribution.outputs(setting), *(noise.name for noise in distribution.noises(setting, 1, 1)))
    errors: list[Error] = []

    def draw(plan: Any, batch: int, height: int, width: int, generator: Any = None, device: Any = "cpu") -> Any:
        (params,) = sample(plan.ops, batch, height, width, generator, device)  # by tensor operations, which kernels are held to
        for error in errors:
            params |= error({name: params[name] for name in names})
        return (params,)

    monkeypatch.setattr(type(fused.plan([setting])), "sample", draw)
    assert not any(test.rejected for test in _verdict(op.__name__, "fused", n=3000).tests)
    errors.append(PLANTED[cls])
    verdict = _verdict(op.__name__, "fused", n=3000)
    assert verdict.verdict == "different"
    assert any(test.rejected for test in verdict.tests)
