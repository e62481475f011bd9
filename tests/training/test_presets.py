"""Presets are data that pass the checks, and the command line overrides single fields of them."""

from pathlib import Path
from typing import Any, get_args

import pytest
import tyro

from bench import cli
from training import train
from training.config import TrainConfig, settled, validate
from training.presets import PRESETS, PresetName, asked_for


@pytest.mark.parametrize("name", get_args(PresetName))
def test_presets_can_be_run(name: PresetName) -> None:
    settled(PRESETS[name], validate(PRESETS[name]))


def test_the_book_is_the_default() -> None:
    assert PRESETS["book"] == TrainConfig()
    book = PRESETS["book"]
    assert (book.model, book.optimizer, book.learning_rate, book.batch_size, book.epochs) == ("resnet18", "adam", 1e-3, 256, 10)
    assert PRESETS["standard"].epochs == 30
    assert PRESETS["standard_200"].epochs == 200


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ([], "book"),
        (["--preset", "fast"], "fast"),
        (["--epochs", "3", "--preset=standard"], "standard"),
        (["--preset", "fast", "--preset", "standard"], "standard"),  # as the parser has it: the last counts
        (["--preset", "quick"], "book"),  # augmark run has presets of its own
        (["--preset"], "book"),
    ],
)
def test_the_preset_is_found_before_parsing(arguments: list[str], preset: str) -> None:
    assert asked_for(arguments) == preset


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command that augmark would execute."""
    seen: list[Any] = []
    for command in (cli.Train, cli.Sweep):
        monkeypatch.setattr(command, "execute", lambda self, console: seen.append(self))
    cli.main(arguments)
    return seen[0]


def test_single_fields_override_the_preset_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is set to what it is in the book, which a comparison with defaults would take for not given."""
    command = parsed(["train", "--epochs", "10", "--preset", "standard", "--no-compile"], monkeypatch)
    assert command.preset == "standard"
    assert command.config.epochs == TrainConfig().epochs
    assert not command.config.compile
    assert command.config.label_smoothing == PRESETS["standard"].label_smoothing
    swept = parsed(["sweep", "--preset", "fast", "--width", "8", "--seeds", "5"], monkeypatch)
    assert (swept.config.model, swept.config.width, swept.config.momentum, swept.seeds) == ("speednet", 8, 0.85, 5)


def test_a_preset_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--preset", "quickly"])
    assert caught.value.code == 2
    assert "quickly" in capsys.readouterr().err


def test_the_trainers_own_command_takes_presets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from functools import partial

    taken: list[TrainConfig] = []
    monkeypatch.setattr(train, "run", lambda config, out, **options: taken.append(config))
    command = partial(train.main, config=PRESETS["fast"], preset="fast")
    assert tyro.cli(command, args=["--preset", "fast", "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert (taken[0].model, taken[0].epochs) == ("speednet", 2)
