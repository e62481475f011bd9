"""How many launches Triton's kernels take, and that programs wait for what they read from scratch memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from augment import RECIPES, fused, ops, passes
from augment.catalog import resolve
from augment.ops import Op
from tests.augment.test_triton import DEVICE, SINGLE, check, drawn, jumps, on_device, pictures, pytestmark  # noqa: F401

pytest.importorskip("triton")

from triton.runtime import interpreter

from augment import triton_kernels, triton_passes

KERNELS = ("image_passes", "image_pass")


class Counted:
    """In place of a kernel: counts its launches and keeps how many programs the last one had and what it was given.

    ``kernel`` is launched if there is one: without one results are whatever the memory holds.
    """

    def __init__(self, kernel: Any = None) -> None:
        self.kernel, self.launches, self.programs = kernel, 0, 0
        self.given: tuple[Any, ...] = ()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.launches += 1
        self.programs = grid[0]
        return self.launch if self.kernel is None else self.kernel[grid]

    def launch(self, *given: Any, **constants: Any) -> None:
        self.given = given


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    return in_place_of_kernels({name: Counted() for name in KERNELS}, monkeypatch)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    return in_place_of_kernels({name: Counted(getattr(triton_kernels, name)) for name in KERNELS}, monkeypatch)


def in_place_of_kernels(kernels: dict[str, Counted], monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    for name, kernel in kernels.items():
        monkeypatch.setattr(triton_kernels, name, kernel)
    return kernels


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no program could hold an image."""
    hold(monkeypatch, 0, 128)


def hold(monkeypatch: pytest.MonkeyPatch, whole: int, tile: int) -> None:
    """As if programs could hold images of ``whole`` pixels, and ``tile`` pixels of larger ones."""
    monkeypatch.setattr(triton_kernels, "WHOLE", whole)
    monkeypatch.setattr(triton_kernels, "TILE", tile)


def launches(recipe: Sequence[Op], counted: dict[str, Counted], count: int = 3, side: int = 12) -> int:
    before = sum(kernel.launches for kernel in counted.values())
    planned, images = fused.plan(recipe), pictures(count, side, side)
    triton_passes.applied(planned, torch.float32)(images.to(DEVICE), on_device(drawn(planned, images)))
    return sum(kernel.launches for kernel in counted.values()) - before


def of_side(recipe: str, side: int) -> tuple[Op, ...]:
    """A recipe, photographs' too, for images of that side."""
    photographs: dict[str, tuple[Op, ...]] = {
        "imagenet": (ops.RandomResizedCrop(size=side - 2), ops.HorizontalFlip(), ops.Normalize()),
        "imagenet_eval": (ops.Resize(size=side + 2), ops.CenterCrop(size=side - 2), ops.Normalize()),
    }
    return photographs.get(recipe) or resolve(recipe, side)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_one_launch(recipe: str, counted: dict[str, Counted]) -> None:
    assert launches(of_side(recipe, 12), counted) == 1


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_one_launch_for_large_images_too(recipe: str, counted: dict[str, Counted]) -> None:
    assert launches(of_side(recipe, 12), counted) == 1


def test_an_op_is_one_launch(counted: dict[str, Counted]) -> None:
    assert {op.name: launches([op], counted, 1, 34) for op in SINGLE} == {op.name: 1 for op in SINGLE}


def test_what_mixes_images_waits_for_all_of_them(counted: dict[str, Counted]) -> None:
    chain = [ops.Contrast(), ops.Rotate(), ops.MixUp(), ops.Contrast(), ops.Rotate(), ops.CutMix(), ops.Normalize()]
    assert launches(chain, counted) == 3


def test_what_is_mixed_has_been_through_all_passes_before() -> None:
    chain = [ops.Contrast(), ops.Rotate(), ops.MixUp(), ops.Contrast(), ops.Rotate(), ops.CutMix(), ops.Normalize()]
    check(chain, pictures(3, 12, 13))


# ---- images of all sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"none", "flip", "crop_flip"}))
def test_images_that_no_program_holds(recipe: str) -> None:
    chain = of_side(recipe, 72)
    assert triton_kernels.WHOLE < 80 * 72
    check(chain, pictures(1, 80, 72), excused=jumps(chain))


@pytest.mark.parametrize("recipe", ["d2l", "randaugment", "augmix", "imagenet_eval", "imagenet"])
def test_one_image_of_odd_sides(recipe: str) -> None:
    for height, width in ((37, 24), (33, 33)):
        chain = of_side(recipe, 24)
        check(chain, pictures(1, height, width), excused=jumps(chain))


MANY: list[Op] = [
    ops.VerticalFlip(), ops.ColorJitter(), ops.AutoContrast(p=0.7), ops.RandomCrop(size=7), ops.GaussianBlur(kernel_size=3),
    ops.HorizontalFlip(), ops.RandAugment(num_ops=2), ops.GaussianNoise(), ops.Perspective(), ops.HorizontalFlip(),
    ops.RandomResizedCrop(size=9), ops.Sharpness(), ops.Equalize(), ops.Normalize(),
]  # fmt: skip
"""Of every kind, growing and shrinking."""
SMOOTH = [op for op in MANY if not isinstance(op, ops.RandAugment | ops.Equalize)]
"""Without thresholds, before which last bits must agree."""


