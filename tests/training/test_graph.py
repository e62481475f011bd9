"""A step as one CUDA graph: on a CPU with a recorder that runs the call anew at each replay, on a GPU for real."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training import distributed, graph, trainer
from training.checkpoint import load
from training.config import TrainConfig, validate
from training.data import Dataset
from training.loop import TrainerCache, measure_throughput, open_trainer, train
from training.meters import Totals


def _rerun(call: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
    """Stand in for ``graph.record``: as a capture does, call a few times before and leave the result in one tensor."""
    for _ in range(graph.WARM_UP_CALLS):
        call()
    result = call().clone()
    return (lambda: result.copy_(call())), result


@pytest.fixture
def sgd(tiny: TrainConfig) -> TrainConfig:
    return replace(tiny, optimizer="sgd", learning_rate=0.05, schedule="one_cycle", warm_up_epochs=1.0, backend="fused")


@pytest.fixture
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture on a CPU too, unless a config says off."""
    monkeypatch.setattr(graph, "record", _rerun)
    monkeypatch.setattr(trainer, "is_graph_wanted", lambda config, *devices: config.graph != "off")


def _weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load(path)["model"]
    return state


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"resident": True},
        {"resident": True, "recipe": "mixup", "model": "speednet", "channels_last": True},
        {"backend": "kornia"},
        {"backend": "torchvision_loop", "augment_on": "workers"},
        {"augment_on": "none"},
    ],
)
@pytest.mark.usefixtures("_on_a_cpu")
def test_replayed_steps_train_as_eager_ones_bit_for_bit(
    change: dict[str, Any], sgd: TrainConfig, shapes: Dataset, tmp_path: Path
) -> None:
    """Batches of 48, 48, 48 and 16: the last, smaller one runs eagerly in both."""
    config = replace(sgd, **change)
    eager = train(replace(config, graph="off"), shapes, checkpoint=tmp_path / "eager.pt")
    replayed = train(config, shapes, checkpoint=tmp_path / "graph.pt")
    assert (eager.step, replayed.step) == ("eager", "graph")
    for a, b in zip(eager.epochs, replayed.epochs, strict=True):
        assert (a.train_loss, a.train_accuracy, a.test_accuracy) == (b.train_loss, b.train_accuracy, b.test_accuracy)
    torch.testing.assert_close(_weights(tmp_path / "graph.pt"), _weights(tmp_path / "eager.pt"), atol=0, rtol=0)


