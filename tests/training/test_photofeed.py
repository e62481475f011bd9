"""Photographs of all sizes become batches: the same crops as torchvision's on the original, wherever they are made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from augment import build, fused
from augment.ops import HorizontalFlip, RandomResizedCrop
from augment.pipeline import to_dtype
from tests.conftest import present, smooth_images
from training.data import load
from training.distributed import Ranks, stream_seed
from training.feed import Order, keep
from training.photofeed import (
    NORMALIZE,
    PhotoFeed,
    StoredFeed,
    WindowPipeline,
    cut_windows,
    evaluation_ops,
    prepared_size,
    training_ops,
)
from training.sources.dataset import Split

CPU = torch.device("cpu")
SIZES = ((20, 31), (64, 48), (7, 50), (40, 40), (90, 33))
CROP = RandomResizedCrop(size=16)


def photographs() -> list[Tensor]:
    return [smooth_images(1, max(size), seed=i)[0, :, : size[0], : size[1]].contiguous() for i, size in enumerate(SIZES)]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Write the photographs as PNG files, which lose nothing."""
    files = []
    for index, pixels in enumerate(photographs()):
        files.append(tmp_path / "train" / "ant" / f"{index}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(files[-1])
    labels = torch.arange(len(SIZES))
    return Split(images=torch.zeros(len(SIZES), 3, 18, 18, dtype=torch.uint8), labels=labels, files=tuple(files))


def feed(split: Split, **changes: object) -> PhotoFeed:
    settings: dict[str, object] = {
        "ops": (CROP, HorizontalFlip(), NORMALIZE), "backend": "fused", "on_device": True, "batch_size": 2, "num_workers": 0,
        "seed": 0, "device": CPU,
    }  # fmt: skip
    return PhotoFeed(split, **(settings | changes))  # type: ignore[arg-type]


def batches(source: PhotoFeed, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    return [source.place(batch) for batch in source.epoch(epoch)]


def canonical(images: list[Tensor], seed: int, crop: RandomResizedCrop = CROP) -> Tensor:
    """Return torchvision's resized crop of the whole originals, with the windows that ``cut_windows`` draws by this seed."""
    torch.manual_seed(seed)
    results = []
    for image in images:
        (drawn,) = fused.plan((crop,)).sample(1, *image.shape[1:])
        box = [int(drawn[name]) for name in ("top", "left", "height", "width")]
        results.append(to_dtype(v2.functional.resized_crop(image, *box, [crop.size] * 2, antialias=True), torch.float32))
    return v2.functional.normalize(torch.stack(results), list(NORMALIZE.mean), list(NORMALIZE.std))


@pytest.mark.parametrize("backend", ["fused", "kornia", "torchvision"])
@pytest.mark.parametrize(("seed", "is_interleaved"), [(0, False), (1, False), (2, True)])
def test_the_device_crops_as_torchvision_does_on_the_original(backend: str, seed: int, is_interleaved: bool) -> None:
    images = photographs()
    expected = canonical([image / 255 for image in images], seed)
    torch.manual_seed(seed)
    if is_interleaved:  # as Pillow decodes
        images = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    frames, windows = cut_windows(images, CROP)
    assert frames.is_contiguous(memory_format=torch.channels_last) == is_interleaved
    result = WindowPipeline((CROP, NORMALIZE), backend, CPU)(frames, windows)
    # float32 sums in another order, over a standard deviation of 0.22
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


def test_windows_beyond_the_bound_are_resized_before_and_differ_by_half_a_level() -> None:
    images = photographs()
    expected = canonical([image / 255 for image in images], 1)
    torch.manual_seed(1)
    frames, windows = cut_windows(images, CROP, most_side=24)
    assert frames.shape[2] <= 64, "one step of frames: no window is larger than 24 pixels"
    assert (windows[:, 2:] == 16).all(1).any(), "some were resized"
    assert (windows[:, 2:] != 16).any(), "others were not"
    result = WindowPipeline((CROP, NORMALIZE), "fused", CPU)(frames, windows)
    difference = (result - expected).abs().amax((0, 2, 3)) * torch.tensor(NORMALIZE.std)
    assert difference.max() <= 0.5 / 255 + 1e-5


def test_at_the_usual_size_windows_beyond_the_bound_are_torchvisions_of_8_bit_images() -> None:
    """Up to a level: on a CPU torchvision takes PyTorch's kernel for bytes, which rounds after each direction."""
    crop = RandomResizedCrop(size=224)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((300, 200), (260, 333))]
    expected = canonical(images, 2, crop)
    torch.manual_seed(2)
    frames, windows = cut_windows(images, crop, most_side=64)
    assert windows[:, 2:].eq(224).all(), "both were resized by the worker"
    result = WindowPipeline((crop, NORMALIZE), "kornia", CPU)(frames, windows)
    difference = (result - expected).abs().amax((0, 2, 3)) * torch.tensor(NORMALIZE.std)
    assert difference.max() <= 1 / 255 + 1e-5


def test_batches_are_no_larger_than_their_largest_window_needs() -> None:
    frames, windows = cut_windows([torch.zeros(3, 2000, 30, dtype=torch.uint8)], CROP)
    assert frames.shape == (1, 3, 64, 64), "a window of at most 30 x 40 in a frame of one step"
    assert windows[0, :2].tolist() == [0, 0]


def test_flips_on_the_device_mirror_the_same_crop(split: Split) -> None:
    plain, flipped = (batches(feed(split, ops=(CROP, HorizontalFlip(p=p), NORMALIZE))) for p in (0.0, 1.0))
    for (images, labels), (mirrored, same_labels) in zip(plain, flipped, strict=True):
        assert labels.equal(same_labels)
        torch.testing.assert_close(mirrored, images.flip(3), atol=2e-5, rtol=0)


@pytest.mark.parametrize("backend", ["pil", "torchvision_loop", "kornia", "fused"])
def test_in_workers_each_photograph_is_augmented_by_itself(backend: str, split: Split) -> None:
    ops = (CROP, HorizontalFlip(), NORMALIZE)
    source = feed(split, backend=backend, on_device=False, batch_size=len(SIZES))
    assert source.lane == "per_image"
    (result, labels), = batches(source)  # fmt: skip
    # By hand: the same stream, one photograph after the other, in the order of the labels.
    torch.manual_seed(stream_seed(0, "augment", epoch=1))
    torch.empty((), dtype=torch.int64).random_()  # the loader's own draw, the seed of workers that it might start
    pipeline = build(ops, backend)
    expected = [pipeline(photographs()[label][None])[0] for label in labels.tolist()]
    torch.testing.assert_close(result, torch.stack(expected), atol=0, rtol=0)


@pytest.mark.parametrize("on_device", [True, False])
def test_an_epoch_repeats_with_its_seed_and_workers_and_differs_from_others(on_device: bool, split: Split) -> None:
    first = batches(feed(split, on_device=on_device, num_workers=2))
    source = feed(split, on_device=on_device, num_workers=2)
    torch.testing.assert_close(batches(source), first, atol=0, rtol=0)
    orders = [torch.cat([labels for _, labels in epoch]) for epoch in (first, batches(source, 2))]
    assert not orders[0].equal(orders[1])
    assert len(orders[0].unique()) == len(orders[0]) == 4, "5 images: a batch of one is left out"


def test_every_index_once_but_a_last_one_alone() -> None:
    stored = StoredFeed(torch.arange(10), torch.arange(10), keep, batch_size=4, seed=0, device=CPU)
    values = [place[0] for place in map(stored.place, stored.epoch(1))]
    assert sorted(torch.cat(values).tolist()) == list(range(10))
    assert [len(request.indices) for request in Order(9, 4, 0, Ranks(), min_batch=2)] == [4, 4]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_is_gone_is_named_in_one_line(num_workers: int, split: Split) -> None:
    source = feed(split, num_workers=num_workers, batch_size=len(SIZES))
    cut = present(split.files)[3]
    cut.write_bytes(cut.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"^train/ant/3\.png could be read before training and no longer can[^\n]*$"):
        batches(source)


def test_exif_orientation_comes_before_the_window(tmp_path: Path) -> None:
    pixels = np.zeros((10, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=exif)
    split = Split(images=torch.zeros(1, 3, 18, 18, dtype=torch.uint8), labels=torch.tensor([0]), files=(tmp_path / "0.png",))
    whole = RandomResizedCrop(size=16, scale=(1.0, 1.0), ratio=(1e-2, 1.0))  # not wider than high: upright, it is all of it
    batch = next(feed(split, ops=(whole, NORMALIZE), batch_size=1).epoch(1))
    assert batch.windows[0, 2] > batch.windows[0, 3]
    assert batch.windows[0, 3] == 10


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (41, 41), (200, 101), (30, 91)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(size: tuple[int, int], tmp_path: Path) -> None:
    """Photographs come from the decoded cache, resized and cut to a square; then the centre is cut out."""
    image = Image.fromarray(smooth_images(1, max(size))[0, :, : size[1], : size[0]].permute(1, 2, 0).contiguous().numpy())
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            image.save(tmp_path / "set" / split / name / "0.png")
    side = prepared_size(32)
    dataset = load(str(tmp_path / "set"), root=tmp_path / "root", image_size=side)
    result = build(evaluation_ops(32), "torchvision")(dataset.train.images[:1])
    by_torchvision = v2.Compose([v2.Resize(side), v2.CenterCrop(32), v2.ToImage()])(image)
    expected = build((NORMALIZE,), "torchvision")(by_torchvision.as_subclass(Tensor)[None])
    torch.testing.assert_close(result, expected, atol=0, rtol=0)


def test_recipes_take_the_size_and_the_normalisation() -> None:
    assert prepared_size(224) == 256, "evaluation is the usual one"
    crop, *_, normalize = training_ops("imagenet", 64)
    assert (crop, normalize, training_ops("d2l", 64)[-1]) == (RandomResizedCrop(size=64), NORMALIZE, NORMALIZE)


def test_what_cannot_be_fed_is_one_line(split: Split) -> None:
    with pytest.raises(ValueError, match="recipe flip has no RandomResizedCrop"):
        training_ops("flip", 64)
    with pytest.raises(ValueError, match="must begin with RandomResizedCrop"):
        feed(split, ops=training_ops("d2l", 16))
    with pytest.raises(ValueError, match="photographs in files are needed"):
        feed(Split(images=split.images, labels=split.labels))
