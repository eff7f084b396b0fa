"""What `optimize` did, layer by layer."""

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reluctant.engine import Engine
from reluctant.surgery.gain import SPARSE
from reluctant.surgery.linears import Decoding, HeadSeat, MapSeat


@dataclass(frozen=True)
class Entry:
    """One layer, or what looks like one.

    name: as in `model.named_modules()`; "" is the model itself.
    activation, d_model, d_ff: as far as known. reason: why it is in this part of the report.
    engine: of a served layer; its `calls` counts, its `way` pins. gain: what it can do for the
    layer: "sparse", or "dense only: " and why; "" where there is none. training: why torch trains
    the layer; "" where steps with gradients go over the active neurons, as far as it pays.
    """

    name: str
    activation: str | None
    d_model: int | None
    d_ff: int | None
    reason: str
    engine: Engine | None = None
    gain: str = ""
    training: str = ""

    @property
    def sparse(self) -> bool:
        """Whether the layer is served, and there is something to skip in it."""
        return self.gain == SPARSE


@dataclass(frozen=True)
class MapEntry:
    """A linear map that is served for up to 16 rows at a time.

    name: as in `model.named_modules()`. served: what serves it; its `calls` counts. Of an output
    projection: `decoding`, what `reluctant.generate` did with it.
    """

    name: str
    d_in: int
    d_out: int
    served: MapSeat

    @property
    def decoding(self) -> Decoding | None:
        return self.served.decoding if isinstance(self.served, HeadSeat) else None


@dataclass(frozen=True)
class Report:
    """The layers of a model: served, refused with a reason, and left untouched with a reason.

    refused: feed-forward layers that cannot be served. untouched: modules that have the form of one
    but compute something else, or more. maps: the other linear maps that are served, the output
    projection among them. memory_bytes: what the engines of `swapped`, and the sketch of the output
    projection, take besides the model's own weights. outside: with batch_invariant, the kinds of
    modules of which nothing is promised, beside what stands between modules; otherwise None.
    attentions: the names of those that are served.
    Printed, it is a table.
    """

    swapped: tuple[Entry, ...]
    refused: tuple[Entry, ...]
    untouched: tuple[Entry, ...]
    maps: tuple[MapEntry, ...] = ()
    outside: tuple[str, ...] | None = None
    attentions: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int:
        engines = sum(e.engine.memory_bytes for e in self.swapped if e.engine is not None)
        return engines + sum(entry.served.memory_bytes for entry in self.maps)

    @property
    def head(self) -> MapEntry | None:
        """The output projection, if it is served."""
        heads = (entry for entry in self.maps if isinstance(entry.served, HeadSeat))
        return next(heads, None)

    def __rich__(self) -> Table:
        table = Table(title="What is served", caption=self._caption())
        table.add_column("layer", overflow="fold")
        table.add_column("activation")
        table.add_column("d_model", justify="right")
        table.add_column("d_ff", justify="right")
        table.add_column("", overflow="fold")
        for what in ("swapped", "refused", "untouched"):
            for entry in getattr(self, what):
                sizes = ("" if n is None else str(n) for n in (entry.d_model, entry.d_ff))
                name = entry.name or "(the model itself)"
                trained = f"trained by torch: {entry.training}" if entry.training else ""
                says = "; ".join(filter(None, (entry.reason, entry.gain, trained)))
                says = f"{what}: {says}" if says else what
                table.add_row(escape(name), escape(entry.activation or ""), *sizes, escape(says))
        for entry in self._other_maps():
            table.add_row(*entry)
        return table

    def _other_maps(self) -> Iterator[tuple[str, ...]]:
        """One row for all linear maps of a size: there may be hundreds."""
        head = self.head
        sizes = Counter((entry.d_in, entry.d_out) for entry in self.maps if entry is not head)
        for (d_in, d_out), count in sizes.items():
            what = f"{count} linear map{'s' if count > 1 else ''}"
            says = "up to 16 tokens at a time" if self.outside is None else "each token by itself"
            yield what, "", str(d_in), str(d_out), f"served: {says}"
        if self.attentions:
            yield f"{len(self.attentions)} attentions", "", "", "", "served: each query by itself"
        if head is not None and head.decoding is not None:
            says = f"output projection: {head.decoding}"
            yield escape(head.name), "", str(head.d_in), str(head.d_out), escape(says)

    def _caption(self) -> str:
        return (
            f"{len(self.swapped)} swapped, {len(self.refused)} refused, "
            f"{len(self.untouched)} untouched; {self.memory_bytes / 1e6:.1f} MB added"
            f"{self._outer()}"
        )

    def _outer(self) -> str:
        if self.outside is None:
            return ""
        parts = ", ".join((*self.outside, "what stands between modules, as attention's products"))
        return f". A token's bits are its own in what is served; outside: {escape(parts)}"

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=100, color_system=None).print(self)
        return text.getvalue().rstrip()
