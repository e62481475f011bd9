"""Shared code of the commands: help, paths that mean the same everywhere, a console that prints names verbatim. No torch."""

import dataclasses
import functools
import io
import operator
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro
from rich.console import Console

T = TypeVar("T")
DEFAULT = tyro.conf.arg(help_behavior_hint=lambda label: "" if label == "None" else f"(default: {label})")
"""Help of an option that may be None, whose description says what is done then."""


@functools.cache
def written_hints(options: Any) -> Mapping[str, Any]:
    """Return the annotations of options as they were written."""
    return get_type_hints(options, include_extras=True)


def complete_help(options: type[Any], changed: Mapping[str, Any] | None = None) -> None:
    """Leave "None" out of the help of a dataclass; for settings of presets, which None may reset, the default "None" alone.

    ``changed`` are the settings' annotations for this command.
    """
    hints: dict[str, Any] = dict(written_hints(options))  # type: ignore[arg-type]
    for name in (field.name for field in dataclasses.fields(options) if field.default is None):
        hint = operator.getitem(Annotated, (hints[name], DEFAULT))
        hints[name] = hint if changed is not None else operator.getitem(tyro.conf.DisallowNone, hint)
    options.__annotations__.update(hints | dict(changed or {}))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error that rich is handling, not its exit code 1, which says that something failed."""
        raise


def open_console() -> Console:
    """Return a console that prints what it gets: no markup or emoji in names, no path broken in two.

    The standard streams escape characters that they cannot encode (in an ASCII locale, or of a name that is no UTF-8).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return _Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(name: str) -> str:
    """Return a file name with those bytes escaped that are no UTF-8, which records refuse, or that steer a terminal."""
    name = name.encode("utf-8", "backslashreplace").decode()
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) == "Cc" else char for char in name)


def expand_user(path: str) -> str:
    """Return a path with ``~`` replaced. Raises ValueError where there is no such home."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:
        raise ValueError(f"cannot resolve {path} ({error}): give the whole path") from None


def expand_paths(options: T) -> T:
    """Return options with ``~`` replaced in all paths. Raises ValueError."""
    return map_paths(options, expand_user)


def map_paths(options: T, change: Callable[[str], str]) -> T:
    """Return options with all paths changed, those of data sets and weights among them."""
    assert dataclasses.is_dataclass(options)

    def convert(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return map_paths(value, change)
        if isinstance(value, tuple):
            return tuple(convert(name, item) for item in value)
        if isinstance(value, Path):
            return Path(change(str(value)))
        return change(value) if name in ("data", "init") else value

    values = {field.name: convert(field.name, getattr(options, field.name)) for field in dataclasses.fields(options)}
    return dataclasses.replace(options, **values)  # type: ignore[type-var]
