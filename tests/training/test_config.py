"""Every wrong setting is one line before anything is loaded; presets are data; no torch at import."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from bench import cli
from training import config as config_module
from training.config import FinetuneConfig, TrainConfig, resolve_auto, validate
from training.distributed import resolve_device
from training.presets import PRESETS, PresetName, parse_preset

_RESIDENT = "resident images need no loader: take --augment-on device or none, "


OF_TRAINING: list[tuple[dict[str, Any], str]] = [
    ({"recipe": "fliip"}, "unknown recipe 'fliip'; known: none, flip"),
    ({"backend": "opencv"}, "unknown backend 'opencv'; known: pil"),
    ({"model": "vgg"}, "unknown model 'vgg'; known: resnet18, resnet8"),
    ({"augment_on": "gpu"}, "unknown augment_on 'gpu'"),
    ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
    ({"precision": "float16"}, "unknown precision 'float16'"),
    ({"schedule": "step"}, "unknown schedule 'step'; known: constant, cosine, one_cycle, trapezoid"),
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
    ({"bias_rate": -1.0}, "bias_rate must be a positive number, got -1.0"),
    ({"momentum": 1.0}, "momentum must be at least 0 and less than 1, got 1.0"),
    ({"label_smoothing": float("nan")}, "label_smoothing must be at least 0 and less than 1, got nan"),
    ({"weight_decay": -1e-4}, "weight_decay must not be negative"),
    *(({"target_accuracy": v}, "target_accuracy must be above 0 and at most 1") for v in (0.0, 94.0, -0.5, float("nan"))),
    ({"model": "speednet", "image_size": 8}, "model speednet needs an image_size of at least 9, got 8"),
    ({"warm_up_epochs": 10.5}, "warm_up_epochs must lie between 0 and epochs (10), got 10.5"),
    ({"recipe": "augmix", "backend": "kornia"}, "AugMix is not supported by backend kornia"),
    *(
        ({"backend": "cvcuda", "augment_on": place}, "by backend cvcuda: it runs on CUDA only")
        for place in ("device", "workers")
    ),
    ({"backend": "kornia_compiled", "augment_on": "workers"}, "is compiled for whole batches: take --augment-on device"),
    ({"resident": True, "num_workers": 2}, _RESIDENT),
    ({"resident": True, "augment_on": "workers"}, _RESIDENT),
    ({"augment_on": "frozen", "num_workers": 1}, "a frozen batch needs neither data set nor loader"),
    ({"augment_stream": True, "augment_on": "none"}, "augment_stream needs --augment-on device, not none"),
]
OF_FINE_TUNING: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "epochs must be at least 1"),
    ({"batch_size": 1}, "batch_size must be at least 2"),
    ({"head_rate": 0.0}, "head_rate must be a positive number"),
    ({"mode": "half"}, "unknown mode 'half'"),
    ({"init": "scratch"}, "mode full needs weights to start from"),
    ({"recipe": "flip"}, "recipe flip has no RandomResizedCrop"),
    ({"recipe": "nothing"}, "unknown recipe"),
    ({"backend": "nobody"}, "unknown backend"),
    ({"backend": "kornia_compiled"}, "is compiled for batches of one size"),
    ({"backend": "triton_augment"}, "RandomResizedCrop is not supported by backend triton_augment"),
]


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        *((TrainConfig(device="cpu"), *row) for row in OF_TRAINING),
        *((FinetuneConfig(data="photos", device="cpu"), *row) for row in OF_FINE_TUNING),
    ],
)
def test_a_wrong_setting_is_one_line(config: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        validate(replace(config, **change))
    assert message in str(caught.value)


def test_a_backend_that_is_not_run_need_not_be_there() -> None:
    validate(TrainConfig(device="cpu", recipe="augmix", backend="cvcuda", augment_on="none"))


def test_fine_tuning_takes_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it without torchrun"):
        validate(FinetuneConfig(data="photos", device="cpu"))


def test_a_missing_accelerator_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no device 'cuda': this machine has no accelerator"):
        validate(TrainConfig(device="cuda"))
    assert resolve_device("auto") == torch.device("cpu")


def test_image_by_image_backends_run_on_a_cpu_device_but_not_on_a_gpu() -> None:
    config = TrainConfig(backend="pil", augment_on="device", device="cpu")
    assert validate(config) == torch.device("cpu")
    with pytest.raises(ValueError, match="backend pil works image by image on the CPU: take --augment-on workers"):
        config_module._check_placement(config, torch.device("cuda"))


def test_a_process_without_a_gpu_of_its_own_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert (resolve_device("auto"), resolve_device("cuda:1")) == (torch.device("cuda:0"), torch.device("cuda:1"))
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert resolve_device("cuda") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="no device 'cuda:2': there are 2, counted from 0; start torchrun with"):
        resolve_device("cuda")


def test_records_say_what_was_done_and_hold_no_machine_path() -> None:
    record = TrainConfig(data="/home/somebody/flowers", recipe="flip", backend="kornia", augment_on="none").as_record()
    assert (record["recipe"], record["backend"]) == ("none", "torchvision")  # augment_on=none sets both aside
    tuned = FinetuneConfig(data="/home/somebody/flowers", init="/home/somebody/best.pt").as_record()
    assert (tuned["data"], tuned["init"], "width" in tuned) == ("flowers", "best.pt", False)
    assert "/home" not in f"{record}{tuned}"


def test_automatic_precision_is_decided_by_the_device() -> None:
    auto = TrainConfig(precision="auto")
    assert resolve_auto(auto, torch.device("cpu")).precision == "float32"
    assert resolve_auto(auto, torch.device("cuda")).precision == "bfloat16"
    assert resolve_auto(TrainConfig(precision="bfloat16"), torch.device("cpu")).precision == "bfloat16"


def test_evaluation_follows_the_recipe() -> None:
    assert TrainConfig(recipe="imagenet").evaluation_recipe == "imagenet_eval"
    assert TrainConfig(recipe="mixup").evaluation_recipe == "none"


# ---- presets --------------------------------------------------------------------------------------------------------------


def test_presets_can_be_run_and_the_book_is_the_default() -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    for preset in PRESETS.values():
        resolve_auto(preset, validate(preset))
    book = PRESETS["book"]
    assert book == TrainConfig()
    assert (book.model, book.optimizer, book.learning_rate, book.batch_size, book.epochs) == ("resnet18", "adam", 1e-3, 256, 10)
    assert (PRESETS["standard"].epochs, PRESETS["standard_200"].epochs, PRESETS["fast"].target_accuracy) == (30, 200, 0.94)


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ([], "book"),
        (["--preset", "fast"], "fast"),
        (["--epochs", "3", "--preset=standard"], "standard"),
        (["--preset", "fast", "--preset", "standard"], "standard"),  # the last counts, as for the parser
        (["--preset", "quick"], "book"),  # augmark run has presets of its own
        (["--preset"], "book"),
    ],
)
def test_the_preset_is_read_before_parsing(arguments: list[str], preset: str) -> None:
    assert parse_preset(arguments) == preset


def test_single_options_override_the_preset_wherever_they_stand() -> None:
    """Also one that is set to its value in the book, which a comparison with defaults would take for left out."""
    config = cli.parse(["train", "--no-compile", "--preset", "fast", "--momentum", "0.9", "--epochs", "2"]).config
    assert (config.model, config.epochs, config.compile, config.momentum) == ("speednet", 2, False, TrainConfig().momentum)
    with pytest.raises(SystemExit) as caught:
        cli.parse(["train", "--preset", "quickly"])
    assert caught.value.code == 2
