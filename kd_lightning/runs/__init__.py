"""The folder of a run: its name, status, lock, checkpoints, resume and results."""
