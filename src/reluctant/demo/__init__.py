"""A real trained Transformer: its own package, this library's Transformer, and the engine in it."""

from reluctant.demo.run import Result, run_demo

__all__ = ["Result", "run_demo"]
