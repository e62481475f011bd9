"""Triton's kernels: launches, large images, barriers between reads and writes, code for a GPU that is not there, and on one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from augment import RECIPES, build, fused, ops, resolve
from augment.fused.passes import LEVELS, STATISTICS, encode_stretch
from augment.op import Op
from tests.augment.fused.cases import (
    AFTER_A_JUMP,
    DEVICE,
    NEEDS_TRITON,
    SETTINGS,
    TOLERANCE,
    assert_same,
    by_tensors,
    by_triton,
    draw,
    has_thresholds,
    on_device,
    pictures,
)

pytestmark = NEEDS_TRITON
pytest.importorskip("triton")

from triton.runtime import interpreter  # noqa: E402

from augment.fused import cuda, layouts, triton_images  # noqa: E402
from augment.fused import launches as launches_of  # noqa: E402
from augment.fused.launches import Prepared  # noqa: E402
from augment.fused.triton_held import is_held  # noqa: E402

KERNELS = ("image_passes", "image_pass", "measure_pass")


class Counted:
    """In place of a kernel: counts launches and keeps the number of programs and the arguments of the last one.

    ``kernel`` is launched if there is one: without one results are whatever the memory holds.
    """

    def __init__(self, kernel: Any = None) -> None:
        self.kernel, self.launches, self.programs = kernel, 0, 0
        self.arguments: tuple[Any, ...] = ()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.launches += 1
        self.programs = grid[0]
        return self.launch if self.kernel is None else self.kernel[grid]

    def launch(self, *arguments: Any, **constants: Any) -> None:
        self.arguments = arguments


@pytest.fixture(autouse=True)
def _no_kept_launches() -> Iterator[None]:
    """Kernels are replaced here: no launch is kept from other tests, nor for them."""
    cuda._LAUNCHES.clear()
    yield
    cuda._LAUNCHES.clear()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    kernels = {name: Counted() for name in KERNELS}
    for name, kernel in kernels.items():
        monkeypatch.setattr(triton_images, name, kernel)
    return kernels


def hold(monkeypatch: pytest.MonkeyPatch, whole: int, tile: int) -> None:
    """Let programs hold images of ``whole`` pixels, and ``tile`` pixels of larger ones."""
    monkeypatch.setattr(triton_images, "WHOLE", whole)
    monkeypatch.setattr(triton_images, "TILE", tile)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no program hold an image."""
    hold(monkeypatch, 0, 128)


def check(recipe: Sequence[Op], images: torch.Tensor) -> None:
    plan = fused.plan(recipe)
    params = draw(plan, images)
    expected = by_tensors(plan, images, params, torch.float32)
    assert_same(by_triton(plan, images, params), expected, TOLERANCE / 0.2, AFTER_A_JUMP if has_thresholds(recipe) else 0.0)


def of_side(recipe: str, side: int) -> tuple[Op, ...]:
    """Return a recipe, photographs' too, for images of that side."""
    photographs: dict[str, tuple[Op, ...]] = {
        "imagenet": (ops.RandomResizedCrop(size=side - 2), ops.HorizontalFlip(), ops.Normalize()),
        "imagenet_eval": (ops.Resize(size=side + 2), ops.CenterCrop(size=side - 2), ops.Normalize()),
    }
    return photographs.get(recipe) or resolve(recipe, side)


# ---- launches ---------------------------------------------------------------------------------------------------------


def launches(recipe: Sequence[Op], counted: dict[str, Counted], side: int = 12) -> int:
    before = sum(kernel.launches for kernel in counted.values())
    plan, images = fused.plan(recipe), pictures(3, side, side)
    by_triton(plan, images, draw(plan, images))
    return sum(kernel.launches for kernel in counted.values()) - before


def test_a_recipe_and_an_op_are_one_launch(counted: dict[str, Counted]) -> None:
    assert {name: launches(of_side(name, 12), counted) for name in RECIPES} == dict.fromkeys(RECIPES, 1)
    assert {launches([op], counted, 34) for op in SETTINGS} == {1}
    mixing_twice = [ops.Contrast(), ops.Rotate(), ops.MixUp(), ops.Contrast(), ops.Rotate(), ops.CutMix(), ops.Normalize()]
    assert launches(mixing_twice, counted) == 3  # what mixes images waits for all of them


