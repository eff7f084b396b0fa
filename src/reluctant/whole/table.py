"""A whole model's figures for people."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reluctant.machine import header
from reluctant.whole.profile import FEED_FORWARD
from reluctant.whole.result import Phase, Result
from reluctant.whole.run import WAYS

LABELS = {"before": "untouched", "dense": "engine, pinned to dense", "engine": "engine"}


def show(result: Result, console: Console) -> None:
    """Print the tables and the verdict. Text from models is escaped."""
    console.print(escape(header("transformers")))
    console.print(
        f"{escape(result.name)}: {escape(result.kind)}, {result.dtype}, "
        f"{result.weight_bytes / 1e6:.0f} MB of weights; {escape(result.inputs)}"
    )
    console.print(result.layers)
    if result.densities:
        console.print(_density(result))
    for phase in result.phases:
        console.print(_speeds(phase), _shares(phase))
    for check in result.checks:
        console.print("[green]yes[/]" if check.holds else "[red]NO [/]", escape(check.says))
    for note in result.notes:
        console.print(escape(note))


def _density(result: Result) -> str:
    engines = [entry.engine for entry in result.report.swapped if entry.engine is not None]
    if all(engine.activation.zero_below is None for engine in engines):
        return (
            "None of the served layers' activations is exactly zero anywhere: whatever is gained "
            "here is gained by the dense way."
        )
    active = [density.active for density in result.densities]
    candidates = [density.candidates for density in result.densities]
    mean = sum(active) / len(active)
    return (
        f"On these inputs {mean:.1%} of the served layers' neurons are active (by layer "
        f"{min(active):.1%} to {max(active):.1%}); candidates {min(candidates):.1%} to "
        f"{max(candidates):.1%}."
    )


def _speeds(phase: Phase) -> Table:
    table = Table(
        title=f"{phase.name}: tokens a second",
        caption=f"{phase.tokens} tokens a call, {phase.rounds} rounds in turns. Cold: between two "
        "calls of a layer all others come by.",
        box=box.SIMPLE,
    )
    for column in ("", "tokens/s", "seconds a call", "against untouched"):
        table.add_column(column, justify="right" if column else "left")
    before = phase.seconds["before"]
    for way in WAYS:
        spent = phase.seconds[way]
        speed = phase.tokens_per_second[way]
        table.add_row(LABELS[way], f"{speed:.1f}", f"{spent:.4f}", f"{before / spent:.2f}x")
    return table


def _shares(phase: Phase) -> Table:
    before, engine = phase.shares["before"], phase.shares["engine"]
    table = Table(
        title=f"{phase.name}: where the time goes",
        caption="Measured. No feed-forward layer, however fast, can make this more than "
        f"{1 / max(1 - before[FEED_FORWARD], 1e-9):.2f} times as fast.",
        box=box.SIMPLE,
    )
    for column in ("", LABELS["before"], LABELS["engine"]):
        table.add_column(column, justify="right" if column else "left")
    for kind, share in before.items():
        table.add_row(kind, f"{share:.1%}", f"{engine[kind]:.1%}")
    return table
