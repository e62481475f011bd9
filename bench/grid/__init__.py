"""The benchmarks behind ``pytest --benchmark-only``: cases, inputs, the clock, limits, and the session that runs them."""
