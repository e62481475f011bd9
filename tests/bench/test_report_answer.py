"""The first screen's three answers, as the page shows them."""

from pathlib import Path
from typing import Any

import pytest

from tests.bench.test_report_html import a_run, lines, page_of, trained


def answers(path: Path, *measurements: Any, **fields: Any) -> dict[str, tuple[str, str]]:
    """The first screen's questions with their answers and what these rest on."""
    (lead,) = (one for one in page_of(a_run(path, *measurements, **fields)).every() if one.attributes.get("class") == "lead")
    parts = [[lines(p.text) for p in card.all("p")] for card in lead.all("div")[1:]]
    return {question: (answer, evidence) for question, answer, evidence in parts}


def test_the_answer_where_placements_are_apart(tmp_path: Path) -> None:
    """By hand: 400 without; 380 on the device, so 5 %; pairs 1 - 390/395 = 1 % to 1 - 370/410 = 10 %; 100 is 75 % less."""
    training = [*trained("none", "torchvision", [395.0, 400.0, 410.0]), *trained("device", "kornia", [370.0, 380.0, 390.0])]
    training += trained("device", "fused", [360.0, 361.0, 365.0])
    training += trained("workers", "pil", [90.0, 100.0, 110.0], num_workers=2)
    told = answers(tmp_path, training=training)
    answer, evidence = told["Where should augmentation run?"]
    assert answer == "On the device (cpu), a batch at a time"
    assert "reaches 380 examples/s (±2.6 %, 3 rounds)" in evidence
    assert "in loader workers, at best 100 examples/s (±10 %, 3 rounds) by pil, slower beyond the spread" in evidence
    answer, evidence = told["With which backend?"]
    assert answer == "kornia"
    assert "the next, fused, reaches 361 examples/s" in evidence
    assert "By itself kornia is fastest, 4,100 images/s (±2.4 %, 3 passes), before pil with 1,050." in evidence
    answer, evidence = told["What does it cost?"]
    assert answer == "5 % of the training speed"
    assert "With kornia pairs of rounds lie between 1 and 10 %." in evidence
    assert "The slowest of 3 placements, pil in 2 workers, costs 75 %." in evidence


def test_the_answer_where_rounds_overlap(tmp_path: Path) -> None:
    """400 and 404 with overlapping rounds: both are named, and the cost is perhaps nothing."""
    training = [*trained("none", "torchvision", [395.0, 405.0, 420.0]), *trained("device", "kornia", [390.0, 404.0, 410.0])]
    training += trained("device", "fused", [380.0, 400.0, 412.0])
    told = answers(tmp_path, training=training)
    assert told["With which backend?"][0] == "kornia or fused"
    assert "kornia 404 and fused 400 examples/s, not told apart: their rounds overlap" in told["With which backend?"][1]
    assert told["What does it cost?"][0] == "Nothing that shows"
    assert "between −4 and 7 %, so perhaps nothing" in told["What does it cost?"][1]  # noqa: RUF001


def test_the_answer_stays_in_one_lane(tmp_path: Path) -> None:
    """A draw for the batch is faster, and not what is compared with a draw for each image."""
    training = [*trained("none", "torchvision", [400.0, 401.0]), *trained("device", "kornia", [300.0, 301.0])]
    training += trained("device", "torchvision", [399.0, 399.5], draws="per_batch")
    told = answers(tmp_path, training=training)
    assert told["With which backend?"][0] == "kornia"
    assert told["What does it cost?"][0] == "25 % of the training speed"


def test_the_answer_names_first_what_is_fastest_by_itself_and_what_that_costs(tmp_path: Path) -> None:
    """pil and kornia overlap in training, where pil is ahead by luck; by itself kornia is. It reaches 360 of 400: 10 %."""
    training = [*trained("none", "torchvision", [380.0, 400.0, 410.0]), *trained("device", "pil", [350.0, 399.0, 400.0])]
    training += trained("device", "kornia", [340.0, 360.0, 395.0])
    told = answers(tmp_path, training=training)
    assert told["With which backend?"][0] == "kornia or pil"
    answer, evidence = told["What does it cost?"]
    assert answer == "Perhaps 10 % of the training speed"
    assert "With kornia pairs of rounds lie between −4 and 17 %, so perhaps nothing." in evidence  # noqa: RUF001


