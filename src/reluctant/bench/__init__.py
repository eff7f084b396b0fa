"""One layer side by side with dense implementations, and against the machine's limits."""

from reluctant.bench.run import PHASES, SHAPES, Result, Row, run_bench

__all__ = ["PHASES", "SHAPES", "Result", "Row", "run_bench"]
