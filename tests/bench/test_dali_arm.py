"""DALI's arms of ``augmark pipeline`` against Pillow and torchvision."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from augment import BACKENDS, ops
from bench.jobs.arms import ARMS, Work
from bench.jobs.photoset import Making, load_photographs
from training.sources.decode import upright

STEPS = (ops.RandomResizedCrop(size=48, scale=(1.0, 1.0), ratio=(1.2, 1.2)), ops.HorizontalFlip(p=1.0), ops.Normalize())


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Six photographs: one turned by EXIF, one CMYK, one of 16 bits; a truncated one, which is left out."""
    if reason := BACKENDS["dali"].why_not(torch.device("cpu")):
        pytest.skip(reason)
    for i in range(6):
        x, y = torch.meshgrid(torch.arange(80 if i == 3 else 96), torch.arange(96 if i == 3 else 80), indexing="xy")
        image = F.to_pil_image(torch.stack([2 * x, 2 * y, 30 * i + x]).to(torch.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        if i == 5:
            Image.fromarray(F.pil_to_tensor(image)[0].int().mul(257).numpy().astype("uint16")).save(tmp_path / "5.png")
        else:
            image.convert("CMYK" if i == 4 else "RGB").save(tmp_path / f"{i}.jpg", quality=95, exif=exif)
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "0.jpg").read_bytes()[:300])
    photographs = load_photographs(tmp_path, 9, Making(), tmp_path / "cache")
    assert (len(photographs.files), len(photographs.odd)) == (6, 3)
    return Work(photographs=photographs, cache=tmp_path / "cache", ops=STEPS)


@pytest.mark.parametrize("arm", ["dali-dali-device", "dali_dynamic-dali-device"])
def test_a_batch_of_dali_is_what_torchvision_makes_of_pillows_pixels(arm: str, work: Work) -> None:
    indices, chain = torch.arange(6), ARMS[arm].chain(work)
    (images, _) = chain.record(chain.names[-1], [indices])({}, indices)
    for file, result in zip(work.photographs.files, images, strict=True):
        decoded = F.to_dtype(F.pil_to_tensor(upright(file.read_bytes())), torch.float32, scale=True)
        expected = F.horizontal_flip(F.resize(decoded, [48, 48], antialias=True))
        error = (result - F.normalize(expected, list(STEPS[2].mean), list(STEPS[2].std))).abs() * 255 * 0.25
        assert float(error.mean()) < 1.0, file.name  # two JPEG decoders, and DALI's filter repeats the border


def test_the_graph_goes_through_the_files_in_order_and_refuses_other_ops(work: Work) -> None:
    arm = ARMS["dali-dali-device"]
    stage = arm.chain(work).own["graph"]
    batches = [stage(None, torch.arange(2))[0] for _ in range(4)]
    torch.testing.assert_close(batches[3], batches[0], atol=0, rtol=0)
    assert not batches[1].equal(batches[0])
    for name in ("dali-dali-device", "dali_dynamic-dali-device"):
        with pytest.raises(ValueError, match="RandomResizedCrop"):
            ARMS[name].chain(replace(work, ops=(ops.Rotate(),)))
