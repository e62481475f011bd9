"""Networks to fine-tune: by name, with weights from elsewhere, and a new last layer for the data's classes."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from training import checkpoint, models
from training.config import MODELS

IMAGENET, SCRATCH = "imagenet", "scratch"
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier and the name of its last layer, ``head``: a Linear or, in SqueezeNet, a convolution."""

    module: nn.Module
    head_name: str

    @property
    def head(self) -> nn.Module:
        return self.module.get_submodule(self.head_name)

    def logits(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, classes]; networks that answer with auxiliary logits too are asked for the main ones."""
        answer = self.module(images)
        return answer if isinstance(answer, Tensor) else answer.logits

    def features(self, images: Tensor) -> Tensor:
        """What the last layer is given: [B, F]. Raises ValueError for a network that does more after it."""
        caught: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            answer = self.logits(images)
        finally:
            hook.remove()
        if caught[-1].ndim != 2 or not torch.allclose(self.head(caught[-1]), answer, rtol=1e-3, atol=1e-4):
            raise ValueError(f"{self.head_name} is not the end of this network, so features cannot be computed once: augment")
        return caught[-1]


def known_models() -> list[str]:
    """torchvision's classifiers by name; this project's own are those of ``training.models``, asked for by a width."""
    return torchvision.models.list_models(module=torchvision.models)


def create(model: str, *, width: int | None, init: str, num_classes: int) -> Network:
    """A network whose weights are ``imagenet`` (torchvision's, downloaded), ``scratch`` or a state dict's in a file.

    ``width`` None takes torchvision's network of that name, a number this project's own for small images with so many
    channels in its first stage. Random weights, those of the new last layer (Xavier-uniform, bias 0) too, come from torch's
    global generator.

    Raises ValueError, in one line, for an unknown model, weights that cannot be had, and a layer that does not fit;
    OSError for a file that cannot be read.
    """
    network = _untrained(model, width, num_classes, pretrained=init == IMAGENET)
    if init not in (IMAGENET, SCRATCH):
        load_weights(network, Path(init).expanduser())
    return network


def _untrained(model: str, width: int | None, num_classes: int, *, pretrained: bool) -> Network:
    if width is None:
        module = _torchvision(model, pretrained=pretrained)
        outputs = IMAGENET_CLASSES
    elif pretrained:
        raise ValueError(
            "this project's own networks have no ImageNet weights: take --init PATH or scratch, or leave width out"
        )
    else:
        module, outputs = models.create(model, num_classes, width), num_classes
    name = _last_layer(module, outputs, model)
    _replace(module, name, num_classes)
    return Network(module=module, head_name=name)


def _torchvision(model: str, *, pretrained: bool) -> nn.Module:
    if model in MODELS and model not in known_models():
        raise ValueError(f"{model} is this project's own network: give its --width, the channels of its first stage")
    if model not in known_models():
        raise ValueError(
            f"unknown model {model!r}: any of torchvision's classifiers, such as resnet18, or with --width our own"
        )
    extra = {"init_weights": True} if model in ("googlenet", "inception_v3") and not pretrained else {}
    try:
        module: nn.Module = torchvision.models.get_model(model, weights="DEFAULT" if pretrained else None, **extra)
    except (OSError, RuntimeError) as error:  # no network, or a download that is damaged
        raise ValueError(
            f"no ImageNet weights of {model} ({' '.join(str(error).split())}): take --init PATH, a local state dict, or scratch"
        ) from None
    return module


def _last_layer(module: nn.Module, outputs: int, model: str) -> str:
    """The name of the last layer that gives a number for each class: fc, head, heads.head, classifier.6, ..."""
    layers = [name for name, layer in module.named_modules() if _outputs(layer) == outputs]
    if not layers:
        raise ValueError(f"{model} has no last layer of {outputs} outputs to replace: take another model")
    return layers[-1]


def _outputs(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) else None


def _replace(module: nn.Module, name: str, num_classes: int) -> None:
    old = module.get_submodule(name)
    with_bias = getattr(old, "bias", None) is not None
    new: nn.Conv2d | nn.Linear
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, num_classes, 1, bias=with_bias)
    else:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, num_classes, bias=with_bias)
    nn.init.xavier_uniform_(new.weight)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    module.set_submodule(name, new)


# ---- weights from a file ----------------------------------------------------------------------------------------------


def load_weights(network: Network, path: Path) -> None:
    """Copy a state dict, or the model's in a checkpoint of ``training.train``, into a network, all but the last layer.

    The file is read by ``weights_only``: nothing in it is executed. Raises OSError for a file that cannot be read, ValueError
    with one line that names the first layer that differs, for what is damaged or holds no weights too.
    """
    found = _read(path)
    head = f"{network.head_name}."
    own = {name: value for name, value in network.module.state_dict().items() if not name.startswith(head)}
    theirs = {name: value for name, value in found.items() if not name.startswith(head)}
    for name, value in own.items():
        if name not in theirs:
            raise ValueError(f"{path} has no layer {name}, which the model has: is it another model, or another --width?")
        if theirs[name].shape != value.shape:
            raise ValueError(
                f"{path}: layer {name} is {list(theirs[name].shape)}, the model's is {list(value.shape)}: "
                "is it another model, or another --width?"
            )
    for name in theirs:
        if name not in own and not name.startswith(("aux1.", "aux2.", "AuxLogits.")):
            raise ValueError(f"{path} has a layer {name}, which the model has not: is it another model?")
    network.module.load_state_dict(network.module.state_dict() | {name: theirs[name] for name in own})


def _read(path: Path) -> dict[str, Tensor]:
    payload = checkpoint.load(path) if zipfile.is_zipfile(path) else _read_old(path)
    weights = payload["model"] if isinstance(payload, Mapping) and isinstance(payload.get("model"), Mapping) else payload
    is_state_dict = isinstance(weights, Mapping) and all(isinstance(value, Tensor) for value in weights.values())
    if not is_state_dict or not weights:
        raise ValueError(f"{path} holds no state dict: names of layers and their tensors are expected")
    return {str(name).removeprefix("module."): value for name, value in weights.items()}  # as DataParallel names them


def _read_old(path: Path) -> Any:
    """A file from before torch 1.6, as some published weights still are."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever a file that is none makes the reader raise
        raise ValueError(f"{path} is no file of weights, or a damaged one: a state dict by torch.save is expected") from None
