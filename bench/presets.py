"""How much ``augmark run`` measures: one preset a row, once for a CPU and once for an accelerator. No torch here."""

from dataclasses import dataclass, replace
from typing import Literal

from training.config import TrainConfig
from training.presets import BOOK, PRESETS

PresetName = Literal["smoke", "quick", "standard", "full", "training"]


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
    audited_backends: tuple[str, ...] | None = None
    """Of audit and gallery; None takes all."""
    audited_recipes: tuple[str, ...] | None = None
    """Of audit and gallery, without single ops; None takes all recipes and ops."""
    throughput_backends: tuple[str, ...] | None = None
    throughput_workers: tuple[int, ...] | None = None
    """Numbers of loader workers, as far as there are cores; None takes 0, 1, 2, 4 ... and all cores."""
    settings: TrainConfig = PRESETS[BOOK]
    """How all arms of the throughput train, beside model, width and max_train."""
    timed: TrainConfig | None = None
    """A way to train that is timed up to its target accuracy; None compares ``recipes``, as ``settings`` says."""


SMOKE_GRID = ("--ops", "HorizontalFlip,ColorJitter", "--recipes", "crop_flip", "--passes", "2", "--case-seconds", "0.05")
COMMON = ("none", "flip", "crop_flip", "randaugment")
MORE = (*COMMON, "crop_flip_cutout", "d2l", "autoaugment", "trivialaugment", "augmix", "mixup", "cutmix")

TRAINED_WITH = ("torchvision_loop", "torchvision", "kornia", "fused")
TRAINING_GRID = ("--recipes", "crop_flip,d2l", "--passes", "3")
FEW_WORKERS = (1, 8)
"""Each arm starts its own, which takes longer than to measure them; what one alone delivers tells how many are needed."""

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
    "training": Preset(  # about four minutes, of sizes that say little beyond that all parts work
        grid=(*TRAINING_GRID, "--backends", ",".join(TRAINED_WITH), "--case-seconds", "0.05"), audited_backends=TRAINED_WITH,
        audited_recipes=("crop_flip", "d2l"), audit_draws=1_000, model="resnet8", width=8, max_train=5_000, max_test=2_000,
        throughput_seconds=0.8, throughput_rounds=3, throughput_recipes=("crop_flip",), throughput_workers=FEW_WORKERS,
        throughput_backends=TRAINED_WITH, settings=replace(PRESETS["standard"], compile=False), epochs=6,
        recipes=("crop_flip",), seeds=(0, 1, 2),
        timed=replace(
            PRESETS["fast"], width=8, epochs=6, batch_size=250, learning_rate=0.5, compile=False, target_accuracy=0.4
        ),
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
    # What a training run gets, in less than ten minutes. Seconds on an H100 with 16 cores, estimated, not measured: 15 to start
    # and to read the images; 40 for the audit and the gallery (1,000 draws, on the CPU); 170 for the benchmarks (20 to start,
    # 2 recipes on 4 backends in 3 passes of a second with all that is around them, 2 x 60 to compile kornia's); 180 for the tax
    # (60 to compile the step, once for all arms; 11 arms in 3 rounds of 1.5 s, 2 s to start each); 90 for ``fast`` (40 to
    # compile, then 5 seeds of 10 epochs of half a second, with their evaluations); 10 for the report. In all about 500.
    "training": Preset(
        grid=(*TRAINING_GRID, "--backends", "torchvision,kornia,kornia_compiled,fused", "--batch-sizes", "1024"),
        audited_backends=TRAINED_WITH, audited_recipes=("crop_flip", "d2l"), audit_draws=1_000, model="resnet18", width=64,
        max_train=None, max_test=None, throughput_seconds=1.5, throughput_rounds=3, throughput_recipes=("crop_flip",),
        throughput_workers=FEW_WORKERS, throughput_backends=TRAINED_WITH, settings=PRESETS["standard"], epochs=10,
        recipes=("crop_flip",), seeds=(0, 1, 2, 3, 4), timed=PRESETS["fast"],
    ),
}  # fmt: skip


def preset(name: PresetName, device: str) -> Preset:
    """The preset for ``device`` ("cpu", "cuda", …)."""
    return (CPU if device == "cpu" else ACCELERATOR)[name]
