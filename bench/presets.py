"""How much ``augbench run`` measures: one preset a row, once for a CPU and once for an accelerator. No torch here."""

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["smoke", "quick", "standard", "full"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The size of a run. Times on two CPU cores, or on a data-centre GPU, are in the table's comments."""

    grid: tuple[str, ...]
    """Options for ``pytest --benchmark-only``."""
    model: str
    width: int
    max_train: int | None
    max_test: int | None
    throughput_seconds: float
    """Seconds a placement and round; there are ``throughput_rounds``, each in its own order."""
    throughput_rounds: int
    throughput_recipes: tuple[str, ...]
    epochs: int
    recipes: tuple[str, ...]
    """Recipes whose accuracy is compared, with every seed."""
    seeds: tuple[int, ...]
    audit_draws: int | None = 10_000
    """Draws for each test of a distribution; None leaves the audit out."""


SMOKE_GRID = ("--ops", "HorizontalFlip,ColorJitter", "--recipes", "crop_flip", "--passes", "2", "--case-seconds", "0.05")
COMMON = ("none", "flip", "crop_flip", "randaugment")
MORE = (*COMMON, "crop_flip_cutout", "d2l", "autoaugment", "trivialaugment", "augmix", "mixup", "cutmix")

CPU: dict[PresetName, Preset] = {
    "smoke": Preset(  # a minute: shows that everything works, measures nothing worth quoting
        grid=SMOKE_GRID, audit_draws=None, model="resnet8", width=8, max_train=1000, max_test=500, throughput_seconds=0.2,
        throughput_rounds=1, throughput_recipes=("crop_flip",), epochs=1, recipes=("none", "crop_flip"), seeds=(0, 1),
    ),
    "quick": Preset(  # about 10 minutes
        grid=("--case-seconds", "0.05"), model="resnet8", width=8, max_train=5_000, max_test=2_000, throughput_seconds=0.8,
        throughput_rounds=3, throughput_recipes=("crop_flip",), epochs=5, recipes=COMMON, seeds=(0, 1), audit_draws=1_000,
    ),
    "standard": Preset(  # about an hour
        grid=("--passes", "5", "--case-seconds", "0.5"), model="resnet8", width=32, max_train=20_000, max_test=10_000,
        throughput_seconds=5, throughput_rounds=5, throughput_recipes=("crop_flip", "d2l", "randaugment"), epochs=10,
        recipes=COMMON, seeds=(0, 1),
    ),
    "full": Preset(  # a night
        grid=("--grid", "full", "--passes", "5", "--case-seconds", "0.5"), model="resnet18", width=32, max_train=None,
        max_test=None, throughput_seconds=10, throughput_rounds=5, throughput_recipes=MORE[1:], epochs=10, recipes=MORE,
        seeds=(0, 1, 2),
    ),
}  # fmt: skip

ACCELERATOR: dict[PresetName, Preset] = {
    "smoke": CPU["smoke"],
    "quick": Preset(
        grid=(), model="resnet18", width=64, max_train=None, max_test=None, throughput_seconds=2, throughput_rounds=3,
        throughput_recipes=("crop_flip",), epochs=3, recipes=COMMON, seeds=(0, 1),
    ),
    "standard": Preset(
        grid=("--passes", "5", "--case-seconds", "0.3"), model="resnet18", width=64, max_train=None, max_test=None,
        throughput_seconds=5, throughput_rounds=5, throughput_recipes=("crop_flip", "d2l", "randaugment"), epochs=10,
        recipes=COMMON, seeds=(0, 1),
    ),
    "full": Preset(
        grid=("--grid", "full", "--passes", "5", "--case-seconds", "0.5"), model="resnet18", width=64, max_train=None,
        max_test=None, throughput_seconds=10, throughput_rounds=5, throughput_recipes=MORE[1:], epochs=30, recipes=MORE,
        seeds=(0, 1, 2),
    ),
}  # fmt: skip


def preset(name: PresetName, device: str) -> Preset:
    """The preset for ``device`` ("cpu", "cuda", …)."""
    return (CPU if device == "cpu" else ACCELERATOR)[name]
