"""The arrows between the packages, read from the sources: bench -> training -> augment, and what stays free of torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("augment", "training", "bench")
# What reads and judges records, of whatever kind.
READERS = ("bench/records", "bench/comparison", "bench/report")
# The catalog's rows are where libraries are called; the audit replays what they built, against an oracle.
KNOW_LIBRARIES = ("augment/rows/", "augment/audit/")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, late imports included, as full dotted names."""
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


def at_import(path: Path) -> set[str]:
    """What importing a file imports at once: statements outside of functions and of ``if TYPE_CHECKING``."""

    def statements(nodes: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                continue
            yield node
            for name in ("body", "orelse", "finalbody"):
                yield from statements([child for child in getattr(node, name, []) if isinstance(child, ast.stmt)])

    names: set[str] = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_the_readers_see_what_they_should(tmp_path: Path) -> None:
    """The two readers above, on a file whose imports are known: otherwise the rules below could pass on nothing."""
    file = ROOT / "bench" / "grid" / "cases.py"
    assert "torch" in imported(file), "late imports count in imported()"
    assert "torch" not in at_import(file)
    sample = tmp_path / "sample.py"
    sample.write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ntry:\n    import f\nexcept ImportError:\n    pass\n"
        "class K:\n    import g\n\ndef late():\n    import h\n"
    )
    assert at_import(sample) == {"a.b", "c", "c.d", "f", "g"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_have_sources(package: str) -> None:
    assert sources(package)


def test_the_picture_of_the_house_names_every_room() -> None:
    """CONTRIBUTING shows newcomers where things are; those within audit/ and report/ stand in their own docstrings."""
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    rooms = [path for package in PACKAGES for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]
    assert [named(path) for path in rooms if path.name not in picture] == []
    files = {path.name for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*")}
    assert [name for name in re.findall(r"\w+\.(?:py|c|h)\b", picture) if name not in files] == []


@pytest.mark.parametrize("path", sources("augment"), ids=named)
def test_augment_imports_nothing_of_ours(path: Path) -> None:
    assert not tops(imported(path)) & {"training", "bench", "tests"}


@pytest.mark.parametrize("path", sources("training"), ids=named)
def test_training_imports_neither_bench_nor_its_tools(path: Path) -> None:
    assert not tops(imported(path)) & {"bench", "tests", "pytest", "pytest_benchmark", "pandas", "matplotlib"}


@pytest.mark.parametrize("path", [path for package in PACKAGES for path in sources(package)], ids=named)
def test_only_the_catalog_and_the_audit_know_the_libraries(path: Path) -> None:
    libraries = {n for n in imported(path) if n.partition(".")[0] == "kornia" or n.startswith("torchvision.transforms")}
    assert not libraries or named(path).startswith(KNOW_LIBRARIES)


@pytest.mark.parametrize(
    "path",
    [path for folder in READERS for path in sources(folder)],
    ids=named,
)
def test_reports_and_records_never_import_torch(path: Path) -> None:
    """Not even late, and not by way of augment, whose package imports it."""
    assert not tops(imported(path)) & {"torch", "torchvision", "kornia", "augment", "training"}


@pytest.mark.parametrize(
    "file",
    [
        "bench/cli.py",
        "bench/run.py",
        "bench/endtoend/throughput.py",
        "bench/endtoend/scaling.py",
        "bench/grid/cases.py",
        "training/config.py",
    ],
)
def test_help_needs_no_torch(file: str) -> None:
    """What --help imports at once: of augment nothing, whose package imports torch."""
    assert not tops(at_import(ROOT / file)) & {"torch", "torchvision", "kornia", "augment"}


def test_a_report_is_read_and_written_without_torch() -> None:
    """The same in a fresh process, with all that is imported on the way."""
    code = (
        "import sys, bench.report, bench.records.runs\n"
        "sys.exit(', '.join({'torch', 'augment', 'training'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
