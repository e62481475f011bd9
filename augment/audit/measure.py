"""Measurements: each op and recipe on a backend, not yet judged."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from augment import build, resolve
from augment.audit.checks import check_determinism, check_safety, check_workers
from augment.audit.explain import explain, explain_isolated
from augment.audit.images import at_size, edge_images, noise_images, plain_image
from augment.audit.lanes import measure_lane, recipe_lane
from augment.audit.laws import laws, observe, pinned_draw
from augment.audit.outputs import BATCH, compare_outputs
from augment.audit.parity import NUM_CLASSES, ROUNDING, Draw, Replay, classify, replay, worst_mean
from augment.audit.record import CLASSES, Class, DrawTest, Parity, Verdict
from augment.backends import BACKENDS, check_supported, find_backend, known_differences
from augment.distributions import Choice, Normal, Window
from augment.op import OPS, Op, UnsupportedOp
from augment.recipes import PHOTOGRAPH_RECIPES
from augment.replay import NoRoute, Recorder, Traced

Kind = Literal["op", "recipe"]
Source = tuple[Any, ...]
SIZES = (32, 224)
PHOTOGRAPH_SIZE = 256
EAGER = ((32, 48, 24), (224, 8, 4))
COMPILED = ((32, 32, 2),)
"""Image size, images and calls of the parity measurements; each shape and setting of a compiled op costs a compilation."""
REFERENCE = "torchvision_loop"
"""Backend whose outputs others are compared with where their draws cannot be read."""
EDGE_SIZE = 23
"""Side of the images of extreme values: odd, and a centre crop's margin is 3, half of which is rounded up to an even number."""
ELONGATED = (24, 96)
"""Height and width on which the fallback of a resized crop's window happens."""


def ops_of(cell: Verdict) -> tuple[Op, ...]:
    """Return the ops of a subject at its benchmarked image size."""
    return resolve(cell.subject, _size_of(cell))


def _size_of(cell: Verdict) -> int:
    return PHOTOGRAPH_SIZE if cell.subject in PHOTOGRAPH_RECIPES else SIZES[0]


class Results(NamedTuple):
    """Measurements so far; recipes reuse those of their ops."""

    cells: dict[tuple[str, str], Verdict]
    """Measured cells by subject and backend."""
    lanes: dict[tuple[Op, str], str]
    sources: dict[tuple[Op, str], Source]
    """Key of what draws for an op on a backend; backends that share a builder share it."""
    tests: dict[Source, list[DrawTest]]
    """Tests by what draws; those of outputs, where draws cannot be read, by subject and backend."""

    def merge(self, results: "Results") -> None:
        """Add results that are new."""
        tables: Iterator[tuple[dict[Any, Any], dict[Any, Any]]] = zip(self, results, strict=True)
        for table, additions in tables:
            table.update({key: value for key, value in additions.items() if key not in table})