@pytest.mark.usefixtures("_on_a_cpu")
def test_a_resumed_run_ends_as_if_it_had_not_stopped_in_the_same_mode_alone(
    sgd: TrainConfig, shapes: Dataset, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole.pt", tmp_path / "killed.pt"
    train(sgd, shapes, checkpoint=whole)
    with pytest.raises(ZeroDivisionError):
        train(sgd, shapes, checkpoint=killed, on_epoch=lambda stats: print(1 // (stats.epoch - 1)))
    with pytest.raises(ValueError, match="is the checkpoint of another run: graph is True there and False here"):
        train(replace(sgd, graph="off"), shapes, checkpoint=killed, resume=True)
    assert train(sgd, shapes, checkpoint=killed, resume=True).resumed_after == 1
    torch.testing.assert_close(_weights(killed), _weights(whole), atol=0, rtol=0)


@pytest.mark.parametrize(("change", "mode"), [({"graph": "off"}, "eager"), ({"augment_on": "workers"}, "graph"), ({}, "graph")])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.usefixtures("_on_a_cpu")
def test_warming_up_leaves_weights_buffers_moments_and_random_state(
    change: dict[str, Any], mode: str, steps_before: int, sgd: TrainConfig, shapes: Dataset
) -> None:
    with open_trainer(replace(sgd, **change), shapes) as current:
        batches = current.feed.endless()
        for _ in range(steps_before):
            current.step(next(batches), Totals())
        moments = {p: {k: v.clone() for k, v in state.items()} for p, state in current.optimizer.state.items()}
        before = {name: value.clone() for name, value in current.model.state_dict().items()}
        stream = torch.get_rng_state()
        current.warm_up()
        assert current.mode == mode
        assert all(p.grad is None for p in current.model.parameters())
        assert torch.get_rng_state().equal(stream)
        torch.testing.assert_close(current.model.state_dict(), before, atol=0, rtol=0)
        for parameter, state in current.optimizer.state.items():
            for name, value in state.items():  # zero is what the first step starts from
                assert value.equal(moments.get(parameter, {}).get(name, torch.zeros_like(value)))


@pytest.mark.usefixtures("_on_a_cpu")
def test_step_sizes_are_written_in_place(sgd: TrainConfig, shapes: Dataset) -> None:
    with open_trainer(sgd, shapes) as current:
        current.warm_up()
        tensors = [group["lr"] for group in current.optimizer.param_groups]
        for step in range(8):
            current.set_step_size(step)
        assert all(group["lr"] is tensor for group, tensor in zip(current.optimizer.param_groups, tensors, strict=True))
        assert [float(tensor) for tensor in tensors] == pytest.approx([0.05 * 1 / 4] * len(tensors))
        current.restart(replace(sgd, seed=1))  # the step that was captured reads these tensors, also in the next run
        current.warm_up()
        current.set_step_size(0)
        assert all(group["lr"] is tensor for group, tensor in zip(current.optimizer.param_groups, tensors, strict=True))


@pytest.mark.usefixtures("_on_a_cpu")
def test_a_replayed_step_that_is_not_finite_is_one_line(
    sgd: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay leaves no gradients at the parameters, only their norms."""
    with open_trainer(sgd, shapes) as current:
        step = current._train_step

        def replayed(*batch: Tensor) -> Tensor:
            summary = step(*batch)
            current.optimizer.zero_grad(set_to_none=True)
            return torch.where(torch.arange(len(summary)) == 1, summary, math.nan)  # all but the hits

        monkeypatch.setattr(current, "_train_step", replayed)
        current.warm_up()
        last = list(dict(current.model.named_parameters()))[-1]  # a backward pass goes from the last to the first
        with pytest.raises(ValueError, match=rf"first gradient that is not: {last}, step 1\): take a smaller learning_rate"):
            current.run_epoch(1)


@pytest.mark.usefixtures("_on_a_cpu")
def test_a_capture_that_fails_is_one_line_and_the_run_goes_on(
    sgd: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(call: Callable[[], Tensor], device: torch.device) -> Any:
        call()
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    eager = train(replace(sgd, graph="off"), shapes)
    monkeypatch.setattr(graph, "record", fail)
    result = train(sgd, shapes)
    line = "attention: the step is no CUDA graph (CUDA out of memory. Tried to allocate 2 GiB)\n"
    assert (capsys.readouterr().err, result.step) == (line, "eager")
    assert [stats.train_loss for stats in result.epochs] == [stats.train_loss for stats in eager.epochs]


@pytest.mark.usefixtures("_on_a_cpu")
def test_batches_of_changing_shapes_run_eagerly_between_replays(
    sgd: TrainConfig, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that yields 48, 20, 48 and 7 images, then 48 of another size: only full batches fit what is captured."""
    batches = [(shapes.train.images[:n], shapes.train.labels[:n]) for n in (48, 20, 48, 7, 48)]
    batches[-1] = batches[-1][0][..., :12], batches[-1][1]
    with open_trainer(replace(sgd, augment_on="none"), shapes) as current:
        current.warm_up()
        eager: list[int] = []
        train_on = current._train_on

        def watch(batch: Any, *rest: Any) -> None:
            eager.append(len(batch[0]))
            train_on(batch, *rest)

        monkeypatch.setattr(current, "_train_on", watch)
        totals = Totals()
        for batch in batches:
            current.step(batch, totals)
        assert eager == [20, 7, 48]
        loss, _, examples = totals.read(current.ranks)
        assert (examples, math.isfinite(loss)) == (48 + 20 + 48 + 7 + 48, True)


@pytest.mark.usefixtures("_on_a_cpu")
def test_throughput_is_measured_of_replays(sgd: TrainConfig, shapes: Dataset) -> None:
    for change in ({"augment_on": "frozen"}, {"resident": True}):
        result = measure_throughput(replace(sgd, **change), shapes, steps=3)
        assert (result.step, result.steps) == ("graph", 3)
        assert sum(result.split_s.values()) == pytest.approx(result.wall_s)


@pytest.mark.parametrize(("choice", "mode"), [("off", "eager"), ("auto", "graph")])
@pytest.mark.usefixtures("_on_a_cpu")
def test_a_kept_trainer_trains_as_a_new_one_bit_for_bit(
    choice: Any, mode: str, sgd: TrainConfig, shapes: Dataset, tmp_path: Path
) -> None:
    cache = TrainerCache()
    base = replace(sgd, graph=choice, resident=True, model="speednet", slow_weights_every=3)
    kept: list[object] = []
    for number, change in enumerate(
        ({}, {"recipe": "mixup", "seed": 1}, {"backend": "kornia", "recipe": "flip"}, {"augment_on": "none", "seed": 2}, {})
    ):
        config, path = replace(base, **change), tmp_path / f"{number}.pt"  # type: ignore[arg-type]
        reused = train(config, shapes, checkpoint=path, cache=cache)
        kept.append(cache.trainer)
        fresh = train(config, shapes, checkpoint=tmp_path / "fresh.pt")
        assert [stats.train_loss for stats in reused.epochs] == [stats.train_loss for stats in fresh.epochs]
        assert (reused.lane, reused.step) == (fresh.lane, mode)
        torch.testing.assert_close(_weights(path), _weights(tmp_path / "fresh.pt"), atol=0, rtol=0)
    assert len(set(map(id, kept))) == 1
    assert train(config, shapes, checkpoint=path, resume=True, cache=cache).resumed_after == 2
    assert cache.trainer is kept[0], (
        "a checkpoint is loaded into a trainer of its own: captured steps read the kept one's memory"
    )
    train(replace(base, width=8), shapes, cache=cache)
    assert cache.trainer is not kept[0], "another model is another trainer"


def test_a_graph_where_there_can_be_none_is_one_line(sgd: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown graph 'maybe'; known: auto, on, off"):
        validate(replace(sgd, graph="maybe"))  # type: ignore[arg-type]
    for name, number in (("cpu", 1), ("cuda", 4)):
        if name == "cuda":
            monkeypatch.setattr(distributed, "visible_devices", lambda name: [torch.device("cuda", i) for i in range(4)])
            monkeypatch.setattr(distributed, "resolve_device", lambda name: torch.device("cuda", 0))
        message = f"^a graph needs one CUDA device and one process, not {number} of {name}: take --graph auto$"
        with pytest.raises(ValueError, match=message):
            validate(replace(sgd, graph="on", device=name))


# ---- on a GPU -------------------------------------------------------------------------------------------------------------

_GPU: dict[str, Any] = {"device": "cuda:0", "graph": "on", "resident": True}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "change",
    [
        {}, {"optimizer": "adam", "learning_rate": 1e-3}, {"recipe": "randaugment"}, {"recipe": "mixup"}, {"resident": False},
        {"backend": "kornia"}, {"model": "speednet", "precision": "bfloat16", "channels_last": True}, {"compile": True},
    ],
)  # fmt: skip
def test_on_a_gpu_a_graph_trains_as_eager_does(change: dict[str, Any], sgd: TrainConfig, shapes: Dataset) -> None:
    """The same draws and order; the step size is rounded to float32, and atomics sum in another order at each run."""
    config = replace(sgd, **(_GPU | change))
    captured, again, eager = train(config, shapes), train(config, shapes), train(replace(config, graph="off"), shapes)
    assert captured.step == "graph"
    for a, b, c in zip(captured.epochs, again.epochs, eager.epochs, strict=True):
        assert a.train_loss == pytest.approx(c.train_loss, rel=0.05)
        assert a.train_loss == pytest.approx(b.train_loss, rel=0.05)


@pytest.mark.gpu
def test_on_a_gpu_draws_advance_from_replay_to_replay_and_repeat_with_the_seed(sgd: TrainConfig, shapes: Dataset) -> None:
    """One image in all places and a step size that moves nothing: losses tell only draws apart."""
    images = shapes.train.images[:1].expand(160, -1, -1, -1).contiguous()
    labels = torch.zeros(160, dtype=torch.int64)
    same = replace(shapes, train=replace(shapes.train, images=images, labels=labels))
    config = replace(sgd, **_GPU, batch_size=1, learning_rate=1e-12, recipe="randaugment", precision="float32")
    losses: list[list[float]] = []
    for _ in range(2):
        with open_trainer(config, same) as current:
            current.warm_up()
            totals = Totals()
            current.model.eval()
            for fetched in current.feed.epoch(1):
                current.step(fetched, totals)
            losses.append(torch.stack(totals._losses).tolist())
    assert len(set(losses[0])) > 20, "RandAugment of one image has hundreds of results"
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
