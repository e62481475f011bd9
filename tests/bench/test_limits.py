"""The machine's limits against hand calculations, and the counting of waits against a device that is made up."""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import limits
from bench.clock import Timing
from bench.jobs import speed
from bench.jobs.inputs import Inputs
from bench.limits import (
    HOST_RECIPES,
    absent_gpu_host_seconds,
    busy_share,
    copy_bandwidth,
    count_launches,
    count_wait_warnings,
    count_waits,
    covered,
    matmul_flops,
    matmul_precision,
    roofline_share,
)
from bench.processes import read_output
from bench.records import Speed
from tests.conftest import present


def test_share_is_the_time_of_a_copy_over_the_time_taken() -> None:
    # 3 MB in and 12 MB out at 30 GB/s take half a millisecond; a call of 2 ms is at a quarter of the limit.
    assert roofline_share(15_000_000, 0.002, 30e9) == pytest.approx(0.25, rel=1e-12)


def test_bandwidth_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "sample", lambda function, calls, *, clock: [0.5, 0.25, 2.0])
    assert copy_bandwidth("cpu", copied_bytes=1000) == 2 * 1000 / 0.5


def warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)


class Device:
    """Warns as torch does: of each wait in mode "warn", and once in a process of the mode itself."""

    def __init__(self) -> None:
        self.modes: list[int | str] = [0]
        self.is_new = True

    def set_mode(self, mode: int | str) -> None:
        self.modes.append(mode)
        if mode == "warn" and self.is_new:
            warn("Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations")
            self.is_new = False

    def call(self, waits: int) -> Callable[[], None]:
        def function() -> None:
            for _ in range(waits if self.modes[-1] == "warn" else 0):
                warn("called a synchronizing CUDA operation")
            warn("something else about synchronizing")

        return function


def test_waits_are_counted_from_the_first_call_of_a_process_and_the_mode_is_restored() -> None:
    device = Device()
    assert [count_wait_warnings(device.call(waits), lambda: 0, device.set_mode) for waits in (0, 3, 0)] == [0, 3, 0]

    def broken() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        count_wait_warnings(broken, lambda: 0, device.set_mode)
    assert device.modes == [0, *["warn", 0] * 4]


@pytest.mark.parametrize(
    ("code", "seconds"),
    [
        ("print('arch recipe host_us'); print('sm_90 crop_flip 9.0'); print('sm_90 d2l 250.5')", [9.0e-6, 250.5e-6]),
        ("print('arch recipe host_us'); print('sm_90 crop_flip 9.0'); raise SystemExit(1)", []),  # no Triton, no compiler
        ("import time; time.sleep(60)", []),
    ],
)
def test_the_hosts_share_is_read_from_a_process_that_may_fail_or_hang(
    code: str, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HOST_LIMIT_S", 2)
    command = [sys.executable, "-c", code]
    monkeypatch.setattr(limits, "read_output", lambda _, *args, **options: read_output(command, *args, **options))
    assert list(absent_gpu_host_seconds().values()) == pytest.approx(seconds)


@pytest.mark.parametrize(("recipes", "seconds"), [(HOST_RECIPES, {"d2l": 1.0}), (HOST_RECIPES[1:], {})])
def test_the_hosts_share_is_asked_for_where_all_its_recipes_are(
    recipes: tuple[str, ...], seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "absent_gpu_host_seconds", lambda: {"d2l": 1.0})
    bench = speed.Bench(Inputs("synthetic", tmp_path), 0.1)
    bench.time_host(Speed(status="not_run", subject=recipe, backend="fused") for recipe in recipes)
    assert bench._host_s == seconds


@pytest.mark.slow
def test_the_hosts_share_is_measured_without_a_gpu() -> None:
    """It is a call's time: a sleep of 2 ms before the launch is in it."""
    pytest.importorskip("triton")
    measured = absent_gpu_host_seconds()
    assert set(measured) == set(HOST_RECIPES)
    slower = "import time; from augment.fused.launches import Prepared as P; f = P.__call__\n"
    slower += "P.__call__ = lambda *a: (time.sleep(0.002), f(*a))[1]\nfrom augment.fused.offline import main; main()"
    command = [sys.executable, "-c", slower, "--host", "--arch", "90", "--recipes", "crop_flip"]
    output = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "0"}, check=True, capture_output=True, text=True
    ).stdout
    assert float(output.split()[-1]) > 2000 > 1e6 * measured["crop_flip"]


def test_busy_time_is_that_of_the_union_of_kernels() -> None:
    """Two kernels that overlap, one within another, and one apart: 0 to 3 and 5 to 6."""
    assert (covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]), covered([])) == (4.0, 0.0)


def test_a_cpu_launches_nothing() -> None:
    assert busy_share(lambda: None, "cpu", calls=1) is None
    assert count_launches(lambda: None, "cpu") is None
    assert count_waits(lambda: None, "cpu") is None


def test_matmul_counts_multiply_adds_of_the_median_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 x 10 matrices: 2 * 1000 operations in the median 4 s, whatever the slow call."""
    products: list[torch.Tensor] = []

    def fake_measure(function: Any, **_: Any) -> Timing:
        products.append(function().clone())
        return Timing(samples_s=(4.0, 1.0, 400.0), warmup_calls=1, warmup_s=1.0, threads=1)

    monkeypatch.setattr(limits, "measure", fake_measure)
    assert matmul_flops("cpu", "float32", side=10) == matmul_flops("cpu", "bfloat16", side=10) == 2 * 10**3 / 4.0
    assert [product.dtype for product in products] == [torch.float32, torch.bfloat16]
    assert products[0].std() > 1  # of random numbers, not of zeros


def test_measuring_the_matmul_draws_from_no_stream_of_the_run() -> None:
    before = torch.get_rng_state()
    assert matmul_flops("cpu", "float32", side=64) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert matmul_precision("cpu", "float32") == "float32"  # TF32 is CUDA's


def test_float32_on_cuda_is_as_precise_as_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's defaults convolutions are TF32 where the GPU knows it (from Ampere on), and matrix products are not."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert (matmul_precision("cuda", "float32"), matmul_precision("cuda", "bfloat16")) == ("tf32", "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert matmul_precision("cuda", "float32") == "float32"
    before = torch.backends.cuda.matmul.fp32_precision
    with limits._matmul_like_convolutions(torch.device("cuda")):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before != "tf32"


@pytest.mark.gpu
def test_kernels_waits_and_precision_on_a_gpu() -> None:
    x = torch.rand(1000, device="cuda")
    assert (count_waits(lambda: x + 1, "cuda"), count_waits(lambda: x.sum().item(), "cuda")) == (0, 1)
    assert [count_launches(f, "cuda") for f in (lambda: x + 1, lambda: (x + 1) * 2)] == [1, 2]
    busy = present(busy_share(lambda: torch.cuda._sleep(10_000_000), "cuda", calls=5))
    assert 0.8 < busy <= 1.0
    assert (busy_share(lambda: time.sleep(0.01), "cuda", calls=5) or 0) < 0.1
    before = torch.backends.cuda.matmul.fp32_precision
    assert matmul_flops("cuda", "bfloat16") > matmul_flops("cuda", "float32") > 0
    assert torch.backends.cuda.matmul.fp32_precision == before
