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
FASTER = 3.0  # times as fast as the package, decoding with a cache and the engine


def show(result: Result, console: Console) -> None:
    """Print the tables and the verdict."""
    console.print(header("ruaccent-predictor"))
    console.print(_layers(result), _seconds(result), _second_act(result))
    for holds, statement in verdict(result):
        console.print("[green]yes[/]" if holds else "[red]NO [/]", statement)


def verdict(result: Result) -> list[tuple[bool, str]]:
    """Statements, and whether each holds. The first three are promises, the others are aims."""
    seconds, cached = result.seconds, result.transformer
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
            cached.identical,
            f"all {sentences} texts are the package's own when Transformer decodes them with a "
            "cache, pinned dense and with the engine",
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
        (
            cached.speed_up >= FASTER,
            f"Transformer with cache and engine is {cached.speed_up:.1f} times as fast as the "
            f"package, at least {FASTER:.0f}",
        ),
        (
            cached.engine_adds > 1,
            f"of which the engine: {cached.engine_adds:.2f} times as fast as pinned to dense",
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
    labels = {"eager": "untouched", "dense": "engine, pinned to dense", "engine": "engine"}
    return _times(
        {label: result.seconds[name] for name, label in labels.items()},
        title=f"{len(result.texts['eager'])} sentences, {result.batch_size} at a time",
        caption=f"Feed-forward layers take about {result.feed_forward_share:.0%} of the time of "
        "the untouched model: no faster layer can save more than that.",
    )


def _second_act(result: Result) -> Table:
    cached = result.transformer
    labels = {
        "original": "untouched",
        "dense": "Transformer, pinned to dense",
        "engine": "Transformer, engine",
    }
    calls = ", ".join(f"{cached.calls[way]} {way}" for way in WAYS)
    return _times(
        {label: cached.seconds[name] for name, label in labels.items()},
        title="The same weights in Transformer, with a cache",
        caption="The package computes all it has written so far again for each character; with a "
        f"cache a step is one token a sentence. Calls of the engine: {calls}.",
    )


def _times(seconds: dict[str, float], title: str, caption: str) -> Table:
    """Each against the first."""
    table = Table(title=title, caption=caption, box=box.SIMPLE)
    for column in ("", "seconds", "against untouched"):
        table.add_column(column, justify="right" if column else "left")
    untouched = next(iter(seconds.values()))
    for label, each in seconds.items():
        table.add_row(label, f"{each:.2f}", f"{untouched / each:.2f}x")
    return table
