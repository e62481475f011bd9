"""The arithmetic of a training step: what model FLOPs utilisation is a share of.

Counted as in Chowdhery et al. 2022 (PaLM), appendix B: the operations that a forward and a backward pass of the model must do,
without what an implementation does again or on the side. Matrix products and convolutions count, two operations a multiply-add;
norms, activations, the loss, the optimizer and augmentation do not.
"""

import copy
import functools

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training import models

COUNTED_IMAGES = 2
"""Norms over a batch refuse a single value a channel."""


@functools.cache
def flops_per_example(model: str, num_classes: int, width: int, image_size: int) -> int | None:
    """Operations to train a network of ``training.models`` on one image of [3, image_size, image_size], forward and back.

    None where they cannot be counted. It takes a network and two images on the CPU, and no random number of anybody's stream.
    Raises ValueError for an unknown name.
    """
    with torch.random.fork_rng(devices=[]):
        return counted_flops(models.create(model, num_classes, width), image_size)


def counted_flops(model: nn.Module, image_size: int) -> int | None:
    """The same of any module that takes images [B, 3, image_size, image_size]; it stays as it is, buffers and gradients too.

    Where gradients are not asked for (a layer that is not trained, the images) no backward operations are counted for them.
    """
    own = copy.deepcopy(model).cpu().train()
    try:
        with FlopCounterMode(display=False) as counter:
            own(torch.zeros(COUNTED_IMAGES, 3, image_size, image_size)).sum().backward()
    except (
        NotImplementedError,
        RuntimeError,
        ValueError,
    ):  # images of another size, an operation that the counter cannot follow
        return None
    return counter.get_total_flops() // COUNTED_IMAGES or None
