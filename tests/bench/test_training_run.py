"""``augmark run --preset training`` from its start to its report, on a CPU and at its smallest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import presets
from bench.endtoend.throughput import Axes, arms
from bench.presets import ACCELERATOR, CPU, Preset
from bench.records.validation import validate_run
from bench.run import RunOptions, run
from training.config import validate
from training.data import load
from training.loop import measure_throughput
from training.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")


def smallest(one: Preset) -> Preset:
    assert one.timed is not None
    return replace(
        one, grid=("--recipes", "crop_flip", "--backends", "torchvision,fused", "--passes", "1", "--case-seconds", "0.01"),
        audited_backends=("torchvision_loop", "fused"), audited_recipes=("crop_flip",), audit_draws=100, max_train=100,
        max_test=50, width=4, throughput_seconds=0.01, throughput_rounds=1, throughput_backends=("torchvision", "fused"),
        throughput_workers=(0,), settings=replace(one.settings, batch_size=50), seeds=(0, 1),
        timed=replace(one.timed, width=4, epochs=1, warm_up_epochs=0.5, batch_size=50, target_accuracy=0.01),
    )  # fmt: skip


def test_it_leaves_tax_utilisation_and_seconds_to_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.CPU, "training", smallest(CPU["training"]))
    options = RunOptions(
        preset="training", device="cpu", data="synthetic", data_root=tmp_path / "data", results=tmp_path / "run"
    )
    folder = run(options, Console(quiet=True))
    records = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert [record for record in records if record["status"] != "ok"] == []
    trained = [record for record in records if record["kind"] == "throughput"]
    assert {record["augment_on"] for record in trained} == {"frozen", "none", "device"}
    assert {record["optimizer"] for record in trained} == {"sgd"}  # the settings of standard, not the book's
    assert all(record["flops_per_example"] > 0 and record["model_flops_utilisation"] > 0 for record in trained)
    (peak,) = {record["matmul_flops_per_s"] for record in trained}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["matmul_flops_per_s"] == {"cpu": {"float32": peak}}
    timed = [record for record in records if record["kind"] == "accuracy"]
    assert [(record["model"], record["seed"]) for record in timed] == [("speednet", 0), ("speednet", 1)]
    assert all(record["seconds_to_target"] == record["train_s"] > 0 for record in timed)
    assert validate_run(folder) == []
    page = (folder / "report" / "report.md").read_text()
    assert "of the device's own matmul rate" in page
    assert "reaches 1.0 % test accuracy" in page
    assert "2 of 2 seeds" in page
    assert "`HorizontalFlip`" not in page  # no single ops


def test_its_settings_are_those_of_standard_and_fast() -> None:
    one = ACCELERATOR["training"]
    assert (one.model, one.width) == (one.settings.model, one.settings.width) == ("resnet18", 64)
    assert one.settings.compile
    assert one.settings.channels_last
    assert one.timed is not None
    assert one.timed.target_accuracy == 0.94
    for chosen in (one, CPU["training"]):
        for config in (chosen.settings, chosen.timed):
            assert config is not None
            validate(replace(config, device="cpu"))


def test_all_arms_and_seeds_share_one_compiled_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than measuring, and past eight compilations of a model's code dynamo would run it eager."""
    from torch._dynamo.utils import counters

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **options: compiler(net, backend="eager", **options))
    torch.compiler.reset()
    counters.clear()
    dataset = load("synthetic", root=tmp_path, max_train=40, max_test=10)
    base = replace(PRESETS["standard"], device="cpu", model="resnet8", width=4, batch_size=20, precision="float32")
    axes = Axes(recipes=("crop_flip",), backends=("torchvision", "fused"), workers=(0,), decode=("ahead",))
    for seed in range(3):
        for config in arms(replace(base, resident=False, seed=seed), axes):
            measure_throughput(config, dataset, steps=1)
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


def test_its_arms_are_few_enough_for_ten_minutes() -> None:
    """The comment in the table counts on it: no more arms, and no compiled backend, which would compile the model anew."""
    one = ACCELERATOR["training"]
    base = replace(one.settings, device="cuda", resident=False)
    axes = Axes(recipes=one.throughput_recipes, backends=one.throughput_backends, workers=(1, 8), decode=("workers",))
    assert len(list(arms(base, axes))) <= 11
    assert not any(name.endswith("compiled") for name in one.throughput_backends or ())
