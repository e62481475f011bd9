"""Settings of a training run and of a fine-tuning run, and the one place where they are checked.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from training.terminal import printable, written_hints

if TYPE_CHECKING:
    import torch

    from augment import Op

Placement = Literal["workers", "device", "none", "frozen"]
PhotoPlacement = Literal["workers", "device", "none"]
Decode = Literal["ahead", "workers"]
Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine", "one_cycle", "trapezoid"]
Precision = Literal["auto", "float32", "bfloat16"]
Graph = Literal["auto", "on", "off"]
Mode = Literal["full", "frozen", "scratch"]

DATA_SETS = ("auto", "cifar10", "synthetic")
"""Names that ``data`` takes before it names a folder; ./synthetic is a folder."""
MODELS = ("resnet18", "resnet8", "speednet")
SPEEDNET_MIN_SIZE = 9
"""SpeedNet's poolings leave nothing of smaller images."""
EVALUATION_RECIPES = {"imagenet": "imagenet_eval", "imagenet_eval": "imagenet_eval"}
"""Evaluation recipe by training recipe; "none" (normalise only) for all others."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run; the defaults are the book's recipe."""

    data: str = "auto"
    """auto (CIFAR-10 if it is under data_root, else synthetic), cifar10, synthetic, or an image folder."""
    data_root: Path = Path("data")
    """Folder of data sets, downloads and the cache."""
    recipe: str = "flip"
    """Augmentation of the training images, by name."""
    backend: str = "torchvision"
    """Library that augments, by name."""
    augment_on: Placement = "device"
    """workers: in loader workers; device: one batched call where the model is; none: normalise only; frozen (measure only):
    every step gets the same batch, prepared once, as with "synthetic data": the ceiling."""
    num_workers: int = 0
    """Loader processes; 0 fetches (and with augment_on=workers augments) in the training process."""
    resident: bool = False
    """Keep all images on the device as uint8 and pick batches there, without a loader; the batches are the same."""
    prefetch: bool = True
    """Copy a batch to the device on a CUDA stream of its own, while the step before runs. No effect elsewhere."""
    augment_stream: bool = False
    """Augment on that CUDA stream too, with augment_on=device. No effect elsewhere."""
    decode: Decode = "ahead"
    """ahead: decode all images once, before training; workers: read and decode each batch from its files where it is fetched,
    as is usual with sets larger than memory."""
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
    """Momentum of sgd."""
    weight_decay: float = 0.0
    """Decay of weights; norms and biases are spared without decay_biases."""
    decay_biases: bool = False
    """Decay norms and biases too, as fast as weights whatever bias_rate is."""
    bias_rate: float = 1.0
    """Step size of batch norms, as a multiple of the step size of all other parameters."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""
    schedule: Schedule = "constant"
    """Step size after warming up: constant, cosine to 0, one_cycle (linear to 0), or trapezoid (constant, then linear to 0
    over the last 30 % of all steps)."""
    warm_up_epochs: float = 0.0
    """Epochs in which the step size rises linearly from first_rate."""
    first_rate: float = 0.0
    """Step size that warming up starts from, as a share of the largest."""
    last_rate: float = 0.0
    """Step size that cosine, one_cycle and trapezoid end at, as a share of the largest."""
    slow_weights_every: int = 0
    """Steps between two averages of the weights with slow ones, from which training goes on (lookahead); 0: none."""
    whiten_bias_epochs: int | None = None
    """Epochs in which speednet's first bias is trained; left out: all."""
    precision: Precision = "float32"
    """bfloat16 runs the model, all but its last layer, under autocast, with weights in float32; auto takes it on accelerators,
    float32 on a CPU."""
    channels_last: bool = False
    """Store images and weights channels last."""
    compile: bool = False
    """Compile the model for training with torch.compile; evaluation stays eager."""
    graph: Graph = "auto"
    """Replay augmentation and training step as CUDA graphs: auto where one GPU trains in one process. (Tested with stand-ins,
    not yet measured on a GPU.)"""
    seed: int = 0
    """Seed of initial weights, order and augmentation. The data has its own: see training.data.load."""
    device: str = "auto"
    """auto (the accelerator if there is one), cpu, cuda (all GPUs), cuda:1, mps, ..."""
    image_size: int = 32
    """Side of the square images that the data set is decoded to."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many images."""
    max_test: int | None = None
    """Evaluate on a class-balanced subset of at most this many images."""
    target_accuracy: float | None = None
    """Test accuracy, a share of one, to which the seconds of training are reported; it changes nothing else."""
    download: bool = False
    """Download CIFAR-10 (170 MB) if it is not under data_root."""

    @property
    def augments(self) -> bool:
        """Return whether the training images undergo the recipe."""
        return self.augment_on in ("workers", "device")

    @property
    def effective_recipe(self) -> str:
        """Recipe that the training images undergo: "none" without augmentation."""
        return self.recipe if self.augments else "none"

    @property
    def effective_backend(self) -> str:
        """Backend that prepares them: without augmentation always plain torchvision, so that all share one ceiling."""
        return self.backend if self.augments else "torchvision"

    @property
    def evaluation_recipe(self) -> str:
        """Recipe that the test images undergo."""
        return EVALUATION_RECIPES.get(self.recipe, "none")

    def as_record(self) -> dict[str, Any]:
        """Return the settings as plain values, without the machine's paths: ``data`` is cut to its last component."""
        record = dataclasses.asdict(self)
        del record["data_root"], record["download"], record["graph"]  # results tell how steps ran
        return record | {
            "data": printable(Path(self.data).name), "recipe": self.effective_recipe, "backend": self.effective_backend,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning run on photographs; the defaults are the book's recipe."""

    data: str
    """A folder with train/<class>/* and val/<class>/* (or test/<class>/*)."""
    data_root: Path = Path("data")
    """Folder of the cache of decoded photographs."""
    mode: Mode = "full"
    """full: train all layers; frozen: the new last layer alone; scratch: all, from random weights (init is ignored)."""
    model: str = "resnet18"
    """Any of torchvision's classifiers; with a width, this project's own."""
    width: int | None = None
    """Channels of the first stage of this project's own networks; left out: torchvision's."""
    init: str = "imagenet"
    """imagenet (torchvision's weights, downloaded), scratch, or a file: a state dict, or the checkpoint of a training run."""
    recipe: str = "imagenet"
    """Augmentation of the training photographs, by name: imagenet or d2l."""
    backend: str = "fused"
    """Library that augments, by name."""
    augment_on: PhotoPlacement = "device"
    """workers: loader workers decode and augment; device: they decode, the device augments; none: photographs as for
    evaluation, decoded once (and with mode=frozen their features are computed once)."""
    num_workers: int = 2
    """Loader processes; 0 decodes in the training process."""
    image_size: int = 224
    """Side of the images that the network sees; for evaluation the centre of photographs that are 8/7 as large."""
    epochs: int = 25
    """Passes over the training photographs."""
    batch_size: int = 32
    """Photographs a step."""
    learning_rate: float = 1e-3
    """Initial step size of all layers but the last; SGD."""
    head_rate: float = 10.0
    """Step size of the last layer as a multiple of learning_rate; with mode=scratch of all layers, which start like it."""
    momentum: float = 0.9
    """Momentum of SGD."""
    keep_statistics: bool = False
    """Keep the batch norms' pretrained statistics, with mode=full: few photographs give poor ones."""
    decay_every: int = 7
    """Epochs after which step sizes become a tenth, again and again."""
    seed: int = 0
    """Seed of new weights, order and augmentation."""
    device: str = "auto"
    """auto (the accelerator if there is one), cpu, cuda, cuda:1, mps, ...; one device."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many photographs."""
    max_test: int | None = None
    """Evaluate on a class-balanced subset of at most this many photographs."""

    @property
    def effective_init(self) -> str:
        """Source of the weights: mode=scratch ignores init."""
        return "scratch" if self.mode == "scratch" else self.init

    def as_record(self) -> dict[str, Any]:
        """Return the settings as plain values, without the machine's paths: data and init are cut to their last components.

        torchvision's networks have no ``width``.
        """
        record = {name: value for name, value in dataclasses.asdict(self).items() if name != "width" or value is not None}
        del record["data_root"]
        no_augmentation = {"recipe": "none", "backend": "torchvision", "num_workers": 0} if self.augment_on == "none" else {}
        names = {"data": printable(Path(self.data).name), "init": printable(Path(self.effective_init).name)}
        return record | names | no_augmentation


# ---- checks -------------------------------------------------------------------------------------------------------------


def validate(config: TrainConfig | FinetuneConfig) -> torch.device:
    """Check a config before anything is loaded or built.

    Returns the (first) device that this process will train on. Raises ValueError with one line that says what to change.
    """
    from augment import BACKENDS, RECIPES
    from training.distributed import resolve_device, visible_devices

    if isinstance(config, FinetuneConfig):
        return _validate_finetune(config)
    _check_numbers(config)
    _check_train_numbers(config)
    _check_names(config, model=MODELS, recipe=RECIPES, backend=BACKENDS)
    device = resolve_device(config.device)
    _check_placement(config, device)
    devices = len(visible_devices(config.device))
    if config.compile and devices > 1:
        raise ValueError(
            "compile does not work with several GPUs in one process: start it with torchrun, or take --device cuda:0"
        )
    if config.graph == "on" and (device.type != "cuda" or devices > 1 or os.environ.get("WORLD_SIZE", "1") != "1"):
        raise ValueError(f"a graph needs one CUDA device and one process, not {devices} of {device.type}: take --graph auto")
    return device


def resolve_auto(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the config with automatic settings resolved for a device, as it is recorded."""
    if config.precision != "auto":
        return config
    return dataclasses.replace(config, precision="float32" if device.type == "cpu" else "bfloat16")


MOST_WORKERS, MOST_SIDE = 1024, 8192
"""Loader workers and pixels beyond which a machine stands still before it fails."""
Rule = tuple[tuple[str, ...], Callable[[Any], bool], str]
"""(fields, condition, the message's second half)"""

_RULES: tuple[Rule, ...] = (
    (("epochs", "batch_size", "decay_every"), lambda v: v >= 1, "must be at least 1"),
    (("image_size",), lambda v: 1 <= v <= MOST_SIDE, f"must be at least 1 and at most {MOST_SIDE:,}"),
    (("num_workers", "seed", "slow_weights_every"), lambda v: v >= 0, "must not be negative"),
    (("num_workers",), lambda v: v <= MOST_WORKERS, f"must be at most {MOST_WORKERS:,}"),
    (("seed",), lambda v: v < 2**63, "must be less than 2**63"),
    (
        ("max_train", "max_test", "width", "whiten_bias_epochs"),
        lambda v: v is None or v >= 1,
        "must be at least 1, or left out",
    ),
    (("learning_rate", "bias_rate", "head_rate"), lambda v: math.isfinite(v) and v > 0, "must be a positive number"),
    (("momentum", "label_smoothing", "first_rate", "last_rate"), lambda v: 0 <= v < 1, "must be at least 0 and less than 1"),
    (("target_accuracy",), lambda v: v is None or 0 < v <= 1, "must be above 0 and at most 1, such as 0.94"),
    (("weight_decay",), lambda v: math.isfinite(v) and v >= 0, "must not be negative"),
)


def _check_numbers(config: TrainConfig | FinetuneConfig) -> None:
    values = vars(config)
    for names, is_valid, message in _RULES:
        for name in names:
            if name in values and not is_valid(values[name]):
                raise ValueError(f"{name} {message}, got {values[name]}")


def _check_train_numbers(config: TrainConfig) -> None:
    if config.model == "speednet" and config.image_size < SPEEDNET_MIN_SIZE:
        raise ValueError(f"model speednet needs an image_size of at least {SPEEDNET_MIN_SIZE}, got {config.image_size}")
    if not 0 <= config.warm_up_epochs <= config.epochs:
        raise ValueError(f"warm_up_epochs must lie between 0 and epochs ({config.epochs}), got {config.warm_up_epochs}")


def _check_names(config: TrainConfig | FinetuneConfig, **valid: Iterable[str]) -> None:
    """Raise ValueError for a value that is not among the ``valid`` ones of its field, or of its Literal type."""
    literals = {name: get_args(hint) for name, hint in written_hints(type(config)).items() if get_origin(hint) is Literal}  # type: ignore[arg-type]
    for name, names in {**valid, **literals}.items():
        value = getattr(config, name)
        if value not in names:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(names)}")


def _check_placement(config: TrainConfig, device: torch.device) -> None:
    from augment import BACKENDS, resolve

    ops = resolve(config.effective_recipe, config.image_size)
    _check_backend(ops, config.effective_backend, config.augment_on, device)
    needs_loader = config.num_workers > 0 or config.decode == "workers"
    if config.resident and (config.augment_on == "workers" or needs_loader):
        raise ValueError("resident images need no loader: take --augment-on device or none, --num-workers 0 and --decode ahead")
    if config.augment_on == "frozen" and (config.resident or needs_loader):
        raise ValueError(
            "a frozen batch needs neither data set nor loader: take --no-resident, --num-workers 0, --decode ahead"
        )
    if config.augment_stream and config.augment_on != "device":
        raise ValueError(f"augment_stream needs --augment-on device, not {config.augment_on}")
    if config.augment_on == "workers" and config.num_workers and not BACKENDS[config.backend].forks:
        raise ValueError(f"threads of {config.backend} do not survive in loader workers: take --augment-on device")
    if config.augment_on == "workers" and BACKENDS[config.backend].compiled:
        raise ValueError(
            f"backend {config.backend} is compiled for whole batches: take --augment-on device, or another backend"
        )


def _check_backend(ops: tuple[Op, ...], backend: str, augment_on: str, device: torch.device) -> None:
    """Check that the backend has the ops, and can run where it is placed."""
    from augment import check_supported, find_backend

    if augment_on == "device" and device.type != "cpu" and not find_backend(backend).on_device:
        raise ValueError(f"backend {backend} works image by image on the CPU: take --augment-on workers, or another backend")
    check_supported(ops, backend, device=device if augment_on == "device" else "cpu")


def _validate_finetune(config: FinetuneConfig) -> torch.device:
    from augment import find_backend
    from training.distributed import resolve_device
    from training.photofeed import training_ops
    from training.transfer import check_size

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("fine-tuning uses one device: start it without torchrun")
    _check_numbers(config)
    if config.batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, as batch norm compares images, got {config.batch_size}")
    _check_names(config)
    check_size(config.model, config.width, config.image_size)
    if config.mode != "scratch" and config.init == "scratch":
        raise ValueError(f"mode {config.mode} needs weights to start from: take --init imagenet or a file, or --mode scratch")
    device = resolve_device(config.device)
    if config.augment_on != "none":
        ops = training_ops(config.recipe, config.image_size)
        if find_backend(config.backend).compiled:
            raise ValueError(f"backend {config.backend} is compiled for batches of one size: take one that is not compiled")
        _check_backend(ops, config.backend, config.augment_on, device)
    return device
