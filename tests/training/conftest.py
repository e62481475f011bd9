"""Small image folders and settings that train in a moment."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.config import TrainConfig
from training.data import Dataset, load


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Nets as small as the tests' gain nothing from a second thread, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes() -> Dataset:
    """160 + 100 drawn shapes of 16 pixels."""
    return load("synthetic", root=Path("nowhere"), image_size=16, max_train=160, max_test=100)


@pytest.fixture
def tiny() -> TrainConfig:
    """Return a run of a net that takes a fraction of a second on ``shapes``."""
    return TrainConfig(
        data="synthetic", model="resnet8", width=4, epochs=2, batch_size=48, image_size=16, backend="kornia",
        recipe="crop_flip", device="cpu", max_train=160, max_test=100, data_root=Path("nowhere"),
    )  # fmt: skip
