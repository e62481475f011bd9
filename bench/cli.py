"""The command line, ``augmark COMMAND``. Imports torch only once a command is parsed."""

import contextlib
import functools
import io
import itertools
import operator
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tyro

from bench.commands import COMMANDS, INTERRUPTED, SubjectOptions, rank
from bench.jobs.job import load_options
from training import interrupts
from training.config import FinetuneConfig, TrainConfig
from training.presets import PRESETS, parse_preset
from training.terminal import complete_help, expand_paths, open_console
from training.train import LEAVE_AFTER_S, describe, lost_contact

USER_ERROR = 2
BROKEN_PIPE = 141
"""Exit code of a process killed by SIGPIPE (128 + 13)."""
DESCRIPTION = "Where should image augmentation run, with which library, and what does it cost?"
PLACED = "workers: in loader workers; device: one batched call where the model is"
HELP: Mapping[str, Mapping[str, Any]] = {
    "train": {
        "augment_on": Annotated[Literal["workers", "device", "none"], tyro.conf.arg(help=f"{PLACED}; none: normalise only.")]
    },
    "sweep": {
        "recipe": tyro.conf.Suppress[str],
        "backend": tyro.conf.Suppress[str],
        "augment_on": Annotated[Literal["workers", "device"], tyro.conf.arg(help=f"{PLACED}.")],
    },
}
"""Options of nested settings that a command refuses, or whose values it refuses."""


def commands(arguments: Sequence[str]) -> Any:
    """Return all commands; those that train have the settings of the chosen preset as defaults, a resumed run has its own."""
    for kind in (*COMMANDS.values(), TrainConfig, FinetuneConfig):
        complete_help(kind, HELP.get(next(iter(arguments), ""), {}) if kind is TrainConfig else None)
    preset = parse_preset(arguments)
    defaults: dict[str, Any] = {name: COMMANDS[name](config=PRESETS[preset], preset=preset) for name in ("train", "sweep")}
    defaults |= stored_defaults(arguments)
    named = {name: {"default": defaults[name]} if name in defaults else {} for name in COMMANDS}
    annotated = (Annotated[kind, tyro.conf.subcommand(name, **named[name])] for name, kind in COMMANDS.items())
    return functools.reduce(operator.or_, annotated)


def stored_defaults(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options of the run that the arguments resume, by command; none if they resume none."""
    name, *words = [*arguments, ""]
    folders = [word.partition("=")[2] for word in words if word.startswith(("--results=", "--out="))]
    folders += [value for option, value in itertools.pairwise(words) if option in ("--results", "--out")]
    if "--resume" not in words or not folders or name not in COMMANDS:
        return {}
    stored = load_options(Path(folders[-1]).expanduser(), COMMANDS[name])
    return {} if stored is None else {name: stored}


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments name. A mistake ends with one line on stderr and exit code 2."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(commands(arguments), prog="augmark", description=DESCRIPTION, args=arguments)
    except SystemExit as end:
        if end.code == USER_ERROR:  # tyro draws a box: a title, the mistake, and advice after a rule or an empty line
            lines = [line.strip("│ ") for line in errors.getvalue().splitlines()][1:]
            blocks = itertools.groupby(lines, key=lambda line: bool(line.strip("─-╰╯ ")))
            first = next((list(block) for has_words, block in blocks if has_words), [])
            help_of = f"augmark {arguments[0]} --help" if arguments and arguments[0] in COMMANDS else "augmark --help"
            print(f"augmark: {' '.join(first).rstrip('.')}; see {help_of}", file=sys.stderr)
        raise


def check_lists(command: Any) -> None:
    """Raise ValueError for an option that names nothing where that is neither its default nor a choice."""
    for field in () if isinstance(command, SubjectOptions) else fields(command):
        if getattr(command, field.name) == () != field.default:
            if field.default is MISSING:  # a positional argument
                raise ValueError(f"no {field.name} are named: give at least one")
            option = field.name.replace("_", "-")
            raise ValueError(f"--{option} names nothing: give at least one, or leave it out")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    A user's mistake ends with one line on stderr and exit code 2, a signal with 128 and its number (Ctrl-C: 130), and a
    closed pipe (``| head``) silently.
    A warning is one line too.
    """
    warnings.formatwarning = lambda message, *about: f"augmark: {message}\n"
    try:
        try:
            _execute(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, as Python would do it at its end, and complain
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of the output
        sys.exit(BROKEN_PIPE)


def _execute(arguments: Sequence[str]) -> None:
    try:
        interrupts.receive()
        console = open_console()
        command = parse(arguments)
        check_lists(command)
        expand_paths(command).execute(console)
    except KeyboardInterrupt as error:
        if not hasattr(error, "__notes__"):
            print(f"augmark: {INTERRUPTED}", file=sys.stderr)
        sys.exit(128 + (error.args or (signal.SIGINT,))[0])
    except Exception as error:
        line = None if isinstance(error, msgspec.ValidationError) else describe(error)  # a record of ours, no user's mistake
        if line is None or (isinstance(error, BrokenPipeError) and _stdout_is_closed()):  # a fault needs its traceback
            raise
        # In one piece, lest ranks write into each other's lines.
        sys.stderr.write(f"augmark: {line}\n" if rank() == "0" else f"augmark on rank {rank()}: {line}\n")
        sys.stderr.flush()
        if lost_contact(error):
            time.sleep(LEAVE_AFTER_S)
        sys.exit(USER_ERROR)


def _stdout_is_closed() -> bool:
    """Return whether the standard output is a pipe without a reader: another pipe may have broken, such as a worker's."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


if __name__ == "__main__":
    main()
