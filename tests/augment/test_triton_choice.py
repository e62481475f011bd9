"""Where Triton's kernels are used, that they compile for a GPU that is not there, and how they run on one that is."""

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from augment import build, fused, ops
from augment.catalog import resolve
from tests.conftest import smooth_images

pytest.importorskip("triton")

from augment import triton_passes

COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Absent:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

driver.set_active(Absent())
from augment import fused, ops, triton_kernels, triton_passes
from augment.catalog import resolve

class Compiled:
    def __init__(self, name): self.name, self.kernel = name, getattr(triton_kernels, name)
    def __getitem__(self, grid):
        return lambda *args, **named: self.show(self.kernel.warmup(*args, grid=grid, **named))
    def show(self, compiled):
        code = compiled.asm["ptx"]
        loads = 0 if "__cudart_i2opi_f" in code else code.count("ld.global.nc")  # sines have a table of constants
        print(self.name, len(compiled.asm["cubin"]), compiled.metadata.shared, loads, code.count("bar.sync"))

for name in ("image_pass", "image_passes"):
    setattr(triton_kernels, name, Compiled(name))
others = ops.Perspective(), ops.GaussianBlur(), ops.GaussianNoise(), ops.Affine(), ops.Hue()
for recipe, side, batch, dtype in (
    ("crop_flip_cutout", 32, 1, torch.uint8), ("d2l", 32, 8, torch.uint8), ("d2l", 80, 8, torch.uint8),
    ("autoaugment", 80, 5, torch.bfloat16), ("augmix", 32, 2, torch.uint8), ("augmix", 80, 5, torch.uint8),
    ("imagenet", 256, 2, torch.uint8), ("imagenet_eval", 256, 2, torch.uint8), ("cutmix", 8, 2, torch.uint8),
    (others, 9, 2, torch.uint8),
):
    planned = fused.plan(resolve(recipe, side))
    images = torch.zeros(batch, 3, side, side, dtype=dtype)
    triton_passes.applied(planned, torch.bfloat16)(images, planned.sample(batch, side, side))
"""

LAUNCHED = [
    "image_pass", "image_passes", "image_passes", "image_passes", "image_passes", "image_passes", "image_pass", "image_passes",
    "image_pass", "image_passes",
]  # fmt: skip


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """To machine code of a Hopper GPU, by the compiler that runs would use; no GPU is needed for that."""
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", COMPILE]
    run = subprocess.run(command, env=variables, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    names, *numbers = zip(*(line.split() for line in run.stdout.splitlines()), strict=True)
    sizes, shared, incoherent, barriers = ([int(each) for each in column] for column in numbers)
    assert list(names) == LAUNCHED
    assert min(sizes) > 1000
    assert max(shared) <= 48 * 1024, "more than a block gets without asking for it"
    assert not any(incoherent), "loads that do not see what the program wrote"
    assert all(count > 0 for name, count in zip(names, barriers, strict=True) if name == "image_passes")


# ---- choosing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("has_cuda")
def test_where_triton_fails_there_is_one_warning_and_the_tensor_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler.\nMore.")

    monkeypatch.setattr(triton_passes, "check", broken)
    with pytest.warns(
        RuntimeWarning, match=r"no Triton \(Failed to find C compiler\.\): the fused .* tensor kernels"
    ) as caught:
        augment = build("crop_flip", "fused", device="cuda")
    assert len(caught) == 1
    assert augment(smooth_images(2, 32)).shape == (2, 3, 32, 32)


@pytest.mark.usefixtures("has_cuda")
def test_images_elsewhere_take_the_tensor_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_passes, "check", lambda device: None)
    monkeypatch.setattr(triton_passes, "_launch", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment = build("crop_flip", "fused", device="cuda", dtype=torch.bfloat16)
    assert augment(smooth_images(2, 32)).dtype == torch.bfloat16


def test_other_devices_do_not_ask_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_passes, "applied", None)
    planned = fused.plan([ops.Invert()])
    for device in ("cpu", "mps", "meta"):
        apply = fused.for_device(planned, torch.device(device), torch.float32)
        assert isinstance(apply, functools.partial)
        assert apply.func == planned.apply


# ---- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_build_takes_them_and_agrees_with_the_tensor_kernels() -> None:
    images = smooth_images(64, 32).cuda()
    for recipe in ("crop_flip", "d2l", "trivialaugment"):
        planned = fused.plan(resolve(recipe, 32))
        params = planned.sample(64, 32, 32, torch.Generator("cuda").manual_seed(0), "cuda")
        apply = fused.for_device(planned, torch.device("cuda"), torch.float32)
        assert apply != planned.apply
        wrong = (apply(images, params) - planned.apply(images, params)).abs() > 1e-4  # of float32, in units of deviations
        assert float(wrong.float().mean()) <= (2e-3 if recipe == "trivialaugment" else 0.0)  # thresholds make jumps


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["crop_flip", "d2l", "randaugment"])
def test_captured_in_a_graph_it_draws_anew_and_never_waits(recipe: str) -> None:
    images = smooth_images(32, 32).cuda()
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
    augment(smooth_images(17, 32).cuda())
    augment(smooth_images(32, 32).cuda())
    compiled = []
    knobs.runtime.jit_post_compile_hook = lambda *args, **named: compiled.append(named)
    try:
        for count in (1, 3, 48, 100):
            augment(smooth_images(count, 32).cuda())
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == []
