"""Where a data set comes from: the one function that turns ``--data`` into decoded images."""

from pathlib import Path
from urllib.parse import urlsplit

from torchvision.datasets import CIFAR10

from training.cifar10 import download_cifar10, is_present, load_cifar10, server_answers
from training.dataset import Dataset, Split, subset
from training.folders import load_folder
from training.synthetic import draw_shapes

__all__ = ["Dataset", "Split", "load"]

JPEG_COPY = "cifar10-jpeg"
"""A folder of this name under the root is taken for CIFAR-10 as JPEG files."""


def load(
    data: str,
    *,
    root: Path,
    image_size: int = 32,
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> Dataset:
    """Load a data set, decoded to uint8 [N, 3, image_size, image_size].

    ``data`` is one of

    - ``cifar10``: the official files under ``root``, downloaded (with their MD5 checked) if ``download`` and not there;
    - ``synthetic``: drawn shapes, see ``training.synthetic``;
    - ``auto``: the official files under ``root``, else an image folder ``root``/cifar10-jpeg or ``root`` itself, else a
      download if the server answers within 3 s, else ``synthetic``, in which case ``Dataset.fallback`` says why;
    - anything else: the path of an image folder, see ``training.folders``.

    ``max_train`` and ``max_test`` leave class-balanced subsets. ``seed`` chooses those and draws the synthetic set; it is not
    the seed of a training run, so that paired runs see the same images.

    Raises ValueError, in one line, for what is missing, damaged or wrongly laid out.
    """
    if data == "auto":
        dataset = _automatic(root, image_size, seed)
    elif data == "synthetic":
        dataset = draw_shapes(image_size=image_size, seed=seed)
    elif data == "cifar10":
        if download:
            download_cifar10(root)
        dataset = load_cifar10(root, image_size=image_size)
    else:
        dataset = load_folder(Path(data).expanduser(), root=root, image_size=image_size)
    return subset(dataset, max_train=max_train, max_test=max_test, seed=seed)


def _automatic(root: Path, image_size: int, seed: int) -> Dataset:
    if is_present(root):
        return load_cifar10(root, image_size=image_size)
    for folder in (root / JPEG_COPY, root):
        if (folder / "train").is_dir():
            return load_folder(folder, root=root, image_size=image_size)
    reason = f"{urlsplit(CIFAR10.url).hostname} does not answer"
    if server_answers(CIFAR10.url):
        try:
            download_cifar10(root)
            return load_cifar10(root, image_size=image_size)
        except ValueError as error:
            reason = str(error)
    fallback = f"no CIFAR-10 under {root}, and {reason}: this is the built-in synthetic set, not CIFAR-10"
    return draw_shapes(image_size=image_size, seed=seed, fallback=fallback)
