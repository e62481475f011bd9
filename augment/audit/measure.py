"""Measurements: each op and recipe on a backend, not yet judged."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import build, resolve
from augment.audit.checks import check_determinism, check_safety, check_workers
from augment.audit.explain import explain
from augment.audit.images import at_size, noise_images, plain_image
from augment.audit.lanes import measure_lane, recipe_lane
from augment.audit.laws import laws, observe, pinned_draw
from augment.audit.parity import NUM_CLASSES, ROUNDING, Call, Replay, classify, replay, worst_mean
from augment.audit.record import Check, Lane, Parity
from augment.audit.statistics import Result
from augment.backends import check_supported, find_backend
from augment.distributions import Choice, Window
from augment.op import OPS, Op, UnsupportedOp
from augment.recipes import PHOTOGRAPH_RECIPES
from augment.replay import NoRoute, Recorder, Traced

SIZES = (32, 224)
PHOTOGRAPH_SIZE = 256
EAGER = ((32, 48, 24), (224, 8, 4))
COMPILED = ((32, 32, 2),)
"""Image size, images and calls of the parity measurements; each shape and setting of a compiled op costs a compilation."""
ELONGATED = (24, 96)
"""Height and width on which the fallback of a resized crop's window happens."""


@dataclass(frozen=True)
class DrawnQuantity:
    """Draws of one quantity of an op, tested against its law."""

    parameter: str
    law: str
    n: int
    result: Result
    is_decisive: bool = True
    """Whether the image size is a benchmarked one."""


@dataclass
class Facts:
    """Measurements of one op or recipe on one backend, before judging. ``draws``: the tests of each op."""

    ops: tuple[Op, ...]
    kind: str
    unsupported: str = ""
    unaudited: str = ""
    lane: Lane | None = None
    parity: list[Parity] = field(default_factory=list)
    cause: str = ""
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    draws: list[list[DrawnQuantity]] = field(default_factory=list)


