"""Hundreds of continuations by `reluctant.generate`, held against those of `model.generate`."""

from reluctant.whole.alike.run import Result, run_alike

__all__ = ["Result", "run_alike"]
