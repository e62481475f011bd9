"""The ops are plain values that refuse impossible parameters."""

import dataclasses

import pytest

from augment import ops


@pytest.mark.parametrize("op", list(ops.subclasses()), ids=lambda op: op.__name__)
def test_ops_are_frozen_values_with_a_definition(op: type[ops.Op]) -> None:
    assert op() == op()
    assert hash(op()) == hash(op())
    assert op.__doc__
    assert not op.__doc__.startswith(op.__name__ + "(")  # dataclass's generated docstring is no definition
    first = dataclasses.fields(op)
    if first:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(op(), first[0].name, 0)


@pytest.mark.parametrize(
    ("op", "parameters", "names"),
    [
        (ops.HorizontalFlip, {"p": 1.5}, "p must lie"),
        (ops.RandomCrop, {"size": 0}, "size"),
        (ops.RandomCrop, {"padding": -1}, "padding"),
        (ops.Brightness, {"low": 2.0, "high": 1.0}, "low"),
        (ops.Hue, {"low": -0.6, "high": 0.1}, "low"),
        (ops.Posterize, {"bits": 9}, "bits"),
        (ops.GaussianBlur, {"kernel_size": 4}, "kernel_size"),
        (ops.RandomResizedCrop, {"scale": (0.5, 1.2)}, "scale"),
        (ops.Normalize, {"std": (0.0, 1.0, 1.0)}, "std"),
        (ops.RandAugment, {"magnitude": 31}, "magnitude"),
        (ops.MixUp, {"alpha": 0.0}, "alpha"),
        (ops.HorizontalFlip, {"p": float("nan")}, "p must lie"),
        (ops.DefaultRotate, {"degrees": (2.0, 1.0)}, "degrees"),
        (ops.DefaultResize, {"size": 0}, "size"),
        (ops.DefaultRandomResizedCrop, {"ratio": (0.0, 1.0)}, "ratio"),
        (ops.DefaultBrightness, {"low": -0.1}, "low"),
        (ops.DefaultContrast, {"low": 2.0}, "low"),
        (ops.DefaultSaturation, {"high": 0.1}, "low"),
    ],
)
def test_impossible_parameters_are_refused_by_name(op: type[ops.Op], parameters: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        op(**parameters)
