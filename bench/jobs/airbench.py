"""cifar10-airbench beside preset ``fast``: its own training (``train94``) on the same images, if the package is installed.

The package (0.1.8 on PyPI, MIT) needs CUDA device 0, reads its images from files below the current folder, and prints results.
"""

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.jobs.job import Job, data_facts, plan_training
from bench.records import PEER, Accuracy
from training.config import TrainConfig

if TYPE_CHECKING:
    from training.data import Dataset

SETTINGS: dict[str, Any] = {
    "model": PEER, "batch_size": 1024, "recipe": "airbench", "backend": "airbench", "optimizer": "sgd", "learning_rate": 1.5,
    "momentum": 0.85, "weight_decay": 1.33e-3, "decay_biases": True, "bias_rate": 64, "label_smoothing": 0.2,
    "schedule": "one_cycle", "warm_up_epochs": 2.277, "first_rate": 0.2, "last_rate": 0.07, "slow_weights_every": 5,
    "whiten_bias_epochs": 3, "precision": "float16", "channels_last": True, "resident": True,
}  # fmt: skip
"""Settings of ``train94``, per mean loss (there they are of a sum); it trains 9.9 epochs, of which 0.23 warm up."""


def airbench_jobs(dataset: "Dataset", device: str, seeds: Sequence[int], suite: str) -> list[Job]:
    """Return the job of a training for each seed; none without the package, or where it cannot train."""
    fits = len(dataset.classes) == 10 and dataset.train.images.shape[-1] == 32 and device in ("cuda", "cuda:0")
    if not fits or importlib.util.find_spec("airbench") is None:
        return []
    configs = [TrainConfig(device=device, seed=seed, **SETTINGS) for seed in seeds]
    cases = tuple(plan_training(Accuracy, config, dataset, lane="per_image") for config in configs)

    def measure(case: Accuracy) -> Accuracy:
        train_s, accuracy = train(dataset, case.seed)
        images = {"train_images": len(dataset.train), "test_images": len(dataset.test)}
        values = {"train_s": train_s, "test_accuracy": accuracy, "step": "eager", "devices": (device,), **images}
        return msgspec.structs.replace(case, status="ok", **values)

    facts, name = data_facts(dataset), "airbench"
    job = Job(name=name, suite=suite, device=device, cases=cases, dataset=facts, open=lambda folder: measure, shuffle=False)
    return [job]


def train(dataset: "Dataset", seed: int) -> tuple[float, float]:
    """Train 9.9 epochs; return (seconds of training, test accuracy without test-time augmentation)."""
    import torch
    from airbench import train94, warmup94

    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        Path("cifar10").mkdir()
        for name, split in (("train", dataset.train), ("test", dataset.test)):
            # Folders go by class, and its whitening takes the first 5,000 images.
            order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
            images = split.images.cpu()[order].permute(0, 2, 3, 1).contiguous()
            torch.save(
                {"images": images, "labels": split.labels.cpu()[order], "classes": dataset.classes}, f"cifar10/{name}.pt"
            )
        warmup94()
        torch.manual_seed(seed)
        train94(run=0)
    return read_table(printed.getvalue())


def read_table(printed: str) -> tuple[float, float]:
    """Return seconds and accuracy of the last epoch's row; the one below it counts test-time augmentation too."""
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if "|" in line]
    header = next(row for row in rows if "epoch" in row)
    epochs = [values for row in rows if (values := dict(zip(header, row, strict=True)))["epoch"].isdigit()]
    return float(epochs[-1]["total_time_seconds"]), float(epochs[-1]["val_acc"])
