"""torchvision v2 on tensors: image by image, on the whole batch, and compiled.

Parameters are made in ``make_params``, and policies hand each op to one method; the recorder wraps them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from augment.backends import StepBackend
from augment.op import Builder, Cell, Op, Read
from augment.pipeline import Runner, Step, run_batched, run_compiled, split_at_mixing
from augment.replay import Columns, NoRoute, Recorder, stack_draws

Refuses = Callable[[Any], str | None]
"""(op) -> reason why a library lacks the op with these parameters, or None."""
CVCUDA_MIXES_NOTHING: tuple[Refuses, Refuses] = (lambda op: None, lambda op: "its Compose has no arithmetic between images")
"""PIL takes the op, CV-CUDA does not."""


def torchvision(
    build: Builder, pil: Refuses = lambda op: None, cvcuda: Refuses = lambda op: None, /, **reads: Read
) -> dict[str, Cell]:
    """Return cells for tensors, PIL images and CV-CUDA, which take torchvision's v2 classes; the last two may refuse an op.

    ``reads`` are keys of ``make_params``.
    """
    return {"pil": Cell(build, reads, pil), "torchvision": Cell(build, reads), "cvcuda": Cell(build, reads, cvcuda)}


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
    """Draws of one forward call of a transform; ``params`` are None if the transform was not applied."""

    shape: tuple[int, int]
    params: dict[str, Any] | None = None
    ops: list[tuple[str, float, Any]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


class TorchvisionRecorder(Recorder):
    """Record of one transform: of ``make_params``, of RandomApply's own draw, of noise, and of the ops of a policy."""

    def __init__(self, op: Op, module: Any) -> None:
        if not isinstance(module, v2.Transform):
            raise NoRoute(f"no way to read what {type(module).__name__} draws for {op.name}")
        self._op, self._module = op, module
        self._calls: list[_Call] = []
        self._has_pixels = True
        module.register_forward_pre_hook(lambda module, inputs: self.open_call(inputs))
        if isinstance(module, v2.RandomApply):
            self._wrap_random_apply(module)
        else:
            self._wrap_parameters(module)
        if hasattr(module, "_apply_image_or_video_transform"):
            self._wrap_policy(module)

    def open_call(self, inputs: Sequence[Any]) -> None:
        """Start the record of a call on these images."""
        self._calls.append(_Call(v2.functional.get_size(inputs[0])))

    def _wrap_parameters(self, module: Any) -> None:
        make, transform = module.make_params, module.transform

        def record(flat_inputs: list[Any]) -> dict[str, Any]:
            params: dict[str, Any] = make(flat_inputs)
            self._calls[-1].params = params
            return params

        def transform_pixels(image: Any, params: dict[str, Any]) -> Any:
            is_noise = isinstance(module, v2.GaussianNoise)
            if is_noise:
                self._calls[-1].params = {"noise": _preview_noise(module, image)}
            return transform(image, params) if self._has_pixels or is_noise else image

        module.make_params, module.transform = record, transform_pixels

    def _wrap_random_apply(self, module: Any) -> None:
        """Put a mark before the transforms of a RandomApply, which hands its draw to nobody."""
        transforms = list(module.transforms)
        if isinstance(transforms[0], v2.Transform):
            self._wrap_parameters(transforms[0])

        def mark(*inputs: Any) -> Any:
            self._calls[-1].params = {}
            return inputs if len(inputs) > 1 else inputs[0]

        del module.transforms  # a ModuleList takes no functions
        module.transforms = [mark, *transforms]

    def _wrap_policy(self, module: Any) -> None:
        apply: Any = module._apply_image_or_video_transform
        sample: Any = getattr(module, "_sample_dirichlet", None)

        def record(image: Any, transform_id: str, magnitude: float, *args: Any, **kwargs: Any) -> Any:
            self._calls[-1].ops.append((transform_id, float(magnitude), image))
            result = apply(image, transform_id, magnitude, *args, **kwargs) if self._has_pixels else image
            # AugMix's chains are told apart by which object an op is given, so no op may return its input itself.
            return result.view_as(result) if result is image and sample is not None and isinstance(image, Tensor) else result

        def record_weights(params: Tensor) -> Tensor:
            weights: Tensor = sample(params)
            self._calls[-1].weights.append(weights.clone())
            return weights

        module._apply_image_or_video_transform = record
        if sample is not None:
            module._sample_dirichlet = record_weights

    def clear(self) -> None:
        self._calls.clear()

    def columns(self, count: int) -> Columns:
        draws = [self._read(call) for call in self._calls]
        # One call for the batch, or one for each image; a batch call draws noise and AugMix's weights for each image.
        if len(draws) == 1 and count > 1:
            draws = [_row(draws[0], i) for i in range(count)]
        if len(draws) != count:
            raise NoRoute(f"{self._op.name} was called {len(draws)} times for {count} images")
        columns = stack_draws([_row(draw, 0) for draw in draws])
        if self._op.mixes_labels:
            columns["partner"] = np.roll(np.arange(count), 1)
        return columns

    def _read(self, call: _Call) -> dict[str, Any]:
        if isinstance(self._module, v2.AugMix):
            return {"applied": True, **_read_chains(call, self._module.mixture_width)}
        if any(distribution.policy for distribution in self._op.draws):
            return {"applied": True, "ops": [(name, magnitude) for name, magnitude, _ in call.ops]}
        if call.params is None:
            return {"applied": False}
        cell: Cell = self._op.cells["torchvision"]
        drawn = cell.read(self._op.drawn_names, {**call.params, "shape": call.shape})
        return {"applied": True, **{name: torch.as_tensor(value).double() for name, value in drawn.items()}}

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        """Draw parameters as ever, but transform no image: thousands of draws a second."""
        inputs: tuple[Tensor, ...] = (torch.zeros(3, *shape),)
        if self._op.mixes_labels:
            inputs = (torch.zeros(1, 3, *shape), torch.zeros(1, dtype=torch.int64))
        self.clear()
        self._has_pixels = False
        for _ in range(count):
            self._module(*inputs)
        self._has_pixels = True
        columns = self.columns(count)
        self.clear()
        return columns


