"""Faults that docs/upstream.md reports are there, in the releases that it names."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "upstream.md").read_text()
FAULTS = re.findall(r"## ([\w-]+) ([\d.]+): [^\n]*\n.*?```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("package", "release", "code"), FAULTS, ids=[name for name, _, _ in FAULTS])
def test_fault_is_there(package: str, release: str, code: str) -> None:
    try:
        installed = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    if not f"{installed}.".startswith(f"{release}."):
        pytest.skip(f"{package} is {installed}, not {release}")
    exec(code, {})


def test_every_fault_has_code() -> None:
    assert len(FAULTS) == PAGE.count("\n## ")