@pytest.mark.parametrize("tile", [None, 32])
def test_many_passes_and_fewer_programs_than_images(
    tile: int | None, running: dict[str, Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        hold(monkeypatch, 0, tile)
    check(SMOOTH, pictures(5, 11, 12))
    assert running["image_passes"].programs == (2 if tile else 5)  # two buffers a program: of large images every second


def test_scratch_is_at_most_a_float_copy_of_the_batch(counted: dict[str, Counted], monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 0, 32)
    for recipe, batch, programs, buffers in (("d2l", 9, 9, 1), ("augmix", 9, 2, 4), ("augmix", 4, 1, 4)):
        planned, images = fused.plan(of_side(recipe, 8)), pictures(batch, 8, 8)
        triton_passes.applied(planned, torch.float32)(images.to(DEVICE), on_device(drawn(planned, images)))
        _, _, scratch, row, *_ = counted["image_passes"].given
        assert scratch.numel() == programs * buffers * images[0].numel()
        measured = passes.STATISTICS + passes.LEVELS * (recipe == "augmix")
        assert row.numel() == programs * measured  # kilobytes, whatever the size of the images


def test_a_larger_image_behind_one_that_a_program_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 200, 128)
    chain = [ops.RandomCrop(size=9), ops.Contrast(), ops.Resize(size=20), ops.AutoContrast(p=1.0), ops.CenterCrop(size=11)]
    check([*chain, ops.AugMix(), ops.Hue()], pictures(4, 12, 15), excused=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("recipe", ["crop_flip", "randaugment"])
def test_results_are_written_in_the_asked_layout(recipe: str, dtype: torch.dtype) -> None:
    planned, images = fused.plan(resolve(recipe, 16)[:-1]), pictures(3, 16, 20)
    params = on_device(drawn(planned, images))
    given = images.to(DEVICE).contiguous(memory_format=torch.channels_last)
    result = triton_passes.applied(planned, dtype, torch.channels_last)(given, params)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result.contiguous(), triton_passes.applied(planned, dtype)(images.to(DEVICE), params))


# ---- programs wait ----------------------------------------------------------------------------------------------------


class Watch:
    """What the programs of an interpreted kernel read and wrote; ``found`` are places where they should have waited.

    Threads of a program run as they like between two barriers: what one of them writes there no other may read or write, and
    what one reads no other may write, unless the number written was made from the one read, as in a sum (same place of a tile).
    Programs run as they like altogether.
    """

    def __init__(self, has_barriers: bool = True) -> None:
        self.has_barriers = has_barriers
        self.read: dict[int, int] = {}
        self.written: set[int] = set()
        self.owner: dict[int, tuple[int, ...]] = {}
        self.found: list[str] = []

    def barrier(self) -> None:
        if self.has_barriers:
            self.read.clear()
            self.written.clear()

    def saw(self, builder: Any, pointers: Any, mask: Any, is_write: bool) -> None:
        program = tuple(builder.grid_idx)
        seen = np.broadcast_to(mask.data, pointers.data.shape).reshape(-1)
        for place in np.flatnonzero(seen).tolist():
            address = int(pointers.data.reshape(-1)[place])
            if self.owner.get(address, program) != program:
                self.found.append(f"{program} meets {self.owner[address]}")
            if address in self.written:
                self.found.append(f"{program} {'writes' if is_write else 'reads'} what was just written")
            if is_write:
                if self.read.get(address, place) != place:
                    self.found.append(f"{program} writes what was just read")
                self.written.add(address)
                self.owner[address] = program
            else:
                self.read[address] = place


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Callable[[Watch], None]:
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def start(watch: Watch) -> None:
        def loads(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
            watch.saw(self, pointers, mask, False)
            return load(self, pointers, mask, *others)

        def stores(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
            watch.saw(self, pointers, mask, True)
            return store(self, pointers, value, mask, *others)

        monkeypatch.setattr(builder, "create_masked_load", loads)
        monkeypatch.setattr(builder, "create_masked_store", stores)
        monkeypatch.setattr(builder, "create_barrier", lambda self: watch.barrier())

    return start


@pytest.mark.skipif(DEVICE != "cpu", reason="looks into the interpreter")
@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("subject", ["d2l", "augmix", "many"])
def test_programs_wait_for_what_they_read(
    subject: str, tile: int | None, watching: Callable[[Watch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        hold(monkeypatch, 0, tile)
    recipes = {"many": MANY, "augmix": (ops.RandomCrop(size=6, padding=1), ops.AugMix(width=2), ops.Contrast())}
    planned, images = fused.plan(recipes.get(subject) or of_side(subject, 8)), pictures(4, 8, 7)
    params = drawn(planned, images)
    for has_barriers in (True, False) if subject == "d2l" else (True,):
        watch = Watch(has_barriers)
        watching(watch)
        triton_passes.applied(planned, torch.float32)(images, params)
        assert len(watch.owner) > images.numel()
        assert bool(watch.found) != has_barriers, watch.found[:3]
