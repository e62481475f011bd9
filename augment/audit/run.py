"""The whole audit: every op and recipe on every backend."""

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from augment import catalog
from augment.audit.evidence import Evidence
from augment.audit.images import drawn_images
from augment.audit.judging import judge
from augment.audit.verdicts import AuditReport
from augment.recipes import RECIPES

Progress = Callable[[int, int, str], None]
"""Called as (steps done, steps in all, what comes next)."""

ALPHA = 0.01


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "torchvision", "kornia", "pillow")}
    with contextlib.suppress(PackageNotFoundError):  # an optional extra
        packages["triton-augment"] = version("triton-augment")
    return {"python": platform.python_version(), **packages}


def audit(
    backends: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    *,
    n: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    images: Sequence[Tensor] | Tensor | None = None,
    images_name: str = "",
    alpha: float = ALPHA,
    workers: bool = True,
    on_progress: Progress | None = None,
) -> AuditReport:
    """Audit ops and recipes on backends; by default all of them, on the backends that are not compiled.

    A compiled backend costs a compilation for each op and setting and is audited only where it is named. Backends that cannot
    use ``device`` run on the CPU, those that can use CUDA alone run there.

    Args:
        n: draws for each test of a distribution, at least 100. An op that happens with probability p has n * p of the others.
        images: real images, uint8 [3, H, W] each of any size; without them drawn shapes are used, and the report says so.
        images_name: what the images are, for the report.
        alpha: chance that any test of a correct distribution is rejected (Holm's procedure over all tests).
        workers: also start two loader workers and compare what they draw.
        on_progress: called before each step and at the end.

    Raises ValueError for unknown names and for images or n that cannot be used.
    """
    started = time.perf_counter()
    backends = catalog.eager_backends(torch.device(device)) if backends is None else list(backends)
    ops = list(catalog.ROWS) if ops is None else list(ops)
    recipes = list(RECIPES) if recipes is None else list(recipes)
    _check_arguments(backends, ops, recipes, n, images)
    report = on_progress or (lambda done, total, what: None)
    total = len(backends) * (len(ops) + len(recipes)) + int(workers)
    given = list(drawn_images(16, 256, seed)) if images is None else list(images)
    places = {backend: catalog.place(backend, torch.device(device)) for backend in backends}
    on_cuda = any(place.type == "cuda" for place in places.values())
    with torch.random.fork_rng(devices=None if on_cuda else []), _one_thread():
        state = Evidence(n=n, seed=seed, device=torch.device("cpu"), images=given)
        wanted = [(state.op, name, b) for b in backends for name in ops]
        wanted += [(state.recipe, name, b) for b in backends for name in recipes]
        for done, (measure, name, backend) in enumerate(wanted):
            report(done, total, f"{name} on {backend}")
            state.device = places[backend]
            try:
                measure(name, backend)
            except Exception as error:  # whatever a library raises: this cell is not audited, the others are
                state.facts[name, backend].unaudited = f"it raises {type(error).__name__}: {error}"
        if workers:
            report(total - 1, total, "two loader workers")
            state.workers()
        verdicts = judge(state, alpha)
    report(total, total, "done")
    return AuditReport(
        verdicts=verdicts, versions=_versions(), device=str(device), images=images_name or _name_of(images),
        seed=seed, n=n, alpha=alpha, seconds=time.perf_counter() - started,
    )  # fmt: skip


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Nothing is timed here, and on small tensors threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _name_of(images: Any) -> str:
    return "drawn shapes (no real images given)" if images is None else f"{len(images)} given images"


def _check_arguments(
    backends: Sequence[str], ops: Sequence[str], recipes: Sequence[str], n: int, images: Sequence[Tensor] | Tensor | None
) -> None:
    for backend in backends:
        catalog.find_backend(backend)
    for kind, names, known in (("op", ops, catalog.ROWS), ("recipe", recipes, RECIPES)):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown {kind} {unknown[0]!r}; known: {', '.join(known)}")
    if n < 100:
        raise ValueError(f"n must be at least 100 draws, got {n}")
    if images is not None:
        wrong = [i for i in images if i.ndim != 3 or i.shape[0] != 3 or i.dtype != torch.uint8 or 0 in i.shape]
        if not len(images) or wrong:
            raise ValueError("images must be at least one uint8 tensor [3, H, W] each")
