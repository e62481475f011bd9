"""``augmark scaling``: jobs, the proof that ranks draw differently (and that it fails where they do not), real processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.endtoend import scaling as scaling_module
from bench.endtoend.scaling import Job, ScalingOptions, jobs, run_job
from bench.endtoend.scaling_rank import PROBE_STEPS, _examples, draw_digests, own_pace, shared_draws
from bench.records.runs import Run
from bench.report.blocks import Block, Figure, Warning
from bench.report.context import Context
from bench.report.scaling import scaling_section
from tests.bench.test_tax import cell, plain
from training import feed
from training.config import TrainConfig
from training.data import Dataset, load
from training.distributed import Ranks, stream_seed

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = TrainConfig(
    data="synthetic", model="resnet8", width=4, device="cpu", batch_size=32, recipe="crop_flip", backend="fused",
    max_train=100, max_test=10, resident=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return load("synthetic", root=Path("nowhere"), max_train=100, max_test=10)


# ---- jobs -------------------------------------------------------------------------------------------------------------


def test_strong_scaling_keeps_the_batch_and_weak_that_of_each() -> None:
    made = [(job.processes, job.scaling, job.config.batch_size, job.together) for job in jobs(BASE, (1, 4), gpus=0)]
    assert made == [(1, "one", 32, False), (4, "strong", 32, False), (4, "weak", 128, False)]


def test_with_several_gpus_the_books_way_is_measured_beside() -> None:
    made = [(job.processes, job.scaling, job.together) for job in jobs(replace(BASE, device="cuda"), (1, 2), gpus=2)]
    assert made == [(1, "one", False), *((2, sort, together) for sort in ("strong", "weak") for together in (False, True))]


def test_processes_share_the_cores_and_dataparallel_sees_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], environment: dict[str, str], limit_s: float) -> tuple[int, str]:
        seen.append((command, environment))
        return 1, "[rank0]: noise\nerror: a line that says what to do\nTraceback of torchrun\n"

    monkeypatch.setattr(scaling_module, "_patiently", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,1")
    dataset = load("synthetic", root=Path("nowhere"), max_train=20, max_test=10)
    record = run_job(Job(processes=3, scaling="weak", config=BASE), dataset, seconds=1, cores=8)
    assert (record["status"], record["reason"]) == ("failed", "a line that says what to do")
    assert (record["kind"], record["processes"], record["parallel"], record["cores"]) == ("scaling", 3, "ddp", 8)
    assert "--nproc-per-node=3" in seen[0][0]
    assert seen[0][1]["OMP_NUM_THREADS"] == "2"
    run_job(Job(processes=2, scaling="weak", config=replace(BASE, device="cuda"), together=True), dataset, seconds=1, cores=8)
    assert "torch.distributed.run" not in seen[1][0]
    assert seen[1][1]["CUDA_VISIBLE_DEVICES"] == "5,3"


# ---- draws ------------------------------------------------------------------------------------------------------------


def digests(config: TrainConfig, dataset: Dataset, world: int = 3) -> list[list[str]]:
    return [draw_digests(config, dataset, Ranks(rank=rank, world=world)) for rank in range(world)]


@pytest.mark.parametrize("backend", ["fused", "torchvision"])
def test_no_two_ranks_draw_alike(backend: str, shapes: Dataset) -> None:
    ranks = digests(replace(BASE, backend=backend), shapes)
    assert [len(rank) for rank in ranks] == [PROBE_STEPS] * 3
    draws = "per_image" if backend == "fused" else "per_batch"
    assert shared_draws(ranks, draws) == []
    assert ranks[1] == draw_digests(replace(BASE, backend=backend), shapes, Ranks(rank=1, world=3))  # it repeats


@pytest.mark.parametrize("backend", ["fused", "torchvision", "kornia"])
def test_equal_seeds_are_found(backend: str, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that is looked for, planted: ranks whose streams forget the rank."""
    monkeypatch.setattr(feed, "stream_seed", lambda *args, rank=0, **others: stream_seed(*args, rank=0, **others))
    ranks = digests(replace(BASE, backend=backend), shapes)
    for draws in ("per_image", "per_batch", "mixed"):
        assert shared_draws(ranks, draws) == [(0, 1), (0, 2), (1, 2)]


def test_streams_that_meet_once_are_found_where_each_image_has_its_own_draw() -> None:
    """Two ranks whose streams are shifted against each other by a step: no batch is equal at the same step."""
    shifted = [["a", "b", "c"], ["b", "c", "d"], ["x", "y", "z"]]
    assert shared_draws(shifted, "per_image") == [(0, 1)]
    assert shared_draws(shifted, "per_batch") == []  # a flip of all or none meets by chance
    assert shared_draws([["a"], ["a"]], "fixed") == []


def test_a_rank_counts_the_images_of_its_own_steps(shapes: Dataset) -> None:
    """100 images in batches of 32 are 32, 32, 32 and 4; five steps after the first two have 32 + 4 + 32 + 32 + 32."""
    assert _examples(100, 32, 2, 5) == 132
    assert own_pace(BASE, shapes, Ranks(), seconds=0.05) > 0


# ---- real processes ---------------------------------------------------------------------------------------------------


def test_two_processes_train_and_prove_that_they_draw_differently(shapes: Dataset) -> None:
    job = Job(processes=2, scaling="weak", config=replace(BASE, batch_size=64, data_root=Path("nowhere")))
    record = run_job(job, shapes, seconds=0.2, cores=2)
    assert record["status"] == "ok", record["reason"]
    assert (record["kind"], record["processes"], record["scaling"], record["parallel"]) == ("scaling", 2, "weak", "ddp")
    assert (record["batch_size"], record["batch_per_device"], record["devices"]) == (64, 32, ["cpu", "cpu"])
    assert (record["threads"], record["cores"]) == (1, 2)
    assert record["shared_draws"] == []
    assert len(set(record["draw_digests"][0]) | set(record["draw_digests"][1])) == 2 * PROBE_STEPS
    assert len(record["own_examples_per_s"]) == 2
    assert record["slowest_rank"] == min((0, 1), key=lambda rank: record["own_examples_per_s"][rank])