@pytest.mark.parametrize(
    ("recipe", "measuring", "tiled", "whole"),
    [("crop_flip", 0, 1, 0), ("d2l", 1, 2, 0), ("randaugment", 2, 2, 0), ("cutmix", 0, 1, 0), ("augmix", 0, 0, 1)],
)
def test_large_images_are_cut_into_tiles(
    recipe: str, measuring: int, tiled: int, whole: int, counted: dict[str, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(monkeypatch, 0, 128)
    launches(resolve(recipe, 32), counted, 32)
    assert [counted[name].launches for name in ("measure_pass", "image_pass", "image_passes")] == [measuring, tiled, whole]


def test_photographs_are_cut_until_they_fill_a_gpu() -> None:
    """Seven programs across 224 pixels; strips of rows until there are 1,024 programs, of at least 6 rows a thread of 4."""
    (stretch,) = cuda._cut(fused.plan(resolve("imagenet", 224)), torch.float32)
    (record,) = encode_stretch(stretch, 256, 320).passes
    assert [layouts._count_strips(record, batch, 1024) for batch in (256, 64, 16, 0)] == [7, 7 * 3, 7 * 9, 7 * 9]


def test_scratch_is_at_most_a_float_copy_of_the_batch(counted: dict[str, Counted], monkeypatch: pytest.MonkeyPatch) -> None:
    for tile, recipe, batch, programs, buffers in ((None, "d2l", 9, 9, 1), (32, "augmix", 9, 2, 4), (32, "augmix", 4, 1, 4)):
        if tile:
            hold(monkeypatch, 0, tile)
        plan, images = fused.plan(of_side(recipe, 8)), pictures(batch, 8, 8)
        by_triton(plan, images, draw(plan, images))
        _, _, scratch, *_ = counted["image_passes"].arguments
        measured = STATISTICS + LEVELS * (recipe == "augmix")  # kilobytes, whatever the size of the images
        assert scratch.numel() == programs * (buffers * images[0].numel() + measured)


# ---- images of all sizes ----------------------------------------------------------------------------------------------


def far_apart(images: torch.Tensor, dim: int) -> torch.Tensor:
    """Return uint8 images with a stride of 2**31 in a dimension of size 2; of that memory only their own pages are used."""
    memory = torch.empty(2**31 + images.numel(), dtype=torch.uint8, device=DEVICE)
    strides = [2**31 if place == dim else stride for place, stride in enumerate(images.stride())]
    return memory.as_strided(images.shape, strides).copy_(images)


@pytest.mark.parametrize("is_tiled", [False, True])
def test_batches_of_more_than_31_bits(is_tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and results that lie 2**31 places apart, as in a batch of 65,536 photographs."""
    if is_tiled:
        hold(monkeypatch, 0, 64)
    plan, images = fused.plan([ops.HorizontalFlip(), ops.RandomCrop(size=9, padding=2), ops.Contrast()]), pictures(2, 9, 9)
    params, far = draw(plan, images), far_apart(images, 0)
    one_launch = cuda.OneLaunch(plan, torch.uint8, torch.contiguous_format)
    results = [one_launch(batch, None, torch.Generator(DEVICE).manual_seed(1))[0] for batch in (far, images.to(DEVICE))]
    assert torch.equal(*results)
    empty = cuda._empty
    monkeypatch.setattr(cuda, "_empty", lambda *arguments: far_apart(empty(*arguments), 0))
    result = cuda.apply_plan(plan, torch.uint8)(far, on_device(params))
    assert result.stride(0) == 2**31
    difference = result.cpu().int() - by_tensors(plan, images, params, torch.uint8).int()
    assert int(difference.abs().max()) <= 1  # a level, where a value lies between two


def test_an_image_whose_places_need_more_than_31_bits_is_copied() -> None:
    plan, images = fused.plan([ops.HorizontalFlip(), ops.Invert()]), pictures(3, 2, 9)
    params = draw(plan, images)
    wide = far_apart(images, 2)
    assert torch.equal(by_triton(plan, wide, params), by_triton(plan, images, params))
    one_launch = cuda.OneLaunch(plan, torch.float32, torch.contiguous_format)
    results = [one_launch(batch, None, torch.Generator(DEVICE).manual_seed(1))[0] for batch in (wide, images.to(DEVICE))]
    assert torch.equal(*results)


def test_a_launch_is_on_the_device_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU 1 while GPU 0 is the current one: entered for the launch, and its current stream is taken."""
    entered: list[int] = []
    current = [0]

    class _Device:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            entered.append(self.index)
            current.append(self.index)

        def __exit__(self, *error: object) -> None:
            current.pop()

    launched: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", _Device)
    monkeypatch.setattr(launches_of, "stream_of", lambda device: 70 + device.index)
    compiled = SimpleNamespace(
        function=0, packed_metadata=0, run=lambda *grid_and_stream: launched.append((current[-1], grid_and_stream[3]))
    )
    for index in (0, 1, 0):
        prepared = Prepared(None, (1, 1, 1), {})
        prepared.compiled = compiled
        prepared(torch.device("cuda", index))
    assert entered == [1]
    assert launched == [(0, 70), (1, 71), (0, 70)]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "op",
    [ops.ColorJitter(), ops.Contrast(), ops.Equalize(p=0.8), ops.AutoContrast(p=0.8), ops.Sharpness(), ops.RandAugment()],
    ids=lambda op: op.name,
)
def test_images_larger_than_a_tile(op: Op) -> None:
    check([ops.HorizontalFlip(), ops.Cutout(), op, ops.Grayscale(), ops.Normalize()], pictures(5, 13, 31))


@pytest.mark.parametrize(
    ("layout", "size"),
    [("whole", 3), ("whole", 40), ("tiles", 31), ("tiles", 40), ("channels_last", 31), ("strided", 3), ("floats", 40)],
)
def test_resized_images(layout: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of 32, of which the last ones reach beyond the image, in strips of rows; windows that shrink, grow or do both."""
    if layout == "tiles":
        hold(monkeypatch, 0, 128)
    behind = [ops.HorizontalFlip(), ops.Cutout(), ops.GaussianNoise(), ops.Invert(), ops.VerticalFlip(), ops.Normalize()]
    images = pictures(3, 37, 41, torch.float32 if layout == "floats" else torch.uint8)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        images = images.repeat_interleave(2, 3)[..., ::2]
    check([ops.HorizontalFlip(), ops.RandomResizedCrop(size=size), *behind], images)
    check([ops.RandomCrop(size=36, padding=4), ops.Resize(size=size, antialias=layout != "tiles"), *behind], images)


@pytest.mark.parametrize(("height", "width", "size"), [(1, 2, 5), (90, 3, 4), (2, 80, 5), (16, 16, 16)])
def test_resized_images_of_extreme_shapes(height: int, width: int, size: int) -> None:
    """Try sizes from a thread's pixels to dozens of neighbours a pixel, one that nothing moves, and a measure behind."""
    check([ops.Resize(size=size), ops.VerticalFlip(), ops.Contrast(), ops.Normalize()], pictures(2, height, width))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"none", "flip", "crop_flip"}))
