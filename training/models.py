"""Networks for small images by name: residual ones as in the book, and ``speednet``, which trains in few steps.

All end in ``Head``, whose logits are float32 also under autocast.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augment import build

BLOCKS: dict[str, tuple[int, ...]] = {"resnet18": (2, 2, 2, 2), "resnet8": (1, 1, 1)}
"""Blocks in each stage. Every stage after the first halves the image and doubles the channels."""
WHITENING_IMAGES = 1_000  # a million patches, for the covariance of 12 numbers
PATCH = 2
LOGIT_SCALE = 1 / 9
EPSILON = 5e-4
"""Added to the patches' variances, so that directions without variance are not blown up."""


class Head(nn.Linear):
    """Linear layer [B, F] -> [B, num_classes], computed in the dtype of its weights: float32 also under autocast.

    A bfloat16 has 8 significant bits (from 8 to 16 its numbers are 1/16 apart), so that the two largest of a row's logits are
    often the same number. ``argmax`` then takes the lower class, whichever was larger, and accuracy leans towards the first
    classes. Features in bfloat16 do no such harm, as each logit is a sum over many of them. The layer is less than a hundredth
    of the operations, and the loss is computed in float32 anyway.
    """

    def forward(self, features_BF: Tensor) -> Tensor:
        with torch.autocast(features_BF.device.type, enabled=False):
            return super().forward(features_BF.to(self.weight.dtype))


# ---- residual networks --------------------------------------------------------------------------------------------------


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
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x_BCHW)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """[B, 3, H, W] normalised float -> [B, num_classes] logits, for any H and W; a 3x3 stem without max pooling."""

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


def _init_xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)


# ---- speednet -----------------------------------------------------------------------------------------------------------


class _Norm(nn.BatchNorm2d):
    """Batch norm with a bias and without a scale; its running statistics follow quickly, as training is short."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad = False


class _Group(nn.Module):
    """Convolution, pooling to half the side, norm, GELU; convolution, norm, GELU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.norm1 = _Norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _Norm(channels)
        for conv in (self.conv1, self.conv2):
            # The first channels start as the identity; the others at random, as torch draws them.
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x_BCHW), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    """[B, 3, H, W] normalised float -> [B, num_classes] logits, for H and W from 9.

    After Keller Jordan's cifar10-airbench (its airbench94 net, and before it the nets of Page and of tysam-code): a first layer
    that whitens 2x2 patches and is not trained, six 3x3 convolutions that start near the identity, max pooling early, GELU,
    batch norms without scale, and logits scaled down. Left out: evaluation on shifted and mirrored copies, so that the
    measured effect is the recipe's. Its flips and crops are the recipe ``airbench``, its averaged weights a setting.

    ``width`` channels in the first group, four times as many in the other two. ``whiten`` must see images before training;
    until then the first layer holds torch's random weights. With width 64 and 10 classes 1,971,352 parameters are trained,
    and the 288 of the first layer are not.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        directions = 3 * PATCH * PATCH
        self.first = nn.Conv2d(3, 2 * directions, PATCH)
        self.first.weight.requires_grad = False
        nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]  # bias=True, so there is one
        channels = (2 * directions, width, 4 * width, 4 * width)
        self.groups = nn.Sequential(*(_Group(before, after) for before, after in itertools.pairwise(channels)))
        self.head = Head(channels[-1], num_classes, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        maps: Tensor = self.groups(F.gelu(self.first(x_BCHW)))
        # Not amax: its backward compares values, and a compiler that recomputes them in another precision finds no maximum.
        features = F.max_pool2d(maps, maps.shape[2:]).flatten(1)
        logits: Tensor = self.head(features) * LOGIT_SCALE
        return logits

    @torch.no_grad()
    def whiten(self, images_BCHW: Tensor) -> None:
        """Set the first layer from normalised images: the principal directions of their 2x2 patches and their negatives.

        Each direction is divided by its standard deviation, so that outputs have unit variance and are uncorrelated. The
        largest variance comes first: networks narrower than this layer start as the identity of their first channels.
        """
        patches = images_BCHW.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # [B, 3, H-1, W-1, 2, 2]
        flat = patches.movedim(1, 3).reshape(-1, 3 * PATCH * PATCH).double()
        variances, directions = torch.linalg.eigh(flat.T.cov())
        filters = (directions / (variances + EPSILON).sqrt()).T.flip(0).reshape(-1, 3, PATCH, PATCH)
        self.first.weight.copy_(torch.cat([filters, -filters]))


# ---- by name ------------------------------------------------------------------------------------------------------------

_NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    **{name: partial(ResNet, blocks) for name, blocks in BLOCKS.items()},
    "speednet": SpeedNet,
}


ABOUT = {
    "resnet18": "four stages of two blocks and a 3x3 stem, 11 million parameters at width 64",
    "resnet8": "three stages of one block and a 3x3 stem, for CPUs",
    "speednet": "six convolutions behind a whitening layer, trains in seconds on a GPU",
}


def create(name: str, num_classes: int, width: int = 64) -> nn.Module:
    """Return a network with random weights (Xavier-uniform in residual ones), drawn from torch's global generator.

    ``width`` is the number of channels of the first stage. ``resnet18`` with 64 and 10 classes has 11,173,962 parameters.
    Raises ValueError for an unknown name.
    """
    if name not in _NETWORKS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(_NETWORKS)}")
    model = _NETWORKS[name](num_classes, width)
    return model.apply(_init_xavier) if isinstance(model, ResNet) else model


FROM_DATA = ("first.weight",)
"""Parameters that ``init_from_data`` sets and training leaves as they are."""


def init_from_data(model: nn.Module, images: Tensor) -> None:
    """Set what depends on the training images, uint8 [N, 3, H, W]: SpeedNet whitens 1,000 of them, evenly spaced."""
    if isinstance(model, SpeedNet):
        sample = images[:: max(1, len(images) // WHITENING_IMAGES)][:WHITENING_IMAGES]
        model.whiten(build("none", "torchvision", image_size=images.shape[-1])(sample))