def test_a_run_keeps_a_record_a_job_and_round_and_tells_a_failed_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: Job, dataset: Dataset, *, seconds: float, cores: int) -> dict[str, Any]:
        made = record(job.processes, job.scaling, (100.0,), "cpu")[0]
        if job.scaling == "strong":
            made |= {"status": "failed", "reason": "ranks 0 and 1 drew the same parameters", "shared_draws": [[0, 1]]}
        return made

    monkeypatch.setattr(scaling_module, "run_job", run)
    folder = tmp_path / "run"
    arguments = ["--data", "synthetic", "--device", "cpu", "--processes", "1", "2", "--rounds", "2", "--results", str(folder)]
    with pytest.raises(SystemExit) as stopped:
        main(["scaling", *arguments])
    assert stopped.value.code == 1
    records = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert sorted((r["round"], r["scaling"]) for r in records) == [
        (n, sort) for n in (0, 1) for sort in ("one", "strong", "weak")
    ]
    told = " ".join(capsys.readouterr().out.split())
    assert "failed (ranks 0 and 1 drew the same parameters)" in told
    assert "on a CPU the processes share its" in told
    assert "no two ranks alike" in (folder / "report" / "report.md").read_text()
    with pytest.raises(SystemExit):
        main(["scaling", *arguments])
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "processes must be at least 1, got 0"),
        (["--processes", "3", "--batch-size", "32"], "batch_size 32 cannot be shared by 3 processes: take a multiple"),
        (["--backend", "pil"], "backend pil works image by image on the CPU"),
        (["--backend", "dali"], "unknown backend 'dali'"),
        (["--recipe", "flop"], "unknown recipe 'flop'"),
        (["--seconds", "-1"], "seconds must be above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["scaling", "--data", "synthetic", "--device", "cpu", *arguments])
    told = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "results").exists()


def test_more_processes_than_gpus_is_one_line() -> None:
    with pytest.raises(ValueError, match="4 processes need 4 GPUs, this machine has 1: take at most --processes 1"):
        scaling_module._counts(ScalingOptions(processes=(1, 4)), replace(BASE, device="cuda"), 1)
    assert scaling_module._counts(ScalingOptions(), replace(BASE, device="cuda", batch_size=48), 6) == (1, 2, 4, 6)


# ---- the report -------------------------------------------------------------------------------------------------------


def record(processes: int, sort: str, rates: tuple[float, ...], device: str = "cuda", **fields: Any) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"kind": "scaling", "status": "ok", "recipe": "flip", "backend": "fused", "augment_on": "device"}
    shared |= {"model": "resnet8", "width": 8, "device": device, "draws": "per_image", "batch_size": 64 * processes}
    shared |= {"processes": processes, "scaling": sort, "parallel": "ddp" if processes > 1 else "none", "batch_per_device": 64}
    paces = [100.0 - 10 * rank for rank in range(processes)]
    shared |= {"shared_draws": [], "own_examples_per_s": paces, "threads": 4}
    return [{**shared, "examples_per_s": rate, "round": number, **fields} for number, rate in enumerate(rates)]


def section(tmp_path: Path, training: list[dict[str, Any]]) -> list[Block]:
    return scaling_section(
        Context.of(Run(path=tmp_path, name="run", environment={}, measurements=[], training=training, problems=[]))
    )


def test_efficiency_is_the_speed_up_by_device(tmp_path: Path) -> None:
    """By rounds 190/100 and 220/110: a speed-up of 1.95 in the median, 97.5 % on two GPUs; on a CPU nothing comes along."""
    made = section(tmp_path, record(1, "one", (100.0, 110.0)) + record(2, "weak", (190.0, 220.0)))
    assert cell(made, "2", "speed-up") == "1.95 (1.90 to 2.00)"
    assert cell(made, "2", "efficiency") == "98 %"
    assert cell(made, "2", "slowest rank") == "rank 1, 90 % of the fastest"
    assert cell(made, "2", "draws") == "no two ranks alike"
    assert cell(made, "1", "speed-up") == ""
    assert any(isinstance(block, Figure) and (tmp_path / "report" / block.path).exists() for block in made)
    on_cpu = section(tmp_path, record(1, "one", (100.0,), "cpu") + record(2, "weak", (110.0,), "cpu"))
    assert cell(on_cpu, "2", "efficiency") == "110 %"


def test_ranks_that_draw_alike_are_said_loudly(tmp_path: Path) -> None:
    alike = record(2, "weak", (190.0,), status="failed", reason="ranks 0 and 1 drew the same parameters", shared_draws=[[0, 1]])
    made = section(tmp_path, record(1, "one", (100.0,)) + alike)
    assert any(isinstance(block, Warning) and "ranks 0 and 1 drew the same" in plain(block.text) for block in made)
    assert "190" not in str(made)


def test_without_scaling_there_is_no_section_and_strange_records_do_no_harm(tmp_path: Path) -> None:
    assert section(tmp_path, []) == []
    assert section(tmp_path, [{"kind": "scaling"}])
    strange = {"own_examples_per_s": ["?", None], "parallel": 7, "processes": None, "shared_draws": "?"}
    assert section(tmp_path, [{**record(2, "weak", (5.0,))[0], **strange}])
