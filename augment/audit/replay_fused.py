"""The fused backend's route: it draws first and applies afterwards, so what it drew is at hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import catalog, fused
from augment.audit.columns import Columns
from augment.audit.traced import Traced
from augment.compose import Pipeline
from augment.geometry import output_size
from augment.ops import Op
from augment.policies import SPACES, UNSIGNED
from augment.sampling import Params

FILLED = frozenset({"AutoAugment", "AugMix"})
"""Policies whose definition has no Identity: there it marks a place where nothing happens."""


def _numbers(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _chains(name: str, params: Params, shape: tuple[int, int]) -> np.ndarray:
    """[...] arrays of ops, bins and signs -> lists of (op, magnitude) in an object array without the last dimension."""
    space = SPACES[name]
    tables = {op: scale(space.bins, *shape).tolist() for op, scale in space.magnitudes.items()}
    chosen, bins, negative = (params[key].cpu().numpy() for key in ("op", "bin", "negative"))
    chains = np.empty(chosen.shape[:-1], dtype=object)
    for index in np.ndindex(*chains.shape):
        chain = []
        for which, level, sign in zip(chosen[index], bins[index], negative[index], strict=True):
            op = space.names[which]
            if op != "Identity" or name not in FILLED:
                chain.append((op, (-1.0 if sign and op not in UNSIGNED else 1.0) * tables[op][level] + 0.0))
        chains[index] = chain
    return chains


def _policy(op: Op, params: Params, shape: tuple[int, int]) -> Columns:
    chains = _chains(op.name, params, shape)
    if op.name != "AugMix":
        return {"ops": chains}
    grouped = np.empty(len(chains), dtype=object)
    grouped[:] = [list(row) for row in chains]
    return {"chains": grouped, "weights": _numbers(params["weights"])}


RENAMED = {"translate_x": "dx", "translate_y": "dy"}


def read(op: Op, params: Params, count: int, shape: tuple[int, int]) -> Columns:
    """One op's parameters as columns."""
    columns: Columns = {"applied": np.ones(count, dtype=bool)}
    if op.name in SPACES:
        return columns | _policy(op, params, shape)
    columns |= {RENAMED.get(name, name): _numbers(values) for name, values in params.items()}
    columns["applied"] = columns["applied"].astype(bool)
    if op.name == "RandomErasing":
        columns["applied"] = columns["height"] > 0
    if op.name == "ColorJitter":
        factors = columns.pop("factors")
        columns |= {name: factors[:, i] for i, name in enumerate(("brightness", "contrast", "saturation", "hue"))}
    if op.name in {"MixUp", "CutMix"}:
        columns["partner"] = np.roll(np.arange(count), 1)
    if op.name == "CutMix":
        left, top, width, height = (columns.pop(name) for name in ("left", "top", "width", "height"))
        columns["box"] = np.stack([left, top, left + width, top + height], axis=1)
    return columns


class FusedRecorder:
    """What one op of a plan drew in the last call."""

    def __init__(self, op: Op) -> None:
        self._op = op
        self._drawn: tuple[Params, tuple[int, int]] | None = None

    def clear(self) -> None:
        self._drawn = None

    def keep(self, params: Params, shape: tuple[int, int]) -> None:
        """Called by the pipeline, with the size of the images that reach this op."""
        self._drawn = params, shape

    def columns(self, count: int) -> Columns:
        assert self._drawn is not None
        return read(self._op, self._drawn[0], count, self._drawn[1])

    def sample(self, count: int, shape: tuple[int, int], *, shared: bool) -> Columns:
        images = -(-count // (3 * shape[0] * shape[1])) if self._op.name == "GaussianNoise" else count
        columns = read(self._op, fused.plan([self._op]).sample(images, *shape)[0], images, shape)
        if "noise" in columns:
            columns = {"applied": np.ones(count, dtype=bool), "noise": columns["noise"].reshape(-1)[:count]}
        return columns


def trace_fused(ops: Sequence[Op], backend: str, *, device: torch.device, num_classes: int) -> Traced:
    """A fused plan, watched."""
    catalog.check_supported(ops, backend)
    plan = fused.plan(ops)
    is_compiled = catalog.find_backend(backend).compiled
    apply = plan.apply if is_compiled else fused.for_device(plan, device, torch.float32)
    recorders = [FusedRecorder(op) for op in ops]

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        height, width = images.shape[2:]
        params = plan.sample(len(images), height, width, None, images.device)
        for op, recorder, drawn in zip(ops, recorders, params, strict=True):
            recorder.keep(drawn, (height, width))
            height, width = output_size(op, height, width)
        targets = None if labels is None else plan.targets(labels, params, num_classes)
        return apply(images, params), targets

    options: dict[str, Any] = {"draws": catalog.lane(ops, backend), "mixes": plan.mixes, "dtype": torch.float32}
    return Traced(Pipeline(ops=ops, backend=backend, run=run, **options), recorders, ())
