"""The audit as a whole: verdicts that are known, the rule, the record, what users may get wrong."""

import json

import pytest
import torch

from augment import catalog
from augment.audit import AuditReport, Verdict, audit, comparable
from augment.audit.draws import laws
from augment.audit.evidence import Evidence
from augment.audit.images import at_size, drawn_images
from augment.audit.lanes import count_distinct
from augment.audit.oracle import oracle
from augment.audit.pinned import pinned_draw
from augment.audit.verdicts import Lane
from augment.ops import Affine, Brightness, HorizontalFlip, Op, Resize, Rotate, Solarize

pytestmark = pytest.mark.usefixtures("one_thread")

OPS = ["HorizontalFlip", "RandomResizedCrop", "Resize", "Hue", "GaussianNoise", "TrivialAugmentWide", "MixUp", "AugMix"]
BACKENDS = ["pil", "torchvision_loop", "torchvision", "kornia", "kornia_shared"]


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def report(steps: list[tuple[int, int, str]]) -> AuditReport:
    """Small: 500 draws, a rate of false alarms that leaves the unplanted ones alone."""
    return audit(BACKENDS, OPS, ["crop_flip", "d2l"], n=500, alpha=1e-4, on_progress=lambda *step: steps.append(step))


def _of(report: AuditReport, subject: str, backend: str) -> Verdict:
    found = report.find(subject, backend)
    assert found is not None
    return found


@pytest.mark.parametrize("backend", ["torchvision_loop", "torchvision"])
def test_torchvision_is_exact_against_its_own_functionals(report: AuditReport, backend: str) -> None:
    assert {subject: _of(report, subject, backend).verdict for subject in OPS} == dict.fromkeys(OPS, "exact")


def test_kornias_known_differences_are_named(report: AuditReport) -> None:
    resize = _of(report, "Resize", "kornia")
    assert (resize.verdict, resize.cause) == ("different", "antialias blurs with a Gaussian")
    trivial = _of(report, "TrivialAugmentWide", "kornia")
    assert trivial.verdict == "different"
    assert "Brightness" in trivial.cause
    assert _of(report, "AugMix", "kornia").verdict == "unsupported"
    crop = _of(report, "RandomResizedCrop", "kornia")
    assert crop.verdict == "exact"
    assert any("no antialias" in note for note in crop.notes)


def test_pils_hue_is_named(report: AuditReport) -> None:
    assert "8-bit HSV" in _of(report, "Hue", "pil").cause


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
    measured = _of(report, subject, backend).lane
    assert measured is not None
    assert measured.measured == lane
    assert measured.ok


DEFAULTS = {
    "DefaultRotate": "bilinear, not the nearest pixel",
    "DefaultResize": "align_corners=True, no antialias",
    "DefaultRandomResizedCrop": "align_corners=True, no antialias",
    "DefaultBrightness": "additive brightness",
    "DefaultContrast": "contrast about black, not about the mean",
    "DefaultSaturation": "the saturation of HSV is scaled, not a blend with grey",
}


@pytest.fixture(scope="module")
def defaults() -> AuditReport:
    return audit(["pil", "torchvision", "kornia", "fused"], list(DEFAULTS), [], n=500, alpha=1e-4, workers=False)


def test_every_default_row_is_known_here() -> None:
    assert list(DEFAULTS) == [name for name in catalog.ROWS if name.startswith("Default")]


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_libraries_defaults_are_told_apart_by_replay(defaults: AuditReport, name: str) -> None:
    assert _of(defaults, name, "torchvision").verdict == "exact"
    kornia = _of(defaults, name, "kornia")
    assert (kornia.verdict, kornia.cause) == ("different", DEFAULTS[name])
    assert _of(defaults, name, "pil").verdict in ("exact", "close")
    assert _of(defaults, name, "fused").verdict == "unsupported"
    assert defaults.findings == ()


def test_pillow_finds_the_nearest_pixel_in_fixed_point(defaults: AuditReport) -> None:
    assert _of(defaults, "DefaultRotate", "pil").cause == "the nearest pixel in 16-bit fixed point"


def test_rounding_between_ops_is_named_with_its_size(report: AuditReport) -> None:
    d2l = _of(report, "d2l", "torchvision_loop")
    assert d2l.verdict == "close"
    assert d2l.cause.startswith("8-bit rounding between ops, exact on floats (mean 1.")
    assert {p.images for p in d2l.parity if p.setting == "fed floats"} == {"noise", "photographs"}


def test_one_draw_a_batch_is_tested_as_often_as_one_an_image(report: AuditReport) -> None:
    for backend in ("kornia", "kornia_shared"):
        assert {t.n for t in _of(report, "RandomResizedCrop", backend).tests if " at " not in t.parameter} == {500}


