"""Training: it learns, repeats itself, counts right, and stops with a clear word when it diverges."""

import dataclasses
import itertools
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from augment.catalog import build
from training import feed, models, optimise
from training import train as entry
from training.checkpoint import load as load_checkpoint
from training.clock import PARTS, StepClock
from training.config import Placement, TrainConfig
from training.data import Dataset, Split
from training.distributed import Ranks, stream_seed
from training.feed import Recipe
from training.loop import EpochStats, TrainingDiverged, TrainResult, evaluate, measure_throughput, train, trainer
from training.totals import LOOK_EVERY, Totals, Watch
from training.trainer import Trainer


def _without_times(result: TrainResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in dataclasses.asdict(stats).items() if not k.endswith("_s")} for stats in result.epochs]


def test_the_loss_falls_and_accuracy_rises_above_chance(tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, recipe="none", width=8, epochs=8, batch_size=16, learning_rate=5e-3)
    epochs = train(config, shapes).epochs
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    assert epochs[-1].train_accuracy > 0.8
    # Chance is 0.1; with 100 test images its standard deviation is 0.03.
    assert epochs[-1].test_accuracy > 0.1 + 3 * 0.03


@pytest.mark.parametrize(("augment_on", "num_workers"), [("device", 0), ("workers", 2)])
def test_equal_seeds_repeat_bit_for_bit(augment_on: Placement, num_workers: int, tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, augment_on=augment_on, num_workers=num_workers)
    first = _without_times(train(config, shapes))
    torch.randn(7)  # what was drawn before makes no difference
    assert _without_times(train(config, shapes)) == first
    assert _without_times(train(dataclasses.replace(config, seed=1), shapes)) != first


def test_one_epoch_is_that_of_a_plain_loop(tiny: TrainConfig, shapes: Dataset) -> None:
    """The oracle: the same weights, order and images through a loop written out here."""
    config = dataclasses.replace(tiny, recipe="none", augment_on="none", epochs=1)
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


def test_warming_up_leaves_the_model_as_it_was(tiny: TrainConfig, shapes: Dataset) -> None:
    for augment_on in ("device", "workers"):
        trainer = Trainer(dataclasses.replace(tiny, augment_on=augment_on), shapes, Ranks())
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.warm_up()
        assert all(value.equal(before[name]) for name, value in trainer.model.state_dict().items())
        assert all(p.grad is None for p in trainer.model.parameters())


def test_evaluation_counts_every_image_once_however_it_is_shared(shapes: Dataset) -> None:
    recipe = Recipe(name="none", backend="torchvision", image_size=16, num_classes=10, dtype=torch.float32)
    model = models.create("resnet8", 10, 4)
    whole = evaluate(model, shapes, recipe, Ranks(), batch_size=32)
    assert whole[1] == 100
    # Each rank alone, with what it would add to the sum: shares of 34, 33 and 33.
    shares = [evaluate(model, shapes, recipe, _Alone(rank=rank, world=3), batch_size=32) for rank in range(3)]
    assert [count for _, count in shares] == [34, 33, 33]
    assert sum(accuracy * count for accuracy, count in shares) == pytest.approx(whole[0] * 100)


