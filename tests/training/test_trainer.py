"""Training: it learns, repeats itself, counts right, and stops with a clear message when it diverges."""

import itertools
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from augment import build
from tests.conftest import present
from training import models, optimise
from training.base_trainer import Trainer, TrainingDiverged
from training.checkpoint import load as load_checkpoint
from training.config import Placement, TrainConfig
from training.data import Dataset
from training.distributed import Ranks, stream_seed, synchronise
from training.loop import measure_throughput, open_trainer, train
from training.meters import StepClock, Totals
from training.presets import PRESETS, PresetName
from training.results import EpochStats, TrainResult
from training.sources.dataset import Split


def _without_times(result: TrainResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(stats).items() if not k.endswith("_s")} for stats in result.epochs]


_QUICKLY = {"model": "speednet", "optimizer": "sgd", "schedule": "one_cycle", "warm_up_epochs": 1, "bias_rate": 4}


@pytest.mark.parametrize(
    ("change", "accuracy"),
    [({"epochs": 8, "learning_rate": 5e-3}, 0.8), ({"epochs": 10, "learning_rate": 0.1, **_QUICKLY}, 0.5)],
)
def test_a_net_learns(change: dict[str, Any], accuracy: float, tiny: TrainConfig, shapes: Dataset) -> None:
    epochs = train(replace(tiny, recipe="none", width=8, batch_size=16, **change), shapes).epochs
    assert epochs[-1].train_loss < 0.9 * epochs[0].train_loss
    assert epochs[-1].train_accuracy > accuracy  # of 160 images in ten classes: chance is 0.1, its standard deviation 0.024
    assert epochs[-1].test_accuracy > 0.1 + 3 * 0.03  # of 100 test images


@pytest.mark.parametrize(("augment_on", "num_workers"), [("device", 0), ("workers", 2)])
def test_equal_seeds_repeat_bit_for_bit(augment_on: Placement, num_workers: int, tiny: TrainConfig, shapes: Dataset) -> None:
    config = replace(tiny, augment_on=augment_on, num_workers=num_workers)
    first = _without_times(train(config, shapes))
    torch.randn(7)  # earlier draws make no difference
    assert _without_times(train(config, shapes)) == first
    assert _without_times(train(replace(config, target_accuracy=0.5), shapes)) == first, "a target changes nothing else"
    assert _without_times(train(replace(config, seed=1), shapes)) != first


