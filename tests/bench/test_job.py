"""Shared code of the jobs: records filled from training results, the line of a result, and the report at the end."""

from pathlib import Path

import pytest

from bench.jobs.job import duration, fill, outcome, plan_training, repetition, reporting
from bench.records import Accuracy, Throughput
from tests.bench.stored import trained
from training.config import TrainConfig
from training.data import Dataset
from training.loop import measure_throughput, train

TINY = TrainConfig(model="resnet8", width=4, device="cpu", batch_size=48, epochs=2, recipe="flip", backend="fused", seed=3)


def test_a_record_has_the_config_the_data_and_the_result(shapes: Dataset) -> None:
    case = plan_training(Accuracy, TINY, shapes)
    assert (case.status, case.num_epochs, case.seed, case.dataset) == ("not_run", 2, 3, shapes.name)
    result = train(TINY, shapes)
    record = fill(case, result, cell_s=1.5)
    assert record.key == case.key
    assert (record.status, record.cell_s, record.train_images, record.test_images) == ("ok", 1.5, 100, 10)
    assert (record.learning_rate, record.recipe, record.backend) == (TINY.learning_rate, "flip", "fused")
    assert (record.lane, record.implementation, record.devices, record.parameters) == (
        "per_image", "c", ("cpu",), result.parameters,
    )  # fmt: skip
    assert [epoch.test_accuracy for epoch in record.epochs] == [stats.test_accuracy for stats in result.epochs]
    assert (record.test_accuracy, record.loss) == (result.epochs[-1].test_accuracy, result.epochs[-1].train_loss)
    assert record.examples_per_s == result.examples_per_s


def test_a_record_of_speed_has_the_split_and_no_epochs(shapes: Dataset) -> None:
    case = plan_training(Throughput, TINY, shapes)
    record = fill(case, result := measure_throughput(TINY, shapes, steps=3))
    assert (case.num_epochs, record.steps, record.split_s) == (None, 3, result.split_s)
    assert record.flops_per_example == result.flops_per_example


def test_a_result_is_a_few_words() -> None:
    assert outcome(Accuracy(status="failed", reason="no [gpu] here")) == "failed (no [gpu] here)"
    accuracy = trained("accuracy", test_accuracy=0.5, seed=2)
    assert outcome(accuracy) == "test accuracy 50.0%"
    assert repetition(accuracy).endswith(", seed 2")
    overhead = trained("overhead", step_over_bare=1.05, round=2)
    assert outcome(overhead) == "step over bare 105.0%"
    assert repetition(overhead).endswith(", round 3")
    assert outcome(trained("pipeline", images_per_s=1234.5)) == "1,234 images/s"
    assert [duration(seconds) for seconds in (40, 200, 9000)] == ["40 s", "3 min", "2.5 h"]


def test_the_report_is_written_after_an_error_which_is_then_raised() -> None:
    reports: list[Path] = []
    with reporting(Path("run"), reports.append):
        pass
    with pytest.raises(KeyboardInterrupt), reporting(Path("run"), reports.append):
        raise KeyboardInterrupt
    assert reports == [Path("run")] * 2

    def empty(folder: Path) -> None:
        raise ValueError("nothing was measured")

    with pytest.raises(RuntimeError, match="first"), reporting(Path("run"), empty):
        raise RuntimeError("first")
