"""The C library: how it is built and kept, its threads and memory, and what runs without it."""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from augment import RECIPES, fused, ops, resolve
from augment import build as build_pipeline
from augment.fused import build, cpu
from augment.op import Op
from tests.augment.fused.cases import SUPPORTED, assert_same, draw, pictures


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide an empty cache folder, no library in memory, and a compiler that does not optimise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", ("-std=gnu11", "-O0", "-ffp-contract=off", "-fPIC", "-shared"))
    build.library.cache_clear()
    yield tmp_path / "augmark"
    build.library.cache_clear()


def check_brightness() -> None:
    images = pictures(3, 9, 14)
    plan = fused.plan([ops.Brightness(low=0.7, high=0.7), ops.HorizontalFlip(p=1.0)])
    assert_same(plan.apply(images, draw(plan, images)), (images / 255 * 0.7).flip(3))


@pytest.mark.parametrize("reason", ["no C compiler 'no-such-compiler'", "cc failed: cannot"])
def test_without_a_compiler_tensor_operations_run_after_one_warning(
    reason: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "cc"
    broken.parent.mkdir()
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo cannot >&2; exit 1; }\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken) if "failed" in reason else "no-such-compiler")
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        check_brightness()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_brightness()
        assert build_pipeline("flip", "fused").implementation == "tensors"


def test_a_library_is_kept_and_rebuilt_if_it_is_damaged(cache: Path) -> None:
    assert build.library() is not None
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    build.library.cache_clear()
    assert build.library() is not None
    assert path.stat().st_mtime_ns == written
    damaged = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()  # this process still uses the old one
    path.write_bytes(damaged)
    build.library.cache_clear()
    assert build.library() is not None
    (rebuilt,) = cache.iterdir()
    assert rebuilt.stat().st_size > len(damaged)
    check_brightness()


@pytest.mark.parametrize("changed", ["FLAGS", "header"])
def test_other_flags_and_records_make_another_library(changed: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.library()
    build.library.cache_clear()
    header = build.header()
    value = (*build.FLAGS, "-DANOTHER") if changed == "FLAGS" else lambda: header + "/* another */"
    monkeypatch.setattr(build, changed, value)
    build.library()
    assert len(list(cache.iterdir())) == 2


def test_a_folder_that_cannot_be_written_does_not_matter(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache.with_name("file")
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert build.library() is not None
    check_brightness()


def test_several_may_build_at_once(cache: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        libraries = list(pool.map(lambda _: build._load(), range(3)))
    assert all(hasattr(library, "augment_images") for library in libraries)
    assert all(path.suffix == ".so" for path in cache.iterdir())


def test_sources_are_all_that_the_compiler_reads() -> None:
    folder = Path(build.__file__).parent
    assert set(build.SOURCES) == {path for path in folder.iterdir() if path.suffix in {".c", ".h"}}


# ---- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the threshold, so that a second thread takes part in any batch."""
    monkeypatch.setattr(cpu, "VALUES_A_THREAD", 1)
    monkeypatch.setattr(cpu, "LIGHT_VALUES_A_THREAD", 1)


@pytest.mark.usefixtures("many_threads", "one_thread")
@pytest.mark.parametrize("recipe", ["crop_flip", "d2l", "mixup"])
def test_threads_do_not_matter(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts_used, share = [], cpu.share

    def watch(work: Callable[[range], None], count: int, parts: int) -> None:
        parts_used.append(parts)
        share(work, count, parts)

    monkeypatch.setattr(cpu, "share", watch)
    plan, images = fused.plan(resolve(recipe, 32)), pictures(7, 32, 32)
    params, results = draw(plan, images), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        with torch.inference_mode(count == 3):
            results.append(plan.apply(images, params))
    assert parts_used == [1, 2, 3]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_work_is_shared_out_whole_and_errors_come_back() -> None:
    done: list[int] = []
    workers: set[int] = set()

    def work(part: range) -> None:
        done.extend(part)
        workers.add(threading.get_ident())
        if 6 in part:
            raise ValueError("six")

    with pytest.raises(ValueError, match="six"):
        cpu.share(work, 7, 3)
    assert sorted(done) == list(range(7))
    assert len(workers) > 1


@pytest.mark.parametrize("failing", [0, 1])
def test_all_have_ended_when_an_error_comes_back(failing: int) -> None:
    """They write to memory of the caller, who lets go of it."""
    done: list[int] = []

    def work(part: range) -> None:
        if part.start == failing:
            raise KeyboardInterrupt if failing == 0 else ValueError
        time.sleep(0.05)
        done.append(part.start)

    with pytest.raises((KeyboardInterrupt, ValueError)):
        cpu.share(work, 3, 3)
    assert len(done) == 2


class _Augmented(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        plan, images = fused.plan(resolve("d2l", 32)), pictures(5, 32, 32)
        result, implementation = plan.run(images, draw(plan, images, index))
        assert implementation == "c"
        return result


@pytest.mark.usefixtures("many_threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")
def test_forked_loader_workers() -> None:
    data = _Augmented()
    expected = [data[index] for index in range(len(data))]  # the parent has used the library, and its threads
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for result, in_parent in zip(loader, expected, strict=True):
        assert torch.equal(result, in_parent)


# ---- memory -----------------------------------------------------------------------------------------------------------
# Beside its result a pipeline takes at most one float copy of the batch. The profiler sees all of PyTorch's own allocator; the
# C library's memory is not PyTorch's: room for a few images a thread, whatever the batch. Tensor operations take more.

DRAWN = 1024
"""Bytes that may be drawn for an image on the way: a few hundred numbers at most, of an AugMix or of ten tries of a window."""
TABLES = 2**14
"""And for what does not grow with the batch."""
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the largest sum of allocations less releases while ``work`` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def extra_copies(recipe: Sequence[Op], images: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> float:
    """Return the peak beyond the result and ``DRAWN``, in float copies of the batch, if ops resize it of its larger size."""
    pipeline, labels = build_pipeline(recipe, "fused", dtype=dtype, memory_format=layout), torch.arange(len(images)) % 10
    result = pipeline(images, labels)[0]  # tables are made, code is compiled
    peak = peak_bytes(lambda: pipeline(images, labels))
    assert peak >= result.nbytes, "the measure did not see the result"
    return (peak - result.nbytes - DRAWN * len(images) - TABLES) / (4 * max(images.numel(), result.numel()))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("subject", [*SUPPORTED, *RECIPES])
def test_at_most_one_copy_beside_the_result(subject: str) -> None:
    for source in (pictures(64, 32, 32), pictures(64, 32, 32, torch.float32)):
        for layout, dtype in zip(LAYOUTS, (torch.bfloat16, torch.float32), strict=True):
            for kept in LAYOUTS:
                used = extra_copies(resolve(subject, 32), source.contiguous(memory_format=layout), dtype, kept)
                assert used <= 1.0, (source.dtype, layout, dtype, kept)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("subject", ["augmix", "imagenet_eval", "GaussianBlur", "Perspective"])
def test_memory_of_large_images(subject: str) -> None:
    assert extra_copies(resolve(subject, 230), pictures(3, 230, 230), torch.float32, torch.contiguous_format) <= 1.0
