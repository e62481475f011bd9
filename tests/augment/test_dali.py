"""DALI's dynamic mode against torchvision's functionals, on the parameters that it drew."""

from typing import Any

import pytest
import torch

from augment import UnsupportedOp, build, ops
from augment.audit import audit
from augment.backends import dali, dali_torchvision, find_backend
from augment.ops.colour import ABOUT_GREY, YIQ_HUE
from augment.ops.defaults import OUTSIDE, TWIST, WIDE
from augment.ops.geometry import BESIDE, REPEATED, resize_repeated

needs_dali = pytest.mark.skipif(dali.PACKAGE.why_not(torch.device("cpu")) is not None, reason="DALI is not installed")
MOVES = ("HorizontalFlip", "VerticalFlip", "RandomCrop", "ReflectCrop", "CenterCrop")
EXACT = (
    *(*MOVES, "RandomResizedCrop", "Rotate", "Brightness", "Contrast"),
    *("Saturation", "Grayscale", "GaussianBlur", "Normalize", "Cutout"),
)


@needs_dali
def test_ops_are_torchvisions_with_a_draw_for_each_image() -> None:
    """Replayed by the audit, whose oracles are torchvision's functionals; one grey step is its tolerance."""
    report = audit(["dali"], EXACT, ["flip", "crop_flip", "imagenet"], n=500, workers=False)
    assert {cell.subject: (cell.verdict, cell.cause) for cell in report.verdicts if cell.verdict != "exact"} == {}
    assert {cell.lane.measured for cell in report.verdicts if cell.lane is not None} <= {"per_image", "fixed"}


NAMED = {
    "Resize": ("close", REPEATED),
    "Hue": ("different", YIQ_HUE),
    "ColorJitter": ("different", f"one fixed order of the four ops; {YIQ_HUE}"),
    "DefaultRotate": ("different", OUTSIDE),
    "DefaultResize": ("close", REPEATED),
    "DefaultRandomResizedCrop": ("close", BESIDE),
    "DefaultContrast": ("different", ABOUT_GREY),
    "DefaultColorJitter": ("different", TWIST),
    "DefaultGaussianBlur": ("different", WIDE),
}


@needs_dali
def test_differences_are_named_by_replay() -> None:
    report = audit(["dali"], [*NAMED, "DefaultBrightness", "DefaultSaturation"], [], n=500, workers=False)
    named = {cell.subject: (cell.verdict, cell.cause.partition(" (")[0]) for cell in report.verdicts if cell.cause}
    assert (named, report.findings) == (NAMED, ())


@needs_dali
def test_a_graph_samples_draws_in_parts_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, build_graph = [], dali_torchvision.build_graph

    def count(operators: Any, images: torch.Tensor, seed: int) -> Any:
        sizes.append(len(images))
        return build_graph(operators, images, seed)

    monkeypatch.setattr(dali_torchvision, "build_graph", count)
    op = ops.RandomCrop()
    recorder = dali_torchvision.DaliOperatorRecorder(op, op.cells[dali_torchvision.NAME].build(op))
    top = recorder.sample(300, (32, 32))["top"]
    assert (len(top), set(sizes)) == (300, {dali_torchvision.SAMPLED})
    assert (top[:128] != top[128:256]).mean() > 0.5  # of 9 places, 8 in 9 differ by chance


@needs_dali
def test_its_own_resized_crop_is_a_resize_of_the_window() -> None:
    """The audit's cell does the same with a known window; here two ramps, in x and in y, tell the window."""
    ndd = dali.library()
    x, y = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy")
    image = torch.stack([x, y, torch.rand(32, 32)], dim=-1)
    for _ in range(8):
        crop = ndd.random_resized_crop(ndd.as_batch([image.numpy()], layout="HWC"), size=[32, 32], random_area=[0.3, 0.9])
        result = torch.utils.dlpack.from_dlpack(ndd.as_tensor(crop))[0]
        middle = [result[16, 12:20, 0], result[12:20, 16, 1]]  # far from the border the filter leaves a ramp as it is
        scales = [float(line[-1] - line[0]) / 7 for line in middle]
        starts = [float(line[0]) + 0.5 - 12.5 * scale for line, scale in zip(middle, scales, strict=True)]
        top, left, height, width = (round(v) for v in (starts[1], starts[0], 32 * scales[1], 32 * scales[0]))
        expected = resize_repeated(image.permute(2, 0, 1), (32, 32), (top, left, height, width))
        torch.testing.assert_close(result.permute(2, 0, 1), expected, atol=1e-4, rtol=1e-4)


IN_A_GRAPH = {
    "RandomResizedCrop": ("close", BESIDE),
    "Resize": ("close", REPEATED),
    **dict.fromkeys((*MOVES, "GaussianBlur", "Normalize"), ("exact", "")),
}


@needs_dali
@pytest.mark.slow
def test_ops_of_a_graph_are_torchvisions_but_for_the_named() -> None:
    report = audit(["dali_torchvision"], tuple(IN_A_GRAPH), ["crop_flip", "imagenet"], n=300, workers=False)
    recipes = {"crop_flip": ("exact", ""), "imagenet": ("close", f"RandomResizedCrop: {BESIDE}")}
    assert {cell.subject: (cell.verdict, cell.cause) for cell in report.verdicts} == IN_A_GRAPH | recipes
    assert {cell.lane.measured for cell in report.verdicts if cell.lane is not None} <= {"per_image", "fixed"}


@needs_dali
def test_a_graphs_batch_stays_as_it_is_and_bytes_stay_bytes() -> None:
    pipeline = build([ops.HorizontalFlip(), ops.RandomCrop()], "dali_torchvision", dtype=torch.uint8)
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    first = pipeline(images)
    before = first.clone()
    pipeline(255 - images)
    assert first.dtype == torch.uint8
    assert first.equal(before)


def test_a_graph_lacks_what_takes_pil_images() -> None:
    with pytest.raises(UnsupportedOp, match="DALI's class takes PIL images only"):
        build(ops.ColorJitter(), "dali_torchvision")


def test_it_stays_out_of_loader_workers() -> None:
    assert not find_backend("dali").forks
