"""Time a plain loop by hand, to hold `augmark pipeline --images 192 --workers 0` against: PIL, fused, imagenet."""

import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from augment import build
from augment.ops import IMAGENET_MEAN, IMAGENET_STD, HorizontalFlip, Normalize, RandomResizedCrop

ops = (RandomResizedCrop(size=224), HorizontalFlip(), Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD))
pipeline = build(ops, sys.argv[2] if len(sys.argv) > 2 else "fused")
files = sorted(Path(sys.argv[1]).rglob("*.jpg"))
files = files[:: len(files) // 192][:192]
for number in range(10):
    begin = time.perf_counter()
    for start in range(0, len(files), 32):
        images = []
        for file in files[start : start + 32]:
            pixels = np.array(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))
            images.append(pipeline(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
        batch = torch.cat(images)
    print(f"round {number}: {len(files) / (time.perf_counter() - begin):.0f} images/s of {list(batch.shape)}")
