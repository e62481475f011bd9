"""Signals that end a command: it keeps what it has, says so in a line, and leaves no process behind.

Ctrl-C and the end of a terminal reach every process of a group at once. They are kept from all but the leading one, which ends
the others: raised in the middle of an import or a destructor, they would print a traceback or be lost. No torch here.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})
"""Signals that a terminal sends to a whole group."""
_held: set[int] | None = None


def hold() -> None:
    """Let signals of the terminal wait until ``receive``: before that, nothing could be said or kept."""
    global _held
    _held = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)}


def receive() -> None:
    """Raise KeyboardInterrupt for a signal that ends a command, also for one that waited since ``hold``; no-op without it."""
    if _held is not None:
        for number in (signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one
                signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_SETMASK, _held)


def ignore() -> None:
    """Ignore signals of the terminal: the command has ended, and Python's own end would print a traceback."""
    for number in TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:  # nobody reads what is printed, and printing fails
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and stream.isatty():
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Keep signals of the terminal from processes that start in the block; this process has to end them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
