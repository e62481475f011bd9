"""Small image folders and settings that train in a moment."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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


MakeFolder = Callable[..., Path]


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
