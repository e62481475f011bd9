"""A small convolutional net for images of about 32 pixels that is made to train in few steps.

In the manner of Keller Jordan's cifar10-airbench (its airbench94 net, and before it the nets of Page and of tysam-code): a
first layer that whitens 2x2 patches and is not trained, six 3x3 convolutions that start near the identity, max pooling early,
GELU, batch norms without scale, and logits scaled down. Left out: its evaluation on shifted and mirrored copies, averaged
weights and alternating flips, so that what is measured is the recipe in question.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.head import Head

PATCH = 2
LOGIT_SCALE = 1 / 9
EPSILON = 5e-4
"""Added to the patches' variances, so that directions in which images hardly vary are not blown up."""


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
            # The first channels pass on what comes in; the others start at random, as torch draws them.
            nn.init.dirac_(conv.weight.data[: conv.in_channels])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x_BCHW), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    """[B, 3, H, W] normalised float -> [B, num_classes] logits, for H and W from 9.

    ``width`` channels in the first group, four times as many in the other two. Before training it must have seen images
    (``whiten``); until then its first layer holds torch's random weights. With width 64 and 10 classes 1,971,352 parameters are
    trained, and the 288 of the first layer are not.
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
        features: Tensor = self.groups(F.gelu(self.first(x_BCHW))).amax(dim=(2, 3))
        logits: Tensor = self.head(features) * LOGIT_SCALE
        return logits

    @torch.no_grad()
    def whiten(self, images_BCHW: Tensor) -> None:
        """Set the first layer from normalised images: the principal directions of their 2x2 patches, each divided by its
        standard deviation, and their negatives. Then each output varies by one, and no two (bar a pair) go together."""
        patches = images_BCHW.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # [B, 3, H-1, W-1, 2, 2]
        flat = patches.movedim(1, 3).reshape(-1, 3 * PATCH * PATCH).double()
        variances, directions = torch.linalg.eigh(flat.T.cov())
        filters = (directions / (variances + EPSILON).sqrt()).T.reshape(-1, 3, PATCH, PATCH)
        self.first.weight.copy_(torch.cat([filters, -filters]))
