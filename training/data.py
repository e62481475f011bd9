"""Load a data set by the name that ``--data`` takes, decoded to images in memory."""

from pathlib import Path

from training.config import TrainConfig
from training.sources.cifar10 import download_cifar10, is_present, load_cifar10
from training.sources.dataset import Dataset, Split, subset
from training.sources.folders import load_folder
from training.sources.synthetic import draw_shapes

__all__ = ["Dataset", "Split", "load", "load_for"]

JPEG_COPY = "cifar10-jpeg"
"""Name of the folder under the root that holds CIFAR-10 as JPEG files."""


def load(
    data: str, *, root: Path, image_size: int = 32, max_train: int | None = None, max_test: int | None = None, seed: int = 0,
    download: bool = False,
) -> Dataset:  # fmt: skip
    """Load a data set, decoded to uint8 [N, 3, image_size, image_size].

    Args:
        data: One of
            - ``cifar10``: the official files under ``root``, downloaded (with their MD5 checked) if ``download`` and missing;
            - ``synthetic``: drawn shapes, see ``training.sources.synthetic``;
            - ``auto``: the official files under ``root``, else an image folder ``root``/cifar10-jpeg or ``root`` itself, else
              with ``download`` a download, else ``synthetic`` with the reason in ``Dataset.fallback``;
            - anything else: the path of an image folder, see ``training.sources.folders``.
        root: Folder of the official files, of downloads and of the cache.
        image_size: Side of the square images.
        max_train: Size limit of a class-balanced subset of the training images.
        max_test: Size limit of a class-balanced subset of the test images.
        seed: Chooses subsets and draws the synthetic set. It is not a training run's seed: paired runs see the same images.
        download: Whether to download CIFAR-10.

    Raises:
        ValueError: in one line, for data that are missing, damaged or wrongly laid out.
    """
    if data == "auto":
        dataset = _load_auto(root, image_size, seed, download=download)
    elif data == "synthetic":
        dataset = draw_shapes(image_size=image_size, seed=seed)
    elif data == "cifar10":
        if download:
            download_cifar10(root)
        dataset = load_cifar10(root, image_size=image_size)
    else:
        dataset = load_folder(Path(data).expanduser(), root=root, image_size=image_size)
    return subset(dataset, max_train=max_train, max_test=max_test, seed=seed)


def load_for(config: TrainConfig) -> Dataset:
    """Return the data set of a training config."""
    return load(
        config.data, root=config.data_root, image_size=config.image_size, max_train=config.max_train, max_test=config.max_test,
        download=config.download,
    )  # fmt: skip


def _load_auto(root: Path, image_size: int, seed: int, *, download: bool) -> Dataset:
    if is_present(root):
        return load_cifar10(root, image_size=image_size)
    for folder in (root / JPEG_COPY, root):
        if (folder / "train").is_dir():
            return load_folder(folder, root=root, image_size=image_size)
    reason = "nothing is downloaded unless asked (add --download)"
    if download:
        try:
            download_cifar10(root)
            return load_cifar10(root, image_size=image_size)
        except ValueError as error:
            reason = str(error)
    fallback = f"no CIFAR-10 under {root}, and {reason}: this is the built-in synthetic set, not CIFAR-10"
    return draw_shapes(image_size=image_size, seed=seed, fallback=fallback)
