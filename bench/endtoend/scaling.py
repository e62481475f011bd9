"""``augmark scaling``: training on 1, 2, 4 ... processes, a device each. No torch at import: ``--help`` answers at once.

Strong scaling keeps the batch of all processes together, weak scaling the batch of each. Every number of processes is a job of
its own under torchrun (``scaling_rank.py``), so that a process that dies costs its job alone; with several GPUs the book's
``nn.DataParallel``, one process for all of them, is measured beside. Each job also proves that no two processes drew the same
augmentation.
"""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from bench.endtoend.outcomes import failure, outcome
from bench.grid.cases import check_names, one_line
from bench.presets import preset
from bench.records.runs import TRAINING, append_training, load_run, run_folder, write_json
from training.config import Precision, TrainConfig

if TYPE_CHECKING:
    from training.data import Dataset

Scaling = Literal["one", "strong", "weak"]
START_S = 300.0
"""Seconds that a job may take beyond its measuring, to start its processes and compile; then it is ended."""


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """What ``augmark scaling`` was asked for; None takes what the quick preset says for the device."""

    processes: tuple[int, ...] | None = None
    """Numbers of processes (default: 1, 2, 4 ... up to all GPUs; on a CPU 1 and 2, which share its cores)."""
    data: str = "auto"
    """auto, cifar10, synthetic or an image folder."""
    data_root: Path = Path("data")
    """Where data sets lie and are cached."""
    recipe: str = "crop_flip"
    """The augmentation, which runs on each process's device."""
    backend: str = "fused"
    """The library that augments."""
    model: str | None = None
    """The model, as in augmark train."""
    width: int | None = None
    """Channels of the model's first stage."""
    batch_size: int = 256
    """Images a step: of all processes together in strong scaling, of each in weak scaling."""
    precision: Precision = "auto"
    """bfloat16 runs the model under autocast; auto takes it on accelerators, float32 on a CPU."""
    seconds: float | None = None
    """Seconds a job and round."""
    rounds: int | None = None
    """Rounds, each with all jobs in an order of its own."""
    max_train: int | None = None
    """Train on a class-balanced subset of at most this many images."""
    device: str = "auto"
    """auto, cpu or cuda."""
    results: Path | None = None
    """Folder of the run (default: results/<date>-<machine>-<device>)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Training on ``processes`` devices; ``together`` is the book's way, one process for all."""

    processes: int
    scaling: Scaling
    config: TrainConfig
    together: bool = False

    @property
    def label(self) -> str:
        """In a few words, for the terminal."""
        batch = f"batch {self.config.batch_size}"
        if self.together:
            return f"DataParallel over {self.processes} GPUs, {self.scaling} scaling, {batch}"
        words = "1 process" if self.processes == 1 else f"{self.processes} processes, {self.scaling} scaling"
        return f"{words}, {batch}"


def jobs(base: TrainConfig, processes: tuple[int, ...], *, gpus: int) -> Iterator[Job]:
    """A job a number of processes and sort of scaling; with several GPUs one of DataParallel beside each."""
    for count in processes:
        if count == 1:
            yield Job(processes=1, scaling="one", config=base)
            continue
        sorts: dict[Scaling, int] = {"strong": base.batch_size, "weak": base.batch_size * count}
        for scaling, batch_size in sorts.items():
            config = replace(base, batch_size=batch_size)
            yield Job(processes=count, scaling=scaling, config=config)
            if gpus > 1:
                yield Job(processes=count, scaling=scaling, config=config, together=True)


# ---- a job ------------------------------------------------------------------------------------------------------------


def run_job(job: Job, dataset: "Dataset", *, seconds: float, cores: int) -> dict[str, Any]:
    """Run a job in processes of its own and return its record; one that failed says why.

    On a CPU the processes share the cores: each gets ``cores`` // processes threads, one at least.
    """
    on_cpu = job.config.device == "cpu"
    threads = max(1, cores // job.processes) if on_cpu else None
    with tempfile.TemporaryDirectory(prefix="augmark-scaling-") as folder:
        told, out = Path(folder) / "job.json", Path(folder) / "record.json"
        config = dataclasses.asdict(job.config) | {"data_root": str(job.config.data_root)}
        write_json(told, {"config": config, "seconds": seconds, "threads": threads})
        status, output = _patiently(_command(job, told, out), _surroundings(job, threads), START_S + 10 * seconds)
        if status == 0 and out.exists():
            record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        else:
            record = failure("scaling", job.config, dataset, _reason(output, status))
    parallel = "data_parallel" if job.together else "ddp" if job.processes > 1 else "none"
    return record | {"processes": job.processes, "scaling": job.scaling, "parallel": parallel, "cores": cores}


def _command(job: Job, told: Path, out: Path) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.processes}"]
    return [sys.executable, *([] if job.together else torchrun), "-m", "bench.endtoend.scaling_rank", str(told), str(out)]


