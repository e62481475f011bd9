"""``augmark decode``: speed of turning JPEG files into pixels, by decoder, image size and number of processes.

The photographs of a set are resized and encoded again at each size, so that all decoders get the same bytes from memory: disks
are not measured. All cases take turns in rounds, each in its own shuffled order, after a call to warm up.
"""

import contextlib
import hashlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from bench.jobs.job import Job, JobOptions, Report, run_job
from bench.records import Decoding, one_line
from bench.runner import Measure

QUALITY = 90
"""Quality of the JPEG files, with PIL's usual chroma at half the resolution."""
DRAFT_SIDE = 224
"""Shorter side that the draft decoder is asked for: the usual input of a network."""


def decode_pil(content: bytes) -> Any:
    """Decode with Pillow."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def decode_pil_draft(content: bytes) -> Any:
    """Decode with Pillow at reduced size."""
    import numpy as np
    from PIL import Image

    # A JPEG decoder can skip frequencies and so give 1/2, 1/4 or 1/8 of the size: the smallest that is still large enough.
    with Image.open(io.BytesIO(content)) as image:
        shorter = min(image.size)
        width, height = (max(1, side * min(DRAFT_SIDE, shorter) // shorter) for side in image.size)
        image.draft("RGB", (width, height))
        return np.asarray(image.convert("RGB"))


def decode_torchvision(content: bytes) -> Any:
    """Decode with torchvision."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)


def decode_torchcodec(content: bytes) -> Any:
    """Decode with torchcodec."""
    from torchcodec.decoders import decode_jpeg

    return decode_jpeg(content)


def _torchcodec_cuda(contents: Sequence[bytes]) -> Any:
    from torchcodec.decoders import decode_jpeg

    return decode_jpeg(list(contents), device="cuda")


def _nvjpeg(contents: Sequence[bytes]) -> Any:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device="cuda")


def _loop(decode: Callable[[bytes], Any], contents: Sequence[bytes]) -> None:
    for content in contents:
        decode(content)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A way to decode: ``run`` takes the bytes of several files. Decoders on an accelerator run in one process."""

    run: Callable[[Sequence[bytes]], Any]
    on_cuda: bool = False
    extra: str | None = None
    """Package, and extra of this project, that brings it."""

    def missing(self) -> str | None:
        """Return why the decoder cannot run here, or None."""
        import torch

        if self.extra is not None and importlib.util.find_spec(self.extra) is None:
            return f"{self.extra} is not installed (pip install -e '.[{self.extra}]')"
        return "this machine has no CUDA device" if self.on_cuda and not torch.cuda.is_available() else None


DECODERS: Mapping[str, Decoder] = {
    "pil": Decoder(run=partial(_loop, decode_pil)),
    "pil_draft": Decoder(run=partial(_loop, decode_pil_draft)),
    "torchvision": Decoder(run=partial(_loop, decode_torchvision)),
    "torchcodec": Decoder(run=partial(_loop, decode_torchcodec), extra="torchcodec"),
    "nvjpeg": Decoder(run=_nvjpeg, on_cuda=True),
    "torchcodec_cuda": Decoder(run=_torchcodec_cuda, on_cuda=True, extra="torchcodec"),
}

JPEG_SIDE = 65_500
"""Longest side of a file that libjpeg writes."""
MOST_SIDE = 16_384
"""Longest shorter side, so that photographs may be almost four times as long as wide."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(JobOptions):
    """Options of ``augmark decode``."""

    data: str
    """An image folder with train/<class>/* and val/<class>/* (or test/<class>/*)."""
    sizes: tuple[int, ...] = (256, 512, 1024)
    """Shorter sides that the photographs are resized to; smaller ones are enlarged."""
    workers: tuple[int, ...] | None = None
    """Numbers of processes (default: 1, 2, 4, ... up to the cores)."""
    files: int = 32
    """Photographs, evenly spaced over the training set."""
    rounds: int = 3
    """Measurements of each case."""
    seconds: float = 0.3
    """Approximate duration of one measurement."""


def decode(options: DecodeOptions, console: Console, report: Report) -> Path:
    """Measure what the options ask for and write the report. Returns the run folder.

    Raises ValueError for photographs, numbers or sizes that cannot be used, OSError where nothing can be written.
    """
    from bench.environment import usable_cores
    from training.sources.folders import photo_folder, training_files
    from training.terminal import printable

    if min(options.files, options.rounds, *options.sizes, *(options.workers or (1,))) < 1 or not options.seconds > 0:
        raise ValueError("files, rounds, sizes, workers and seconds must be positive")
    if max(options.sizes) > MOST_SIDE:
        raise ValueError(f"sizes must lie between 1 and {MOST_SIDE:,}, got {max(options.sizes)}")
    cores = usable_cores()
    workers = options.workers or tuple(sorted({*(2**i for i in range(10) if 2**i <= cores), cores}))
    folder = photo_folder(options.data)
    contents = choose(training_files(folder), options.files, console)
    dataset = {"name": printable(folder.resolve().name), "fingerprint": fingerprint(contents), "fallback": None}
    job = decode_job(
        list(contents.values()), sizes=options.sizes, workers=workers, rounds=options.rounds, seconds=options.seconds,
        dataset=dataset,
    )  # fmt: skip
    return run_job(job, options, console, report)


