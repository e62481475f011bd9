"""Model FLOPs utilisation in the report, from records made by hand."""

from pathlib import Path
from typing import Any

from bench.records.runs import Run
from bench.report.context import Context
from bench.report.findings import findings
from bench.report.markdown import render
from bench.report.tax import tax_section
from tests.bench.test_tax import CEILING, FUSED

KNOWN = {"flops_per_example": 3_330_000_000, "matmul_flops_per_s": 7e12, "matmul_precision": "bfloat16"}


def used(records: list[dict[str, Any]], **known: Any) -> list[dict[str, Any]]:
    """With the share of 7 TFLOP/s that 3.33 GFLOP an image make at a record's speed."""
    return [{**one, **KNOWN, "model_flops_utilisation": 3.33e9 * one["examples_per_s"] / 7e12, **known} for one in records]


def context(tmp_path: Path, training: list[dict[str, Any]]) -> Context:
    return Context.of(Run(path=tmp_path, name="run", environment={}, measurements=[], training=training, problems=[]))


def test_the_share_stands_beside_what_it_is_a_share_of(tmp_path: Path) -> None:
    """Rounds of 990, 1182 and 1100 images/s: 47.1, 56.2 and, in the middle, 3.33 x 1100 = 3,663 GFLOP/s, which are 52.3 %."""
    page = render(tax_section(context(tmp_path, used(CEILING + FUSED))))
    assert "| `fused` on the device | 3.66 TFLOP/s | 52.3 % (47.1 to 56.2 %) | 3 |" in page
    assert "A step of this model takes 3.33 GFLOP an image; the device's own matmul rate is 7.00 TFLOP/s in bfloat16." in page
    assert "| no augmentation | 3.66 TFLOP/s | 52.3 % (47.6 to 57.1 %) | 3 |" in page


def test_it_is_said_in_short(tmp_path: Path) -> None:
    page = render(findings(context(tmp_path, used(CEILING + FUSED))))
    assert (
        "Training resnet8 with `flip`, fused on the device, takes 52.3 % (47.1 to 56.2 %) of the device's own matmul rate, "
        "7.00 TFLOP/s in bfloat16; the ceiling 52.3 % (47.6 to 57.1 %)."
    ) in page


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    for training in (CEILING + FUSED, used(CEILING + FUSED, model_flops_utilisation=None)):
        assert "matmul rate" not in render(tax_section(context(tmp_path, training)))
        assert "matmul rate" not in render(findings(context(tmp_path, training)))
    strange = used(FUSED[:1], flops_per_example=None, matmul_flops_per_s="?", matmul_precision=None)
    assert "not known in not known" in render(tax_section(context(tmp_path, strange)))
