"""``augmark throughput``: which arms there are, that each leaves a record, and going on with a run that was broken off."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench.cli import main
from bench.endtoend.feeding import measure_feed
from bench.endtoend.outcomes import recorded
from bench.endtoend.throughput import (
    Axes,
    ThroughputOptions,
    arms,
    label,
    lone_workers,
    measure_arms,
    throughput,
    worker_counts,
)
from training.config import TrainConfig, settled, validate
from training.data import Dataset, load

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = TrainConfig(model="resnet8", width=4, device="cpu", batch_size=16)
FLIP = Axes(recipes=("flip",), backends=None, workers=(0, 3), decode=("workers",))


@pytest.fixture
def shapes(tmp_path: Path) -> Dataset:
    return load("synthetic", root=tmp_path, max_train=100, max_test=10)


def manner(config: TrainConfig) -> tuple[Any, ...]:
    return (config.augment_on, config.effective_backend, config.resident, config.num_workers, config.decode)


def test_the_arms_are_the_ceiling_every_backend_and_every_number_of_workers() -> None:
    """Written out by hand for one recipe, two numbers of workers, images in files, on a CPU."""
    fed = [(0, "workers"), (3, "workers")]
    # An optional extra: where it is installed, tests run its kernels on a CPU, interpreted.
    assert [manner(config) for config in arms(BASE, FLIP) if config.backend != "triton_augment"] == [
        ("frozen", "torchvision", False, 0, "ahead"),
        ("none", "torchvision", True, 0, "ahead"),
        *(("workers", "pil", False, *one) for one in fed),
        *(("workers", "torchvision_loop", False, *one) for one in fed),
        *(("device", name, True, 0, "ahead") for name in ("torchvision", "kornia", "kornia_shared", "fused")),
        *(("device", "fused", False, *one) for one in fed),
    ]
    assert [manner(config) for config in lone_workers(BASE, FLIP)] == [
        ("none", "torchvision", False, 1, "workers"),
        ("workers", "pil", False, 1, "workers"),
        ("workers", "torchvision_loop", False, 1, "workers"),
    ]


def test_arms_are_all_valid_and_told_apart_by_their_labels() -> None:
    both = replace(FLIP, recipes=("flip", "mixup"), decode=("ahead", "workers"))
    every = list(arms(BASE, both))
    for config in every:
        validate(config)
    assert len({label("throughput", config) for config in every}) == len(every)


def test_on_cuda_compiled_backends_and_a_second_stream_come_along() -> None:
    configs = list(arms(replace(BASE, device="cuda:0"), FLIP))
    on_device = {(c.backend, c.augment_stream) for c in configs if c.augment_on == "device" and c.resident}
    on_device.discard(("triton_augment", False))  # an optional extra, there where it is installed
    eager = {"torchvision", "kornia", "kornia_shared", "fused"}
    compiled = {"torchvision_compiled", "kornia_compiled", "fused_compiled"}
    assert on_device == {(name, False) for name in eager | compiled} | {("fused", True)}


def test_chosen_backends_alone_are_measured_and_what_they_lack_is_left_out() -> None:
    kornia = replace(FLIP, recipes=("augmix", "flip"), backends=("kornia",))  # kornia has no AugMix as it is defined
    configs = list(arms(BASE, kornia))
    assert {(c.recipe, c.backend) for c in configs if c.augments} == {("flip", "kornia")}
    assert [c.augment_on for c in configs].count("device") == 3


def test_numbers_of_workers_double_up_to_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, counts in ((1, (0, 1)), (2, (0, 1, 2)), (6, (0, 1, 2, 4, 6))):
        monkeypatch.setattr("bench.environment.usable_cores", lambda cores=cores: cores)
        assert worker_counts() == counts


def test_every_round_has_every_arm_in_an_order_of_its_own(shapes: Dataset, tmp_path: Path) -> None:
    axes = Axes(recipes=("flip",), backends=("torchvision", "pil"), workers=(0,), decode=("ahead",))
    console = Console(file=io.StringIO())
    measure_arms(BASE, axes, shapes, tmp_path, console, seconds=0.01, rounds=2)
    records = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert {record["status"] for record in records} == {"ok"}
    rounds = [[(r["kind"], r["recipe"], r["backend"], r["augment_on"], r["num_workers"]) for r in records if r["round"] == n]
              for n in (0, 1)]  # fmt: skip
    assert sorted(rounds[0]) == sorted(rounds[1])
    assert rounds[0] != rounds[1]
    # frozen, none; flip by torchvision resident and fetched, by pil in the process; alone: fetching, and pil.
    assert len(rounds[0]) == 5 + 2


@pytest.mark.gpu
def test_every_arm_of_a_gpu_gives_a_result(shapes: Dataset, tmp_path: Path) -> None:
    axes = Axes(recipes=("flip",), backends=("fused", "torchvision", "pil"), workers=(0, 1), decode=("ahead",))
    base = settled(replace(BASE, device="cuda:0", precision="auto"), torch.device("cuda:0"))
    measure_arms(base, axes, shapes, tmp_path, Console(file=io.StringIO()), seconds=0.05, rounds=1)
    records = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [record.get("reason") for record in records if record["status"] != "ok"] == []
    assert any(record["augment_stream"] for record in records)
    assert {record["precision"] for record in records} == {"bfloat16"}


def test_a_broken_off_run_goes_on_where_it_was(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    folder = tmp_path / "run"
    options = ThroughputOptions(
        data="synthetic", data_root=tmp_path, recipes=("flip",), backends=("torchvision",), workers=(0,), seconds=0.01,
        rounds=2, model="resnet8", width=4, max_train=100, batch_size=16, device="cpu", results=folder,
    )  # fmt: skip
    throughput(options, console)
    path = folder / "training.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 2 * (4 + 1)
    path.write_text("\n".join(lines[:3]) + "\n")
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        throughput(options, console)
    throughput(replace(options, resume=True), console)
    again = path.read_text().splitlines()
    assert again[:3] == lines[:3]
    key = lambda line: tuple(json.loads(line)[n] for n in ("kind", "round", "augment_on", "resident"))  # noqa: E731
    assert sorted(map(key, again)) == sorted(map(key, lines))
    assert json.loads((folder / "environment.json").read_text())["dataset"]["name"].startswith("synthetic")


def test_a_run_is_not_gone_on_with_where_its_numbers_would_not_compare(tmp_path: Path) -> None:
    """Its arms have the same names there: they would be taken for measured already."""
    console, folder = Console(file=io.StringIO()), tmp_path / "run"
    options = ThroughputOptions(
        data="synthetic", data_root=tmp_path, recipes=("none", "none"), backends=("torchvision",), workers=(0, 0), seconds=0.01,
        rounds=1, model="resnet8", width=4, max_train=100, batch_size=16, device="cpu", results=folder,
    )  # fmt: skip
    throughput(options, console)
    path = folder / "environment.json"
    told, measured = path.read_text(), (folder / "training.jsonl").read_text()
    assert (
        len(measured.splitlines()) == 4 + 1
    )  # the ceiling, none, resident, fetched; one worker alone: named twice, measured once
    with pytest.raises(ValueError, match=r"cannot be gone on with here \(dataset name synthetic \(100 .* -> synthetic \(50 "):
        throughput(replace(options, resume=True, max_train=50), console)
    path.write_text(told.replace('"machine": "', '"machine": "not-'))
    with pytest.raises(ValueError, match=r"cannot be gone on with here \(machine not-"):
        throughput(replace(options, resume=True), console)
    path.write_text(told)
    (folder / "training.jsonl").write_text(measured.replace('"device": "cpu"', '"device": "cuda:0"'))
    with pytest.raises(ValueError, match=r"\(device cuda:0 -> cpu\): choose another folder"):
        throughput(replace(options, resume=True), console)
    assert path.read_text() == told


def test_a_lone_worker_delivers_what_was_counted(shapes: Dataset) -> None:
    record = measure_feed(replace(BASE, augment_on="workers", backend="pil", num_workers=1), shapes, seconds=0.05).as_record()
    assert record["kind"] == "feed"
    assert record["batches"] >= 2
    # An epoch is 6 batches of 16 and one of 4.
    assert 4 < record["examples"] / record["batches"] <= 16
    assert record["examples_per_s"] == pytest.approx(record["examples"] / record["wall_s"])
    assert json.loads(json.dumps(record)) == record


def test_a_failing_arm_is_a_record(shapes: Dataset) -> None:
    def broken() -> None:
        raise AttributeError("no such thing")

    record = recorded("throughput", BASE, shapes, broken)
    assert (record["status"], record["reason"]) == ("failed", "AttributeError: no such thing")
    assert record["fingerprint"] == shapes.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--seconds", "0"], "seconds must be above 0 and less than 3600, got 0"),
        (["--workers", "1", "-1"], "workers must lie between 0 and 1024, got -1"),
        (["--backends", "dali"], "unknown backend 'dali'"),
        (["--recipes", "flop"], "unknown recipe 'flop'"),
        (["--model", "vgg"], "unknown model 'vgg'"),
        (["--decode", "workers"], "has no files to decode in workers: take --data FOLDER"),
        (["--resume"], "--resume needs --results DIR"),
    ],
    ids=lambda value: "".join(value[:1]) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["throughput", "--data", "synthetic", "--device", "cpu", *arguments])
    told = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "results").exists()
