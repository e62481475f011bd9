"""Model FLOPs utilisation: what training takes of the arithmetic that its device can do, by the device's own measure.

The definition is that of Chowdhery et al. 2022 (PaLM), appendix B: the operations that a step must do (``training.flops``)
over those that the device could have done meanwhile. There that is the vendor's figure; here it is what a large matrix product
reaches on the same device in the same run and precision, so that it holds on any device, at its clocks and its power limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.machines import part
from bench.records.runs import load_run, write_json
from bench.report.quantities import number

ENVIRONMENT = "environment.json"
PEAKS = "matmul_flops_per_s"


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Operations a second of a large matrix product on one device, in a precision ("float32", "tf32", "bfloat16")."""

    flops_per_s: float | None
    precision: str


def matmul_peak(folder: Path, device: str, precision: str) -> Peak:
    """The peak that the run's environment.json holds, so that one run has one; measured, and added there, where it has none.

    Not known (None) where the device has no room for the matrices, or cannot multiply in that precision.
    """
    from bench.grid.limits import matmul_flops, matmul_precision

    computed = matmul_precision(device, precision)
    environment = load_run(folder).environment if (folder / ENVIRONMENT).exists() else {}
    known = part(environment.get(PEAKS))
    kept = number(part(known.get(device)), computed)
    if kept:
        return Peak(flops_per_s=kept, precision=computed)
    try:
        measured = matmul_flops(device, precision)
    except RuntimeError:  # torch's for both; a measurement of training is worth having without it
        return Peak(flops_per_s=None, precision=computed)
    if environment:
        peaks = {**known, device: {**part(known.get(device)), computed: measured}}
        write_json(folder / ENVIRONMENT, {**environment, PEAKS: peaks})
    return Peak(flops_per_s=measured, precision=computed)


def utilisation(record: Mapping[str, Any], peak: Peak) -> dict[str, Any]:
    """What a record of training steps gets beside its speed: the peak, its precision, and the share of it that was taken.

    The share is FLOPs an example x examples/s / (devices x peak), where devices are alike; None where one is not known.
    """
    flops, speed = number(record, "flops_per_example"), number(record, "examples_per_s")
    devices = record.get("devices")
    most = peak.flops_per_s * (len(devices) if isinstance(devices, list) and devices else 1) if peak.flops_per_s else None
    share = flops * speed / most if flops and speed and most else None
    return {PEAKS: peak.flops_per_s, "matmul_precision": peak.precision, "model_flops_utilisation": share}
