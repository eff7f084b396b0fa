"""The project's own model translates: without the engine, with it pinned dense, and with it."""

from reluctant.demo.run import Result, run_demo

__all__ = ["Result", "run_demo"]
