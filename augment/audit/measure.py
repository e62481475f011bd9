"""Measurements: each op and recipe on a backend, not yet judged."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from augment import build, resolve
from augment.audit.checks import check_determinism, check_safety, check_workers
from augment.audit.explain import explain
from augment.audit.images import at_size, noise_images, plain_image
from augment.audit.lanes import measure_lane, recipe_lane
from augment.audit.laws import laws, observe, pinned_draw
from augment.audit.parity import NUM_CLASSES, ROUNDING, Draw, Replay, classify, replay, worst_mean
from augment.audit.record import DrawTest, Lane, Verdict
from augment.backends import check_supported, find_backend
from augment.distributions import Choice, Normal, Window
from augment.op import OPS, Op
from augment.recipes import PHOTOGRAPH_RECIPES
from augment.replay import NoRoute, Recorder, Traced

SIZES = (32, 224)
PHOTOGRAPH_SIZE = 256
EAGER = ((32, 48, 24), (224, 8, 4))
COMPILED = ((32, 32, 2),)
"""Image size, images and calls of the parity measurements; each shape and setting of a compiled op costs a compilation."""
ELONGATED = (24, 96)
"""Height and width on which the fallback of a resized crop's window happens."""


def ops_of(cell: Verdict) -> tuple[Op, ...]:
    """Return the ops of a subject at its benchmarked image size."""
    return resolve(cell.subject, _size_of(cell))


def _size_of(cell: Verdict) -> int:
    return PHOTOGRAPH_SIZE if cell.subject in PHOTOGRAPH_RECIPES else SIZES[0]


