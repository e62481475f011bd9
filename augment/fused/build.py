"""Build of the C library for this machine's processor by the system's C compiler, once a machine.

The cache is ``augmark`` in the user's cache folder (``XDG_CACHE_HOME``). A library is named by the hash of what it depends on
and by its own checksum, and moved there whole, so that processes that compile at once do not see halves of each other's.
Structs, numbers and lists of names come from Python's records and tables: ``header``.
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
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from augment import distributions, policies
from augment.distributions import KINDS, DrawRecord
from augment.fused.kinds import CHANGES, JITTER, MOVES, POINTS, SAMPLERS
from augment.fused.passes import MoveRecord, Sizes, StepRecord
from augment.fused.tensors import LUMA, POINT_OPS

SOURCES = tuple(
    Path(__file__).with_name(name) for name in ("images.c", "draws.h", "pixels.h", "geometry.h", "tasks.h", "points.h")
)

# No fused multiply-add where tensor operations round twice; no errno and traps, which would keep loops scalar.
FLAGS = (
    "-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC", "-shared",
)  # fmt: skip
TUNINGS = (("-march=native",), ())
"""Flags to try in this order: not every compiler knows its own processor."""

SECONDS = 120
"""Time limit of a compiler."""

TYPES = ("bool", "int64", "float32")
"""Types of drawn numbers."""

PIXELS = ("uint8", "float32", "bfloat16", "float16")
"""Types of images."""


class CannotBuild(Exception):
    """No compiler, or a failure of it."""


# ---- records for C ----------------------------------------------------------------------------------------------------


C_TYPES: dict[Any, str] = {
    ctypes.c_int64: "int64_t", ctypes.c_int32: "int32_t", ctypes.c_double: "double", ctypes.c_void_p: "const void *",
}  # fmt: skip


@functools.cache
def structure(record: type) -> type[ctypes.Structure]:
    """Return the C struct of a NamedTuple of int, float and three floats."""
    types: dict[object, type] = {int: ctypes.c_int64, float: ctypes.c_double}
    fields = [(name, types.get(hint, ctypes.c_double * 3)) for name, hint in typing.get_type_hints(record).items()]
    return type(record.__name__, (ctypes.Structure,), {"_fields_": fields})


class Drawn(ctypes.Structure):
    """Drawn numbers of a batch."""

    _fields_ = (("values", ctypes.c_void_p), ("type", ctypes.c_int32))


class Batch(ctypes.Structure):
    """Images in memory."""

    _fields_ = (("values", ctypes.c_void_p), ("type", ctypes.c_int32), ("is_interleaved", ctypes.c_int32))


class Pass(ctypes.Structure):
    """A pass for images of one size."""

    _fields_ = (
        ("sizes", structure(Sizes)), ("move_count", ctypes.c_int64), ("step_count", ctypes.c_int64),
        ("moves", ctypes.POINTER(structure(MoveRecord))), ("steps", ctypes.POINTER(structure(StepRecord))),
    )  # fmt: skip


def _declare(name: str, kind: Any) -> str:
    """Return the declaration of a struct's field in C."""
    if issubclass(kind, ctypes.Array):
        return f"{C_TYPES[kind._type_]} {name}[{kind._length_}]"
    if issubclass(kind, ctypes._Pointer):
        return f"const {kind._type_.__name__} *{name}"
    return f"{C_TYPES.get(kind, kind.__name__)} {name}"


