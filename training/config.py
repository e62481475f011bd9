"""What a training run is: one frozen config, and the one place where it is checked.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch

Placement = Literal["workers", "device", "none", "frozen"]
Decode = Literal["ahead", "workers"]
Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine", "one_cycle", "trapezoid"]
Precision = Literal["auto", "float32", "bfloat16"]

MODELS = ("resnet18", "resnet8", "speednet")
SMALLEST_FOR_SPEEDNET = 9
"""Its poolings leave nothing of smaller images."""
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
    """workers: in loader workers; device: one batched call where the model is; none: normalise only; frozen (measure only): no
    step prepares anything, all are given the one batch that was prepared before, as with "synthetic data": the ceiling."""
    num_workers: int = 0
    """Loader processes; 0 fetches (and with augment_on=workers augments) in the training process."""
    resident: bool = False
    """All images lie on the device as uint8 and batches are picked there, without a loader; the same batches as a loader's."""
    prefetch: bool = True
    """On CUDA, copy a batch to the device on a stream of its own, while the step before runs. Elsewhere nothing changes."""
    augment_stream: bool = False
    """On CUDA, with augment_on=device: augment on that stream too. Elsewhere nothing changes."""
    decode: Decode = "ahead"
    """ahead: all images are decoded once, before training; workers: each batch is read from its files and decoded by whoever
    fetches it, as is usual with sets that no memory holds."""
    model: str = "resnet18"
    """resnet18 or resnet8, with a 3x3 stem, or speednet, a small net that trains in seconds on a GPU."""
    width: int = 64
    """Channels of the first stage."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 256
    """Images a step over all devices and processes together."""
    learning_rate: float = 1e-3
    """Largest step size of the schedule."""
    optimizer: Optimizer = "adam"
    """adam (with weight_decay: AdamW), or sgd with Nesterov momentum."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 0.0
    """Of weights; norms and biases are spared."""
    bias_rate: float = 1.0
    """Step size of batch norms, as a multiple of that of all else."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""
    schedule: Schedule = "constant"
    """How the step size goes on after warming up: constant, cosine to 0, one_cycle (in a line to 0), or trapezoid (constant,
    the last 30 % of all steps in a line to 0)."""
    warm_up_epochs: float = 0.0
    """Epochs in which the step size rises in a line from 0."""
    precision: Precision = "float32"
    """bfloat16 runs the model, all but its last layer, under autocast, with weights in float32; auto takes it on accelerators,
    float32 on a CPU."""
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
    target_accuracy: float | None = None
    """Test accuracy, a share of one, to which the seconds of training are told; nothing else follows from it."""
    download: bool = False
    """Download CIFAR-10 if it is not under data_root."""

    @property
    def augments(self) -> bool:
        """Whether the training images undergo the recipe."""
        return self.augment_on in ("workers", "device")

    @property
    def effective_recipe(self) -> str:
        """What the training images undergo: without augmentation the recipe is set aside."""
        return self.recipe if self.augments else "none"

    @property
    def effective_backend(self) -> str:
        """Who prepares them: without augmentation always plain torchvision, so that there is one ceiling for all."""
        return self.backend if self.augments else "torchvision"

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
    _check_placement(config, device)
    if config.compile and len(visible_devices(config.device)) > 1:
        raise ValueError(
            "compile does not work with several GPUs in one process: start it with torchrun, or take --device cuda:0"
        )
    return device


def settled(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The config with what is automatic decided for a device, as it is recorded."""
    if config.precision != "auto":
        return config
    return dataclasses.replace(config, precision="float32" if device.type == "cpu" else "bfloat16")


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
    for name in ("learning_rate", "bias_rate"):
        if not (math.isfinite(getattr(config, name)) and getattr(config, name) > 0):
            raise ValueError(f"{name} must be a positive number, got {getattr(config, name)}")
    for name in ("momentum", "label_smoothing"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(config, name)}")
    if config.target_accuracy is not None and not 0 < config.target_accuracy <= 1:
        raise ValueError(f"target_accuracy must be above 0 and at most 1, such as 0.94, got {config.target_accuracy}")
    if not (math.isfinite(config.weight_decay) and config.weight_decay >= 0):
        raise ValueError(f"weight_decay must not be negative, got {config.weight_decay}")
    if config.model == "speednet" and config.image_size < SMALLEST_FOR_SPEEDNET:
        raise ValueError(f"model speednet needs an image_size of at least {SMALLEST_FOR_SPEEDNET}, got {config.image_size}")
    if not 0 <= config.warm_up_epochs <= config.epochs:
        raise ValueError(f"warm_up_epochs must lie between 0 and epochs ({config.epochs}), got {config.warm_up_epochs}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def _check_names(config: TrainConfig) -> None:
    from augment.catalog import BACKENDS
    from augment.recipes import RECIPES

    _one_of("model", config.model, MODELS)
    _one_of("recipe", config.recipe, tuple(RECIPES))
    _one_of("backend", config.backend, tuple(BACKENDS))
    _one_of("augment_on", config.augment_on, get_args(Placement))
    _one_of("decode", config.decode, get_args(Decode))
    _one_of("optimizer", config.optimizer, ("adam", "sgd"))
    _one_of("schedule", config.schedule, get_args(Schedule))
    _one_of("precision", config.precision, get_args(Precision))


def _check_placement(config: TrainConfig, device: torch.device) -> None:
    from augment.catalog import BACKENDS, check_supported, resolve

    ops = resolve(config.effective_recipe, config.image_size)
    check_supported(ops, config.effective_backend, device=device if config.augment_on == "device" else "cpu")
    backend = BACKENDS[config.backend]
    if config.augment_on == "device" and device.type != "cpu" and not backend.on_device:
        raise ValueError(
            f"backend {backend.name} works image by image on the CPU: take --augment-on workers, or another backend"
        )
    if config.resident and (config.augment_on == "workers" or config.num_workers > 0 or config.decode == "workers"):
        raise ValueError("resident images need no loader: take --augment-on device or none, --num-workers 0 and --decode ahead")
    if config.augment_on == "frozen" and (config.resident or config.num_workers > 0 or config.decode == "workers"):
        raise ValueError(
            "a frozen batch needs neither data set nor loader: take --no-resident, --num-workers 0, --decode ahead"
        )
    if config.augment_stream and config.augment_on != "device":
        raise ValueError(f"augment_stream needs --augment-on device, not {config.augment_on}")
    if config.augment_on == "workers" and backend.compiled:
        raise ValueError(f"backend {backend.name} is compiled for whole batches: take --augment-on device, or another backend")
