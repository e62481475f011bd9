"""Networks against known parameter counts, a closed form and the definition of Xavier's bounds."""

import math

import pytest
import torch

from training.models import ResNet, count_parameters, create


def test_resnet18_has_the_known_number_of_parameters() -> None:
    assert count_parameters(create("resnet18", 10, 64)) == 11_173_962


@pytest.mark.parametrize("width", [4, 16])
def test_resnet8_has_the_parameters_of_the_closed_form(width: int) -> None:
    stem = 3 * width * 9 + 2 * width
    first = 2 * (width * width * 9 + 2 * width)  # no 1x1 shortcut: the shape stays
    later = sum(
        (c // 2 * c * 9 + 2 * c) + (c * c * 9 + 2 * c) + (c // 2 * c + 2 * c) for c in (2 * width, 4 * width)
    )  # fmt: skip
    assert count_parameters(create("resnet8", 7, width)) == stem + first + later + 4 * width * 7 + 7


def test_weights_are_xavier_uniform() -> None:
    for name, parameter in create("resnet8", 10, 32).named_parameters():
        if parameter.ndim < 2:
            continue
        receptive = math.prod(parameter.shape[2:])
        bound = math.sqrt(6 / ((parameter.shape[0] + parameter.shape[1]) * receptive))
        largest = parameter.abs().max().item()
        # Of n uniform numbers the largest is below 0.9 of the bound with probability 0.9**n; n > 300 here.
        assert 0.9 * bound < largest <= bound, name


def test_the_last_stage_sees_an_eighth_of_the_side_and_no_image_sees_another() -> None:
    model = create("resnet18", 10, 8).eval()
    images = torch.randn(3, 3, 32, 32)
    assert isinstance(model, ResNet)
    assert model.stages(model.stem(images)).shape == (3, 64, 4, 4)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_an_unknown_model_is_told() -> None:
    with pytest.raises(ValueError, match="unknown model 'vgg'; known: resnet18, resnet8"):
        create("vgg", 10)
