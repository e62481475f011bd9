"""Load the options and the collection of benchmarks; they stand in the package, so that a wheel has them too."""

pytest_plugins = ["bench.plugin"]
