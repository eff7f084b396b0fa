"""What one run of a whole model found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from reluctant.machine import cpu_model, versions
from reluctant.surgery import Entry, Report
from reluctant.whole.answers import Check


@dataclass(frozen=True)
class Density:
    """Shares of a layer's neurons on the inputs of the run: active, and not ruled out."""

    name: str
    active: float
    candidates: float


@dataclass(frozen=True)
class Phase:
    """One way of calling the model, timed.

    tokens: of one call. seconds: of the median call, by way. rounds: turns that each way had.
    shares: of the time, by way ("before", "engine") and kind of module.
    """

    name: str
    tokens: int
    seconds: Mapping[str, float]
    rounds: int
    shares: Mapping[str, Mapping[str, float]]

    @property
    def tokens_per_second(self) -> dict[str, float]:
        return {way: self.tokens / spent for way, spent in self.seconds.items()}


@dataclass(frozen=True)
class Result:
    """A model before and after.

    weight_bytes: of all its parameters. layers, added_bytes: the report as a table and what engines
    add to the weights, as they were before the model went to float64. notes: what went otherwise.
    """

    name: str
    kind: str
    inputs: str
    dtype: str
    weight_bytes: int
    report: Report
    layers: Table
    added_bytes: int
    checks: tuple[Check, ...] = ()
    densities: tuple[Density, ...] = ()
    phases: tuple[Phase, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unchanged(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "model": self.name,
            "class": self.kind,
            "inputs": self.inputs,
            "dtype": self.dtype,
            "weight_bytes": self.weight_bytes,
            "added_bytes": self.added_bytes,
            "layers": {
                what: [_layer(entry) for entry in getattr(self.report, what)]
                for what in ("swapped", "refused", "untouched")
            },
            "maps": [
                {"name": entry.name, "d_in": entry.d_in, "d_out": entry.d_out}
                for entry in self.report.maps
            ],
            "unchanged": self.unchanged,
            "checks": [asdict(check) for check in self.checks],
            "densities": [asdict(density) for density in self.densities],
            "phases": [
                asdict(phase) | {"tokens_per_second": phase.tokens_per_second}
                for phase in self.phases
            ],
            "notes": list(self.notes),
            "cold": True,
            "threads": torch.get_num_threads(),
            "machine": cpu_model(),
            "versions": versions("reluctant", "torch", "transformers"),
        }


def _layer(entry: Entry) -> dict[str, Any]:
    names = ("name", "activation", "d_model", "d_ff", "reason")
    return {name: getattr(entry, name) for name in names}
