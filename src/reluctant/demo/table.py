"""The demo's output for people: a row a sentence, and the figures below."""

import re
from collections.abc import Sequence

from rich import box
from rich.bar import Bar
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reluctant.demo.run import WAYS, Result, Sentence
from reluctant.machine import header
from reluctant.printable import printable

WIDEST = 100  # columns
_FIGURES = 8  # columns of a number in the rows
_BAR = 40


def show_head(console: Console, model: str, sentences: Sequence[str]) -> None:
    """What is going to be done, and the head of the rows. model: its name."""
    console.print(header(), style="dim", highlight=False)
    console.print(
        f"{model} translates {len(sentences)} sentences, one at a time, three ways in turns:",
        markup=False,
        highlight=False,
    )
    for way, what in WAYS.items():
        console.print(f"  {way:8}{what}", markup=False, highlight=False)
    rows = _rows(console)
    rows.add_row("", "", "tokens/s", "")
    rows.add_row("English, German", *WAYS, style="bold")
    console.print("", rows)


def show_sentence(console: Console, sentence: Sentence) -> None:
    """A row: English, German, and how fast each way was."""
    rows = _rows(console)
    rows.add_row(_printable(sentence.english, "dim"))
    ways = [sentence.ways[way] for way in WAYS]
    figures = [f"{each.tokens / each.seconds:.0f}" for each in ways]
    if sentence.identical:
        rows.add_row(Padding(_printable(ways[0].text, "bold"), (0, 0, 0, 2)), *figures)
    else:
        for number, (way, each) in enumerate(zip(WAYS, ways, strict=True)):
            text = Padding(_printable(f"{way}: {each.text}", "red"), (0, 0, 0, 2))
            rows.add_row(text, *(figures if number == 0 else ()))
    console.print(rows)


def show_result(console: Console, result: Result, command: str) -> None:
    """The figures of all sentences, whether the texts are the same, and what to do next.

    command: translates a sentence of one's own, if its text is put behind it.
    """
    console.print("", _totals(result), "", _layers(result), "")
    count = len(result.sentences)
    if result.identical:
        console.print(f"[green]yes[/]  all {count} translations are the same, three ways")
    else:
        differ = sum(not sentence.identical for sentence in result.sentences)
        console.print(f"[red]NO[/]   {differ} of {count} translations are not the same, three ways")
    console.print("Whatever else this machine did meanwhile is in these figures.")
    line = f'\nNow yours: {command} "Where is the station?"'
    console.print(line, markup=False, highlight=False, soft_wrap=True)  # to be copied


def svg(console: Console) -> str:
    """What a console has recorded, as a picture that loads nothing from elsewhere."""
    text = console.export_svg(title="reluctant demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", text, flags=re.DOTALL)


def _rows(console: Console) -> Table:
    """Sentences to the left, a figure for each way to the right: the same columns each time."""
    figures = len(WAYS) * (_FIGURES + 1)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(width=max(min(console.width, WIDEST) - figures - 1, 10), overflow="fold")
    for _ in WAYS:
        table.add_column(width=_FIGURES, justify="right")
    return table


def _totals(result: Result) -> Table:
    table = Table(
        title="All sentences",
        caption=f"Tokens are those of the translations, with their ends; {result.threads} threads. "
        f"In torch about {result.feed_forward_share:.0%} of the time is in feed-forward layers.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    columns = ("", "tokens", "seconds", "tokens/s", "times torch", "times dense")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    speeds = {way: result.total(way).tokens_per_second for way in WAYS}
    for way, speed in speeds.items():
        total = result.total(way)
        factors = f"{speed / speeds['torch']:.2f}", f"{speed / speeds['dense']:.2f}"
        table.add_row(way, str(total.tokens), f"{total.seconds:.2f}", f"{speed:.1f}", *factors)
    return table


def _layers(result: Result) -> Table:
    table = Table(
        title="Active neurons of the feed-forward layers, of all",
        caption="candidates: those that the engine has to look at. Counted at each position of the "
        "sentences and each step of the translations.",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("layer")
    table.add_column("0%" + "100%".rjust(_BAR - 2), width=_BAR, no_wrap=True)
    table.add_column("active", justify="right")
    table.add_column("candidates", justify="right")
    for layer in result.layers:
        name = layer.name.removesuffix(".feed_forward").replace(".layers.", " ")
        bar = Bar(1.0, 0.0, layer.active, width=_BAR, color="green", bgcolor="grey23")
        table.add_row(Text(name), bar, f"{layer.active:.1%}", f"{layer.candidates:.1%}")
    return table


def _printable(text: str, style: str) -> Text:
    return Text(printable(text), style=style)
