"""Networks against closed forms, known sizes and definitions, and compiled ones against eager and double precision."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.conftest import smooth_images
from training import models
from training.base_trainer import Trainer
from training.config import MODELS, TrainConfig
from training.data import Dataset
from training.distributed import Ranks
from training.models import EPSILON, Head, ResNet, SpeedNet, create
from training.presets import PRESETS
from training.sources.dataset import Split


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_known_numbers_of_parameters() -> None:
    assert count_parameters(create("resnet18", 10, 64)) == 11_173_962
    assert count_parameters(create("speednet", 10, 64)) == 1_971_352


@pytest.mark.parametrize("width", [4, 16])
def test_parameters_are_those_of_the_closed_form(width: int) -> None:
    stem = 3 * width * 9 + 2 * width
    first = 2 * (width * width * 9 + 2 * width)  # no 1x1 shortcut: the shape stays
    later = sum((c // 2 * c * 9 + 2 * c) + (c * c * 9 + 2 * c) + (c // 2 * c + 2 * c) for c in (2 * width, 4 * width))
    assert count_parameters(create("resnet8", 7, width)) == stem + first + later + 4 * width * 7 + 7
    channels = [24, width, 4 * width, 4 * width]
    groups = sum(9 * a * b + 9 * b * b + 2 * b for a, b in pairwise(channels))
    speednet = create("speednet", 10, width)
    assert count_parameters(speednet) == 24 + groups + 10 * 4 * width  # of the first layer the bias alone
    fixed = sum(p.numel() for p in speednet.parameters() if not p.requires_grad)
    assert fixed == 24 * 3 * 2 * 2 + 2 * sum(channels[1:])  # its weights, and the scales of the norms


def test_weights_are_xavier_uniform() -> None:
    for name, parameter in create("resnet8", 10, 32).named_parameters():
        if parameter.ndim < 2:
            continue
        receptive = math.prod(parameter.shape[2:])
        bound = math.sqrt(6 / ((parameter.shape[0] + parameter.shape[1]) * receptive))
        largest = parameter.abs().max().item()
        # Of n uniform numbers the largest is below 0.9 of the bound with probability 0.9**n; n > 300 here.
        assert 0.9 * bound < largest <= bound, name


@pytest.mark.parametrize(("name", "side"), [("resnet18", 32), ("speednet", 9), ("speednet", 16), ("speednet", 32)])
def test_no_image_sees_another(name: str, side: int) -> None:
    model, images = create(name, 7, 8).eval(), torch.randn(3, 3, side, side)
    together = model(images)
    assert together.shape == (3, 7)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # float32 sums in another order
    if isinstance(model, ResNet):
        assert model.stages(model.stem(images)).shape == (3, 64, 4, 4), "the last stage sees an eighth of the side"


def test_unknown_model_is_one_line() -> None:
    with pytest.raises(ValueError, match="unknown model 'vgg'; known: resnet18, resnet8"):
        create("vgg", 10)


# ---- speednet -----------------------------------------------------------------------------------------------------------


def test_the_first_layer_whitens() -> None:
    """Outputs of correlated images: each of variance v / (v + EPSILON), no two of the twelve directions correlated."""
    generator = torch.Generator().manual_seed(0)
    noise, blend = torch.randn(40, 3, 17, 17, generator=generator), torch.randn(15, 15, generator=generator)
    images = F.avg_pool2d(noise, 3, stride=1) @ blend
    model = SpeedNet(10, 4)
    model.whiten(images)
    with torch.no_grad():
        out = model.first(images).movedim(1, -1).reshape(-1, 24)
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


def test_first_channels_start_as_the_identity() -> None:
    x = torch.randn(2, 24, 12, 12)
    torch.testing.assert_close(SpeedNet(10, 32).groups[0].conv1(x)[:, :24], x)  # type: ignore[operator]


def test_whitening_does_not_depend_on_the_seed_of_the_weights(shapes: Dataset) -> None:
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(SpeedNet(10, 4))
        models.init_from_data(nets[-1], shapes.train.images)
    assert nets[0].first.weight.equal(nets[1].first.weight)
    assert not nets[0].head.weight.equal(nets[1].head.weight)


# ---- the last layer -------------------------------------------------------------------------------------------------------


class _Ones(nn.Module):
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


def _accuracy(head: nn.Linear) -> float:
    ones = Split(images=torch.rand(20, 3, 16, 16), labels=torch.ones(20, dtype=torch.int64))
    data = Dataset(name="ones", fingerprint="", source="", classes=("a", "b", "c"), train=ones, test=ones)
    trainer = Trainer(TrainConfig(batch_size=8), data, Ranks())
    trainer.model, trainer.prepare, trainer.precision = _Ones(head), lambda images: images, "bfloat16"
    return trainer.evaluate()


def test_a_planted_tie_goes_to_the_class_whose_logit_is_larger() -> None:
    assert _accuracy(nn.Linear(1, 3, bias=False)) == 0.0, "in bfloat16 a tie goes to class 0: else this shows nothing"
    assert _accuracy(Head(1, 3, bias=False)) == 1.0


@pytest.mark.parametrize("name", MODELS)
def test_every_network_ends_in_float32_under_autocast_and_learns_from_it(name: str) -> None:
    model, images = create(name, 10, 4), torch.randn(2, 3, 16, 16)
    seen: list[torch.dtype] = []
    model.get_submodule("head").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert seen == [torch.bfloat16], "the rest of the network is in half precision"
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.get_submodule("head").parameters())


def test_in_float32_the_head_is_a_linear_layer_bit_for_bit() -> None:
    head, plain, features = Head(8, 3), nn.Linear(8, 3), torch.randn(5, 8)
    plain.load_state_dict(head.state_dict())
    assert head(features).equal(plain(features))
    assert head.double()(features.double()).dtype == torch.float64


# ---- compiled -----------------------------------------------------------------------------------------------------------


def _gradients(
    model: nn.Module, net: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor], smoothing: float
) -> dict[str, Tensor]:
    """Return the loss and all gradients of a pass on [B, 3, H, W] and labels, in double precision."""
    images, labels = batch
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=images.dtype == torch.float32):
        loss = F.cross_entropy(net(images), labels, label_smoothing=smoothing)
    loss.backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach().double(), **gradients}


def _distance(result: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """Return the relative error of each tensor, in the 2-norm."""
    return {name: float((value - reference[name]).norm() / reference[name].norm()) for name, value in result.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "smoothing"), {p.model: p.label_smoothing for p in PRESETS.values()}.items())
def test_the_model_of_each_preset_compiled_in_bfloat16_computes_what_eager_does(name: str, smoothing: float) -> None:
    """Loss and gradients of three steps, each from equal weights: finite, and no further than twice eager's error from float64.

    Errors are of the same bfloat16 rounding in another order. Of a network's ~20 (relative) errors single ones may be small by
    chance: a fifth of the largest comes on top.
    """
    model, pixels = create(name, 10, 8).train(), smooth_images(32, 32)  # SpeedNet pools 3x3 maps of them
    models.init_from_data(model, pixels)
    model.to(memory_format=torch.channels_last)
    images, labels = (pixels.float() / 255 - 0.5) * 4, torch.arange(32) % 10
    compiled = torch.compile(model, dynamic=False)
    for _ in range(3):
        exact = copy.deepcopy(model).double()
        reference = _gradients(exact, exact, (images.double(), labels), smoothing)
        eager = _gradients(model, model, (images, labels), smoothing)
        result = _gradients(model, compiled, (images, labels), smoothing)
        assert all(value.isfinite().all() for value in result.values())
        assert result.keys() == eager.keys() == reference.keys()
        errors, allowed = _distance(result, reference), _distance(eager, reference)
        for tensor, error in errors.items():
            assert error <= 2 * allowed[tensor] + 0.2 * max(allowed.values()), (tensor, errors, allowed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)
