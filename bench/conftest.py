"""How the benchmarks are made: one item for each pass of each planned case, timed by a clock that synchronises.

The trainer's overhead is no case of the grid; its passes are items too.
"""

from typing import Any

import pytest

from bench.grid.items import CasePass, OverheadPass
from bench.grid.session import SESSION, BenchSession


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = next((name for name in ("case_pass", "overhead_pass") if name in metafunc.fixturenames), None)
    if name is None:
        return
    session = metafunc.config.stash.get(SESSION, None)
    if session is None:
        skip = pytest.mark.skip(reason="measured only with --benchmark-only")
        metafunc.parametrize(name, [pytest.param(None, marks=skip, id="not-measured")])
    else:
        passes = session.passes(metafunc.function.__name__.removeprefix("test_"))
        metafunc.parametrize(name, [pytest.param(one, id=one.id, marks=session.marks(one)) for one in passes])


@pytest.fixture
def measure_pass(case_pass: CasePass, benchmark: Any, pytestconfig: pytest.Config) -> Any:
    """A function that measures this item's pass and keeps its record."""
    session: BenchSession = pytestconfig.stash[SESSION]
    return lambda: session.measure(case_pass, benchmark)


@pytest.fixture
def measure_overhead_pass(overhead_pass: OverheadPass, benchmark: Any, pytestconfig: pytest.Config) -> Any:
    """A function that measures this item's pass of the trainer's overhead and keeps its record."""
    session: BenchSession = pytestconfig.stash[SESSION]
    return lambda: session.measure_overhead(overhead_pass, benchmark)
