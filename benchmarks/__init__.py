"""Benchmarks of speed. Run them in the root folder of the repository: `python -m benchmarks.fit --help`."""
