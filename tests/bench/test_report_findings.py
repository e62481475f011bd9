"""What a report says in short of runs that measured one thing alone, from records made by hand."""

from pathlib import Path
from typing import Any

from bench.records.runs import Run
from bench.report.context import Context
from bench.report.findings import findings
from bench.report.markdown import render
from tests.bench.stored import trained


def job(processes: int, scaling: str, rates: list[float], **fields: Any) -> list[dict[str, Any]]:
    how = {"processes": processes, "scaling": scaling, "parallel": "none" if processes == 1 else "ddp"} | fields
    return [trained("scaling", examples_per_s=rate, round=n, **how) for n, rate in enumerate(rates)]


def in_short(tmp_path: Path, training: list[dict[str, Any]]) -> str:
    run = Run(path=tmp_path, name="run", environment={}, measurements=[], training=training, problems=[])
    return render(findings(Context.of(run)))


def test_scaling_is_said_in_short(tmp_path: Path) -> None:
    """Of 1, 2 and 4 processes the most count: by rounds 300/100 and 330/110, so 3; strong 200/100 and 231/110."""
    training = job(1, "one", [100.0, 110.0]) + job(2, "weak", [150.0, 160.0]) + job(4, "weak", [300.0, 330.0])
    page = in_short(tmp_path, training + job(4, "strong", [200.0, 231.0]))
    assert (
        "Training resnet8 on several processes: 4 processes, weak scaling, 315 ±4.8 % examples/s, 3.00 times one (3.00 to "
        "3.00); 4 processes, strong scaling, 216 ±7.2 % examples/s, 2.05 times one (2.00 to 2.10); one process 105 ±4.8 %."
    ) in page


def test_without_several_processes_there_is_nothing_to_say_of_them(tmp_path: Path) -> None:
    assert "processes" not in in_short(tmp_path, job(1, "one", [100.0]))
    alone = in_short(tmp_path, job(2, "weak", [150.0], parallel="data_parallel"))
    assert "2 processes, weak scaling, DataParallel, 150 examples/s." in alone
