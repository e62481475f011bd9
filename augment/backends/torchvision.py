"""torchvision v2 on tensors: image by image, on the whole batch, and compiled.

Parameters are made in ``make_params``, and policies hand each op to one method; the recorder wraps both.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from augment.backends import StepBackend
from augment.op import Builder, Cell, Op, Read
from augment.pipeline import Runner, Step, run_batched, run_compiled, split_at_mixing
from augment.replay import Columns, NoRoute, Recorder, stack_draws


def torchvision(build: Builder, **reads: Read) -> dict[str, Cell]:
    """Return cells for tensors and PIL images: torchvision's v2 classes take both. ``reads`` are keys of ``make_params``."""
    cell = Cell(build, reads)
    return {"pil": cell, "torchvision": cell}


def run_image_by_image(steps: Sequence[Step]) -> Runner:
    """Return a runner of the ops on one image after the other; ops that mix images run on the batch afterwards."""
    single, mixing = split_at_mixing(steps)
    apply, mix = run_batched(single), run_batched(mixing)

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return mix(torch.stack([apply(image, None)[0] for image in images]), labels)

    return run


# ---- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """Draws of one forward call of a transform; ``made`` is None if the transform was not applied."""

    shape: tuple[int, int]
    made: dict[str, Any] | None = None
    ops: list[tuple[str, float, Any]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


class TorchvisionRecorder:
    """Record of one transform: of ``make_params``, of ``RandomApply``'s own draw, and of the ops of a policy."""

    draws_singly = False

    def __init__(self, op: Op, module: Any) -> None:
        if not isinstance(module, v2.Transform):
            raise NoRoute(f"no way to read what {type(module).__name__} draws for {op.name}")
        self._op, self._module = op, module
        self._calls: list[_Call] = []
        module.register_forward_pre_hook(self._start)
        if isinstance(module, v2.RandomApply):
            self._wrap_random_apply(module)
        else:
            self._wrap_parameters(module)
        if hasattr(module, "_apply_image_or_video_transform"):
            self._wrap_policy(module)

    def _start(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        height, width = v2.functional.get_size(inputs[0])
        self._calls.append(_Call((height, width)))

    def _wrap_parameters(self, module: Any) -> None:
        make = module.make_params

        def record(flat_inputs: list[Any]) -> dict[str, Any]:
            made: dict[str, Any] = make(flat_inputs)
            self._calls[-1].made = made
            return made

        module.make_params = record

    def _wrap_random_apply(self, module: Any) -> None:
        """Put a mark before the transforms of a RandomApply, which hands its draw to nobody."""
        transforms = list(module.transforms)
        for transform in transforms[:1]:
            if isinstance(transform, v2.Transform):
                self._wrap_parameters(transform)

        def mark(*inputs: Any) -> Any:
            self._calls[-1].made = {}
            return inputs if len(inputs) > 1 else inputs[0]

        del module.transforms  # a ModuleList takes no functions
        module.transforms = [mark, *transforms]

    def _wrap_policy(self, module: Any) -> None:
        apply = module._apply_image_or_video_transform

        def record(image: Any, transform_id: str, magnitude: float, *args: Any, **kwargs: Any) -> Any:
            self._calls[-1].ops.append((transform_id, float(magnitude), image))
            result = apply(image, transform_id, magnitude, *args, **kwargs)
            # AugMix's chains are told apart by which object an op is given, so no op may return its input itself.
            return result.view_as(result) if result is image and isinstance(image, Tensor) else result

        module._apply_image_or_video_transform = record
        if isinstance(module, v2.AugMix):
            self._wrap_weights(module)

    def _wrap_weights(self, module: Any) -> None:
        sample = module._sample_dirichlet

        def record(params: Tensor) -> Tensor:
            weights: Tensor = sample(params)
            self._calls[-1].weights.append(weights.clone())
            return weights

        module._sample_dirichlet = record

    def clear(self) -> None:
        self._calls.clear()

    def columns(self, count: int) -> Columns:
        draws = [self._read(call) for call in self._calls]
        # One call for the batch, or one for each image; a batch call of AugMix draws its weights for each image.
        if len(draws) == 1 and count > 1:
            draws = [self._row(draws[0], i) for i in range(count)]
        if len(draws) != count:
            raise NoRoute(f"{self._op.name} was called {len(draws)} times for {count} images")
        columns = stack_draws([self._row(draw, 0) for draw in draws])
        if self._op.mixes_labels:
            columns["partner"] = np.roll(np.arange(count), 1)
        return columns

    def _row(self, draw: dict[str, Any], index: int) -> dict[str, Any]:
        if isinstance(weights := draw.get("weights"), Tensor):
            return draw | {"weights": weights[index].double().cpu().numpy()}
        return draw

    def _read(self, call: _Call) -> dict[str, Any]:
        if isinstance(self._module, v2.AugMix):
            return {"applied": True, **_read_chains(call, self._module.mixture_width)}
        if call.ops or any(distribution.policy for distribution in self._op.draws):
            return {"applied": True, "ops": [(name, magnitude) for name, magnitude, _ in call.ops]}
        if call.made is None:
            return {"applied": False}
        cell: Cell = self._op.cells["torchvision"]
        drawn = cell.read(self._op.drawn_names, {**call.made, "shape": call.shape})
        return {"applied": True, **{name: np.asarray(value, dtype=float) for name, value in drawn.items()}}

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        inputs: tuple[Tensor, ...] = (torch.zeros(3, *shape),)
        if self._op.mixes_labels:
            inputs = (torch.zeros(1, 3, *shape), torch.zeros(1, dtype=torch.int64))
        self.clear()
        with self._without_pixels():
            for _ in range(count):
                self._module(*inputs)
        draws = [self._row(self._read(call), 0) for call in self._calls]
        self.clear()
        return stack_draws(draws)

    @contextlib.contextmanager
    def _without_pixels(self) -> Iterator[None]:
        """Draw parameters as ever, but transform no image: thousands of draws a second."""
        module: Any = self._module
        stand_ins: dict[str, Any] = {"transform": lambda image, params: image}
        if "_apply_image_or_video_transform" in module.__dict__:
            stand_ins["_apply_image_or_video_transform"] = self._record_only
        originals = {name: module.__dict__.get(name) for name in stand_ins}
        module.__dict__.update(stand_ins)
        try:
            yield
        finally:
            for name, value in originals.items():
                module.__dict__.pop(name)
                if value is not None:
                    module.__dict__[name] = value

    def _record_only(self, image: Any, transform_id: str, magnitude: float, *args: Any, **kwargs: Any) -> Any:
        self._calls[-1].ops.append((transform_id, float(magnitude), image))
        return image.view_as(image)


def _read_chains(call: _Call, width: int) -> dict[str, Any]:
    first = call.ops[0][2]
    chains: list[list[tuple[str, float]]] = []
    for name, magnitude, image in call.ops:
        if image is first:
            chains.append([])
        chains[-1].append((name, magnitude))
    if len(chains) != width:
        raise NoRoute(f"AugMix ran {len(chains)} chains instead of {width}")
    own, shares = call.weights[0], call.weights[1]
    return {"weights": torch.cat([own[:, :1], shares * own[:, 1:]], dim=1), "chains": chains}


class NoiseRecorder:
    """Record of torchvision's noise, which is handed out nowhere: it is drawn again, on black, from the random state before."""

    draws_singly = False

    def __init__(self, module: v2.GaussianNoise) -> None:
        self._module = module
        self._calls: list[tuple[Tensor, Tensor]] = []
        module.register_forward_pre_hook(lambda module, inputs: self._calls.append((inputs[0], _random_state(inputs[0]))))

    def clear(self) -> None:
        self._calls.clear()

    def columns(self, count: int) -> Columns:
        drawn = [self._repeat(image, state) for image, state in self._calls]
        noise = torch.cat([part if part.ndim == 4 else part[None] for part in drawn]).double().cpu().numpy()
        if len(noise) != count:
            raise NoRoute(f"GaussianNoise was called for {len(noise)} images instead of {count}")
        return {"applied": np.ones(count, dtype=bool), "noise": noise}

    def _repeat(self, image: Tensor, state: Tensor) -> Tensor:
        after = _random_state(image)
        _set_random_state(image, state)
        noise: Tensor = v2.functional.gaussian_noise(
            torch.zeros_like(image), mean=self._module.mean, sigma=self._module.sigma, clip=False
        )
        _set_random_state(image, after)
        return noise

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        self.clear()
        self._module(torch.zeros(-(-count // (3 * shape[0] * shape[1])), 3, *shape))
        noise = self.columns(len(self._calls[0][0]))["noise"]
        self.clear()
        return {"applied": np.ones(count, dtype=bool), "noise": noise.reshape(-1)[:count]}


def _random_state(image: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(image.device) if image.is_cuda else torch.get_rng_state()


def _set_random_state(image: Tensor, state: Tensor) -> None:
    if image.is_cuda:
        torch.cuda.set_rng_state(state, image.device)
    else:
        torch.set_rng_state(state)


def recorder(op: Op, module: Any) -> Recorder:
    """Return the recorder of a built op."""
    return NoiseRecorder(module) if isinstance(module, v2.GaussianNoise) else TorchvisionRecorder(op, module)


_ON_BATCHES: dict[str, Any] = {"library": "torchvision", "lane": "per_batch", "recorder": recorder}

BACKENDS = (
    StepBackend(
        name="torchvision_loop", library="torchvision", lane="per_image", order=20, on_device=False, recorder=recorder,
        run_steps=run_image_by_image, about="torchvision v2 on tensors, one by one",
    ),
    StepBackend(
        name="torchvision", order=30, **_ON_BATCHES,
        about="torchvision v2 on the whole batch: every image gets the same draw",
    ),
    StepBackend(
        name="torchvision_compiled", order=60, **_ON_BATCHES, run_steps=run_compiled, compiled=True,
        about="the torchvision backend through torch.compile",
    ),
)  # fmt: skip