class Measurements:
    """Measure op after op and recipe after recipe; ``facts`` holds the results by (subject, backend).

    ``device`` may be changed between calls. ``images``: uint8 [3, H, W] each, of any sizes.
    """

    def __init__(self, *, n: int, seed: int, device: torch.device, images: Sequence[Tensor]) -> None:
        self.n, self.seed, self.device = n, seed, device
        self.photographs = {size: at_size(images, size) for size in (*SIZES, 64, PHOTOGRAPH_SIZE)}
        self.facts: dict[tuple[str, str], Facts] = {}
        self._draws: dict[tuple[Any, ...], list[DrawnQuantity]] = {}
        self._lanes: dict[tuple[Op, str], str] = {}

    def measure(self, subject: str, kind: str, backend: str) -> None:
        """Measure an op or a recipe on a backend."""
        size = PHOTOGRAPH_SIZE if subject in PHOTOGRAPH_RECIPES else SIZES[0]
        self.facts[subject, backend] = facts = Facts(ops=resolve(subject, size), kind=kind)
        try:
            check_supported(facts.ops, backend, device=self.device)
            traced = self._trace(facts.ops, backend)
        except UnsupportedOp as problem:
            facts.unsupported = str(problem)
            return
        except NoRoute as problem:
            facts.unaudited = str(problem)
            return
        torch.manual_seed(self.seed)
        is_op = kind == "op"
        image = plain_image(size)
        facts.lane = self._op_lane(traced, image) if is_op else self._recipe_lane(traced, image)
        if not find_backend(backend).compiled:
            pipeline = build(facts.ops, backend, device=self.device, image_size=size, num_classes=NUM_CLASSES)
            facts.checks += check_determinism(pipeline, self.device, size, self.seed)
            facts.checks += check_safety(pipeline, self.device, size, self.seed) if is_op else []
        if traced.reasons:
            facts.unaudited = traced.reasons[0]
        else:
            self._op_parity(facts, subject, backend) if is_op else self._recipe_parity(facts, traced, size)
            facts.draws = [self._drawn_quantities(op, backend) for op in facts.ops]

    def _trace(self, ops: Sequence[Op], backend: str) -> Traced:
        chosen = find_backend(backend)
        if chosen.compiled:
            torch.compiler.reset()  # past eight compilations of the same code dynamo would run eager in silence
        return chosen.trace(ops, device=self.device, num_classes=NUM_CLASSES)

    def _op_lane(self, traced: Traced, image: Tensor) -> Lane:
        lane = measure_lane(traced, image, self.device)
        self._lanes[traced.pipeline.ops[0], traced.pipeline.backend] = lane.measured
        return lane

    def _recipe_lane(self, traced: Traced, image: Tensor) -> Lane:
        backend = traced.pipeline.backend
        for op in traced.pipeline.ops:
            if (op, backend) not in self._lanes:
                self._op_lane(self._trace([op], backend), image)
        measured = {op.name: self._lanes[op, backend] for op in traced.pipeline.ops}
        return recipe_lane(traced, measured, image, self.device)

    def _images(self, kind: str, size: int, count: int) -> Tensor:
        if kind == "noise":
            return noise_images(count, size, self.seed)
        return self.photographs[size][torch.arange(count) % len(self.photographs[size])]

    # ---- pixels --------------------------------------------------------------------------------------------------------

    def _op_parity(self, facts: Facts, subject: str, backend: str) -> None:
        calls: list[Call] = []
        is_compiled = find_backend(backend).compiled
        for size, count, batches in COMPILED if is_compiled else EAGER:
            for kind in ("photographs", "noise"):
                measured = self._as_drawn(OPS[subject].at(size), backend, self._images(kind, size, count), batches)
                facts.parity.append(measured.errors.parity(kind, size, "as drawn"))
                calls += measured.calls
            if not is_compiled:
                self._pinned_parity(facts, OPS[subject].pinned(size), backend, size)
        if classify(facts.parity) != "exact":
            op = facts.ops[0]
            places = [d.places for d in op.draws if isinstance(d, Choice) and d.places]
            if places and getattr(op, places[0]) > 1:  # an op of the policy at a time tells which of them differ
                single = dataclasses.replace(op, **{places[0]: 1})  # type: ignore[type-var]
                calls = self._as_drawn(single, backend, self._images("photographs", SIZES[0], 96), 48).calls
            facts.cause = explain(op, calls)
        if _draws_window(facts.ops[0]) and not is_compiled:
            self._shrinking_parity(facts, backend)

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

    def _pinned_parity(self, facts: Facts, op: Op | None, backend: str, size: int) -> None:
        draw = None if op is None else pinned_draw(op, (size, size))
        if op is not None and draw is not None:
            images = self._images("photographs", size, 4)
            measured = replay(self._trace([op], backend), images, self.device, calls=1, draw=draw)
            facts.parity.append(measured.errors.parity("photographs", size, "pinned"))

    def _shrinking_parity(self, facts: Facts, backend: str) -> None:
        measured = self._as_drawn(facts.ops[0], backend, self._images("photographs", 64, 24), 12)
        parity = measured.errors.parity("photographs", 64, "shrinking")
        facts.parity.append(parity)
        if (verdict := classify([parity])) != "exact":
            cause = explain(facts.ops[0], measured.calls) or "unexplained"
            facts.notes.append(f"{verdict} where images shrink ({cause}; mean {parity.mean_error:.2g}/255)")

    def _recipe_parity(self, facts: Facts, traced: Traced, size: int) -> None:
        backend = traced.pipeline.backend
        count, calls = (48, 24) if size == SIZES[0] else (24, 12)

        def measure(setting: str, *, as_bytes: bool) -> None:
            for kind in ("noise", "photographs"):
                torch.manual_seed(self.seed)  # both settings get the same draws
                measured = replay(traced, self._images(kind, size, count), self.device, calls=calls, as_bytes=as_bytes)
                facts.parity.append(measured.errors.parity(kind, size, setting))

        measure("as drawn", as_bytes=True)
        if classify(facts.parity) != "exact":
            # a PIL image holds bytes, whatever it was made from
            if find_backend(backend).library != "pil" and worst_mean(facts.parity) <= ROUNDING:
                measure("fed floats", as_bytes=False)
            facts.cause = "; ".join(self._explain_ops(facts, backend, size, count, calls))

    def _explain_ops(self, facts: Facts, backend: str, size: int, count: int, calls: int) -> Iterator[str]:
        """Yield which of a recipe's ops differ at the recipe's settings, and why."""
        for op in facts.ops:
            audited = self.facts.get((op.name, backend))
            if audited is not None and audited.ops == (op,) and not audited.unaudited:
                if audited.cause:
                    yield f"{op.name}: {audited.cause}"
            elif not op.mixes_labels:
                measured = self._as_drawn(op, backend, self._images("photographs", size, count), calls)
                if classify([measured.errors.parity("photographs", size, "as drawn")]) != "exact":
                    yield f"{op.name}: {explain(op, measured.calls) or 'unexplained'}"

    # ---- distributions -------------------------------------------------------------------------------------------------

    def _drawn_quantities(self, op: Op, backend: str) -> list[DrawnQuantity]:
        """Test what a builder draws for an op, once for all backends that share it.

        Where each draw costs a call, a recipe's other setting of an op is represented by that of ``OPS``.
        """
        recorder = self._trace([op], backend).recorders[0]
        if recorder is None or not op.draws:
            return []
        key = (op, id(find_backend(backend).cell(op)), self.device, recorder.draws_singly)
        represented = [draws for other, draws in self._draws.items() if (type(other[0]), *other[1:]) == (type(op), *key[1:])]
        if recorder.draws_singly and represented:
            return represented[0]
        if key not in self._draws:
            size = PHOTOGRAPH_SIZE if getattr(op, "size", 0) > SIZES[0] else SIZES[0]
            self._draws[key] = measure_draws(op, recorder, self.n, (size, size))
            if _draws_window(op) and not recorder.draws_singly:
                where = f" at {ELONGATED[0]}x{ELONGATED[1]}"
                self._draws[key] += measure_draws(op, recorder, self.n, ELONGATED, where)
        return self._draws[key]

    def workers(self) -> None:
        """Compare what two loader workers draw, in one pair for everything that draws and can run there."""
        cpu = torch.device("cpu")
        keys = [
            (subject, backend)
            for (subject, backend), facts in self.facts.items()
            if facts.lane is not None and facts.lane.declared != "fixed" and subject not in PHOTOGRAPH_RECIPES
            and not find_backend(backend).compiled and find_backend(backend).why_not(cpu) is None
        ]  # fmt: skip
        checks = check_workers([(self.facts[key].ops, key[1]) for key in keys])
        for key, check in zip(keys, checks, strict=True):
            self.facts[key].checks.append(check)


def measure_draws(op: Op, recorder: Recorder, n: int, shape: tuple[int, int], where: str = "") -> list[DrawnQuantity]:
    """Test ``n`` draws for images of ``shape`` against the laws. ``where`` names a shape that is not a benchmarked one."""
    drawn = observe(op, recorder.sample(n, shape), shape)
    quantities = []
    for name, law in laws(op, shape).items():
        values = drawn.get(name, np.empty(0))
        quantities.append(DrawnQuantity(name + where, str(law), len(values), law.test(values), not where))
    return quantities


def _draws_window(op: Op) -> bool:
    return any(isinstance(distribution, Window) for distribution in op.draws)
