"""The results of a finished run: files in the run's folder, a printed table, and tables in W&B."""

from kd_lightning.io.schema import SCHEMA
from kd_lightning.runs.results.collect import collect, samples, tests_all
from kd_lightning.runs.results.dashboard import log_tables
from kd_lightning.runs.results.files import FILE, PREDICTIONS, read, record
from kd_lightning.runs.results.table import table

__all__ = ["FILE", "PREDICTIONS", "SCHEMA", "collect", "log_tables", "read", "record", "samples", "table", "tests_all"]
