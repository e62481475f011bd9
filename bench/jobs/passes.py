"""Passes of ``augmark pipeline``: one arm over the photographs, timed once every loader worker has sent a batch."""

import atexit
import contextlib
import ctypes
import functools
import gc
import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch
from torch import Tensor

from bench.jobs.arms import ARMS, Chain, Recorded, Stages, Work, pixel_differences, recipe_ops
from bench.jobs.photoset import disk_rate, drop_from_cache
from bench.records import Pipeline, cut_list
from training import transfer
from training.cpus import usable_cpus
from training.distributed import stream_seed, synchronise
from training.feed import Request, check_shared_memory, iterate, open_loader
from training.photofeed import MOST_SIDE, Photographs

FEWEST_BATCHES = 2
"""Batches of a pass, and of its warm-up: the loop holds a batch while the next is made."""
RECORDED_BYTES = 3 * 2**30
"""Memory for results that stand in for stages."""
MOST_RECORDED = 512
"""Photographs whose results stand in for a stage: an arm without one passes over these alone."""
CLASSES = 1000
STEP = "step"


class Passes:
    """Measures cases over one set of photographs; holds networks, and results that stand in for stages."""

    def __init__(self, work: Work, seconds: float) -> None:
        self.work, self.seconds, self._threads = work, seconds, torch.get_num_threads()
        gc.collect()
        gc.freeze()  # what is imported stays: the collection before each pass takes milliseconds
        atexit.register(gc.unfreeze)  # else libraries report their objects as leaked
        self._recorded: OrderedDict[tuple[Any, ...], Recorded] = OrderedDict()
        self._step = functools.cache(self._make_step)

    def measure(self, case: Pipeline) -> Pipeline:
        """Return the record of one pass."""
        assert case.batch_size is not None
        work = replace(self.work, ops=recipe_ops(case.recipe, self.work.image_size) if case.recipe else ())
        files, arm = work.photographs.files, ARMS[case.arm]
        chain = arm.chain(work)
        batches = list(torch.arange(len(files)).split(case.batch_size))
        batches = batches if len(batches[-1]) == case.batch_size else batches[:-1]
        if case.without is not None:
            return self._measure_without(case, chain, batches[: max(1, MOST_RECORDED // case.batch_size)])
        if case.model is not None:
            chain = replace(chain, own={**chain.own, STEP: self._step(case.model)})
        if case.page_cache == "cold":
            drop_from_cache(files)
        if work.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(work.device)
        quantities = run_pass(chain, batches, case.round, case.num_workers, self.seconds, work.device)
        differences = self._pixel_differences.get(arm.decoder, {}) if arm.backend is None else {}
        return msgspec.structs.replace(
            case, pixel_differences=differences, disk_images_per_s=disk_rate(files), **quantities,
            **device_memory(work.device), **self._facts(chain),
        )  # fmt: skip

    def _measure_without(self, case: Pipeline, chain: Chain, batches: Sequence[Tensor]) -> Pipeline:
        """Return the record of an arm without a stage, measured in turns with the whole arm."""
        chains = (chain, chain.replace(case.without or "", self._record(case, chain, batches)))
        files = self.work.photographs.files if case.page_cache == "cold" else ()
        threads = case.fetch_threads or self._threads
        quantities = run_in_turns(chains, batches, case.round, self.seconds, self.work.device, files, threads)
        return msgspec.structs.replace(case, **self._facts(chain) | quantities | {"threads": threads})

    def _facts(self, chain: Chain) -> dict[str, Any]:
        return {
            "status": "ok", "cores": usable_cpus(), "threads": torch.get_num_threads(),
            "implementation": getattr(chain.pipeline, "implementation", None),
            "skipped_files": cut_list(self.work.photographs.skipped),
            "odd_files": cut_list(tuple(self.work.photographs.odd.values())),
        }  # fmt: skip

    @cached_property
    def _pixel_differences(self) -> dict[str, dict[str, tuple[float, float]]]:
        return pixel_differences(self.work.photographs)

    def _make_step(self, model: str) -> "TrainStep":
        torch.manual_seed(0)
        return TrainStep(model, self.work.device, self.work.dtype)

    def _record(self, case: Pipeline, chain: Chain, batches: Sequence[Tensor]) -> Recorded:
        assert case.without is not None
        # decoded photographs are the same whatever is done with them
        key = (case.decoder, case.without) if case.without in ("read", "decode") else (case.arm, case.recipe, case.without)
        if key not in self._recorded:
            self._recorded[key] = chain.record(case.without, batches)
        self._recorded.move_to_end(key)
        while len(self._recorded) > 1 and sum(_count_bytes(kept.results) for kept in self._recorded.values()) > RECORDED_BYTES:
            self._recorded.popitem(last=False)
        return self._recorded[key]


def _count_bytes(items: Any) -> int:
    """Return the host memory of recorded results: tensors, arrays and bytes, in dicts and sequences."""
    if isinstance(items, bytes):
        return len(items)
    if isinstance(items, Mapping | list | tuple):
        return sum(map(_count_bytes, items.values() if isinstance(items, Mapping) else items))
    return 0 if isinstance(items, Tensor) and items.device.type != "cpu" else getattr(items, "nbytes", 0)


def device_memory(device: torch.device) -> dict[str, int]:
    """Return the memory that torch held at most, and all that is in use on the device; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"peak_bytes": torch.cuda.max_memory_allocated(device), "device_bytes": total - free}


class TrainStep:
    """Forward, backward and SGD step of a network of torchvision on a batch; labels are drawn from nothing."""

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype) -> None:
        network = transfer.create(model, width=None, init=transfer.SCRATCH, num_classes=CLASSES)
        self._network, self._device, self._dtype = network, device, dtype
        network.module.to(device).train()
        self._optimizer = torch.optim.SGD(network.module.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, items: tuple[Tensor, Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
        labels = (indices % CLASSES).to(self._device, non_blocking=True)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            loss = torch.nn.functional.cross_entropy(self._network.logits(items[0]), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return items


# ---- one pass ---------------------------------------------------------------------------------------------------------


def run_pass(
    chain: Chain, batches: Sequence[Tensor], number: int, num_workers: int, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Run a pass over the batches, or as many as ``seconds`` allow, and return the quantities of its record.

    Workers start anew and deliver a batch each before the clock runs; nothing is ready then that was fetched ahead.
    Raises ValueError for a photograph that cannot be read any more, RuntimeError for a worker that died.
    """
    count = len(batches[0])
    process = psutil.Process()
    _release_memory()
    idle_bytes = process.memory_info().rss
    check_shared_memory(num_workers, count * 3 * MOST_SIDE**2)
    torch.manual_seed(stream_seed(0, "augment", epoch=number))
    stream = _stream(chain, batches, number, num_workers, device)
    for remaining in reversed(range(max(FEWEST_BATCHES, num_workers))):
        batch = next(stream)
        _take(batch, {name: stage for name, stage in chain.own.items() if name != STEP or not remaining})
    synchronise(device)
    fewest = 1 if STEP in chain.own else FEWEST_BATCHES  # a step takes seconds on a CPU
    workers = process.children(recursive=True)
    cpu_s, wait_s, done, most_bytes, begin = _cpu_s([process, *workers]), 0.0, 0, 0, time.perf_counter()
    while done < len(batches) and (done < fewest or time.perf_counter() - begin < seconds):
        wait_begin = time.perf_counter()
        batch = next(stream)
        wait_s += (time.perf_counter() - wait_begin) * (num_workers > 0)
        _take(batch, chain.own)
        done, most_bytes = done + 1, max(most_bytes, process.memory_info().rss)
    synchronise(device)
    wall_s = time.perf_counter() - begin
    cpu_s = max(_cpu_s([process, *workers]) - cpu_s, 0.0)
    added = max(most_bytes - idle_bytes, 0) + sum(worker.memory_full_info().uss for worker in workers)
    return {
        "images": done * count, "wall_s": wall_s, "images_per_s": done * count / wall_s, "host_bytes": added,
        "wait_share": min(wait_s / wall_s, 1.0), "cpu_s_per_image": cpu_s / (done * count),
    }  # fmt: skip


def run_in_turns(
    chains: Sequence[Chain], batches: Sequence[Tensor], number: int, seconds: float, device: torch.device,
    cold: Sequence[Path], fetch_threads: int,
) -> dict[str, Any]:  # fmt: skip
    """Run the whole chain and the one without a stage over batches, without workers, and return the quantities of a record.

    Both take turns on every batch, so that a batch that costs more, or a moment in which the machine is slow, counts for both.
    The device is waited for after each batch. The files ``cold`` leave the page cache before they are read. Photographs are
    fetched in ``fetch_threads`` threads: a worker has one.
    """
    streams = [_stream(chain, batches, number, 0, device) for chain in chains]
    spent, cpu_s, threads, done = [0.0] * len(chains), 0.0, torch.get_num_threads(), 0
    for step in range(len(batches) + 1):  # the first batch warms up
        indices = batches[(number + step) % len(batches)]
        for turn in range(len(chains)):
            index = (turn + step) % len(chains)
            if cold:
                drop_from_cache([cold[i] for i in indices.tolist()])
            torch.manual_seed(stream_seed(number, "augment", epoch=step))
            synchronise(device)
            begin, begin_cpu = time.perf_counter(), time.process_time()
            torch.set_num_threads(fetch_threads)
            batch = next(streams[index])
            torch.set_num_threads(threads)
            _take(batch, chains[index].own)
            synchronise(device)
            spent[index] += (time.perf_counter() - begin) * (step > 0)
            cpu_s += (time.process_time() - begin_cpu) * (step > 0 and index == 0)
        done = step
        if done >= FEWEST_BATCHES and sum(spent) >= seconds:
            break
    images, (whole_s, wall_s) = done * len(batches[0]), spent
    return {
        "images": images, "wall_s": wall_s, "whole_s": whole_s, "images_per_s": images / wall_s,
        "cpu_s_per_image": cpu_s / images,
    }  # fmt: skip


def _stream(chain: Chain, batches: Sequence[Tensor], number: int, num_workers: int, device: torch.device) -> Iterator[Any]:
    """Return an iterator over fetched batches without end, from the round's own first one on: rounds cover all photographs."""
    requests = (Request(epoch=number, indices=batches[step % len(batches)]) for step in itertools.count(number))
    labels = torch.arange(max(int(batch[-1]) for batch in batches) + 1)  # indices, which the steps get
    return iterate(open_loader(Photographs(chain.fetch, labels, seed=0), requests, num_workers, device, persistent=False))


def _take(batch: Any, own: Stages) -> None:
    """Send a fetched batch through the stages of the training process."""
    if isinstance(batch, str):
        raise ValueError(batch)
    items: Any = (batch.images, batch.windows)
    for stage in own.values():
        items = stage(items, batch.labels)


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU time of processes in seconds."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def _release_memory() -> None:
    """Give memory that is free but kept for later back to the system, where that is glibc's to do."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
