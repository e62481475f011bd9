"""Seconds of training to a test accuracy, by hand and from a run."""

from dataclasses import replace

import pytest

from training.config import TrainConfig, validate
from training.dataset import Dataset
from training.loop import EpochStats, train
from training.presets import PRESETS
from training.results import seconds_to
from training.train import target_words


def epochs(*pairs: tuple[float, float]) -> list[EpochStats]:
    return [
        EpochStats(
            epoch=number, train_loss=1.0, train_accuracy=0.5, test_accuracy=accuracy, examples=10, wall_s=wall_s, wait_s=0.0
        )
        for number, (wall_s, accuracy) in enumerate(pairs, start=1)
    ]


def test_seconds_count_to_the_end_of_the_first_epoch_that_is_good_enough() -> None:
    """3 s to 50 %, 1.5 s more to exactly 94 %, and what comes later, even below it, does not matter."""
    course = epochs((3.0, 0.5), (1.5, 0.94), (1.25, 0.9), (1.0, 0.95))
    assert seconds_to(course, 0.94) == 4.5
    assert seconds_to(course, 0.941) == 6.75
    assert seconds_to(course, 0.1) == 3.0
    assert seconds_to(course, 0.96) is None


def test_a_run_tells_its_seconds_and_what_is_apart_from_them(tiny: TrainConfig, shapes: Dataset) -> None:
    result = train(replace(tiny, target_accuracy=1e-6), shapes)
    record = result.as_record()
    assert record["target_accuracy"] == 1e-6
    assert record["seconds_to_target"] == result.epochs[0].wall_s
    assert record["train_s"] == pytest.approx(sum(epoch.wall_s for epoch in result.epochs), rel=1e-12)
    assert record["warm_up_s"] > 0
    assert record["evaluation_s"] > 0
    (line,) = target_words(result)
    assert line.startswith("test acc 0.000 after ")
    unreached = replace(result, config=replace(tiny, target_accuracy=1.0))
    assert unreached.as_record()["seconds_to_target"] is None
    assert "was not reached" in target_words(unreached)[0]
    resumed = replace(result, resumed_after=1)  # its first epochs may have run elsewhere
    assert resumed.as_record()["seconds_to_target"] is None
    assert "resumed" in target_words(resumed)[0]
    assert target_words(replace(result, config=tiny)) == []


def test_a_target_changes_nothing_else(tiny: TrainConfig, shapes: Dataset) -> None:
    one, other = train(tiny, shapes), train(replace(tiny, target_accuracy=0.5), shapes)
    assert [epoch.train_loss for epoch in one.epochs] == [epoch.train_loss for epoch in other.epochs]


@pytest.mark.parametrize("target", [0.0, 94.0, -0.5, float("nan")])
def test_a_target_is_a_share_of_one(target: float, tiny: TrainConfig) -> None:
    with pytest.raises(ValueError, match="target_accuracy must be above 0 and at most 1"):
        validate(replace(tiny, target_accuracy=target))


def test_the_fast_preset_is_timed_to_94_percent() -> None:
    assert PRESETS["fast"].target_accuracy == 0.94
