"""Benchmarks as pytest items: one for each round of each planned case, timed by a clock that synchronises."""

import pytest

from bench.session import SESSION


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the items of a suite from the session's plan."""
    if "case" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash.get(SESSION, None)
    if session is None:
        skip = pytest.mark.skip(reason="measured only with --benchmark-only")
        metafunc.parametrize("case", [pytest.param(None, marks=skip, id="not-measured")])
        return
    cases = session.items(metafunc.function.__name__.removeprefix("test_"))
    params = [pytest.param(case, id=f"{case.name}-round{case.round + 1}", marks=session.marks(case)) for case in cases]
    metafunc.parametrize("case", params)
