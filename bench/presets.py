"""Sizes of ``augmark run``: a table of presets for CPUs and one for accelerators. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from training.config import TrainConfig, resolve_auto, validate
from training.presets import BOOK, PRESETS

PartName = Literal["tests", "audit", "gallery", "grid", "throughput", "accuracy", "sweep", "calibrate", "pipeline"]
PresetName = Literal["smoke", "quick", "standard", "full", "training", "gpu"]

ABOUT: Mapping[PresetName, str] = {
    "smoke": "a minute, shows that all parts work",
    "quick": "10 minutes",
    "standard": "an hour",
    "full": "a night",
    "training": "4 minutes, training on two recipes",
    "gpu": "8 minutes, on a CPU 3 and in sizes that say little",
}
"""Durations on two CPU cores, or on a data-centre GPU."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Size of a run. Comments in the tables give times on two CPU cores, or on a data-centre GPU."""

    grid: tuple[str, ...]
    """Options for ``pytest --benchmark-only``."""
    model: str
    width: int
    max_train: int | None
    max_test: int | None
    throughput_seconds: float
    """Seconds per placement and round."""
    throughput_rounds: int
    throughput_recipes: tuple[str, ...]
    epochs: int
    recipes: tuple[str, ...]
    """Recipes whose accuracy is compared, each with every seed."""
    seeds: tuple[int, ...]
    audit_draws: int | None = 10_000
    """Draws per test of a distribution; None skips the audit."""
    audited_backends: tuple[str, ...] | None = None
    """Backends of audit and gallery; None takes all."""
    audited_recipes: tuple[str, ...] | None = None
    """Recipes of audit and gallery, without single ops; None takes all recipes and ops."""
    throughput_backends: tuple[str, ...] | None = None
    throughput_workers: tuple[int, ...] | None = None
    """Numbers of loader workers, capped at the number of cores; None takes 0, 1, 2, 4 ... and all cores."""
    settings: TrainConfig = PRESETS[BOOK]
    """Training config of all throughput cases, except model, width and max_train."""
    timed: TrainConfig | None = None
    """Training config that is timed up to its target accuracy; None compares ``recipes`` under ``settings``."""
    throughput_batch_sizes: tuple[int, ...] = ()
    """Batch sizes of the throughput; empty takes that of ``settings``."""
    sweep_recipes: tuple[str, ...] = ()
    sweep_seeds: int = 0
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``augmark pipeline``, for files made of the images in --data FOLDER."""
    audits_device: bool = False
    """Audit backends on the device of the run, not on the CPU."""
    parts: tuple[PartName, ...] = ("audit", "gallery", "grid", "throughput", "accuracy")
    """Names of ``bench.parts.PARTS``, most important first."""
    minutes: float | None = None
    """Time for all parts; None has no limit."""
    shares: tuple[float, ...] = ()
    """Seconds by part, estimated: shares of ``minutes``, and the time left that is displayed. A part that ends early leaves its
    time to later ones."""

    def config(self, device: str, **settings: Any) -> TrainConfig:
        """Return the training config of throughput cases on a device, in the best precision there, with other ``settings``."""
        common = {"model": self.model, "width": self.width, "max_train": self.max_train, "device": device, "precision": "auto"}
        config = replace(self.settings, **{**common, **settings})
        return resolve_auto(config, validate(config))


SMOKE_GRID = ("--ops", "HorizontalFlip,ColorJitter", "--recipes", "crop_flip", "--rounds", "2", "--case-seconds", "0.05")
TARGET = ("--target", "0.05")
"""Rounds of a case end once the interval of its median is no wider than this share of it."""
COMMON = ("none", "flip", "crop_flip", "randaugment")
MORE = (*COMMON, "crop_flip_cutout", "d2l", "autoaugment", "trivialaugment", "augmix", "mixup", "cutmix")

TRAINED_WITH = ("torchvision_loop", "torchvision", "kornia", "fused")
TRAINING_GRID = ("--recipes", "crop_flip,d2l", "--rounds", "3")
FEW_WORKERS = (1, 8)
"""Few numbers of workers: starting them takes longer than measuring; a lone worker tells how many are needed."""

CERTIFIED: tuple[PartName, ...] = ("audit", "gallery", "grid", "throughput", "accuracy", "calibrate")
GPU_SECONDS: Mapping[PartName, float] = {
    "tests": 85, "audit": 40, "grid": 40, "throughput": 80, "accuracy": 110, "pipeline": 15, "calibrate": 90, "sweep": 15,
    "gallery": 5,
}  # fmt: skip
"""Parts of preset gpu and their seconds, most important first; they sum up to its 8 minutes on a GPU.

