"""Fine-tuning: what learns and what does not, features computed once, the best weights, and going on after an interruption."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable
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
from training.distributed import stream_seed
from training.finetune import BEST, FineTuner, finetune, load_photographs
from training.config import FinetuneConfig, validate
from training.results import EpochStats
from training.photofeed import evaluation_ops, shuffled

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ants are darker than bees; of all sizes; one file is a placeholder and one is cut off."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split, each in (("train", 7), ("val", 6)):
        for name, level in (("ant", 90), ("bee", 160)):
            (root / split / name).mkdir(parents=True)
            for i in range(each):
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


def changed(config: FinetuneConfig, **changes: Any) -> FinetuneConfig:
    return dataclasses.replace(config, **changes)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- what learns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment_on", ["device", "workers", "none"])
def test_frozen_changes_the_last_layer_and_nothing_else(augment_on: str, config: FinetuneConfig, weights: Path) -> None:
    before = checkpoint.load(weights)["model"]
    _, module = finetune(changed(config, mode="frozen", augment_on=augment_on))
    for name, value in module.state_dict().items():  # running statistics too
        if not name.startswith("head."):
            assert value.equal(before[name]), name
    assert not module.state_dict()["head.weight"].eq(0).all()


def test_full_starts_from_the_weights_and_scratch_does_not(config: FinetuneConfig, weights: Path) -> None:
    dataset = load_photographs(config)
    stem = checkpoint.load(weights)["model"]["stem.0.weight"]
    assert FineTuner(config, dataset, CPU).network.module.state_dict()["stem.0.weight"].equal(stem)
    scratch = FineTuner(changed(config, mode="scratch"), dataset, CPU).network.module.state_dict()["stem.0.weight"]
    assert not scratch.equal(stem)
    torch.manual_seed(stream_seed(config.seed, "weights"))
    assert scratch.equal(models.create("resnet8", 2, 4).state_dict()["stem.0.weight"])


def test_statistics_that_are_kept_stay_while_all_layers_learn(config: FinetuneConfig, weights: Path) -> None:
    before = checkpoint.load(weights)["model"]
    _, module = finetune(changed(config, keep_statistics=True))
    for name, value in module.state_dict().items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert value.equal(before[name]), name
        elif not name.startswith("head."):
            assert not value.equal(before[name]), name


@pytest.mark.parametrize("mode", ["full", "frozen", "scratch"])
def test_what_is_easy_is_learnt(mode: str, config: FinetuneConfig) -> None:
    """Dark and bright noise: any network that learns tells them apart, and one that does not is right half of the time."""
    result, _ = finetune(changed(config, mode=mode, epochs=8, learning_rate=0.005, decay_every=100))
    assert result.best_accuracy >= 0.9
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss


def test_step_sizes_are_the_books(config: FinetuneConfig) -> None:
    """lr x 0.1 after each decay_every epochs; the last layer head_rate times as fast, in scratch all layers."""
    dataset = load_photographs(config)
    tuner = FineTuner(changed(config, decay_every=2, learning_rate=0.001, head_rate=10.0), dataset, CPU)
    seen = []
    for epoch in range(1, 6):
        seen.append([group["lr"] for group in tuner.optimizer.param_groups])
        tuner.run_epoch(epoch, evaluate=False)
    np.testing.assert_allclose(seen, [[0.01, 0.001], [0.01, 0.001], [1e-3, 1e-4], [1e-3, 1e-4], [1e-4, 1e-5]])
    heads = {id(p) for p in tuner.network.head.parameters()}
    assert {id(p) for p in tuner.optimizer.param_groups[0]["params"]} == heads
    scratch = FineTuner(changed(config, mode="scratch"), dataset, CPU)
    assert [group["lr"] for group in scratch.optimizer.param_groups] == [0.01, 0.01]


def test_features_computed_once_give_what_the_whole_network_would(config: FinetuneConfig, weights: Path) -> None:
    """Against a loop by hand that sends the prepared photographs through the network in every step."""
    config = changed(config, mode="frozen", augment_on="none", decay_every=100)
    dataset = load_photographs(config)
    result, _ = finetune(config, dataset)
    tuner = FineTuner(changed(config, mode="full"), dataset, CPU)  # the same initial weights
    module = tuner.network.module.eval()
    module.requires_grad_(False)
    head = tuner.network.head.requires_grad_(True)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    prepare = build(evaluation_ops(config.image_size), "torchvision")
    for epoch, stats in enumerate(result.epochs, start=1):
        total = 0.0
        batches = shuffled(len(dataset.train), config.batch_size, config.seed, epoch)
        for indices in batches:
            loss = F.cross_entropy(module(prepare(dataset.train.images[indices])), dataset.train.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(indices)
        with torch.no_grad():
            right = module(prepare(dataset.test.images)).argmax(1) == dataset.test.labels
        # float32, features in other batches
        assert math.isclose(stats.train_loss, total / sum(map(len, batches)), rel_tol=1e-4)
        assert stats.test_accuracy == right.double().mean().item()
    assert result.features_s > 0
    assert result.lane == "fixed"


# ---- the best epoch, and what is kept ---------------------------------------------------------------------------------


def test_the_best_epochs_weights_come_back_and_are_kept(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0.5, 0.75, 0.75, 0.25])
    seen: list[dict[str, Tensor]] = []

    def evaluated(tuner: FineTuner) -> float:
        seen.append(state_of(tuner.network.module))
        return next(answers)

    monkeypatch.setattr(FineTuner, "_evaluated", evaluated)
    result, module = finetune(changed(config, epochs=4), out=tmp_path / "out")
    assert (result.best_epoch, result.best_accuracy, result.test_accuracy) == (2, 0.75, 0.25), "the first of equals; the last"
    kept = checkpoint.load(tmp_path / "out" / BEST)
    assert kept["classes"] == ["ant", "bee"]
    for name, value in module.state_dict().items():
        assert value.equal(seen[1][name])
        assert kept["model"][name].equal(seen[1][name])
    record = result.as_record()
    assert (record["best_accuracy"], record["test_accuracy"], record["num_epochs"]) == (0.75, 0.25, 4)


@pytest.mark.parametrize("augment_on", ["device", "none"])
def test_going_on_after_an_interruption_changes_nothing(augment_on: str, config: FinetuneConfig, tmp_path: Path) -> None:
    config = changed(config, augment_on=augment_on, epochs=4, decay_every=2)
    whole, whole_module = finetune(config)

    def interrupt(stats: EpochStats) -> None:
        if stats.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(config, out=tmp_path / "out", on_epoch=interrupt)
    result, module = finetune(config, out=tmp_path / "out", resume=True)
    assert result.resumed_after == 2
    assert [(e.train_loss, e.test_accuracy) for e in result.epochs] == [(e.train_loss, e.test_accuracy) for e in whole.epochs]
    assert result.best_epoch == whole.best_epoch
    for name, value in module.state_dict().items():
        assert value.equal(whole_module.state_dict()[name]), name
    with pytest.raises(ValueError, match="is the checkpoint of another run: seed differ"):
        finetune(changed(config, seed=1), out=tmp_path / "out", resume=True)
    path = tmp_path / "out/checkpoint.pt"
    state = checkpoint.load(path)
    checkpoint.save(path, state | {"spent_s": 1000.0})
    again, _ = finetune(config, out=tmp_path / "out", resume=True)
    assert 1000 < again.total_s < 1100, "what was spent before the interruption counts"
    checkpoint.save(path, state | {"epochs": [{"epoch": 1, "word": 2}]})
    with pytest.raises(checkpoint.BadCheckpoint, match="of another version"):
        finetune(config, out=tmp_path / "out", resume=True)


def test_a_record_is_plain_and_lists_what_was_skipped(config: FinetuneConfig) -> None:
    result, _ = finetune(changed(config, epochs=1))
    record = json.loads(json.dumps(result.as_record(), allow_nan=False))
    assert record["kind"] == "finetune"
    assert record["status"] == "ok"
    assert record["skipped"] == 2
    assert [entry.partition(":")[0] for entry in record["skipped_files"]] == ["train/ant/placeholder.gif", "train/bee/cut.jpg"]
    assert (record["train_images"], record["test_images"]) == (14, 12)
    assert record["data"] == "photos"
    assert record["init"] == "weights.pt", "no paths of this machine"
    split = record["epochs"][0]["split_s"]
    assert math.isclose(sum(split.values()), record["epochs"][0]["wall_s"], rel_tol=1e-6)
    assert record["trained_parameters"] == record["parameters"]


# ---- what cannot be run -----------------------------------------------------------------------------------------------


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: _remove(f.glob("*/bee")), "only one class, 'ant'"),
        (lambda f: _remove(f.glob("val/bee")), "class folders differ between train/ and val/ of .*: bee"),
        (lambda f: _remove(f.glob("*/*/*")), "no images in"),
        (lambda f: [p.write_bytes(b"x") for p in f.glob("train/ant/*.jpg")], "no readable image of class 'ant' for train"),
    ],
)
def test_photographs_that_cannot_be_used_are_told_in_one_line(
    spoil: Callable[[Path], object], words: str, config: FinetuneConfig, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=words) as caught:
        finetune(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"head_rate": 0.0}, "head_rate must be a positive number"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"num_workers": -1}, "num_workers must not be negative"),
        ({"width": 0}, "width must be at least 1"),
        ({"mode": "half"}, "unknown mode 'half'"),
        ({"init": "scratch"}, "mode full needs weights to start from"),
        ({"recipe": "flip"}, "recipe flip has no RandomResizedCrop"),
        ({"recipe": "nothing"}, "unknown recipe"),
        ({"backend": "nobody"}, "unknown backend"),
        ({"backend": "kornia_compiled"}, "is compiled for batches of one size"),
        ({"recipe": "d2l"}, "must begin with RandomResizedCrop"),
        ({"data": "synthetic"}, "photographs in files are needed, not synthetic"),
        ({"learning_rate": 1e30, "epochs": 9}, r"the loss of step \d+ of epoch [1-9] is not finite"),
    ],
)
def test_settings_that_cannot_be_run(changes: dict[str, Any], words: str, config: FinetuneConfig) -> None:
    with pytest.raises(ValueError, match=words):
        finetune(changed(config, **changes))


def test_one_device_only(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it without torchrun"):
        validate(config)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["fused", "kornia"])
def test_on_a_gpu_augmentation_does_not_make_the_host_wait(backend: str, config: FinetuneConfig) -> None:
    from training.meters import StepClock

    config = changed(config, device="cuda", backend=backend)
    tuner = FineTuner(config, load_photographs(config), torch.device("cuda", 0))
    tuner.run_epoch(1)
    batch = next(tuner.feed.epoch(2))
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, _ = tuner.feed.place(batch, StepClock(torch.device("cuda", 0), split=True))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.shape[1:] == (3, 14, 14)
