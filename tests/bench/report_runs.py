"""A run with something in every section of a report, for the tests of its pages."""

from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from bench.records import Audit, AuditCell, AuditLane, AuditParity, DataSet, Epoch, Record, Speed
from bench.report.facts.gallery import INDEX, Gallery, Picture
from tests.bench.stored import audited, failed, store, trained

LANES = dict.fromkeys(("pil", "torchvision_loop", "kornia", "fused"), "per_image") | {"torchvision": "per_batch"}
OPS = ("HorizontalFlip", "RandomCrop", "RandomResizedCrop", "Rotate", "Affine", "Hue", "ColorJitter", "Grayscale", "Solarize")
TIMES_FASTER = {"pil": 1, "torchvision_loop": 2, "kornia": 20, "fused": 40, "torchvision": 100}
ODD = "d<l> & [x]"
"""A recipe whose name is markup in HTML and Markdown."""


def rates(index: int, backend: str, batch: int) -> list[float]:
    """Return images/s of three rounds; the order of rows is not that of speed."""
    middle = 1000.0 * TIMES_FASTER[backend] * (1 + index * 7 % len(OPS)) * (batch / 256) ** 0.2
    return [0.95 * middle, middle, 1.08 * middle]


def speed_samples() -> dict[Speed, list[list[float]] | str]:
    """Return the seconds of calls by case; Affine fails on kornia with a long reason."""
    samples: dict[Speed, list[list[float]] | str] = {}
    for suite, subjects in (("recipes", ("crop_flip", "flip", ODD)), ("ops", OPS)):
        for index, subject in enumerate(subjects):
            for backend, lane in LANES.items():
                for batch in (256, 1024):
                    shared: Any = {"suite": suite, "subject": subject, "backend": backend, "lane": lane, "status": "not_run"}
                    case = Speed(batch_size=batch, image_size=32, **shared)
                    calls: list[list[float]] | str = [[batch / rate] for rate in rates(index, backend, batch)]
                    samples[case] = "a long reason " * 20 + "x" * 200 if (subject, backend) == ("Affine", "kornia") else calls
    return samples


def training_records() -> list[Record]:
    """Return throughput, accuracy, scaling, fine-tuning and feeding in three rounds or seeds."""
    records: list[Record] = []
    epochs = (Epoch(epoch=1, train_loss=2.0, test_accuracy=0.3), Epoch(epoch=2, train_loss=1.0, test_accuracy=0.5))
    split = {"forward_backward": 0.6, "wait": 0.3, "augment": 0.1}
    for place, backend, workers, speed in (
        ("frozen", "fused", 0, 400.0),
        ("device", "fused", 0, 380.0),
        ("workers", "pil", 2, 200.0),
    ):
        recipe = "none" if place == "frozen" else "crop_flip"
        shared: Any = {"recipe": recipe, "backend": backend, "augment_on": place, "num_workers": workers, "split_s": split}
        shared |= {"lane": "fixed" if place == "frozen" else "per_image", "implementation": "c" if backend == "fused" else None}
        for i in range(3):
            records.append(trained("throughput", examples_per_s=speed + i, round=i, model_flops_utilisation=0.3, **shared))
            accuracy = {"seed": i, "test_accuracy": 0.5 + 0.01 * i, "epochs": epochs, "examples_per_s": speed}
            records.append(trained("accuracy", **shared, **accuracy))
    shared = {"split_s": split, "dataset": "ants", "fingerprint": "d"}
    for i in range(3):
        records.append(trained("feed", round=i, examples_per_s=100.0, augment_on="workers", num_workers=1, backend="pil"))
        records += [
            trained("scaling", round=i, processes=n, scaling=s, examples_per_s=90.0 * n) for n, s in ((1, "one"), (2, "weak"))
        ]
        records += [
            trained("finetune", seed=i, mode=m, epochs=epochs, test_accuracy=0.5 + i / 50, **shared)
            for m in ("full", "scratch")
        ]
        records += [
            trained("pipeline", round=i, decoder=d, num_workers=n, images_per_s=9.0 + i, wall_s=10 / (9 + i), model=None)
            for d in ("a", "b")
            for n in (1, 2)
        ]
    return [*records, failed(trained("pipeline", decoder="c", model=None), "no library")]


def audit() -> Audit:
    """Return a verdict for every op; Hue differs on pil."""
    parity = (AuditParity(images="x", size=32, setting="pinned", draws=1, max_error=0.5, mean_error=0.1),)
    cells = []
    for op in OPS:
        for backend, lane in LANES.items():
            verdict: Any = (
                {"verdict": "different", "cause": "8-bit hue"} if (op, backend) == ("Hue", "pil") else {"verdict": "exact"}
            )
            measured = AuditLane(declared=lane, measured=lane)  # type: ignore[arg-type]
            cells.append(AuditCell(kind="op", subject=op, backend=backend, lane=measured, parity=parity, **verdict))
    return audited(*cells)


def store_full_run(folder: Path, **environment: Any) -> Path:
    """Write the run: two sizes, failures, training, accuracy, audit, pictures, odd names."""
    environment = {"dataset": DataSet(name="x", fingerprint="f", fallback="no network"), **environment}
    store(folder, speed_samples(), records=training_records(), audit=audit(), **environment)
    (folder / INDEX).parent.mkdir()
    errors = dict.fromkeys(LANES, (3.0, 0.25))
    strip = Picture(subject="Rotate", kind="op", detail="degrees 30", file="Rotate.png", errors=errors)
    shape: dict[str, Any] = {"side": 32, "cell": 34, "seed": 0, "reference": "torchvision", "enhanced": 8}
    gallery = Gallery(dataset="x", backends=tuple(LANES), pictures=(strip,), **shape)
    (folder / INDEX).write_bytes(msgspec.json.encode(gallery))
    Image.new("RGBA", (34 * 6, 68), (200, 90, 20, 255)).save((folder / INDEX).parent / "Rotate.png")
    return folder
