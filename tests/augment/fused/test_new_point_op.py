"""A new point op costs one function each in tensors.py, points.h and triton_points.py, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import augment
from tests.augment.fused.cases import NEEDS_TRITON

ADDED = {
    "fused/tensors.py": '''

@point_op()
def swap_channels(images: Tensor, strength: Tensor) -> Tensor:
    """Exchange red and blue."""
    return images.flip(1)
''',
    "fused/triton_points.py": """

@triton.jit
def swap_channels(red, green, blue, strength):
    return blue, green, red
""",
    "ops/colour.py": '''

@op
class ChannelSwap(ChanceOp):
    """Exchange red and blue with probability ``p``."""

    fused = kinds.point_op("swap_channels")
''',
}
IN_C = """
POINT_OP(swap_channels) {
    for (int64_t i = 0; i < count; i++) {
        float red = planes[i];
        planes[i] = planes[2 * count + i];
        planes[2 * count + i] = red;
    }
}
"""
CHECK = """
import torch
from augment import build, fused, ops
from augment.fused import cuda

images = torch.rand(8, 3, 6, 5)
plan = fused.plan([ops.HorizontalFlip(), ops.ChannelSwap(), ops.Brightness()])
params = plan.sample(8, 6, 5, torch.Generator().manual_seed(0))
result, implementation = plan.run(images, params)
assert implementation == "c" and 0 < params[1]["applied"].sum() < 8
expected = images.where(~params[0]["applied"][:, None, None, None], images.flip(3))
expected = expected.where(~params[1]["applied"][:, None, None, None], expected.flip(1))
expected = (expected * params[2]["factor"][:, None, None, None]).clamp(0, 1)
for name, pixels in (("c", result), ("tensors", plan._by_tensors(images, params, None)),
                     ("triton", cuda.apply_plan(plan, torch.float32)(images, params))):
    torch.testing.assert_close(pixels, expected, msg=name)
assert build("ChannelSwap", "fused")(images).shape == images.shape
"""


@pytest.mark.slow
@NEEDS_TRITON
def test_a_new_point_op(tmp_path: Path) -> None:
    package = tmp_path / "augment"
    shutil.copytree(Path(augment.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in ADDED.items():
        (package / name).write_text((package / name).read_text() + code)
    points = package / "fused" / "points.h"
    points.write_text(points.read_text().replace("#define ENTRY", IN_C + "\n#define ENTRY", 1))
    variables = {**os.environ, "TRITON_INTERPRET": "1", "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", CHECK], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr[-3000:]
