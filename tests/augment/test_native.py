"""The C library against the tensor kernels that it stands in for, with the same draws; and how it is built and kept."""

import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augment import RECIPES, fused, native, native_build, ops, passes, policies, threads
from augment.catalog import resolve
from augment.compose import to_dtype
from augment.ops import Op
from augment.sampling import SAMPLERS, Params

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

TOLERANCE = 1e-5
"""Of values in [0, 1]: sums in another order, and places of pixels in float32, whose last bit is 1e-6 of a side."""
AFTER_A_JUMP = 4e-3
"""Share of values that may differ where a last bit decides: behind warps and blends at a threshold, a level or a bin."""

SIZED = (ops.RandomCrop, ops.RandomResizedCrop, ops.CenterCrop, ops.Resize)
EVERY_OP: list[Op] = [kind() for kind in passes.NAMES if kind not in SIZED] + [
    ops.AugMix(width=1, severity=10), ops.AugMix(width=5), ops.Perspective(p=1.0), ops.Perspective(p=1.0, distortion=1.0),
    ops.GaussianBlur(kernel_size=1), ops.GaussianBlur(kernel_size=17, sigma=(0.01, 9.0)), ops.GaussianNoise(sigma=0.5),
    ops.RandomCrop(size=20, padding=12), ops.RandomCrop(size=7, padding=6), ops.CenterCrop(size=9), ops.CenterCrop(size=44),
    ops.RandomResizedCrop(size=19), ops.RandomResizedCrop(size=8, antialias=False), ops.RandomResizedCrop(size=70),
    ops.Resize(size=5), ops.Resize(size=50), ops.Resize(size=11, antialias=False), ops.RandomErasing(p=1.0, value=0.3),
    ops.Solarize(threshold=0.2, p=1.0), ops.Posterize(bits=2, p=1.0), ops.Equalize(p=1.0), ops.Sharpness(factor=0.2, p=1.0),
    ops.Affine(degrees=(-180.0, 180.0), scale=(0.3, 2.0), shear=(-60.0, 60.0)), ops.Rotate(degrees=(90.0, 90.0)),
    ops.RandAugment(num_ops=3, magnitude=30),
]  # fmt: skip
CHAINS: dict[str, Sequence[Op]] = {
    "every move": [ops.VerticalFlip(), ops.RandomCrop(size=18, padding=9), ops.HorizontalFlip(), ops.CenterCrop(size=12)],
    "mirrors behind a window": [ops.VerticalFlip(), ops.RandomResizedCrop(size=13), ops.HorizontalFlip(), ops.VerticalFlip()],
    "mirrors behind a warp": [ops.HorizontalFlip(), ops.Rotate(), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Invert()],
    "mirrors behind a policy": [ops.TrivialAugmentWide(), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Normalize()],
    "mixing after values": [ops.Brightness(), ops.HorizontalFlip(), ops.MixUp(), ops.CutMix(), ops.Hue(), ops.Normalize()],
    "moved partners": [ops.RandomCrop(size=21, padding=10), ops.VerticalFlip(), ops.CutMix(), ops.Invert()],
    "erased before and after": [ops.Cutout(), ops.RandomErasing(value=0.7), ops.Normalize(), ops.RandomErasing(p=1.0)],
    "mirrors behind a perspective": [ops.RandomCrop(size=15, padding=4), ops.Perspective(p=1.0), ops.HorizontalFlip()],
    "mirrors about a blur": [ops.VerticalFlip(), ops.GaussianBlur(), ops.HorizontalFlip(), ops.VerticalFlip(), ops.Hue()],
    "mirrors behind chains": [ops.HorizontalFlip(), ops.AugMix(), ops.VerticalFlip(), ops.HorizontalFlip()],
    "every neighbourhood": [ops.ColorJitter(), ops.Perspective(), ops.GaussianNoise(), ops.GaussianBlur(), ops.AugMix()],
    "noise of a crop's size": [ops.CenterCrop(size=14), ops.GaussianNoise(), ops.VerticalFlip(), ops.GaussianNoise()],
    "two measures": [ops.Contrast(), ops.AutoContrast(p=1.0), ops.Grayscale(p=0.5), ops.Contrast()],
}
SUBJECTS: dict[str, Sequence[Op]] = {**{str(op): [op] for op in EVERY_OP}, **CHAINS}
SIZES = ((23, 40, 1), (33, 18, 5), (1, 7, 3), (9, 1, 3), (1, 1, 2), (2, 3, 2))
JUMPS = (ops.AugMix, ops.Solarize, ops.Posterize, ops.Equalize, ops.AutoAugment, ops.RandAugment, ops.TrivialAugmentWide)


