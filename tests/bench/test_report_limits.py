"""The section on the machine's limit, from records made by hand."""

from pathlib import Path

from bench.grid.cases import Case
from bench.records.measurements import Measurement
from bench.records.runs import Run
from bench.report.context import Context
from bench.report.limits import limits_section
from bench.report.markdown import render


def measurement(backend: str, **known: object) -> Measurement:
    case = Case(suite="recipes", subject="flip", backend=backend, device="cuda", batch_size=4, image_size=8, dtype="float32")
    values = {"status": "ok", "draws": "per_image", "images_per_s": 10.0, "rounds": 21} | known
    return Measurement(case=case, **values)  # type: ignore[arg-type]  # what a record may hold


def rendered(*measurements: Measurement, **environment: object) -> str:
    run = Run(
        path=Path("nowhere"), name="run", environment=environment, measurements=list(measurements), training=[], problems=[]
    )  # fmt: skip
    return render(limits_section(Context(run=run, differences=None, folder=run.path)))


def test_share_launches_and_waits_stand_beside_each_other() -> None:
    page = rendered(
        measurement("fused", roofline_share=0.625, launches=1, syncs=0, bytes_moved=15_000_000),
        measurement("kornia", roofline_share=0.0123, launches=40, syncs=3, bytes_moved=15_000_000),
        copy_bytes_per_s={"cuda": 4.3e12},
    )
    row = next(line for line in page.splitlines() if line.startswith("| `flip`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["`flip`", "15.0", "62.5 % n 21, 1 launch, 0 waits", "1.2 % n 21, 40 launches, 3 waits"]
    assert "cuda 4,300 GB/s" in page


def test_the_devices_own_clock_leaves_out_the_host() -> None:
    """15 MB at 3 TB/s take 5 us: a quarter of a call of 20 us on the wall, half of the 10 us that the device was busy."""
    page = rendered(
        measurement("fused", roofline_share=0.25, bytes_moved=15_000_000, device_s_median=10e-6),
        copy_bytes_per_s={"cuda": 3e12},
    )
    assert "25.0 % n 21, 50.0 % by its own clock |" in page


def test_what_was_not_measured_has_no_share() -> None:
    page = rendered(measurement("fused", roofline_share=0.5), measurement("kornia", roofline_share=float("nan")))
    assert "50.0 % n 21 |  |" in page
    assert rendered(measurement("fused")) == "\n"  # a run from before the limit was measured: no section
