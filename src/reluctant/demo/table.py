"""The demo's figures for people."""

from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table

from reluctant.demo.layers import Layer, Shares
from reluctant.demo.run import AS_TRUE, Result
from reluctant.machine import header

WAYS = ("few", "many", "dense")

# Aims, not promises: a model whose own rounding is larger than the first cannot meet it.
LARGEST = 1e-4  # difference of any logit
MARGIN = 0.02  # candidates above active, as a share of all neurons


def show(result: Result, console: Console) -> None:
    """Print the tables and the verdict."""
    console.print(header("ruaccent-predictor"))
    console.print(_layers(result), _seconds(result))
    for holds, statement in verdict(result):
        console.print("[green]yes[/]" if holds else "[red]NO [/]", statement)


def verdict(result: Result) -> list[tuple[bool, str]]:
    """Statements, and whether each holds. The first two are promises, the others are aims."""
    seconds = result.seconds
    calls: Counter[str] = Counter()
    for layer in result.layers:
        calls.update(layer.calls)
    sparse = calls["few"] + calls["many"]
    shares = [layer.text for layer in result.layers]
    padding = [layer.padding for layer in result.layers if layer.padding is not None]
    error, before = result.forced.engine, result.forced.eager
    sentences = len(result.texts["eager"])
    return [
        (result.identical, f"all {sentences} texts are identical, three times"),
        (
            result.as_true,
            f"logits as near to float64 as before: RMS error {error.rms:.1e}, untouched "
            f"{before.rms:.1e} (allowed: {AS_TRUE} times that)",
        ),
        (
            result.max_logit_diff < LARGEST,
            f"largest difference of any logit {result.max_logit_diff:.1e}, below {LARGEST:.0e} "
            f"(pinned dense: {result.dense_logit_diff:.1e}; the untouched model is up to "
            f"{before.largest:.1e} from float64, its logits reach {result.forced.scale:.0f})",
        ),
        (
            _margin(shares) <= MARGIN,
            f"candidates at most {100 * _margin(shares):.1f} points above active (in the "
            f"encoder's padding {100 * _margin(padding):.1f}), below {100 * MARGIN:.0f}",
        ),
        (sparse > calls["dense"], f"{sparse} calls sparse, {calls['dense']} dense"),
        (
            seconds["engine"] < seconds["dense"] < seconds["eager"],
            f"engine {seconds['engine']:.1f} s < dense {seconds['dense']:.1f} s "
            f"< untouched {seconds['eager']:.1f} s",
        ),
    ]


def _margin(shares: list[Shares]) -> float:
    return max((share.candidates - share.active for share in shares), default=0.0)


def _layers(result: Result) -> Table:
    table = Table(
        title="Feed-forward layers on their real inputs, microseconds a call",
        caption="Shares at the positions of the sentences, then candidates in the padding. us: "
        "untouched / engine pinned to dense / engine, with one token and with as many as the "
        "layer's median call has. Calls: how the engine went while decoding.",
        box=box.SIMPLE,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("layer", no_wrap=True)
    calls = "calls\n" + "/".join(WAYS)
    for column in (
        "active",
        "candi-\ndates",
        "in pad-\nding",
        "us,\n1 token",
        "tokens",
        "us,\nso many",
        calls,
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in result.layers:
        table.add_row(*_cells(layer))
    return table


def _cells(layer: Layer) -> list[str]:
    one, typical = (
        f"{times.eager_us:.0f}/{times.dense_us:.0f}/{times.sparse_us:.0f}"
        for times in (layer.one, layer.typical)
    )
    return [
        layer.name.removeprefix("transformer.").replace(".layers.", " "),
        f"{layer.text.active:.1%}",
        f"{layer.text.candidates:.1%}",
        "" if layer.padding is None else f"{layer.padding.candidates:.1%}",
        one,
        str(layer.typical.tokens),
        typical,
        "/".join(str(layer.calls[way]) for way in WAYS),
    ]


def _seconds(result: Result) -> Table:
    sentences = len(result.texts["eager"])
    table = Table(
        title=f"{sentences} sentences, {result.batch_size} at a time",
        caption=f"Feed-forward layers take about {result.feed_forward_share:.0%} of the time of "
        "the untouched model: no faster layer can save more than that.",
        box=box.SIMPLE,
    )
    for column in ("", "seconds", "against untouched"):
        table.add_column(column, justify="right" if column else "left")
    labels = {"eager": "untouched", "dense": "engine, pinned to dense", "engine": "engine"}
    for name, label in labels.items():
        ratio = result.seconds["eager"] / result.seconds[name]
        table.add_row(label, f"{result.seconds[name]:.2f}", f"{ratio:.2f}x")
    return table
