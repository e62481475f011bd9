"""Arrows, read from the sources: bench -> training -> augment, the chain inside bench, and what stays free of torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("augment", "training", "bench")
OUTER = {
    "augment": {"training", "bench", "tests", "matplotlib"},
    "training": {"bench", "tests", "pytest", "pytest_benchmark", "pandas", "matplotlib", "msgspec"},
    "bench": {"tests", "matplotlib"},
}
"""Modules that a package must not import, not even late."""
CHAIN = {
    "records": set(),
    "statistics": {"records"},
    "changes": {"statistics", "records"},
    "noise": {"records"},
    "runner": {"noise", "statistics", "records"},
    "processes": set(),
    "clock": set(),
    "limits": {"processes", "clock"},
    "environment": {"records"},
    "presets": set(),
    "compare": {"changes", "statistics", "records"},
    "jobs": {
        *("compare", "changes", "runner", "noise", "statistics", "processes"),
        *("clock", "limits", "environment", "presets", "records"),
    },
    "display": {"jobs", "statistics", "records"},
    "session": {"display", "jobs", "runner", "clock", "environment", "statistics", "records"},
    "plugin": {"session"},
    "catalog": {"presets"},
    "audit": {"environment", "records"},
    "report": {"statistics", "records"},
    "gallery": {"report", "records"},
    "export": {"statistics", "records"},
    "publish": {"export", "report", "statistics", "records"},
    "parts": {"processes", "jobs", "runner", "audit", "gallery", "environment", "presets", "records"},
    "run": {"processes", "parts", "jobs", "runner", "environment", "presets", "records"},
    "commands": {
        *("run", "catalog", "jobs", "runner", "audit", "gallery"),
        *("report", "compare", "changes", "export", "publish", "records"),
    },
    "cli": {"commands", "jobs"},
}
"""Rooms of bench that a room may import: those above it."""
READERS = ("records", "statistics", "changes", "report", "compare", "export", "publish")
"""Rooms that read and judge records; they import neither torch nor the other packages, not even late."""
TORCH = {"torch", "torchvision", "kornia", "augment"}
LIBRARY_ROOMS = ("augment/ops/", "augment/backends/")
"""Where libraries are called."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    return path.relative_to(ROOT / "bench").with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Return every module that a file imports anywhere in it, late imports included, as full dotted names."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            module = base if node.level else str(node.module)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_late_imports_count() -> None:
    """Else the rules below could pass on nothing."""
    assert "torch" in imported(ROOT / "bench" / "jobs" / "grid.py")


def test_the_chain_has_no_circle_and_names_every_room() -> None:
    names = list(CHAIN)
    assert [(name, below) for name, rooms in CHAIN.items() for below in rooms if names.index(below) >= names.index(name)] == []
    rooms = {room(path) for path in sources("bench")}
    assert {name for name in rooms if not name.startswith(("test_", "__", "conftest"))} == set(CHAIN)


@pytest.mark.parametrize("path", [path for package in PACKAGES for path in sources(package)], ids=relative)
def test_no_arrow_goes_back(path: Path) -> None:
    package, names = path.relative_to(ROOT).parts[0], imported(path)
    assert not tops(names) & OUTER[package]
    libraries = {name for name in names if name.partition(".")[0] == "kornia" or name.startswith("torchvision.transforms")}
    assert not libraries or relative(path).startswith(LIBRARY_ROOMS)
    if package == "bench" and room(path) in CHAIN:
        rooms = {name.split(".")[1] for name in names if name.startswith("bench.")}
        assert rooms - {room(path)} <= CHAIN[room(path)]
        assert room(path) not in READERS or not tops(names) & {*TORCH, "training"}


@pytest.mark.parametrize(
    "modules", ["bench.report, bench.compare, bench.export, bench.publish", "bench.cli; bench.catalog.list_names('data')"]
)
def test_readers_and_the_command_line_start_without_torch(modules: str) -> None:
    """In a fresh process, with all that is imported on the way: the command line imports every job."""
    code = f"import sys, {modules}\nsys.exit(', '.join({TORCH!r} & set(sys.modules)) or 0)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_the_picture_of_the_house_names_every_room() -> None:
    """CONTRIBUTING shows newcomers where things are."""
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    rooms = [path for package in PACKAGES for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]
    assert [relative(path) for path in rooms if path.name not in picture] == []
    files = {path.name for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*")}
    assert [name for name in re.findall(r"\w+\.(?:py|c|h)\b", picture) if name not in files] == []