def _surroundings(job: Job, threads: int | None) -> dict[str, str]:
    around = dict(os.environ)
    if threads is not None:
        around["OMP_NUM_THREADS"] = str(threads)
    if job.together:
        visible = [name for name in around.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        around["CUDA_VISIBLE_DEVICES"] = ",".join((visible or [str(i) for i in range(job.processes)])[: job.processes])
    return around


def _patiently(command: list[str], environment: Mapping[str, str], limit_s: float) -> tuple[int | None, str]:
    """(exit status, what was said); None where the time was up. All processes are gone afterwards."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:  # torchrun's processes are of its group
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _reason(output: str, status: int | None) -> str:
    """The line in which a process said what is wrong, else the last one that names an error."""
    if status is None:
        return "the processes did not end in time"
    lines = [line.strip() for line in output.splitlines()]
    told = [line.partition("error: ")[2] for line in lines if "error: " in line and not line.startswith("[")]
    named = [line for line in lines if "Error: " in line]
    return one_line(([*told[:1], *named[-1:]] or [f"exit status {status}, without a word"])[0])


# ---- the command ------------------------------------------------------------------------------------------------------


def scaling(options: ScalingOptions, console: Console) -> bool:
    """Measure what the options ask for and write the report. Returns whether every job gave a result.

    Raises ValueError (nothing was measured: more processes than GPUs, a name, device or data set that does not exist), OSError
    (results cannot be written), KeyboardInterrupt (after the report of what there is).
    """
    from bench.environment import environment, usable_cores
    from bench.report import write_report
    from training.config import validate
    from training.data import load

    base, gpus = _base(options)
    validate(base)
    counts = _counts(options, base, gpus)
    chosen = preset("quick", base.device)
    dataset = load(base.data, root=base.data_root, max_train=base.max_train, max_test=base.max_test)
    if options.results is not None and (options.results / TRAINING).exists():
        raise ValueError(f"{options.results} already holds a run: choose another folder")
    folder, cores = run_folder(options.results, base.device), usable_cores()
    console.print(f"[bold]augmark scaling[/] on {base.device}, images: {dataset.name}; results go to {folder}")
    if base.device == "cpu" and max(counts) > 1:
        console.print(f"on a CPU the processes share its {cores} cores: each gets {cores} // processes threads, one at least")
    data = {"name": dataset.name, "fingerprint": dataset.fingerprint, "source": dataset.source, "fallback": dataset.fallback}
    write_json(folder / "environment.json", environment(data))
    every, rounds, whole = list(jobs(base, counts, gpus=gpus)), [], True
    for number in range(options.rounds or chosen.throughput_rounds):
        rounds += [(number, job) for job in random.Random(number).sample(every, len(every))]
    try:
        for done, (number, job) in enumerate(rounds, start=1):
            with console.status(f"scaling {done}/{len(rounds)}: {job.label}"):
                record = run_job(job, dataset, seconds=options.seconds or 2 * chosen.throughput_seconds, cores=cores)
            append_training(folder, {**record, "round": number})
            whole = whole and record["status"] == "ok"
            words = outcome(record, "examples_per_s", "{:,.0f} examples/s")
            console.print(f"scaling {done}/{len(rounds)}  {job.label}: {words}", highlight=False)
    finally:
        console.print(f"report: {write_report(load_run(folder))}")
    return whole


def _base(options: ScalingOptions) -> tuple[TrainConfig, int]:
    """What all jobs share, and how many GPUs there are. ValueError for what is no choice here."""
    import torch

    from augment import BACKENDS, RECIPES
    from training.distributed import resolve_device

    check_names("backend", (options.backend,), BACKENDS)
    check_names("recipe", (options.recipe,), RECIPES)
    if not BACKENDS[options.backend].on_device:
        raise ValueError(f"backend {options.backend} works image by image on the CPU: take one that runs where the model is")
    kind = resolve_device(options.device).type
    if options.seconds is not None and not 0 < options.seconds < 3600:
        raise ValueError(f"seconds must be above 0 and less than 3600, got {options.seconds}")
    if options.rounds is not None and options.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    chosen = preset("quick", kind)
    base = TrainConfig(
        data=options.data, data_root=options.data_root, recipe=options.recipe, backend=options.backend, resident=True,
        model=options.model or chosen.model, width=options.width or chosen.width, batch_size=options.batch_size,
        precision=options.precision, max_train=options.max_train or chosen.max_train, max_test=chosen.max_test, device=kind,
    )  # fmt: skip
    return base, torch.accelerator.device_count() if kind != "cpu" else 0


def _counts(options: ScalingOptions, base: TrainConfig, gpus: int) -> tuple[int, ...]:
    """The numbers of processes, ascending. ValueError for one that cannot be."""
    most = gpus or 2
    counts = options.processes or tuple(sorted({*(2**i for i in range(10) if 2**i <= most), most}))
    for count in counts:
        if count < 1:
            raise ValueError(f"processes must be at least 1, got {count}")
        if base.device != "cpu" and count > gpus:
            raise ValueError(f"{count} processes need {count} GPUs, this machine has {gpus}: take at most --processes {gpus}")
        if base.batch_size % count:
            raise ValueError(f"batch_size {base.batch_size} cannot be shared by {count} processes: take a multiple")
    return tuple(sorted(set(counts)))
