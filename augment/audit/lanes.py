"""Lanes: which images of a batch share a draw, measured on identical images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import catalog
from augment.audit.columns import MIXES, POLICIES, Columns
from augment.audit.definitions import CIFAR10_POLICY
from augment.audit.parity import NUM_CLASSES, labels_for
from augment.audit.replay import trace
from augment.audit.verdicts import Lane
from augment.compose import to_float
from augment.ops import Op

CHOOSING = POLICIES | {"AugMix"}
"""Policies: their lane is that of the choice of ops."""
LANE_BATCH = 64
LANE_BATCH_LARGE = 16
"""For images beyond 64 pixels: 16 flips that all agree have a chance of 3e-5, and 60 batches of them none."""
LANE_BATCHES = 60
"""At p = 0.2, 60 draws that all agree have a chance of 2e-6."""


def count_distinct(results: Tensor) -> int:
    """How many different rows there are, differences up to 1e-4 of the scale being rounding."""
    flat = results.flatten(1).float()
    apart = torch.cdist(flat, flat, p=math.inf) > 1e-4
    seen_before = torch.tril(~apart, diagonal=-1).any(dim=1)
    return int((~seen_before).sum())


def _fingerprint(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def _parameter_lanes(op: Op, batches: Sequence[Columns]) -> dict[str, str]:
    """For each drawn parameter: does it vary inside a batch, only between batches, or not at all?"""
    lanes: dict[str, str] = {}
    for name in sorted(set().union(*batches) - {"partner"}):  # a batch that the op was not applied to has drawn nothing
        lanes[name] = _lane_of([{_fingerprint(value) for value in columns[name]} for columns in batches if name in columns])
    if op.name in CHOOSING:
        lanes["magnitudes"] = lanes.pop("chains" if "chains" in lanes else "ops")
        together = all(_chosen_together(op, columns) for columns in batches)
        lanes["choice of ops"] = "per_batch" if together else _lane_of([_choices(columns) for columns in batches])
    return lanes


def _lane_of(seen: Sequence[set[Any]]) -> str:
    if any(len(values) > 1 for values in seen):
        return "per_image"
    return "per_batch" if len(set.union(*seen)) > 1 else "fixed"


def _choices(columns: Columns) -> set[Any]:
    """The ops, without magnitudes, that the images of a batch got."""
    if "chains" in columns:
        return {tuple(tuple(name for name, _ in chain) for chain in chains) for chains in columns["chains"]}
    return {tuple(name for name, _ in ops) for ops in columns["ops"]}


def _chosen_together(op: Op, columns: Columns) -> bool:
    """Whether all images of a batch got their ops from one choice (the sub-policy, of AutoAugment)."""
    drawn = _choices(columns)
    if op.name != "AutoAugment":
        return len(drawn) == 1
    outcomes = [{(), (a,), (b,), (a, b)} for (a, _, _), (b, _, _) in CIFAR10_POLICY]
    return any(drawn <= possible for possible in outcomes)


def measure_lane(op: Op, backend: str, image: Tensor, *, device: torch.device) -> Lane:
    """Batches of identical images through one op. ``image``: uint8 [3, H, W]; of large ones the batches are fewer.

    A policy's lane is that of its choice of ops; ops that mix images are judged by what they drew.
    """
    traced = trace([op], backend, device=device, num_classes=NUM_CLASSES)
    images = _identical(image, device)
    distinct: list[int] = []
    firsts: list[Tensor] = []
    batches: list[Columns] = []
    for index in range(LANE_BATCHES):
        call = traced(to_float(images), labels_for(traced, len(images), device))
        if call.columns[0] is not None:
            batches.append(call.columns[0])
        results = call.outputs if op.name not in MIXES or not batches else _mix_draws(batches[-1])
        distinct.append(count_distinct(results))
        firsts.append(results[0].flatten().cpu().clone())
        settled = max(distinct) > 1 or count_distinct(torch.stack(firsts)) > 1 or traced.pipeline.draws == "fixed"
        if settled and (index >= 5 or image.shape[-1] > 64):
            break
    measured = "per_image" if max(distinct) > 1 else "per_batch" if count_distinct(torch.stack(firsts)) > 1 else "fixed"
    if op.name in CHOOSING and batches and measured == "per_image" and all(_chosen_together(op, b) for b in batches):
        measured = "per_batch"
    return Lane(
        declared=traced.pipeline.draws, measured=measured, batch=len(images), distinct=float(np.mean(distinct)),
        parameters=_parameter_lanes(op, batches) if batches else {},
    )  # fmt: skip


def _identical(image: Tensor, device: torch.device) -> Tensor:
    count = LANE_BATCH if image.shape[-1] <= 64 else LANE_BATCH_LARGE
    return image.to(device).expand(count, *image.shape).contiguous()


def _mix_draws(columns: Mapping[str, np.ndarray]) -> Tensor:
    values = columns["lam"] if "lam" in columns else columns["box"]
    return torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)


def recipe_lane(ops: Sequence[Op], backend: str, measured: Mapping[str, str], image: Tensor, device: torch.device) -> Lane:
    """A recipe's lane from the measured ones of its ops, and how many results identical images get."""
    lanes = {lane for lane in measured.values() if lane != "fixed"}
    name = "fixed" if not lanes else lanes.pop() if len(lanes) == 1 else "mixed"
    traced = trace(ops, backend, device=device, num_classes=NUM_CLASSES)
    images = _identical(image, device)
    call = traced(images, labels_for(traced, len(images), device))
    return Lane(
        declared=catalog.lane(ops, backend), measured=name, batch=len(images),
        distinct=float(count_distinct(call.outputs)), parameters=dict(measured),
    )  # fmt: skip
