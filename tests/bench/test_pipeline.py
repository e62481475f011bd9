"""``augmark pipeline``: decoders agree, odd files are treated alike, stages are left out one by one, cases fail alone."""

import io
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.utils.data import get_worker_info

from bench.jobs import passes
from bench.jobs.arms import ARMS, HOST_DECODERS, AugmentBatch, Recorded, Work, pixel_differences, recipe_ops
from bench.jobs.photoset import Making, encode, load_photographs, parse_size
from bench.jobs.pipeline import PipelineOptions, pipeline
from bench.records import Pipeline, load_run
from bench.report import write_report
from bench.report.facts.pipeline import feedings
from bench.report.sections.pipeline import limit
from tests.conftest import smooth_images
from training.photofeed import AugmentEach, CutWindows, Decode, Read
from training.sources.decoders import DECODERS, oddity

QUIET = Console(quiet=True)
QUICK: dict[str, Any] = {
    "arms": ("fused-workers", "pil-fused-device", "pil-alone"), "recipes": ("imagenet",), "workers": (0,), "rounds": 2,
    "trained_arms": (), "batch_size": 4, "image_size": 32, "device": "cpu",
}  # fmt: skip


def photograph(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    pixels = smooth_images(1, max(width, height))[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return photograph(60, 40, exif=exif)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine photographs: a turned one, one in CMYK, one truncated."""
    (tmp_path / "photos").mkdir()
    contents = [photograph(60 + i, 40) for i in range(6)] + [turned(), photograph(60, 40, "CMYK"), photograph(60, 40)[:300]]
    for index, content in enumerate(contents):
        (tmp_path / "photos" / f"{index}.jpg").write_bytes(content)
    return tmp_path / "photos"


def run(folder: Path, **changes: Any) -> Path:
    options = PipelineOptions(data=folder, cache=folder.parent / "cache", results=folder.parent / "out", **(QUICK | changes))
    return pipeline(options, QUIET, lambda path: None)


@pytest.mark.filterwarnings("ignore")
def test_decoders_agree() -> None:
    content = photograph(90, 60)
    for name in HOST_DECODERS:
        if DECODERS[name].missing() is None:
            # libjpeg-turbo of different releases may round its upsampling of chroma differently by a level or two
            gap = (DECODERS[name].run(content).int() - DECODERS["pil"].run(content).int()).abs().max()
            assert gap <= 2, name


@pytest.mark.filterwarnings("ignore")
def test_draft_decoding_stops_at_the_smallest_size_that_is_large_enough() -> None:
    """Halves of 1024 x 768 down to at least 224 on the shorter side: 512 x 384 (256 x 192 would be too small)."""
    decode = DECODERS["pil_draft"].run
    assert [tuple(decode(photograph(*size)).shape) for size in ((1024, 768), (300, 230))] == [(3, 384, 512), (3, 230, 300)]


def test_odd_files_are_left_to_pillow_and_unreadable_ones_left_out_in_all_arms(folder: Path) -> None:
    contents = (photograph(9, 9), photograph(9, 9, "L"), turned(), photograph(9, 9, "CMYK"), b"")
    assert [oddity(content) for content in contents] == [None, None, "EXIF orientation 6", "CMYK", "unreadable"]
    photographs = load_photographs(folder, 99, Making(), folder.parent)
    assert [file.name for file in photographs.files] == [f"{i}.jpg" for i in range(8)]
    assert photographs.odd == {6: "6.jpg: EXIF orientation 6", 7: "7.jpg: CMYK"}
    assert [words.split(":")[0] for words in photographs.skipped] == ["8.jpg"]
    work = Work(photographs=photographs, cache=folder.parent)
    indices = torch.arange(8)
    sizes = [
        ARMS[f"{name}-alone"].chain(work).record("collate", [indices])({}, indices)[0]
        for name in HOST_DECODERS
        if DECODERS[name].missing() is None
    ]
    assert all(size.equal(sizes[0]) for size in sizes)
    assert sizes[0][6].tolist() == [60, 40], "turned upright"
    assert all(largest <= 2 for peers in pixel_differences(photographs).values() for largest, _ in peers.values())


def test_photographs_are_made_in_numbers_and_sizes(folder: Path) -> None:
    making = Making(repeat=3, size=parse_size("50x40"))
    made = load_photographs(folder, 2, making, folder.parent / "cache")
    assert (len(made.files), {Image.open(file).size for file in made.files}) == (6, {(50, 40)})
    assert load_photographs(folder, 2, making, folder.parent / "cache").fingerprint == made.fingerprint
    assert len(encode(photograph(90, 60), replace(making, quality=10))) < len(encode(photograph(90, 60), making))


@pytest.mark.parametrize("arm", ["fused-workers", "pil-fused-device", "torchvision-kornia-device", "packed-fused-device"])
def test_an_arm_without_a_stage_gives_the_recorded_results(arm: str, folder: Path) -> None:
    photographs = load_photographs(folder, 99, Making(), folder.parent)
    work = Work(photographs=photographs, cache=folder.parent, ops=recipe_ops("imagenet", 32), image_size=32)
    indices, chain = torch.arange(4), ARMS[arm].chain(work)
    recorded = chain.record("augment", [indices])
    assert isinstance(recorded, Recorded)
    again = chain.replace("augment", recorded).record(chain.names[-1], [indices])({}, indices)
    images = again[0]
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.float32
    expected = recorded({}, indices)
    assert images.equal(torch.cat(tuple(expected)) if isinstance(expected, list) else expected[0])


def test_a_run_has_every_stage_and_its_report_names_a_limit(folder: Path) -> None:
    run_folder = load_run(run(folder, trained_arms=("pil-fused-device",), model="resnet18", workers=(0, 1)))
    records = [record for record in run_folder.records if isinstance(record, Pipeline)]
    assert {record.status for record in records} == {"ok"}, [record.reason for record in records]
    assert {record.without for record in records} == {None, "read", "decode", "augment", "collate"}
    assert {record.skipped_files[0].split(":")[0] for record in records} == {"8.jpg"}
    (feeding,) = feedings(run_folder)
    trained = feeding.whole("imagenet", trained=True)
    assert [set(feeding.parts(case)) for case in trained] == [{"read", "decode", "collate", "augment", "step"}] * 2
    assert {case.num_workers: feeding.prediction(case) is None for case in trained} == {0: True, 1: False}
    threads = {(r.num_workers, r.fetch_threads, r.threads) for r in records if r.without}
    assert threads == {(0, None, torch.get_num_threads()), (0, 1, 1)}, "a worker fetches in one thread"
    text = write_report(run_folder).with_name("report.md").read_text()
    assert re.search("is the limit|what limits it is not known", text)  # of a few milliseconds on a busy machine
    assert "sum : whole" in text
    assert "7.jpg: CMYK" in text
    alone = next(record for record in records if record.arm == "pil-alone")
    assert set(alone.pixel_differences) == {name for name in DECODERS if name != "pil" and DECODERS[name].missing() is None}


class Clock:
    """A clock that stages set forward, in place of passing time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(passes, "time", SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.now))

    def slow_down(self, owner: type, method: str, seconds: Callable[[Any], float]) -> None:
        """Let a method take ``seconds`` of its last argument."""
        original = getattr(owner, method)

        def slow(*args: Any) -> Any:
            self.now += seconds(args[-1])
            return original(*args)

        self._monkeypatch.setattr(owner, method, slow)


def test_stages_add_up_and_a_slow_disk_is_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding photograph i takes 10 + i ms, so the two batches differ, and a pass without it could see more of them."""
    clock = Clock(monkeypatch)
    clock.slow_down(Read, "run", lambda item: 0.020)
    clock.slow_down(CutWindows, "__call__", lambda indices: 0.008)
    clock.slow_down(AugmentBatch, "__call__", lambda indices: 0.012)
    decode = Decode.run

    def run_decode(stage: Decode, index: int, item: bytes) -> torch.Tensor:
        clock.now += 0.010 + 0.001 * index
        return decode(stage, index, item)

    monkeypatch.setattr(Decode, "run", run_decode)
    stored = load_run(run(folder, arms=("pil-fused-device",), seconds=0.1))
    (feeding,) = feedings(stored)
    (case,) = feeding.whole("imagenet")
    shares = {name: span.value / feeding.serial_s(case) for name, span in feeding.parts(case).items()}
    batch_s = {"read": 0.080, "decode": 0.054, "collate": 0.008, "augment": 0.012}  # means of both batches
    assert shares == pytest.approx({name: seconds / sum(batch_s.values()) for name, seconds in batch_s.items()})
    assert feeding.balance(case) == pytest.approx(1)
    for record in (record for record in stored.of(Pipeline) if record.without):  # of the whole arm, without the warm-up
        assert (record.cpu_s_per_image or 0) * (record.images or 0) == pytest.approx(record.whole_s)
    assert limit(feeding, case).endswith("times that: the disk is the limit.")


def test_a_disk_that_memory_hides_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "disk_rate", lambda files: 2.0)
    (feeding,) = feedings(load_run(run(folder, arms=("pil-fused-device",), rounds=1)))
    assert "from the disk they come at 2.00 files/s a reader: the disk is the limit" in limit(feeding, feeding.whole()[0])


def test_a_killed_worker_fails_its_arm_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = AugmentEach.__call__

    def augment_once(stage: AugmentEach, items: Any, indices: torch.Tensor) -> Any:
        if get_worker_info() is not None and indices[0]:  # its second batch
            os.kill(os.getpid(), signal.SIGKILL)
        return augment(stage, items, indices)

    monkeypatch.setattr(AugmentEach, "__call__", augment_once)
    stored = load_run(run(folder, arms=("fused-workers", "pil-fused-device"), workers=(1,), rounds=1)).records
    records = [record for record in stored if isinstance(record, Pipeline)]
    (failed,) = (record for record in records if record.status != "ok")
    assert (failed.arm, failed.num_workers, failed.status) == ("fused-workers", 1, "failed")
    assert re.search(r"worker .*(killed|exited)", str(failed.reason))
    assert {(record.arm, record.without) for record in records} >= {("pil-fused-device", None), ("fused-workers", "decode")}


def test_a_case_that_fails_leaves_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(num_workers: int, needed: int) -> None:
        if num_workers:
            raise ValueError("/dev/shm has 1 MiB free")

    monkeypatch.setattr(passes, "check_shared_memory", check)
    records = load_run(run(folder, arms=("pil-alone",), workers=(0, 1), rounds=1)).records
    assert {(r.num_workers, r.status) for r in records if isinstance(r, Pipeline)} == {(0, "ok"), (1, "failed")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "8 photographs make no batch of 9"),
        ({"batch_size": None}, "8 photographs make no batch of 32"),
        ({"arms": ("nosuch",)}, "unknown arm 'nosuch'"),
        ({"recipes": ("nosuch",)}, "unknown recipe or op 'nosuch'"),
        ({"size": "big"}, "size must be WIDTHxHEIGHT"),
        ({"images": 0}, "must be positive"),
        ({"workers": (-1,)}, "workers must lie between 0 and 1024, got -1"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, **changes)


def test_what_an_arm_cannot_do_is_unsupported_with_the_reason(folder: Path) -> None:
    cases = load_run(run(folder, arms=("pil-fused-device",), recipes=("d2l", "MixUp"), rounds=1)).cases()
    reasons = {case.first.recipe: str(case.reason) for case in cases}
    assert "must begin with RandomResizedCrop" in reasons["d2l"]
    assert "mixes the images and labels" in reasons["MixUp"]
