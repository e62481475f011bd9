"""``augmark decode``: how fast JPEG files become pixels, by decoder, image size and number of processes.

The photographs of a set are resized and encoded again at each size, so that all decoders get the same bytes from memory: disks
are not measured. All cells take turns in rounds, each in its own shuffled order, the first to warm up.
"""

import hashlib
import importlib.util
import io
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from bench.grid.cases import one_line
from bench.records.runs import append_training, load_run, run_folder, write_json

QUALITY = 90
"""Of the JPEG files, with PIL's usual chroma at half the resolution."""
DRAFT_SIDE = 224
"""Shorter side that the draft decoder is asked for: what a network is usually given."""


def _pil(content: bytes) -> Any:
    import numpy as np

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _pil_draft(content: bytes) -> Any:
    import numpy as np

    # A JPEG decoder can skip frequencies and so give 1/2, 1/4 or 1/8 of the size: the smallest that is still large enough.
    with Image.open(io.BytesIO(content)) as image:
        shorter = min(image.size)
        width, height = (max(1, side * min(DRAFT_SIDE, shorter) // shorter) for side in image.size)
        image.draft("RGB", (width, height))
        return np.asarray(image.convert("RGB"))


def _torchvision(content: bytes) -> Any:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(encoded, mode=ImageReadMode.RGB)


def _torchcodec(content: bytes) -> Any:
    from torchcodec.decoders import decode_jpeg

    return decode_jpeg(content)


def _torchcodec_batch(contents: Sequence[bytes]) -> Any:
    from torchcodec.decoders import decode_jpeg

    return decode_jpeg(list(contents), device="cuda")


def _nvjpeg_batch(contents: Sequence[bytes]) -> Any:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device="cuda")


def _one_by_one(decode: Callable[[bytes], Any], contents: Sequence[bytes]) -> None:
    for content in contents:
        decode(content)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A way to decode: ``run`` takes the bytes of several files. Those on an accelerator run in one process."""

    run: Callable[[Sequence[bytes]], Any]
    about: str
    on_cuda: bool = False
    needs: str | None = None
    """A package that is not installed with this project."""

    def missing(self) -> str | None:
        """Why it cannot run here; None where it can."""
        import torch

        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed (pip install 'augmark[{self.needs}]')"
        return "this machine has no CUDA device" if self.on_cuda and not torch.cuda.is_available() else None


DECODERS: Mapping[str, Decoder] = {
    "pil": Decoder(run=partial(_one_by_one, _pil), about="Pillow"),
    "pil_draft": Decoder(
        run=partial(_one_by_one, _pil_draft),
        about=f"Pillow, scaled while decoding to the smallest half, quarter or eighth of at least {DRAFT_SIDE} pixels",
    ),
    "torchvision": Decoder(run=partial(_one_by_one, _torchvision), about="torchvision.io.decode_jpeg"),
    "torchcodec": Decoder(
        run=partial(_one_by_one, _torchcodec), about="torchcodec.decoders.decode_jpeg", needs="torchcodec"
    ),
    "nvjpeg": Decoder(run=_nvjpeg_batch, about="torchvision.io.decode_jpeg on CUDA, files of a batch together", on_cuda=True),
    "torchcodec_cuda": Decoder(
        run=_torchcodec_batch, about="torchcodec.decoders.decode_jpeg on CUDA, files of a batch together", on_cuda=True,
        needs="torchcodec",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What ``augmark decode`` was asked for."""

    data: str
    """An image folder with train/<class>/* and val/<class>/* (or test/<class>/*)."""
    sizes: tuple[int, ...] = (256, 512, 1024)
    """Shorter sides that the photographs are brought to; those that were smaller are enlarged."""
    workers: tuple[int, ...] | None = None
    """Numbers of processes (default: 1, 2, 4, ... up to the cores)."""
    files: int = 32
    """Photographs, evenly spaced over the training set."""
    rounds: int = 3
    """Measurements of each cell, after one to warm up."""
    seconds: float = 0.3
    """About how long one measurement takes."""
    out: Path | None = None
    """Folder for the records and the report, which may hold others already (default: results/<date>-<machine>-decode)."""


def decode(options: DecodeOptions, console: Console) -> Path:
    """Measure what the options ask for, add it to the run's folder, which is returned, and write the report.

    Raises ValueError for photographs, numbers or sizes that cannot be used, OSError where nothing can be written.
    """
    from bench.environment import environment, usable_cores
    from bench.report import write_report
    from training.folders import training_files
    from training.photofeed import photo_folder

    if min(options.files, options.rounds, *options.sizes, *(options.workers or (1,))) < 1 or not options.seconds > 0:
        raise ValueError("files, rounds, sizes, workers and seconds must be positive")
    cores = usable_cores()
    workers = options.workers or tuple(sorted({*(2**i for i in range(10) if 2**i <= cores), cores}))
    chosen = choose(training_files(photo_folder(options.data)), options.files, console)
    dataset = {"dataset": photo_folder(options.data).resolve().name, "fingerprint": _fingerprint(chosen)}
    folder = options.out if options.out is not None else run_folder(None, "decode")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "environment.json").exists():
        known = {"name": dataset["dataset"], "fingerprint": dataset["fingerprint"], "fallback": None}
        write_json(folder / "environment.json", environment(known))
    measure_decoding(
        list(chosen.values()), folder, console, sizes=options.sizes, workers=workers, rounds=options.rounds,
        seconds=options.seconds, dataset=dataset,
    )  # fmt: skip
    console.print(f"report: {write_report(load_run(folder))}")
    return folder


