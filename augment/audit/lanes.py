"""Lanes: which images of a batch share a draw, measured on identical images."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment.audit.parity import labels_for
from augment.audit.policies import CIFAR10_POLICY
from augment.audit.record import Lane
from augment.distributions import Pair
from augment.op import Op
from augment.pipeline import to_float
from augment.replay import Columns, Traced

SMALL = 64
"""Largest side of images of which 64 make a batch. Of larger ones it is 16: flips that all agree have a chance of 3e-5."""
BATCHES = 60
"""Batches compared: at p = 0.2, 60 draws that all agree have a chance of 2e-6."""


def count_distinct(results: Tensor) -> int:
    """Return how many different rows there are, differences up to 1e-4 of the scale being rounding."""
    flat = results.flatten(1).float()
    apart = torch.cdist(flat, flat, p=math.inf) > 1e-4
    repeats = torch.tril(~apart, diagonal=-1).any(dim=1)
    return int((~repeats).sum())


def measure_lane(traced: Traced, image: Tensor, device: torch.device) -> Lane:
    """Put batches of identical images through one op. ``image``: uint8 [3, H, W]; of large ones the batches are fewer.

    A policy's lane is that of its choice of ops; ops that mix images are judged by what they drew.
    """
    op, declared = traced.pipeline.ops[0], traced.pipeline.lane
    images = identical_images(image, device)
    distinct: list[int] = []
    firsts: list[Tensor] = []
    batches: list[Columns] = []
    for index in range(BATCHES):
        trace = traced(to_float(images), labels_for(traced, len(images), device))
        if trace.columns[0] is not None:
            batches.append(trace.columns[0])
        results = _numbers(batches[-1]) if op.mixes_labels and batches else trace.outputs
        distinct.append(count_distinct(results))
        firsts.append(results[0].flatten().cpu().clone())
        is_decided = max(distinct) > 1 or count_distinct(torch.stack(firsts)) > 1 or declared == "fixed"
        if is_decided and (index >= 5 or image.shape[-1] > SMALL):
            break
    lane = "per_image" if max(distinct) > 1 else "per_batch" if count_distinct(torch.stack(firsts)) > 1 else "fixed"
    parameters = _parameter_lanes(op, batches)
    if lane == "per_image" and parameters.get("choice of ops") == "per_batch":
        lane = "per_batch"
    return Lane(declared=declared, measured=lane, batch=len(images), distinct=float(np.mean(distinct)), parameters=parameters)


def identical_images(image: Tensor, device: torch.device) -> Tensor:
    """Return a batch of one image."""
    return image.to(device).expand(64 if image.shape[-1] <= SMALL else 16, *image.shape).contiguous()


def _numbers(columns: Columns) -> Tensor:
    """Return what mixing ops drew for each image, float32 [B, parameters]."""
    drawn = [values for name, values in columns.items() if name not in ("applied", "partner")]
    return torch.from_numpy(np.stack(drawn, axis=1).astype(np.float32))


def _parameter_lanes(op: Op, batches: Sequence[Columns]) -> dict[str, str]:
    """Return for each drawn parameter whether it varies inside a batch, only between batches, or not at all."""
    names = sorted(set().union(*batches) - {"partner"})  # a batch that the op was not applied to has drawn nothing
    lanes = {name: _lane_of([{_key(value) for value in b[name]} for b in batches if name in b]) for name in names}
    for column in lanes.keys() & {"ops", "chains"}:
        lanes["magnitudes"] = lanes.pop(column)
        choices = [{_choice(value) for value in columns[column]} for columns in batches]
        is_shared = all(_come_from_one_choice(op, drawn) for drawn in choices)
        lanes["choice of ops"] = "per_batch" if is_shared else _lane_of(choices)
    return lanes


def _key(value: Any) -> Hashable:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def _lane_of(batches: Sequence[set[Any]]) -> str:
    if any(len(values) > 1 for values in batches):
        return "per_image"
    return "per_batch" if len(set.union(*batches)) > 1 else "fixed"


def _choice(drawn: Any) -> Hashable:
    """Return the names, without magnitudes, of a list of ops or of a list of such lists."""
    return drawn[0] if isinstance(drawn, tuple) else tuple(_choice(entry) for entry in drawn)


def _come_from_one_choice(op: Op, choices: set[Any]) -> bool:
    """Return whether all images of a batch can have got their ops from one choice (AutoAugment's: of a sub-policy)."""
    if not any(isinstance(distribution, Pair) for distribution in op.draws):
        return len(choices) == 1
    outcomes = [{(), (a,), (b,), (a, b)} for (a, _, _), (b, _, _) in CIFAR10_POLICY]
    return any(choices <= possible for possible in outcomes)


def recipe_lane(traced: Traced, measured: Mapping[str, str], image: Tensor, device: torch.device) -> Lane:
    """Return a recipe's lane from the measured ones of its ops by name, and how many results identical images get."""
    lanes = set(measured.values()) - {"fixed"}
    lane = "fixed" if not lanes else lanes.pop() if len(lanes) == 1 else "mixed"
    images = identical_images(image, device)
    outputs = traced(images, labels_for(traced, len(images), device)).outputs
    return Lane(
        declared=traced.pipeline.lane, measured=lane, batch=len(images), distinct=float(count_distinct(outputs)),
        parameters=dict(measured),
    )  # fmt: skip
