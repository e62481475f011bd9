"""Images for all tests: a small batch with structure, made without files. Without CUDA, Triton interprets its kernels."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

# At import: a conftest below may import Triton, which reads this, before pytest is configured. Benchmarks time no interpreter.
if not torch.cuda.is_available() and "--benchmark-only" not in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors as small as the tests' gain nothing from a second thread, and lose much where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> None:
    """Restore Ctrl-C: a shell that puts a job in the background has it and its children ignore the signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def smooth_images(count: int, size: int, seed: int = 0) -> Tensor:
    """[count, 3, size, size] uint8 with smooth structure, noise and flat parts: photographs in small."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    images += 0.05 * torch.randn(images.shape, generator=generator)
    images[:, :, : size // 4, : size // 4] = 0.7  # flat: ties in histograms
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.fixture
def images() -> Tensor:
    """[8, 3, 32, 32] uint8."""
    return smooth_images(8, 32)


T = TypeVar("T")
MakeFolder = Callable[..., Path]


def present(value: T | None) -> T:
    """Return a value that a test cannot do without."""
    assert value is not None
    return value


PATIENCE_S = 600
"""Seconds after which a process hangs: where cores are shared, imports alone may take minutes."""


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait for a running process; fail if it ends before the condition holds, or hangs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the process hangs"
        time.sleep(0.02)


@contextmanager
def one_line(message: str, error: type[Exception] = ValueError) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error of one line in which a regular expression is found."""
    with pytest.raises(error, match=message) as caught:
        yield caught
    assert "\n" not in str(caught.value)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return a function that makes a folder of PNG noise."""

    def make(
        classes: tuple[str, ...] = ("ant", "bee"), *, test: str = "test", count: int = 3, size: tuple[int, int] = (8, 8)
    ) -> Path:
        rng = np.random.default_rng(0)
        folder = tmp_path / "photos"
        for split in ("train", test):
            for name in classes:
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
        return folder

    return make
