"""What a training run is: one frozen config, and the one place where it is checked.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Placement = Literal["workers", "device", "none"]
Optimizer = Literal["adam", "sgd"]
Precision = Literal["float32", "bfloat16"]

MODELS = ("resnet18", "resnet8")
EVALUATION_RECIPES = {"imagenet": "imagenet_eval", "imagenet_eval": "imagenet_eval"}
"""How images are prepared for evaluation, by training recipe; "none" (normalise only) for all others."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run; the defaults are the book's recipe."""

    data: str = "auto"
    """auto (CIFAR-10 as found under data_root, or downloaded, else synthetic), cifar10, synthetic, or an image folder."""
    data_root: Path = Path("data")
    """Where data sets lie, are downloaded to and are cached."""
    recipe: str = "flip"
    """The augmentation of the training images, by its name in the catalog."""
    backend: str = "torchvision"
    """The library that augments, by its name in the catalog."""
    augment_on: Placement = "device"
    """workers: in loader workers; device: one batched call where the model is; none: normalise only, which is the ceiling."""
    num_workers: int = 0
    """Loader processes; 0 fetches (and with augment_on=workers augments) in the training process."""
    model: str = "resnet18"
    """resnet18 or resnet8, with a 3x3 stem."""
    width: int = 64
    """Channels of the first stage."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 256
    """Images a step over all devices and processes together."""
    learning_rate: float = 1e-3
    """Constant step size."""
    optimizer: Optimizer = "adam"
    """adam, or sgd with momentum 0.9."""
    precision: Precision = "float32"
    """bfloat16 runs the model under autocast; weights stay float32."""
    channels_last: bool = False
    """Store images and weights channels last."""
    compile: bool = False
    """Compile the model for training with torch.compile; evaluation stays eager."""
    seed: int = 0
    """Initial weights, order and augmentation follow from it. The data does not: see training.data.load."""
    device: str = "auto"
    """auto (the accelerator if there is one), cpu, cuda (all GPUs), cuda:1, mps, ..."""
    image_size: int = 32
    """Side of the square images that the data set is decoded to."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many images."""
    max_test: int | None = None
    """Evaluate on a class-balanced subset of at most this many images."""
    download: bool = False
    """Download CIFAR-10 if it is not under data_root."""

    @property
    def effective_recipe(self) -> str:
        """What the training images undergo: augment_on=none sets the recipe aside."""
        return "none" if self.augment_on == "none" else self.recipe

    @property
    def effective_backend(self) -> str:
        """Who prepares them: with augment_on=none always plain torchvision, so that there is one ceiling for all."""
        return "torchvision" if self.augment_on == "none" else self.backend

    @property
    def evaluation_recipe(self) -> str:
        """What the test images undergo."""
        return EVALUATION_RECIPES.get(self.recipe, "none")

    def as_record(self) -> dict[str, Any]:
        """The settings as plain values, without the machine's paths: ``data`` is cut to its last component."""
        record = dataclasses.asdict(self)
        del record["data_root"], record["download"]
        return record | {
            "data": Path(self.data).name,
            "recipe": self.effective_recipe,
            "backend": self.effective_backend,
        }


def validate(config: TrainConfig) -> torch.device:
    """Check a config before anything is loaded or built, and say which device it means.

    Returns the (first) device that this process will train on. Raises ValueError with one line that says what to change.
    """
    from training.distributed import resolve_device, visible_devices

    _check_numbers(config)
    _check_names(config)
    device = resolve_device(config.device)
    _check_placement(config, on_accelerator=device.type != "cpu")
    if config.compile and len(visible_devices(config.device)) > 1:
        raise ValueError(
            "compile does not work with several GPUs in one process: start it with torchrun, or take --device cuda:0"
        )
    return device


def _check_numbers(config: TrainConfig) -> None:
    for name in ("epochs", "batch_size", "width", "image_size"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("num_workers", "seed"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}")
    for name in ("max_train", "max_test"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1 (leave it out for all images), got {value}")
    if not (math.isfinite(config.learning_rate) and config.learning_rate > 0):
        raise ValueError(f"learning_rate must be a positive number, got {config.learning_rate}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def _check_names(config: TrainConfig) -> None:
    from augment.catalog import BACKENDS, check_supported, resolve
    from augment.recipes import RECIPES

    _one_of("model", config.model, MODELS)
    _one_of("recipe", config.recipe, tuple(RECIPES))
    _one_of("backend", config.backend, tuple(BACKENDS))
    _one_of("augment_on", config.augment_on, ("workers", "device", "none"))
    _one_of("optimizer", config.optimizer, ("adam", "sgd"))
    _one_of("precision", config.precision, ("float32", "bfloat16"))
    check_supported(resolve(config.effective_recipe, config.image_size), config.effective_backend)


def _check_placement(config: TrainConfig, *, on_accelerator: bool) -> None:
    from augment.catalog import BACKENDS

    backend = BACKENDS[config.backend]
    if config.augment_on == "device" and on_accelerator and not backend.on_device:
        raise ValueError(
            f"backend {backend.name} works image by image on the CPU: take --augment-on workers, or another backend"
        )
    if config.augment_on == "workers" and backend.compiled:
        raise ValueError(f"backend {backend.name} is compiled for whole batches: take --augment-on device, or another backend")
