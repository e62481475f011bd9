"""A small data set for the jobs, and the line with which a command refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.data import Dataset, load

Refuse = Callable[[list[str]], str]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Jobs as small as the tests' gain nothing from a second thread."""


@pytest.fixture(scope="session")
def shapes() -> Dataset:
    """Return 100 + 10 drawn shapes of 32 pixels."""
    return load("synthetic", root=Path("nowhere"), max_train=100, max_test=10)


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Return a function that runs a command in an empty folder, and returns its one line on stderr; exit code 2, no run."""
    from bench.cli import main

    def run(arguments: list[str]) -> str:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        error = capsys.readouterr().err.strip()
        assert stopped.value.code == 2
        assert "\n" not in error
        assert not list(tmp_path.glob("runs/*"))
        return error

    return run
