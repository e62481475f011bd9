"""Named TrainConfigs, single fields of which the command line overrides. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from training.config import TrainConfig

PresetName = Literal["book", "standard", "standard_200", "fast"]

BOOK: PresetName = "book"

_STANDARD = TrainConfig(
    recipe="crop_flip", backend="fused", model="resnet18", epochs=30, batch_size=256, optimizer="sgd", learning_rate=0.2,
    weight_decay=5e-4, label_smoothing=0.1, schedule="one_cycle", warm_up_epochs=6, precision="auto", channels_last=True,
    compile=True, resident=True,
)  # fmt: skip

PRESETS: Mapping[PresetName, TrainConfig] = {
    # Dive into Deep Learning, 14.1: ResNet-18, Adam, flips.
    BOOK: TrainConfig(),
    # The usual recipe for CIFAR-10, in a few minutes and as long as papers train.
    "standard": _STANDARD,
    "standard_200": replace(_STANDARD, epochs=200, schedule="cosine", warm_up_epochs=5),
    # Made for seconds on a data-centre GPU, after cifar10-airbench, whose settings are of a loss summed over the batch: per
    # mean loss its step size is 1.5 (11.5 / (1 + 1 / (1 - momentum))), and a step at that size decays weights by 0.002.
    "fast": TrainConfig(
        recipe="crop_flip", backend="fused", model="speednet", epochs=10, batch_size=1024, optimizer="sgd", learning_rate=1.5,
        momentum=0.85, weight_decay=1.33e-3, decay_biases=True, bias_rate=64, label_smoothing=0.2, schedule="one_cycle",
        warm_up_epochs=2.3, first_rate=0.2, last_rate=0.07, slow_weights_every=5, whiten_bias_epochs=3,
        precision="auto", channels_last=True, compile=True, resident=True,
        target_accuracy=0.94,  # what such runs are timed to, on original CIFAR-10
    ),
}  # fmt: skip


ABOUT: Mapping[PresetName, str] = {
    "book": "Dive into Deep Learning 14.1, 10 epochs of ResNet-18 with Adam: a minute on a GPU",
    "standard": "30 epochs of ResNet-18 with SGD: a few minutes on a GPU",
    "standard_200": "the same for 200 epochs, as papers train: half an hour on a GPU",
    "fast": "10 epochs of speednet to 94 %: seconds on a GPU",
}


def parse_preset(arguments: Sequence[str]) -> PresetName:
    """Return the value of ``--preset`` among a command line's arguments, ``book`` if there is none.

    It is parsed before all other options, so that the preset's fields are their defaults, wherever it stands. An unknown name
    is left to the parser to refuse.
    """
    values = [word.partition("=")[2] for word in arguments if word.startswith("--preset=")]
    values += [value for name, value in pairwise(arguments) if name == "--preset"]
    return next((name for name in PRESETS if values and name == values[-1]), BOOK)
