"""The demo's figures for people: what was promised with yes or NO, what was measured as it is."""

from rich import box
from rich.console import Console
from rich.table import Table

from reluctant.demo.run import AS_TRUE, Result
from reluctant.machine import header

LABELS = {
    "package": "the package itself",
    "cached": "Transformer, with a cache",
    "engine": "the same with the engine",
}


def show(result: Result, console: Console) -> None:
    """Print an answer, the tables, the promises and what came of them."""
    console.print(header("ruaccent-predictor"))
    console.print(f"\n{result.sentences[0]}\n{result.texts['engine'][0]}\n", markup=False)
    console.print(_seconds(result), _layers(result))
    for holds, statement in promises(result):
        console.print("[green]yes[/]" if holds else "[red]NO [/]", statement)


def promises(result: Result) -> list[tuple[bool, str]]:
    """What is promised, and whether it holds."""
    error, before = result.forced.engine, result.forced.cached
    return [
        (result.identical, f"all {len(result.sentences)} texts are the package's own, both times"),
        (
            result.as_true,
            f"logits as near to float64 with the engine (RMS error {error.rms:.1e}) as without "
            f"({before.rms:.1e}; allowed: {AS_TRUE} times that)",
        ),
    ]


def _seconds(result: Result) -> Table:
    """Each way against the first, and the engine against the same without it."""
    seconds = result.seconds
    characters = sum(map(len, result.texts["package"]))
    table = Table(
        title=f"{len(result.sentences)} sentences, {result.batch_size} at a time",
        caption="The package computes all it has written so far again for each character; with a "
        "cache a step is one token a sentence. The engine took "
        f"{seconds['engine'] / seconds['cached']:.2f} of the time without it; about "
        f"{result.feed_forward_share:.0%} of that time is in feed-forward layers, and no faster "
        "layer can save more. Whatever else the machine did in this run is in these figures.",
        box=box.SIMPLE,
    )
    for column in ("", "seconds", "characters/s", "times as fast\nas the package"):
        table.add_column(column, justify="right" if column else "left")
    for way, label in LABELS.items():
        each = seconds[way]
        cells = f"{each:.2f}", f"{characters / each:.0f}", f"{seconds['package'] / each:.2f}"
        table.add_row(label, *cells)
    return table


def _layers(result: Result) -> Table:
    calls = result.calls
    table = Table(
        title="Its feed-forward layers on their real inputs",
        caption="active: neurons that are not zero, at the positions of the text; candidates: "
        "those that the engine has to look at. us: a call of so many tokens without the engine, "
        "and with it. Calls of the engine while decoding: "
        + ", ".join(f"{number} {way}" for way, number in calls.items())
        + ".",
        box=box.SIMPLE,
        collapse_padding=True,
        pad_edge=False,
    )
    columns = ("layer", "active", "candidates", "tokens", "us", "us, engine", "/".join(calls))
    for column in columns:
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for layer in result.layers:
        table.add_row(
            layer.name.removeprefix("transformer.").replace(".layers.", " "),
            f"{layer.active:.1%}",
            f"{layer.candidates:.1%}",
            str(layer.tokens),
            f"{layer.eager_us:.0f}",
            f"{layer.engine_us:.0f}",
            "/".join(map(str, layer.calls.values())),
        )
    return table