def _row(draw: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the draw of one image: of a batch's noise [B, 3, H, W] and AugMix's weights [B, n], its own."""
    batched = {"noise": 4, "weights": 2}
    rows = {name: value[index] if batched.get(name) == getattr(value, "ndim", 0) else value for name, value in draw.items()}
    return {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in rows.items()}


def _read_chains(call: _Call, width: int) -> dict[str, Any]:
    _, _, first = call.ops[0]
    chains: list[list[tuple[str, float]]] = []
    for name, magnitude, image in call.ops:
        if image is first:
            chains.append([])
        chains[-1].append((name, magnitude))
    if len(chains) != width:
        raise NoRoute(f"AugMix ran {len(chains)} chains instead of {width}")
    mixture, shares = call.weights
    return {"weights": torch.cat([mixture[:, :1], shares * mixture[:, 1:]], dim=1).double(), "chains": chains}


def _preview_noise(module: v2.GaussianNoise, image: Tensor) -> Tensor:
    """Return the noise that is drawn next: torchvision hands it out nowhere."""
    with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
        noise: Tensor = v2.functional.gaussian_noise(torch.zeros_like(image), module.mean, module.sigma, clip=False)
    return noise


_ON_BATCHES: dict[str, Any] = {"library": "torchvision", "lane": "per_batch", "recorder": TorchvisionRecorder}

BACKENDS = (
    StepBackend(
        name="torchvision_loop", library="torchvision", lane="per_image", order=20, on_device=False,
        recorder=TorchvisionRecorder, run_steps=run_image_by_image, about="torchvision v2 on tensors, one by one",
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
