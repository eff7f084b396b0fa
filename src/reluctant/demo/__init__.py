"""A real trained Transformer, with and without the engine."""

from reluctant.demo.run import Result, run_demo

__all__ = ["Result", "run_demo"]
