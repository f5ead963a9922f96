"""Measurements of speed, each run from the repository's root: `python -m benchmarks.fit --help`."""
