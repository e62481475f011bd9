"""Gathering the evidence: each op and recipe on a backend, measured and not yet judged."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augment import catalog
from augment.audit.checks import determinism, safety, two_workers
from augment.audit.columns import MIXES, POLICIES, NoRoute, Recorder
from augment.audit.draws import laws, observe
from augment.audit.explain import explain
from augment.audit.images import at_size, noise_images, plain_image
from augment.audit.lanes import measure_lane, recipe_lane
from augment.audit.laws import Result, describe
from augment.audit.parity import NUM_CLASSES, ROUNDING, Kept, Replay, classify, means, replay
from augment.audit.pinned import pinned_columns
from augment.audit.replay import trace
from augment.audit.verdicts import Check, Lane, Parity
from augment.ops import Op
from augment.recipes import PHOTOGRAPH_RECIPES
from augment.rows.row import UnsupportedOp

SIZES = (32, 224)
PHOTOGRAPH_SIZE = 256
EAGER = ((32, 48, 24), (224, 8, 4))
COMPILED = ((32, 32, 2),)
"""Image size, images and calls of the parity measurements; each shape and setting of a compiled op costs a compilation."""
NEVER_DRAWN = Result(statistic=0.0, p_value=0.0, distance=1.0)
CROPS = frozenset({"RandomResizedCrop", "DefaultRandomResizedCrop"})
ELONGATED = (24, 96)
"""Height and width on which the fall-back window of ``CROPS`` happens."""


@dataclass
class Facts:
    """What was measured of one op or recipe on one backend, before judging."""

    ops: tuple[Op, ...]
    kind: str
    unsupported: str = ""
    unaudited: str = ""
    lane: Lane | None = None
    parity: list[Parity] = field(default_factory=list)
    cause: str = ""
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


@dataclass(frozen=True)
class TestedDraws:
    """One tested parameter of one op as one builder draws it."""

    key: tuple[Any, ...]
    parameter: str
    law: str
    n: int
    result: Result


class Evidence:
    """Measures op after op and recipe after recipe; ``facts`` and ``draws`` are what came out.

    ``device`` may be changed between calls. ``images``: uint8 [3, H, W] each, of any sizes.
    """

    def __init__(self, *, n: int, seed: int, device: torch.device, images: Sequence[Tensor]) -> None:
        self.n, self.seed, self.device = n, seed, device
        self.photographs = {size: at_size(images, size) for size in (*SIZES, 64, PHOTOGRAPH_SIZE)}
        self.facts: dict[tuple[str, str], Facts] = {}
        self.draws: dict[tuple[Any, ...], list[TestedDraws]] = {}
        self.lanes: dict[tuple[Op, str], str] = {}

    def _images(self, kind: str, size: int, count: int) -> Tensor:
        if kind == "noise":
            return noise_images(count, size, self.seed).to(self.device)
        photographs = self.photographs[size]
        return photographs[torch.arange(count) % len(photographs)].to(self.device)

    # ---- one op on one backend ----------------------------------------------------------------------------------------

    def op(self, subject: str, backend: str) -> None:
        facts = Facts(ops=catalog.resolve(subject, SIZES[0]), kind="op")
        self.facts[subject, backend] = facts
        if not self._supported(facts, backend):
            return
        torch.manual_seed(self.seed)
        op = facts.ops[0]
        try:
            reasons = trace(facts.ops, backend, device=self.device).reasons
        except NoRoute as problem:
            facts.unaudited = str(problem)
            return
        facts.lane = measure_lane(op, backend, plain_image(SIZES[0]), device=self.device)
        self.lanes[op, backend] = facts.lane.measured
        if not catalog.find_backend(backend).compiled:
            self._checks(facts, backend, SIZES[0])
        if reasons:
            facts.unaudited = reasons[0]
            return
        self._op_parity(facts, subject, backend)
        self._test_draws(op, backend)

    def _supported(self, facts: Facts, backend: str) -> bool:
        try:
            catalog.check_supported(facts.ops, backend, device=self.device)
            trace(facts.ops, backend, device=self.device)
        except UnsupportedOp as problem:
            facts.unsupported = str(problem)
        except NoRoute:
            pass  # said, as unaudited, where the parameters are needed
        return not facts.unsupported

    def _checks(self, facts: Facts, backend: str, size: int) -> None:
        options: dict[str, Any] = {"device": self.device, "image_size": size, "seed": self.seed}
        facts.checks += determinism(facts.ops, backend, **options)
        facts.checks += safety(facts.ops, backend, **options)

    def _op_parity(self, facts: Facts, subject: str, backend: str) -> None:
        kept: list[Kept] = []
        compiled = catalog.find_backend(backend).compiled
        for size, count, calls in COMPILED if compiled else EAGER:
            op = catalog.ROWS[subject].at(size)
            for kind in ("photographs", "noise"):
                measured = self._as_drawn(op, backend, self._images(kind, size, count), calls)
                facts.parity.append(measured.errors.parity(kind, size, "as drawn"))
                kept += measured.kept
            if not compiled:
                self._pinned_parity(facts, subject, backend, size)
        if classify(facts.parity) != "exact":
            if getattr(facts.ops[0], "num_ops", 1) > 1:  # one op at a time tells which of them differ
                alone = dataclasses.replace(facts.ops[0], num_ops=1)  # type: ignore[call-arg]
                kept = self._as_drawn(alone, backend, self._images("photographs", SIZES[0], 96), 48).kept
            facts.cause = explain(facts.ops[0], kept)
        if subject in CROPS and not compiled:
            self._shrinking_parity(facts, backend)

    def _as_drawn(self, op: Op, backend: str, images: Tensor, calls: int) -> Replay:
        """Where an op happens at random, half of the calls make sure that it does: Kornia has a path of its own for p = 1."""
        measured = Replay()
        settings = [op]
        if 0 < getattr(op, "p", 1.0) < 1:
            settings.append(dataclasses.replace(op, p=1.0))  # type: ignore[call-arg]
        for setting, part in zip(settings, images.chunk(len(settings)), strict=True):
            traced = trace([setting], backend, device=self.device, num_classes=NUM_CLASSES)
            replay(traced, part, calls=max(calls // len(settings), 1), into=measured)
        return measured

    def _pinned_parity(self, facts: Facts, subject: str, backend: str, size: int) -> None:
        pinned_at = catalog.ROWS[subject].pinned_at
        images = self._images("photographs", size, 4)
        if pinned_at is None or (known := pinned_columns(pinned_at(size), (size, size), 4)) is None:
            return
        traced = trace([pinned_at(size)], backend, device=self.device, num_classes=NUM_CLASSES)
        measured = replay(traced, images, calls=1, known=known)
        facts.parity.append(measured.errors.parity("photographs", size, "pinned"))

    def _shrinking_parity(self, facts: Facts, backend: str) -> None:
        measured = self._as_drawn(facts.ops[0], backend, self._images("photographs", 64, 24), 12)
        parity = measured.errors.parity("photographs", 64, "shrinking")
        facts.parity.append(parity)
        if (found := classify([parity])) != "exact":
            why = explain(facts.ops[0], measured.kept) or "unexplained"
            facts.notes.append(f"{found} where images shrink ({why}; mean {parity.mean_error:.2g}/255)")

    # ---- distributions ------------------------------------------------------------------------------------------------

    def draw_key(self, op: Op, backend: str) -> tuple[Any, ...]:
        """Backends that share a builder share its draws; Kornia's do not, once told to draw once a batch.

        There each draw costs a call, so a recipe's other setting of an op is represented by the catalog's. Its policies choose
        once a batch either way.
        """
        chosen = catalog.find_backend(backend)
        shared = chosen.library == "kornia" and chosen.draws == "per_batch" and op.name not in POLICIES
        if shared and any((catalog_op := key[0]).name == op.name and key[2] for key in self.draws):
            op = catalog_op
        return (op, id(catalog.ROWS[op.name].build[chosen.library]), shared)

    def _test_draws(self, op: Op, backend: str) -> None:
        key = self.draw_key(op, backend)
        if key in self.draws:
            return
        recorder = trace([op], backend, device=self.device, num_classes=NUM_CLASSES).recorders[0]
        self.draws[key] = []
        size = PHOTOGRAPH_SIZE if getattr(op, "size", 0) > SIZES[0] else SIZES[0]
        nothing_drawn = set(laws(op, (size, size))) <= {"applied"} and getattr(op, "p", 1.0) in (0.0, 1.0)
        if recorder is None or nothing_drawn:
            return
        self._test_at(key, op, recorder, (size, size), shared=key[2])
        if op.name in CROPS and not key[2]:
            self._test_at(key, op, recorder, ELONGATED, shared=key[2], where=f" at {ELONGATED[0]}x{ELONGATED[1]}")

    def _test_at(
        self, key: tuple[Any, ...], op: Op, recorder: Recorder, shape: tuple[int, int], *, shared: bool, where: str = ""
    ) -> None:
        seen = observe(op, recorder.sample(self.n, shape, shared=shared), shape)
        for parameter, law in laws(op, shape).items():
            values = seen.get(parameter, np.empty(0))
            result = law.test(values) if len(values) else NEVER_DRAWN
            self.draws[key].append(TestedDraws(key, parameter + where, describe(law), len(values), result))

    # ---- recipes ------------------------------------------------------------------------------------------------------

    def recipe(self, subject: str, backend: str) -> None:
        size = PHOTOGRAPH_SIZE if subject in PHOTOGRAPH_RECIPES else SIZES[0]
        facts = Facts(ops=catalog.resolve(subject, size), kind="recipe")
        self.facts[subject, backend] = facts
        if not self._supported(facts, backend):
            return
        torch.manual_seed(self.seed)
        try:
            reasons = trace(facts.ops, backend, device=self.device).reasons
        except NoRoute as problem:
            facts.unaudited = str(problem)
            return
        image = plain_image(size)
        for op in facts.ops:
            if (op, backend) not in self.lanes:
                self.lanes[op, backend] = measure_lane(op, backend, image, device=self.device).measured
        measured = {op.name: self.lanes[op, backend] for op in facts.ops}
        facts.lane = recipe_lane(facts.ops, backend, measured, image, self.device)
        if not catalog.find_backend(backend).compiled:
            facts.checks += determinism(facts.ops, backend, device=self.device, image_size=size, seed=self.seed)
        if reasons:
            facts.unaudited = reasons[0]
            return
        self._recipe_parity(facts, backend, size)
        for op in facts.ops:
            self._test_draws(op, backend)

    def _recipe_parity(self, facts: Facts, backend: str, size: int) -> None:
        traced = trace(facts.ops, backend, device=self.device, num_classes=NUM_CLASSES)
        count, calls = (48, 24) if size == SIZES[0] else (24, 12)
        for kind in ("noise", "photographs"):
            torch.manual_seed(self.seed)
            measured = replay(traced, self._images(kind, size, count), calls=calls, as_bytes=True)
            facts.parity.append(measured.errors.parity(kind, size, "as drawn"))
        if classify(facts.parity) != "exact":
            library = catalog.find_backend(backend).library  # a PIL image holds bytes, whatever it was made from
            rounding = library != "pil" and max(means(facts.parity)) <= ROUNDING
            for kind in ("noise", "photographs") if rounding else ():
                torch.manual_seed(self.seed)  # the same draws again
                floats = replay(traced, self._images(kind, size, count), calls=calls)
                facts.parity.append(floats.errors.parity(kind, size, "fed floats"))
            facts.cause = "; ".join(self._explain_ops(facts, backend, size, count, calls))

    def _explain_ops(self, facts: Facts, backend: str, size: int, count: int, calls: int) -> Iterator[str]:
        """Which of a recipe's ops differ at the recipe's settings, and why."""
        for op in facts.ops:
            known = self.facts.get((op.name, backend))
            if known is not None and known.ops == (op,) and not known.unaudited:
                if known.cause:
                    yield f"{op.name}: {known.cause}"
                continue
            if op.name in MIXES:
                continue
            measured = self._as_drawn(op, backend, self._images("photographs", size, count), calls)
            if classify([measured.errors.parity("photographs", size, "as drawn")]) != "exact":
                yield f"{op.name}: {explain(op, measured.kept) or 'unexplained'}"

    def workers(self) -> None:
        """One pair of loader workers for everything that draws and can run there."""
        wanted = [
            key
            for key, facts in self.facts.items()
            if facts.lane is not None and facts.lane.declared != "fixed" and not catalog.find_backend(key[1]).compiled
            and key[0] not in PHOTOGRAPH_RECIPES and catalog.find_backend(key[1]).why_not(torch.device("cpu")) is None
        ]  # fmt: skip
        checks = two_workers([(self.facts[key].ops, key[1]) for key in wanted])
        for key, check in zip(wanted, checks, strict=True):
            self.facts[key].checks.append(check)
