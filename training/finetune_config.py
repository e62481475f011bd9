"""What a fine-tuning run is: one frozen config, and the one place where it is checked.

torch is imported late, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch

Mode = Literal["full", "frozen", "scratch"]
Placement = Literal["workers", "device", "none"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning run on photographs; the defaults are the book's recipe."""

    data: str
    """A folder with train/<class>/* and val/<class>/* (or test/<class>/*)."""
    data_root: Path = Path("data")
    """Where decoded photographs are cached."""
    mode: Mode = "full"
    """full: all layers learn; frozen: the new last layer alone; scratch: all, from random weights (init is set aside)."""
    model: str = "resnet18"
    """Any of torchvision's classifiers; with a width, this project's own."""
    width: int | None = None
    """Channels of the first stage of this project's own networks; left out: torchvision's."""
    init: str = "imagenet"
    """imagenet (torchvision's weights, downloaded), scratch, or a file: a state dict, or the checkpoint of a training run."""
    recipe: str = "imagenet"
    """The augmentation of the training photographs, by its name in the catalog: imagenet or d2l."""
    backend: str = "fused"
    """The library that augments, by its name in the catalog."""
    augment_on: Placement = "device"
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
    """Step size of all layers but the last, at first; SGD."""
    head_rate: float = 10.0
    """Step size of the last layer as a multiple of learning_rate; with mode=scratch that of all layers, which start like it."""
    momentum: float = 0.9
    """Of SGD."""
    keep_statistics: bool = False
    """With mode=full: batch norm goes on with the statistics that it came with, as few photographs give poor ones."""
    decay_every: int = 7
    """Epochs after which step sizes become a tenth, again and again."""
    seed: int = 0
    """New weights, order and augmentation follow from it."""
    device: str = "auto"
    """auto (the accelerator if there is one), cpu, cuda, cuda:1, mps, ...; one device."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many photographs."""
    max_test: int | None = None
    """Evaluate on a class-balanced subset of at most this many photographs."""

    @property
    def effective_init(self) -> str:
        """Where the weights come from: mode=scratch sets init aside."""
        return "scratch" if self.mode == "scratch" else self.init

    def as_record(self) -> dict[str, Any]:
        """The settings as plain values, without the machine's paths: data and init are cut to their last components.

        torchvision's networks have no ``width``.
        """
        record = {name: value for name, value in dataclasses.asdict(self).items() if name != "width" or value is not None}
        del record["data_root"]
        no_augmentation = {"recipe": "none", "backend": "torchvision", "num_workers": 0} if self.augment_on == "none" else {}
        return record | {"data": Path(self.data).name, "init": Path(self.effective_init).name} | no_augmentation


def validate(config: FinetuneConfig) -> torch.device:
    """Check a config before anything is loaded or built, and say which device it means.

    Raises ValueError with one line that says what to change.
    """
    from training.distributed import resolve_device
    from training.photofeed import training_ops

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("fine-tuning uses one device: start it without torchrun")
    _check_numbers(config)
    for name, known in (("mode", get_args(Mode)), ("augment_on", get_args(Placement))):
        if getattr(config, name) not in known:
            raise ValueError(f"unknown {name} {getattr(config, name)!r}; known: {', '.join(known)}")
    if config.mode != "scratch" and config.init == "scratch":
        raise ValueError(f"mode {config.mode} needs weights to start from: take --init imagenet or a file, or --mode scratch")
    device = resolve_device(config.device)
    if config.augment_on != "none":
        ops = training_ops(config.recipe, config.image_size)
        _check_backend(config, ops, device)
    return device


def _check_numbers(config: FinetuneConfig) -> None:
    for name in ("epochs", "image_size", "decay_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, as batch norm compares images, got {config.batch_size}")
    for name in ("num_workers", "seed"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}")
    for name in ("max_train", "max_test", "width"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, or left out, got {value}")
    for name in ("learning_rate", "head_rate"):
        if not (math.isfinite(getattr(config, name)) and getattr(config, name) > 0):
            raise ValueError(f"{name} must be a positive number, got {getattr(config, name)}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum must be at least 0 and less than 1, got {config.momentum}")


def _check_backend(config: FinetuneConfig, ops: Any, device: torch.device) -> None:
    from augment.catalog import check_supported, find_backend

    backend = find_backend(config.backend)
    if backend.compiled:
        raise ValueError(f"backend {backend.name} is compiled for batches of one size: take one that is not compiled")
    if config.augment_on == "device" and device.type != "cpu" and not backend.on_device:
        raise ValueError(
            f"backend {backend.name} works image by image on the CPU: take --augment-on workers, or another backend"
        )
    check_supported(ops, config.backend, device=device if config.augment_on == "device" else "cpu")
