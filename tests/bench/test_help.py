"""Help of every command: each option is described, nothing says "None", presets tell how long they take; ``augmark list``."""

import re
from pathlib import Path
from typing import get_args

import pytest

from bench import catalog, cli
from bench.presets import PresetName
from tests.conftest import present
from training.config import MODELS
from training.presets import PresetName as TrainingPresetName

COMMANDS = [
    *("run", "throughput", "finetune", "pipeline", "scaling", "audit", "report", "compare", "publish", "export", "gallery"),
    *("list", "train", "sweep", "calibrate", "turns"),
]


def print_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"] if command else ["--help"])
    assert stopped.value.code == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_every_command_is_walked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = present(re.search(r"\{([a-z,]+)\}", print_help("", monkeypatch, capsys)))
    assert sorted(names[1].split(",")) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = print_help(command, monkeypatch, capsys)
    assert "default: None" not in text
    assert "None" not in text or command in ("train", "sweep"), "only a setting of a preset can be taken back"
    assert "augmark[" not in text
    lines = [line.strip("│ ") for line in text.splitlines()]
    starts = [i for i, line in enumerate(lines) if re.match("--[a-z]", line)]
    assert starts or command == "list"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=bool(starts)):
        name, _, same_line = lines[start].partition("  ")
        description = " ".join([same_line, *lines[start + 1 : end]])
        assert len(re.sub(r"\((default: [^)]*|required)\)", "", description).split()) >= 2, name


def test_what_a_command_refuses_is_not_in_its_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = print_help("sweep", monkeypatch, capsys)
    assert "--recipe STR" not in sweep
    assert "--augment-on {workers,device} " in sweep
    train = print_help("train", monkeypatch, capsys)  # the same settings, in the same process
    assert "--recipe STR" in train
    assert "--augment-on {workers,device,none} " in train


def test_presets_tell_their_durations(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(print_help("run", monkeypatch, capsys).replace("│", " ").split())
    assert all(f"{name}: " in text for name in get_args(PresetName))
    presets = catalog.list_names("presets")
    assert len(presets) == len(get_args(PresetName)) + len(get_args(TrainingPresetName))
    assert all(re.search("second|minute|hour|night", about) for about in presets.values())


def test_list_has_a_line_for_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    from augment import BACKENDS, OPS, RECIPES

    cli.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines if line.startswith("  ")]
    assert {*BACKENDS, *OPS, *RECIPES, *MODELS, "auto", "synthetic"} <= {word[0] for word in words}
    assert all(len(line) >= 2 or line[0] == "none" for line in words)
    cli.main(["list", "recipes", "models"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(RECIPES) + len(MODELS) + 1


def test_hints_to_install_name_no_package_on_an_index() -> None:
    root = Path(__file__).parents[2]
    texts = [
        path.read_text(encoding="utf-8") for name in ("augment", "bench", "training") for path in (root / name).rglob("*.py")
    ]
    texts += [path.read_text(encoding="utf-8") for path in (*(root / "docs").glob("*.md"), root / "README.md")]
    assert [hint for text in texts for hint in re.findall(r"pip install +['\"]?augmark.{0,20}", text)] == []
