"""Compiles ``native.c`` for this machine's processor with the system's C compiler, once, and keeps the library.

The cache is ``augmark`` in the user's cache folder (``XDG_CACHE_HOME``); a library is named by what it was made from and by
its own checksum, and moved there whole, so that processes which compile at once do not see halves of each other's.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from augment import draws, kernels, passes, policies

SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in ("native.c", "native_draws.h", "native_values.h", "native_places.h", "native_pixels.h", "native_tasks.h")
)

# No fused multiply-add where tensor kernels round twice; nothing is done with errno and traps, which would keep loops scalar.
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
TUNINGS = (("-march=native",), ())
"""Tried in this order: not every compiler knows its own processor."""

SECONDS = 120
"""How long a compiler may take."""

TYPES = ("bool", "int64", "float32")
"""Of what was drawn."""

PIXELS = ("uint8", "float32", "bfloat16", "float16")
"""Types of images."""


class CannotBuild(Exception):
    """There is no compiler, or it failed; the text says which."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library; None, after one RuntimeWarning, where it cannot be made."""
    try:
        made = _made()
    except (CannotBuild, OSError) as error:
        warnings.warn(
            f"no native kernels ({error}): on this CPU the fused backend runs slower; install a C compiler (cc, gcc or clang)",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
        return None
    pointer, long, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    made.augment_images.argtypes = (pointer, short, pointer, pointer, long, long, long, short, pointer)
    made.augment_images.restype = ctypes.c_int
    made.draw_parameters.argtypes = (pointer, short, short, pointer, pointer, long)
    made.draw_parameters.restype = None
    return made


def _made() -> ctypes.CDLL:
    compiler = _compiler()
    key = _key(compiler)
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "augmark"
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"native-{key}-*.so"):
            if path.stem.endswith(_digest(path.read_bytes())):
                return ctypes.CDLL(str(path))
            path.unlink()  # damaged
        with tempfile.TemporaryDirectory(dir=folder) as room:
            built = _compile(compiler, Path(room))
            path = folder / f"native-{key}-{_digest(built.read_bytes())}.so"
            built.replace(path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError):  # no home, a full or a read-only disk, or one from which nothing may be run
        with tempfile.TemporaryDirectory() as room:
            return ctypes.CDLL(str(_compile(compiler, Path(room))))


def _compiler() -> list[str]:
    """The command of ``CC``, or the first compiler found."""
    try:
        asked = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise CannotBuild(f"CC is no command: {error}") from error
    for command in [asked] if asked else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is not None:
            return [path, *command[1:]]
    raise CannotBuild(f"there is no C compiler {asked[0]!r}" if asked else "there is no C compiler")


def _definitions() -> list[str]:
    """The numbers of Python's tables as the compiler's definitions."""
    tables: dict[str, Sequence[str]] = {
        "WAY": passes.WAYS, "SAMPLER": passes.SAMPLERS, "DRAW": passes.DRAWS, "MOVE": passes.MOVES, "TYPE": TYPES,
        "PIXEL": PIXELS, "KIND": draws.KINDS,
    }  # fmt: skip
    numbers = {f"{table}_{name.upper()}": str(i) for table, names in tables.items() for i, name in enumerate(names)}
    numbers |= {f"LUMA_{name}": f"{weight!r}f" for name, weight in zip(("RED", "GREEN", "BLUE"), kernels.LUMA, strict=True)}
    numbers |= {"TRIES": str(draws.TRIES), "CONSTANTS": str(draws.CONSTANTS), "ARGUMENTS": str(policies.ARGUMENTS)}
    numbers["CHAIN"] = str(passes.CHAIN)
    return [f"-D{name}={number}" for name, number in numbers.items()]


def _key(compiler: Sequence[str]) -> str:
    """Of all that a library depends on."""
    version = _output([*compiler, "--version"])
    made_from = [*(path.read_text() for path in SOURCES), *FLAGS, *_definitions(), *compiler, version, _processor()]
    return _digest("\n".join(made_from).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _processor() -> str:
    """What the compiler tunes for: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = {line for line in lines if line.split("\t")[0].strip() in {"model name", "flags", "Features", "CPU part"}}
    return "\n".join(sorted(told))


def _compile(compiler: Sequence[str], folder: Path) -> Path:
    """The library in that folder."""
    path = folder / "native.so"
    for tuning in TUNINGS:
        command = [*compiler, *FLAGS, *tuning, *_definitions(), str(SOURCES[0]), "-o", str(path), "-lm"]
        try:
            _output(command)
            return path
        except CannotBuild:
            if tuning is TUNINGS[-1]:
                raise
    raise AssertionError("no tuning was tried")


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in lines if "error" in line), lines[0])
        raise CannotBuild(f"{Path(command[0]).name} failed: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{Path(command[0]).name} failed: {error}") from error
