"""Every wrong setting is told in one line before anything is loaded; the config itself needs no torch."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch

from training import config as config_module
from training.config import TrainConfig, validate
from training.distributed import resolve_device


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "fliip"}, "unknown recipe 'fliip'; known: none, flip"),
        ({"backend": "opencv"}, "unknown backend 'opencv'; known: pil"),
        ({"model": "vgg"}, "unknown model 'vgg'; known: resnet18, resnet8"),
        ({"augment_on": "gpu"}, "unknown augment_on 'gpu'"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must not be negative, got -1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"max_train": 0}, "max_train must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"model": "speednet", "image_size": 8}, "model speednet needs an image_size of at least 9, got 8"),
        ({"bias_rate": -1.0}, "bias_rate must be a positive number, got -1.0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1, got 1.0"),
        ({"label_smoothing": float("nan")}, "label_smoothing must be at least 0 and less than 1, got nan"),
        ({"weight_decay": -1e-4}, "weight_decay must not be negative"),
        ({"warm_up_epochs": 10.5}, "warm_up_epochs must lie between 0 and epochs (10), got 10.5"),
        ({"schedule": "step"}, "unknown schedule 'step'; known: constant, cosine, one_cycle, trapezoid"),
        ({"recipe": "augmix", "backend": "kornia"}, "AugMix is not supported by backend kornia"),
        ({"backend": "kornia_compiled", "augment_on": "workers"}, "is compiled for whole batches: take --augment-on device"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        validate(dataclasses.replace(TrainConfig(device="cpu"), **change))
    assert message in str(caught.value)


def test_no_cuda_where_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no device 'cuda': this machine has no accelerator"):
        validate(TrainConfig(device="cuda"))
    assert resolve_device("auto") == torch.device("cpu")


def test_image_by_image_backends_run_on_a_cpu_device_but_not_on_a_gpu() -> None:
    for_loops = TrainConfig(backend="pil", augment_on="device", device="cpu")
    assert validate(for_loops) == torch.device("cpu")
    with pytest.raises(ValueError, match="backend pil works image by image on the CPU: take --augment-on workers"):
        config_module._check_placement(for_loops, torch.device("cuda"))


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert resolve_device("cuda") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 2 has no device: 2 here; start torchrun with --nproc-per-node=2"):
        resolve_device("cuda")


def test_the_record_says_what_was_done_and_where_no_machine_path() -> None:
    record = TrainConfig(data="/home/somebody/flowers", recipe="flip", backend="kornia", augment_on="none").as_record()
    assert (record["recipe"], record["backend"]) == ("none", "torchvision")  # augment_on=none sets both aside
    assert "/home" not in str(record)


def test_config_and_entry_point_import_no_torch() -> None:
    code = "import sys, training.config, training.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