def test_images_that_no_program_holds(recipe: str) -> None:
    assert triton_images.WHOLE < 80 * 72
    check(of_side(recipe, 72), pictures(1, 80, 72))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 2), (3, 65)])
def test_odd_sizes(height: int, width: int) -> None:
    chain = [ops.VerticalFlip(), ops.Affine(), ops.ColorJitter(), ops.TrivialAugmentWide(), ops.Equalize(), ops.Normalize()]
    check(chain, pictures(1, height, width))
    check([ops.RandomResizedCrop(size=5), ops.Sharpness(p=1.0)], pictures(3, height, width))


@pytest.mark.parametrize("side", [1, 2, 16])
def test_images_that_stay_in_registers_between_passes(side: int) -> None:
    behind = [ops.HorizontalFlip(), ops.VerticalFlip(), ops.Cutout(), ops.Contrast(), ops.Normalize()]
    for window in (ops.RandomResizedCrop(size=side), ops.RandomResizedCrop(size=side, antialias=False)):
        recipe = [ops.HorizontalFlip(), ops.ColorJitter(), window, *behind]
        (stretch,) = cuda._cut(fused.plan(recipe), torch.float32)
        layout = layouts._layout(stretch, side, side, triton_images.WHOLE, triton_images.TILE)
        assert [is_held(layout.chain, p, layout.tile) for p in range(3)] == [False, True, False]
        check(recipe, pictures(5, side, side))


