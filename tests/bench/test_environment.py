"""What a run says about where it ran, checked against other sources of the same facts."""

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from bench.environment import commit, environment

ROOT = Path(__file__).parents[2]


def test_it_is_json_and_names_versions_threads_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "do-not-store")
    here = environment({"name": "shapes", "fingerprint": "abc", "fallback": None})
    text = json.dumps(here)
    assert here["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"torchvision", "kornia", "numpy", "pillow", "pytest-benchmark"} <= set(here["packages"])
    assert here["cpu"]["threads"] == torch.get_num_threads()
    assert here["cpu"]["logical_cores"] == os.cpu_count()
    assert here["python"] == platform.python_version()
    assert here["variables"]["OMP_NUM_THREADS"] == "3"
    assert here["dataset"]["fingerprint"] == "abc"
    assert "do-not-store" not in text


def test_it_tells_nobodys_name_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(environment())
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert str(ROOT) not in text


def test_gpus_are_listed_as_torch_counts_them() -> None:
    gpus = environment()["gpus"]
    assert len(gpus) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert all(gpu["memory_bytes"] > 0 for gpu in gpus)


def test_the_commit_is_that_of_the_checkout() -> None:
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode != 0:
        assert commit() is None
    else:
        told = commit()
        assert told is not None
        assert told["id"] == head.stdout.strip()
        assert isinstance(told["dirty"], bool)
