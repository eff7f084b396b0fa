"""Engines under existing models: `optimize` puts them in, `restore` takes them out."""

from reluctant.surgery.optimize import optimize, refresh, restore
from reluctant.surgery.report import Entry, Report

__all__ = ["Entry", "Report", "optimize", "refresh", "restore"]
