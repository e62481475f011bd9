"""The environment of a run, checked against other sources of the same facts."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import torch

from bench.environment import ARCHIVED, TRACKED, commit, environment

ROOT = Path(__file__).parents[2]


def test_it_names_versions_threads_and_data_and_no_secret_or_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "do-not-store")
    text = msgspec.json.encode(environment({"name": "shapes", "fingerprint": "abc", "fallback": None})).decode()
    here = msgspec.json.decode(text)
    assert here["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"torchvision", "kornia", "numpy", "pillow", "pytest-benchmark"} <= set(here["packages"])
    assert (here["cpu"]["threads"], here["cpu"]["logical_cores"]) == (torch.get_num_threads(), os.cpu_count())
    assert (here["python"], here["variables"]["OMP_NUM_THREADS"]) == (platform.python_version(), "3")
    assert here["dataset"]["fingerprint"] == "abc"
    assert len(here.get("gpus", [])) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert "do-not-store" not in text
    assert str(ROOT) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def unpack(folder: Path) -> Path:
    """Write this project's environment.py into a folder, as an archive of the sources would."""
    file = folder / TRACKED
    file.parent.mkdir(parents=True)
    file.write_text("")
    return folder


def test_a_commit_is_the_projects_own(tmp_path: Path) -> None:
    """Not that of a repository around it, whether that one ignores, tracks or does not know the files."""
    assert commit(unpack(tmp_path / "alone")) is None
    own = unpack(tmp_path / "own")
    git(own, "init", "--quiet")
    assert commit(own) is None  # nothing is tracked yet
    git(own, "add", ".")
    git(own, "commit", "--quiet", "-m", "first")
    assert commit(own) == {"id": git(own, "rev-parse", "HEAD"), "dirty": False}
    (own / TRACKED).write_text("# changed")
    assert commit(own) == {"id": git(own, "rev-parse", "HEAD"), "dirty": True}
    inside = unpack(own / "vendor" / "augmark")
    assert commit(inside) is None
    git(own, "add", ".")
    git(own, "commit", "--quiet", "-m", "vendored")
    assert commit(inside) is None


def test_an_archive_holds_its_commit(tmp_path: Path) -> None:
    own = unpack(tmp_path / "own")
    (own / ARCHIVED).write_text("$Format:%H$\n")
    (own / ".gitattributes").write_text(f"{ARCHIVED} export-subst\n")
    git(own, "init", "--quiet")
    git(own, "add", ".")
    git(own, "commit", "--quiet", "-m", "first")
    git(own, "archive", "--output", str(tmp_path / "archive.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", own / "unpacked")
    assert commit(own / "unpacked") == {"id": git(own, "rev-parse", "HEAD"), "dirty": False}
    (own / "unpacked" / ARCHIVED).write_text("$Format:%H$\n")  # as in a copy that git did not make
    assert commit(own / "unpacked") is None
