"""A plan as a backend's runner: draws and applies on the device of the images, by the fastest implementation there."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from augment.distributions import Params
from augment.fused import build
from augment.fused.plans import Implementation, Plan, plan, without_triton
from augment.op import Op

OneLaunch = Callable[[Tensor, Tensor | None, torch.Generator | None], tuple[Tensor, Tensor | None]]
"""Draw and apply in one launch."""
Run = Callable[[Tensor, Sequence[Params]], tuple[Tensor, Implementation]]
"""Apply, and say what did the work."""


class Runner:
    """A recipe for ``augment.pipeline.Pipeline``: (images, labels) -> (images, targets).

    ``implementation``: what ran for the last batch, and before the first what is meant to run.
    """

    def __init__(
        self, plan: Plan, run: Run, implementation: Implementation, num_classes: int, generator: torch.Generator | None,
        one_launch: OneLaunch | None = None,
    ) -> None:  # fmt: skip
        self.plan = plan
        self.implementation = implementation
        self._run = run
        self._one_launch = one_launch
        self._num_classes = num_classes
        self._generator = generator

    def __call__(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Draw for the batch and apply."""
        generator = self._generator
        if generator is not None and not _is_same(generator.device, images.device):
            raise ValueError(f"the generator is on {generator.device}, the images on {images.device}: put both on one device")
        is_plain = is_on_gpu(images) and not images.requires_grad and not torch.compiler.is_compiling()
        if self._one_launch is not None and is_plain:
            self.implementation = "triton"
            return self._one_launch(images, labels, generator)
        batch, _, height, width = images.shape
        params = self.plan.sample(batch, height, width, generator, images.device)
        targets = None if labels is None else self.plan.targets(labels, params, self._num_classes)
        result, self.implementation = self._run(images, params)
        return result, targets


def is_on_gpu(images: Tensor) -> bool:
    """Return whether Triton's kernels reach the images."""
    return images.is_cuda


def _is_same(device: torch.device, second: torch.device) -> bool:
    return (device.type, device.index or 0) == (second.type, second.index or 0)


def compose(
    recipe: Sequence[Op], *, num_classes: int, generator: torch.Generator | None = None, compile: bool = False,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Runner:  # fmt: skip
    """Return the runner of a recipe for images on ``device``; results are ``dtype`` and ``memory_format`` where that is free.

    ``compile`` sends ``apply`` through ``torch.compile``; draws stay outside, where they come from PyTorch's own generators.
    """
    planned = plan(recipe)
    if compile:
        return Runner(planned, compile_whole(planned), "inductor", num_classes, generator)
    run, implementation = prepare_run(planned, torch.device(device), dtype, memory_format)
    one_launch = None
    if implementation == "triton":
        from augment.fused import cuda

        if cuda.OneLaunch.takes(planned, dtype):
            one_launch = cuda.OneLaunch(planned, dtype, memory_format, num_classes)
    return Runner(planned, run, implementation, num_classes, generator, one_launch)


def prepare_run(
    planned: Plan, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> tuple[Run, Implementation]:
    """Return ``Plan.run`` for a device, by Triton's kernels on CUDA, and the implementation that is meant to run.

    If Triton is missing or cannot build its kernels, one RuntimeWarning says so and tensor operations run.
    """

    def run(images: Tensor, params: Sequence[Params]) -> tuple[Tensor, Implementation]:
        return planned.run(images, params, dtype)

    if device.type == "cpu":
        return run, "c" if build.library() else "tensors"
    if device.type != "cuda" or not torch.cuda.is_available():
        return run, "tensors"
    reason = without_triton(device)
    if reason:
        warnings.warn(f"no Triton ({reason}): the fused backend runs on tensor kernels", RuntimeWarning, stacklevel=2)
        return run, "tensors"
    from augment.fused import cuda

    apply = cuda.apply_plan(planned, dtype, memory_format)

    def run_on_cuda(images: Tensor, params: Sequence[Params]) -> tuple[Tensor, Implementation]:
        wants_gradients = images.requires_grad and torch.is_grad_enabled()
        return (apply(images, params), "triton") if images.is_cuda and not wants_gradients else run(images, params)

    return run_on_cuda, "triton"


def compile_whole(planned: Plan, backend: Any = "inductor") -> Run:
    """Return ``Plan.apply`` through ``torch.compile``: one graph, for all contents and batch sizes.

    If there is no compiler, one RuntimeWarning says so and the plan runs without it.
    """
    compiled: Callable[[Tensor, Sequence[Params]], Tensor] | None = torch.compile(
        planned.apply, fullgraph=True, backend=backend
    )

    def run(images: Tensor, params: Sequence[Params]) -> tuple[Tensor, Implementation]:
        nonlocal compiled
        if compiled is None:
            return planned.run(images, params)
        for tensor in (images, *(value for drawn in params for value in drawn.values())):
            # "maybe": a batch of one is compiled for itself, as PyTorch does with every size of 1.
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return compiled(images, params), "inductor"
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile failed ({reason}): the fused backend runs without it", RuntimeWarning, stacklevel=2)
            compiled = None
            return planned.run(images, params)

    return run
