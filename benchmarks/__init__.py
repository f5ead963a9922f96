"""Benchmarks of speed. Run them from the root of the repository: `python -m benchmarks.fit --help`."""
