"""The fused backend: torchvision's ops with a draw for each image, planned as a whole recipe, over the batch at once.

``plan(recipe)`` gives a ``Plan``: ``sample`` draws parameters (``augment.sampling``), ``apply`` does the work from them and
nothing else, so that replaying parameters gives the same pixels: by tensor kernels (``augment.stages``), and on a CPU with a
compiler mostly in C (``augment.native``). ``compose`` makes it a backend's runner.

What becomes of the numbers drawn is one step where that is possible: in C on a CPU, by a Triton kernel on CUDA.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from augment import kernels, native, native_build, native_draws, ops, parts, passes, sampling, stages, threads
from augment.compose import Runner
from augment.ops import Op
from augment.sampling import Params

SUPPORTED = frozenset(kind.__name__ for kind in sampling.SAMPLERS)
"""Names of the ops that this backend can do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Neighbouring ops that are done together, and what does them with the parameters of each."""

    ops: tuple[Op, ...]
    apply: Callable[[Sequence[Op], Tensor, Sequence[Params]], Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe in stages. Images are [B, 3, H, W] uint8, or float in [0, 1]; results float32, or uint8 if no op needs float."""

    ops: tuple[Op, ...]
    stages: tuple[Stage, ...]
    runs: tuple[native.Run, ...] = ()
    """What a CPU does image by image instead of those stages; tensor kernels do the rest, and define it all."""

    @property
    def mixes(self) -> bool:
        """Whether labels become soft targets."""
        return any(isinstance(op, stages.MIXING) for op in self.ops)

    def sample(
        self, batch: int, height: int, width: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Params, ...]:
        """Draw for a batch of that size; see ``augment.sampling.sample``."""
        device = torch.device(device)
        run = draws_on(device)
        if run is not None:
            return sampling.sample(self.ops, batch, height, width, generator, device, run)
        with threads.enough_for(device, batch * 3 * height * width):  # many short kernels
            return sampling.sample(self.ops, batch, height, width, generator, device)

    def apply(self, images: Tensor, params: Sequence[Params], dtype: torch.dtype | None = None) -> Tensor:
        """Do what was drawn. The input is not changed; the result may share its memory only if no op touched it.

        The result is ``dtype`` already where that spares the batch another copy. Raises ValueError for parameters that this
        plan did not draw for as many images.
        """
        self.check(images, params)
        with threads.enough_for(images.device, images.numel()):
            done, count = 0, len(self.ops)
            for run in self.runs if not torch.compiler.is_compiling() and native.takes(images, params) else ():
                images = self._staged(images, params, done, run.start)
                result = run.apply(images, params, dtype if run.end == count else None)
                images = self._staged(images, params, run.start, run.end, dtype) if result is None else result
                done = run.end
            return self._staged(images, params, done, count, dtype)

    def check(self, images: Tensor, params: Sequence[Params]) -> None:
        """Raises ValueError for parameters of other ops or for another number of images; in a graph nothing is checked."""
        if torch.compiler.is_compiling():
            return
        if len(params) != len(self.ops):
            raise ValueError(
                f"there are {len(self.ops)} ops and parameters of {len(params)}: apply what this plan's sample drew"
            )
        for op, drawn in zip(self.ops, params, strict=True):
            for name in passes.NAMES[type(op)]:
                found = len(drawn[name]) if name in drawn else None
                if found != len(images):
                    reason = f"no {name!r}" if found is None else f"{name!r} for {found} images"
                    raise ValueError(
                        f"{op.name} got {reason}: apply what this plan's sample drew for these {len(images)} images"
                    )

    def _staged(
        self, images: Tensor, params: Sequence[Params], first: int, last: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Ops ``first`` .. ``last`` - 1 by tensor kernels; ``dtype`` is that of the recipe's result."""
        if first == last:
            return images
        mine = [stage for stage, start in self._starting() if first <= start < last]
        is_callers, can_split = first == 0, parts.are_wanted(images, params)
        while mine:
            count = _together(mine, images.dtype) if can_split else 0
            some, mine = mine[: count or 1], mine[count or 1 :]
            end = first + sum(len(stage.ops) for stage in some)
            wanted = dtype if end == len(self.ops) and can_split else None
            work = functools.partial(_done, some, is_callers)
            if count:
                images = parts.in_parts(work, images, params[first:end], wanted, may_overwrite=not is_callers)
            else:
                images = work(images, params[first:end])
                images = images if wanted in (None, images.dtype) else parts.in_parts(lambda x, _: x, images, (), wanted)
            first, is_callers = end, False
        return images

    def _starting(self) -> Iterator[tuple[Stage, int]]:
        """Stages, each with the number of ops before it."""
        return zip(self.stages, itertools.accumulate((len(stage.ops) for stage in self.stages), initial=0), strict=False)

    def targets(self, labels: Tensor, params: Sequence[Params], num_classes: int) -> Tensor:
        """Labels int64 [B] as the images were mixed: float32 [B, num_classes]; the labels themselves if nothing mixes.

        On a CPU ValueError for labels that are no class; other devices are not asked, and give those targets of zeros.
        """
        mixed = [drawn for op, drawn in zip(self.ops, params, strict=True) if isinstance(op, stages.MIXING)]
        if not mixed:
            return labels
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            least, most = labels.min().item(), labels.max().item()
            if least < 0 or most >= num_classes:
                raise ValueError(f"labels must be 0 to {num_classes - 1} (num_classes={num_classes}), got {least} to {most}")
        targets = kernels.one_hot(labels, num_classes)
        for drawn in mixed:
            targets = kernels.mix_targets(targets, drawn["lam"])
        return targets


def _together(some: Sequence[Stage], dtype: torch.dtype) -> int:
    """How many of the coming stages go through the batch in parts, together; none where the first takes little memory."""
    if stages.is_thrifty(some[0].ops[0], dtype):
        return 0
    apart = (*stages.APPLIED, *stages.MIXING)
    return 1 + sum(1 for _ in itertools.takewhile(lambda stage: not isinstance(stage.ops[0], apart), some[1:]))


def _done(some: Sequence[Stage], is_callers: bool, images: Tensor, params: Sequence[Params]) -> Tensor:
    """Stages on images, with the parameters of their ops. Float images are overwritten unless they are the caller's."""
    images, start = images.contiguous(), 0
    if images.is_floating_point():
        images = images.to(torch.float32, copy=is_callers)
    for stage in some:
        images = stage.apply(stage.ops, images, params[start : start + len(stage.ops)])
        start += len(stage.ops)
    return images


def plan(recipe: Sequence[Op]) -> Plan:
    """Group a recipe into stages."""
    grouped: list[Stage] = []
    rest = list(recipe)
    while rest:
        taken = _count(rest)
        head, rest = tuple(rest[:taken]), rest[taken:]
        grouped.append(Stage(head, _stage_for(head[0])))
    edges = {0, *itertools.accumulate(len(stage.ops) for stage in grouped)}
    runs = [run for run in native.runs(recipe) if {run.start, run.end} <= edges]  # else stages could not stand in for it
    return Plan(tuple(recipe), tuple(grouped), tuple(runs))


def _count(rest: Sequence[Op]) -> int:
    """How many of the coming ops make one stage."""
    if not isinstance(rest[0], (*stages.EXACT, ops.RandomResizedCrop)):
        return 1
    may_crop = isinstance(rest[0], stages.FLIPS)
    for index, op in enumerate(rest[1:], start=1):
        if isinstance(op, stages.CROPS) and may_crop:
            may_crop = False
        elif not isinstance(op, stages.FLIPS):
            return index
    return len(rest)


def _stage_for(first: Op) -> Callable[[Sequence[Op], Tensor, Sequence[Params]], Tensor]:
    if isinstance(first, stages.EXACT):
        return stages.take
    if isinstance(first, ops.RandomResizedCrop):
        return stages.resized_crop
    alone = stages.STAGES[type(first)]
    return lambda stage_ops, images, params: alone(stage_ops[0], images, params[0])


def compose(
    recipe: Sequence[Op], *, num_classes: int, generator: torch.Generator | None = None, compile: bool = False,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Runner:  # fmt: skip
    """The recipe as a runner for ``augment.compose.Pipeline``: draws, then applies, on the device of the images.

    ``compile`` sends ``apply`` through ``torch.compile``; draws stay outside, where they come from PyTorch's own generators.
    Without it, images on the ``device`` they are said to be on are done by what is made for it, and are ``dtype`` at once.
    """
    planned = plan(recipe)
    apply = compile_whole(planned.apply) if compile else for_device(planned, torch.device(device), dtype, memory_format)

    def run(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if generator is not None and generator.device.type != images.device.type:
            raise ValueError(f"the generator is on {generator.device}, the images on {images.device}: put both on one device")
        batch, _, height, width = images.shape
        params = planned.sample(batch, height, width, generator, images.device)
        targets = None if labels is None else planned.targets(labels, params, num_classes)
        return apply(images, params), targets

    return run


def draws_on(device: torch.device) -> sampling.Run | None:
    """What does a recipe's draws in one step on the device; None where tensor formulas do, also under ``torch.compile``."""
    if torch.compiler.is_compiling():
        return None
    if device.type == "cpu":
        return None if native_build.library() is None else native_draws.run
    return _triton_draws(device) if device.type == "cuda" else None


@functools.cache
def _triton_draws(device: torch.device) -> sampling.Run | None:
    if _without_triton(device):
        return None  # without a warning: ``for_device`` gives it
    from augment import triton_draws

    return triton_draws.run


Applied = Callable[[Tensor, Sequence[Params]], Tensor]


def for_device(
    planned: Plan, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Applied:
    """``Plan.apply`` as a device has it, by Triton's kernels on CUDA; the result may be ``dtype`` and so laid out already.

    Where Triton is missing or cannot build its kernels, one RuntimeWarning says so and the tensor kernels run.
    """
    by_tensors = functools.partial(planned.apply, dtype=dtype)
    if device.type != "cuda" or not torch.cuda.is_available():
        return by_tensors
    reason = _without_triton(device)
    if reason:
        warnings.warn(f"no Triton ({reason}): the fused backend runs on tensor kernels", RuntimeWarning, stacklevel=2)
        return by_tensors
    from augment import triton_passes

    apply = triton_passes.applied(planned, dtype, memory_format)
    return lambda images, params: apply(images, params) if images.is_cuda else by_tensors(images, params)


def _without_triton(device: torch.device) -> str:
    """Why Triton's kernels cannot run on the device; nothing where they can."""
    try:
        from augment import triton_passes  # here: not every PyTorch brings Triton

        triton_passes.check(device)
    except (ImportError, RuntimeError, OSError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def compile_whole(apply: Applied, backend: Any = "inductor") -> Applied:
    """``Plan.apply`` through ``torch.compile``: one graph, for all contents and batch sizes.

    Where there is no compiler, one RuntimeWarning says so and the kernels run as they are.
    """
    fast: Applied | None = torch.compile(apply, fullgraph=True, backend=backend)

    def run(images: Tensor, params: Sequence[Params]) -> Tensor:
        nonlocal fast
        if fast is None:
            return apply(images, params)
        for tensor in (images, *(value for drawn in params for value in drawn.values())):
            # "maybe": a batch of one is compiled for itself, as PyTorch does with every size of 1.
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            return fast(images, params)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile failed ({reason}): the fused backend runs without it", RuntimeWarning, stacklevel=2)
            fast = None
            return apply(images, params)

    return run
