"""Backends: a library and a way of driving it. One file each; a new file is found by itself.

A file defines ``BACKENDS``, one or several values, and the function by which ``augment.ops`` write its cells.
"""

import functools
import gc
import importlib
import os
import pkgutil
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any, Literal

import torch
from torch import nn

from augment.op import Cell, Lane, Op, UnsupportedOp
from augment.pipeline import Pipeline, Runner, Step, run_batched, with_generator
from augment.replay import Columns, NoRoute, Recorder, Traced

if hasattr(os, "register_at_fork"):
    # A forked loader worker must not finalise garbage of its parent: DALI's destructors wait for threads that a fork lacks.
    os.register_at_fork(after_in_child=gc.freeze)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A library and a way of driving it; ``order`` is its place in tables.

    ``on_device`` tells whether it takes batches on an accelerator, ``floats_only`` whether its library refuses integer images,
    ``forks`` whether it works in a forked process, as loader workers are, ``reseeds`` whether ``torch.manual_seed`` sets what a
    pipeline draws that has been built and called before.
    ``why_not`` returns the reason why it cannot run on a device of this machine, None if it can.
    """

    name: str
    library: str
    lane: Lane
    order: int
    about: str
    compiled: bool = False
    on_device: bool = True
    floats_only: bool = False
    forks: bool = True
    reseeds: bool = True
    why_not: Callable[[torch.device], str | None] = lambda device: None

    def cell(self, op: Op) -> Any:
        """Return how the library does the op; None if it lacks it."""
        return op.cells.get(self.library)

    def needs_float(self, op: Op) -> bool:
        """Return whether the library does the op on float images only."""
        return self.floats_only or self.library in op.needs_float

    def refuses(self, op: Op) -> str | None:
        """Return the reason why the library cannot do the op with these parameters; None if it can."""
        reason: str | None = self.cell(op).refuses(op)
        return reason

    def compose(
        self, ops: Sequence[Op], *, device: torch.device, num_classes: int, generator: torch.Generator | None,
        dtype: torch.dtype, memory_format: torch.memory_format,
    ) -> Runner:  # fmt: skip
        """Return a runner of ops that were checked; see ``augment.build`` for the arguments."""
        raise NotImplementedError

    def trace(self, ops: Sequence[Op], *, device: torch.device, num_classes: int) -> Traced:
        """Return a float32 pipeline with recorded draws. Raises UnsupportedOp as ``build``, NoRoute if draws cannot be read."""
        raise NoRoute(f"no replay route for library {self.library}")

    def pipeline(self, ops: Sequence[Op], run: Runner) -> Pipeline:
        """Return a runner as a pipeline, float32, that cannot be pickled."""
        return Pipeline(ops=ops, backend=self.name, lane=lane(ops, self.name), run=run, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class StepBackend(Backend):
    """A backend that builds ops one by one (``Cell``) and runs the list; ``recorder(op, built)`` watches what an op draws."""

    run_steps: Callable[[Sequence[Step]], Runner] = run_batched
    recorder: Callable[[Op, Any], Recorder]

    def build_step(self, op: Op, device: torch.device, num_classes: int) -> Step:
        """Return one op as the library builds it, on the device; ``num_classes`` is for ops that mix labels."""
        cell: Cell = self.cell(op)
        try:
            apply = cell.build(op, num_classes) if op.mixes_labels else cell.build(op)
        except (ValueError, TypeError) as refusal:  # the library's own range checks
            raise UnsupportedOp(op.name, self.name, str(refusal).splitlines()[0]) from refusal
        return Step(apply.to(device) if isinstance(apply, nn.Module) else apply, op.mixes_labels, self.needs_float(op))

    def compose(self, ops: Sequence[Op], **options: Any) -> Runner:
        device, num_classes, generator = (options[name] for name in ("device", "num_classes", "generator"))
        return with_generator(self.run_steps([self.build_step(op, device, num_classes) for op in ops]), generator)

    def trace(self, ops: Sequence[Op], *, device: torch.device, num_classes: int) -> Traced:
        check_supported(ops, self.name)
        steps = [self.build_step(op, device, num_classes) for op in ops]
        run, recorders, reasons = self.run_steps(steps), list[Recorder | None](), list[str]()
        for op, step in zip(ops, steps, strict=True):
            try:
                recorders.append(self.recorder(op, step.apply))
            except NoRoute as problem:
                recorders.append(None)
                reasons.append(str(problem))
        return Traced(self.pipeline(ops, run), recorders, reasons)


@dataclass
class PlanRecorder(Recorder):
    """Record of one op of a plan: ``read(call, count)`` reads the last call, or what ``draw(count, shape)`` draws."""

    read: Callable[[Any, int], Columns]
    draw: Callable[[int, tuple[int, int]], Any]
    call: Any = None

    def clear(self) -> None:
        self.call = None

    def columns(self, count: int) -> Columns:
        return self.read(self.call, count)

    def sample(self, count: int, shape: tuple[int, int]) -> Columns:
        return self.read(self.draw(count, shape), count)


def find_backend(name: str) -> Backend:
    """Return the backend of that name. Raises ValueError for an unknown one."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def fallback_device(backend: str, device: torch.device) -> torch.device:
    """Return where to run a backend for its results: ``device``, or another if the backend cannot use that one.

    That is the CPU for a backend that is not for accelerators, and CUDA for one that runs nowhere else.
    """
    chosen, cuda = find_backend(backend), torch.device("cuda")
    if not chosen.on_device:
        return torch.device("cpu")
    return cuda if chosen.why_not(device) is not None and chosen.why_not(cuda) is None else device


