"""The package triton-augment as a backend: how it is called, what it computes, and the messages where it cannot run.

Tests marked ``real`` run the package's own kernels: on CUDA, or on a CPU in Triton's interpreter. They are skipped where the
package is not installed. The others need no package, and ``Package`` stands in for it where calls are counted.
"""

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from augment import OPS, RECIPES, UnsupportedOp, backends, build, check_supported, find_backend, ops, resolve
from augment.audit import audit, lanes, measure
from augment.audit.laws import laws, observe
from augment.backends import triton_augment
from augment.op import Op
from tests.augment.fused.cases import Operations
from tests.conftest import one_line, present

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CPU = torch.device("cpu")
HINDRANCE = triton_augment.why_not(torch.device(DEVICE))
real = pytest.mark.skipif(HINDRANCE is not None, reason=str(HINDRANCE))
GREY_STEP = 1 / 255


class Package:
    """Stand-in for the package: a class returns its own name and the arguments that it is built with."""

    def __getattr__(self, kind: str) -> Any:
        return lambda **arguments: (kind, arguments)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_augment", Package())


def modules(recipe: Sequence[Op]) -> list[Any]:
    return [call.module for call in triton_augment.plan(recipe)]


# ---- calls of the package ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("package")
def test_its_own_pipeline_is_one_call_of_its_fused_kernel() -> None:
    assert modules(RECIPES["crop_jitter"](256)) == [
        (
            "TritonFusedAugment",
            {
                **{"crop_size": 224, "horizontal_flip_p": 0.5, "brightness": (0.5, 1.5), "contrast": (0.5, 1.5)},
                **{"saturation": (0.5, 1.5), "grayscale_p": 0.2, "mean": ops.CIFAR10_MEAN, "std": ops.CIFAR10_STD},
            },
        )
    ]
    assert [kind for kind, _ in modules(RECIPES["flip"](32))] == ["TritonFusedAugment"]


@pytest.mark.usefixtures("package")
def test_an_op_by_itself_goes_to_its_own_class() -> None:
    assert modules(RECIPES["none"](32)) == [("TritonNormalize", {"mean": ops.CIFAR10_MEAN, "std": ops.CIFAR10_STD})]
    # positive degrees are counter-clockwise in the definition, clockwise in the package
    assert modules([ops.Rotate(degrees=(-10.0, 30.0))]) == [
        ("TritonRandomRotation", {"degrees": (-30.0, 10.0), "interpolation": "bilinear"})
    ]


@pytest.mark.usefixtures("package")
def test_ops_out_of_the_kernels_order_take_another_call() -> None:
    recipe = [ops.Grayscale(), ops.Contrast(), ops.Normalize(), ops.CenterCrop(size=8), ops.HorizontalFlip(), ops.Brightness()]
    grouped = [tuple(op.name for op in call.ops) for call in triton_augment.plan(recipe)]
    assert grouped == [("Grayscale",), ("Contrast", "Normalize"), ("CenterCrop",), ("HorizontalFlip", "Brightness")]


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        ("d2l", "ColorJitter is not supported by backend triton_augment: it has no hue, so hue must be (0, 0)"),
        ("crop_flip", "RandomCrop is not supported by backend triton_augment: it crops without padding, so padding must be 0"),
        ("imagenet", "RandomResizedCrop is not supported by backend triton_augment"),
        ("AugMix", "AugMix is not supported by backend triton_augment"),
        ("mixup", "RandomCrop is not supported by backend triton_augment: it crops without padding, so padding must be 0"),
    ],
)
def test_what_it_lacks_is_said_without_the_package(subject: str, says: str) -> None:
    with pytest.raises(UnsupportedOp) as error:
        check_supported(resolve(subject), "triton_augment")
    assert str(error.value) == says


# ---- where it cannot run ----------------------------------------------------------------------------------------------


