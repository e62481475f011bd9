"""The official layout, made small: read against the pickled arrays, downloaded from a server of our own."""

import hashlib
import http.server
import io
import pickle
import re
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from tests.conftest import present
from training import data
from training.data import load
from training.sources import cifar10

CLASSES = [f"class {i}" for i in range(10)]


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Make an archive in the official layout for a local server, which torchvision takes for the real one."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    arrays = {name: rng.integers(0, 256, (20, 3072), dtype=np.uint8) for name in names}
    contents = {name: {"data": array, "labels": [i % 10 for i in range(20)]} for name, array in arrays.items()}
    contents["batches.meta"] = {"label_names": CLASSES}
    md5s = {}
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            raw = pickle.dumps(content)
            md5s[name] = hashlib.md5(raw).hexdigest()
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5s[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5s["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5s["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((served / "cifar-10-python.tar.gz").read_bytes()).hexdigest())
    return arrays


@pytest.fixture
def server(official: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = partial(_QuietHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        url = f"http://127.0.0.1:{httpd.server_address[1]}/cifar-10-python.tar.gz"
        monkeypatch.setattr(CIFAR10, "url", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield url
        httpd.shutdown()


def _closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_downloaded_images_are_those_of_the_archive(server: str, official: dict[str, np.ndarray], tmp_path: Path) -> None:
    root = tmp_path / "root"
    dataset = load("cifar10", root=root, download=True)
    train = np.concatenate([official[f"data_batch_{i}"] for i in range(1, 6)]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(dataset.train.images.numpy(), train)
    np.testing.assert_array_equal(dataset.test.images.numpy(), official["test_batch"].reshape(-1, 3, 32, 32))
    assert (dataset.train.labels.tolist(), dataset.classes) == ([i % 10 for i in range(20)] * 5, tuple(CLASSES))
    assert (dataset.name, dataset.fallback) == ("cifar10", None)
    half = load("cifar10", root=root, image_size=16)
    assert half.train.images.shape == (100, 3, 16, 16)
    assert half.fingerprint != dataset.fingerprint


def test_auto_downloads_once_and_unpickles_once(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("auto", root=tmp_path / "root", download=True)
    assert (first.name, first.fallback, len(first.train)) == ("cifar10", None, 100)
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("read again"))
    second = load("cifar10", root=tmp_path / "root")
    assert second.train.images.equal(first.train.images)
    assert second.fingerprint == first.fingerprint


def test_a_wrong_md5_is_refused_and_the_archive_removed(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(ValueError, match=r"could not be downloaded from .*: the MD5 of the archive is not the official one"):
        load("cifar10", root=tmp_path / "root", download=True)
    assert not (tmp_path / "root" / "cifar-10-python.tar.gz").exists()
    fallen_back = load("auto", root=tmp_path / "root", download=True)
    assert fallen_back.name == "synthetic"
    assert "the MD5 of the archive is not the official one" in (fallen_back.fallback or "")


def test_a_damaged_batch_is_refused(server: str, tmp_path: Path) -> None:
    cifar10.download_cifar10(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"CIFAR-10 under .* is damaged: remove cifar-10-batches-py/ there, or add --download"):
        load("cifar10", root=tmp_path)
    batch.unlink()
    with pytest.raises(ValueError, match=r"no CIFAR-10 under .* \(data_batch_3 is missing\): add --download"):
        load("cifar10", root=tmp_path)


def test_offline_auto_falls_back_to_shapes_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{_closed_port()}/cifar-10-python.tar.gz")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    dataset = load("auto", root=tmp_path, download=True)
    assert dataset.name == "synthetic"
    assert re.search(r"(?=.*could not be downloaded from http://127\.0\.0\.1).*not CIFAR-10", present(dataset.fallback))
    with pytest.raises(ValueError, match="CIFAR-10 could not be downloaded"):
        load("cifar10", root=tmp_path, download=True)


def test_auto_prefers_what_lies_there_to_the_network(
    tmp_path: Path, make_folder: Callable[..., Path], official: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "download_cifar10", lambda root: pytest.fail("asked the network"))
    folder = make_folder()
    assert "add --download" in (load("auto", root=tmp_path / "empty", image_size=8).fallback or "")
    assert load("auto", root=folder, image_size=8).name == "photos"
    folder.rename(tmp_path / "cifar10-jpeg")
    assert load("auto", root=tmp_path, image_size=8).name == "cifar10-jpeg"
    with tarfile.open(tmp_path / "served" / "cifar-10-python.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert load("auto", root=tmp_path).name == "cifar10"
