"""Fine-tuning: what learns and what does not, features computed once, the best weights, and resuming."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from augment import build
from training import checkpoint, models
from training.config import FinetuneConfig
from training.distributed import Ranks, stream_seed
from training.feed import Order
from training.finetune import BEST, FineTuner, finetune, identity, load_photographs
from training.photofeed import evaluation_ops
from training.results import EpochStats

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ants are darker than bees; of all sizes; one file is a placeholder and one is cut off."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split, count in (("train", 7), ("val", 6)):
        for name, level in (("ant", 90), ("bee", 160)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                size = rng.integers(20, 40, 2)
                pixels = rng.normal(level, 40, (*size, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.jpg")
    Image.new("L", (8, 8)).save(root / "train/ant/placeholder.gif")
    whole = (root / "train/bee/0.jpg").read_bytes()
    (root / "train/bee/cut.jpg").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "weights.pt"
    checkpoint.save(path, {"model": models.create("resnet8", 10, 4).state_dict()})
    return path


@pytest.fixture
def config(folder: Path, weights: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=str(folder), data_root=tmp_path / "root", model="resnet8", width=4, init=str(weights), image_size=14, epochs=3,
        batch_size=5, num_workers=0, device="cpu",
    )  # fmt: skip


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- what learns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment_on", ["device", "workers", "none"])
def test_frozen_changes_the_last_layer_and_nothing_else(augment_on: Any, config: FinetuneConfig, weights: Path) -> None:
    before = checkpoint.load(weights)["model"]
    _, module = finetune(replace(config, mode="frozen", augment_on=augment_on))
    for name, value in module.state_dict().items():  # running statistics too
        if not name.startswith("head."):
            assert value.equal(before[name]), name
    assert not module.state_dict()["head.weight"].eq(0).all()


def test_full_starts_from_the_weights_and_scratch_does_not(config: FinetuneConfig, weights: Path) -> None:
    dataset, name = load_photographs(config), "stem.0.weight"
    stem = checkpoint.load(weights)["model"][name]
    assert FineTuner(config, dataset, CPU).model.state_dict()[name].equal(stem)
    scratch = FineTuner(replace(config, mode="scratch"), dataset, CPU).model.state_dict()[name]
    assert not scratch.equal(stem)
    torch.manual_seed(stream_seed(config.seed, "weights"))
    assert scratch.equal(models.create("resnet8", 2, 4).state_dict()[name])


def test_kept_statistics_stay_while_all_layers_learn(config: FinetuneConfig, weights: Path) -> None:
    before = checkpoint.load(weights)["model"]
    _, module = finetune(replace(config, keep_statistics=True))
    for name, value in module.state_dict().items():
        if not name.startswith("head."):
            is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            assert value.equal(before[name]) == is_statistic, name


@pytest.mark.parametrize("mode", ["full", "frozen", "scratch"])
def test_an_easy_task_is_learnt(mode: Any, config: FinetuneConfig) -> None:
    """Dark and bright noise: any network that learns tells them apart, and one that does not is right half of the time."""
    result, _ = finetune(replace(config, mode=mode, epochs=8, learning_rate=0.005, decay_every=100))
    assert result.best_accuracy >= 0.9
    assert result.last.train_loss < result.epochs[0].train_loss


def test_step_sizes_are_the_books(config: FinetuneConfig) -> None:
    """Multiply them by 0.1 after each decay_every epochs; the last layer head_rate times as fast, in scratch all layers."""
    dataset = load_photographs(config)
    tuner = FineTuner(replace(config, decay_every=2, learning_rate=0.001, head_rate=10.0), dataset, CPU)
    rates = []
    for epoch in range(1, 6):
        tuner.run_epoch(epoch, evaluate=False)
        rates.append([group["lr"] for group in tuner.optimizer.param_groups])
    np.testing.assert_allclose(rates, [[0.01, 0.001], [0.01, 0.001], [1e-3, 1e-4], [1e-3, 1e-4], [1e-4, 1e-5]])
    heads = {id(p) for p in tuner.network.head.parameters()}
    assert {id(p) for p in tuner.optimizer.param_groups[0]["params"]} == heads
    scratch = FineTuner(replace(config, mode="scratch"), dataset, CPU)
    assert [group["lr"] for group in scratch.optimizer.param_groups] == [0.01, 0.01]


def test_features_computed_once_give_the_whole_networks_results(config: FinetuneConfig) -> None:
    """Against a loop by hand that sends the prepared photographs through the network in every step."""
    config = replace(config, mode="frozen", augment_on="none", decay_every=100)
    dataset = load_photographs(config)
    result, _ = finetune(config, dataset)
    tuner = FineTuner(replace(config, mode="full"), dataset, CPU)  # the same initial weights
    module = tuner.model.eval()
    module.requires_grad_(False)
    head = tuner.network.head.requires_grad_(True)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    prepare = build(evaluation_ops(config.image_size), "torchvision")
    order, losses = Order(len(dataset.train), config.batch_size, config.seed, Ranks(), min_batch=2), []
    for epoch, stats in enumerate(result.epochs, start=1):
        order.epoch, total, count = epoch, 0.0, 0
        for request in order:
            loss = F.cross_entropy(
                module(prepare(dataset.train.images[request.indices])), dataset.train.labels[request.indices]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len(request.indices), count + len(request.indices)
        losses.append(total / count)
        with torch.no_grad():
            right = module(prepare(dataset.test.images)).argmax(1) == dataset.test.labels
        assert stats.test_accuracy == right.double().mean().item()
    assert losses == pytest.approx(
        [stats.train_loss for stats in result.epochs], rel=1e-4
    )  # float32, other batches of features
    assert result.features_s > 0
    assert (result.lane, result.implementation) == ("fixed", None)


# ---- the best epoch, and what is kept ---------------------------------------------------------------------------------


def test_the_best_weights_come_back_and_stay(config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0.5, 0.75, 0.75, 0.25])
    seen: list[dict[str, Tensor]] = []

    def evaluate(tuner: FineTuner) -> float:
        seen.append(_state(tuner.model))
        return next(answers)

    monkeypatch.setattr(FineTuner, "evaluate", evaluate)
    result, module = finetune(replace(config, epochs=4), out=tmp_path / "out")
    assert (result.best_epoch, result.best_accuracy) == (2, 0.75), "the first of equals"
    assert result.last.test_accuracy == 0.25
    best = checkpoint.load(tmp_path / "out" / BEST)
    assert best["classes"] == ["ant", "bee"]
    assert all(value.equal(seen[1][name]) and best["model"][name].equal(value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("augment_on", ["device", "none"])
def test_resuming_after_an_interruption_changes_nothing(augment_on: Any, config: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(config, augment_on=augment_on, epochs=4, decay_every=2)
    whole, whole_module = finetune(config)
    out = tmp_path / "out"

    def interrupt(stats: EpochStats) -> None:
        if stats.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(FileNotFoundError, match="no checkpoint to resume"):
        finetune(config, out=out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, out=out, on_epoch=interrupt)
    state = checkpoint.load(out / "checkpoint.pt")
    checkpoint.save(out / "checkpoint.pt", state | {"spent_s": 1000.0})
    result, module = finetune(config, out=out, resume=True)
    assert result.resumed_after == 2
    assert 1000 < result.total_s < 2000, "time before the interruption counts"
    assert [(e.train_loss, e.test_accuracy) for e in result.epochs] == [(e.train_loss, e.test_accuracy) for e in whole.epochs]
    assert result.best_epoch == whole.best_epoch
    for name, value in module.state_dict().items():
        assert value.equal(whole_module.state_dict()[name]), name
    assert finetune(replace(config, epochs=5), out=out, resume=True)[0].resumed_after == 4, "a run may be prolonged"
    with pytest.raises(checkpoint.BadCheckpoint, match="is the checkpoint of another run: seed is 0 there and 1 here"):
        finetune(replace(config, seed=1), out=out, resume=True)


def test_results_are_plain_and_list_skipped_files(config: FinetuneConfig) -> None:
    result, _ = finetune(replace(config, epochs=1))
    assert [entry.partition(":")[0] for entry in result.data.skipped] == ["train/ant/placeholder.gif", "train/bee/cut.jpg"]
    assert (result.data.train_images, result.data.test_images) == (14, 12)
    assert (result.lane, result.trained_parameters) == ("per_image", result.parameters)
    assert result.implementation in ("c", "tensors")
    facts = json.loads(json.dumps(identity(config, load_photographs(config)), allow_nan=False))
    assert (facts["data"], facts["init"]) == ("photos", "weights.pt"), "no paths of this machine"
    assert len(facts["init_digest"]) == 16


# ---- what cannot be run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "d2l"}, "must begin with RandomResizedCrop"),
        ({"data": "synthetic"}, "photographs in files are needed, not synthetic"),
    ],
)
def test_runs_that_cannot_be_are_one_line(changes: dict[str, Any], message: str, config: FinetuneConfig) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(replace(config, **changes))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["fused", "kornia"])
def test_on_a_gpu_augmentation_does_not_make_the_host_wait(backend: str, config: FinetuneConfig) -> None:
    tuner = FineTuner(replace(config, device="cuda", backend=backend), load_photographs(config), torch.device("cuda", 0))
    tuner.run_epoch(1)
    batch = next(tuner.feed.epoch(2))
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, _ = tuner.feed.place(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.shape[1:] == (3, 14, 14)
