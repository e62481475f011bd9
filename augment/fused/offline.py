"""Cost of the CUDA kernels without a GPU: registers, spills, shared memory and code by recipe, and the host's time of a call.

``python -m augment.fused.offline [--arch 80 90 100] [--recipes d2l d2l@224 ...]`` compiles each recipe, at a size, as
a GPU of that architecture would have it, and times calls of which only the driver's launch is left out.
"""

import argparse
import ctypes
import itertools
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver

from augment import OPS, RECIPES, build, fused, resolve
from augment.fused import cuda, launches, runner, triton_draws
from augment.fused.sample import sample
from augment.fused.triton_random import advance

CALLS = 300
"""Calls that are timed."""


class Kernel(NamedTuple):
    """Resources of a compiled kernel: spills in bytes a thread, instructions written down, not run.

    ``loads``, ``stores``: of global memory, as number x bytes a thread, widest first.
    """

    name: str
    registers: int
    spills: int
    shared: int
    code: int
    instructions: int
    loads: str
    stores: str


BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
"""Bytes of a load or store whose name has the suffix; 4 without."""


def widths(assembly: str, name: str) -> str:
    """Return the numbers of loads (LDG) or stores (STG) of each width."""
    suffixes = (match.split(".") for match in re.findall(rf"\b{name}\.E[.\w]*", assembly))
    counts = Counter(next((BYTES[part] for part in parts if part in BYTES), 4) for parts in suffixes)
    return "+".join(f"{counts[width]}x{width}" for width in sorted(counts, reverse=True)) or "0"


def load_idle_driver(folder: Path) -> None:
    """Build and load a CUDA driver library whose functions do nothing and succeed, for Triton's launcher in C."""
    text = "".join(Path(str(nvidia.__file__)).with_suffix(suffix).read_text() for suffix in (".c", ".py"))
    source = "\n".join(f"int {name}(void) {{ return 0; }}" for name in sorted(set(re.findall(r"\bcu[A-Z]\w+", text))))
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(command, input=source, check=True, text=True)
    ctypes.CDLL(str(folder / "libcuda.so.1"), ctypes.RTLD_GLOBAL)  # found by its name from now on
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)


class AbsentGPU:
    """A driver of Triton for a GPU that is not there: reads what it should load, and launches nothing."""

    launcher_cls = nvidia.CudaLauncher

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture
        self.kernels: list[tuple[str, bytes, int]] = []
        self.utils = self

    def __getattr__(self, name: str) -> Any:
        """Return Triton's own function, which launches through ``load_idle_driver``."""
        return getattr(nvidia.CudaUtils(), name)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024}

    def load_binary(self, name: str, code: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        self.kernels.append((name, code, shared))
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        pass


def read_resources(name: str, code: bytes, shared: int) -> Kernel:
    """Return the resources of a kernel's machine code by NVIDIA's tool, which Triton brings."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        usage_text, assembly = (
            subprocess.run([str(tool), option, file.name], check=True, capture_output=True, text=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    usage = dict(re.findall(r"(\w+):(\d+)", usage_text.split(f"Function {name}:")[1]))
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP|\s)", assembly, re.MULTILINE))
    return Kernel(
        name, int(usage["REG"]), int(usage["STACK"]), shared, len(code), instructions,
        widths(assembly, "LDG"), widths(assembly, "STG"),
    )  # fmt: skip


class Generator:
    """A CUDA generator without CUDA."""

    offset = 0

    def initial_seed(self) -> int:
        return 0

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset


def pretend(gpu: AbsentGPU) -> None:
    """Make Triton compile for the GPU, and calls on the CPU's memory do what they do on CUDA."""
    driver.set_active(gpu)
    torch.cuda.is_current_stream_capturing = lambda: False
    generator: Any = Generator()
    for module in (cuda, triton_draws):
        module.take_key = lambda rows, _, device: advance(rows, generator, device)  # type: ignore[attr-defined]
    launches.stream_of = lambda device: 0
    runner.is_on_gpu = lambda images: True
    cuda._LAUNCHES.clear()
    triton_draws._LAUNCHES.clear()


def make_call(recipe: str, draws_apart: bool) -> Callable[[], object]:
    """Return a call of the pipeline of ``recipe`` or ``recipe@side``, in one launch where that is possible.

    ``recipe`` may be an op's name. Images have 32 pixels a side, photographs 256. ``draws_apart``: a launch draws before.
    """
    recipe, _, named_side = recipe.partition("@")
    side = int(named_side or (256 if "imagenet" in recipe else 32))
    steps = (OPS[recipe](),) if recipe in OPS else resolve(recipe, side)
    plan, images = fused.plan(steps), torch.zeros(4, 3, side, side, dtype=torch.uint8)
    if not draws_apart and cuda.OneLaunch.takes(plan, torch.bfloat16):
        pipeline = build(recipe, "fused", dtype=torch.bfloat16, image_size=side)
        run: Any = pipeline._run
        run._one_launch = cuda.OneLaunch(plan, torch.bfloat16, torch.contiguous_format, 10)
        labels = torch.zeros(4, dtype=torch.int64)
        return (lambda: pipeline(images, labels)) if pipeline.mixes else lambda: pipeline(images)
    apply = cuda.apply_plan(plan, torch.bfloat16)
    return lambda: apply(images, sample(plan.ops, 4, side, side, None, "cpu", triton_draws.SAMPLER))


def host_us(call: Callable[[], object]) -> float:
    """Return the median time of a call in microseconds."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    """Print a line a kernel and recipe; ``host_us`` is of the recipe's whole call."""
    parser = argparse.ArgumentParser(description="Resources of the CUDA kernels, compiled without a GPU, and the host's time.")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--draws-apart", action="store_true", help="draw in a launch of its own")
    parser.add_argument("--host", action="store_true", help="leave the resources out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("arch recipe", *(() if options.host else Kernel._fields), "host_us")
    with tempfile.TemporaryDirectory() as folder:
        load_idle_driver(Path(folder))
        for architecture, recipe in itertools.product(options.arch, options.recipes):
            gpu = AbsentGPU(architecture)
            pretend(gpu)
            call = make_call(recipe, options.draws_apart)
            call()
            call()
            for row in [()] if options.host else [read_resources(*kernel) for kernel in gpu.kernels]:
                print(f"sm_{architecture}", recipe, *row, f"{host_us(call):.1f}", flush=True)


if __name__ == "__main__":
    main()
