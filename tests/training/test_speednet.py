"""The small fast net: parameters by closed form, a whitening layer that whitens, the same weights from the same seed."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from training import models
from training.config import TrainConfig
from training.data import Dataset
from training.loop import train, trainer
from training.models import count_parameters, create
from training.optimise import set_step_size, step_size
from training.presets import PRESETS, PresetName
from training.speednet import EPSILON, SpeedNet
from training.totals import Totals


@pytest.mark.parametrize("width", [8, 64])
def test_parameters_are_those_of_the_closed_form(width: int) -> None:
    first = 24  # the bias alone: its 24 * 3 * 2 * 2 weights are fixed
    channels = [24, width, 4 * width, 4 * width]
    groups = sum(9 * a * b + 9 * b * b + 2 * b for a, b in pairwise(channels))
    model = create("speednet", 10, width)
    assert count_parameters(model) == first + groups + 10 * 4 * width
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert fixed == 24 * 3 * 2 * 2 + 2 * sum(channels[1:])  # and the scales of the norms


def test_the_known_size() -> None:
    assert count_parameters(create("speednet", 10, 64)) == 1_971_352


def whitened(images: torch.Tensor) -> torch.Tensor:
    model = SpeedNet(10, 4)
    model.whiten(images)
    return model.first(images)


def test_the_first_layer_whitens() -> None:
    """Outputs of correlated images: each of variance v / (v + EPSILON), no two of the twelve directions together."""
    generator = torch.Generator().manual_seed(0)
    noise, blend = torch.randn(40, 3, 17, 17, generator=generator), torch.randn(15, 15, generator=generator)
    images = F.avg_pool2d(noise, 3, stride=1) @ blend
    with torch.no_grad():
        out = whitened(images).movedim(1, -1).reshape(-1, 24)
    cov = out.T.double().cov()
    assert cov.diagonal().min() > 0.98  # EPSILON is small beside these variances
    assert cov.diagonal().max() < 1.0 + 1e-4
    twelve = cov[:12, :12]
    assert (twelve - twelve.diagonal().diag()).abs().max() < 1e-4
    torch.testing.assert_close(out[:, 12:], -out[:, :12], atol=1e-4, rtol=1e-4)


def test_directions_without_variance_are_not_blown_up() -> None:
    grey = torch.randn(8, 1, 9, 9).expand(8, 3, 9, 9)  # four directions vary, eight are constant
    model = SpeedNet(10, 4)
    model.whiten(grey)
    assert model.first.weight.flatten(1).norm(dim=1).max() <= EPSILON**-0.5 * (1 + 1e-4)
    assert torch.isfinite(model(grey)).all()


@pytest.mark.parametrize("side", [9, 16, 32])
def test_images_of_several_sides_give_logits_and_none_sees_another(side: int) -> None:
    model = create("speednet", 7, 8).eval()
    images = torch.randn(3, 3, side, side)
    together = model(images)
    assert together.shape == (3, 7)
    torch.testing.assert_close(together, torch.cat([model(image[None]) for image in images]), rtol=1e-4, atol=1e-5)


def test_first_channels_start_as_the_identity() -> None:
    model = SpeedNet(10, 32)
    x = torch.randn(2, 24, 12, 12)
    torch.testing.assert_close(model.groups[0].conv1(x)[:, :24], x)  # type: ignore[operator]


def test_it_sees_images_of_all_classes(shapes: Dataset) -> None:
    """Sets lie in the order of their classes: what whitens is spread over them, whatever the seed of the weights."""
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = create("speednet", 10, 4)
        models.look_at(net, shapes.train.images)
        nets.append(net)
    assert isinstance(nets[0], SpeedNet)
    assert isinstance(nets[1], SpeedNet)
    assert nets[0].first.weight.equal(nets[1].first.weight)
    assert not nets[0].head.weight.equal(nets[1].head.weight)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fast", "standard"])
def test_on_a_gpu_no_step_of_a_preset_waits_for_the_device(name: PresetName, shapes: Dataset) -> None:
    config = dataclasses.replace(PRESETS[name], device="cuda:0", image_size=16, batch_size=32, width=8)
    with trainer(config, shapes) as current:
        current.warm_up()
        totals, steps = Totals(), len(current.feed)
        batches = current.feed.endless()
        for step in range(10):
            torch.cuda.set_sync_debug_mode("error" if step >= 5 else "default")
            try:
                set_step_size(current.optimizer, step_size(config, step, steps))
                current.step(next(batches), totals)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert current.optimizer.param_groups[0]["fused"]


def test_it_learns(tiny: TrainConfig, shapes: Dataset) -> None:
    config = dataclasses.replace(
        tiny, model="speednet", width=8, recipe="none", epochs=10, batch_size=16, optimizer="sgd", learning_rate=0.1,
        schedule="one_cycle", warm_up_epochs=1, bias_rate=4,
    )  # fmt: skip
    # 160 images in ten classes: chance is 0.1, with a standard deviation of 0.024.
    assert train(config, shapes).epochs[-1].train_accuracy > 0.5