def test_one_epoch_is_that_of_a_plain_loop(tiny: TrainConfig, shapes: Dataset) -> None:
    """The oracle: the same weights, order and images through a loop written out here."""
    config = replace(tiny, recipe="none", augment_on="none", epochs=1)
    (stats,) = train(config, shapes).epochs
    torch.manual_seed(stream_seed(0, "weights"))
    model = models.create("resnet8", 10, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    images = build("none", "torchvision", image_size=16)(shapes.train.images)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(stream_seed(0, "order", epoch=1)))
    loss_sum, hits = 0.0, 0
    for batch in order.split(48):
        logits = model(images[batch])
        loss = F.cross_entropy(logits, shapes.train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(batch)
        hits += int((logits.argmax(1) == shapes.train.labels[batch]).sum())
    model.eval()
    with torch.no_grad():
        predicted = model(build("none", "torchvision", image_size=16)(shapes.test.images)).argmax(1)
    assert stats.train_loss == pytest.approx(loss_sum / 160, rel=1e-5)  # sums of float32 against float64
    assert stats.train_accuracy == hits / 160
    assert stats.test_accuracy == (predicted == shapes.test.labels).sum().item() / 100
    assert stats.examples == 160


def test_evaluation_counts_every_image_once_however_it_is_shared(
    tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_trainer(tiny, shapes) as current:
        whole, shares = current.evaluate(), list[tuple[float, ...]]()

        def total(ranks: Ranks, *values: float) -> list[float]:
            shares.append(values)
            return [0.0, 100.0]

        monkeypatch.setattr(Ranks, "total", total)
        monkeypatch.setattr(Ranks, "broadcast_buffers", lambda ranks, model: None)
        for rank in range(3):  # alone, with their summands: shares of 34, 33 and 33
            current.ranks = Ranks(rank=rank, world=3)
            current.evaluate()
    assert [count for _, count in shares] == [34, 33, 33]
    assert sum(right for right, _ in shares) == pytest.approx(whole * 100)


def test_compiled_and_channels_last_steps_compute_the_same(
    tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced but not compiled to machine code ("eager"): the last, smaller batch is left out.
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **options: compiled(net, backend="eager", **options))
    whole = replace(shapes, train=Split(images=shapes.train.images[:96], labels=shapes.train.labels[:96]))
    changed = tiny, replace(tiny, compile=True), replace(tiny, channels_last=True)
    eager, traced, laid_out = (train(config, whole) for config in changed)
    assert (traced.drop_last, eager.drop_last) == (True, False)
    assert traced.last.train_loss == pytest.approx(eager.last.train_loss, rel=1e-4)
    # Convolutions sum in another order: float32 rounding, amplified by four steps of Adam.
    assert laid_out.last.train_loss == pytest.approx(eager.last.train_loss, rel=1e-2)
    assert train(replace(tiny, compile=True, epochs=1), shapes).last.examples == 144  # 160 without the last 16


# ---- divergence -----------------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_too_large_stops_the_run(tiny: TrainConfig, shapes: Dataset) -> None:
    seen: list[EpochStats] = []
    message = (
        r"^the loss of step \d+ \(number \d of epoch \d\) is not finite \([^\n]+\): take a smaller learning_rate than 1e\+30$"
    )
    with pytest.raises(TrainingDiverged, match=message):
        train(replace(tiny, learning_rate=1e30, optimizer="sgd", epochs=3), shapes, on_epoch=seen.append)
    assert len(seen) < 3


def test_a_bad_loss_ends_a_long_epoch_within_ten_steps_and_what_came_before_is_kept(
    tiny: TrainConfig, shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """160 images in batches of 2: 80 steps an epoch. Planted in the second, and in nothing else: later losses are finite."""
    calls, honest = itertools.count(), optimise.loss  # call 0 warms up

    def planted(logits: torch.Tensor, *others: Any) -> torch.Tensor:
        number = next(calls)
        loss = honest(logits.detach() if number == 80 + 33 else logits, *others)  # no gradient of it spoils the weights
        return loss + logits.sum() * 0 + (math.inf if number == 80 + 33 else 0)

    monkeypatch.setattr(optimise, "loss", planted)
    steps: list[int] = []
    config, path = replace(tiny, epochs=3, batch_size=2, recipe="none"), tmp_path / "checkpoint.pt"
    with pytest.raises(
        TrainingDiverged, match=r"the loss of step 113 \(number 33 of epoch 2\) is not finite \(all gradients are\)"
    ):
        train(config, shapes, checkpoint=path, on_step=lambda step, _: steps.append(step))
    assert steps == [*range(1, 81), *range(1, 40 + 1)], "the next look is at step 40"
    assert len(load_checkpoint(path)["epochs"]) == 1


@pytest.mark.parametrize("planted", ["stages.1.conv2.weight", "head.bias"])
def test_the_parameter_whose_gradient_was_first_not_finite_is_named(planted: str, tiny: TrainConfig, shapes: Dataset) -> None:
    """A backward pass that breaks at one layer from step 14 on, as a compiled one may: the loss follows a step later."""

    def plant(parameters: dict[str, torch.nn.Parameter]) -> None:
        for name in itertools.takewhile(lambda name: name != planted, parameters):
            parameters[name].register_hook(lambda gradient: gradient * math.nan)
        parameters[planted].register_hook(lambda gradient: gradient * math.nan)

    with open_trainer(replace(tiny, batch_size=8, optimizer="sgd"), shapes) as current:
        parameters = dict(current.model.named_parameters())
        message = rf"step 15 \(number 15 of epoch 1\) is not finite \(the first gradient that is not: {planted}, step 14\)"
        with pytest.raises(TrainingDiverged, match=message):
            current.run_epoch(1, on_step=lambda step, _: plant(parameters) if step == 13 else None)


# ---- a frozen batch, speed, records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"optimizer": "adam"}, {"optimizer": "sgd", "learning_rate": 0.1}])
def test_one_batch_over_and_over_leaves_neither_nan_nor_denormals(
    change: dict[str, Any], tiny: TrainConfig, shapes: Dataset
) -> None:
    """Such numbers would make its steps faster or slower than those that it is the measure of."""
    smallest = torch.finfo(torch.float32).tiny
    with open_trainer(replace(tiny, augment_on="frozen", **change), shapes) as current:
        totals = Totals()
        current.model.train()
        for fetched in itertools.islice(current.feed.endless(), 200):
            current.step(fetched, totals)
        assert totals.read(Ranks())[1] > 0.8, "it knows the batch by heart"
        moments = [value for state in current.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        for values in (*current.model.parameters(), *(present(p.grad) for p in current.model.parameters()), *moments):
            assert values.isfinite().all()
            assert not ((values != 0) & (values.abs() < smallest)).any()


def test_wrong_calls_are_one_line(tiny: TrainConfig, shapes: Dataset) -> None:
    refusals = {"augment_on": ("frozen", "a frozen batch is for"), "image_size": (32, "of 16 pixels, image_size is 32")}
    for name, (value, message) in refusals.items():
        with pytest.raises(ValueError, match=message):
            train(replace(tiny, **{name: value}), shapes)  # type: ignore[arg-type]
    for wrong in ({"steps": 0}, {"seconds": -1.0}, {}, {"steps": 1, "seconds": 1.0}):
        with pytest.raises(ValueError, match="takes either seconds or steps, a positive number"):
            measure_throughput(tiny, shapes, **wrong)


def test_callbacks_hear_of_steps_and_epochs(tiny: TrainConfig, shapes: Dataset) -> None:
    heard: list[Any] = []
    on_epoch, on_step = (lambda stats: heard.append(stats.epoch)), (lambda step, steps: heard.append((step, steps)))
    train(tiny, shapes, on_epoch=on_epoch, on_step=on_step)
    steps = [(step, 4) for step in (1, 2, 3, 4)]
    assert heard == [*steps, 1, *steps, 2]


def test_results_say_what_was_run_on_what(tiny: TrainConfig, shapes: Dataset) -> None:
    data = replace(shapes, fallback="no network")
    fused = replace(tiny, backend="fused")
    parameters = sum(p.numel() for p in models.create("resnet8", 10, 4).parameters())
    for result in (train(tiny, data), measure_throughput(tiny, data, steps=1), measure_throughput(fused, data, steps=1)):
        assert result.data == data.facts
        assert (result.data.fallback, result.data.train_images, result.data.test_images) == ("no network", 160, 100)
        assert (result.devices, result.lane, result.parallel, result.batch_per_device) == (("cpu",), "per_image", "none", 48)
        assert result.parameters == result.trained_parameters == parameters
        assert result.examples_per_s <= result.examples_per_s_without_wait
        assert result.implementation in ((None,) if result.config.backend == "kornia" else ("c", "tensors"))


def test_data_is_loaded_as_the_config_says_when_none_is_given(tiny: TrainConfig, tmp_path: Path) -> None:
    config = replace(tiny, epochs=1, data_root=tmp_path, max_train=40, max_test=20)
    first, second = (train(replace(config, seed=seed)).data for seed in (0, 5))
    assert (first.train_images, first.test_images) == (40, 20)
    assert first == second, "another training seed sees the same images"


# ---- the hot path -------------------------------------------------------------------------------------------------------


_GPU: dict[str, Any] = {"device": "cuda:0", "image_size": 16}


def test_a_bias_that_is_trained_no_longer_costs_no_backward_pass(tiny: TrainConfig, shapes: Dataset) -> None:
    config = replace(tiny, model="speednet", optimizer="sgd", whiten_bias_epochs=1, epochs=2, augment_on="none")
    with open_trainer(config, shapes) as current:
        needs: list[bool] = []
        current.run(on_step=lambda step, steps: needs.append(current.model.get_parameter("first.bias").requires_grad))
    assert needs == [True] * 4 + [False] * 4


def test_seconds_end_when_the_device_is_idle(tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a clock that moves where a device is waited for. The wait before a start does not count."""
    now, waited = [0.0], list[torch.device]()

    def wait(device: torch.device) -> None:
        now[0] += 100

    for module in ("base_trainer", "loop"):
        monkeypatch.setattr(f"training.{module}.synchronise", wait)
        monkeypatch.setattr(f"training.{module}.time", SimpleNamespace(perf_counter=lambda: now[0]))
    with open_trainer(tiny, shapes) as current:
        assert current.run_epoch(1, evaluate=False).wall_s == 100
    assert measure_throughput(tiny, shapes, steps=2).wall_s == 100
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for name in ("cpu", "cuda:0"):
        synchronise(torch.device(name))
    assert waited == [torch.device("cuda:0")]


@pytest.mark.gpu
@pytest.mark.parametrize("change", [{}, {"prefetch": False}, {"augment_stream": True}, {"resident": True}, "fast", "standard"])
def test_on_a_gpu_no_step_waits_for_the_device(change: dict[str, Any] | PresetName, tiny: TrainConfig, shapes: Dataset) -> None:
    if isinstance(change, str):
        config = replace(PRESETS[change], **_GPU, batch_size=32, width=8)
    else:
        config = replace(tiny, **_GPU, backend="fused", precision="bfloat16", **change)
    with open_trainer(config, shapes) as current:
        current.warm_up()
        assert current.mode == "graph"
        totals, clock = Totals(), StepClock(current.device, split=True)
        batches = clock.time_waits(current.feed.endless())
        for step in range(10):
            torch.cuda.set_sync_debug_mode("error" if step >= 5 else "default")
            try:
                current.set_step_size(step)
                current.step(next(batches), totals, clock.mark_phase)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def test_an_accelerator_is_initialised_before_its_statistics_are_read(
    tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: the order of calls, as CUDA's allocator knows no device before the first allocation."""
    calls: list[str] = []
    monkeypatch.setattr("training.base_trainer.initialise", lambda device: calls.append("initialise"))
    monkeypatch.setattr(torch.accelerator, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    Trainer(tiny, shapes, Ranks(device=torch.device("cuda", 0)))
    assert calls == ["initialise", "reset"]