def images_of(batch: int, height: int, width: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Structure, noise, and one flat image."""
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    images[1::3] = torch.randint(0, 256, images[1::3].shape, dtype=torch.uint8, generator=generator)
    images[2::3] = 77
    return images if dtype == torch.uint8 else images.to(dtype) / 255


def by_tensors(planned: fused.Plan) -> fused.Plan:
    return fused.Plan(planned.ops, planned.stages)


def assert_same(result: Tensor, expected: Tensor, tolerance: float = TOLERANCE, excused: float = 0.0) -> None:
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    wrong = (result.double() - expected.double()).abs() > tolerance
    assert float(wrong.double().mean()) <= excused, f"{int(wrong.sum())} of {wrong.numel()} values differ"


def check(recipe: Sequence[Op], images: Tensor) -> None:
    planned = fused.plan(recipe)
    batch, _, height, width = images.shape
    params = planned.sample(batch, height, width, torch.Generator().manual_seed(1))
    kept = images.clone()
    result, expected = planned.apply(images, params), by_tensors(planned).apply(images, params)
    assert torch.equal(images, kept)
    scale = 1 / min(min(op.std) for op in (*recipe, ops.Normalize(std=(1.0,) * 3)) if isinstance(op, ops.Normalize))
    if images.dtype == torch.uint8 and any(isinstance(op, ops.RandomResizedCrop) and op.size >= 64 for op in recipe):
        assert_same(
            result, expected, 1.5 * scale / 255
        )  # tensor kernels round such a crop to bytes, twice, as torchvision does
        return
    jumps = any(isinstance(op, JUMPS) for op in recipe) and (
        len(recipe) > 1 or isinstance(recipe[0], ops.RandAugment | ops.AutoAugment | ops.AugMix)
    )
    # In images of a few pixels one excused value is a large share.
    assert_same(result, expected, scale * TOLERANCE, max(AFTER_A_JUMP, 1.5 / result.numel()) if jumps else 0.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_ops_and_chains_are_the_tensor_kernels(subject: str, dtype: torch.dtype) -> None:
    for height, width, batch in SIZES:
        if min(height, width) < 9 and any(isinstance(op, ops.RandomCrop | ops.GaussianBlur) for op in SUBJECTS[subject]):
            continue  # needs larger images
        check(SUBJECTS[subject], images_of(batch, height, width, dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_the_tensor_kernels(recipe: str, dtype: torch.dtype) -> None:
    check(resolve(recipe, 32), images_of(16, 32, 32, dtype))
    if recipe in {"imagenet", "d2l", "randaugment"}:
        check(resolve(recipe, 96), images_of(3, 96, 131, dtype))


@pytest.mark.parametrize(
    "recipe", ["flip", "crop_flip", "d2l", "autoaugment", "randaugment", "trivialaugment", "augmix", "mixup", "imagenet"]
)
def test_the_library_does_the_whole_recipe(recipe: str) -> None:
    """Else all of these tests could compare tensor kernels with themselves."""
    planned = fused.plan(resolve(recipe, 32))
    assert [(run.start, run.end) for run in planned.runs] == [(0, len(planned.ops))]
    images = images_of(4, 32, 32)
    assert native.takes(images, [])
    assert planned.runs[0].apply(images, planned.sample(4, 32, 32)) is not None


def test_every_op_has_a_place_in_a_run() -> None:
    for op in (kind() for kind in SAMPLERS):
        assert [(run.start, run.end) for run in fused.plan([op]).runs] == [(0, 1)], op


def test_where_runs_are_cut() -> None:
    """Only where images mix, which needs all of them at once."""
    planned = fused.plan(CHAINS["mixing after values"])
    assert [(run.start, run.end) for run in planned.runs] == [(0, 1), (1, 3), (3, 6)]
    assert [(run.start, run.end) for run in fused.plan(CHAINS["every neighbourhood"]).runs] == [(0, 5)]
    moves = fused.plan([ops.HorizontalFlip(), ops.Cutout()])
    images, params = images_of(2, 8, 8), moves.sample(2, 8, 8)
    assert moves.runs[0].apply(images, params) is None  # bytes stay bytes
    assert moves.runs[0].apply(images, params, torch.uint8) is None
    floats = moves.runs[0].apply(images, params, torch.float32)
    assert floats is not None
    assert torch.equal(floats, moves.apply(images, params) / 255)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8])
def test_results_are_rounded_as_pytorch_rounds(dtype: torch.dtype) -> None:
    """Of many sizes, subnormal ones, ties and halves too large for the type among them."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 3, 64, 64, generator=generator) * torch.logspace(-9, 5, 64)
    ties = torch.arange(3 * 64 * 64).view(1, 3, 64, 64) / 510 + 1  # 8 and 11 bits are not enough for all of these
    for images in (values, -values, ties, ties / 2**16, (ties - 1) / 25):
        planned = fused.plan([ops.HorizontalFlip(p=0.0)])
        result = planned.apply(images, planned.sample(1, 64, 64), dtype)
        assert result.dtype == dtype
        assert torch.equal(result, to_dtype(images, dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recipe", [[ops.Brightness()], [ops.HorizontalFlip(), ops.MixUp(), ops.Normalize()]])
def test_types_and_layouts_of_images_are_read_as_they_lie(recipe: list[Op], dtype: torch.dtype) -> None:
    images = images_of(5, 7, 12)
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    planned = fused.plan(recipe)
    params = planned.sample(5, 7, 12)
    interleaved = images.to(memory_format=torch.channels_last)
    expected = planned.apply(images if dtype == torch.uint8 else images.float(), params)
    for given in (images, interleaved):
        assert planned.runs[0].apply(given, params) is not None
        assert torch.equal(planned.apply(given, params), expected)


def test_bytes_become_what_a_division_makes_of_them() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(1, 3, 3, 1)
    planned = fused.plan([ops.Invert(p=0.0)])
    assert torch.equal(planned.apply(images, planned.sample(1, 3, 256)), images / 255)


def test_every_way_of_a_policy_occurs() -> None:
    """Each op of the widest policy at each magnitude and sign, on its own and so without excuse."""
    space = policies.AUTOAUGMENT
    chosen = torch.tensor(list(itertools.product(range(len(space.names)), range(space.bins), (0, 1))))
    kernel, arguments = space.lookup(chosen[:, :1], chosen[:, 1:2], chosen[:, 2:].bool(), 21, 34)
    planned = fused.plan([ops.TrivialAugmentWide()])
    params = [{"kernel": kernel, "arguments": arguments}]
    for dtype in (torch.uint8, torch.float32):
        images = images_of(len(chosen), 21, 34, dtype)
        assert_same(planned.apply(images, params), by_tensors(planned).apply(images, params))


def test_layouts_of_images_and_parameters() -> None:
    recipe = resolve("d2l", 32)
    planned = fused.plan(recipe)
    images = images_of(6, 32, 32)
    params = planned.sample(6, 32, 32, torch.Generator().manual_seed(0))
    expected = planned.apply(images, params)
    strided = [{key: torch.stack([value, value], -1)[..., 0] for key, value in drawn.items()} for drawn in params]
    wide = [{k: v.double() if v.is_floating_point() else v for k, v in drawn.items()} for drawn in params]
    spread = images.repeat_interleave(2, 3)[..., ::2]
    for given, drawn in ((images.to(memory_format=torch.channels_last), params), (spread, strided), (images, wide)):
        kept = given.clone()
        assert torch.equal(planned.apply(given, drawn), expected)
        assert torch.equal(given, kept)
    halves = images.to(torch.float16) / 255
    assert torch.equal(planned.apply(halves, params), planned.apply(halves.float(), params))


@pytest.mark.parametrize("recipe", ["crop_flip", "d2l", "mixup"])
def test_threads_do_not_matter(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "VALUES_A_THREAD", 1)
    monkeypatch.setattr(native, "LIGHT_VALUES_A_THREAD", 1)
    shared: list[int] = []
    share = threads.share

    def watch(work: Callable[[range], None], count: int, parts: int) -> None:
        shared.append(parts)
        share(work, count, parts)

    monkeypatch.setattr(threads, "share", watch)
    planned, images, before = fused.plan(resolve(recipe, 32)), images_of(7, 32, 32), torch.get_num_threads()
    params = planned.sample(7, 32, 32, torch.Generator().manual_seed(0))
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(planned.apply(images, params))
    finally:
        torch.set_num_threads(before)
    assert shared == [1, 2, 3]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("pinned", [{"hue": (0.0, 0.0)}, {"contrast": (1.0, 1.0)}, {"brightness": (1.0, 1.0)}])
def test_a_jitter_leaves_out_what_its_ranges_rule_out(pinned: dict[str, tuple[float, float]]) -> None:
    """The whole jitter with the same factors is the oracle: what is left out changes nothing but last bits."""
    images, op = images_of(6, 20, 22, torch.float32), ops.ColorJitter(**pinned)
    planned = fused.plan([op])
    params = planned.sample(6, 20, 22)
    assert set(op.changing) == {"brightness", "contrast", "saturation", "hue"} - set(pinned)
    assert_same(planned.apply(images, params), fused.plan([ops.ColorJitter()]).apply(images, params))
    nothing = ops.ColorJitter(brightness=(1.0, 1.0), contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=(0.0, 0.0))
    planned = fused.plan([nothing])
    for way in (planned, by_tensors(planned)):
        assert torch.equal(way.apply(images, planned.sample(6, 20, 22)), images)


def test_gradients_flow_through_tensor_kernels() -> None:
    images = images_of(3, 16, 16, torch.float32).requires_grad_()
    planned = fused.plan([ops.ColorJitter(), ops.Normalize()])
    params = planned.sample(3, 16, 16)
    planned.apply(images, params).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    with torch.no_grad():
        assert native.takes(images.detach(), params)


def test_parameters_that_do_not_fit_are_not_read() -> None:
    images = images_of(4, 16, 16, torch.float32)
    planned = fused.plan([ops.RandAugment(num_ops=2)])
    params = planned.sample(4, 16, 16)[0]
    one = {key: value[:, :1] for key, value in params.items()}
    assert planned.runs[0].apply(images, [one]) is None
    assert_same(planned.apply(images, [one]), by_tensors(planned).apply(images, [one]))


def test_parameters_out_of_range_reach_no_foreign_memory() -> None:
    images = images_of(2, 16, 12, torch.float32)
    far: dict[type[Op], Params] = {
        ops.RandomErasing: {key: torch.tensor([-5.0, 1e9]) for key in ("top", "left", "height", "width")},
        ops.CutMix: {key: torch.tensor([-1e9, 7.0]) for key in ("top", "left", "height", "width")},
        ops.RandomResizedCrop: {key: torch.tensor([100.0, float("nan")]) for key in ("top", "left", "height", "width")},
        ops.RandomCrop: {"top": torch.tensor([-(10**12), 50]), "left": torch.tensor([10**12, -50])},
        ops.TrivialAugmentWide: {"kernel": torch.tensor([[99], [1]]), "arguments": torch.full((2, 1, 6), 1e30)},
        ops.AugMix: {
            "kernel": torch.full((2, 3, 3), -7),
            "arguments": torch.full((2, 3, 3, 6), float("nan")),
            "weights": torch.ones(2, 4),
        },
        ops.Perspective: {
            "applied": torch.ones(2, dtype=torch.bool),
            "corners": torch.tensor([[10**9, -(10**9)] * 4, [0, 1] * 4]),
        },
        ops.GaussianBlur: {"sigma": torch.tensor([float("nan"), 0.0])},
        ops.ColorJitter: {"order": torch.full((2, 4), 9), "factors": torch.ones(2, 4)},
    }
    for kind, drawn in far.items():
        op = ops.RandomCrop(size=8) if kind is ops.RandomCrop else kind()
        planned = fused.plan([op, ops.Normalize()])
        assert planned.apply(images, [drawn, {}]).shape[:2] == (2, 3)


# ---- the library ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no library in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_build.library.cache_clear()
    yield tmp_path / "augmark"
    native_build.library.cache_clear()


@pytest.fixture
def fast_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "FLAGS", ("-std=gnu11", "-O0", "-ffp-contract=off", "-fPIC", "-shared"))


def brightened(images: Tensor) -> Tensor:
    planned = fused.plan([ops.Brightness(low=0.7, high=0.7), ops.HorizontalFlip(p=1.0)])
    return planned.apply(images, planned.sample(len(images), *images.shape[2:]))


@pytest.mark.filterwarnings("default::RuntimeWarning")
@pytest.mark.parametrize("reason", ["no C compiler 'no-such-compiler'", "cc failed: cannot"])
def test_without_a_compiler_tensor_kernels_run_after_one_warning(
    reason: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "cc"
    broken.parent.mkdir()
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo cannot >&2; exit 1; }\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken) if "failed" in reason else "no-such-compiler")
    images = images_of(3, 9, 14)
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        result = brightened(images)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        brightened(images)
    assert_same(result, (images / 255 * 0.7).flip(3))


