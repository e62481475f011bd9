"""Decoding arms: the decoders agree, draft decoding gives less, and every cell leaves a record."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from bench.endtoend import decoding
from bench.endtoend.decoding import DECODERS, DecodeOptions, decode, encoded
from bench.records.runs import TRAINING
from tests.conftest import smooth_images
from training.folders import training_files

QUIET = Console(quiet=True)


def photograph(width: int, height: int) -> bytes:
    pixels = smooth_images(1, max(width, height))[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=95)
    return written.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_decoders_of_the_cpu_agree() -> None:
    content = photograph(90, 60)
    by_pil = torch.from_numpy(np.array(decoding._pil(content))).permute(2, 0, 1)
    found = {"torchvision": decoding._torchvision}
    if DECODERS["torchcodec"].missing() is None:
        found["torchcodec"] = decoding._torchcodec
    for name, run in found.items():
        # libjpeg-turbo of different releases may round its upsampling of chroma differently by a level or two
        assert (run(content).int() - by_pil.int()).abs().max() <= 2, name


def test_draft_decoding_stops_at_the_smallest_size_that_is_large_enough() -> None:
    """Halves of 1024 x 768 down to at least 224 on the shorter side: 512 x 384 (256 x 192 would be too small)."""
    assert decoding._pil_draft(photograph(1024, 768)).shape == (384, 512, 3)
    assert decoding._pil_draft(photograph(300, 230)).shape == (230, 300, 3)
    assert decoding._pil_draft(photograph(100, 80)).shape == (80, 100, 3)


@pytest.mark.parametrize(("width", "height", "size", "expected"), [(90, 60, 30, (45, 30)), (20, 50, 40, (40, 100))])
def test_files_are_made_with_that_shorter_side(width: int, height: int, size: int, expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(encoded(photograph(width, height), size))) as image:
        assert image.size == expected
        assert image.format == "JPEG"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "photos" / split / name / f"{i}.jpg").write_bytes(photograph(60, 40))
    return tmp_path / "photos"


def _broken(contents: Any) -> None:
    raise RuntimeError("no\nsuch codec")


def options(folder: Path, **changes: Any) -> DecodeOptions:
    settings: dict[str, Any] = {"sizes": (16, 32), "workers": (1,), "files": 2, "rounds": 2, "seconds": 0.001}
    return DecodeOptions(data=str(folder), out=folder.parent / "out", **(settings | changes))


def test_every_cell_has_a_record_a_round_and_the_report_shows_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = {name: decoder for name, decoder in DECODERS.items() if not decoder.on_cuda}
    bad, absent = (decoding.Decoder(run=_broken, about="", needs=needs) for needs in (None, "no_such_package"))
    monkeypatch.setattr(decoding, "DECODERS", on_cpu | {"bad": bad, "absent": absent})
    out = decode(options(folder), QUIET)
    found = [json.loads(line) for line in (out / TRAINING).read_text().splitlines()]
    good = [one for one in found if one["status"] == "ok"]
    able = [name for name, decoder in on_cpu.items() if decoder.missing() is None]
    cells = sorted((one["decoder"], one["image_size"], one["round"]) for one in good)
    assert cells == sorted((name, size, number) for name in able for size in (16, 32) for number in (1, 2))
    for one in good:
        # A photograph of 60 x 40, brought to 24 x 16 or 48 x 32.
        assert one["megapixels_per_s"] / one["images_per_s"] * 1e6 == pytest.approx(24 * 16 * (one["image_size"] / 16) ** 2)
        assert one["mb_per_s"] < one["images_per_s"] * 0.01, "files of less than 10 kB"
    failed = {one["decoder"]: one["reason"] for one in found if one["status"] != "ok"}
    assert "no_such_package is not installed" in failed["absent"]
    # Processes that are not forked know the table as it is in the file, and no "bad".
    assert failed["bad"].startswith(("RuntimeError: no", "KeyError"))
    text = (out / "report" / "report.md").read_text()
    assert "Decoding JPEG files" in text
    assert "no_such_package is not installed" in text


@pytest.mark.parametrize("changes", [{"files": 0}, {"rounds": 0}, {"sizes": (0,)}, {"workers": (0,)}, {"seconds": 0.0}])
def test_numbers_that_measure_nothing(changes: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        decode(options(folder, **changes), QUIET)


def test_photographs_must_be_files(folder: Path) -> None:
    with pytest.raises(ValueError, match="take --data FOLDER"):
        decode(DecodeOptions(data="synthetic", out=folder.parent / "out"), QUIET)


def test_only_the_chosen_files_are_opened_and_nothing_is_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 photographs and 3 asked for: numbers 0, 4 and 8; where 0 is damaged, its neighbour 1 comes last."""
    for name in ("ant", "bee"):
        for i in range(2, 6):
            (folder / "train" / name / f"{i}.jpg").write_bytes(photograph(60, 40))
    opened: list[str] = []
    read_bytes = Path.read_bytes

    def noted(path: Path) -> bytes:
        opened.append(f"{path.parent.name}/{path.name}")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    files = training_files(folder)
    assert [f"{file.parent.name}/{file.name}" for file in files[:6]] == [f"ant/{i}.jpg" for i in range(6)]
    assert len(files) == 12
    assert opened == []
    chosen = decoding.choose(files, 3, QUIET)
    assert opened == ["ant/0.jpg", "ant/4.jpg", "bee/2.jpg"]
    assert list(chosen) == [files[0], files[4], files[8]]
    assert not list(folder.parent.rglob(".cache"))
    files[0].write_bytes(b"GIF89a")
    console = Console(record=True)
    assert list(decoding.choose(files, 3, console)) == [files[4], files[8], files[1]]
    assert "0.jpg: left out, " in console.export_text()
    assert decoding._fingerprint(chosen) != decoding._fingerprint({**chosen, files[0]: b"other"})


def test_more_files_than_there_are_are_all_and_none_that_can_be_read_is_told(folder: Path) -> None:
    files = training_files(folder)
    assert len(decoding.choose(files, 99, QUIET)) == 4
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of 4 photographs for training can be decoded"):
        decode(options(folder), QUIET)
    assert not (folder.parent / "out").exists()
