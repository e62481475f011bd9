"""Laws from outputs, for draws that cannot be read: a two-sample test against torchvision's outputs on one image."""

import math

import torch
from torch import Tensor

from augment.audit.record import DrawTest
from augment.audit.statistics import Reference
from augment.pipeline import Pipeline, to_float

BATCH = 100
PROJECTIONS = 6
BLUR = 10 / 255
"""Standard deviation of normal numbers added to every statistic of both sides, beside which rounding to bytes vanishes."""


def compare_outputs(pipeline: Pipeline, reference: Pipeline, image: Tensor, n: int, *, batch: int = BATCH) -> list[DrawTest]:
    """Test statistics of ``n`` outputs for one image against those of a pipeline that draws for each image.

    Args:
        pipeline: the one to test.
        reference: torchvision's, on the CPU.
        image: uint8 [3, H, W], on the device of ``pipeline``.
        n: draws of each side.
        batch: images a call; 1 where the images of a call share a draw.
    """
    values = _sample(pipeline, image, n, batch)
    expected = _sample(reference, image.cpu(), n, BATCH)
    names = ["output mean", *(f"output projection {i + 1}" for i in range(PROJECTIONS))]
    columns = zip(names, values.T.numpy(), expected.T.numpy(), strict=True)
    return [Reference(sample).test(column, name) for name, column, sample in columns]


def _sample(pipeline: Pipeline, image: Tensor, n: int, batch: int) -> Tensor:
    """Return the statistics of at least ``n`` outputs, float64 [n, statistics]."""
    images = to_float(image.expand(batch, *image.shape)).contiguous()
    return torch.cat([_statistics(pipeline(images.clone()).cpu()) for _ in range(math.ceil(n / batch))])


def _statistics(outputs: Tensor) -> Tensor:
    """Return the mean and projections on fixed random directions of outputs [B, 3, H, W], blurred."""
    flat = outputs.flatten(1).double()
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(PROJECTIONS, flat.shape[1], generator=generator, dtype=torch.float64)
    values = torch.cat([flat.mean(1, keepdim=True), flat @ torch.nn.functional.normalize(directions).T], dim=1)
    return values + BLUR * torch.randn_like(values)