@dataclass(kw_only=True)
class Measurements:
    """Measure subjects one by one. ``devices``: by backend. ``images``: uint8 [3, H, W] each, of any sizes.

    Every subject starts from the seed, so that its results do not depend on what was measured before.
    """

    n: int
    seed: int
    images: Sequence[Tensor]
    devices: Mapping[str, torch.device]
    results: Results = field(default_factory=lambda: Results({}, {}, {}, {}))

    def __post_init__(self) -> None:
        self._photographs = {size: at_size(self.images, size) for size in (*SIZES, 64, PHOTOGRAPH_SIZE)}

    def measure_subject(self, kind: Kind, subject: str) -> Results:
        """Measure an op or a recipe on all backends."""
        for backend in self.devices:
            self.results.cells[subject, backend] = cell = Verdict(subject=subject, kind=kind, backend=backend)
            try:
                self._measure(cell)
            except UnsupportedOp as error:
                cell.verdict, cell.cause = "unsupported", str(error)
            except NoRoute as error:
                cell.verdict, cell.cause = "unaudited", str(error)
            except Exception as error:  # whatever a library raises: this cell is not audited, the others are
                cell.verdict, cell.cause = "unaudited", f"it raises {type(error).__name__}: {error}"
        return self.results

    def _measure(self, cell: Verdict) -> None:
        ops, size, device = ops_of(cell), _size_of(cell), self.devices[cell.backend]
        check_supported(ops, cell.backend, device=device)
        traced = self._trace(ops, cell.backend)
        for op in ops:
            if (op, cell.backend) not in self.results.lanes:
                torch.manual_seed(self.seed)
                cell.lane = measure_lane(self._trace([op], cell.backend), plain_image(size), device)
                self.results.lanes[op, cell.backend] = cell.lane.measured
        torch.manual_seed(self.seed)
        if cell.kind == "recipe":
            lanes = {op.name: self.results.lanes[op, cell.backend] for op in ops}
            cell.lane = recipe_lane(traced, lanes, plain_image(size), device)
        if not find_backend(cell.backend).compiled:
            pipeline = build(ops, cell.backend, device=device, image_size=size, num_classes=NUM_CLASSES)
            cell.checks += check_determinism(pipeline, device, size, self.seed)
            cell.checks += check_safety(pipeline, device, size, self.seed) if cell.kind == "op" else []
        if traced.reasons:
            self._measure_outputs(cell, traced)
            return
        self._op_parity(cell, ops[0]) if cell.kind == "op" else self._recipe_parity(cell, traced)
        for op in ops:
            if (op, cell.backend) not in self.results.sources:
                if cell.kind == "recipe":
                    torch.manual_seed(self.seed)
                self._test_draws(op, cell.backend)
        if cell.kind == "op" and not find_backend(cell.backend).compiled:
            self._edge_parity(cell, OPS[cell.subject].at(EDGE_SIZE))

    def _trace(self, ops: Sequence[Op], backend: str) -> Traced:
        chosen = find_backend(backend)
        if chosen.compiled:
            torch.compiler.reset()  # past eight compilations of the same code dynamo would run eager in silence
        try:
            return chosen.trace(ops, device=self.devices[backend], num_classes=NUM_CLASSES)
        except NoRoute as problem:
            pipeline = build(ops, backend, device=self.devices[backend], num_classes=NUM_CLASSES)
            return Traced(pipeline, [None] * len(ops), [str(problem)])

    def _replay(self, traced: Traced, images: Tensor, **options: Any) -> Replay:
        return replay(traced, images, self.devices[traced.pipeline.backend], **options)

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
                self._pinned_parity(cell, pinned, size, 4)
        if classify(cell.parity) != "exact":
            places = [choice.places for choice in op.draws if isinstance(choice, Choice) and choice.places]
            if places and getattr(op, places[0]) > 1:  # an op of the policy at a time tells which of them differ
                single = dataclasses.replace(op, **{places[0]: 1})  # type: ignore[type-var]
                draws += self._as_drawn(single, cell.backend, self._images("photographs", SIZES[0], 96), 48).draws
            cell.cause = explain(draws)
        if _draws_window(op) and not is_compiled:
            measured = self._as_drawn(op, cell.backend, self._images("photographs", 64, 24), 12)
            shrinking = measured.parity("photographs", 64, "shrinking")
            _add_note(cell, shrinking, measured.draws, "exact", "where images shrink")

    def _pinned_parity(self, cell: Verdict, setting: Op, size: int, count: int) -> list[Draw]:
        """Measure a setting whose parameters need not be read; nothing where it is random."""
        if (draw := pinned_draw(setting, (size, size))) is None:
            return []
        measured = self._replay(self._trace([setting], cell.backend), self._images("photographs", size, count), draw=draw)
        cell.parity.append(measured.parity("photographs", size, "pinned"))
        return measured.draws

    def _as_drawn(self, op: Op, backend: str, images: Tensor, calls: int) -> Replay:
        """Replay an op as it draws; where it happens at random, half of the calls have p = 1, a path of its own in Kornia."""
        measured = Replay()
        settings = [op, certain(op)] if 0 < getattr(op, "p", 1.0) < 1 else [op]
        for setting, part in zip(settings, images.chunk(len(settings)), strict=True):
            self._replay(self._trace([setting], backend), part, calls=max(calls // len(settings), 1), into=measured)
        return measured

    def _edge_parity(self, cell: Verdict, op: Op) -> None:
        """Note where images at the edges of what ops meet differ more than others."""
        measured = self._replay(self._trace([certain(op)], cell.backend), edge_images(EDGE_SIZE))
        edges = measured.parity("edges", EDGE_SIZE, "edges")
        _add_note(cell, edges, measured.draws, classify(cell.parity), "on flat or two-level images of odd size")

    def _recipe_parity(self, cell: Verdict, traced: Traced) -> None:
        size, errors = _size_of(cell), list[Tensor]()
        count, calls = (48, 24) if size == SIZES[0] else (24, 12)

        def measure(setting: str, *, as_bytes: bool) -> None:
            for kind in ("noise", "photographs"):
                torch.manual_seed(self.seed)  # both settings get the same draws
                measured = self._replay(traced, self._images(kind, size, count), calls=calls, as_bytes=as_bytes)
                cell.parity.append(measured.parity(kind, size, setting))
                errors.extend(measured.errors)

        measure("as drawn", as_bytes=True)
        if classify(cell.parity) != "exact":
            # a PIL image holds bytes, whatever it was made from
            if find_backend(cell.backend).library != "pil" and worst_mean(cell.parity) <= ROUNDING:
                measure("fed floats", as_bytes=False)
            cell.cause = "; ".join(self._explain_ops(cell, size, count, calls)) or explain_isolated(errors)

    def _explain_ops(self, cell: Verdict, size: int, count: int, calls: int) -> Iterator[str]:
        """Yield which of a recipe's ops differ at the recipe's settings, and why."""
        for op in ops_of(cell):
            audited = self.results.cells.get((op.name, cell.backend))
            if audited is not None and ops_of(audited) == (op,) and audited.verdict != "unaudited":
                if audited.cause:
                    yield f"{op.name}: {audited.cause}"
            elif not op.mixes_labels:
                measured = self._as_drawn(op, cell.backend, self._images("photographs", size, count), calls)
                if classify([measured.parity("photographs", size, "as drawn")]) != "exact":
                    yield f"{op.name}: {explain(measured.draws) or 'unexplained'}"

    # ---- distributions -------------------------------------------------------------------------------------------------

    def _test_draws(self, op: Op, backend: str) -> None:
        """Test what a builder draws for an op, once for all backends that share it.

        Where each draw costs a call, a recipe's other setting of an op is represented by that of ``OPS``.
        """
        recorder = self._trace([op], backend).recorders[0]
        if recorder is None or not op.draws:
            return
        builder = next(name for name, spec in BACKENDS.items() if spec.cell(op) is find_backend(backend).cell(op))
        setting: Any = type(op) if recorder.draws_singly else op
        source = (setting, builder, self.devices[backend], recorder.draws_singly)
        self.results.sources[op, backend] = source
        if source in self.results.tests:
            return
        size = PHOTOGRAPH_SIZE if getattr(op, "size", 0) > SIZES[0] else SIZES[0]
        tests = measure_draws(op, recorder, self.n, (size, size))
        if _draws_window(op) and not recorder.draws_singly:
            tests += measure_draws(op, recorder, self.n, ELONGATED, f" at {ELONGATED[0]}x{ELONGATED[1]}")
        self.results.tests[source] = tests

    def _measure_outputs(self, cell: Verdict, traced: Traced) -> None:
        """Measure pixels of a setting without randomness, and the law of the outputs: what is drawn cannot be read."""
        ops, size, reason = ops_of(cell), _size_of(cell), traced.reasons[0]
        backend, reference = find_backend(cell.backend), find_backend(REFERENCE)
        is_alone = backend.library == reference.library or any(reference.cell(op) is None for op in ops)
        if is_alone or backend.compiled or traced.pipeline.mixes:  # nothing to compare with, too slow, or two images needed
            raise NoRoute(reason)
        cell.cause = f"known by its outputs, {reason}"
        if cell.kind == "op":
            draws = self._pinned_parity(cell, certain(OPS[cell.subject].pinned(size) or ops[0]), size, 24)
            if cell.parity:
                cell.notes.append(cell.cause)
                cell.cause = explain(draws) if classify(cell.parity) != "exact" else ""
        if any(op.draws for op in ops):
            torch.manual_seed(self.seed)
            batch = BATCH if cell.lane and cell.lane.measured == "per_image" else 1
            image = plain_image(size).to(self.devices[cell.backend])
            tests = compare_outputs(traced.pipeline, build(ops, REFERENCE), image, self.n, batch=batch)
            self.results.tests[cell.subject, cell.backend] = tests
        elif not cell.parity:
            raise NoRoute(reason)

    def tests_of(self, cell: Verdict) -> list[tuple[str, str, list[DrawTest]]]:
        """Return what draws, the declared difference and the tests: of each op of a cell, or of its outputs."""
        tests, sources, library = self.results.tests, self.results.sources, find_backend(cell.backend).library
        if outputs := tests.get((cell.subject, cell.backend)):
            return [(cell.subject, known_differences(ops_of(cell), cell.backend) or "", outputs)]
        keys = [(op, sources.get((op, cell.backend), ())) for op in ops_of(cell)]
        return [(op.name, op.differs.get(library, ""), tests.get(key, [])) for op, key in keys]

    def compare_workers(self) -> None:
        """Compare what two loader workers draw, in one pair for everything that draws and can run there."""
        cpu = torch.device("cpu")
        forking = {name for name, b in BACKENDS.items() if b.forks and not b.compiled and b.why_not(cpu) is None}
        cells = [
            cell
            for cell in self.results.cells.values()
            if cell.lane is not None and cell.lane.declared != "fixed" and cell.subject not in PHOTOGRAPH_RECIPES
            and cell.backend in forking
        ]  # fmt: skip
        for cell, check in zip(cells, check_workers([(ops_of(cell), cell.backend) for cell in cells]), strict=True):
            cell.checks.append(check)


def _add_note(cell: Verdict, measured: Parity, draws: Sequence[Draw], usual: Class, where: str) -> None:
    """Add errors outside the benchmarked setting to a cell, with a note if they are worse than the ``usual`` class."""
    cell.parity.append(measured)
    if CLASSES.index(verdict := classify([measured])) > CLASSES.index(usual):
        cause = explain(draws) or cell.cause or "unexplained"
        cell.notes.append(f"{verdict} {where} ({cause}; mean {measured.mean_error:.2g}/255)")


def certain(op: Op) -> Op:
    """Return an op as it is where it happens for certain."""
    return dataclasses.replace(op, p=1.0) if hasattr(op, "p") else op  # type: ignore[type-var]


def measure_draws(op: Op, recorder: Recorder, n: int, shape: tuple[int, int], where: str = "") -> list[DrawTest]:
    """Test ``n`` draws for images of ``shape`` against the laws. ``where`` names a shape that is not a benchmarked one."""
    draws_noise = any(isinstance(distribution, Normal) for distribution in op.draws)  # for every pixel
    drawn = observe(op, recorder.sample(-(-n // (3 * math.prod(shape))) if draws_noise else n, shape), shape)
    return [law.test(drawn.get(name, np.empty(0)), name + where) for name, law in laws(op, shape).items()]


def _draws_window(op: Op) -> bool:
    return any(isinstance(distribution, Window) for distribution in op.draws)