def choose(files: Sequence[Path], count: int, console: Console) -> dict[Path, bytes]:
    """Read ``count`` photographs, evenly spaced over the files; an undecodable one is replaced by a neighbour.

    No other file is opened. Raises ValueError if none can be decoded.
    """
    from PIL import Image

    from training.sources.decode import DECODE_ERRORS, upright

    step, contents = max(1, len(files) // count), dict[Path, bytes]()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the line below names the file
    for file in (file for offset in range(step) for file in files[offset::step]):
        try:
            content = file.read_bytes()
            upright(content)
        except DECODE_ERRORS as error:
            console.print(f"{file.name}: left out, {one_line(error)}", highlight=False, markup=False)
            continue
        contents[file] = content
        if len(contents) == count:
            break
    if not contents:
        raise ValueError(f"none of {len(files)} photographs for training can be decoded")
    return contents


def fingerprint(contents: Mapping[Path, bytes]) -> str:
    """Return a digest of the classes, names and bytes of the files."""
    from training.sources.dataset import digest

    return digest([(*file.parts[-2:], hashlib.sha256(content).hexdigest()) for file, content in contents.items()])


def encode(content: bytes, size: int) -> bytes:
    """Return a photograph whose shorter side is ``size`` pixels, as JPEG; of a long strip, its centre."""
    from PIL import Image, ImageOps

    from training.sources.decode import MAX_RATIO, upright

    image = upright(content)
    shorter = min(image.size)
    longer = min(MAX_RATIO, JPEG_SIDE // size) * shorter
    image = ImageOps.fit(image, (min(image.width, longer), min(image.height, longer)), method=Image.Resampling.NEAREST)
    width, height = (max(1, round(side * size / shorter)) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def decode_job(
    photographs: Sequence[bytes], *, sizes: Sequence[int], workers: Sequence[int], rounds: int, seconds: float,
    dataset: Mapping[str, Any],
) -> Job:  # fmt: skip
    """Return the job of every decoder at every shorter side and number of processes.

    A record has ``images_per_s``, ``mb_per_s`` (10**6 bytes of JPEG) and ``megapixels_per_s`` (of the whole image, whatever
    part of it was decoded).
    """
    cases = [
        Decoding(
            status="unsupported" if (reason := decoder.missing()) else "not_run", reason=reason, decoder=name, image_size=size,
            num_workers=count, quality=QUALITY, device="cuda" if decoder.on_cuda else "cpu", dataset=dataset["name"],
            fingerprint=dataset["fingerprint"],
        )
        for name, decoder in DECODERS.items()
        for size in sizes
        for count in ([1] if decoder.on_cuda else workers)
    ]  # fmt: skip

    @contextlib.contextmanager
    def opened(folder: Path) -> Iterator[Measure]:
        contents = {size: [encode(content, size) for content in photographs] for size in sizes}
        speeds: dict[tuple[Any, ...], float] = {}
        with _pool(max(workers), contents) as pool:

            def measure(case: Decoding) -> Decoding:
                assert case.image_size is not None
                files = contents[case.image_size]
                if case.case_key not in speeds:
                    speeds[case.case_key] = _images_per_s(case, files, pool, 1)  # warms up, and says how long a pass takes
                # About the same time for all: as many passes over the files as the last speed promises.
                passes = max(1, round(seconds * speeds[case.case_key] / case.num_workers / len(files)))
                speed = speeds[case.case_key] = _images_per_s(case, files, pool, passes)
                return msgspec.structs.replace(
                    case, status="ok", images_per_s=speed, mb_per_s=speed * sum(map(len, files)) / len(files) / 1e6,
                    megapixels_per_s=speed * sum(map(_pixels, files)) / len(files) / 1e6,
                )  # fmt: skip

            yield measure

    return Job(
        name="decode", suite="decode", device="cpu", cases=tuple(cases), dataset=dataset, open=opened, rounds=rounds
    )  # fmt: skip


def _images_per_s(case: Decoding, files: Sequence[bytes], pool: ProcessPoolExecutor, passes: int) -> float:
    import torch

    assert case.decoder is not None
    images = len(files) * passes
    start = time.perf_counter()
    if DECODERS[case.decoder].on_cuda:
        for _ in range(passes):
            DECODERS[case.decoder].run(files)
        torch.cuda.synchronize()
        return images / (time.perf_counter() - start)
    for worker in [pool.submit(_decode_all, case.decoder, case.image_size or 0, passes) for _ in range(case.num_workers)]:
        worker.result()
    return images * case.num_workers / (time.perf_counter() - start)


def _pixels(content: bytes) -> int:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return image.width * image.height


# ---- in the processes of the pool -------------------------------------------------------------------------------------

_contents: dict[int, Sequence[bytes]] = {}


def _pool(processes: int, contents: Mapping[int, Sequence[bytes]]) -> ProcessPoolExecutor:
    """Start processes as loader workers are started, all at once: before anything here touches CUDA."""
    pool = ProcessPoolExecutor(processes, initializer=_initialise, initargs=(dict(contents),))
    for process in [pool.submit(_ready) for _ in range(processes)]:
        process.result()
    return pool


def _ready() -> None:
    """No-op; returns once the worker process is up."""


def _initialise(contents: dict[int, Sequence[bytes]]) -> None:
    import torch

    torch.set_num_threads(1)  # as in loader workers
    warnings.simplefilter("ignore")  # torchvision's decoders are deprecated in favour of torchcodec's
    _contents.update(contents)


def _decode_all(decoder: str, size: int, passes: int) -> None:
    """Decode all files of a size, ``passes`` times."""
    for _ in range(passes):
        DECODERS[decoder].run(_contents[size])
