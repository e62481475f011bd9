"""Small image folders and settings that train in a moment."""

from pathlib import Path

import pytest

from training.config import TrainConfig
from training.data import Dataset, load


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Nets as small as the tests' gain nothing from a second thread."""


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
