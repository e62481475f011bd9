"""``augmark decode``: the decoders agree, draft decoding gives less, and every case leaves a record."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from bench.jobs import decode as module
from bench.jobs.decode import (
    DECODERS,
    DecodeOptions,
    Decoder,
    choose,
    decode,
    decode_pil,
    decode_pil_draft,
    decode_torchcodec,
    decode_torchvision,
    encode,
    fingerprint,
)
from bench.records import Decoding, load_run
from tests.conftest import smooth_images
from training.sources.folders import training_files

QUIET = Console(quiet=True)


def photograph(width: int, height: int) -> bytes:
    pixels = smooth_images(1, max(width, height))[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_decoders_of_the_cpu_agree() -> None:
    content = photograph(90, 60)
    by_pil = torch.from_numpy(np.array(decode_pil(content))).permute(2, 0, 1)
    peers = [decode_torchvision, *([decode_torchcodec] if DECODERS["torchcodec"].missing() is None else [])]
    for peer in peers:
        # libjpeg-turbo of different releases may round its upsampling of chroma differently by a level or two
        assert (peer(content).int() - by_pil.int()).abs().max() <= 2, peer.__name__


def test_draft_decoding_stops_at_the_smallest_size_that_is_large_enough() -> None:
    """Halves of 1024 x 768 down to at least 224 on the shorter side: 512 x 384 (256 x 192 would be too small)."""
    shapes = [decode_pil_draft(photograph(*size)).shape for size in ((1024, 768), (300, 230), (100, 80))]
    assert shapes == [(384, 512, 3), (230, 300, 3), (80, 100, 3)]


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"), [(90, 60, 30, (45, 30)), (20, 50, 40, (40, 100)), (3000, 1, 64, (1024, 64))]
)
def test_files_are_made_with_that_shorter_side(width: int, height: int, size: int, expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(encode(photograph(width, height), size))) as image:
        assert (image.size, image.format) == (expected, "JPEG")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "photos" / split / name / f"{i}.jpg").write_bytes(photograph(60, 40))
    return tmp_path / "photos"


def run(folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {"sizes": (16, 32), "workers": (1,), "files": 2, "rounds": 2, "seconds": 0.001}
    options = DecodeOptions(data=str(folder), results=folder.parent / "out", **(settings | changes))
    return decode(options, QUIET, lambda folder: None)


def broken(contents: Any) -> None:
    raise RuntimeError("no\nsuch codec")


def test_every_case_has_a_record_a_round(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = {name: decoder for name, decoder in DECODERS.items() if not decoder.on_cuda}
    strange = {"bad": Decoder(run=broken), "absent": Decoder(run=broken, extra="no_such_package")}
    monkeypatch.setattr(module, "DECODERS", on_cpu | strange)
    records = load_run(run(folder)).records
    able = [name for name, decoder in on_cpu.items() if decoder.missing() is None]
    good = [record for record in records if isinstance(record, Decoding) and record.status == "ok"]
    cases = sorted((record.decoder, record.image_size, record.round) for record in good)
    assert cases == sorted((name, size, number) for name in able for size in (16, 32) for number in (0, 1))
    for record in good:
        assert record.megapixels_per_s is not None
        assert record.images_per_s is not None
        assert record.image_size is not None
        # A photograph of 60 x 40, brought to 24 x 16 or 48 x 32.
        pixels = record.megapixels_per_s / record.images_per_s * 1e6
        assert pixels == pytest.approx(24 * 16 * (record.image_size / 16) ** 2, rel=1e-4)
        assert (record.mb_per_s or 1) < record.images_per_s * 0.01, "files of less than 10 kB"
    reasons = {case.first.decoder: str(case.reason) for case in load_run(folder.parent / "out").cases() if case.reason}
    assert "no_such_package is not installed" in reasons["absent"]
    # Processes that are not forked know the table as it is in the file, and no "bad".
    assert reasons["bad"].startswith(("RuntimeError: no", "KeyError"))


@pytest.mark.parametrize("changes", [{"files": 0}, {"rounds": 0}, {"sizes": (0,)}, {"workers": (0,)}, {"seconds": 0.0}])
def test_numbers_that_measure_nothing(changes: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        run(folder, **changes)


def test_photographs_must_be_files(folder: Path) -> None:
    with pytest.raises(ValueError, match="take --data FOLDER"):
        decode(DecodeOptions(data="synthetic"), QUIET, lambda folder: None)


def test_only_the_chosen_files_are_opened_and_nothing_is_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 photographs and 3 asked for: numbers 0, 4 and 8; where 0 is damaged, its neighbour 1 comes last."""
    for name in ("ant", "bee"):
        for i in range(2, 6):
            (folder / "train" / name / f"{i}.jpg").write_bytes(photograph(60, 40))
    opened: list[str] = []
    read_bytes = Path.read_bytes

    def note(path: Path) -> bytes:
        opened.append(f"{path.parent.name}/{path.name}")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", note)
    files = training_files(folder)
    assert len(files) == 12
    assert opened == []
    contents = choose(files, 3, QUIET)
    assert opened == ["ant/0.jpg", "ant/4.jpg", "bee/2.jpg"]
    assert list(contents) == [files[0], files[4], files[8]]
    assert not list(folder.parent.rglob(".cache"))
    files[0].write_bytes(b"GIF89a")
    console = Console(record=True)
    assert list(choose(files, 3, console)) == [files[4], files[8], files[1]]
    assert "0.jpg: left out, " in console.export_text()
    assert fingerprint(contents) != fingerprint({**contents, files[0]: b"other"})


def test_all_files_are_taken_if_there_are_fewer_and_none_that_decodes_is_an_error(folder: Path) -> None:
    files = training_files(folder)
    assert len(choose(files, 99, QUIET)) == 4
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="none of 4 photographs for training can be decoded"):
        run(folder)
    assert not (folder.parent / "out").exists()
