"""README's examples of a new op and a new backend, done for real: a class in its theme's file, a file in ``backends``."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from augment import OPS, UnsupportedOp, backends, build, lane, resolve
from augment.audit import audit, measure
from augment.audit.laws import laws
from augment.audit.statistics import rate
from augment.ops import colour
from bench.gallery import draw_strips
from bench.jobs.grid import Grid, plan
from tests.conftest import present

EXAMPLE = '''@op
class ChannelSwap(ChanceOp):
    """With probability ``p`` exchange red and blue."""

    cells = torchvision(lambda op: v2.RandomApply([v2.Lambda(lambda x: F.permute_channels(x, [2, 1, 0]))], p=op.p))
    oracle = lambda op, image, drawn: F.permute_channels(image, [2, 1, 0])
'''
BACKEND = """from augment.backends import StepBackend
from augment.backends.torchvision import TorchvisionRecorder

BACKENDS = (
    StepBackend(
        name="torchvision_again", library="torchvision", lane="per_batch", order=35, about="...", recorder=TorchvisionRecorder
    ),
)
"""
README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(autouse=True)
def _channel_swap() -> Iterator[None]:
    """Run the example at the end of ``augment/ops/colour.py``."""
    existing = dict(OPS)  # whoever added the op for real keeps it
    exec(EXAMPLE, dict(vars(colour)))
    yield
    OPS.clear()
    OPS.update(existing)


@pytest.mark.skipif("@op" not in README, reason="README shows no new op")
def test_readme_shows_these_examples() -> None:
    assert EXAMPLE in README
    assert BACKEND in README


@pytest.mark.parametrize("backend", ["pil", "torchvision_loop", "torchvision"])
def test_it_is_built_on_what_has_a_cell(backend: str, images: Tensor) -> None:
    (op,) = resolve("ChannelSwap")
    swapped, source = images.flip(1), images / 255
    results = build("ChannelSwap", backend, dtype=torch.uint8)(images)
    assert all(torch.equal(r, s) or torch.equal(r, i) for r, s, i in zip(results, swapped, images, strict=True))
    assert lane([op], backend) == ("per_batch" if backend == "torchvision" else "per_image")
    pinned = present(op.pinned(32))
    torch.testing.assert_close(build(pinned, backend)(source), source.flip(1))


def test_it_is_unsupported_elsewhere() -> None:
    for backend in ("kornia", "fused"):
        with pytest.raises(UnsupportedOp, match=f"ChannelSwap is not supported by backend {backend}"):
            build("ChannelSwap", backend)


def test_its_range_check_and_law_follow_from_its_draws() -> None:
    assert laws(resolve("ChannelSwap")[0], (32, 32)) == {"applied": rate(0.5)}
    with pytest.raises(ValueError, match="p must lie"):
        OPS["ChannelSwap"](p=2.0)  # type: ignore[call-arg]


def test_the_audit_has_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "EAGER", ((32, 8, 4),))
    report = audit(["pil", "torchvision_loop", "torchvision", "kornia", "fused"], ["ChannelSwap"], [], n=400, workers=False)
    verdicts = {verdict.backend: verdict for verdict in report.verdicts}
    assert {verdict.verdict for verdict in report.verdicts} == {"exact", "unsupported"}
    assert {backend for backend, verdict in verdicts.items() if verdict.verdict == "unsupported"} == {"kornia", "fused"}
    assert all(len(verdicts[backend].tests) == 1 for backend in ("pil", "torchvision_loop", "torchvision"))
    assert report.findings == ()


def test_a_new_backend_is_found(tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision_again.py").write_text(BACKEND)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    loaded = backends._load_backends()
    names = [name for name, backend in loaded.items() if backend.library == "torchvision"]
    assert names[:3] == ["torchvision_loop", "torchvision", "torchvision_again"]
    monkeypatch.setitem(backends.BACKENDS, "torchvision_again", loaded["torchvision_again"])
    assert build("crop_flip", "torchvision_again")(images).shape == (8, 3, 32, 32)
    report = audit(["torchvision_again"], ["HorizontalFlip"], [], n=400, workers=False)
    assert [verdict.verdict for verdict in report.verdicts] == ["exact"]


def test_it_is_in_the_grid_and_the_gallery(tmp_path: Path, images: Tensor) -> None:
    statuses = {case.backend: case.status for case in plan(Grid(recipes=())) if case.subject == "ChannelSwap"}
    assert (statuses["pil"], statuses["torchvision"]) == ("not_run", "not_run")
    assert statuses["kornia"] == statuses["fused"] == "unsupported"
    gallery = draw_strips(
        images, tmp_path, dataset="made", backends=("torchvision_loop", "torchvision"), ops=("ChannelSwap",), recipes=()
    )
    assert next(iter(gallery.pictures)).subject == "ChannelSwap"
