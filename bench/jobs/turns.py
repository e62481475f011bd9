"""``augmark turns A B``: two installations measured in turns, so that what drifts between two runs cancels.

A is a folder with the project's code, or a Python interpreter with other libraries. A pair of fresh processes, one of each,
measures every case in turns, round after round; then comes the next pair, since processes of the same code differ. Each side is
stored as a run, and ``augmark compare`` of the two takes a pair of processes as one observation. No torch at import.
"""

import contextlib
import functools
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console

from bench.changes import Limits
from bench.compare import compare
from bench.jobs.grid import Grid, plan
from bench.jobs.job import ImageOptions, absolute, announce, check_options, data_facts, duration, once, reporting
from bench.noise import isolate, watch
from bench.processes import spawn
from bench.records import PLAN, Environment, Plan, Speed, append, holds_run, one_line, write
from bench.runner import measure_case, start

S = TypeVar("S", Environment, Speed)
ROOT = Path(__file__).resolve().parents[2]
SERVER = "bench/jobs/turns.py"
TURNS = "turns"
"""Setting of a plan: name that two runs share whose rounds were measured in turns."""
PASS_S = 0.01
"""Seconds of samples a case and round: noise of the machine lasts longer than a call, so many short rounds tell most."""
START_S = 13.0
"""Seconds in which a pair of processes starts and builds its cases."""
CASE_S = 1.5
"""Seconds a case and pair: some 25 rounds of both sides."""
FEWEST_PAIRS, FEWEST_ROUNDS = 6, 3
"""Fewest pairs: of fewer, equal signs alone are no evidence at 5 % (2 / 2^5). Fewest rounds of a pair."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """An installation: an interpreter, and the folder of the code that it runs."""

    python: Path = Path(sys.executable)
    code: Path = ROOT


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place in each turn: a side, and the share of work that is added to its cases and does not count."""

    side: int
    added: float = 0.0