def test_ranks_by_seed_and_workers_by_process_are_told_apart(report: AuditReport) -> None:
    details = {check.name: check.detail for check in _of(report, "HorizontalFlip", "kornia").checks}
    assert details["two ranks differ"] == "by two derived seeds, in one process"
    assert details["two workers differ"] == "two processes of a DataLoader"


def test_nothing_in_the_catalog_is_left_unsaid_on_torchvision_and_its_flips(report: AuditReport) -> None:
    assert [finding for finding in report.findings if " on torchvision" in finding] == []


def test_the_rule(report: AuditReport) -> None:
    assert comparable(report, "crop_flip", "kornia", "torchvision_loop") == (True, "exact on both")
    ok, reason = comparable(report, "crop_flip", "kornia", "torchvision")
    assert not ok
    assert reason == "other lane: kornia draws per_image, torchvision per_batch"
    assert comparable(report, "Hue", "kornia", "pil")[0]
    assert not comparable(report, "Resize", "kornia", "torchvision")[0]
    assert comparable(report, "flip", "kornia", "pil") == (False, "flip was not audited on kornia")


def test_the_record_is_json_and_the_rule_reads_it(report: AuditReport) -> None:
    record = json.loads(json.dumps(report.as_record(), allow_nan=False))
    for subject in (*OPS, "crop_flip", "d2l"):
        for a, b in (("kornia", "pil"), ("torchvision", "kornia_shared")):
            ok, reason = comparable(report, subject, a, b)
            assert comparable(record, subject, a, b) == (ok, reason)
            stored = record["comparisons"][subject].get(f"{a}|{b}") or record["comparisons"][subject][f"{b}|{a}"]
            assert stored["comparable"] is ok


def test_progress_is_told_before_every_step(report: AuditReport, steps: list[tuple[int, int, str]]) -> None:
    total = len(BACKENDS) * (len(OPS) + 2) + 1
    assert [(done, whole) for done, whole, _ in steps] == [(i, total) for i in range(total + 1)]
    assert steps[0][2] == "HorizontalFlip on pil"


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    audit(["torchvision"], ["HorizontalFlip"], [], n=100, workers=False)
    assert torch.equal(before, torch.get_rng_state())


def test_the_same_seed_gives_the_same_report() -> None:
    first, second = (audit(["kornia"], ["Rotate"], ["flip"], n=200, seed=3, workers=False).verdicts for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backends": ["kornai"]}, "unknown backend"),
        ({"ops": ["Flip"]}, "unknown op"),
        ({"recipes": ["flipp"]}, "unknown recipe"),
        ({"n": 10}, "n must be at least 100"),
        ({"images": []}, "images must be at least one"),
        ({"images": [torch.zeros(3, 8, 8)]}, "images must be at least one uint8"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "images must be at least one uint8"),
    ],
)
def test_users_mistakes_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as problem:
        audit(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(problem.value)


# ---- pieces -----------------------------------------------------------------------------------------------------------


def test_images_of_any_size_are_taken() -> None:
    given = [*drawn_images(1, 40), drawn_images(1, 100)[0, :, :60]]
    assert at_size(given, 32).shape == (2, 3, 32, 32)
    assert torch.equal(at_size(given[:1], 40)[0], given[0])


def test_distinct_results_are_counted() -> None:
    results = torch.tensor([0.0, 0.5, 0.0, 0.50001, 0.9]).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    assert count_distinct(results) == 3


def test_a_lane_is_ok_only_as_declared() -> None:
    lane = Lane(declared="per_image", measured="per_batch", batch=64, distinct=1.0, parameters={})
    assert not lane.ok


@pytest.mark.parametrize("name", list(catalog.ROWS))
def test_pinned_settings_are_known_without_reading(name: str) -> None:
    """Every pinned setting of the catalog has a draw that follows from the op, and gives torchvision's pixels."""
    pinned_at = catalog.ROWS[name].pinned_at
    if pinned_at is None:
        pytest.skip("random in every setting")
    op = pinned_at(32)
    draw = pinned_draw(op, (32, 32))
    assert draw is not None
    image = drawn_images(1, 32).float().div(255)
    wanted = catalog.build(op, "torchvision")(image)
    assert torch.allclose(oracle(op, image[0], draw), wanted[0], atol=1e-5)


@pytest.mark.parametrize("op", [HorizontalFlip(), Rotate(), Brightness(), Affine(), Solarize(p=0.3)])
def test_random_settings_have_no_pinned_draw(op: Op) -> None:
    assert pinned_draw(op, (32, 32)) is None


def test_ops_that_draw_nothing_have_no_laws_to_test() -> None:
    assert set(laws(Resize(), (32, 32))) <= {"applied"}


def test_evidence_repeats_images_where_few_are_given() -> None:
    state = Evidence(n=100, seed=0, device=torch.device("cpu"), images=list(drawn_images(2, 32)))
    state.op("HorizontalFlip", "kornia")
    assert state.facts["HorizontalFlip", "kornia"].parity[0].draws == 48
