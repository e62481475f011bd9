"""A recipe's draws by a Triton kernel: on CUDA, else in Triton's interpreter, and compiled for a GPU that is not there."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from augment import RECIPES, fused, native_build, sampling
from augment.catalog import resolve
from augment.sampling import Params
from tests.augment.test_draws import EDGES, SIZES, SUBJECTS, check, put_in

pytest.importorskip("triton")

from augment import triton_draws

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(program: Any, uniforms: Tensor, given: Sequence[Tensor], tables: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """By Triton from what was drawn on a CPU, and back there."""
    there = [each.to(DEVICE) for each in outputs]
    # A copy of a weight keeps its place in memory: every second number.
    weights = [
        each.as_strided((len(each), 2), (2, 1)).to(DEVICE)[:, 0] if each.ndim == 1 else each.to(DEVICE) for each in given
    ]
    triton_draws.run(program, uniforms.to(DEVICE), weights, [each.to(DEVICE) for each in tables], there)
    for output, result in zip(outputs, there, strict=True):
        output.copy_(result)


@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_triton_draws_what_the_formulas_draw(subject: str) -> None:
    for height, width, batch in SIZES:
        check(SUBJECTS[subject], run, batch, height, width)


@pytest.mark.parametrize("unit", EDGES)
def test_the_ends_of_the_unit_interval(unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, unit)
    for recipe in SUBJECTS.values():
        check(recipe, run, 3, 33, 48, unit)


# ---- launches ---------------------------------------------------------------------------------------------------------


class Launches(TorchDispatchMode):
    """Counts PyTorch's operations that run a kernel: those that neither view nor only allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket is not torch.ops.aten.empty:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


OWN = {"augmix": ["full", "_sample_dirichlet"]}
"""Besides one matrix of uniform numbers and one launch: what PyTorch draws by itself."""


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_two_launches_a_recipe(recipe: str) -> None:
    launched: list[Any] = []

    def counted(*given: Any) -> None:
        launched.append(given)
        with _disable_current_modes():  # the interpreter's own copies are no launches
            triton_draws.run(*given)

    planned = fused.plan(resolve(recipe, 32))
    sampling.sample(planned.ops, 4, 40, 48, device=DEVICE, run=triton_draws.run)  # tables are made and kept
    with Launches() as seen:
        sampling.sample(planned.ops, 4, 40, 48, device=DEVICE, run=counted)
    if recipe in {"none", "imagenet_eval"}:
        assert (seen.names, launched) == ([], [])
    else:
        assert seen.names == ["rand", *OWN.get(recipe, [])]
        assert len(launched) == 1


def test_where_the_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA if Triton works there; otherwise tensor formulas, without a warning at each batch."""
    monkeypatch.setattr(native_build, "library", lambda: None)
    assert fused.draws_on(torch.device("cpu")) is None
    assert fused.draws_on(torch.device("mps")) is None
    for reason, expected in (("", triton_draws.run), ("no compiler", None)):
        fused._triton_draws.cache_clear()
        monkeypatch.setattr(fused, "_without_triton", lambda device, reason=reason: reason)
        assert fused.draws_on(torch.device("cuda")) is expected
    fused._triton_draws.cache_clear()


COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Absent:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

driver.set_active(Absent())
from augment import ops, sampling, triton_draws
from augment.catalog import resolve

class Compiled:
    def __init__(self, kernel): self.kernel = kernel
    def __getitem__(self, grid):
        return lambda *args, **named: print(len(self.kernel.warmup(*args, grid=grid, **named).asm["cubin"]))

triton_draws.parameters = Compiled(triton_draws.parameters)
others = [ops.Affine(), ops.Perspective(), ops.RandomErasing(), ops.Cutout(), ops.AutoAugment(), ops.AugMix(alpha=2.0)]
for recipe in (resolve("d2l", 32), resolve("cutmix", 32), [*others, ops.CutMix(alpha=0.3)]):
    sampling.sample(recipe, 5, 32, 40, run=triton_draws.run)
"""


def test_the_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """To machine code of a Hopper GPU, by the compiler that runs would use; no GPU is needed for that."""
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", COMPILE]
    compiled = subprocess.run(
        command, env=variables, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    assert compiled.returncode == 0, compiled.stderr[-3000:]
    sizes = [int(line) for line in compiled.stdout.split()]
    assert len(sizes) == 3
    assert min(sizes) > 1000


# ---- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_a_plan_draws_by_the_kernel(subject: str) -> None:
    """The same generator by formulas and by the kernel; a side's rounding may go the other way in one of a thousand images."""
    planned = fused.plan(SUBJECTS[subject])
    assert fused.draws_on(torch.device("cuda")) is triton_draws.run
    both: list[tuple[Params, ...]] = [
        planned.sample(2000, 36, 64, torch.Generator("cuda").manual_seed(0), "cuda"),
        sampling.sample(planned.ops, 2000, 36, 64, torch.Generator("cuda").manual_seed(0), "cuda"),
    ]
    for result, expected in zip(*both, strict=True):
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert (result[name].dtype, result[name].shape) == (value.dtype, value.shape)
            wrong = (result[name].double() - value.double()).abs() > 1e-6
            assert float(wrong.double().mean()) <= 1e-3, name