class _Alone(Ranks):
    """A rank of many that is not connected to the others."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_accuracy_with_mixed_targets_is_against_the_largest(tiny: TrainConfig, shapes: Dataset) -> None:
    totals = Totals()
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    totals.add(torch.tensor(1.5), logits, torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3]]))
    assert totals.read(Ranks()) == (1.5, 0.5, 2)
    for recipe in ("mixup", "cutmix"):
        last = train(dataclasses.replace(tiny, recipe=recipe, epochs=1), shapes).epochs[-1]
        assert last.train_loss > 0
        assert 0 <= last.train_accuracy <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16", "channels_last": True},
        {"optimizer": "sgd"},
        {"augment_on": "none", "num_workers": 1},
        {"backend": "pil", "augment_on": "workers"},
        {"model": "resnet18"},
    ],
)
def test_options_run_and_do_what_the_default_does_nearly(change: dict[str, Any], tiny: TrainConfig, shapes: Dataset) -> None:
    last = train(dataclasses.replace(tiny, **change), shapes).epochs[-1]
    # After two epochs of 4 steps a net is still near chance: ln 10 = 2.303; a broken path gives 0, inf or much more.
    assert 1.5 < last.train_loss < 3.5


def test_channels_last_computes_the_same(tiny: TrainConfig, shapes: Dataset) -> None:
    plain, laid_out = (
        train(dataclasses.replace(tiny, channels_last=value, epochs=1), shapes).epochs[0] for value in (False, True)
    )
    # Convolutions sum in another order: float32 rounding, amplified by four steps of Adam.
    assert laid_out.train_loss == pytest.approx(plain.train_loss, rel=1e-2)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_epoch(tiny: TrainConfig, shapes: Dataset) -> None:
    seen: list[EpochStats] = []
    config = dataclasses.replace(tiny, learning_rate=1e30, optimizer="sgd", epochs=3)
    with pytest.raises(TrainingDiverged, match=r"the loss of step \d+ \(number \d of epoch \d\) is not finite"):
        train(config, shapes, on_epoch=seen.append)
    assert len(seen) < 3


def test_the_first_step_whose_loss_is_not_finite_is_named_and_what_came_before_is_kept(
    tiny: TrainConfig, shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, honest = itertools.count(), optimise.loss  # call 0 warms up; an epoch has 4 steps

    def planted(*arguments: Any) -> torch.Tensor:
        return honest(*arguments) * (math.nan if next(calls) == 7 else 1)

    monkeypatch.setattr(optimise, "loss", planted)
    config = dataclasses.replace(tiny, epochs=3, max_train=160, max_test=100)
    assert entry.main(config, tmp_path) == 2
    message = "the loss of step 7 (number 3 of epoch 2) is not finite: take a smaller learning_rate than 0.001"
    assert capsys.readouterr().err == f"error: {message}\n"
    assert [row["epoch"] for row in entry.read_curves(tmp_path)] == [1]
    assert len(load_checkpoint(tmp_path / "checkpoint.pt")["epochs"]) == 1


def test_a_loss_that_is_not_finite_ends_a_long_epoch_within_ten_steps(
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
    config = dataclasses.replace(tiny, epochs=3, batch_size=2, recipe="none")
    with pytest.raises(TrainingDiverged, match=r"the loss of step 113 \(number 33 of epoch 2\) is not finite"):
        train(config, shapes, checkpoint=tmp_path / "checkpoint.pt", on_step=lambda step, _: steps.append(step))
    assert steps[:80] == list(range(1, 81))
    assert steps[80:] == list(range(1, 40 + 1)), "the next look is at step 40"
    assert len(load_checkpoint(tmp_path / "checkpoint.pt")["epochs"]) == 1


def _steps_until_seen(device: torch.device, bad_step: int) -> int:
    totals = Totals()
    watch = Watch(totals, Ranks(device=device))
    logits, labels = torch.eye(3, device=device), torch.arange(3, device=device)
    losses = [torch.full((), math.nan if step == bad_step else 1.0, device=device) for step in range(1, 100)]
    for step, loss in enumerate(losses, start=1):
        totals.add(loss, logits, labels)
        if not watch.all_well():
            return step
    raise AssertionError("not seen")


@pytest.mark.parametrize("bad_step", [1, 9, 10, 11, 20])
def test_a_look_sees_every_loss_since_the_last_one(bad_step: int) -> None:
    assert _steps_until_seen(torch.device("cpu"), bad_step) == -(-bad_step // LOOK_EVERY) * LOOK_EVERY


@pytest.mark.gpu
@pytest.mark.parametrize("bad_step", [1, 10, 11])
def test_on_a_gpu_a_look_is_read_at_the_next_and_nothing_else_is_waited_for(bad_step: int) -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = _steps_until_seen(torch.device("cuda", 0), bad_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == (-(-bad_step // LOOK_EVERY) + 1) * LOOK_EVERY


def test_one_batch_over_and_over_leaves_neither_nan_nor_denormals(tiny: TrainConfig, shapes: Dataset) -> None:
    """Such numbers would make its steps faster or slower than those that it is the measure of."""
    smallest = torch.finfo(torch.float32).tiny
    for change in ({"optimizer": "adam"}, {"optimizer": "sgd", "learning_rate": 0.1}):
        with trainer(dataclasses.replace(tiny, augment_on="frozen", **change), shapes) as current:
            totals = Totals()
            current.model.train()
            for fetched in itertools.islice(current.feed.endless(), 200):
                current.step(fetched, totals)
            assert totals.read(Ranks())[1] > 0.8, "it knows the batch by heart"
            kept = [value for state in current.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
            for values in (*current.model.parameters(), *(p.grad for p in current.model.parameters()), *kept):
                assert values is not None
                assert values.isfinite().all()
                assert not ((values != 0) & (values.abs() < smallest)).any()


def test_a_frozen_batch_trains_nothing(tiny: TrainConfig, shapes: Dataset) -> None:
    with pytest.raises(ValueError, match="a frozen batch is for measuring speed"):
        train(dataclasses.replace(tiny, augment_on="frozen"), shapes)


def test_totals_keep_nothing_that_a_loader_worker_sent() -> None:
    totals, labels = Totals(), torch.zeros(3, dtype=torch.int64)
    sent = weakref.ref(labels)
    totals.add(torch.tensor(1.0), torch.eye(3), labels)
    del labels
    assert sent() is None  # kept, each would hold a file open, and an epoch has more batches than a process may open files


def test_totals_are_exact_and_name_the_first_bad_step() -> None:
    totals = Totals()
    steps = [(0.5, 2), (2.0, 1), (math.inf, 2), (math.nan, 1)]
    for loss, size in steps[:2]:
        totals.add(torch.tensor(loss), torch.eye(3)[:size], torch.zeros(size, dtype=torch.int64))
    assert totals.read(Ranks()) == ((2 * 0.5 + 1 * 2.0) / 3, 2 / 3, 3)  # of classes 0, 1 and 0, all said to be 0
    assert totals.first_not_finite(Ranks()) is None
    for loss, size in steps[2:]:
        totals.add(torch.tensor(loss), torch.eye(3)[:size], torch.zeros(size, dtype=torch.int64))
    assert totals.first_not_finite(Ranks()) == 3


def test_callbacks_tell_of_data_steps_and_epochs(tiny: TrainConfig, shapes: Dataset) -> None:
    told: list[Any] = []
    train(
        tiny, shapes, on_data=lambda d: told.append(d.name), on_step=lambda step, steps: told.append((step, steps)),
        on_epoch=lambda stats: told.append(stats.epoch),
    )  # fmt: skip
    steps = [(step, 4) for step in (1, 2, 3, 4)]
    assert told == [shapes.name, *steps, 1, *steps, 2]


def test_records_are_flat_plain_and_say_what_was_run(tiny: TrainConfig, shapes: Dataset) -> None:
    said = dataclasses.replace(shapes, fallback="no network")
    accuracy = train(tiny, said).as_record()
    throughput = measure_throughput(tiny, said, steps=1).as_record()
    assert json.loads(json.dumps([accuracy, throughput])) == [accuracy, throughput]
    for record, kind in ((accuracy, "accuracy"), (throughput, "throughput")):
        assert record["kind"] == kind
        assert record["status"] == "ok"
        assert record["dataset"] == shapes.name
        assert record["fallback"] == "no network"
        assert record["devices"] == ["cpu"]
        assert record["draws"] == "per_image"
        assert record["parameters"] == models.count_parameters(models.create("resnet8", 10, 4))
        assert record["examples_per_s"] <= record["examples_per_s_without_wait"]
    assert accuracy["test_accuracy"] == accuracy["epochs"][-1]["test_accuracy"]
    assert len(accuracy["epochs"]) == 2
    assert "epochs" not in throughput


def test_data_that_does_not_fit_the_config_is_told(tiny: TrainConfig, shapes: Dataset) -> None:
    with pytest.raises(ValueError, match="images of 16 pixels, image_size is 32"):
        train(dataclasses.replace(tiny, image_size=32), shapes)
    for wrong in ({"steps": 0}, {"seconds": -1.0}, {}, {"steps": 1, "seconds": 1.0}):
        with pytest.raises(ValueError, match="takes either seconds or steps, a positive number"):
            measure_throughput(tiny, shapes, **wrong)


def test_data_is_loaded_as_the_config_says_when_none_is_given(tiny: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny, epochs=1, data_root=tmp_path, max_train=40, max_test=20)
    result = train(config)
    assert (result.train_images, result.test_images) == (40, 20)
    # Another training seed sees the same images.
    assert train(dataclasses.replace(config, seed=5)).dataset_fingerprint == result.dataset_fingerprint


def test_a_compiled_step_computes_the_same(tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced but not compiled to machine code ("eager"): what is tested is our use of it, with the last batch left out.
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **options: compiled(net, backend="eager", **options))
    whole = dataclasses.replace(
        shapes, train=Split(images=shapes.train.images[:96], labels=shapes.train.labels[:96])
    )  # fmt: skip
    eager, traced = (train(dataclasses.replace(tiny, compile=value), whole) for value in (False, True))
    assert traced.drop_last
    assert not eager.drop_last
    assert traced.epochs[-1].train_loss == pytest.approx(eager.epochs[-1].train_loss, rel=1e-4)
    assert train(dataclasses.replace(tiny, compile=True, epochs=1), shapes).epochs[0].examples == 144  # 160 without the last 16


def test_a_recipe_for_photographs_is_evaluated_as_photographs() -> None:
    assert TrainConfig(recipe="imagenet").evaluation_recipe == "imagenet_eval"
    assert TrainConfig(recipe="mixup").evaluation_recipe == "none"


def test_no_step_reads_from_the_device(tiny: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        original = getattr(torch.Tensor, name)

        def spy(self: torch.Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
            reads.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, spy)
    # Adam keeps its step numbers on the host and reads them there; SGD reads nothing at all.
    trainer = Trainer(dataclasses.replace(tiny, augment_on="none", optimizer="sgd"), shapes, Ranks())
    batch = next(trainer.feed.epoch(1))
    totals = Totals()
    trainer.step(batch, totals)
    reads.clear()
    trainer.step(batch, totals)
    assert reads == []


def test_what_a_worker_cannot_build_is_told_before_it_starts(tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, recipe="augmix", backend="kornia", augment_on="workers", num_workers=2)
    with pytest.raises(ValueError, match="AugMix is not supported by backend kornia"):
        feed.Feed(config, shapes, Ranks())


@pytest.mark.gpu
@pytest.mark.parametrize("change", [{}, {"prefetch": False}, {"augment_stream": True}, {"resident": True}])
def test_on_a_gpu_no_step_waits_for_the_device(change: dict[str, Any], tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(tiny, device="cuda:0", backend="fused", precision="bfloat16", **change)
    with trainer(config, shapes) as current:
        current.warm_up()
        totals, clock = Totals(), StepClock(current.device, split=True)
        batches = clock.waiting_for(current.feed.endless())
        for _ in range(5):
            current.step(next(batches), totals, clock.passed)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                current.step(next(batches), totals, clock.passed)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_on_a_gpu_the_split_adds_up_and_the_driver_tells_energy(tiny: TrainConfig, shapes: Dataset) -> None:
    result = measure_throughput(dataclasses.replace(tiny, device="cuda:0", backend="fused"), shapes, seconds=2)
    assert sum(result.split_s.values()) == pytest.approx(result.wall_s)
    assert all(result.split_s[part] > 0 for part in PARTS)
    # What is left is metrics, and the host between two steps: on the device's clock, never less than nothing but for rounding.
    assert result.split_s["other"] > -0.01 * result.wall_s
    if result.energy_j is not None and result.power_w is not None:
        assert result.power_w == pytest.approx(result.energy_j / result.wall_s)
        assert 10 < result.power_w < 2000  # no card takes less at work, and none takes more
