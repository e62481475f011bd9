"""``augmark scaling``: cases, the proof that ranks draw differently (and that it fails where they do not), real processes."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from bench.jobs import scaling as module
from bench.jobs.scaling import ScalingOptions, plan_cases, process_counts, run_processes, scaling
from bench.jobs.scaling_rank import PROBE_STEPS, count_examples, draw_digests, find_shared_draws, own_pace
from bench.records import Scaling, load_run
from training import feed
from training.config import TrainConfig
from training.data import Dataset
from training.distributed import Ranks, stream_seed

BASE = TrainConfig(
    data="synthetic", model="resnet8", width=4, device="cpu", batch_size=32, recipe="crop_flip", backend="fused",
    max_train=100, max_test=10, resident=True, data_root=Path("nowhere"),
)  # fmt: skip


# ---- cases ------------------------------------------------------------------------------------------------------------


def cases_of(base: TrainConfig, dataset: Dataset, processes: tuple[int, ...], gpus: int) -> list[tuple[Any, ...]]:
    cases = plan_cases(base, dataset, processes, gpus=gpus, cores=8)
    return [(case.processes, case.scaling, case.batch_size, case.parallel) for case in cases]


def test_strong_scaling_keeps_the_batch_and_weak_that_of_each(shapes: Dataset) -> None:
    assert cases_of(BASE, shapes, (1, 4), 0) == [(1, "one", 32, "none"), (4, "strong", 32, "ddp"), (4, "weak", 128, "ddp")]
    on_gpus = cases_of(replace(BASE, device="cuda"), shapes, (1, 2), 2)  # with the book's way beside
    assert on_gpus == [
        (1, "one", 32, "none"), (2, "strong", 32, "ddp"), (2, "strong", 32, "data_parallel"), (2, "weak", 64, "ddp"),
        (2, "weak", 64, "data_parallel"),
    ]  # fmt: skip


def test_processes_share_the_cores_and_dataparallel_sees_its_gpus(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], limit_s: float, *, env: dict[str, str]) -> tuple[int, str]:
        runs.append((command, env))
        return 1, "[rank0]: noise\nerror: a line that says what to do\nTraceback of torchrun\n"

    monkeypatch.setattr(module, "read_output", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,1")
    case, *_ = plan_cases(replace(BASE, batch_size=30), shapes, (3,), gpus=0, cores=8)
    record = run_processes(case, BASE, seconds=1)
    assert (record.status, record.reason) == ("failed", "a line that says what to do")
    assert "--nproc-per-node=3" in runs[0][0]
    assert runs[0][1]["OMP_NUM_THREADS"] == "2"
    on_gpus = replace(BASE, device="cuda")
    run_processes(plan_cases(on_gpus, shapes, (2,), gpus=2, cores=8)[1], on_gpus, seconds=1)
    assert "torch.distributed.run" not in runs[1][0]
    assert runs[1][1]["CUDA_VISIBLE_DEVICES"] == "5,3"


# ---- draws ------------------------------------------------------------------------------------------------------------


def digests(config: TrainConfig, dataset: Dataset, world: int = 3) -> list[list[str]]:
    return [draw_digests(config, dataset, Ranks(rank=rank, world=world)) for rank in range(world)]


@pytest.mark.parametrize(("backend", "lane"), [("fused", "per_image"), ("torchvision", "per_batch")])
def test_no_two_ranks_draw_alike(backend: str, lane: str, shapes: Dataset) -> None:
    ranks = digests(replace(BASE, backend=backend), shapes)
    assert [len(rank) for rank in ranks] == [PROBE_STEPS] * 3
    assert find_shared_draws(ranks, lane) == []
    assert ranks[1] == draw_digests(replace(BASE, backend=backend), shapes, Ranks(rank=1, world=3))  # it repeats


@pytest.mark.parametrize("backend", ["fused", "torchvision", "kornia"])
def test_equal_seeds_are_found(backend: str, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that is looked for, planted: ranks whose streams forget the rank."""
    monkeypatch.setattr(feed, "stream_seed", lambda *args, rank=0, **others: stream_seed(*args, rank=0, **others))
    ranks = digests(replace(BASE, backend=backend), shapes)
    for lane in ("per_image", "per_batch", "mixed"):
        assert find_shared_draws(ranks, lane) == [(0, 1), (0, 2), (1, 2)]


def test_streams_that_meet_once_are_found_where_each_image_has_its_own_draw() -> None:
    """Two ranks whose streams are shifted against each other by a step: no batch is equal at the same step."""
    shifted = [["a", "b", "c"], ["b", "c", "d"], ["x", "y", "z"]]
    assert find_shared_draws(shifted, "per_image") == [(0, 1)]
    assert find_shared_draws(shifted, "per_batch") == []  # a flip of all or none meets by chance
    assert find_shared_draws([["a"], ["a"]], "fixed") == []


def test_a_rank_counts_the_images_of_its_own_steps(shapes: Dataset) -> None:
    """100 images in batches of 32 are 32, 32, 32 and 4; five steps after the first two have 32 + 4 + 32 + 32 + 32."""
    assert count_examples(100, 32, 2, 5) == 132
    assert own_pace(BASE, shapes, Ranks(), seconds=0.05) > 0


# ---- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_and_prove_that_they_draw_differently(shapes: Dataset) -> None:
    case = plan_cases(BASE, shapes, (2,), gpus=0, cores=2)[-1]
    record = run_processes(case, BASE, seconds=0.2)
    assert record.status == "ok", record.reason
    assert record.key == case.key
    assert (record.batch_size, record.batch_per_device, record.devices) == (64, 32, ("cpu", "cpu"))
    assert (record.threads, record.cores, record.implementation) == (1, 2, "c")
    assert record.shared_draws == ()
    assert len(set(record.draw_digests[0]) | set(record.draw_digests[1])) == 2 * PROBE_STEPS
    assert len(record.own_examples_per_s) == 2
    assert record.slowest_rank == min((0, 1), key=lambda rank: record.own_examples_per_s[rank])


def test_a_run_keeps_a_record_a_case_and_round_and_a_failed_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(case: Scaling, config: TrainConfig, *, seconds: float) -> Scaling:
        if case.scaling == "strong":
            return msgspec.structs.replace(case, status="failed", reason="ranks 0 and 1 drew the same parameters")
        return msgspec.structs.replace(case, status="ok", lane="per_image", examples_per_s=100.0, wait_share=0.0)

    monkeypatch.setattr(module, "run_processes", run)
    console = Console(file=io.StringIO(), width=500)
    options = ScalingOptions(
        data="synthetic", device="cpu", processes=(1, 2), rounds=2, results=tmp_path / "run", data_root=tmp_path
    )
    folder = scaling(options, console, lambda folder: None)
    records = [record for record in load_run(folder).records if isinstance(record, Scaling)]
    assert sorted((record.round, str(record.scaling), record.status) for record in records) == [
        (number, *end) for number in (0, 1) for end in (("one", "ok"), ("strong", "failed"), ("weak", "ok"))
    ]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed (ranks 0 and 1 drew the same parameters)" in text
    assert "on a CPU the processes share its" in text


def test_more_processes_than_gpus_is_one_line() -> None:
    with pytest.raises(ValueError, match="4 processes need 4 GPUs, this machine has 1: take at most --processes 1"):
        process_counts(ScalingOptions(processes=(1, 4)), replace(BASE, device="cuda"), 1)
    assert process_counts(ScalingOptions(), replace(BASE, device="cuda", batch_size=48), 6) == (1, 2, 4, 6)