@pytest.mark.usefixtures("fast_compiler")
def test_a_library_is_kept_and_rebuilt_where_it_is_damaged(cache: Path) -> None:
    assert native_build.library() is not None
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    native_build.library.cache_clear()
    assert native_build.library() is not None
    assert path.stat().st_mtime_ns == written
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 :] = b""
    path.unlink()  # this process still uses the old one
    path.write_bytes(damaged)
    native_build.library.cache_clear()
    assert native_build.library() is not None
    (again,) = cache.iterdir()
    assert again.stat().st_size > len(damaged)
    images = images_of(2, 5, 6)
    assert_same(brightened(images), (images / 255 * 0.7).flip(3))


@pytest.mark.usefixtures("fast_compiler")
def test_other_flags_make_another_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native_build.library()
    native_build.library.cache_clear()
    monkeypatch.setattr(native_build, "FLAGS", (*native_build.FLAGS, "-DANOTHER"))
    native_build.library()
    assert len(list(cache.iterdir())) == 2


@pytest.mark.usefixtures("fast_compiler")
def test_a_folder_that_cannot_be_written_does_not_matter(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache.with_name("file")
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert native_build.library() is not None
    images = images_of(2, 5, 6)
    assert_same(brightened(images), (images / 255 * 0.7).flip(3))


@pytest.mark.usefixtures("fast_compiler")
def test_several_may_build_at_once(cache: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: native_build._made(), range(3)))
    assert all(hasattr(each, "augment_images") for each in made)
    assert all(path.suffix == ".so" for path in cache.iterdir())


def test_what_the_compiler_reads_is_beside_the_module() -> None:
    included = [path for path in Path(native_build.__file__).parent.iterdir() if path.suffix in {".c", ".h"}]
    assert set(native_build.SOURCES) == set(included)


class _Augmented(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        planned = fused.plan(resolve("d2l", 32))
        assert native.takes(images_of(1, 8, 8), [])
        return planned.apply(images_of(5, 32, 32), planned.sample(5, 32, 32, torch.Generator().manual_seed(index)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")
def test_forked_loader_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "VALUES_A_THREAD", 1)
    data = _Augmented()
    expected = [data[index] for index in range(len(data))]  # the parent has used the library, and its threads
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for result, there in zip(loader, expected, strict=True):
        assert torch.equal(result, there)
