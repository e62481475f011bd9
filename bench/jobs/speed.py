"""One round of one case of the grid: build the pipeline (or reuse that of the last round), warm it up, time it."""

import functools
import gc
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace

from augment import BACKENDS
from bench.clock import Clock, CompilerWatch, Sampler, Timing, device_seconds, measure, peak_bytes
from bench.jobs.grid import build_case
from bench.jobs.inputs import Inputs
from bench.limits import (
    HOST_RECIPES,
    absent_gpu_host_seconds,
    copy_bandwidth,
    count_launches,
    count_waits,
    host_seconds,
    roofline_share,
)
from bench.records import Speed
from bench.runner import free_memory

WARM_UP_S = 0.03
KEPT_PIPELINES = 4
"""Built pipelines kept between rounds. Building is cheap, but Kornia's modules hold on to their last batch's parameters."""


@dataclass(kw_only=True)
class _Built:
    call: Callable[[], object]
    bytes_in: int
    pipeline: Any
    watch: CompilerWatch | None
    is_new: bool = True


class Bench:
    """Measurement of rounds of cases: ``seconds`` of samples each, twice that where parameters are drawn once per batch."""

    def __init__(self, inputs: Inputs, seconds: float) -> None:
        self._inputs = inputs
        self._seconds = seconds
        self.copy_bandwidth = functools.cache(copy_bandwidth)
        self._host_s: dict[str, float] = {}
        self._build_once = functools.lru_cache(KEPT_PIPELINES)(self._build)
        self._modules = 0

    def time_host(self, cases: Iterable[Speed]) -> None:
        """Time the host in CUDA calls of fused, if all ``HOST_RECIPES`` are among the cases: a choice asks for nothing else."""
        if {case.subject for case in cases if case.backend == "fused"}.issuperset(HOST_RECIPES):
            self._host_s = absent_gpu_host_seconds()

    def measure(self, case: Speed, sampler: Sampler) -> Speed:
        """Measure one round of a case. Raises what the pipeline raises."""
        built = self._build_once(replace(case, round=0))
        skips_batches = case.lane in ("per_batch", "mixed")
        self._collect()
        timing = measure(
            built.call,
            clock=Clock(case.device),
            # Where p < 1 decides once a batch, a few calls say little about how many of them do their work.
            seconds=self._seconds * (2 if skips_batches else 1),
            min_calls=3 if case.round == 0 or skips_batches else 1,  # a call may be longer than a round: rounds repeat it
            warmup_calls=3 if built.watch or torch.device(case.device).type != "cpu" else 2 if case.round == 0 else 1,
            warmup_s=min(WARM_UP_S, self._seconds),
            is_warm=built.watch.is_idle if built.watch else None,
            sampler=sampler,
        )
        values: dict[str, Any] = {
            "images_per_s": (case.batch_size or 0) * len(timing.samples_s) / sum(timing.samples_s),
            "samples_us": tuple(1e6 * sample_s for sample_s in timing.samples_s),
            "implementation": built.pipeline.implementation,  # set by the first call, on the device of the batch
            "threads": timing.threads,
            "warmup_calls": timing.warmup_calls,
            "warmup_s": timing.warmup_s,
            "device_s_median": device_seconds(built.call, case.device),
        }
        if built.watch:
            values |= {"graph_breaks": built.watch.graph_breaks, "recompiles": built.watch.recompiles}
        if built.is_new and case.round == 0:
            values |= self._first_round(case, built, timing, skips_batches)
        built.is_new = False
        return replace(case, status="ok", **values)

    def _collect(self) -> None:
        """Collect the garbage of earlier cases: during the calls the collector is off."""
        gc.collect()
        if len(sys.modules) != self._modules:
            # Objects of libraries stay: scanning them again before each round would take longer than the round.
            gc.freeze()
            self._modules = len(sys.modules)

    def _first_round(self, case: Speed, built: _Built, timing: Timing, skips_batches: bool) -> dict[str, Any]:
        """Measure what one round per case is enough for: compile time, memory, and use of the device."""
        moved = built.bytes_in + _image_bytes(built.call())
        # The largest of several calls: a batch that skips its op needs little memory.
        calls = max(1, min(8, int(self._seconds / timing.median_s))) if skips_batches else 1
        return {
            "compile_s": timing.compile_s if built.watch else None,
            # PIL's own memory is not seen, and the rest alone would flatter it.
            "peak_bytes": None if case.backend == "pil" else peak_bytes(built.call, case.device, calls=calls),
            "bytes_moved": moved,
            # The mean: of calls that skip their work half of the time, the median may be one that did nothing.
            "roofline_share": roofline_share(moved, statistics.fmean(timing.samples_s), self.copy_bandwidth(case.device)),
            "launches": count_launches(built.call, case.device),
            "syncs": count_waits(built.call, case.device),
            "host_s": host_seconds(built.call, case.device),
            "absent_gpu_host_s": self._host_s.get(str(case.subject)) if case.backend == "fused" else None,
        }

    def _build(self, case: Speed) -> _Built:
        watch = None
        if BACKENDS[str(case.backend)].compiled:
            self._build_once.cache_clear()  # CompilerWatch forgets what was compiled before
            watch = CompilerWatch()
        images, labels = self._inputs.batch(case)
        pipeline = build_case(case)
        call = (lambda: pipeline(images, labels)) if pipeline.mixes else (lambda: pipeline(images))
        return _Built(call=call, bytes_in=images.nbytes, pipeline=pipeline, watch=watch)

    def close(self) -> None:
        """Free everything: frozen objects are not collected at exit, and extensions then report leaks."""
        self.free()
        gc.unfreeze()

    def free(self) -> None:
        """Free pipelines and batches after a failed case, so that the next one does not run out of memory."""
        self._build_once.cache_clear()
        self._inputs.clear()
        free_memory()


def _image_bytes(result: object) -> int:
    """Return the bytes of the images; labels are negligible."""
    images = result[0] if isinstance(result, tuple) else result
    return images.nbytes if isinstance(images, torch.Tensor) else 0


def device_works(device: str) -> bool:
    """Return False if an error, such as a fault in a CUDA kernel, has left the device unusable for this process."""
    try:
        return bool((torch.ones(2, device=device) + 1).sum().item() == 4.0)
    except Exception:  # whatever it is, the next case would meet it too
        return False
