"""The audit as a whole: verdicts that are known, lanes, the report, what users may get wrong."""

import importlib
import multiprocessing
import random

import pytest
import torch

from augment import OPS
from augment.audit import AuditReport, Verdict, audit
from augment.audit.images import at_size, synthetic_images
from augment.audit.lanes import count_distinct
from augment.audit.record import Lane
from tests.conftest import one_line, present

pytestmark = pytest.mark.usefixtures("one_thread")

SUBJECTS = [
    "HorizontalFlip", "RandomResizedCrop", "Resize", "CenterCrop", "Hue", "AutoContrast", "GaussianNoise", "TrivialAugmentWide",
    "MixUp", "AugMix",
]  # fmt: skip
BACKENDS = ["pil", "torchvision_loop", "torchvision", "kornia", "kornia_shared"]
DEFAULTS = {
    "DefaultRotate": "bilinear, not the nearest pixel",
    "DefaultResize": "align_corners=True, no antialias",
    "DefaultRandomResizedCrop": "align_corners=True, no antialias",
    "DefaultBrightness": "additive brightness",
    "DefaultContrast": "contrast about black, not about the mean",
    "DefaultSaturation": "the saturation of HSV is scaled, not a blend with grey",
    "DefaultColorJitter": "",
    "DefaultGaussianBlur": "",
}
"""Kornia's differences in its own defaults; "": none."""


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def report(steps: list[tuple[int, int, str]]) -> AuditReport:
    """Small: 500 draws, a rate of false alarms that leaves the correct ones alone."""
    return audit(BACKENDS, SUBJECTS, ["crop_flip", "d2l"], n=500, alpha=1e-4, on_progress=lambda *step: steps.append(step))


@pytest.fixture(scope="module")
def defaults() -> AuditReport:
    return audit(["pil", "torchvision", "kornia", "fused", "cvcuda"], list(DEFAULTS), [], n=500, alpha=1e-4, workers=False)


def _find(report: AuditReport, subject: str, backend: str) -> Verdict:
    verdict = present(report.find(subject, backend))
    return verdict


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("backend", ["torchvision_loop", "torchvision"])
def test_torchvision_is_exact_against_its_own_functionals(report: AuditReport, backend: str, subject: str) -> None:
    verdict = _find(report, subject, backend)
    assert (verdict.verdict, verdict.findings) == ("exact", [])


@pytest.mark.parametrize(
    ("subject", "backend", "verdict", "evidence"),
    [
        ("Resize", "kornia", "different", "antialias blurs with a Gaussian"),
        ("TrivialAugmentWide", "kornia", "different", "pixels differ in Brightness"),
        ("AugMix", "kornia", "unsupported", "AugMix is not supported by backend kornia"),
        ("RandomResizedCrop", "kornia", "exact", "close where images shrink (no antialias"),
        ("AutoContrast", "kornia", "exact", "different on flat or two-level images of odd size (a channel of one value"),
        ("CenterCrop", "kornia", "exact", "different on flat or two-level images of odd size (half of an odd margin"),
        ("Hue", "pil", "close", "8-bit HSV"),
        ("d2l", "torchvision_loop", "close", "8-bit rounding between ops, exact on floats (mean 1."),
    ],
)
def test_known_differences_are_named(report: AuditReport, subject: str, backend: str, verdict: str, evidence: str) -> None:
    cell = _find(report, subject, backend)
    assert cell.verdict == verdict
    assert evidence in "; ".join((cell.cause, *cell.notes))


@pytest.mark.parametrize(
    ("subject", "backend", "lane"),
    [
        ("HorizontalFlip", "torchvision", "per_batch"),
        ("HorizontalFlip", "kornia_shared", "per_batch"),
        ("HorizontalFlip", "kornia", "per_image"),
        ("HorizontalFlip", "pil", "per_image"),
        ("Resize", "kornia", "fixed"),
        ("GaussianNoise", "torchvision", "per_image"),
        ("TrivialAugmentWide", "kornia", "per_batch"),
        ("TrivialAugmentWide", "torchvision_loop", "per_image"),
        ("MixUp", "torchvision_loop", "per_batch"),
        ("MixUp", "kornia", "per_image"),
        ("d2l", "kornia", "per_image"),
        ("crop_flip", "torchvision", "per_batch"),
    ],
)
def test_lanes_are_measured(report: AuditReport, subject: str, backend: str, lane: str) -> None:
    measured = present(_find(report, subject, backend).lane)
    assert measured.measured == lane
    assert measured.ok


@pytest.mark.parametrize("name", [name for name in OPS if name.startswith("Default")])
def test_defaults_of_libraries_are_told_apart_by_replay(defaults: AuditReport, name: str) -> None:
    assert _find(defaults, name, "torchvision").verdict == "exact"
    kornia = _find(defaults, name, "kornia")
    assert (kornia.verdict, kornia.cause) == ("different" if DEFAULTS[name] else "exact", DEFAULTS[name])
    assert name == "DefaultColorJitter" or _find(defaults, name, "pil").verdict in ("exact", "close")
    assert _find(defaults, name, "fused").verdict == "unsupported"
    assert _find(defaults, name, "cvcuda").cause == f"{name} is not supported by backend cvcuda: it runs on CUDA only"
    assert defaults.findings == ()