On an H200 the tests of 0.1 took 85 s. Throughput: the ceiling and fused in both batch sizes come first (estimated: 2 x 20 to
compile, 16 of 2.5), all other cases want 150 more. Accuracy: 15 to start and read the images, 40 to compile and 15 to compile
again without the first bias's gradient (estimated; on a CPU the second time took 18 % of the first), 6 cells of 4 (training of
0.1 took 2.9), and 3 of airbench, whose training took 2.3, of 5 (estimated). Photographs want 120:
--minutes 32. The certificate: six pairs of processes of 14 s each, most of it their start (on two CPU cores).
``--resume`` continues what a part has not ended.
"""

FEW_FILES: Mapping[str, Any] = {
    "arms": ("fused-workers", "pil-fused-device"), "recipes": ("imagenet",), "trained_arms": (), "workers": (0,), "images": 32,
    "size": "160x120", "batch_size": 16, "image_size": 64, "rounds": 1, "seconds": 0.05,
}  # fmt: skip
MANY_FILES: Mapping[str, Any] = {
    "arms": (
        *("fused-workers", "torchvision_loop-workers", "torchvision-fused-device", "nvjpeg-fused-device"),
        *("packed-fused-device", "dali-dali-device", "dali_dynamic-dali-device", "torchvision-alone", "nvjpeg-alone"),
    ),
    "recipes": ("imagenet",), "trained_arms": ("torchvision-fused-device",), "workers": (0, 8), "images": 512, "repeat": 16,
    "size": "500x375", "rounds": 2,
}  # fmt: skip
"""Options of ``augmark pipeline``; two minutes on a GPU, estimated."""

TINY_FAST = replace(
    PRESETS["fast"], width=8, epochs=6, batch_size=250, learning_rate=0.5, compile=False, target_accuracy=0.4
)  # fmt: skip
SMOKE = Preset(  # a minute: shows that all parts work; its numbers are not worth quoting
    grid=SMOKE_GRID, audit_draws=None, model="resnet8", width=8, max_train=1000, max_test=500, throughput_seconds=0.2,
    throughput_rounds=1, throughput_recipes=("crop_flip",), epochs=1, recipes=("none", "crop_flip"), seeds=(0, 1),
)  # fmt: skip
QUICK = Preset(  # about 10 minutes
    grid=("--target", "0.1", "--rounds", "40", "--case-seconds", "0.02", "--budget", "240"), model="resnet8", width=8,
    max_train=5_000, max_test=2_000, throughput_seconds=0.4, throughput_rounds=6, throughput_recipes=("crop_flip",),
    epochs=5, recipes=COMMON, seeds=(0, 1), audit_draws=1_000, shares=(70, 15, 280, 110, 80),
)  # fmt: skip
CPU: dict[PresetName, Preset] = {
    "smoke": SMOKE,
    "quick": QUICK,
    "standard": Preset(  # about an hour
        grid=(*TARGET, "--rounds", "80", "--case-seconds", "0.05", "--budget", "900"), model="resnet8", width=32,
        max_train=20_000, max_test=10_000, throughput_seconds=1.5, throughput_rounds=16,
        throughput_recipes=("crop_flip", "d2l", "randaugment"), epochs=10, recipes=COMMON, seeds=(0, 1), parts=CERTIFIED,
    ),
    "full": Preset(  # a night
        grid=("--grid", "full", *TARGET, "--rounds", "100", "--case-seconds", "0.05", "--budget", "7200"), model="resnet18",
        width=32, max_train=None, max_test=None, throughput_seconds=3, throughput_rounds=16, throughput_recipes=MORE[1:],
        epochs=10, recipes=MORE, seeds=(0, 1, 2),
    ),
    "training": replace(  # about four minutes, in sizes that say little beyond that all parts work
        QUICK, grid=(*TRAINING_GRID, "--backends", ",".join(TRAINED_WITH), "--case-seconds", "0.05"), shares=(),
        audited_backends=TRAINED_WITH, audited_recipes=("crop_flip", "d2l"), throughput_seconds=0.8, throughput_rounds=3,
        throughput_workers=FEW_WORKERS, throughput_backends=TRAINED_WITH, settings=replace(PRESETS["standard"], compile=False),
        epochs=6, recipes=("crop_flip",), seeds=(0, 1, 2), timed=TINY_FAST,
    ),
    "gpu": replace(  # a minute: the sequence of the preset for GPUs in its smallest form
        SMOKE, grid=(*SMOKE_GRID, "--batch-sizes", "64"), audited_backends=("torchvision_loop", "fused"),
        audited_recipes=("crop_flip",), audit_draws=100, throughput_workers=(0,), throughput_backends=("torchvision", "fused"),
        throughput_batch_sizes=(64, 128), settings=replace(PRESETS["standard"], compile=False), recipes=("crop_flip",),
        seeds=(0,), sweep_recipes=("none", "crop_flip"), sweep_seeds=2, parts=tuple(GPU_SECONDS), minutes=3,
        shares=tuple(GPU_SECONDS.values()), pipeline=FEW_FILES, timed=replace(TINY_FAST, epochs=1, warm_up_epochs=0.5),
    ),
}  # fmt: skip

RESNET18: Mapping[str, Any] = {"model": "resnet18", "width": 64, "max_train": None, "max_test": None}
# Under ten minutes on an H100 with 16 cores (estimated seconds): 15 to start and read the images; 40 audit and gallery
# (1,000 draws, on the CPU); 170 grid (2 recipes on 4 backends, 2 x 60 to compile kornia's); 180 throughput (60 to compile
# the step once for all cases; 11 cases in 3 rounds of 1.5 s, 2 s to start each); 90 ``fast`` (40 to compile, 5 seeds of 10
# epochs); 10 report.
TRAINING = replace(
    CPU["training"], **RESNET18, throughput_seconds=1.5, settings=PRESETS["standard"], epochs=10, seeds=(0, 1, 2, 3, 4),
    grid=(*TRAINING_GRID, "--backends", "torchvision,kornia,kornia_compiled,fused", "--batch-sizes", "1024"),
    timed=PRESETS["fast"],
)  # fmt: skip
ACCELERATOR: dict[PresetName, Preset] = {
    "smoke": SMOKE,
    "quick": replace(
        QUICK, grid=("--target", "0.1", "--rounds", "40", "--case-seconds", "0.02", "--budget", "300"), **RESNET18,
        throughput_seconds=1, throughput_rounds=8, epochs=3, audit_draws=10_000, shares=(),
    ),
    "standard": replace(CPU["standard"], **RESNET18, throughput_seconds=2, throughput_rounds=12),
    "full": replace(CPU["full"], **RESNET18, epochs=30),
    "training": TRAINING,
    "gpu": replace(
        TRAINING, grid=("--grid", "gpu", "--rounds", "3"), audited_recipes=MORE, audits_device=True, throughput_rounds=2,
        throughput_recipes=("crop_flip", "randaugment", "d2l"), throughput_workers=(8,), throughput_batch_sizes=(256, 1024),
        throughput_backends=("torchvision", "kornia", "fused"), recipes=(PRESETS["fast"].recipe, "airbench"), seeds=(0, 1, 2),
        sweep_recipes=MORE, sweep_seeds=16, parts=tuple(GPU_SECONDS), minutes=8, shares=tuple(GPU_SECONDS.values()),
        pipeline=MANY_FILES,
    ),
}  # fmt: skip


def preset(name: PresetName, device: str) -> Preset:
    """Return the preset for a device type ("cpu", "cuda", ...)."""
    return (CPU if device == "cpu" else ACCELERATOR)[name]
