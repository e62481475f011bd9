"""How the benchmarks are made: one item for each pass of each planned case, timed by a clock that synchronises."""

from typing import Any

import pytest

from bench.session import SESSION, BenchSession, CasePass


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case_pass" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash.get(SESSION, None)
    suite = metafunc.function.__name__.removeprefix("test_")
    if session is None:
        skip = pytest.mark.skip(reason="measured only with --benchmark-only")
        metafunc.parametrize("case_pass", [pytest.param(None, marks=skip, id="not-measured")])
    else:
        params = [pytest.param(one, id=one.id, marks=session.marks(one)) for one in session.passes(suite)]
        metafunc.parametrize("case_pass", params)


@pytest.fixture
def measure_pass(case_pass: CasePass, benchmark: Any, pytestconfig: pytest.Config) -> Any:
    """A function that measures this item's pass and keeps its record."""
    session: BenchSession = pytestconfig.stash[SESSION]
    return lambda: session.measure(case_pass, benchmark)
