"""Engines under existing models: `optimize` puts them in, `restore` takes them out."""

from .optimize import optimize, refresh, restore
from .report import Entry, Report

__all__ = ["Entry", "Report", "optimize", "refresh", "restore"]