def header() -> str:
    """Return the generated header: structs of records, numbers of names, and lists of names for tables of functions."""
    tables: dict[str, Sequence[str]] = {
        "POINT": POINTS, "SAMPLER": SAMPLERS, "CHANGE": CHANGES, "MOVE": MOVES, "TYPE": TYPES, "PIXEL": PIXELS, "DRAW": KINDS,
    }  # fmt: skip
    functions = {"POINT": [name for name in POINTS if name in POINT_OPS and not POINT_OPS[name].is_local], "DRAW": KINDS}
    lines: list[str] = []
    for table, names in tables.items():
        lines += [f"#define {table}_{name.upper()} {number}" for number, name in enumerate(names)]
    for table, names in functions.items():
        lines.append(f"#define EACH_{table}(X) " + " ".join(f"X({table}_{name.upper()}, {name})" for name in names))
    lines += [f"#define LUMA_{name} {weight!r}f" for name, weight in zip(("RED", "GREEN", "BLUE"), LUMA, strict=True)]
    numbers = {name: getattr(distributions, name) for name in ("TRIES", "CHAIN", "GAMMA_TRIES", "SMALLEST")}
    numbers |= {"ARGUMENTS": policies.ARGUMENTS, "POINT_COUNT": len(POINTS), "JITTER_COUNT": len(JITTER)}
    lines += [f"#define {name} {number}" for name, number in numbers.items()]
    lines.append(f"static const int JITTER[] = {{{', '.join(f'POINT_{name.upper()}' for name in JITTER)}}};")
    structs: list[Any] = [*map(structure, (DrawRecord, Sizes, MoveRecord, StepRecord)), Drawn, Batch, Pass]
    for struct in structs:
        fields = "; ".join(_declare(*field) for field in struct._fields_)
        lines.append(f"typedef struct {{ {fields}; }} {struct.__name__};")
    return "\n".join(lines) + "\n"


# ---- the library ------------------------------------------------------------------------------------------------------


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the library; None, after one RuntimeWarning, if it cannot be built."""
    try:
        built = _load()
    except (CannotBuild, OSError) as error:
        warnings.warn(
            f"no native kernels ({error}): on this CPU the fused backend runs slower; install a C compiler (cc, gcc or clang)",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
        return None
    pointer, long, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    built.augment_images.argtypes = (pointer, short, pointer, pointer, long, long, long, short, pointer)
    built.augment_images.restype = ctypes.c_int
    built.draw_parameters.argtypes = (pointer, short, pointer, pointer, long)
    built.draw_parameters.restype = None
    return built


def _load() -> ctypes.CDLL:
    compiler = _compiler()
    key = _key(compiler)
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "augmark"
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"native-{key}-*.so"):
            if path.stem.endswith(_digest(path.read_bytes())):
                return ctypes.CDLL(str(path))
            path.unlink()  # damaged
        with tempfile.TemporaryDirectory(dir=folder) as build:
            built = _compile(compiler, Path(build))
            path = folder / f"native-{key}-{_digest(built.read_bytes())}.so"
            built.replace(path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError):  # no home, a full or a read-only disk, or one from which nothing may be run
        with tempfile.TemporaryDirectory() as build:
            return ctypes.CDLL(str(_compile(compiler, Path(build))))


def _compiler() -> list[str]:
    """Return the command of ``CC``, or of the first compiler on the path."""
    try:
        command = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise CannotBuild(f"CC is no command: {error}") from error
    for name, *options in [command] if command else [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(name)
        if path is not None:
            return [path, *options]
    raise CannotBuild(f"there is no C compiler {command[0]!r}" if command else "there is no C compiler")


def _key(compiler: Sequence[str]) -> str:
    """Return the cache key: hash of sources, flags, compiler and CPU."""
    version = _output([*compiler, "--version"])
    parts = [*(path.read_text() for path in SOURCES), header(), *FLAGS, *compiler, version, _processor()]
    return _digest("\n".join(parts).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _processor() -> str:
    """Describe the CPU that the compiler tunes for: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    described = {line for line in lines if line.split("\t")[0].strip() in {"model name", "flags", "Features", "CPU part"}}
    return "\n".join(sorted(described))


def _compile(compiler: Sequence[str], folder: Path) -> Path:
    """Compile the library in that folder."""
    (folder / "records.h").write_text(header())
    path = folder / "native.so"
    for tuning in TUNINGS:
        command = [*compiler, *FLAGS, *tuning, f"-I{folder}", str(SOURCES[0]), "-o", str(path), "-lm"]
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
