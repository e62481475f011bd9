"""The audit of every op and recipe on every backend."""

import multiprocessing
import pickle
import platform
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from importlib.metadata import distributions

import numpy as np
import torch
from torch import Tensor

from augment.audit.images import synthetic_images
from augment.audit.judge import judge, reject
from augment.audit.measure import Kind, Measurements, Results, ops_of
from augment.audit.record import AuditReport, Verdict
from augment.backends import eager_backends, fallback_device, find_backend
from augment.op import OPS
from augment.pipeline import check_device
from augment.recipes import RECIPES

KINDS: dict[Kind, Mapping[str, object]] = {"op": OPS, "recipe": RECIPES}
PACKAGES = ("torch", "torchvision", "kornia", "pillow", "triton-augment", "albumentations", "albumentationsx")
CUDA_PREFIXES = ("nvidia-dali-cuda", "cvcuda-cu")
"""Beginnings of the names of packages that are named after a CUDA release."""
Names = Sequence[str]
Progress = Callable[[int, int, str], object]
"""Called as (steps done, steps in all, next step)."""


def audit(
    backends: Names | None = None, ops: Names | None = None, recipes: Names | None = None, *, n: int = 10_000, seed: int = 0,
    device: str | torch.device = "cpu", images: Sequence[Tensor] | Tensor | None = None, images_name: str = "",
    alpha: float = 0.01, workers: bool = True, processes: int = 1,
    on_progress: Progress = lambda done, total, step: None,
) -> AuditReport:  # fmt: skip
    """Audit ops and recipes on backends; by default all of them, on the backends that are not compiled.

    A compiled backend costs a compilation for each op and setting and is audited only if it is named. Backends that cannot use
    ``device`` run on the CPU, those that can use CUDA alone run there. Oracles always run on the CPU.

    Args:
        backends: names, as are ``ops`` and ``recipes``.
        ops: each at its benchmarked settings.
        recipes: each at its benchmarked image size.
        n: draws for each test of a distribution, at least 100. An op that happens with probability p has n * p of the others.
        seed: of everything that is drawn.
        device: where the backends run.
        images: real images, uint8 [3, H, W] each of any size; without them synthetic ones are used, and the report says so.
        images_name: description of the images for the report.
        alpha: chance that any test of a correct distribution is rejected (Holm's procedure over all tests).
        workers: also start two loader workers and compare what they draw.
        processes: how many measure subjects side by side; the report is the same.
        on_progress: called before each step, an op or recipe on all backends, and at the end.

    Raises:
        ValueError: unknown names, or a device, images or n that cannot be used.
    """
    start = time.perf_counter()
    target = check_device(device)
    backends = eager_backends(target) if backends is None else list(backends)
    names: dict[Kind, Names] = {
        "op": list(OPS if ops is None else ops),
        "recipe": list(RECIPES if recipes is None else recipes),
    }
    _check_arguments(backends, names, n, images)
    for backend in backends:
        find_backend(backend).why_not(target)  # warns of an untested release
    images_used = list(synthetic_images(16, 256, seed) if images is None else images)
    devices = {backend: fallback_device(backend, target) for backend in backends}
    measurements = Measurements(n=n, seed=seed, images=images_used, devices=devices)
    on_cuda = any(used.type == "cuda" for used in devices.values())
    with torch.random.fork_rng(devices=None if on_cuda else []), ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(random.setstate, random.getstate())  # libraries draw from these, or seed them
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        torch.set_num_threads(1)  # nothing is timed here, and on small tensors threads mostly wait for each other
        _measure(measurements, names, workers, processes, on_progress)
    default_name = "synthetic shapes (no real images given)" if images is None else f"{len(images_used)} given images"
    return AuditReport(
        verdicts=_judge_all(measurements, names, alpha), versions=_versions(), device=str(device),
        images=images_name or default_name, seed=seed, n=n, alpha=alpha, seconds=time.perf_counter() - start,
    )  # fmt: skip


def _measure(
    measurements: Measurements, names: Mapping[Kind, Names], workers: bool, processes: int, on_progress: Progress
) -> None:
    total, done = sum(map(len, names.values())) + int(workers), 0
    spawn = multiprocessing.get_context("spawn")  # a process that has used CUDA must not be forked
    pooled = ProcessPoolExecutor(processes, spawn, _start_process) if processes > 1 else nullcontext()
    with pooled as pool, _end_processes_on_error():
        for kind in KINDS:  # recipes after all ops
            # Pickled here: by the pool it would grow meanwhile, and its tensors' handles need a thread that complains when a
            # process is ended.
            source = pickle.dumps(measurements) if pool else b""
            measure = partial(_measure_subject, source, kind) if pool else partial(measurements.measure_subject, kind)
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})  # this process ends the others
            results = pool.map(measure, names[kind]) if pool else map(measure, names[kind])
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for name in names[kind]:
                on_progress(done, total, name)
                measurements.results.merge(next(results))
                done += 1
    if workers:
        on_progress(done, total, "two loader workers")
        measurements.compare_workers()
    on_progress(total, total, "done")


@contextmanager
def _end_processes_on_error() -> Iterator[None]:
    """End this process's processes after an error, which would wait for all of their work."""
    try:
        yield
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _measure_subject(measurements: bytes, kind: Kind, name: str) -> Results:
    """Measure a subject in a process of the pool."""
    results: Results = pickle.loads(measurements).measure_subject(kind, name)
    return results


def _start_process() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # an untested release is named once, by the process that starts these


def _judge_all(measurements: Measurements, names: Mapping[Kind, Names], alpha: float) -> tuple[Verdict, ...]:
    """Return the verdicts: ops before recipes, backend by backend."""
    reject(measurements.results.tests.values(), alpha)
    cells = [measurements.results.cells[name, b] for kind in KINDS for b in measurements.devices for name in names[kind]]
    for cell in cells:
        judge(cell, ops_of(cell), measurements.tests_of(cell), audited=names["op"] if cell.kind == "recipe" else ())
    return tuple(cells)


def _versions() -> dict[str, str]:
    """Return the version of Python and of every library here that a cell may run."""
    installed = {(package.metadata["Name"] or "").lower(): package.version for package in distributions()}
    versions = {name: version for name, version in installed.items() if name in PACKAGES or name.startswith(CUDA_PREFIXES)}
    return {"python": platform.python_version(), **dict(sorted(versions.items()))}


def _check_arguments(backends: Names, names: Mapping[Kind, Names], n: int, images: Sequence[Tensor] | Tensor | None) -> None:
    for backend in backends:
        find_backend(backend)
    for kind, table in KINDS.items():
        if unknown := [name for name in names[kind] if name not in table]:
            raise ValueError(f"unknown {kind} {unknown[0]!r}; known: {', '.join(table)}")
    if n < 100:
        raise ValueError(f"n must be at least 100 draws, got {n}")
    if images is not None:
        is_bad = [i.ndim != 3 or i.shape[0] != 3 or i.dtype != torch.uint8 or 0 in i.shape for i in images]
        if not is_bad or any(is_bad):
            raise ValueError("images must be at least one uint8 tensor [3, H, W] each")