def test_pillow_takes_the_nearest_pixel_in_fixed_point(defaults: AuditReport) -> None:
    assert _find(defaults, "DefaultRotate", "pil").cause == "the nearest pixel in 16-bit fixed point"


def test_one_draw_per_batch_is_tested_as_often_as_one_per_image(report: AuditReport) -> None:
    for backend in ("kornia", "kornia_shared"):
        tests = _find(report, "RandomResizedCrop", backend).tests
        assert {test.n for test in tests if " at " not in test.parameter} == {500}


def test_ranks_by_seed_and_workers_by_process_are_distinguished(report: AuditReport) -> None:
    details = {check.name: check.detail for check in _find(report, "HorizontalFlip", "kornia").checks}
    assert details["two ranks differ"] == "by two derived seeds, in one process"
    assert details["two workers differ"] == "two processes of a DataLoader"


def test_progress_is_reported_before_every_step(report: AuditReport, steps: list[tuple[int, int, str]]) -> None:
    names = [*SUBJECTS, "crop_flip", "d2l", "two loader workers", "done"]
    assert steps == [(i, len(names) - 1, name) for i, name in enumerate(names)]


def test_a_seed_gives_the_same_report_and_the_random_state_is_left_alone() -> None:
    """The generators of torch, Python and NumPy; whatever draws from them in an audit, here the display of its progress."""
    numpy = importlib.import_module("numpy.random")  # the global generator, which libraries draw from

    def draw(*_: object) -> tuple[float, float]:
        return random.random(), numpy.rand()

    random.seed(5)
    numpy.seed(5)
    expected = random.Random(5).random(), numpy.RandomState(5).rand()
    before = torch.get_rng_state()
    reports = (audit(["kornia"], ["Rotate"], ["flip"], n=200, seed=3, workers=False, on_progress=draw) for _ in range(2))
    first, second = (report.verdicts for report in reports)
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert draw() == expected


@pytest.mark.slow
def test_an_interrupted_audit_ends_its_processes_in_silence(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though without a compiler each of them has the same warning to give as the process that starts them."""
    monkeypatch.setenv("CC", "/nowhere/cc")

    def interrupt(done: int, *_: object) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(["fused"], ["Rotate", "Invert", "Hue"], [], n=200, workers=False, processes=2, on_progress=interrupt)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_processes_give_the_same_report() -> None:
    single, several = (
        audit(["pil", "kornia", "kornia_shared"], ["Rotate", "ColorJitter"], ["d2l", "flip"], n=200, workers=False, processes=n)
        for n in (1, 2)
    )
    assert single.verdicts == several.verdicts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backends": ["kornai"]}, "unknown backend"),
        ({"ops": ["Flip"]}, "unknown op"),
        ({"recipes": ["flipp"]}, "unknown recipe"),
        ({"device": "nosuch"}, "device 'nosuch' cannot be used"),
        ({"n": 10}, "n must be at least 100"),
        ({"images": []}, "images must be at least one"),
        ({"images": [torch.zeros(3, 8, 8)]}, "images must be at least one uint8"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "images must be at least one uint8"),
    ],
)
def test_mistakes_of_users_are_one_line(arguments: dict[str, object], message: str) -> None:
    with one_line(message):
        audit(**arguments)  # type: ignore[arg-type]


def test_few_images_of_any_size_are_enough() -> None:
    images = [*synthetic_images(1, 40), synthetic_images(1, 100)[0, :, :60]]
    assert at_size(images, 32).shape == (2, 3, 32, 32)
    assert torch.equal(at_size(images[:1], 40)[0], images[0])
    report = audit(["kornia"], ["HorizontalFlip"], [], n=100, images=images, workers=False)
    assert report.verdicts[0].parity[0].draws == 48


@pytest.mark.gpu
def test_cuda_is_compared_with_the_oracles_on_the_cpu() -> None:
    subjects = ["HorizontalFlip", "Brightness", "Rotate", "GaussianNoise", "MixUp", "ColorJitter", "RandomResizedCrop"]
    cpu, cuda = (
        audit(["torchvision", "kornia", "fused"], subjects, ["crop_flip"], n=500, alpha=1e-4, device=device, workers=False)
        for device in ("cpu", "cuda")
    )
    assert [verdict.verdict for verdict in cuda.verdicts] == [verdict.verdict for verdict in cpu.verdicts]
    assert cuda.findings == ()


def test_distinct_results_are_counted() -> None:
    results = torch.tensor([0.0, 0.5, 0.0, 0.50001, 0.9]).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    assert count_distinct(results) == 3


def test_a_lane_is_ok_only_as_declared() -> None:
    assert not Lane(declared="per_image", measured="per_batch", batch=64, distinct=1.0, parameters={}).ok
