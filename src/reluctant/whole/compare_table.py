"""The comparison with others' engines for people."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reluctant.machine import header
from reluctant.whole.compare import OTHERS_PACKAGES, PROMPT, Compared, Result


def show(result: Result, console: Console) -> None:
    """Print one table a model, and who is left out."""
    console.print(escape(header(*OTHERS_PACKAGES)))
    for model in result.models:
        console.print(_table(model))
        for reason in dict.fromkeys(model.missing.values()):
            names = ", ".join(n for n, why in model.missing.items() if why == reason)
            console.print(f"[yellow]{names} left out:[/] {escape(reason)}")


def _table(model: Compared) -> Table:
    how = "greedy" if model.beams == 1 else f"{model.beams} beams"
    table = Table(
        title=Text(f"{model.name}: {model.kind}, checkpoint {model.dtype}, {how}"),
        caption=f"Prompts of {PROMPT} tokens, {model.new} new ones a call, median of "
        f"{model.rounds} rounds. Each way was timed in turns with eager float32, whose tokens/s "
        "then stand beside: its factor is against those. Band: the share of the bandwidth that "
        f"a dense token's weights take ({model.read_share:.0%} of all), as that way holds them, of "
        f"{model.bandwidth / 1e9:.1f} GB/s of reading memory alone; more than 100 %: not all are "
        "read. MB: weights, and what is kept besides. Float64: new tokens up to the first that "
        "float64 would not have written.",
        box=box.SIMPLE,
    )
    columns = ("tokens/s", "eager", "factor", "band", "MB", "added", "float64")
    table.add_column(overflow="fold")  # names give way, figures do not
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for line in model.lines:
        table.add_row(
            line.name,
            f"{line.tokens_per_second:.1f}",
            f"{model.new / line.eager_seconds:.1f}",
            f"{line.factor:.2f}x",
            f"{line.share:.0%}",
            f"{line.held / 1e6:.0f}",
            f"{line.added / 1e6:.0f}",
            f"{line.equal}/{model.tokens}",
        )
    return table
