"""A record for people: layers beside each other, and some of their neurons."""

from collections.abc import Iterator
from math import isnan

from rich import box
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reluctant.lab.inspect.of_layer import Layer, Neuron
from reluctant.lab.inspect.of_sentence import Sentence
from reluctant.lab.inspect.record import Record
from reluctant.printable import printable

_BAR = 8  # columns
_NEURONS, _CONTEXTS, _TOKENS = 2, 2, 4  # of a layer, of a neuron
_AROUND = 28  # characters before a token and after it
_LAYERS = 4  # of which neurons are shown


def show(record: Record, console: Console) -> None:
    """Print it. Whatever comes from the model or the text is printed as it is, without its control
    characters.
    """
    for line in _head(record):
        console.print(line)
    console.print(_firing(record), _using(record))
    for layer in _some(record.layers):
        console.print(_neurons(layer))
    for sentence in record.sentences:
        console.print(_sentence(sentence))
    for left in record.left:
        console.print(_text(f"not looked into: {left.name}: {left.reason}", "dim"))


def _head(record: Record) -> Iterator[Text]:
    model, text, totals = record.model, record.text, record.totals
    yield _text(f"{record.machine}; reluctant {record.reluctant}", "dim")
    yield _text(
        f"{model.name}: {model.class_}, {model.kind}, {totals.parameters:,} parameters, "
        f"{totals.feed_forward_parameters / max(totals.parameters, 1):.0%} of them in "
        f"feed-forward layers; {totals.flops_per_token / 1e6:,.1f} MFLOP a token, "
        f"{totals.feed_forward_flops_per_token / max(totals.flops_per_token, 1):.0%} of them there"
    )
    stopped = {None: "", "limit": "; --limit ended it", "interrupted": "; interrupted"}
    replaced = f"; {text.replaced} bytes or runs of them are no UTF-8" if text.replaced else ""
    parts = ", ".join(f"{count:,} tokens in the {name}" for name, count in text.by_stack.items())
    yield _text(
        f"{text.name}: {text.bytes:,} bytes, {text.sequences:,} sequences, {parts}, "
        f"{text.seconds:.1f} s{stopped[text.stopped]}{replaced}",
        "" if text.whole else "yellow",
    )


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _firing(record: Record) -> Table:
    columns = "d_ff", "density", "", "candi-\ndates", "dead,\nalways", "near", "over-\nlap"
    table = _table(
        "Which neurons fire",
        "density: active neurons, of all, a token. candidates: those that the certificate does not "
        "rule out. dead, always: neurons that never fire, or for every token. near: |h| above a "
        "hundredth of the token's largest. overlap: of neighbouring tokens' active neurons "
        "(Jaccard).",
        *("layer", *columns),
    )
    for layer in record.layers:
        bar = Bar(1.0, 0.0, layer.density.mean, width=_BAR, color="green", bgcolor="grey23")
        table.add_row(
            f"{layer.stack} {layer.index}",
            f"{layer.activation}{', gated' if layer.gated else ''} {layer.d_ff}",
            _share(layer.density.mean),
            bar,
            _share(None if layer.candidates is None else layer.candidates.mean),
            f"{layer.dead}, {layer.always}",
            _share(layer.near),
            _number(layer.overlap),
        )
    return table


def _using(record: Record) -> Table:
    columns = "weights", "FLOP", "90 % in", "rank\nx, h, y", "|y|/|r|", "torch", "engine"
    table = _table(
        "What they do, and what it costs",
        "weights, FLOP: of the model's. 90 % in: the neurons that add 90 % of the squared lengths. "
        "rank: effective, of a sample. |y|/|r|: what the layer adds against the residual stream. "
        "torch, engine: milliseconds of a call, measured here.",
        *("layer", *columns),
    )
    for layer in record.layers:
        ranks, timed = layer.effective_rank, layer.saves.measured
        three = ranks.input, ranks.hidden, ranks.output
        table.add_row(
            f"{layer.stack} {layer.index}",
            _share(layer.parameters_share),
            _share(layer.flops_share),
            _share(layer.neurons_for_90),
            " ".join(f"{rank:.0f}" for rank in three),
            _number(None if layer.update is None else layer.update.ratio),
            "-" if timed is None else f"{timed.torch_ms:.3f}",
            "-" if timed is None else f"{timed.engine_ms:.3f}",
        )
    return table


def _some(layers: list[Layer]) -> list[Layer]:
    """A few of them, from the first to the last."""
    count = len(layers)
    if count <= _LAYERS:
        return layers
    return [layers[round(i * (count - 1) / (_LAYERS - 1))] for i in range(_LAYERS)]


def _neurons(layer: Layer) -> Text:
    text = _text(f"Neurons of {layer.name} that add most\n", "italic")
    for neuron in layer.neurons[:_NEURONS]:
        share = "an unknown part" if isnan(neuron.norm_share) else f"{neuron.norm_share:.1%}"
        use = f"{neuron.use:.1%} of tokens, {share} of what is added"
        text += _text(f"  {neuron.index}: {use}\n", "bold")
        for line in _of_neuron(neuron):
            text += Text("      ") + line + Text("\n")
    return text


def _of_neuron(neuron: Neuron) -> Iterator[Text]:
    for context in neuron.contexts[:_CONTEXTS]:
        before, after = context.before[-_AROUND:], context.after[:_AROUND]
        where = _text(before, "dim") + _text(context.token, "bold green") + _text(after, "dim")
        yield _text(f"{context.value:.2f} ") + where
    if neuron.promotes:
        yield _text("says ", "dim") + _text(
            ", ".join(score.token.strip() for score in neuron.promotes[:_TOKENS])
        )


def _sentence(sentence: Sentence) -> Text:
    text = _text(sentence.text, "bold") + _text("\n")
    if sentence.output is not None:
        text += _text(f"  {sentence.output}\n")
    all_of_them = [(layer, w) for layer in sentence.layers for w in layer.without]
    all_of_them.sort(key=lambda pair: -pair[1].change)
    asked = [pair for pair in all_of_them if pair[1].asked]
    others = [pair for pair in all_of_them if not pair[1].asked]
    for layer, without in [*asked, *others[:3]]:
        says = "" if without.after == without.before else f": {without.after}"
        what = f"  without neuron {without.neuron} of {layer.name}, {without.change:.3f}{says}\n"
        text += _text(what, "dim")
    return text


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text, keep="\n"), style=style)
