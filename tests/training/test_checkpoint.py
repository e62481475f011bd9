"""Checkpoints: whole whatever happens, harmless to read, and a resumed run ends as if it had never stopped."""

import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import one_line
from training.checkpoint import BadCheckpoint, load, save
from training.config import Placement, TrainConfig
from training.data import Dataset
from training.loop import train
from training.results import EpochStats, TrainResult

OTHER_WEIGHTS = "holds the weights of another model"


class _Killed(Exception):
    pass


def _flat(value: Any) -> list[Any]:
    """Return all leaves of nested dicts and lists, tensors as bytes."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in [key, *_flat(value[key])]]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _flat(item)]
    return [value.numpy().tobytes()] if isinstance(value, Tensor) else [value]


def _outcome(result: TrainResult) -> list[tuple[float, ...]]:
    return [(s.epoch, s.train_loss, s.train_accuracy, s.test_accuracy, s.examples) for s in result.epochs]


# ---- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment_on", "num_workers", "change"),
    [
        ("device", 0, {}),
        ("workers", 2, {}),
        ("device", 0, {"resident": True, "optimizer": "sgd", "schedule": "cosine", "warm_up_epochs": 1.0}),
        ("device", 0, {"model": "speednet", "optimizer": "sgd", "slow_weights_every": 3, "whiten_bias_epochs": 2}),
    ],
)
def test_a_run_that_was_stopped_within_an_epoch_ends_as_if_it_had_not(
    augment_on: Placement, num_workers: int, change: dict[str, Any], tiny: TrainConfig, shapes: Dataset, tmp_path: Path
) -> None:
    config = replace(tiny, epochs=4, augment_on=augment_on, num_workers=num_workers, **change)
    whole, stopped = tmp_path / "whole.pt", tmp_path / "stopped.pt"
    expected = train(config, shapes, checkpoint=whole)
    done: list[EpochStats] = []

    def die_in_the_third_epoch(step: int, steps: int) -> None:
        if (len(done), step) == (2, 2):
            raise _Killed

    with pytest.raises(_Killed):
        train(config, shapes, checkpoint=stopped, on_epoch=done.append, on_step=die_in_the_third_epoch)
    heard: list[EpochStats] = []
    result = train(config, shapes, checkpoint=stopped, resume=True, on_epoch=heard.append)
    assert heard == list(result.epochs)
    assert (result.resumed_after, expected.resumed_after) == (2, 0)
    assert result.epochs[:2] == tuple(done)  # with their times
    # Bit for bit: streams start anew each epoch, and everything else is in the checkpoint.
    assert _outcome(result) == _outcome(expected)
    resumed, unbroken = load(stopped), load(whole)
    assert unbroken["steps"] == 4 * math.ceil(160 / 48)
    for part in ("model", "optimizer", "slow", "steps", "identity"):
        assert _flat(resumed[part]) == _flat(unbroken[part])


def test_resuming_without_a_checkpoint_starts_and_a_finished_run_trains_nothing(
    tiny: TrainConfig, shapes: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    first = train(tiny, shapes, checkpoint=path, resume=True)
    before = path.read_bytes()
    moved = replace(tiny, resident=True, prefetch=False, augment_stream=True)  # work in another place changes no number
    second = train(moved, shapes, checkpoint=path, resume=True, on_step=lambda step, _: pytest.fail("trained"))
    assert (second.epochs, path.read_bytes()) == (first.epochs, before)
    with pytest.raises(ValueError, match="to resume, say from which checkpoint"):
        train(tiny, shapes, resume=True)


# ---- another run's, and no checkpoint at all ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, bytes]:
    """Return the config and the checkpoint's content of a finished run."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    config = TrainConfig(
        data="synthetic", model="resnet8", width=4, epochs=2, batch_size=48, image_size=16, recipe="none", device="cpu"
    )
    train(config, shapes, checkpoint=path)
    return config, path.read_bytes()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"width": 8}, "width is 4 there and 8 here"),
        ({"model": "resnet18"}, "model is resnet8 there and resnet18 here"),
        ({"seed": 7, "epochs": 3}, "epochs is 2 there and 3 here; seed is 0 there and 7 here"),
        ({}, "fingerprint is FINGERPRINT there and other here"),
    ],
)
def test_another_runs_checkpoint_is_refused_with_what_differs(
    change: dict[str, Any], difference: str, saved: tuple[TrainConfig, bytes], shapes: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(saved[1])
    dataset = shapes if change else replace(shapes, fingerprint="other")
    with pytest.raises(BadCheckpoint) as caught:
        train(replace(saved[0], **change), dataset, checkpoint=path, resume=True)
    difference = difference.replace("FINGERPRINT", shapes.fingerprint)
    assert str(caught.value) == f"{path} is the checkpoint of another run: {difference}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["model"].update({"head.weight": torch.ones(10, 3)}), OTHER_WEIGHTS),
        (lambda state: state["model"].update({"head.weight": "x"}), OTHER_WEIGHTS),
        (lambda state: state["model"].update({1: torch.ones(1)}), OTHER_WEIGHTS),
        (lambda state: state["optimizer"]["param_groups"][0].update(rate=math.nan), OTHER_WEIGHTS),
        (lambda state: state["optimizer"]["param_groups"][0].pop("eps"), OTHER_WEIGHTS),
        (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.ones(1, 2, 3)), OTHER_WEIGHTS),
        (lambda state: state.pop("optimizer"), "is not the checkpoint of a training run, or that of another version"),
        (lambda state: state["identity"].update(width=torch.ones(3)), "is not the checkpoint of a training run"),
        (lambda state: state["identity"].update({3: 1}), "is not the checkpoint of a training run"),
        (lambda state: state["epochs"][0].update(wall_s="long"), "is not the checkpoint of a training run"),
        (lambda state: state["epochs"].extend(state["epochs"] * 9), "holds 20 epochs of 8 steps, which cannot be"),
    ],
)
def test_a_file_with_made_up_content_is_refused_in_one_line(
    change: Callable[[Any], None], message: str, saved: tuple[TrainConfig, bytes], shapes: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(saved[1])
    payload = load(path)
    change(payload)
    save(path, payload)
    with one_line(message, BadCheckpoint):
        train(saved[0], shapes, checkpoint=path, resume=True)


def _refusal(path: Path) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_every_way_to_cut_or_change_a_file_is_noticed(tmp_path: Path) -> None:
    path, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    values = torch.arange(64.0)
    save(path, {"values": values, "words": ["a", 1, None, 2.5]})
    assert _flat(load(path)) == _flat({"values": values, "words": ["a", 1, None, 2.5]})
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        broken.write_bytes(content[:length])
        assert "is no checkpoint, or only a part of one" in _refusal(broken)
    # One bit among the values: torch alone would read it as other weights.
    at = content.index(values.numpy().tobytes()) + 100
    broken.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert "is damaged" in _refusal(broken)
    broken.write_text("no archive at all" * 100)
    assert "is no checkpoint" in _refusal(broken)
    torch.save([values], broken)
    assert "is not a checkpoint of ours: it holds a list" in _refusal(broken)


class _Evil:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "evil.pt"
    torch.save({"model": _Evil(victim)}, path)
    assert "holds more than weights and was not loaded: it asks for posix.mkdir" in _refusal(path)
    path.write_bytes(pickle.dumps({"model": _Evil(victim)}))
    assert "is no checkpoint" in _refusal(path)
    assert not victim.exists()
    pickle.loads(path.read_bytes())
    assert victim.exists()  # what would have happened


# ---- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for kept in ("", ", the one before is kept"):
        (tmp_path / "checkpoint.pt.tmp").symlink_to("/dev/full")
        with pytest.raises(OSError, match=rf"cannot write .*checkpoint\.pt{kept}: No space left on device"):
            save(path, {"epoch": 2})
        assert [file.name for file in tmp_path.iterdir()] == (["checkpoint.pt"] if kept else []), "what was begun takes no room"
        save(path, {"epoch": 1})
    assert (load(path)["epoch"], [file.name for file in tmp_path.iterdir()]) == (1, ["checkpoint.pt"])


@pytest.mark.parametrize("call", ["fsync", "replace"])  # before all is on the disk, and right before the move
def test_a_death_while_writing_leaves_the_checkpoint_before_whole(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, {"epoch": 1})

    def die(*args: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, call, die)
        with pytest.raises(_Killed):
            save(path, {"epoch": 2, "weights": torch.ones(1000)})
    assert load(path) == {"epoch": 1}
    save(path, {"epoch": 2})  # leftovers are no obstacle
    assert (load(path), [file.name for file in tmp_path.iterdir()]) == ({"epoch": 2}, ["checkpoint.pt"])
