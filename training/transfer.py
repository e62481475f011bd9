"""Networks to fine-tune: by name, with pretrained weights, and a new last layer for the data's classes."""

import zipfile
from collections.abc import Iterator, Mapping
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
PAYLOAD_KEYS = ("state_dict", "model_state_dict", "model")
"""Names under which trainers keep a model's weights in their checkpoints, before any other."""
COMMON_SIZES = (224, 299, 384, 518, 128, 64, 32)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier and the name of its last layer, ``head``: a Linear or, in SqueezeNet, a convolution."""

    module: nn.Module
    head_name: str

    @property
    def head(self) -> nn.Module:
        return self.module.get_submodule(self.head_name)

    def logits(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, classes]; auxiliary logits, which some networks return too, are left out."""
        output = self.module(images)
        return output if isinstance(output, Tensor) else output.logits

    def features(self, images: Tensor) -> Tensor:
        """Return the inputs of the last layer, [B, F]. Raises ValueError for a network that does more after it."""
        features: list[Tensor] = []
        with self.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])):
            logits = self.logits(images)
        if features[-1].ndim != 2 or not torch.allclose(self.head(features[-1]), logits, rtol=1e-3, atol=1e-4):
            raise ValueError(f"{self.head_name} is not the end of this network, so features cannot be computed once: augment")
        return features[-1]


def known_models() -> list[str]:
    """Return the names of torchvision's classifiers; this project's own are those of ``training.models``, with a width."""
    return torchvision.models.list_models(module=torchvision.models)


def create(model: str, *, width: int | None, init: str, num_classes: int) -> Network:
    """Return a network with a new last layer (Xavier-uniform, bias 0); random weights come from torch's global generator.

    Args:
        model: Name of the network.
        width: Channels of the first stage of this project's own network of that name; None: torchvision's network.
        init: ``imagenet`` (torchvision's weights, downloaded), ``scratch``, or the file of a state dict.
        num_classes: Outputs of the last layer.

    Raises:
        ValueError: in one line, for an unknown model, unavailable weights, and a layer that does not fit.
        OSError: for a file that cannot be read.
    """
    network = _build(model, width, num_classes, pretrained=init == IMAGENET)
    if init not in (IMAGENET, SCRATCH):
        load_weights(network, Path(init).expanduser())
    return network


def check_size(model: str, width: int | None, image_size: int) -> None:
    """Raise ValueError if a network cannot be trained on images of that size; nothing is computed, downloaded or drawn."""
    with torch.device("meta"):
        module = create(model, width=width, init=SCRATCH, num_classes=2).module.train()

    def refusal(size: int) -> str | None:
        try:
            module(torch.zeros(2, 3, size, size, device="meta"))
        except (RuntimeError, ValueError, AssertionError) as error:  # whatever a layer says of its input
            return " ".join(str(error).split())
        return None

    if reason := refusal(image_size):
        size = next((size for size in COMMON_SIZES if refusal(size) is None), None)
        hint = "another model" if size is None else f"--image-size {size}"
        raise ValueError(f"{model} cannot be trained on images of {image_size} pixels ({reason}): take {hint}")


def _build(model: str, width: int | None, num_classes: int, *, pretrained: bool) -> Network:
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
    """Return the name of the last layer with an output for each class: fc, head, heads.head, classifier.6, ..."""
    kinds = {nn.Linear: "out_features", nn.Conv2d: "out_channels"}
    layers = [
        name
        for name, layer in module.named_modules()
        if any(isinstance(layer, kind) and getattr(layer, size) == outputs for kind, size in kinds.items())
    ]
    if not layers:
        raise ValueError(f"{model} has no last layer of {outputs} outputs to replace: take another model")
    return layers[-1]


def _replace(module: nn.Module, name: str, num_classes: int) -> None:
    old: Any = module.get_submodule(name)
    is_linear, bias = isinstance(old, nn.Linear), old.bias is not None
    new: Any = (
        nn.Linear(old.in_features, num_classes, bias) if is_linear else nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
    )
    nn.init.xavier_uniform_(new.weight)
    if bias:
        nn.init.zeros_(new.bias)
    module.set_submodule(name, new)


# ---- weights from a file ----------------------------------------------------------------------------------------------


def load_weights(network: Network, path: Path) -> None:
    """Copy a state dict, or the model's in a checkpoint of a training run, into a network, all but the last layer.

    The file is read by ``weights_only``: nothing in it is executed. Raises OSError for a file that cannot be read, and
    ValueError in one line for one that is damaged or holds no weights, or with the name of the first layer that differs.
    """
    head = f"{network.head_name}."
    own = {name: value for name, value in network.module.state_dict().items() if not name.startswith(head)}
    stored = {name: value for name, value in _read(path, own).items() if not name.startswith(head)}
    for name, value in own.items():
        if name.endswith(".num_batches_tracked"):  # which some trainers leave out, and nothing here depends on
            stored.setdefault(name, value)
        if name not in stored:
            raise ValueError(f"{path} has no layer {name}, which the model has: is it another model, or another --width?")
        if stored[name].shape != value.shape:
            sizes = f"layer {name} is {list(stored[name].shape)}, the model's is {list(value.shape)}"
            raise ValueError(f"{path}: {sizes}: is it another model, or another --width?")
    for name in stored:
        if name not in own and not name.startswith(("aux1.", "aux2.", "AuxLogits.")):
            raise ValueError(f"{path} has a layer {name}, which the model has not: is it another model?")
    network.module.load_state_dict(network.module.state_dict() | {name: stored[name] for name in own})


def _read(path: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's weights under the names of ``own``: taken from a trainer's payload, without its wrappers' prefixes."""
    payload = checkpoint.load(path) if zipfile.is_zipfile(path) else _read_old(path)
    weights = next(_state_dicts(payload), None)
    if weights is None:
        keys = f", but {', '.join(map(str, list(payload)[:5]))}" if isinstance(payload, Mapping) and payload else ""
        raise ValueError(f"{path} holds no state dict{keys}: names of layers and their tensors are expected")
    first = next(iter(own))  # "conv1.weight" is also the end of inner layers, whose prefixes are longer
    prefixes = [name.removesuffix(first) for name in weights if f".{name}".endswith(f".{first}")]
    prefix = min(prefixes, key=len, default="")
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _state_dicts(payload: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the mappings of names to tensors in a payload, the weights before optimizers and averages."""
    if isinstance(payload, Mapping) and payload:
        if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in payload.items()):
            yield dict(payload)
        for key in sorted(payload, key=lambda key: key not in PAYLOAD_KEYS):
            yield from _state_dicts(payload[key])


def _read_old(path: Path) -> Any:
    """Read a file from before torch 1.6, as some published weights still are."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever a damaged or foreign file makes the reader raise
        raise ValueError(f"{path} is no file of weights, or a damaged one: a state dict by torch.save is expected") from None