def choose(files: Sequence[Path], count: int, console: Console) -> dict[Path, bytes]:
    """The content of ``count`` photographs, evenly spaced over the files; one that cannot be decoded gives way to a neighbour.

    No other file is opened. Raises ValueError where there is none.
    """
    from training.photos import DECODE_ERRORS, upright

    step, chosen = max(1, len(files) // count), dict[Path, bytes]()
    for file in (file for offset in range(step) for file in files[offset::step]):
        try:
            content = file.read_bytes()
            upright(content)
        except DECODE_ERRORS as error:
            console.print(f"{file.name}: left out, {one_line(error)}", highlight=False, markup=False)
            continue
        chosen[file] = content
        if len(chosen) == count:
            break
    if not chosen:
        raise ValueError(f"none of {len(files)} photographs for training can be decoded")
    return chosen


def _fingerprint(chosen: Mapping[Path, bytes]) -> str:
    """Of what is measured: the chosen files' classes, names and bytes."""
    from training.dataset import digest

    return digest([(*file.parts[-2:], hashlib.sha256(content).hexdigest()) for file, content in chosen.items()])


@dataclass(frozen=True, kw_only=True)
class _Cell:
    decoder: str
    size: int
    workers: int


def measure_decoding(
    photographs: Sequence[bytes], folder: Path, console: Console, *, sizes: Sequence[int], workers: Sequence[int], rounds: int,
    seconds: float, dataset: Mapping[str, Any],
) -> None:  # fmt: skip
    """Measure every decoder at every shorter side and number of processes, and add the records to the folder.

    A record a cell and round has ``images_per_s``, ``mb_per_s`` (10**6 bytes of JPEG) and ``megapixels_per_s`` (of the whole
    image, whatever was decoded of it). Decoders that cannot run here leave a record with the reason.
    ``dataset`` is added to each.
    """
    contents = {size: [encoded(content, size) for content in photographs] for size in sizes}
    able = []
    for name, decoder in DECODERS.items():
        reason = decoder.missing()
        if reason is None:
            able.append(name)
        else:
            append_training(
                folder, {"kind": "decoding", "status": "unsupported", "decoder": name, "reason": reason} | dict(dataset)
            )
            console.print(f"{name}: left out, {reason}", highlight=False, markup=False)
    cells = [
        _Cell(decoder=name, size=size, workers=count)
        for name in able
        for size in sizes
        for count in ([1] if DECODERS[name].on_cuda else workers)
    ]
    with _pool(max(workers), contents) as pool:
        for cell, number, record in _rounds(cells, contents, pool, rounds, seconds):
            append_training(folder, {"kind": "decoding", "round": number} | record | dict(dataset))
            told = f"{record['images_per_s']:,.0f} images/s" if record["status"] == "ok" else f"failed ({record['reason']})"
            console.print(f"round {number}/{rounds}  {cell.decoder} {cell.size} x{cell.workers}: {told}", highlight=False)


def encoded(content: bytes, size: int) -> bytes:
    """A photograph whose shorter side is ``size`` pixels, as JPEG."""
    from training.photos import upright

    image = upright(content)
    shorter = min(image.size)
    width, height = (max(1, round(side * size / shorter)) for side in image.size)
    written = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


def _rounds(
    cells: Sequence[_Cell], contents: Mapping[int, Sequence[bytes]], pool: ProcessPoolExecutor, rounds: int, seconds: float
) -> Iterator[tuple[_Cell, int, dict[str, Any]]]:
    speeds: dict[_Cell, float] = {}
    pixels = {size: sum(_pixels(content) for content in some) / len(some) for size, some in contents.items()}
    weight = {size: sum(map(len, some)) / len(some) for size, some in contents.items()}
    for number in range(rounds + 1):
        for cell in random.Random(number).sample(cells, len(cells)):
            identity = {
                "decoder": cell.decoder, "image_size": cell.size, "num_workers": cell.workers, "quality": QUALITY,
                "device": "cuda" if DECODERS[cell.decoder].on_cuda else "cpu",
            }  # fmt: skip
            if number > 0 and cell not in speeds:
                continue  # it failed in the first round
            # About the same time for all: as many passes over the files as the last speed promises.
            times = max(1, round(seconds * speeds.get(cell, 0.0) / cell.workers / len(contents[cell.size])))
            try:
                speeds[cell] = speed = _images_per_s(cell, contents, pool, times)
            except Exception as error:  # whatever a library raises is the result of this cell
                speeds.pop(cell, None)
                yield cell, number, identity | {"status": "failed", "reason": f"{type(error).__name__}: {one_line(error)}"}
                continue
            if number > 0:
                yield (
                    cell,
                    number,
                    identity
                    | {
                        "status": "ok",
                        "images_per_s": speed,
                        "mb_per_s": speed * weight[cell.size] / 1e6,
                        "megapixels_per_s": speed * pixels[cell.size] / 1e6,
                    },
                )


def _images_per_s(cell: _Cell, contents: Mapping[int, Sequence[bytes]], pool: ProcessPoolExecutor, times: int) -> float:
    import torch

    images = len(contents[cell.size]) * times
    start = time.perf_counter()
    if DECODERS[cell.decoder].on_cuda:
        for _ in range(times):
            DECODERS[cell.decoder].run(contents[cell.size])
        torch.cuda.synchronize()
        return images / (time.perf_counter() - start)
    for done in [pool.submit(_work, cell.decoder, cell.size, times) for _ in range(cell.workers)]:
        done.result()
    return images * cell.workers / (time.perf_counter() - start)


def _pixels(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        return image.width * image.height


# ---- in the processes of the pool -------------------------------------------------------------------------------------

_contents: dict[int, Sequence[bytes]] = {}


def _pool(processes: int, contents: Mapping[int, Sequence[bytes]]) -> ProcessPoolExecutor:
    """Processes that are started as loader workers are, all of them at once: before anything here touches CUDA."""
    pool = ProcessPoolExecutor(processes, initializer=_start, initargs=(dict(contents),))
    for started in [pool.submit(_ready) for _ in range(processes)]:
        started.result()
    return pool


def _ready() -> None:
    """Nothing to do: who answers has started."""


def _start(contents: dict[int, Sequence[bytes]]) -> None:
    import torch

    torch.set_num_threads(1)  # as in loader workers
    warnings.simplefilter("ignore")  # torchvision's decoders are deprecated in favour of torchcodec's
    _contents.update(contents)


def _work(decoder: str, size: int, times: int) -> None:
    """Decode all files of a size, so many times."""
    for _ in range(times):
        DECODERS[decoder].run(_contents[size])
