"""Pytest's options and collection: ``pytest`` runs the tests, ``pytest --benchmark-only`` measures and runs no test.

The repository's conftest loads this plugin; elsewhere: ``pytest -p bench.plugin --pyargs bench --benchmark-only``. Write
``--results=DIR`` and ``--data=DIR`` with "=", or pytest takes an existing folder for one with tests. Imports no torch.
"""

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from training.terminal import expand_user

ROOT = Path(__file__).parent.parent


T = TypeVar("T")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser(convert: Callable[[str], T], is_valid: Callable[[T], bool], words: str) -> Callable[[str], T]:
    """Return a function that reads an option's value; ``words`` say what is valid."""

    def parse(text: str) -> T:
        with contextlib.suppress(ValueError):
            if is_valid(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"give {words}; got {text!r}")

    return parse


_sizes = _parser(
    lambda text: [int(size) for size in _names(text)], lambda sizes: min(sizes) > 0, "whole numbers from 1 on, such as 32,256"
)
_count = _parser(int, lambda number: number > 0, "a whole number from 1 on")
_seconds = _parser(float, lambda seconds: 0 < seconds <= 24 * 3600, "seconds above 0 and up to a day, such as 0.2")
_share = _parser(float, lambda share: 0 < share < 1, "a share between 0 and 1, such as 0.05")


def _path(text: str) -> Path:
    return Path(_data(text))


def _data(text: str) -> str:
    try:
        return expand_user(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a benchmark session."""
    add = parser.getgroup("augmark", "augmentation benchmarks (with --benchmark-only)").addoption
    add("--device", action="extend", type=_names, metavar="NAMES", help="cpu, cuda, mps ... (default: cpu and the accelerator)")
    add("--backends", type=_names, metavar="NAMES", help="backends to measure (default: all; compiled ones on accelerators)")
    add("--ops", type=_names, metavar="NAMES", help="ops to measure, all or none (default: all, unless --recipes is given)")
    add("--recipes", type=_names, metavar="NAMES", help="recipes to measure, or all (default: all, unless --ops is given)")
    add("--batch-sizes", type=_sizes, metavar="SIZES", help="images per batch (default: 256; 16 for imagenet recipes)")
    add("--image-sizes", type=_sizes, metavar="SIZES", help="heights of the input in pixels (default: 32; imagenet 256)")
    add("--dtype", metavar="NAME", help="dtype of the result: float32 (default), float16, bfloat16, uint8")
    add("--grid", choices=("default", "full", "gpu"), help="full: more batch and image sizes; gpu: batch 1024, growth to 65536")
    add("--rounds", type=_count, metavar="N", help="rounds over the grid, each in its own order (default: 3)")
    add("--target", type=_share, metavar="X", help="end a case once its median is known to X, as 0.05 (default: all rounds)")
    add("--budget", type=_seconds, metavar="S", help="after so many seconds at most 6 rounds of a case (default: no limit)")
    add("--case-seconds", type=_seconds, metavar="S", help="seconds of samples per case and round (default: 0.1)")
    add("--data", type=_data, default="auto", metavar="NAME", help="auto, cifar10, synthetic or a folder (default: auto)")
    add("--data-root", type=_path, default=Path("data"), metavar="DIR", help="folder of data sets and cache (default: data)")
    add("--download", action="store_true", help="download CIFAR-10 (170 MB) if it is not under --data-root")
    add("--results", type=_path, metavar="DIR", help="folder of the run (default: runs/<version>--grid--<machine>--<device>)")
    add("--time-limit", type=_seconds, metavar="S", help="start no case after so many seconds (default: none)")
    add("--phase", default="", metavar="WORDS", help="words before the progress, such as 2/5 benchmarks (default: none)")
    add("--later", type=_seconds, default=0.0, metavar="S", help="seconds of later phases, for the time left (default: none)")
    add("--suite", metavar="WORD", help="word for the run in folder names (default: grid)")
    add("--resume", action="store_true", help="measure what the run in --results has not measured yet")


def pytest_configure(config: pytest.Config) -> None:
    """Replace pytest-benchmark's table."""
    # pytest-benchmark's table leads with times and has a row per round: one of images/s comes instead. --benchmark-verbose
    # brings it back.
    if config.getoption("benchmark_only") and not config.getoption("benchmark_verbose"):
        config.option.benchmark_quiet = True


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect either tests or benchmarks."""
    ignored = "tests" if config.getoption("benchmark_only") else "bench"
    return True if (ROOT / ignored) in (collection_path, *collection_path.parents) else None


def pytest_collection(session: pytest.Session) -> None:
    """Plan the benchmarks before they are collected."""
    if session.config.getoption("benchmark_only"):
        from bench.session import start_session  # imports torch, which plain tests may not need

        start_session(session.config)