MANY: list[Op] = [
    ops.VerticalFlip(), ops.ColorJitter(), ops.AutoContrast(p=0.7), ops.RandomCrop(size=7), ops.GaussianBlur(kernel_size=3),
    ops.HorizontalFlip(), ops.RandAugment(num_ops=2), ops.GaussianNoise(), ops.Perspective(), ops.HorizontalFlip(),
    ops.RandomResizedCrop(size=9), ops.Sharpness(), ops.Equalize(), ops.Normalize(),
]  # fmt: skip
"""Passes of every kind, growing and shrinking."""


@pytest.mark.parametrize("tile", [None, pytest.param(32, marks=pytest.mark.slow)])
def test_many_passes_and_fewer_programs_than_images(tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Counted(triton_images.image_passes)
    monkeypatch.setattr(triton_images, "image_passes", kernel)
    if tile:
        hold(monkeypatch, 0, tile)
    smooth = [op for op in MANY if not isinstance(op, ops.RandAugment | ops.Equalize)]  # no thresholds: last bits are no steps
    check([*smooth[:-1], ops.AugMix(), smooth[-1]] if tile else smooth, pictures(4, 11, 12))
    assert kernel.programs == (1 if tile else 2)  # buffers a program: four of large images, two where a resizing is between


def test_a_larger_image_behind_one_that_a_program_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 200, 128)
    chain = [ops.RandomCrop(size=9), ops.Contrast(), ops.Resize(size=20), ops.AutoContrast(p=1.0), ops.CenterCrop(size=11)]
    check([*chain, ops.AugMix(), ops.Hue()], pictures(4, 12, 15))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("recipe", ["crop_flip", "randaugment"])
def test_results_are_written_in_the_asked_type_and_layout(recipe: str, dtype: torch.dtype) -> None:
    plan, images = fused.plan(resolve(recipe, 16)[:-1]), pictures(3, 16, 20)
    params = draw(plan, images)
    source = images.to(DEVICE).contiguous(memory_format=torch.channels_last)
    result = cuda.apply_plan(plan, dtype, torch.channels_last)(source, on_device(params))
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = by_triton(plan, images, params, dtype)
    assert (result.dtype, expected.dtype) == (dtype, dtype)
    assert torch.equal(result.cpu().contiguous(), expected)
    exact = by_tensors(plan, images, params, torch.float32)
    # 11 and 8 bits: half a step by rounding, a whole one where the interpreter cuts off bfloat16
    narrowed = {torch.float16: 2**-11, torch.bfloat16: 2**-7, torch.uint8: 0.5 / 255}.get(dtype, 0.0)
    floats = expected.float() / (255 if dtype == torch.uint8 else 1)
    assert_same(floats, exact, narrowed + TOLERANCE, AFTER_A_JUMP if has_thresholds(plan.ops) else 0.0)


# ---- programs wait ----------------------------------------------------------------------------------------------------