def eager_backends(device: torch.device) -> list[str]:
    """Return the backends that are not compiled and can run on their ``fallback_device``."""
    return [b.name for b in BACKENDS.values() if not b.compiled and b.why_not(fallback_device(b.name, device)) is None]


@functools.cache
def installed_version(beginning: str) -> str | None:
    """Return the version of the first installed package whose name begins so, as of those named after a CUDA release."""
    return next(
        (package.version for package in distributions() if (package.metadata["Name"] or "").lower().startswith(beginning)), None
    )


@functools.cache
def warn_untested(package: str, installed: str, tested: str) -> None:
    """Warn once in a process of a release outside of the series that a backend is tested with, such as "2.0"."""
    warnings.warn(f"{package} {installed} is not the tested {tested}: its cells may fail", RuntimeWarning, stacklevel=4)


@dataclass(frozen=True, kw_only=True)
class OptionalPackage:
    """A package that a backend needs, an ``extra`` of ours whose distribution's name begins with ``prefix``.

    Releases outside of ``series``, which the backend is written for, run after one warning; those that it ``refuses`` do not.
    ``devices``: kinds that it runs on, empty for any.
    """

    name: str
    prefix: str
    series: str
    extra: str
    refuses: Literal["", "older", "other"] = ""
    devices: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """Command that installs it."""
        return f"pip install -e '.[{self.extra}]'"

    def why_not(self, device: torch.device) -> str | None:
        """Return why the package cannot run on the device (kind of device, no package, another release); None if it can."""
        if self.devices and device.type not in self.devices:
            return "it runs on CUDA only" if self.devices == ("cuda",) else "it runs on CPUs and CUDA only"
        if self.devices and device.type == "cuda" and not torch.cuda.is_available():
            return "there is no CUDA device"
        version = installed_version(self.prefix)
        if version is None:
            return f"its package is missing: {self.install}"
        if f"{version}.".startswith(f"{self.series}."):
            return None
        if self.refuses == "other" or (self.refuses == "older" and _release(version) < _release(self.series)):
            return f"it needs {self.name} {self.series}, not {version}: {self.install}"
        warn_untested(self.name, version, self.series)
        return None


def _release(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def lane(ops: Sequence[Op], backend: str) -> Lane:
    """Return how often a backend draws the parameters of these ops."""
    chosen = find_backend(backend)
    lanes = {op.lanes.get(chosen.library, chosen.lane) for op in ops if op.draws}
    if not lanes:
        return "fixed"
    return lanes.pop() if len(lanes) == 1 else "mixed"


def known_differences(ops: Sequence[Op], backend: str) -> str | None:
    """Return how the backend's version of these ops differs from their definitions; None if no difference is known."""
    library = find_backend(backend).library
    differences = {op.name: op.differs[library] for op in ops if library in op.differs}
    return "; ".join(f"{name}: {difference}" for name, difference in differences.items()) or None


def check_supported(
    ops: Sequence[Op], backend: str, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
) -> None:
    """Raise UnsupportedOp for the first op that the backend lacks, or cannot do with its parameters or in that dtype.

    With a ``device``, also if the backend cannot run on it here.
    """
    chosen = find_backend(backend)
    unavailable = None if device is None else chosen.why_not(torch.device(device))
    for op in ops:
        if chosen.cell(op) is None:
            raise UnsupportedOp(op.name, backend)
        if reason := chosen.refuses(op):
            raise UnsupportedOp(op.name, backend, reason)
        if dtype == torch.uint8 and chosen.needs_float(op):
            raise UnsupportedOp(op.name, backend, "it needs float images")
        if unavailable is not None:
            raise UnsupportedOp(op.name, backend, unavailable)


def _load_backends() -> dict[str, Backend]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    backends = [backend for module in modules for backend in module.BACKENDS]
    return {backend.name: backend for backend in sorted(backends, key=lambda backend: backend.order)}


BACKENDS: dict[str, Backend] = _load_backends()
