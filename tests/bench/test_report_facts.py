"""Facts of a report against hand calculations on small made records."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.records import AuditCell, AuditLane, Disturbance, Plan, Record, Run, Scaling, Speed, load_run
from bench.report import write_report
from bench.report.facts.accuracy import (
    backend_pairs,
    baseline,
    best_by_recipe,
    difference,
    is_undecided,
    pareto_front,
    score,
    soonest,
    undecided_with,
    with_target,
)
from bench.report.facts.cases import find_ties, is_slower, ratios, settings
from bench.report.facts.lanes import growth, lane_tables, named_differences
from bench.report.facts.pipeline import feedings
from bench.report.facts.placement import above_ceiling, ceiling, contest, cost, host_bound_ceilings, split_ms, workers
from bench.report.facts.scaling import alike_draws, largest, tables
from bench.report.facts.state import fallbacks, image_sets, list_remarks, missing, status_counts, verdict_counts
from tests.bench.stored import CASE, ENVIRONMENT, SAMPLES, audited, failed, speeds, store, trained
from tests.conftest import present


def run_of(*records: Record, **fields: Any) -> Run:
    return Run(path=Path("run"), name="run", records=list(records), **fields)


# ---- images per second ----------------------------------------------------------------------------------------------------


FLIP = replace(CASE, subject="flip")


def speed(backend: str, *rates: float, subject: str = "flip", **fields: Any) -> list[Speed]:
    """Return a round for each images/s."""
    lane = fields.pop("lane", "per_image")
    shape = {"batch_size": 100, "image_size": 32} | fields
    return [
        Speed(suite="recipes", subject=subject, backend=backend, lane=lane, round=i, images_per_s=r, **shape)
        for i, r in enumerate(rates)
    ]


def cell(backend: str, verdict: Any = "exact", subject: str = "flip", **fields: Any) -> AuditCell:
    return AuditCell(kind="recipe", subject=subject, backend=backend, verdict=verdict, **fields)


EQUAL = audited(
    *(cell(backend) for backend in ("torchvision_loop", "kornia", "fused")), cell("pil", "different", cause="8 bits")
)


def test_ratios_are_of_medians_and_of_the_worst_and_best_pair_of_rounds() -> None:
    run = run_of(*speed("torchvision_loop", 100, 90, 110), *speed("fused", 800, 1000, 900), *speed("pil", 50, 60), audit=EQUAL)
    (table,) = lane_tables(run, "recipes")
    assert table.baseline == "torchvision_loop"
    assert table.ratio("flip", "fused") == pytest.approx([900 / 100, 800 / 110, 1000 / 90])
    assert table.ratio("flip", "torchvision_loop") == []
    assert table.ratio("flip", "pil") == []  # not the op as it is defined
    assert table.winner("flip") == "fused"


@pytest.mark.parametrize(
    ("a", "b", "verdict"), [((10, 11), (8, 9), True), ((10, 11), (8, 10), False), ((10,), (8, 9), None), ((), (1, 2), None)]
)
def test_slower_needs_two_rounds_each_that_do_not_overlap(a: list[float], b: list[float], verdict: bool | None) -> None:
    assert is_slower(a, b) is verdict


def test_lanes_stand_apart_and_mixtures_have_no_ratio() -> None:
    batch = speed("torchvision", 500, 510, lane="per_batch")
    mixed = [*speed("kornia", 9, 9, lane="mixed"), *speed("fused", 5, 5, lane="mixed")]
    unsupported = replace(FLIP, backend="cvcuda", lane=None, status="unsupported", reason="no")
    run = run_of(*batch, *mixed, unsupported, audit=EQUAL)
    by_lane = {table.lane: table for table in lane_tables(run, "recipes")}
    assert (list(by_lane), by_lane["per_batch"].backends) == (["per_batch", "mixed"], ["torchvision"])
    assert by_lane["per_batch"].absent == {("flip", "kornia"): "·", ("flip", "fused"): "·", ("flip", "cvcuda"): "unsupported"}
    assert by_lane["mixed"].ratio("flip", "fused") == []
    assert by_lane["mixed"].winner("flip") is None


def test_differences_are_audited_ones_else_declared_ones_else_unknown() -> None:
    """A lane that was measured otherwise than declared is a difference too."""
    lane = AuditLane(declared="per_image", measured="per_batch")
    audit = audited(
        cell("kornia", "close", cause="no antialias"), cell("pil", "different", cause="8 bits"), cell("fused", lane=lane)
    )
    assert set(named_differences(run_of(audit=audit)) or {}) == {("flip", "pil"), ("flip", "fused")}
    planned = replace(FLIP, backend="pil", differs="8 bits")
    assert named_differences(run_of(plan=Plan(suite="quick", cases=(planned,)))) == {("flip", "pil"): "8 bits"}
    assert named_differences(run_of()) is None
    (table,) = lane_tables(run_of(*speed("torchvision_loop", 1, 1), *speed("fused", 2, 2)), "recipes")
    assert table.baseline is None


def test_growth_follows_one_size_while_the_other_is_usual() -> None:
    run = run_of(
        *speed("fused", 100), *speed("fused", 300, batch_size=400), *speed("fused", 25, image_size=64),
        *speed("fused", 9, batch_size=400, image_size=64), *speed("kornia", 50),
    )  # fmt: skip
    sizes = {
        (axis.along, k): [getattr(case, axis.along) for case in v]
        for axis, rows in growth(run).items()
        for k, v in rows["flip"].items()
    }
    assert sizes == {("batch_size", "fused"): [100, 400], ("image_size", "fused"): [32, 64]}


# ---- placement ------------------------------------------------------------------------------------------------------------


def placed(speeds: list[float], backend: str = "fused", augment_on: str = "device", **fields: Any) -> list[Record]:
    recipe = "none" if augment_on in ("none", "frozen") else "flip"
    shared = {"recipe": recipe, "backend": backend, "augment_on": augment_on} | fields
    return [trained("throughput", round=i, examples_per_s=s, **shared) for i, s in enumerate(speeds)]


FROZEN = placed([1000, 1200, 1100], augment_on="frozen", lane="fixed")
FUSED = placed([990, 1182, 1045], resident=True)
PIL = placed([500, 510, 505], "pil", "workers", num_workers=2, resident=False)


def test_the_fastest_place_wins_against_rounds_that_do_not_overlap() -> None:
    kornia = placed([980, 1100, 1010], "kornia", resident=True)
    fed = placed([520, 530, 525], resident=False, num_workers=2)
    run = run_of(*FROZEN, *PIL, *kornia, *FUSED, *fed, *speed("kornia", 9, 9), *speed("fused", 8, 8), audit=EQUAL)
    result = present(contest(run))
    assert (result.recipe, result.lane, result.best.backend) == ("flip", "per_image", "fused")
    assert [case.place for case in find_ties(result.places)] == ["device"]
    # Undecided in training: the fastest alone comes first.
    assert [arm.backend for arm in result.tied_backends] == ["kornia", "fused"]
    assert present(result.with_transfer).median("examples_per_s") == 525
    assert [case.first.backend for case in result.alone] == ["kornia", "fused"]


def test_places_whose_rounds_overlap_are_tied() -> None:
    result = present(contest(run_of(*FROZEN, *FUSED, *placed([900, 1000, 950], "pil", "workers", num_workers=2))))
    assert [case.place for case in find_ties(result.places)] == ["device", "workers"]


def test_cost_is_the_share_of_the_ceiling_that_is_lost() -> None:
    """1 - 1045/1100 of medians; by pairs from 1 - 1182/1000 to 1 - 990/1200."""
    frozen, fused, pil = (settings(run_of(*group), "throughput")[0][0] for group in (FROZEN, FUSED, PIL))
    loss = cost(fused, frozen)
    assert (loss.lost, loss.low, loss.high) == pytest.approx((0.05, -0.182, 0.175))
    assert loss.is_sure is False
    assert cost(pil, frozen).is_sure is True
    assert ratios(fused, frozen) == pytest.approx([0.99, 0.985, 0.95])


def test_the_ceiling_is_the_prepared_batch_else_the_fastest_bare_arm() -> None:
    bare = placed([2000, 2100], augment_on="none")
    (arms,) = settings(run_of(*FROZEN, *bare, *FUSED), "throughput")
    assert present(ceiling(arms)).augment_on == "frozen"
    assert present(ceiling(settings(run_of(*bare, *FUSED), "throughput")[0])).augment_on == "none"


def test_parts_of_a_step_add_up_to_its_wall_time() -> None:
    """64 images at 100 images/s take 640 ms, of which 3/4 forward and backward."""
    records = placed([100], split_s={"forward_backward": 3.0, "wait": 1.0})
    (arm,) = settings(run_of(*records), "throughput")[0]
    assert split_ms(arm) == pytest.approx({"forward_backward": 480, "wait": 160})


def test_workers_that_keep_up_are_ratios_of_a_round() -> None:
    worker = {"backend": "pil", "augment_on": "workers", "num_workers": 1}
    feeds = [trained("feed", round=i, examples_per_s=s, **worker) for i, s in enumerate((100, 120))]
    (arms,) = settings(run_of(*FROZEN), "throughput")
    ((arm, needed),) = workers(run_of(*FROZEN, *feeds), arms[0], "flip")
    assert (arm.backend, needed) == ("pil", [10, 10])


def test_utilisation_is_of_the_usual_recipes_best_arm_in_its_lane() -> None:
    records = [*placed([10], model_flops_utilisation=0.3), *placed([9], "kornia", model_flops_utilisation=0.2)]
    shared = placed([12], "kornia_shared", lane="per_batch", model_flops_utilisation=0.5)
    top = placed([11], augment_on="frozen", model_flops_utilisation=0.4)
    assert present(present(contest(run_of(*records, *shared, *top))).busiest).backend == "fused"


def test_an_arm_above_the_ceiling_in_every_round_is_a_contradiction() -> None:
    pairs = above_ceiling(run_of(*FROZEN, *FUSED, *placed([6000, 6100, 6200], "kornia")))
    assert [(arm.backend, top.augment_on) for arm, top in pairs] == [("kornia", "frozen")]


@pytest.mark.parametrize(("busy", "count"), [(0.3, 1), (0.9, 0), (None, 0)])
def test_a_ceiling_below_four_fifths_busy_is_bound_by_the_host(busy: float | None, count: int) -> None:
    run = run_of(*placed([1000, 1200], augment_on="frozen", gpu_busy=busy), *placed([900, 990], gpu_busy=0.1))
    assert len(host_bound_ceilings(run)) == count


# ---- accuracy -------------------------------------------------------------------------------------------------------------


def scores(recipe: str, *accuracies: float, backend: str = "fused", **fields: Any) -> list[Record]:
    shared = {"recipe": recipe, "backend": backend} | fields
    return [trained("accuracy", seed=i, test_accuracy=a, **shared) for i, a in enumerate(accuracies)]


def test_differences_are_paired_by_seed() -> None:
    """2, 3 and 4 points: mean 3, sd 1, half the interval t(0.975, 2) / sqrt(3) = 4.3027 / 1.7321 = 2.484."""
    run = run_of(*scores("flip", 0.52, 0.63, 0.44), *scores("none", 0.5, 0.6, 0.4))
    arms = settings(run, "accuracy")[0]
    flip, none = best_by_recipe(arms)
    gap = present(difference(flip, none))
    assert (gap.mean, gap.sd, gap.half, gap.n) == pytest.approx((3, 1, 2.484, 3), abs=1e-3)
    assert not is_undecided(gap)
    assert baseline(arms, run) is none
    assert is_undecided(difference(none, scores_arm("flip", 0.1)))


def scores_arm(*args: Any) -> Any:
    return settings(run_of(*scores(*args)), "accuracy")[0][0]


def test_the_baseline_is_the_sweeps() -> None:
    run = run_of(*scores("flip", 0.5), *scores("none", 0.5), plan=Plan(suite="sweep", baseline="flip@fused"))
    assert present(baseline(settings(run, "accuracy")[0], run)).recipe == "flip"


def test_backends_of_a_recipe_are_paired_with_the_audits_verdict() -> None:
    records = [*scores("flip", 0.5, 0.5), *scores("flip", 0.4, 0.4, backend="kornia"), *scores("none", 0.1)]
    (pair,) = backend_pairs(settings(run_of(*records), "accuracy")[0], EQUAL)
    assert (pair.a.recipe, round(pair.gap.mean, 9), pair.difference) == ("flip", 10, "")
    (pair,) = backend_pairs(settings(run_of(*records), "accuracy")[0], None)
    assert pair.difference == "not audited"


def test_the_pareto_front_is_what_nothing_beats_in_both() -> None:
    assert pareto_front([(1, 5), (2, 4), (2, 3), (3, 3), (1, 4)]) == [(1, 5), (2, 4), (3, 3)]


def test_targets_count_the_seeds_that_reached_them_without_resumed_runs() -> None:
    shared = {"target_accuracy": 0.5, "epochs": ()}
    quick = [trained("accuracy", seed=i, seconds_to_target=s, **shared) for i, s in enumerate((10.0, 20.0))]
    missed = trained("accuracy", seed=2, **shared)
    resumed = trained("accuracy", seed=3, seconds_to_target=1.0, resumed_after=1, **shared)
    (arm,) = settings(run_of(*quick, missed, resumed), "accuracy")[0]
    target = present(with_target(arm))
    assert (target.values("seconds_to_target"), len(target.records)) == ([10, 20], 3)
    late = [trained("accuracy", seed=i, backend="pil", seconds_to_target=s, **shared) for i, s in enumerate((30.0, 40.0))]
    assert present(soonest(settings(run_of(*quick, missed, *late), "accuracy")[0])).backend == "pil"  # both seeds reached it


# ---- scaling, photographs ---------------------------------------------------------------------------------------------------


def job(processes: int, *speeds: float, **fields: Any) -> list[Scaling]:
    scaling = "one" if processes == 1 else "weak"
    shared = {"processes": processes, "scaling": scaling, "parallel": "none" if processes == 1 else "ddp"} | fields
    return [trained("scaling", round=i, examples_per_s=s, **shared) for i, s in enumerate(speeds)]


def test_speedups_are_by_rounds_and_efficiency_by_devices() -> None:
    gpu = {"device": "cuda"}
    two = job(2, 180, 190, own_examples_per_s=(100.0, 80.0), draw_digests=(("a",), ("b",)), **gpu)
    (jobs,) = tables(run_of(*job(1, 100, 100, **gpu), *two))
    (most,) = largest(jobs)
    assert list(most.speedups) == pytest.approx([1.8, 1.9])
    assert most.efficiency == pytest.approx(1.85 / 2)
    assert most.is_sure
    assert most.slowest_rank == (1, 0.8)
    (jobs,) = tables(run_of(*job(1, 100, 100), *job(2, 90, 110)))
    assert largest(jobs)[0].efficiency == pytest.approx(1.0)  # processes share one CPU
    assert not largest(jobs)[0].is_sure


def test_ranks_that_drew_alike_are_named() -> None:
    (apart,), (record,) = job(2, 1.0, draw_digests=(("a",), ("b",))), job(2, 1.0, shared_draws=((0, 1),))
    alike = failed(record, "ranks 0 and 1 drew the same")
    assert alike_draws(run_of(apart, alike)) == [alike]


def test_fine_tuning_is_ranked_and_undecided_within_intervals() -> None:
    modes = {"scratch": (0.5, 0.51, 0.52), "full": (0.9, 0.91, 0.92), "frozen": (0.89, 0.92, 0.9)}
    runs = [trained("finetune", seed=i, mode=mode, test_accuracy=a) for mode, row in modes.items() for i, a in enumerate(row)]
    (cases,) = settings(run_of(*runs), "finetune")
    arms = sorted(cases, key=score, reverse=True)
    assert [arm.mode for arm in arms] == ["full", "frozen", "scratch"]
    assert [arm.mode for arm in undecided_with(arms)] == ["frozen"]


def test_stages_are_the_whole_less_the_arm_without_them_and_the_slowest_resource_predicts() -> None:
    """By hand: 10 ms an image, 6 of them decoding, 3 augmentation; two workers decode 2 / 14 ms, as reading takes 1 ms.

    The machine is half as fast in the last round of an arm without a stage, and so was the whole arm that took turns with it.
    In the one thread of a worker all stages take twice as long.
    """
    stages = {"stages": ("read", "decode", "augment"), "fetched": ("read", "decode")}
    shared: dict[str, Any] = {"model": None, "decoder": "pil", "cores": 8, **stages}
    cases = {None: 0.010, "read": 0.009, "decode": 0.004, "augment": 0.007}
    records = [
        trained(
            "pipeline", round=i, without=stage, fetch_threads=threads, images=100, wall_s=100 * s * slow * (1 + (threads or 0)),
            whole_s=1.0 * slow * (1 + (threads or 0)), images_per_s=1 / s, cpu_s_per_image=s, **shared,
        )
        for stage, s in cases.items()
        for threads in ((None, 1) if stage else (None,))
        for i, slow in enumerate((1, 1, 2))
    ]  # fmt: skip
    records.append(trained("pipeline", num_workers=2, images=100, wall_s=0.4, images_per_s=250.0, **shared))
    (feeding,) = feedings(run_of(*records))
    serial, parallel = feeding.whole("flip")
    assert {stage: round(span.value, 9) for stage, span in feeding.parts(serial).items()} == {
        "read": 0.001, "decode": 0.006, "augment": 0.003,
    }  # fmt: skip
    assert feeding.balance(serial) == pytest.approx(1)
    predicted = present(feeding.prediction(parallel))
    assert predicted.resource == "workers"
    assert predicted.rate == pytest.approx(2 / 0.014)
    assert predicted.error(parallel) == pytest.approx(2 / 0.014 / 250 - 1)
    assert feeding.prediction(serial) is None


# ---- state ----------------------------------------------------------------------------------------------------------------


def test_image_sets_name_their_uses_and_synthetic_ones() -> None:
    run = run_of(trained("accuracy"), trained("throughput", fallback="no network"), environment=ENVIRONMENT)
    (images,) = image_sets(run)
    assert (images.name, images.fallback) == ("cifar10", "no network")
    assert list(images.uses) == ["benchmarks", "accuracy", "throughput"]
    assert images.is_synthetic


def test_a_run_whose_fused_fell_back_to_tensors_says_where() -> None:
    run = run_of(*speed("fused", 1, implementation="tensors"), *speed("fused", 1, implementation="triton", device="cuda"))
    assert fallbacks(run) == ["cpu"]


def test_what_is_missing_is_gathered_by_reason_the_worst_first() -> None:
    absent = replace(CASE, suite="ops", lane=None, status="unsupported", reason="no")
    ops = [replace(absent, subject=op, reason=f"{op} is no op") for op in ("Hue", "Sat")]
    run = run_of(*speeds(CASE, "no memory"), plan=Plan(suite="quick", cases=(*ops, CASE)))
    rows = [(row.status, row.reason, len(row.cases)) for row in missing(run)]
    assert rows == [("failed", "no memory", 1), ("unsupported", "… is no op", 2)]
    assert status_counts(run) == {"failed": 1, "unsupported": 2}


def test_verdicts_are_counted_and_causes_gathered() -> None:
    assert verdict_counts(EQUAL.verdicts) == {"exact": 3, "different": 1}
    assert list(list_remarks(EQUAL, {cell.backend for cell in EQUAL.verdicts})) == ["different: 8 bits"]


def test_disturbed_figures_are_marked_and_no_answer_rests_on_them(tmp_path: Path) -> None:
    """Others used 46 % of the CPU in all rounds of the ceiling; a disturbed round among quiet ones counts for nothing."""
    busy = Disturbance(others_cpu=0.46)
    frozen = {"augment_on": "frozen", "recipe": "none", "lane": "fixed"}
    slow = [trained("throughput", round=n, examples_per_s=185.0 + n, disturbance=busy, **frozen) for n in range(3)]
    fused = [trained("throughput", round=n, examples_per_s=1180.0 + n, resident=True, backend="fused") for n in range(3)]
    late = replace(fused[0], round=3, examples_per_s=20.0, disturbance=busy)
    write_report(load_run(store(tmp_path / "run", {}, records=[*slow, *fused, late])))
    text = (tmp_path / "run" / "report" / "report.md").read_text()
    first_screen = text.partition("\n## ")[0]
    assert "> **Not measurable here:** others used 46% of the CPU while 1 of 2 cases were measured." in first_screen
    assert "What does it cost? **Not measurable here.** Others used 46% of the CPU" in first_screen
    assert "638" not in text
    assert "**A placement lies above the ceiling:**" in first_screen
    assert "186 ±0.5 %, disturbed" in text
    assert "contradiction: above it" in text
    speed = [replace(record, disturbance=busy) for record in speeds(replace(CASE, backend="fused"), SAMPLES)]
    write_report(load_run(store(tmp_path / "speed", {}, records=speed)))
    text = (tmp_path / "speed" / "report" / "report.md").read_text()
    assert "With which backend? **Not measurable here.** Others used 46% of the CPU" in text
    (arm,) = settings(run_of(*fused, late), "throughput")[0]
    assert (arm.rate, arm.disturbance) == (1181.0, None)
