"""The first screen of runs with one purpose, from records made by hand whose answers are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from bench.records.measurements import Measurement
from bench.records.runs import Run
from bench.report.blocks import Break, Paragraph, Text
from bench.report.context import Context
from bench.report.lead import lead
from bench.report.page import MEASURED, sections
from tests.bench.stored import CASE, trained
from tests.bench.test_report_accuracy import record, records
from tests.bench.test_report_findings import job

BEST, BACKEND = "Which recipe trains best?", "Does the backend change what is reached?"
GAIN, DRAWS = "Does training scale over processes?", "Did two processes draw the same?"
LAYERS, TIME, DECODER = "Which layers should be trained?", "Photographs: what takes the time?", "Which decoder is fastest?"
FASTEST, GROWTH = "With which backend?", "How does speed change with size?"


def context_of(path: Path, training: list[dict[str, Any]], *measurements: Measurement, **parts: Any) -> Context:
    known = {"plan": {"cases": [{"case": {"subject": m.case.subject}, "differs": None} for m in measurements]}}
    fields: dict[str, Any] = {"environment": {}, "problems": []} | known | parts
    return Context.of(Run(path=path, name="a", measurements=list(measurements), training=training, **fields))


def plain(text: Text) -> str:
    parts = [text] if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else "\n" if isinstance(part, Break) else part.text for part in parts)


def told(path: Path, training: list[dict[str, Any]], *measurements: Measurement, **parts: Any) -> dict[str, tuple[str, str]]:
    """Each question of the first screen with its answer and what that rests on."""
    answers = lead(context_of(path, training, *measurements, **parts)).answers
    return {one.question: (one.answer, plain(one.evidence)) for one in answers}


def last_line(path: Path, training: list[dict[str, Any]], *measurements: Measurement, **parts: Any) -> str:
    last = sections(context_of(path, training, *measurements, **parts))[-1]
    return plain(last.text) if isinstance(last, Paragraph) else ""


# ---- accuracy ---------------------------------------------------------------------------------------------------------


def test_a_sweep_says_which_recipe_is_best_and_by_how_much(tmp_path: Path) -> None:
    """By pairs flip is ahead by 6, 5 and 8 points; of its backends one is 4 points ahead with every seed."""
    answers = told(tmp_path, records())
    assert list(answers) == [BEST, BACKEND]
    answer, evidence = answers[BEST]
    half = float(stats.t.ppf(0.975, 2)) * stats.sem([6.0, 5.0, 8.0])
    assert answer == "flip"
    assert evidence.startswith("flip, fused on the device, reaches 57.3 %")
    assert f"Minus the baseline none, fused on the device: +6.33 ±{half:.2f} points, 3 pairs of seeds: better." in evidence
    answer, evidence = answers[BACKEND]
    assert answer == "Yes, with flip"
    assert "1 of 2 pairs with one recipe differ: flip, fused on the device minus kornia on the device: +4.00 ±0.00" in evidence


def test_recipes_that_cannot_be_told_apart_are_undecided(tmp_path: Path) -> None:
    """By pairs +1, -1 and +1.5 points: the interval includes zero."""
    flips, nones = (0.52, 0.50, 0.535), (0.51, 0.51, 0.52)
    training = [record("none", "fused", seed, value) for seed, value in enumerate(nones)]
    training += [record("flip", "fused", seed, value) for seed, value in enumerate(flips)]
    training += [record("flip", "kornia", seed, value + 0.001 * (seed - 1)) for seed, value in enumerate(flips)]
    training += [record("cutout", "fused", seed, value - 0.2) for seed, value in enumerate(flips)]
    answers = told(tmp_path, training)
    assert answers[BEST][0] == "Undecided: flip or no augmentation"
    assert ": not told apart." in answers[BEST][1]
    assert "cutout -20.00 ±0.00" in answers[BEST][1]
    assert answers[BACKEND][0] == "No difference that shows"
    half = float(stats.t.ppf(0.975, 2)) * stats.sem([-0.1, 0.0, 0.1])
    assert f"up to ±{half:.2f} points, would not show" in answers[BACKEND][1]


def test_two_seeds_decide_nothing(tmp_path: Path) -> None:
    answers = told(tmp_path, records(2))
    assert answers[BEST][0].startswith("Undecided: flip or ")
    assert answers[BEST][1].endswith("Too few seeds for an interval, which takes 3.")
    assert answers[BACKEND][0] == "Undecided"


def test_the_audit_stands_beside_backends(tmp_path: Path) -> None:
    audit = {"comparisons": {"flip": {"fused|kornia": {"comparable": True}}, "none": {}}}
    assert told(tmp_path, records(), audit=audit)[BACKEND][1].endswith(
        "The audit calls the augmentation of 1 of 2 pairs equal."
    )


def test_one_recipe_is_no_contest(tmp_path: Path) -> None:
    training = [record("flip", "fused", seed, 0.5) for seed in range(3)]
    assert told(tmp_path, training) == {
        "What accuracy is reached?": ("50.0 % ±0.0 points", "With flip, fused on the device: 50.0 % ±0.0 points (3 seeds).")
    }


def test_a_target_has_its_own_answer(tmp_path: Path) -> None:
    """9, 10 and 11 s; then one seed that never came there."""
    timed = {"target_accuracy": 0.4, "train_s": 20.0, "warm_up_s": 1.0}
    training = [record("flip", "fused", seed, 0.5, seconds_to_target=9.0 + seed, **timed) for seed in range(3)]
    answers = told(tmp_path, training)
    half = float(stats.t.ppf(0.975, 2)) * stats.sem([9.0, 10.0, 11.0])
    assert list(answers) == ["How long to 40.0 % test accuracy?"]
    assert answers["How long to 40.0 % test accuracy?"][0] == f"10.0 ±{half:.1f} s of training"
    training += [record("flip", "fused", 3, 0.3, seconds_to_target=None, **timed)]
    assert told(tmp_path, training)["How long to 40.0 % test accuracy?"][0].endswith("s of training, in 3 of 4 seeds")
    assert told(tmp_path, training[3:])["How long to 40.0 % test accuracy?"][0] == "Not reached"


def test_the_share_of_the_device_is_said(tmp_path: Path) -> None:
    shares = {"model_flops_utilisation": 0.25, "matmul_flops_per_s": 1e12, "matmul_precision": "float32"}
    training = [trained("throughput", round=0, **shares), trained("throughput", round=1, augment_on="none", recipe="none")]
    question = "How much of the device's arithmetic does training use?"
    assert told(tmp_path, training)[question][0] == "25.0 %"


# ---- processes --------------------------------------------------------------------------------------------------------


def test_scaling_says_gain_efficiency_and_draws(tmp_path: Path) -> None:
    """Weak: 300/100 and 330/110, so 3.00; strong: 90/100 and 121/110, on both sides of one, 1.00 in the middle."""
    one = job(1, "one", [100.0, 110.0])
    training = one + job(4, "weak", [300.0, 330.0], shared_draws=[]) + job(4, "strong", [90.0, 121.0], shared_draws=[])
    answers = told(tmp_path, training)
    assert list(answers) == [GAIN, DRAWS]
    answer, evidence = answers[GAIN]
    assert answer == "4 processes, weak scaling: 3.00 times one; 4 processes, strong scaling: 1.00 times one, undecided"
    assert "3.00 times one (3.00 to 3.00), efficiency 300 %, 2 pairs;" in evidence  # they share the cores of the CPU
    assert (
        "efficiency 100 %, 2 pairs, on both sides of one: undecided. One process: 105 ±4.8 % examples/s, 2 rounds." in evidence
    )
    assert answers[DRAWS][0] == "No, no two alike"
    assert answers[DRAWS][1].startswith("In 4 jobs of 4 processes")


@pytest.mark.parametrize(("device", "efficiency"), [("cuda", "75 %"), ("cpu of box", "300 %")])
def test_devices_share_efficiency_but_cores_do_not(tmp_path: Path, device: str, efficiency: str) -> None:
    training = job(1, "one", [100.0, 110.0], device=device) + job(4, "weak", [300.0, 330.0], device=device)
    assert f"efficiency {efficiency}" in told(tmp_path, training)[GAIN][1]


def test_equal_draws_are_said(tmp_path: Path) -> None:
    alike = job(2, "weak", [1.0], shared_draws=[[0, 1]], status="failed", reason="ranks 0 and 1 drew the same")
    answers = told(tmp_path, alike)
    assert answers[GAIN] == ("Not known: it failed", "the only scaling record is a failure: ranks 0 and 1 drew the same.")
    assert answers[DRAWS] == ("Yes: their draws are not independent", "1 of 1 job: ranks 0 and 1 drew the same.")


def test_without_one_process_there_is_no_gain(tmp_path: Path) -> None:
    answers = told(tmp_path, job(2, "weak", [150.0]))
    assert answers[GAIN][0] == "2 processes, weak scaling: not known, no round of one process"
    assert told(tmp_path, job(1, "one", [100.0]))[GAIN][0] == "Not known from this run"


# ---- photographs ------------------------------------------------------------------------------------------------------


def tuned(mode: str, values: list[float], **fields: Any) -> list[dict[str, Any]]:
    own = {"mode": mode, "init": "x", "augment_on": "none", "train_images": 60, "num_epochs": 2} | fields
    return [trained("finetune", test_accuracy=value, seed=seed, **own) for seed, value in enumerate(values)]


def test_fine_tuning_names_what_is_ahead(tmp_path: Path) -> None:
    """All layers lead by 20, 21 and 22 points over scratch and by 10, 11 and 9 over the last layer."""
    training = tuned("full", [0.80, 0.82, 0.84]) + tuned("scratch", [0.60, 0.61, 0.62]) + tuned("frozen", [0.70, 0.71, 0.75])
    answer, evidence = told(tmp_path, training)[LAYERS]
    assert answer == "All layers"
    assert f"ahead by +10.00 ±{float(stats.t.ppf(0.975, 2)) * stats.sem([10.0, 11.0, 9.0]):.2f} and +21.00 ±" in evidence


def test_fine_tuning_may_be_undecided_and_settings_may_differ(tmp_path: Path) -> None:
    near = tuned("full", [0.60, 0.65, 0.61, 0.60]) + tuned("scratch", [0.61, 0.62, 0.60, 0.61])
    assert told(tmp_path, near)[LAYERS][0] == "Undecided"
    far = tuned("full", [0.8, 0.8, 0.81], train_images=244) + tuned("scratch", [0.6, 0.61, 0.6], train_images=244)
    answer, evidence = told(tmp_path, near + far)[LAYERS]
    assert answer == "With 60 photographs undecided; with 244 photographs all layers"
    assert evidence.count("photographs to train on") == 2


def test_photographs_say_what_takes_the_time(tmp_path: Path) -> None:
    """10 photographs, 0.6 s of the step and 0.2 of waiting: 60 of 80 ms, 75 %."""
    own = {"mode": "full", "recipe": "imagenet", "examples": 10, "decode_s": 0.05, "worker_augment_s": 0.02}
    own |= {"split_s": {"forward_backward": 0.6, "wait": 0.2}}
    training = [trained("photographs", round=n, examples_per_s=12.0 + n, **own) for n in range(2)]
    training += [trained("photographs", round=n, examples_per_s=12.5 + n, **own | {"backend": "pil"}) for n in range(2)]
    answer, evidence = told(tmp_path, training)[TIME]
    assert answer == "Forward and backward: 75 % of it"
    assert (
        "60.0 of 80.0 ms a photograph. Beside that, decoding where fetched 5.00 ms, augmenting where fetched 2.00 ms"
        in evidence
    )
    assert evidence.endswith("not told apart: their rounds overlap.")


def decoded(decoder: str, size: int, speeds: list[float]) -> list[dict[str, Any]]:
    own = {"kind": "decoding", "status": "ok", "decoder": decoder, "image_size": size, "num_workers": 1}
    return [{**own, "images_per_s": speed, "round": n} for n, speed in enumerate(speeds)]


def test_decoders_are_ranked_by_size(tmp_path: Path) -> None:
    training = decoded("pil", 256, [100.0, 110.0]) + decoded("torch", 256, [105.0, 120.0])
    training += decoded("pil", 512, [50.0, 51.0]) + decoded("torch", 512, [40.0, 41.0])
    answer, evidence = told(tmp_path, training)[DECODER]
    assert answer == "pil at 512 pixels; undecided at 256 pixels"
    assert "shorter side of 512 pixels, 1 at once: pil 50.5 images/s (±1.0 %, 2 rounds); torch 40.5" in evidence


# ---- augmentation by itself -------------------------------------------------------------------------------------------


def cell(backend: str, rates: list[float], subject: str = "crop_flip", **changes: Any) -> Measurement:
    case = replace(CASE, backend=backend, subject=subject, **changes)
    middle = sorted(rates)[len(rates) // 2]
    return Measurement(case=case, status="ok", draws="per_image", rounds=9, images_per_s=middle, images_per_s_passes=rates)


def test_growth_says_who_is_fastest_and_how_speed_grows(tmp_path: Path) -> None:
    """fused: 1,000 to 3,000 by batch, and at four times the side 125, which is twice the pixels; pil: 100 to 60."""
    cells = [cell("fused", [990.0, 1000.0, 1010.0]), cell("fused", [2990.0, 3000.0, 3010.0], batch_size=1000)]
    cells += [cell("fused", [124.0, 125.0, 126.0], image_size=128)]
    cells += [cell("pil", [99.0, 100.0, 101.0]), cell("pil", [59.0, 60.0, 61.0], batch_size=1000)]
    answers = told(tmp_path, [], *cells)
    assert list(answers) == [FASTEST, GROWTH]
    assert answers[FASTEST][0] == "fused"
    answer, evidence = answers[GROWTH]
    assert (
        answer
        == "fused: 3.00 times the images/s at batch 1,000 as at 100; 2.00 times the pixels/s at 128 pixels a side as at 32"
    )
    assert "from batch 100 to 1,000: fused 1,000 to 3,000, pil 100 to 60.0 (fused is 10.0 and 50.0 times as fast)." in evidence


def test_no_ratio_where_equal_work_is_not_known(tmp_path: Path) -> None:
    cells = [
        cell("fused", [10.0]),
        cell("fused", [30.0], batch_size=1000),
        cell("pil", [1.0]),
        cell("pil", [2.0], batch_size=1000),
    ]
    answers = told(tmp_path, [], *cells, plan={})
    assert "times as fast" not in answers[GROWTH][1]
    assert "(one pass)" in answers[GROWTH][0]


def test_overlapping_backends_are_both_named(tmp_path: Path) -> None:
    answers = told(tmp_path, [], cell("fused", [90.0, 110.0]), cell("pil", [85.0, 95.0]))
    assert answers[FASTEST][0] == "fused or pil"


def test_single_ops_count_wins(tmp_path: Path) -> None:
    cells = [cell("fused", [100.0, 101.0], op, suite="ops") for op in ("A", "B", "C")]
    cells += [cell("pil", [50.0, 51.0], op, suite="ops") for op in ("A", "B")] + [cell("pil", [90.0, 105.0], "C", suite="ops")]
    answer, evidence = told(tmp_path, [], *cells)[FASTEST]
    assert answer == "fused, in most ops"
    assert evidence.endswith("fused in 2; undecided in 1.")


def test_benchmarks_that_failed_are_said(tmp_path: Path) -> None:
    failed = Measurement(case=CASE, status="failed", draws="per_image", reason="out of memory")
    assert told(tmp_path, [], failed)[FASTEST] == (
        "Not known: no case succeeded",
        "none of 1 case was measured: out of memory.",
    )


# ---- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["throughput", "accuracy", "scaling", "finetune", "photographs", "decoding"])
def test_what_was_tried_and_failed_keeps_its_question_and_its_section(tmp_path: Path, kind: str) -> None:
    training = [trained(kind, status="failed", reason="worker died")]
    ((answer, evidence),) = told(tmp_path, training).values()
    assert answer == "Not known: it failed"
    assert "worker died" in evidence
    line = last_line(tmp_path, training)
    assert line.count(";") == len(MEASURED) - 2  # one section stays, the others are named


def test_failures_beside_results_are_counted(tmp_path: Path) -> None:
    training = [*records(), trained("accuracy", status="failed", reason="x", seed=9)]
    note = plain(lead(context_of(tmp_path, training)).note)
    assert note.endswith("Failed or not run: 1 training record; the reasons stand at the end.")


def test_a_planned_sweep_that_has_not_begun(tmp_path: Path) -> None:
    plan = {"sweep": {"cells": [["none", "fused", 0], ["flip", "fused", 0]]}}
    assert told(tmp_path, [], plan=plan)[BEST] == ("Not known from this run", "none of 2 planned training runs has run.")


def test_the_last_line_names_what_has_no_section(tmp_path: Path) -> None:
    line = last_line(tmp_path, records())
    assert line.startswith("Not measured in this run: training speed by placement; images per second of recipes;")
    assert "accuracy by recipe" not in line


def test_of_an_audit_alone_the_verdict_is_the_answer(tmp_path: Path) -> None:
    audit = {"verdicts": [{"kind": "op", "subject": "Flip", "backend": "pil", "verdict": "exact"}]}
    answers = told(tmp_path, [], audit=audit)
    assert answers["Is it the same augmentation?"][0] == "1 cell, an op or recipe on a backend: 1 exact"
