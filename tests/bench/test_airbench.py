"""cifar10-airbench as a peer of preset fast: its images, its printed table, and the line of the report, with a stand-in."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import Tensor

from bench.jobs.airbench import airbench_jobs
from bench.jobs.job import measure_cases
from bench.records import PEER, Accuracy, load_run
from bench.report.sections.accuracy import accuracy_section
from tests.bench.stored import store, trained
from tests.conftest import present
from training.data import Dataset, load

TABLE = """
------------------------------------------------------------------------------------------------------
|  run     |  epoch  |  train_loss  |  train_acc  |  val_acc  |  tta_val_acc  |  total_time_seconds  |
------------------------------------------------------------------------------------------------------
|       0  |      0  |      1.2000  |     0.5000  |   0.4567  |               |              0.3000  |
|          |      9  |      1.0000  |     0.9500  |   0.8961  |               |              2.3441  |
|          |   eval  |      1.0000  |     0.9500  |   0.8961  |       0.9071  |              2.4100  |
------------------------------------------------------------------------------------------------------
"""
WARM_UP = "| warmup  |         |      2.3000  |             |           |               |                      |"
"""Table that airbench 0.1.8 prints."""


@pytest.fixture
def images() -> Dataset:
    return load("synthetic", root=Path("nowhere"), max_train=20, max_test=10)


def test_it_trains_on_the_same_images_for_every_seed(images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []

    def rows(images: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([labels[:, None], images.flatten(1)], 1).unique(dim=0)

    def train94(run: int) -> None:
        for name, split in (("train", images.train), ("test", images.test)):
            stored = torch.load(f"cifar10/{name}.pt")  # as airbench does, in its current folder
            assert rows(stored["images"].permute(0, 3, 1, 2), stored["labels"]).equal(rows(split.images, split.labels))
            assert not stored["labels"].equal(split.labels), "by class: it whitens by the first images"
        draws.append(int(torch.randint(2**31, ())))
        print(TABLE)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "airbench")
    monkeypatch.setitem(sys.modules, "airbench", SimpleNamespace(train94=train94, warmup94=lambda: print(WARM_UP)))
    (job,) = airbench_jobs(images, "cuda:0", (0, 1), "gpu")
    before, folder = Path.cwd(), store(tmp_path / "run", samples={})
    measure_cases(job, folder, Console(quiet=True))
    assert Path.cwd() == before
    records = [record for record in load_run(folder).records if isinstance(record, Accuracy)]
    assert [(r.status, r.seed, r.model, r.train_s, r.test_accuracy) for r in records] == [
        ("ok", 0, PEER, 2.3441, 0.8961), ("ok", 1, PEER, 2.3441, 0.8961),
    ]  # fmt: skip
    assert len(set(draws)) == 2, "seeds"


def test_it_is_left_out_where_it_is_missing_or_cannot_train(images: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "airbench")
    two_classes = replace(images, classes=images.classes[:2])
    for dataset, device in ((images, "cpu"), (images, "cuda:1"), (two_classes, "cuda")):
        assert airbench_jobs(dataset, device, (0,), "gpu") == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert airbench_jobs(images, "cuda", (0,), "gpu") == []


def test_the_report_sets_it_beside_the_best_of_ours(tmp_path: Path) -> None:
    shared = {"test_accuracy": 0.88, "target_accuracy": 0.94, "warm_up_s": 1.0}
    own = [trained("accuracy", seed=i, train_s=s, **shared) for i, s in enumerate((2.8, 3.0))]
    peer = [trained("accuracy", seed=i, model=PEER, backend="airbench", train_s=2.3, test_accuracy=0.9) for i in range(2)]
    section = present(accuracy_section(load_run(store(tmp_path / "run", records=[*own, *peer]))))
    (answer,) = (answer for answer in section.answers if "airbench" in answer.question)
    assert answer.answer == "2.90 s of training to 88.0 %"
    assert f"{PEER} on the same images: 2.30 s of training to 90.0 %" in str(answer.evidence)