def test_the_ceiling_is_called_what_it_is(tmp_path: Path) -> None:
    bare = trained("none", "torchvision", [390.0, 392.0])
    ceiling = [{**one, "augment_on": "frozen", "examples_per_s": 400.0 + n} for n, one in enumerate(bare)]
    training = [*bare, *trained("device", "kornia", [300.0, 310.0])]
    assert "Without augmentation training reaches 391" in answers(tmp_path / "a", training=training)["What does it cost?"][1]
    both = answers(tmp_path / "b", training=ceiling + training)
    assert "On one prepared batch training reaches 400" in both["What does it cost?"][1]


def test_a_tied_device_is_named(tmp_path: Path) -> None:
    training = [*trained("none", "torchvision", [400.0, 410.0]), *trained("device", "kornia", [290.0, 310.0])]
    training += trained("workers", "pil", [300.0, 350.0], num_workers=2)
    told = answers(tmp_path, training=training)
    assert told["Where should augmentation run?"][0] == "In loader workers, or on the device (cpu), a batch at a time"


def test_the_answer_names_all_places_that_overlap(tmp_path: Path) -> None:
    """By the fastest of each place: in the training process that is 200, however far the other one's rounds reach."""
    training = [*trained("none", "torchvision", [400.0, 410.0]), *trained("device", "kornia", [300.0, 350.0])]
    training += [*trained("workers", "pil", [290.0, 310.0], num_workers=2), *trained("workers", "pil", [200.0, 201.0])]
    training += trained("workers", "torchvision_loop", [50.0, 301.0])
    told = answers(tmp_path, training=training)
    assert told["Where should augmentation run?"][0] == "On the device (cpu), a batch at a time, or in loader workers"


@pytest.mark.parametrize(
    ("decoded", "words"),
    [
        ([110.0, 120.0], "faster than that beyond the spread between rounds."),
        ([85.0, 95.0], "not told apart: their rounds overlap."),
        ([70.0, 80.0], "slower beyond the spread between rounds."),
    ],
)
def test_the_answer_tells_what_images_on_the_device_spare(tmp_path: Path, decoded: list[float], words: str) -> None:
    """380 on images that lie there against 95 of workers that decode them too: most of that is not augmentation's."""
    training = [*trained("none", "torchvision", [400.0, 410.0]), *trained("device", "kornia", [370.0, 390.0], resident=True)]
    training += trained("workers", "pil", [90.0, 100.0], num_workers=2, resident=False, decode="workers")
    training += trained("device", "kornia", decoded, num_workers=2, resident=False, decode="workers")
    answer, evidence = answers(tmp_path, training=training)["Where should augmentation run?"]
    assert answer == "On the device (cpu), a batch at a time, where the images lie"
    assert "Where images have to be brought there first, kornia on the device, decoded in 2 workers reaches" in evidence
    assert evidence.endswith(words)


def test_what_was_not_asked_is_not_put(tmp_path: Path) -> None:
    assert answers(tmp_path, [], environment={}, plan={}) == {
        "What was measured?": ("Nothing", "this run holds no measurement and no training record.")
    }
    told = answers(tmp_path)
    assert list(told) == ["With which backend?"]
    assert told["With which backend?"][0] == "kornia"


def test_training_speed_without_a_ceiling_is_not_known(tmp_path: Path) -> None:
    told = answers(tmp_path, [], training=trained("device", "kornia", [300.0, 310.0]))
    assert told["Where should augmentation run?"] == (
        "Not known from this run",
        "2 records of training speed, but not with and without augmentation in one setting.",
    )


def test_training_speed_that_failed_is_said(tmp_path: Path) -> None:
    failed = trained("device", "kornia", [1.0, 1.0], status="failed", reason="worker died")
    told = answers(tmp_path, [], training=failed)
    assert told["Where should augmentation run?"] == (
        "Not known: it failed",
        "all 2 throughput records are failures: worker died.",
    )