class Watch:
    """Reads and writes of the programs of an interpreted kernel; ``races`` are places where they should have waited.

    Threads of a program run as they like between two barriers: what one of them writes there no other may read or write, and
    what one reads no other may write, unless the number written was made from the one read, as in a sum (same place of a tile).
    Programs run as they like altogether.
    """

    def __init__(self, has_barriers: bool = True) -> None:
        self.has_barriers = has_barriers
        self.read: dict[int, int] = {}
        self.written: set[int] = set()
        self.owner: dict[int, tuple[int, ...]] = {}
        self.places = 0
        self.races: list[str] = []

    def barrier(self) -> None:
        if self.has_barriers:
            self.read.clear()
            self.written.clear()

    def launch(self) -> None:
        """Begin a launch, which waits for those before it."""
        self.read.clear()
        self.written.clear()
        self.places += len(self.owner)
        self.owner.clear()

    def access(self, builder: Any, pointers: Any, mask: Any, is_write: bool) -> None:
        program = tuple(builder.grid_idx)
        visible = np.broadcast_to(mask.data, pointers.data.shape).reshape(-1)
        for place in np.flatnonzero(visible).tolist():
            address = int(pointers.data.reshape(-1)[place])
            if self.owner.get(address, program) != program:
                self.races.append(f"{program} meets {self.owner[address]}")
            if address in self.written:
                self.races.append(f"{program} {'writes' if is_write else 'reads'} what was just written")
            if is_write:
                if self.read.get(address, place) != place:
                    self.races.append(f"{program} writes what was just read")
                self.written.add(address)
                self.owner[address] = program
            else:
                self.read[address] = place


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Callable[[Watch], None]:
    builder = interpreter.InterpreterBuilder
    load, store, launch = builder.create_masked_load, builder.create_masked_store, Prepared.__call__

    def start(watch: Watch) -> None:
        def loads(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
            watch.access(self, pointers, mask, False)
            return load(self, pointers, mask, *others)

        def stores(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
            watch.access(self, pointers, mask, True)
            return store(self, pointers, value, mask, *others)

        def launches(self: Any, *arguments: Any) -> None:
            watch.launch()
            launch(self, *arguments)

        monkeypatch.setattr(Prepared, "__call__", launches)
        monkeypatch.setattr(builder, "create_masked_load", loads)
        monkeypatch.setattr(builder, "create_masked_store", stores)
        monkeypatch.setattr(builder, "create_barrier", lambda self: watch.barrier())

    return start


@pytest.mark.slow
@pytest.mark.skipif(DEVICE != "cpu", reason="looks into the interpreter")
@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("subject", ["d2l", "augmix", "many"])
def test_programs_wait_for_what_they_read(
    subject: str, tile: int | None, watching: Callable[[Watch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        hold(monkeypatch, 0, tile)
    recipes = {"many": MANY, "augmix": (ops.RandomCrop(size=6, padding=1), ops.AugMix(width=2), ops.Contrast())}
    plan, images = fused.plan(recipes.get(subject) or of_side(subject, 8)), pictures(4, 8, 7)
    params = draw(plan, images)
    for has_barriers in (True, False) if subject == "d2l" else (True,):
        watch = Watch(has_barriers)
        watching(watch)
        cuda.apply_plan(plan, torch.float32)(images, params)
        if cuda.OneLaunch.takes(plan, torch.float32):
            cuda.OneLaunch(plan, torch.float32, torch.contiguous_format)(images, None, None)
        watch.launch()
        assert watch.places > images.numel()
        assert bool(watch.races) != has_barriers, watch.races[:3]


# ---- compiled for a GPU that is not there -----------------------------------------------------------------------------

MOST_INSTRUCTIONS = {"none": 360, "flip": 480, "crop_flip": 720, "crop_flip@224": 760}
"""Instructions for 16 pixels a thread: a few more than they take."""
LARGE = ("crop_flip@224", "d2l@224", "randaugment@224", "augmix@224")


def compile_offline(cache: Path, *options: str) -> list[list[str]]:
    """Return the lines of ``augment.fused.offline``, whose kernels the compiler of this Triton makes, in words."""
    variables = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "augment.fused.offline", *options]
    run = subprocess.run(command, env=variables, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)
    return [line.split() for line in run.stdout.splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "drawing"), [((), set()), (("--draws-apart",), {"parameters", "noises"})], ids=["one launch", "draws apart"]
)
def test_every_kernel_compiles(option: tuple[str, ...], drawing: set[str], tmp_path: Path) -> None:
    """Runs on the oldest Triton too, whose language is smaller."""
    subjects = ("crop_flip", "d2l", "crop_jitter@224", "imagenet", "GaussianNoise")
    rows = compile_offline(tmp_path, *option, "--arch", "90", "--recipes", *subjects)
    assert {name for _, _, name, *_ in rows} == {*KERNELS, *drawing}
    # Nothing in shared memory: threads that resize do not wait for one another.
    assert {int(shared) for _, subject, _, _, _, shared, *_ in rows if subject == "imagenet"} == {0}


@pytest.mark.slow
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """To machine code of three GPUs, by the compiler that runs would use; no GPU is needed for that."""
    rows = compile_offline(tmp_path, "--arch", "90", "--recipes", *RECIPES, *LARGE)
    rows += compile_offline(tmp_path, "--arch", "80", "100", "--recipes", "crop_flip", "d2l", "randaugment", "imagenet")
    assert {row[1] for row in rows} == {*RECIPES, *LARGE}
    for architecture, recipe, kernel, *numbers, loads, stores, _ in rows:
        registers, spills, shared, code, instructions = map(int, numbers)
        # 48 KiB: more than a block gets without asking for it
        assert (registers <= 128, spills <= 48, shared <= 48 * 1024, code > 1000) == (True,) * 4, (architecture, recipe, kernel)
        if recipe in MOST_INSTRUCTIONS:
            assert (registers <= 96, spills) == (True, 0)
            assert stores.startswith("6x16"), "16 pixels a thread: two wide stores a channel"
            assert instructions <= MOST_INSTRUCTIONS[recipe]
        if recipe == "none":
            assert loads == "3x16"
        if recipe == "d2l":
            assert (registers, spills) == (64, 0), "eight programs on a multiprocessor"
        if recipe == "imagenet":
            assert (registers <= 72, spills, shared) == (True, 0, 0), "28 warps on a multiprocessor, and none waits for another"
            assert instructions <= 1560
        if recipe in ("autoaugment", "randaugment", "trivialaugment"):
            assert registers <= 80, "three programs on a multiprocessor"
            assert spills <= (0 if architecture == "sm_90" else 16), "that costs other GPUs four registers"
    texts = [path.read_text() for path in tmp_path.rglob("*_pass*.ptx")]
    assert len(texts) >= len({*RECIPES, *LARGE}) + 2 * 4
    for text in texts:
        if "__cudart_i2opi_f" not in text:  # sines have a table of constants
            assert "ld.global.nc" not in text, "loads that do not see what the program wrote"
    assert all("bar.sync" in path.read_text() for path in tmp_path.rglob("image_passes.ptx"))


# ---- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_build_takes_them_and_agrees_with_tensor_operations() -> None:
    images = pictures(64, 32, 32).cuda()
    for recipe in ("crop_flip", "d2l", "trivialaugment"):
        plan = fused.plan(resolve(recipe, 32))
        params = plan.sample(64, 32, 32, torch.Generator("cuda").manual_seed(0), "cuda")
        pipeline = build(recipe, "fused", device="cuda")
        pipeline(images)
        assert pipeline.implementation == "triton"
        result, _ = fused.prepare_run(plan, torch.device("cuda"), torch.float32)[0](images, params)
        expected, implementation = plan.run(images, params)
        assert implementation == "tensors"
        assert_same(result, expected.cpu(), 1e-4, AFTER_A_JUMP if recipe == "trivialaugment" else 0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["crop_flip", "d2l", "randaugment"])
def test_captured_in_a_graph_it_draws_anew_and_never_waits(recipe: str) -> None:
    images = pictures(32, 32, 32).cuda()
    augment = build(recipe, "fused", device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        augment(images)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = augment(images)
    results = []
    for _ in range(2):
        graph.replay()
        results.append(captured.clone())
    assert bool(results[0].isfinite().all())
    assert not torch.equal(*results)


@pytest.mark.gpu
def test_batches_of_other_sizes_compile_nothing() -> None:
    from triton import knobs

    augment = build("d2l", "fused", device="cuda")
    for count in (17, 32):
        augment(pictures(count, 32, 32).cuda())
    compiled = []
    knobs.runtime.jit_post_compile_hook = lambda *args, **named: compiled.append(named)
    try:
        for count in (1, 3, 48, 100):
            augment(pictures(count, 32, 32).cuda())
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == []
