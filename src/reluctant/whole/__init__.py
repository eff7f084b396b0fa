"""A whole model: loaded, optimised, its answers checked and its speed measured."""

from reluctant.whole.result import Result
from reluctant.whole.run import run_whole

__all__ = ["Result", "run_whole"]
