"""Draws and passes in one launch: the pixels of ``sample`` and ``apply``, numbers of Philox, generators as PyTorch's."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from augment import RECIPES, build, fused, ops, resolve
from augment.audit import laws
from augment.fused import sample
from augment.op import Op
from tests.augment.fused.cases import AFTER_A_JUMP, DEVICE, NEEDS_TRITON, Operations, assert_same, pictures

pytestmark = NEEDS_TRITON
pytest.importorskip("triton")

from augment.fused import cuda, layouts, triton_draws, triton_images, triton_random  # noqa: E402

SUBJECTS: dict[str, Sequence[Op]] = {
    **{name: resolve(name, 8) for name in ("none", "airbench", "crop_flip_cutout", "d2l", "crop_jitter")},
    **{name: resolve(name, 8) for name in ("autoaugment", "randaugment")},
    "warps": [ops.Affine(), ops.RandomErasing(), ops.Perspective(), ops.GaussianBlur(), ops.VerticalFlip(), ops.Rotate()],
    "windows": [ops.RandomResizedCrop(size=6), ops.HorizontalFlip(), ops.Grayscale(), ops.RandomCrop(size=7)],
    "nothing read": [ops.TrivialAugmentWide(), ops.CenterCrop(size=5)],
    "noises": [ops.GaussianNoise(), ops.RandomCrop(size=7), ops.Brightness(), ops.GaussianNoise(sigma=0.4)],
    "augmix": [ops.RandomCrop(size=8, padding=1), ops.AugMix(alpha=0.6, width=2), ops.Normalize()],
    "mixup": [ops.HorizontalFlip(), ops.RandomCrop(size=8, padding=2), ops.MixUp(), ops.GaussianNoise(), ops.Normalize()],
    "cutmix": [ops.VerticalFlip(), ops.CutMix(alpha=0.4), ops.Contrast(), ops.Rotate()],
}  # fmt: skip


def generator(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def one_launch(plan: fused.Plan, dtype: torch.dtype = torch.float32) -> Callable[[Tensor, torch.Generator | None], Tensor]:
    run = cuda.OneLaunch(plan, dtype, torch.contiguous_format)
    return lambda images, source: run(images, None, source)[0]


def in_two_steps(plan: fused.Plan, images: Tensor, source: torch.Generator, dtype: torch.dtype) -> Tensor:
    batch, _, height, width = images.shape
    params = sample.sample(plan.ops, batch, height, width, source, DEVICE, triton_draws.SAMPLER)
    return cuda.apply_plan(plan, dtype)(images, params)


@pytest.mark.parametrize("tile", [None, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_one_launch_is_sample_and_apply(subject: str, tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if tile:
        monkeypatch.setattr(triton_images, "WHOLE", 0)
        monkeypatch.setattr(triton_images, "TILE", tile)
    plan, images = fused.plan(SUBJECTS[subject]), pictures(2, 8, 8 if subject == "d2l" else 9).to(DEVICE)
    for dtype in (torch.float32, torch.uint8) if subject == "warps" else (torch.float32,):
        run = one_launch(plan, dtype)
        first, again, changed = (run(images, generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, in_two_steps(plan, images, generator(1), dtype))
        assert torch.equal(first, again)
        assert subject == "none" or not torch.equal(first, changed)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 9)])
def test_one_launch_of_few_images_and_pixels(batch: int, size: tuple[int, int]) -> None:
    recipe = [ops.RandomCrop(size=2, padding=1), ops.CutMix(), ops.ColorJitter(), ops.GaussianNoise(), ops.Sharpness(p=1.0)]
    plan, images = fused.plan(recipe), pictures(batch, *size).to(DEVICE)
    result = one_launch(plan)(images, generator(1))
    assert torch.equal(result, in_two_steps(plan, images, generator(1), torch.float32))


def test_one_launch_of_other_layouts_and_types() -> None:
    plan, images = fused.plan(SUBJECTS["crop_jitter"]), pictures(3, 8, 9).to(DEVICE)
    expected = one_launch(plan)(images, generator(1))
    laid_out = images.contiguous(memory_format=torch.channels_last)
    for source in (laid_out, images.repeat_interleave(2, 3)[..., ::2], laid_out.float() / 255):
        result, _ = cuda.OneLaunch(plan, torch.float32, torch.channels_last)(source, None, generator(1))
        assert result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)  # a byte over 255 is rounded in two ways


@pytest.mark.parametrize("subject", ["mixup", "cutmix"])
def test_targets_of_one_launch(subject: str) -> None:
    plan, images = fused.plan(SUBJECTS[subject]), pictures(5, 8, 9).to(DEVICE)
    labels = torch.tensor([3, 0, 2, 2, 6], device=DEVICE)
    run = cuda.OneLaunch(plan, torch.float32, torch.contiguous_format, 7)
    _, targets = run(images, labels, generator(1))
    params = sample.sample(plan.ops, 5, 8, 9, generator(1), DEVICE, triton_draws.SAMPLER)
    assert targets is not None
    torch.testing.assert_close(targets, plan.targets(labels, params, 7), rtol=0, atol=1e-6)  # 1 - lam is rounded in two orders


def test_which_recipes_are_one_launch() -> None:
    """All; but not those that mix images whose values changed, which waits for all images."""
    assert all(cuda.OneLaunch.takes(fused.plan(resolve(name, 32)), torch.float32) for name in RECIPES)
    assert not cuda.OneLaunch.takes(fused.plan([ops.Hue(), ops.MixUp()]), torch.float32)


def test_a_call_allocates_and_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[Any] = []

    def launched(self: layouts.Launch, *arguments: Any) -> None:
        launches.append(arguments)
        with _disable_current_modes():  # the interpreter's own copies are no launches
            run(self, *arguments)

    run = layouts.Launch.run
    monkeypatch.setattr(layouts.Launch, "run", launched)
    images, call = pictures(2, 8, 8).to(DEVICE), one_launch(fused.plan(SUBJECTS["d2l"]))
    call(images, None)
    with Operations() as calls:
        call(images, None)
    assert len(launches) == 2
    assert set(calls.names) <= {"empty"} | ({"randint", "_local_scalar_dense"} if DEVICE == "cpu" else set())


def philox(seed: int, counter: int, image: int) -> list[int]:
    """Return the four numbers of Philox4x32-10 (Salmon et al. 2011) in plain Python."""
    mask = 2**32 - 1
    c, key = [counter & mask, counter >> 32, image & mask, image >> 32], [seed & mask, (seed >> 32) & mask]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ key[0], b & mask, (a >> 32) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return c


def eager_key(seed: int, block: int) -> triton_random.Key:
    return triton_random.Key(triton_random.no_keys(torch.device(DEVICE)), seed, block)


def drawn_units(key: triton_random.Key, rows: int, batch: int) -> Tensor:
    """Return uniform numbers [batch, rows] as the kernel draws them: factors between 0 and 1."""
    recipe = tuple(ops.Brightness(low=0.0, high=1.0) for _ in range(rows))
    program = sample.encode(recipe, 8, 8)
    outputs = [torch.empty(batch, device=DEVICE) for _ in range(rows)]
    triton_draws.draw(program, key, [], outputs)
    return torch.stack(outputs, 1).cpu()


def test_numbers_are_philox() -> None:
    assert philox(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answer
    for seed, block in ((0, 0), (1234567890123456789, 5), (-3, 2**33 + 7)):
        units = drawn_units(eager_key(seed, block), 6, 130)
        for image in range(130):
            bits = philox(seed % 2**64, block, image) + philox(seed % 2**64, block + 1, image)
            assert units[image].tolist() == [(number >> 8) * 2.0**-24 for number in bits[:6]]


DIRICHLET = [ops.MixUp(alpha=0.4), ops.MixUp(alpha=3.0), ops.CutMix(alpha=0.4), ops.AugMix(), ops.AugMix(alpha=1.5)]


@pytest.mark.parametrize("op", [*DIRICHLET, ops.GaussianNoise()], ids=repr)
def test_gamma_and_normal_draws_follow_their_laws(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_draws, "BLOCK", 2**14)  # one program: the interpreter is slow
    monkeypatch.setattr(triton_random, "NOISE_BLOCK", 2**14)
    count, shape = (1, (64, 80)) if isinstance(op, ops.GaussianNoise) else (10_000, (32, 48))
    (drawn,) = sample.sample([op], count, *shape, generator(11), DEVICE, triton_draws.SAMPLER)
    columns: Any = {name: value.cpu().double().numpy() for name, value in drawn.items()}
    for distribution in op.draws:
        if not distribution.policy:
            stated, kind = laws.LAWS[type(distribution)](distribution, op, shape), type(distribution)
            columns |= laws.QUANTITIES[kind](distribution, op, columns, shape) if kind in laws.QUANTITIES else {}
            for name, law in stated.items():
                assert law.test(columns[name]).p_value > 1e-4, name


def test_a_generator_decides_and_advances() -> None:
    call, images, source = one_launch(fused.plan(SUBJECTS["crop_jitter"])), pictures(2, 8, 9).to(DEVICE), generator(5)
    state = source.get_state()
    first, second = call(images, source), call(images, source)
    assert not torch.equal(first, second)
    source.set_state(state)
    assert torch.equal(call(images, source), first)
    assert torch.equal(call(images, source), second)
    torch.manual_seed(3)
    by_global = call(images, None)
    torch.manual_seed(3)
    assert torch.equal(call(images, None), by_global)


def test_a_cuda_generator_is_left_behind_the_numbers_of_a_call() -> None:
    """Offsets count numbers in fours, blocks count fours; a seed of 64 bits keeps its bits."""
    offsets = [8]
    source: Any = SimpleNamespace(
        initial_seed=lambda: 2**63 + 5, get_offset=lambda: offsets[-1], set_offset=lambda offset: offsets.append(offset)
    )
    keys = [triton_random.advance(count, source, torch.device(DEVICE)) for count in (6, 4, 1)]
    assert offsets == [8, 16, 20, 24]
    assert [(key.seed, key.block) for key in keys] == [(5 - 2**63, block) for block in (2, 4, 5)]


def test_threads_that_share_a_generator_draw_numbers_of_their_own() -> None:
    offsets = [0]

    def get_offset() -> int:
        time.sleep(1e-3)  # another thread runs meanwhile
        return offsets[-1]

    source: Any = SimpleNamespace(initial_seed=lambda: 1, get_offset=get_offset, set_offset=offsets.append)
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda count: triton_random.advance(count, source, torch.device(DEVICE)), [4] * 32))
    assert sorted(key.block for key in keys) == list(range(32))


@pytest.mark.parametrize("has_state", [True, False])
def test_a_captured_call_draws_from_where_a_replay_is(has_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds the seed and the offset, the graph its own draws before, as of ``torch.rand``; in PyTorch 2.11 a seed."""
    seed, offset, zero = (torch.tensor([number], device=DEVICE) for number in (5, 2**62 + 8, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch, "randint", lambda *size, **options: seed)
    monkeypatch.setattr(triton_random, "no_keys", lambda device: (zero, zero))
    reserved: list[int] = []
    source: Any = SimpleNamespace()
    if has_state:

        def reserve(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            reserved.append(count)
            return seed, offset, torch.tensor([12])

        source.philox_state = reserve
    key = triton_random.take_key(6, source, torch.device("cuda", 0))
    assert reserved == [6] * has_state
    for replay in ((5, 2**62 + 8), (-3, 2**63 + 64)):
        seed[0], offset[0] = replay[0], replay[1] - (2**64 if replay[1] >= 2**63 else 0)
        block = (replay[1] + 12) // 4 if has_state else 0
        assert torch.equal(drawn_units(key, 6, 5), drawn_units(eager_key(replay[0], block), 6, 5))


# ---- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_cuda_generator_advances_as_if_pytorch_had_drawn() -> None:
    """Each image uses numbers of its own subsequence, in fours, so that no other draw of the generator meets them."""
    plan, images, source = fused.plan(SUBJECTS["d2l"]), pictures(3, 16, 18).cuda(), generator(2**63 + 5)
    rows = sample.encode(plan.ops, 16, 18).rows
    one_launch(plan)(images, source)
    assert source.get_offset() == -(-rows // 4) * 4
    plan.sample(3, 16, 18, source, "cuda")
    assert source.get_offset() == 2 * -(-rows // 4) * 4


@pytest.mark.gpu
def test_a_pipeline_is_one_launch_that_sample_and_apply_replay() -> None:
    images = pictures(64, 32, 32).cuda()
    for recipe in ("crop_flip", "d2l", "randaugment", "imagenet"):
        pipeline = build(recipe, "fused", device="cuda", generator=generator(4))
        plan, source = fused.plan(resolve(recipe, 32)), generator(4)
        for _ in range(2):
            assert torch.equal(pipeline(images), in_two_steps(plan, images, source, torch.float32))
        assert pipeline.implementation == "triton"


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("recipe", "side"), [("mixup", 32), ("cutmix", 32), ("augmix", 32), ("d2l", 224), ("randaugment", 224)]
)
def test_other_pipelines_replay_but_for_last_bits(recipe: str, side: int) -> None:
    """A compiler fuses products and sums of draws, of Dirichlet weights and of means, as it likes."""
    images, labels = pictures(16, side, side).cuda(), torch.arange(16).cuda() % 10
    plan = fused.plan(resolve(recipe, side))
    result, targets = build(recipe, "fused", device="cuda", image_size=side, generator=generator(4))(images, labels)
    params = plan.sample(16, side, side, generator(4), "cuda")
    expected = cuda.apply_plan(plan, torch.float32)(images, params)
    assert_same(result.cpu(), expected.cpu(), 1e-3, AFTER_A_JUMP)
    torch.testing.assert_close(targets, plan.targets(labels, params, 10))


@pytest.mark.gpu
def test_replays_of_a_graph_follow_the_seed() -> None:
    images, augment = pictures(16, 32, 32).cuda(), build("d2l", "fused", device="cuda")
    for _ in range(3):
        augment(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = augment(images)

    def replay(seed: int | None = None) -> Tensor:
        if seed is not None:
            torch.cuda.manual_seed(seed)
        graph.replay()
        return captured.clone()

    first, second, reseeded, again = replay(1), replay(), replay(2), replay(1)
    assert torch.equal(first, again)
    if hasattr(torch.Generator, "philox_state"):
        torch.cuda.manual_seed(1)
        assert torch.equal(first, augment(images))
        assert torch.equal(second, augment(images))
    assert not torch.equal(first, second)
    assert not torch.equal(first, reseeded)
