"""README's code is run as it stands there; its comments are checked where they claim something."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
# New ops and backends are parts of files: tests/augment/test_add_op.py runs them.
PROGRAMS = [block for block in BLOCKS if "@op" not in block and "BACKENDS" not in block]


@pytest.mark.skipif("@op" not in README, reason="README is of the old house")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_and_its_comments_are_true(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(program, names)
    for line in program.splitlines():
        if not (claim := re.match(r"(\w+) = .*# .*float32 (\[[\d, ]+\])", line)):
            continue
        result = names[claim[1]]
        assert isinstance(result, torch.Tensor)
        assert (str(result.dtype), str(list(result.shape))) == ("torch.float32", claim[2])
        if "normalised" in line:
            assert result.min() < 0
        if "a draw for each image" in line:
            pipeline, images = names["pipeline"], names["images"]
            assert callable(pipeline)
            assert isinstance(images, torch.Tensor)
            assert len(pipeline(images[:1].expand(len(images), -1, -1, -1)).flatten(1).unique(dim=0)) > len(images) // 2
