"""The machine's limit against hand calculations, and the counting of waits against a device that is made up."""

import warnings

import pytest
import torch

from bench.grid.limits import _counted_waits, copy_bandwidth, launches, roofline_share, synchronisations


def test_share_is_the_time_of_a_copy_over_the_time_taken() -> None:
    # 3 MB in and 12 MB out at 30 GB/s take half a millisecond; a call of 2 ms is at a quarter of the limit.
    assert roofline_share(15_000_000, 0.002, 30e9) == pytest.approx(0.25, rel=1e-12)


def test_bandwidth_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.grid.limits.sample", lambda function, calls, *, clock: [0.5, 0.25, 2.0])
    assert copy_bandwidth("cpu", copied_bytes=1000) == 2 * 1000 / 0.5


def test_waits_are_counted_and_the_mode_is_put_back() -> None:
    modes: list[int | str] = [0]

    def call() -> None:
        if modes[-1] == "warn":
            for _ in range(3):
                warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    def broken() -> None:
        raise RuntimeError("out of memory")

    assert _counted_waits(call, lambda: 0, modes.append) == 3
    with pytest.raises(RuntimeError, match="out of memory"):
        _counted_waits(broken, lambda: 0, modes.append)
    assert modes == [0, "warn", 0, "warn", 0]


def test_a_cpu_launches_nothing() -> None:
    assert launches(lambda: None, "cpu") is None
    assert synchronisations(lambda: None, "cpu") is None


@pytest.mark.gpu
def test_kernels_and_waits_of_known_calls() -> None:
    x = torch.rand(1000, device="cuda")
    assert launches(lambda: x + 1, "cuda") == 1
    assert launches(lambda: (x + 1) * 2, "cuda") == 2
    assert synchronisations(lambda: x + 1, "cuda") == 0
    assert synchronisations(lambda: x.sum().item(), "cuda") == 1
