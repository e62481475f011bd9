"""Networks for small images by name: residual ones with 3x3 stem, no max pooling and Xavier initialisation as in the book, and
``speednet``."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from augment.catalog import build
from training.head import Head
from training.speednet import SpeedNet

BLOCKS: dict[str, tuple[int, ...]] = {"resnet18": (2, 2, 2, 2), "resnet8": (1, 1, 1)}
"""Blocks in each stage. Every stage after the first halves the image and doubles the channels."""
SEEN_IMAGES = 1_000  # a million patches, for the covariance of 12 numbers


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x_BCHW)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """[B, 3, H, W] normalised float -> [B, num_classes] logits, for any H and W."""

    def __init__(self, blocks: Sequence[int], num_classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages: list[nn.Module] = []
        channels_in = width
        for stage, depth in enumerate(blocks):
            channels = width * 2**stage
            for i in range(depth):
                stages.append(Block(channels_in, channels, stride=2 if stage > 0 and i == 0 else 1))
                channels_in = channels
        self.stages = nn.Sequential(*stages)
        self.head = Head(channels_in, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features: Tensor = self.stages(self.stem(x_BCHW)).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
        return logits


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)


_NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    **{name: partial(ResNet, blocks) for name, blocks in BLOCKS.items()},
    "speednet": SpeedNet,
}


def create(name: str, num_classes: int, width: int = 64) -> nn.Module:
    """A network with random weights (Xavier-uniform in residual ones), drawn from torch's global generator.

    ``width`` is the number of channels of the first stage. ``resnet18`` with 64 and 10 classes has 11,173,962 parameters.
    Raises ValueError for an unknown name.
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(_NETWORKS)}")
    model = _NETWORKS[name](num_classes, width)
    return model.apply(_xavier) if isinstance(model, ResNet) else model


def look_at(model: nn.Module, images: Tensor) -> None:
    """Show a new model the training images, uint8 [N, 3, H, W]: SpeedNet whitens 1,000 of them, evenly spaced."""
    if isinstance(model, SpeedNet):
        sample = images[:: max(1, len(images) // SEEN_IMAGES)][:SEEN_IMAGES]
        model.whiten(build("none", "torchvision", image_size=images.shape[-1])(sample))


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
