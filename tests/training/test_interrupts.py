"""Signals at the end of a command, in a process of its own."""

import signal
import subprocess
import sys
from pathlib import Path

ENDED = """
import time
from training import interrupts

interrupts.hold()
interrupts.receive()
interrupts.ignore()
print("ended", flush=True)
time.sleep(60)
"""


def test_after_its_end_a_command_ignores_the_terminal_and_nothing_else() -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDED], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ended\n"
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
