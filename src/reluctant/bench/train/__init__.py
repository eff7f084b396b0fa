"""A training step, forward and backward, beside torch's (`reluctant bench --phases train`)."""

from reluctant.bench.train.grid import Cell
from reluctant.bench.train.row import Row
from reluctant.bench.train.run import Result, run_train

__all__ = ["Cell", "Result", "Row", "run_train"]
