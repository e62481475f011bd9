"""Model FLOPs utilisation against hand calculations, and the peak that one run has once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.grid import limits
from bench.grid.limits import matmul_flops, matmul_precision
from bench.grid.timing import Timing
from bench.grid.utilisation import Peak, matmul_peak, utilisation
from bench.records.runs import write_json
from bench.records.validation import faults_of
from tests.bench.stored import ENVIRONMENT, store, trained

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_rate_is_of_multiply_adds_and_of_the_median_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 x 10 matrices: 2 * 1000 operations in the median 4 s, whatever the slow call."""
    products: list[torch.Tensor] = []

    def made_up(function: Any, **_: Any) -> Timing:
        products.append(function().clone())
        return Timing(samples_s=(4.0, 1.0, 400.0), warmup_calls=1, warmup_s=1.0, threads=1)

    monkeypatch.setattr(limits, "measure", made_up)
    assert matmul_flops("cpu", "float32", side=10) == 2 * 10**3 / 4.0
    assert matmul_flops("cpu", "bfloat16", side=10) == 500.0
    assert [one.dtype for one in products] == [torch.float32, torch.bfloat16]
    assert products[0].std() > 1  # of random numbers, not of zeros


def test_measuring_the_peak_draws_from_no_stream_of_the_run() -> None:
    before = torch.get_rng_state()
    assert matmul_flops("cpu", "float32", side=64) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert matmul_precision("cpu", "float32") == "float32"  # TF32 is CUDA's


def test_the_share_by_hand() -> None:
    """2e9 operations an image at 3,000 images/s are 6e12 of 24e12 a second; of two devices an eighth."""
    record = trained("throughput", flops_per_example=2_000_000_000, examples_per_s=3000.0)
    peak = Peak(flops_per_s=24e12, precision="bfloat16")
    assert utilisation(record, peak) == {
        "matmul_flops_per_s": 24e12, "matmul_precision": "bfloat16", "model_flops_utilisation": pytest.approx(0.25, rel=1e-12),
    }  # fmt: skip
    both = utilisation({**record, "devices": ["cuda:0", "cuda:1"]}, peak)
    assert both["model_flops_utilisation"] == pytest.approx(0.125, rel=1e-12)


@pytest.mark.parametrize(
    ("changed", "flops_per_s"), [({"flops_per_example": None}, 1e12), ({}, None), ({"examples_per_s": None}, 1e12)]
)
def test_what_is_not_known_has_no_share(changed: dict[str, Any], flops_per_s: float | None) -> None:
    record = trained("throughput", flops_per_example=10) | changed
    assert utilisation(record, Peak(flops_per_s=flops_per_s, precision="float32"))["model_flops_utilisation"] is None


def test_a_run_has_one_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([5e10, 7e10])
    monkeypatch.setattr(limits, "matmul_flops", lambda device, precision: next(rates))
    folder = store(tmp_path / "run", {})
    assert matmul_peak(folder, "cpu", "float32") == Peak(flops_per_s=5e10, precision="float32")
    assert matmul_peak(folder, "cpu", "float32").flops_per_s == 5e10  # as it stands in the folder
    assert matmul_peak(folder, "cpu", "bfloat16").flops_per_s == 7e10
    kept = json.loads((folder / "environment.json").read_text())
    assert kept == ENVIRONMENT | {"matmul_flops_per_s": {"cpu": {"float32": 5e10, "bfloat16": 7e10}}}
    assert faults_of({"matmul_flops_per_s": kept["matmul_flops_per_s"]}, "environment") == faults_of({}, "environment")


def test_a_device_that_cannot_do_it_costs_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: str, precision: str) -> float:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(limits, "matmul_flops", full)
    write_json(tmp_path / "environment.json", ENVIRONMENT)
    assert matmul_peak(tmp_path, "cpu", "float32").flops_per_s is None
    assert json.loads((tmp_path / "environment.json").read_text()) == ENVIRONMENT
    assert matmul_peak(tmp_path / "none", "cpu", "float32").flops_per_s is None


@pytest.mark.gpu
def test_on_a_gpu_float32_is_as_convolutions_compute_it() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    assert matmul_flops("cuda", "float32") > 0
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert matmul_flops("cuda", "bfloat16") > matmul_flops("cuda", "float32")


def test_float32_on_cuda_is_as_precise_as_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's defaults convolutions are TF32 where the GPU knows it (from Ampere on), and products of matrices are not."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert matmul_precision("cuda", "float32") == "tf32"
    assert matmul_precision("cuda", "bfloat16") == "bfloat16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert matmul_precision("cuda", "float32") == "float32"
    before = torch.backends.cuda.matmul.fp32_precision
    with limits._as_convolutions(torch.device("cuda")):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before != "tf32"
