"""``augmark scaling``: training on 1, 2, 4 ... processes, a device each. Imports no torch.

Strong scaling keeps the batch of all processes together, weak scaling the batch of each. Every case runs under torchrun in
processes of its own (``scaling_rank.py``), so that a process that dies costs one case only; with several GPUs the book's
``nn.DataParallel``, one process for all of them, is measured beside. Each case also proves that no two processes drew the same
augmentation.
"""

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from bench.jobs.grid import check_names
from bench.jobs.job import Job, Report, check_options, config_of, data_facts, plan_training, run_job, take
from bench.jobs.throughput import StepOptions, base_config
from bench.presets import preset
from bench.processes import read_output
from bench.records import Scaling, one_line
from training.config import TrainConfig
from training.cpus import usable_cpus

if TYPE_CHECKING:
    from training.data import Dataset

START_S = 300.0
"""Seconds that a case may take beyond its measurement, to start its processes and compile; then it is ended."""


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(StepOptions):
    """Options of ``augmark scaling``; None takes the quick preset's value for the device."""

    processes: tuple[int, ...] | None = None
    """Numbers of processes (default: 1, 2, 4 ... up to all GPUs; on a CPU 1 and 2, which share its cores)."""
    recipe: str = "crop_flip"
    """The augmentation, which runs on each process's device."""
    backend: str = "fused"
    """The library that augments."""


class Task(msgspec.Struct):
    """Work of the processes of a case, as they read it."""

    case: Scaling
    config: TrainConfig
    seconds: float


def plan_cases(base: TrainConfig, dataset: "Dataset", processes: tuple[int, ...], *, gpus: int, cores: int) -> list[Scaling]:
    """Return a case per number of processes and sort of scaling; with several GPUs one of DataParallel beside each."""

    def case(count: int, scaling: str, config: TrainConfig, parallel: str) -> Scaling:
        facts = {"processes": count, "scaling": scaling, "parallel": parallel, "cores": cores}
        return plan_training(Scaling, config, dataset, **facts)

    cases = []
    for count in processes:
        if count == 1:
            cases.append(case(1, "one", base, "none"))
            continue
        for scaling, batch_size in {"strong": base.batch_size, "weak": base.batch_size * count}.items():
            config = replace(base, batch_size=batch_size)
            cases.append(case(count, scaling, config, "ddp"))
            if gpus > 1:
                cases.append(case(count, scaling, config, "data_parallel"))
    return cases


# ---- a case -----------------------------------------------------------------------------------------------------------


def run_processes(case: Scaling, base: TrainConfig, *, seconds: float) -> Scaling:
    """Measure a case in processes of its own and return its record; a failed one has the reason."""
    with tempfile.TemporaryDirectory(prefix="augmark-scaling-") as folder:
        task, result = Path(folder) / "task.json", Path(folder) / "result.json"
        work = Task(case=case, config=config_of(case, base), seconds=seconds)
        task.write_bytes(msgspec.json.encode(work, enc_hook=str))
        status, output = read_output(_command(case, task, result), START_S + 10 * seconds, env=_variables(case, base.device))
        if status == 0 and result.exists():
            return msgspec.json.decode(result.read_bytes(), type=Scaling)
    return msgspec.structs.replace(case, status="failed", reason=_find_reason(output, status))


def _command(case: Scaling, task: Path, result: Path) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"]
    launcher = [] if case.parallel == "data_parallel" else torchrun
    return [sys.executable, *launcher, "-m", "bench.jobs.scaling_rank", str(task), str(result)]


def _variables(case: Scaling, device: str) -> dict[str, str]:
    """Return the environment of a case's processes. On a CPU each gets cores // processes threads, one at least."""
    variables = {**os.environ, "PYTHONSAFEPATH": "1"}  # a folder called bench here is not ours
    count = case.processes or 1
    if device == "cpu":
        variables["OMP_NUM_THREADS"] = str(max(1, (case.cores or 1) // count))
    if case.parallel == "data_parallel":
        visible = [name for name in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        variables["CUDA_VISIBLE_DEVICES"] = ",".join((visible or [str(i) for i in range(count)])[:count])
    return variables


def _find_reason(output: str, status: int | None) -> str:
    """Return the line in which a process named its mistake, else the last line that names an error."""
    if status is None:
        return "the processes did not end in time"
    lines = [line.strip() for line in output.splitlines()]
    mistakes = [line.partition("error: ")[2] for line in lines if "error: " in line and not line.startswith("[")]
    errors = [line for line in lines if "Error: " in line]
    return one_line(([*mistakes[:1], *errors[-1:]] or [f"exit status {status}, without output"])[0])


# ---- the command ------------------------------------------------------------------------------------------------------


def scaling(options: ScalingOptions, console: Console, report: Report) -> Path:
    """Measure what the options ask for and write the report. Returns the run folder.

    Raises ValueError (nothing was measured: more processes than GPUs, a name, device or data set that does not exist), OSError
    (results cannot be written), KeyboardInterrupt (after the report of what there is).
    """
    import torch

    from augment import BACKENDS, RECIPES
    from training.distributed import resolve_device

    check_names("backend", (options.backend,), BACKENDS)
    check_names("recipe", (options.recipe,), RECIPES)
    check_options(options)
    if not BACKENDS[options.backend].on_device:
        raise ValueError(f"backend {options.backend} works image by image on the CPU: take one that runs where the model is")
    kind = resolve_device(options.device).type
    gpus = torch.accelerator.device_count() if kind != "cpu" else 0
    chosen, cores = preset("quick", kind), usable_cpus()
    base = base_config(
        options, chosen, kind, recipe=options.recipe, backend=options.backend, resident=True, max_test=chosen.max_test
    )
    counts = process_counts(options, base, gpus)
    dataset = options.load(max_train=base.max_train, max_test=base.max_test)
    if base.device == "cpu" and max(counts) > 1:
        console.print(f"on a CPU the processes share its {cores} cores: each gets {cores} // processes threads, one at least")
    cases = plan_cases(base, dataset, counts, gpus=gpus, cores=cores)
    seconds = take(options.seconds, 2 * chosen.throughput_seconds)

    def measure(case: Scaling) -> Scaling:
        return run_processes(case, base, seconds=seconds)

    job = Job(
        name="scaling", suite="scaling", device=base.device, cases=tuple(cases),
        dataset=data_facts(dataset), open=lambda folder: measure, rounds=take(options.rounds, chosen.throughput_rounds),
    )  # fmt: skip
    return run_job(job, options, console, report)


def process_counts(options: ScalingOptions, base: TrainConfig, gpus: int) -> tuple[int, ...]:
    """Return the numbers of processes, ascending. Raises ValueError for an impossible one."""
    most = gpus or 2
    counts = take(options.processes, tuple(sorted({*(2**i for i in range(10) if 2**i <= most), most})))
    for count in counts:
        if count < 1:
            raise ValueError(f"processes must be at least 1, got {count}")
        if base.device != "cpu" and count > gpus:
            raise ValueError(f"{count} processes need {count} GPUs, this machine has {gpus}: take at most --processes {gpus}")
        if base.batch_size % count:
            raise ValueError(f"batch_size {base.batch_size} cannot be shared by {count} processes: take a multiple")
    return tuple(sorted(set(counts)))
