"""One pass of one case: build the pipeline (or take the one of the last pass), warm it up, time it."""

import functools
import gc
import statistics
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from augment import BACKENDS, build
from bench.grid.cases import Case, PlannedCase
from bench.grid.inputs import Inputs
from bench.grid.limits import copy_bandwidth, launches, roofline_share, synchronisations
from bench.grid.timing import Clock, CompilerWatch, Sampler, Timing, device_seconds, measure, peak_bytes

KEPT_PIPELINES = 4
"""Built pipelines kept between passes. Building is cheap, but Kornia's modules hold on to their last batch's parameters."""


@dataclass(kw_only=True)
class _Built:
    call: Callable[[], object]
    bytes_in: int
    watch: CompilerWatch | None
    fresh: bool = True


class Bench:
    """Measures passes of cases: ``seconds`` of samples each, and twice that where parameters are drawn once a batch."""

    def __init__(self, inputs: Inputs, seconds: float) -> None:
        self._inputs = inputs
        self._seconds = seconds
        self.copy_bandwidth = functools.cache(copy_bandwidth)
        self._built: OrderedDict[Case, _Built] = OrderedDict()
        # The libraries' own objects stay: going through them again before each pass would take longer than the pass.
        gc.collect()
        gc.freeze()

    def run(self, planned: PlannedCase, sampler: Sampler) -> dict[str, Any]:
        """One pass: samples and all else that a record keeps of it, as JSON values. Raises what the pipeline raises."""
        case = planned.case
        built = self._take(case)
        on_accelerator = torch.device(case.device).type != "cpu"
        gc.collect()  # the garbage of earlier cases is theirs; during the calls the collector is off
        timing = measure(
            built.call,
            clock=Clock(case.device),
            # Where p < 1 decides once a batch, a few calls say little about how many of them do their work.
            seconds=self._seconds * (2 if planned.draws in ("per_batch", "mixed") else 1),
            warmup_calls=3 if built.watch or on_accelerator else 2 if built.fresh else 1,
            settled=built.watch.settled if built.watch else None,
            sampler=sampler,
        )
        result: dict[str, Any] = {
            # Nanoseconds are below the clock's resolution, and shorter to store.
            "samples_s": [round(sample, 9) for sample in timing.samples_s],
            "threads": timing.threads,
            "warmup_calls": timing.warmup_calls,
            "warmup_s": timing.warmup_s,
            "device_s_median": device_seconds(built.call, case.device),
        }
        if built.watch:
            result |= {"graph_breaks": built.watch.graph_breaks, "recompiles": built.watch.recompiles}
        if built.fresh:
            result["compile_s"] = timing.compile_s if built.watch else None
            result["peak_bytes"] = self._peak_bytes(planned, built.call, timing.median_s)
            result |= self._use_of_the_device(case, built, timing)
        built.fresh = False
        return result

    def _use_of_the_device(self, case: Case, built: _Built, timing: Timing) -> dict[str, Any]:
        moved = built.bytes_in + _bytes_of(built.call())
        # The mean: of calls that skip their work half of the time, the median may be one that did nothing.
        seconds = statistics.fmean(timing.samples_s)
        return {
            "bytes_moved": moved,
            "roofline_share": roofline_share(moved, seconds, self.copy_bandwidth(case.device)),
            "launches": launches(built.call, case.device),
            "syncs": synchronisations(built.call, case.device),
        }

    def _peak_bytes(self, planned: PlannedCase, call: Callable[[], object], median_s: float) -> int | None:
        if planned.case.backend == "pil":
            return None  # PIL's own memory is not seen, and the rest alone would flatter it
        # A batch that skips its op needs little: the largest of several calls, as many as fit, is one that did it.
        several = max(1, min(8, int(self._seconds / median_s)))
        return peak_bytes(call, planned.case.device, calls=several if planned.draws in ("per_batch", "mixed") else 1)

    def _take(self, case: Case) -> _Built:
        if case not in self._built:
            compiled = BACKENDS[case.backend].compiled
            if compiled:
                self._built.clear()  # CompilerWatch forgets what was compiled before
            watch = CompilerWatch() if compiled else None
            images, labels = self._inputs.batch(case)
            pipeline = build(
                case.subject,
                case.backend,
                device=case.device,
                dtype=getattr(torch, case.dtype),
                image_size=case.image_size,
            )
            call = (lambda: pipeline(images, labels)) if pipeline.mixes else (lambda: pipeline(images))
            self._built[case] = _Built(call=call, bytes_in=_bytes_of(images), watch=watch)
            while len(self._built) > KEPT_PIPELINES:
                self._built.popitem(last=False)
        self._built.move_to_end(case)
        return self._built[case]

    def close(self) -> None:
        """Let go of everything: what stays frozen is not collected when Python ends, and extensions then report leaks."""
        self.forget()
        gc.unfreeze()

    def forget(self) -> None:
        """Give memory back after a case has failed, so that the next one does not fail for it."""
        self._built.clear()
        self._inputs.forget()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _bytes_of(result: object) -> int:
    """Bytes of the images; labels are small change."""
    images = result[0] if isinstance(result, tuple) else result
    return images.nbytes if isinstance(images, torch.Tensor) else 0


def device_works(device: str) -> bool:
    """False when an error has left the device unusable for this process, as a fault in a CUDA kernel does."""
    try:
        return bool((torch.ones(2, device=device) + 1).sum().item() == 4.0)
    except Exception:  # whatever it is, the next case would meet it too
        return False
