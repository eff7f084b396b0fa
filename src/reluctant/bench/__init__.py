"""The engine side by side with dense implementations, and against the machine's limits."""

from reluctant.bench.grid import Cell, Shape
from reluctant.bench.row import Row
from reluctant.bench.run import Result, run_bench

__all__ = ["Cell", "Result", "Row", "Shape", "run_bench"]
