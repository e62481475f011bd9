"""Child processes: kept from a terminal's signals, ended with all their descendants, and gone when this process is killed.

Imports no torch.
"""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

from training import interrupts

END_S = 30
"""Seconds that a process has after SIGTERM to store what it measured."""
SIGNAL_OF_PARENTS_DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
C_LIBRARY = ctypes.CDLL(None)


def end_with(parent: int) -> None:
    """Let the system kill this process once its parent is gone, on Linux: SIGKILL leaves a parent no time to end it."""
    if sys.platform == "linux":
        C_LIBRARY.prctl(SIGNAL_OF_PARENTS_DEATH, signal.SIGKILL)
        if os.getppid() != parent:  # gone already
            os.kill(os.getpid(), signal.SIGKILL)


def spawn(command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """Start a command; ``options`` are those of ``subprocess.Popen``."""
    with interrupts.shielded():
        return subprocess.Popen(command, preexec_fn=functools.partial(end_with, os.getpid()), **options)


def wait_for(command: Sequence[str], timeout: float | None = None, **options: Any) -> int:
    """Run a command and return its exit code; end it after a signal or a timeout, in seconds."""
    with ending(spawn(command, **options)) as process, contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout)
    return int(process.returncode)


def read_output(command: Sequence[str], timeout: float, **options: Any) -> tuple[int | None, str]:
    """Return the exit code of a command (None if it was ended after ``timeout`` seconds) and what it printed."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with ending(spawn(command, **{**streams, **options})) as process, contextlib.suppress(subprocess.TimeoutExpired):
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output
    return None, ""


@contextlib.contextmanager
def ending(process: "subprocess.Popen[Any]") -> Iterator["subprocess.Popen[Any]"]:
    """End a process and its descendants after the block; SIGTERM lets it store within ``END_S`` what it has."""
    try:
        yield process
    finally:
        with interrupts.shielded():  # a second Ctrl-C waits
            if process.poll() is None:
                descendants = psutil.Process(process.pid).children(recursive=True)
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=END_S)
                process.kill()
                for descendant in descendants:
                    with contextlib.suppress(psutil.Error):  # gone by itself
                        descendant.kill()
                process.wait()