class Worker:
    """A process of one side, which measures what it is asked."""

    def __init__(self, side: Side, images: ImageOptions, device: str) -> None:
        self._side = side
        command = [str(side.python), "-m", "bench.jobs.turns", absolute(images.data), str(images.data_root.absolute()), device]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        self._process = spawn(
            command, cwd=side.code, text=True, env=os.environ | {"PYTHONPATH": str(side.code)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip

    def answer(self, kind: type[S], case: Speed | None = None) -> S:
        """Return what the process answers to a case; to none, its environment once it is ready."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        cause = "its records are those of another version"
        with contextlib.suppress(BrokenPipeError):  # its last words tell more
            self._process.stdin.write("" if case is None else msgspec.json.encode(case).decode() + "\n")
            self._process.stdin.flush()
        with contextlib.suppress(msgspec.MsgspecError):
            if line := self._process.stdout.readline():
                return msgspec.json.decode(line, type=kind)
            self._errors.seek(0)
            words = [text for text in self._errors.read().splitlines() if text.strip()]
            cause = f"{one_line(words[-1]) if words else 'no word of it'} (exit code {self._process.wait()})"
        raise ChildProcessError(f"{self._side.code} by {self._side.python} cannot measure: {cause}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def serve(data: str, data_root: str, device: str) -> None:
    """Answer each case on the standard input with its record on the standard output, a line of JSON each."""
    from bench.clock import Clock, sample
    from bench.environment import environment
    from bench.jobs.inputs import Inputs
    from bench.jobs.speed import Bench

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    inputs, sampler = Inputs(data, Path(data_root)), functools.partial(sample, clock=Clock(device))
    bench = Bench(inputs, PASS_S)
    answers.write(msgspec.json.encode(environment(inputs.dataset)).decode() + "\n")
    for line in sys.stdin:
        case = msgspec.json.decode(line, type=Speed)
        with isolate(case):
            record = measure_case(case, lambda case: bench.measure(case, sampler))
        if record.status != "ok":
            bench.free()  # the next case needs the room
        answers.write(msgspec.json.encode(record).decode() + "\n")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Records of a pair of processes by slot, and the environments of the two."""

    environments: Sequence[Environment]
    slots: Sequence[Sequence[Speed]]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Pairs of processes, each of which measures ``cases`` in all ``slots`` for ``seconds``."""

    sides: Sequence[Side]
    slots: Sequence[Slot]
    cases: Sequence[Speed]
    device: str
    pairs: int
    seconds: float

    def measure(self, images: ImageOptions, console: Console) -> Iterator[Pair]:
        """Yield one pair after the other, and print the time left. Raises ChildProcessError if a process ends."""
        begin, rounds = time.monotonic(), itertools.count(1)  # from 1: what is measured once a case would take long
        for number in range(self.pairs):
            with contextlib.ExitStack() as stack:
                workers = [
                    stack.enter_context(contextlib.closing(Worker(side, images, self.device))) for side in self.sides
                ]  # fmt: skip
                pair = self._measure_pair(workers, number, rounds)
            left_s = (time.monotonic() - begin) / (number + 1) * (self.pairs - number - 1)
            console.print(f"pair {number + 1} of {self.pairs} pairs of processes, {duration(left_s)} left")
            yield pair

    def _measure_pair(self, workers: Sequence[Worker], number: int, rounds: Iterator[int]) -> Pair:
        """Measure all slots of a case one after the other, in an order of their own, round after round."""
        order, records = random.Random(number), [list[Speed]() for _ in self.slots]
        environments = [worker.answer(Environment) for worker in workers]
        deadline = time.monotonic() + self.seconds
        for count, round_number in enumerate(rounds, start=1):
            for case in order.sample(self.cases, len(self.cases)):
                with watch() as machine:
                    turn = {
                        index: _measure_slot(workers[slot.side], case, slot, pair=number, round=round_number)
                        for index, slot in order.sample(list(enumerate(self.slots)), len(self.slots))
                    }
                    disturbance = machine.disturbance()
                for index, record in turn.items():
                    records[index].append(msgspec.structs.replace(record, disturbance=disturbance))
            if count >= FEWEST_ROUNDS and time.monotonic() >= deadline:
                break
        return Pair(environments=environments, slots=records)


def _measure_slot(worker: Worker, case: Speed, slot: Slot, **repetition: int) -> Speed:
    """Measure a round of a case in a slot; images that are added to a batch do not count."""
    batch_size = case.batch_size or 1
    enlarged = msgspec.structs.replace(case, batch_size=round(batch_size * (1 + slot.added)), **repetition)
    record = worker.answer(Speed, enlarged)
    rate = record.images_per_s and record.images_per_s * batch_size / (enlarged.batch_size or 1)
    return msgspec.structs.replace(record, batch_size=batch_size, images_per_s=rate)


# ---- the command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TurnsOptions(ImageOptions, Limits):
    """Options of ``augmark turns``."""

    recipes: tuple[str, ...] = ()
    """Recipes to measure (default: crop_flip, where no ops are named)."""
    ops: tuple[str, ...] = ()
    """Ops to measure."""
    backends: tuple[str, ...] = ("fused", "kornia")
    """Backends to measure them on."""
    batch_size: int = 256
    """Images a call."""
    image_size: int = 32
    """Height of the images, pixels."""
    device: str = "cpu"
    """cpu, cuda:0, ..."""
    minutes: float = 3.0
    """Time for all; more pairs of processes tell smaller differences."""
    out: Path | None = None
    """Folder for the two runs, a and b (default: runs/turns, or turns-2, ...)."""


def turns(a: Path, b: Path, options: TurnsOptions, console: Console) -> int:
    """Measure two installations in turns, store a run of each, compare them, and return the exit code of the comparison.

    Raises:
        ValueError: a side is no installation, or a case cannot be measured.
        ChildProcessError: a side cannot measure, in its own last words.
    """
    options.check()
    check_options(options)
    sides = [find_side(path) for path in (a, b)]
    planned = plan(_grid(options))
    cases = [case for case in planned if case.status == "not_run"]
    if not cases:
        raise ValueError(f"no case can be measured: {planned[0].reason}")
    parent = options.out or next(folder for folder in _numbered(Path("runs") / TURNS) if not folder.exists())
    for name in ("a", "b"):
        if holds_run(parent / name):
            raise ValueError(f"{parent / name} already holds a run: choose another --out")
    pairs = max(FEWEST_PAIRS, round(60 * options.minutes / (START_S + CASE_S * len(cases))))
    seconds = max(1.0, 60 * options.minutes / pairs - START_S)
    about = f"{pairs} pairs of processes, about {duration(pairs * (START_S + seconds))}; results go to {parent}"
    announce(console, f"augmark turns on {options.device}", data_facts(options.load(image_size=32)), about)
    parent.mkdir(parents=True, exist_ok=True)
    slots = (Slot(side=0), Slot(side=1))
    session = Session(sides=sides, slots=slots, cases=cases, device=options.device, pairs=pairs, seconds=seconds)
    shared_plan = Plan(suite=TURNS, cases=tuple(planned), settings={TURNS: uuid.uuid4().hex})
    results: list[int] = []

    def report(folder: Path) -> None:
        results.append(compare(folder / "a", folder / "b", console, options, across_machines=True))

    with reporting(parent, report):
        for pair in session.measure(options, console):
            for name, environment, records in zip(("a", "b"), pair.environments, pair.slots, strict=True):
                folder = parent / name
                if not holds_run(folder):
                    start(folder, shared_plan, environment, options.device)
                for record in records:
                    append(folder, record)
                write(folder / PLAN, msgspec.structs.replace(shared_plan, rounds=records[-1].round))
    return results[0]


def _numbered(folder: Path) -> Iterator[Path]:
    return (folder.with_name(f"{folder.name}-{number}" if number > 1 else folder.name) for number in itertools.count(1))


def _grid(options: TurnsOptions) -> Grid:
    recipes = options.recipes or (() if options.ops else ("crop_flip",))
    return Grid(
        devices=(options.device,), backends=once(options.backends), ops=once(options.ops), recipes=once(recipes),
        batch_sizes=(options.batch_size,), image_sizes=(options.image_size,),
    )  # fmt: skip


def find_side(path: Path) -> Side:
    """Return the installation that a path names. Raises ValueError if it is none."""
    if (path / "bench").is_dir():
        if not (path / SERVER).exists():
            raise ValueError(f"{path} has no {SERVER}: it is older than augmark turns")
        return Side(code=path.absolute())
    if path.is_file() and os.access(path, os.X_OK):
        if not (ROOT / "pyproject.toml").exists():  # beside installed libraries, which would hide those of the interpreter
            raise ValueError("interpreters are compared from a checkout of the project: install it by pip install -e .")
        return Side(python=path.absolute())  # not resolved: an environment's interpreter is a link
    raise ValueError(f"{path} is neither a folder with the project's code nor a Python interpreter")


if __name__ == "__main__":
    serve(*sys.argv[1:])
