"""Image folders against decoding by hand, and everything that real folders have in them."""

import io
import os
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from training.data import Dataset, load
from training.sources import folders
from training.sources.decode import fit, upright

MakeFolder = Callable[..., Path]


def _load(folder: Path, tmp_path: Path, size: int = 8) -> Dataset:
    return load(str(folder), root=tmp_path / "root", image_size=size)


def test_images_labels_and_files_are_in_the_order_of_classes_and_names(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(("cat", "ant", "bee"), test="val", count=4)
    dataset = _load(folder, tmp_path)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.name == "photos"
    assert dataset.skipped == ()
    for split, name in ((dataset.train, "train"), (dataset.test, "val")):
        files = sorted((folder / name).glob("*/*"))
        assert split.labels.tolist() == [dataset.classes.index(file.parent.name) for file in files]
        by_hand = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
        np.testing.assert_array_equal(split.images.numpy(), by_hand)
        assert split.files == tuple(files)


def test_test_goes_before_val(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder(test="val", count=2)
    assert len(_load(make_folder(test="test", count=5), tmp_path).test) == 10


def test_another_size_is_resized_by_the_shorter_side_and_cut_from_the_centre(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(count=1, size=(40, 20))
    image = Image.open(folder / "train/ant/0.png")
    by_hand = image.resize((20, 10), Image.Resampling.BILINEAR).crop((5, 0, 15, 10))
    np.testing.assert_array_equal(_load(folder, tmp_path, 10).train.images[0].permute(1, 2, 0), np.asarray(by_hand))


def test_all_kinds_of_pixels_become_rgb(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(count=1)
    at = folder / "train/ant"
    rgb = Image.new("RGB", (8, 8), (200, 100, 50))
    Image.new("L", (8, 8), 77).save(at / "a-grey.png")
    rgb.convert("RGBA").save(at / "b-rgba.png")
    rgb.convert("P").save(at / "c-palette.png")
    rgb.convert("CMYK").save(at / "d-cmyk.jpg", quality=95)
    Image.fromarray(np.full((8, 8), 77 * 256 + 9, np.uint16)).save(at / "e-16bit.png")
    Image.new("LA", (8, 8), (77, 10)).save(at / "f-grey-alpha.png")
    dataset = _load(folder, tmp_path)
    assert dataset.skipped == ()
    means = dataset.train.images[1:7].double().mean(dim=(2, 3)).numpy()
    grey, colour = [77.0] * 3, [200.0, 100.0, 50.0]
    # Palette: the web palette has steps of 51. CMYK: through JPEG, with rounding on the way.
    expected, tolerance = [grey, colour, colour, colour, grey, grey], [0, 0, 26, 4, 0, 0]
    assert (np.abs(means - expected).max(axis=1) <= tolerance).all(), means


def test_undecodable_files_are_skipped_and_listed(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    at = folder / "train/bee"
    Image.effect_noise((64, 64), 90).convert("RGB").save(at / "whole.jpg")
    whole = (at / "whole.jpg").read_bytes()
    (at / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (at / "empty.png").touch()
    (at / "text.jpg").write_text("no image")
    Image.new("L", (8, 8)).save(at / "placeholder.gif")
    (at / ".hidden").touch()
    (at / "folder.jpg").mkdir()
    Image.new("L", (100, 100)).save(at / "bomb.png")
    (at / "broken.png").write_bytes((at / "0.png").read_bytes()[:60])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)
    dataset = _load(folder, tmp_path)
    assert {entry.split(":")[0].removeprefix("train/bee/") for entry in dataset.skipped} == {
        "cut.jpg", "empty.png", "text.jpg", "placeholder.gif", "folder.jpg", "bomb.png", "broken.png"
    }  # fmt: skip
    assert len(dataset.train) == 7  # 2 classes x 3, and whole.jpg
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert all("\n" not in entry for entry in dataset.skipped)
    why = dict(entry.removeprefix("train/bee/").split(": ", 1) for entry in dataset.skipped)
    assert why["text.jpg"] == "no image of a kind that Pillow knows", "without an address in memory"
    assert (why["empty.png"], why["folder.jpg"]) == ("empty", "not a file")
    assert _load(folder, tmp_path).skipped == dataset.skipped  # from the cache


def test_damaged_metadata_cost_no_image_and_leave_it_upright(
    make_folder: MakeFolder, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A rational date, which Pillow's exif_transpose cannot write again, beside orientation 6; a tag behind the end; no tag."""
    folder = make_folder(count=1)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # white above: turned by 90 degrees clockwise it is on the right
    Image.fromarray(pixels).save(folder / "train/ant/0.jpg", quality=95)
    whole = (folder / "train/ant/0.jpg").read_bytes()
    orientation = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    date = struct.pack(">HHII", 0x0132, 5, 1, 8 + 2 + 2 * 12 + 4) + struct.pack(">I", 0) + struct.pack(">II", 7, 2)
    head = b"MM\0*\0\0\0\x08"
    beyond = head + b"\0\x01\x01\x12\0\x05\0\0\0\x01\xff\xff"
    contents = {"0.jpg": head + struct.pack(">H", 2) + orientation + date, "1.jpg": b"nonsense", "2.jpg": beyond}
    for name, tags in contents.items():
        segment = b"\xff\xe1" + (len(tags) + 8).to_bytes(2, "big") + b"Exif\0\0" + tags
        (folder / "train/ant" / name).write_bytes(whole[:2] + segment + whole[2:])
    dataset = _load(folder, tmp_path)
    assert dataset.skipped == ()
    turned, plain = (dataset.train.images[index].float().mean(0) for index in (0, 2))  # 0.png comes between
    assert turned[:, 4:].mean() > 200 > 50 > turned[:, :4].mean()
    assert plain[:4].mean() > 200 > 50 > plain[4:].mean()
    assert not [warning for warning in recwarn if "PIL" in str(warning.filename)], "they would name no file"


def test_damaged_and_large_text_cost_no_png() -> None:
    pixels, info = np.arange(192, dtype=np.uint8).reshape(8, 8, 3), PngInfo()
    info.add_text("comment", "x" * 2**21, zip=True)  # Pillow allows a MiB
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG", pnginfo=info)
    large = file.getvalue()
    damaged = large.replace(b"zTXtcomment", b"zTXtcommand")  # its checksum is wrong now
    for content in (large, damaged):
        np.testing.assert_array_equal(np.asarray(upright(content)), pixels)


@pytest.mark.parametrize("size", [(1, 400), (20, 1400), (1400, 20)])
def test_a_strip_is_cut_before_it_is_resized_and_gives_the_same_square(size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90).convert("RGB")
    shorter = min(size)
    whole = image.resize((size[0] * 40 // shorter, size[1] * 40 // shorter), Image.Resampling.BILINEAR)
    left, top = (round((side - 40) / 2) for side in whole.size)
    expected = np.asarray(whole.crop((left, top, left + 40, top + 40))).astype(int)
    assert np.abs(np.asarray(fit(image, 40)) - expected).max() <= 1  # levels: rounding of another order of passes


def test_equal_names_sizes_and_times_are_not_equal_pixels(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, copy = make_folder(), tmp_path / "copy"
    shutil.copytree(folder, copy)
    for file in copy.rglob("*.png"):
        stat = file.stat()
        content = bytearray(file.read_bytes())
        Image.open(file).transpose(Image.Transpose.ROTATE_180).save(file)
        file.write_bytes(file.read_bytes()[: stat.st_size].ljust(stat.st_size, b"\0"))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert file.stat().st_size == len(content)
    first, second = (load(str(path), root=tmp_path / "root", image_size=8) for path in (folder, copy))
    assert first.fingerprint != second.fingerprint
    assert not first.train.images.equal(second.train.images)


def test_odd_layouts_are_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    """A test/ without labels beside val/; one class name composed here and decomposed there; odd entries.

    A link to itself, a pipe and a folder named as images are, which nobody waits for; a name that would steer the terminal.
    """
    folder = make_folder(("caf\u00e9", "tea"), test="val")
    (folder / "val/caf\u00e9").rename(folder / "val/cafe\u0301")
    (folder / "test").mkdir()
    shutil.copy(folder / "train/tea/0.png", folder / "test/unlabelled.png")
    (folder / "train/tea/loop.png").symlink_to("loop.png")
    (folder / "train/tea/folder.png").mkdir()
    os.mkfifo(folder / "train/tea/pipe.png")
    (folder / "train/tea/red\x1b[31m.png").touch()
    dataset = _load(folder, tmp_path)
    assert dataset.classes == ("caf\u00e9", "tea")
    assert (len(dataset.train), len(dataset.test)) == (6, 6)
    names = (*(f"train/tea/{name}.png: not a file" for name in ("folder", "loop", "pipe")), r"train/tea/red\x1b[31m.png: empty")
    assert dataset.skipped == names


def test_without_a_home_the_root_is_the_cache(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    assert len(_load(make_folder(), tmp_path).train) == 6


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: shutil.rmtree(f), "no folder"),
        (lambda f: shutil.rmtree(f / "train"), "no train/ in"),
        (lambda f: shutil.rmtree(f / "test"), "neither test/ nor val/ in"),
        (lambda f: _remove(f.glob("*/*")), "no class folders in"),
        (lambda f: _remove(f.glob("*/*/*")), "no images in"),
        (lambda f: _remove(f.glob("*/bee")), "only one class, 'ant'"),
        (lambda f: (f / "test/bee").rename(f / "test/wasp"), "class folders differ between train/ and test/ of"),
        (lambda f: [p.write_text("") for p in f.glob("*/*/*")], "no readable image of class 'ant' for train"),
        (lambda f: _remove(f.glob("test/bee/*")), "no readable image of class 'bee' for test"),
        (
            lambda f: [p.rename(p.with_suffix(".gif")) for p in f.glob("train/ant/*")],
            "; skipped were 3, first train/ant/0.gif: not a photograph",
        ),
    ],
)
def test_bad_layouts_are_one_line(
    spoil: Callable[[Path], object], message: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder()
    spoil(folder)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        _load(folder, tmp_path)
    assert message in str(caught.value)
    assert not list((tmp_path / "root").glob(".cache/*"))  # nothing half-made stays


def test_a_second_load_decodes_nothing_and_maps_the_same_images(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    first = _load(folder, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "decode", lambda content, size: pytest.fail("decoded again"))
        second = _load(folder, tmp_path)
    assert second.fingerprint == first.fingerprint
    assert second.train.images.equal(first.train.images)
    assert second.test.labels.equal(first.test.labels)
    # A changed file is another set, under another fingerprint.
    Image.new("RGB", (8, 8), "red").save(folder / "train/ant/0.png")
    os.utime(folder / "train/ant/0.png", ns=(1, 1))
    third = _load(folder, tmp_path)
    assert third.fingerprint != first.fingerprint
    assert third.train.images[0].float().mean() == 85


def test_a_damaged_cache_is_made_anew(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    first = _load(folder, tmp_path)
    (array,) = (tmp_path / "root").glob(".cache/*/images.npy")
    kept = first.train.images.clone()
    del first
    os.truncate(array, 200)
    assert _load(folder, tmp_path).train.images.equal(kept)


def test_the_fingerprint_is_of_the_content_not_of_the_place(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    first, second = _load(folder, tmp_path), _load(copy, tmp_path)
    assert first.fingerprint == second.fingerprint
    assert _load(folder, tmp_path, 9).fingerprint != first.fingerprint


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the user's cache is elsewhere")
def test_where_the_root_cannot_be_written_the_users_cache_is(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.write_text("a file where a folder should be")
    load(str(make_folder()), root=root, image_size=8)
    result = [path for path in tmp_path.rglob("images.npy") if "user-cache" in str(path) or "Caches" in str(path)]
    assert len(result) == 1


def test_subsets_are_balanced_repeatable_and_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(("a", "b", "c"), count=10)
    whole = _load(folder, tmp_path)

    first, again, second = (
        load(str(folder), root=tmp_path / "root", image_size=8, max_train=13, max_test=3, seed=seed) for seed in (0, 0, 1)
    )
    assert (first.train.labels.bincount().tolist(), first.test.labels.bincount().tolist()) == ([4, 4, 4], [1, 1, 1])
    assert first.train.images.equal(again.train.images)
    assert not first.train.images.equal(second.train.images)
    rows = {image.numpy().tobytes(): int(label) for image, label in zip(whole.train.images, whole.train.labels, strict=True)}
    for image, label in zip(first.train.images, first.train.labels, strict=True):
        assert rows.pop(image.numpy().tobytes()) == label  # each from the whole set, none twice
    assert first.name == "photos (12 + 3 images)"
    assert len({whole.fingerprint, first.fingerprint, second.fingerprint}) == 3
    with pytest.raises(ValueError, match="max_train must be at least 3, one image a class, got 2"):
        load(str(folder), root=tmp_path / "root", image_size=8, max_train=2)
