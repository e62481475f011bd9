"""The last layer: logits that bfloat16 cannot tell apart are told apart, in training and evaluation."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import models
from training.config import MODELS
from training.data import Dataset, load
from training.distributed import Ranks
from training.feed import Recipe
from training.head import Head
from training.trainer import evaluate


class _Sum(nn.Module):
    """Features [B, 1] that are 1 whatever the image; a convolution before them, so that autocast has something to halve."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        nn.init.zeros_(self.conv.weight)
        nn.init.ones_(self.conv.bias)  # type: ignore[arg-type]  # bias=True, so there is one
        self.head = head
        # 100 and 100.25 are one number in bfloat16, which has steps of a half there.
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[100.0], [100.25], [99.0]]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x_BCHW).mean(dim=(2, 3)))
        return logits


@pytest.fixture
def ones(tmp_path: Path) -> Dataset:
    """Test images that all are of class 1."""
    shapes = load("synthetic", root=tmp_path, image_size=16, max_train=40, max_test=20)
    return dataclasses.replace(shapes, test=dataclasses.replace(shapes.test, labels=torch.ones(20, dtype=torch.int64)))


def _accuracy(head: nn.Linear, dataset: Dataset) -> float:
    recipe = Recipe(name="none", backend="torchvision", image_size=16, num_classes=3, dtype=torch.bfloat16)
    return evaluate(_Sum(head), dataset, recipe, Ranks(), batch_size=8)[0]


def test_a_planted_tie_goes_to_the_class_whose_logit_is_larger(ones: Dataset) -> None:
    assert _accuracy(nn.Linear(1, 3, bias=False), ones) == 0.0, "in bfloat16 a tie goes to class 0: else this shows nothing"
    assert _accuracy(Head(1, 3, bias=False), ones) == 1.0


@pytest.mark.parametrize("name", MODELS)
def test_every_network_ends_in_float32_under_autocast_and_learns_from_it(name: str) -> None:
    torch.manual_seed(0)
    model, images = models.create(name, 10, 4), torch.randn(2, 3, 16, 16)
    seen: list[torch.dtype] = []
    model.get_submodule("head").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert seen == [torch.bfloat16], "the rest of the network is in half precision"
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.get_submodule("head").parameters())


def test_in_float32_it_is_a_linear_layer_bit_for_bit() -> None:
    torch.manual_seed(0)
    head, plain, features = Head(8, 3), nn.Linear(8, 3), torch.randn(5, 8)
    plain.load_state_dict(head.state_dict())
    assert head(features).equal(plain(features))
    assert head.double()(features.double()).dtype == torch.float64
