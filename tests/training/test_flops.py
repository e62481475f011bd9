"""FLOPs of a training step against hand calculations, and the model left as it was."""

import pytest
import torch
from torch import nn

from training import models
from training.config import MODELS
from training.flops import counted_flops, flops_per_example


def test_a_linear_layer_by_hand() -> None:
    """y = W x of 3 * 8 * 8 = 192 inputs and 10 outputs: 2 * 192 * 10 forward, as much for the weights' gradient; the images
    ask for none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    assert counted_flops(model, 8) == 2 * (2 * 192 * 10)


def test_a_small_net_by_hand() -> None:
    """Two convolutions and a linear layer; norm, activation, pooling and mean count nothing.

    Multiply-adds forward: the first 8 * 8 places * 4 channels * (3 * 3 * 3); the second, of stride 2, 4 * 4 * 6 * (4 * 3 * 3);
    the linear layer 6 * 5. The first goes back to its weights alone, the others to weights and inputs.
    """
    first, second, last = 8 * 8 * 4 * 27, 4 * 4 * 6 * 36, 6 * 5
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    assert counted_flops(model, 8) == 2 * (2 * first + 3 * second + 3 * last)


def test_a_layer_that_is_not_trained_costs_no_way_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 10))
    first, last = 64 * 4 * 3, 4 * 64 * 10
    assert counted_flops(model, 8) == 2 * (2 * first + 3 * last)
    model[0].requires_grad_(False)
    assert counted_flops(model, 8) == 2 * (first + 2 * last)  # nothing before the linear layer asks for a gradient either


def test_the_counted_model_stays_as_it_was() -> None:
    model = models.create("resnet8", 10, 8).eval()
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    stream = torch.get_rng_state()
    flops_per_example.cache_clear()
    assert counted_flops(model, 32) == flops_per_example("resnet8", 10, 8, 32)
    assert torch.equal(torch.get_rng_state(), stream)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(after) == len(gradients) > 0
    assert all(torch.equal(a, b) for a, b in zip(after, gradients, strict=True))


def test_resnet18_by_hand() -> None:
    """Multiply-adds forward on 32 x 32 pixels: the stem, four 3x3 convolutions of 64 channels, then three stages that each
    halve the side and double the channels (half a convolution, three whole ones and a shortcut of 1x1), and the head."""
    stem, whole = 32 * 32 * 64 * 27, 32 * 32 * 64 * 64 * 9
    stage = whole // 2 + 3 * whole + whole // 2 // 9
    forward = stem + 4 * whole + 3 * stage + 512 * 10
    assert forward == 555_422_720
    assert flops_per_example("resnet18", 10, 64, 32) == 2 * (3 * forward - stem)  # the images ask for no gradient


def test_every_network_is_counted() -> None:
    for name in MODELS:
        assert flops_per_example(name, 10, 8, 32), name


def test_what_cannot_be_counted_is_not_known() -> None:
    assert counted_flops(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), 8) is None  # of another size
    assert counted_flops(nn.BatchNorm2d(3), 8) is None  # no matrix product in it
    with pytest.raises(ValueError, match="unknown model 'vgg'"):
        flops_per_example("vgg", 10, 8, 32)