def test_a_package_that_cannot_be_imported_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "installed_version", lambda prefix: "0.3.0")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton_augment", None)
    with one_line(r"its package cannot be imported \(.*\): pip install", UnsupportedOp):
        build("flip", "triton_augment")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_it_runs_on_cuda_only(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(UnsupportedOp, match="HorizontalFlip is not supported by backend triton_augment: it runs on CUDA only"):
        check_supported(resolve("flip"), "triton_augment", device=device)


# ---- what it computes -------------------------------------------------------------------------------------------------


def run(subject: Any, images: Tensor, **options: Any) -> Tensor:
    return build(subject, "triton_augment", device=DEVICE, **options)(images.to(DEVICE)).cpu()


@real
@pytest.mark.parametrize("name", [name for name, op in OPS.items() if "triton_augment" in op.cells and op.pinned(32)])
def test_pinned_ops_are_torchvisions(name: str, images: Tensor) -> None:
    pinned = present(OPS[name].pinned(32))
    source = images / 255
    error = float((run(pinned, source) - build(pinned, "torchvision")(source)).abs().max()) / GREY_STEP
    if name.endswith("Contrast"):
        assert error > 1.0, "no longer different: take it off the list"
        expected = ((source - 0.5) * 0.6 + 0.5).clamp(0, 1)
        assert (run(pinned, source) - expected).abs().max() < 1e-6  # float32, one operation
    else:
        assert error <= 0.05 * (1 / 0.24 if name == "Normalize" else 1.0)  # as in test_backends


@real
def test_its_own_pipeline_by_hand(images: Tensor) -> None:
    recipe = [
        ops.RandomCrop(size=32, padding=0),
        ops.HorizontalFlip(p=1.0),
        ops.ColorJitter(brightness=(1.2, 1.2), contrast=(0.7, 0.7), saturation=(1.4, 1.4), hue=(0.0, 0.0)),
        ops.Grayscale(p=0.0),
        ops.Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    ]
    x = ((images.float() / 255).flip(-1) * 1.2).clamp(0, 1)
    x = ((x - 0.5) * 0.7 + 0.5).clamp(0, 1)
    grey = (0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]).expand(-1, 3, -1, -1)
    x = (1.4 * x - 0.4 * grey).clamp(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(run(recipe, images), (x - mean) / std, atol=1e-5, rtol=0)  # float32, ten operations


@real
def test_a_centre_that_falls_between_two_pixels_is_taken_to_the_upper_left(images: Tensor) -> None:
    # torchvision rounds half of 3 to 2, the package down to 1
    source = images.float() / 255
    assert torch.equal(run(ops.CenterCrop(size=29), source), source[:, :, 1:30, 1:30])
    assert torch.equal(F.center_crop(source, [29, 29]), source[:, :, 2:31, 2:31])


@real
@pytest.mark.parametrize("subject", ["flip", "crop_jitter", "Grayscale"])
def test_layout_and_strides_do_not_matter_and_the_input_stays(subject: str, images: Tensor) -> None:
    before = images.clone()
    torch.manual_seed(3)
    expected = run(subject, images)
    strided = torch.zeros(8, 3, 32, 64, dtype=torch.uint8)
    strided[..., ::2] = images
    for batch in (images.contiguous(memory_format=torch.channels_last), strided[..., ::2]):
        torch.manual_seed(3)
        assert torch.equal(run(subject, batch), expected)
    assert torch.equal(images, before)
    torch.manual_seed(3)
    laid_out = build(subject, "triton_augment", device=DEVICE, memory_format=torch.channels_last)(images.to(DEVICE))
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
    assert type(laid_out) is Tensor


@real
def test_the_fused_call_draws_for_each_image_and_by_the_laws() -> None:
    recipe = resolve("crop_jitter")
    traced = find_backend("triton_augment").trace(recipe, device=torch.device(DEVICE), num_classes=10)
    for op, recorder in zip(recipe, traced.recorders, strict=True):
        assert recorder is not None
        drawn = observe(op, recorder.sample(4000, (32, 32)), (32, 32))
        for name, law in laws(op, (32, 32)).items():
            # the order of its jitter is fixed; each law is rejected by chance once in 10,000 runs
            assert name == "order" or law.test(drawn[name]).p_value > 1e-4, (op, name)


@real
def test_its_own_pipeline_is_one_kernel_for_which_the_host_waits_four_times() -> None:
    # are all factors 1? brightness, contrast and saturation; is any image grey?
    calls = triton_augment.plan(RECIPES["crop_jitter"](32))
    images = torch.zeros(4, 3, 32, 32, device=DEVICE)
    with triton_augment.watch_functionals() as recorded, Operations() as operations:
        triton_augment.run_calls(calls, images)
    assert (len(recorded), operations.names.count("_local_scalar_dense")) == (1, 4)


@real
def test_what_is_read_is_what_happened(images: Tensor) -> None:
    source = images.float() / 255
    recipe = [ops.RandomCrop(size=20, padding=0), ops.HorizontalFlip()]
    traced = find_backend("triton_augment").trace(recipe, device=torch.device(DEVICE), num_classes=10)
    call = traced(source.to(DEVICE))
    crop, flip = map(present, call.columns)
    for image, got, top, left, flipped in zip(
        source, call.outputs.cpu(), crop["top"], crop["left"], flip["applied"], strict=True
    ):
        window = image[:, int(top) : int(top) + 20, int(left) : int(left) + 20]
        assert torch.equal(got, window.flip(-1) if flipped else window)


@real
def test_the_audit_names_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "EAGER", ((32, 8, 2),))  # what is exact is so for every image
    monkeypatch.setattr(lanes, "SMALL", 8)
    report = audit(["triton_augment"], ["HorizontalFlip", "Contrast"], [], n=300, alpha=1e-6, workers=False, device=DEVICE)
    flip, contrast = report.verdicts
    assert (flip.verdict, contrast.verdict) == ("exact", "different")
    assert contrast.cause == "contrast about mid-grey, not about the mean"
    assert report.findings == ()
    assert report.versions["triton-augment"].startswith("0.3.")


@real
def test_images_smaller_than_the_crop_are_refused() -> None:
    small = torch.zeros(2, 3, 20, 40, device=DEVICE)
    for recipe in ([ops.RandomCrop(size=24, padding=0), ops.Normalize()], [ops.CenterCrop(size=24)]):
        with pytest.raises(ValueError, match=r"images must be at least 24 x 24 for a crop without padding, got 20 x 40"):
            build(recipe, "triton_augment", device=DEVICE)(small)


@real
def test_batches_that_its_kernels_cannot_count_are_refused() -> None:
    images = torch.zeros(1, device=DEVICE).expand(2**20, 3, 32, 32)
    with pytest.raises(ValueError, match="triton-augment takes at most 2147483647 values a batch, got 3221225472"):
        build("flip", "triton_augment", device=DEVICE)(images)
