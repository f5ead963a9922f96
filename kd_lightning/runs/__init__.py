"""The folder of a run: its name, state, lock, checkpoints and results, and how a run is resumed and loaded."""