@dataclass(kw_only=True)
class Measurements:
    """Cells by (subject, backend), measured one by one; ``draws`` holds the tests of an op on a backend.

    ``device`` may be changed between calls. ``images``: uint8 [3, H, W] each, of any sizes.
    """

    n: int
    seed: int
    images: Sequence[Tensor]
    device: torch.device
    cells: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    draws: dict[tuple[Op, str], list[DrawTest]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._photographs = {size: at_size(self.images, size) for size in (*SIZES, 64, PHOTOGRAPH_SIZE)}
        self._draws_by_builder: dict[tuple[Any, ...], list[DrawTest]] = {}
        self._lanes: dict[tuple[Op, str], str] = {}

    def measure(self, subject: str, kind: Literal["op", "recipe"], backend: str) -> None:
        """Measure an op or a recipe on a backend. Raises UnsupportedOp, NoRoute, and whatever a library raises."""
        self.cells[subject, backend] = cell = Verdict(subject=subject, kind=kind, backend=backend)
        ops, size = ops_of(cell), _size_of(cell)
        check_supported(ops, backend, device=self.device)
        traced = self._trace(ops, backend)
        torch.manual_seed(self.seed)
        cell.lane = self._op_lane(traced, size) if kind == "op" else self._recipe_lane(traced, size)
        if not find_backend(backend).compiled:
            pipeline = build(ops, backend, device=self.device, image_size=size, num_classes=NUM_CLASSES)
            cell.checks += check_determinism(pipeline, self.device, size, self.seed)
            cell.checks += check_safety(pipeline, self.device, size, self.seed) if kind == "op" else []
        if traced.reasons:
            raise NoRoute(traced.reasons[0])
        self._op_parity(cell, ops[0]) if kind == "op" else self._recipe_parity(cell, traced)
        for op in ops:
            if (op, backend) not in self.draws:
                self.draws[op, backend] = self._test_draws(op, backend)

    def _trace(self, ops: Sequence[Op], backend: str) -> Traced:
        chosen = find_backend(backend)
        if chosen.compiled:
            torch.compiler.reset()  # past eight compilations of the same code dynamo would run eager in silence
        return chosen.trace(ops, device=self.device, num_classes=NUM_CLASSES)

    def _op_lane(self, traced: Traced, size: int) -> Lane:
        lane = measure_lane(traced, plain_image(size), self.device)
        self._lanes[traced.pipeline.ops[0], traced.pipeline.backend] = lane.measured
        return lane

    def _recipe_lane(self, traced: Traced, size: int) -> Lane:
        ops, backend = traced.pipeline.ops, traced.pipeline.backend
        for op in ops:
            if (op, backend) not in self._lanes:
                self._op_lane(self._trace([op], backend), size)
        return recipe_lane(traced, {op.name: self._lanes[op, backend] for op in ops}, plain_image(size), self.device)

    def _images(self, kind: str, size: int, count: int) -> Tensor:
        if kind == "noise":
            return noise_images(count, size, self.seed)
        return self._photographs[size][torch.arange(count) % len(self._photographs[size])]

    # ---- pixels --------------------------------------------------------------------------------------------------------

    def _op_parity(self, cell: Verdict, op: Op) -> None:
        draws: list[Draw] = []
        is_compiled = find_backend(cell.backend).compiled
        for size, count, batches in COMPILED if is_compiled else EAGER:
            for kind in ("photographs", "noise"):
                measured = self._as_drawn(OPS[op.name].at(size), cell.backend, self._images(kind, size, count), batches)
                cell.parity.append(measured.parity(kind, size, "as drawn"))
                draws += measured.draws
            pinned = OPS[op.name].pinned(size)
            if pinned is not None and not is_compiled:
                images = self._images("photographs", size, 4)
                draw = pinned_draw(pinned, (size, size))
                measured = replay(self._trace([pinned], cell.backend), images, self.device, draw=draw)
                cell.parity.append(measured.parity("photographs", size, "pinned"))
        if classify(cell.parity) != "exact":
            places = [choice.places for choice in op.draws if isinstance(choice, Choice) and choice.places]
            if places and getattr(op, places[0]) > 1:  # an op of the policy at a time tells which of them differ
                single = dataclasses.replace(op, **{places[0]: 1})  # type: ignore[type-var]
                draws = self._as_drawn(single, cell.backend, self._images("photographs", SIZES[0], 96), 48).draws
            cell.cause = explain(op, draws)
        if _draws_window(op) and not is_compiled:
            measured = self._as_drawn(op, cell.backend, self._images("photographs", 64, 24), 12)
            cell.parity.append(shrinking := measured.parity("photographs", 64, "shrinking"))
            if (verdict := classify([shrinking])) != "exact":
                cause = explain(op, measured.draws) or "unexplained"
                cell.notes.append(f"{verdict} where images shrink ({cause}; mean {shrinking.mean_error:.2g}/255)")

    def _as_drawn(self, op: Op, backend: str, images: Tensor, calls: int) -> Replay:
        """Replay an op as it draws; where it happens at random, half of the calls have p = 1, a path of its own in Kornia."""
        measured = Replay()
        settings = [op]
        if 0 < getattr(op, "p", 1.0) < 1:
            settings.append(dataclasses.replace(op, p=1.0))  # type: ignore[type-var]
        for setting, part in zip(settings, images.chunk(len(settings)), strict=True):
            traced = self._trace([setting], backend)
            replay(traced, part, self.device, calls=max(calls // len(settings), 1), into=measured)
        return measured

    def _recipe_parity(self, cell: Verdict, traced: Traced) -> None:
        size = _size_of(cell)
        count, calls = (48, 24) if size == SIZES[0] else (24, 12)

        def measure(setting: str, *, as_bytes: bool) -> None:
            for kind in ("noise", "photographs"):
                torch.manual_seed(self.seed)  # both settings get the same draws
                measured = replay(traced, self._images(kind, size, count), self.device, calls=calls, as_bytes=as_bytes)
                cell.parity.append(measured.parity(kind, size, setting))

        measure("as drawn", as_bytes=True)
        if classify(cell.parity) != "exact":
            # a PIL image holds bytes, whatever it was made from
            if find_backend(cell.backend).library != "pil" and worst_mean(cell.parity) <= ROUNDING:
                measure("fed floats", as_bytes=False)
            cell.cause = "; ".join(self._explain_ops(cell, size, count, calls))

    def _explain_ops(self, cell: Verdict, size: int, count: int, calls: int) -> Iterator[str]:
        """Yield which of a recipe's ops differ at the recipe's settings, and why."""
        for op in ops_of(cell):
            audited = self.cells.get((op.name, cell.backend))
            if audited is not None and ops_of(audited) == (op,) and audited.verdict != "unaudited":
                if audited.cause:
                    yield f"{op.name}: {audited.cause}"
            elif not op.mixes_labels:
                measured = self._as_drawn(op, cell.backend, self._images("photographs", size, count), calls)
                if classify([measured.parity("photographs", size, "as drawn")]) != "exact":
                    yield f"{op.name}: {explain(op, measured.draws) or 'unexplained'}"

    # ---- distributions -------------------------------------------------------------------------------------------------

    def _test_draws(self, op: Op, backend: str) -> list[DrawTest]:
        """Test what a builder draws for an op, once for all backends that share it.

        Where each draw costs a call, a recipe's other setting of an op is represented by that of ``OPS``.
        """
        recorder = self._trace([op], backend).recorders[0]
        if recorder is None or not op.draws:
            return []
        setting: Any = type(op) if recorder.draws_singly else op
        key = (setting, id(find_backend(backend).cell(op)), self.device, recorder.draws_singly)
        if key not in self._draws_by_builder:
            size = PHOTOGRAPH_SIZE if getattr(op, "size", 0) > SIZES[0] else SIZES[0]
            tests = measure_draws(op, recorder, self.n, (size, size))
            if _draws_window(op) and not recorder.draws_singly:
                tests += measure_draws(op, recorder, self.n, ELONGATED, f" at {ELONGATED[0]}x{ELONGATED[1]}")
            self._draws_by_builder[key] = tests
        return self._draws_by_builder[key]

    def compare_workers(self) -> None:
        """Compare what two loader workers draw, in one pair for everything that draws and can run there."""
        cpu = torch.device("cpu")
        cells = [
            cell
            for cell in self.cells.values()
            if cell.lane is not None and cell.lane.declared != "fixed" and cell.subject not in PHOTOGRAPH_RECIPES
            and not find_backend(cell.backend).compiled and find_backend(cell.backend).why_not(cpu) is None
        ]  # fmt: skip
        for cell, check in zip(cells, check_workers([(ops_of(cell), cell.backend) for cell in cells]), strict=True):
            cell.checks.append(check)


def measure_draws(op: Op, recorder: Recorder, n: int, shape: tuple[int, int], where: str = "") -> list[DrawTest]:
    """Test ``n`` draws for images of ``shape`` against the laws. ``where`` names a shape that is not a benchmarked one."""
    draws_noise = any(isinstance(distribution, Normal) for distribution in op.draws)  # for every pixel
    drawn = observe(op, recorder.sample(-(-n // (3 * math.prod(shape))) if draws_noise else n, shape), shape)
    tests = []
    for name, law in laws(op, shape).items():
        values = drawn.get(name, np.empty(0))
        tests.append(DrawTest(name + where, str(law), len(values), *law.test(values)))
    return tests


def _draws_window(op: Op) -> bool:
    return any(isinstance(distribution, Window) for distribution in op.draws)
