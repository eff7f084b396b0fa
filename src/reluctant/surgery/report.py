"""What `optimize` did, layer by layer."""

import io
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reluctant.engine import Engine
from reluctant.surgery.gain import SPARSE


@dataclass(frozen=True)
class Entry:
    """One layer, or what looks like one.

    name: as in `model.named_modules()`; "" is the model itself.
    activation, d_model, d_ff: as far as known. reason: why it is in this part of the report.
    engine: of a served layer; its `calls` counts, its `way` pins. gain: what it can do for the
    layer: "sparse", or "dense only: " and why; "" where there is none.
    """

    name: str
    activation: str | None
    d_model: int | None
    d_ff: int | None
    reason: str
    engine: Engine | None = None
    gain: str = ""

    @property
    def sparse(self) -> bool:
        """Whether the layer is served, and there is something to skip in it."""
        return self.gain == SPARSE


@dataclass(frozen=True)
class Report:
    """The layers of a model: served, refused with a reason, and left untouched with a reason.

    refused: feed-forward layers that cannot be served. untouched: modules that have the form of one
    but compute something else, or more. memory_bytes: what the engines of `swapped` take besides
    the model's own weights. Printed, it is a table.
    """

    swapped: tuple[Entry, ...]
    refused: tuple[Entry, ...]
    untouched: tuple[Entry, ...]

    @property
    def memory_bytes(self) -> int:
        return sum(e.engine.memory_bytes for e in self.swapped if e.engine is not None)

    def __rich__(self) -> Table:
        table = Table(title="Feed-forward layers", caption=self._caption())
        table.add_column("layer", overflow="fold")
        table.add_column("activation")
        table.add_column("d_model", justify="right")
        table.add_column("d_ff", justify="right")
        table.add_column("", overflow="fold")
        for what in ("swapped", "refused", "untouched"):
            for entry in getattr(self, what):
                sizes = ("" if n is None else str(n) for n in (entry.d_model, entry.d_ff))
                name = entry.name or "(the model itself)"
                says = "; ".join(filter(None, (entry.reason, entry.gain)))
                says = f"{what}: {says}" if says else what
                table.add_row(escape(name), escape(entry.activation or ""), *sizes, escape(says))
        return table

    def _caption(self) -> str:
        return (
            f"{len(self.swapped)} swapped, {len(self.refused)} refused, "
            f"{len(self.untouched)} untouched; {self.memory_bytes / 1e6:.1f} MB added"
        )

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=100, color_system=None).print(self)
        return text.getvalue().rstrip()
