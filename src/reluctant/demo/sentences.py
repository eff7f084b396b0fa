"""What the demo translates: sentences that the model has not learned from, or our own."""

from importlib.resources import files
from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.evenly import evenly

HELD_OUT = "test-general.tsv"  # in a model's folder: English, tab, German
FEWEST, MOST = 5, 15  # words


def own_sentences() -> list[str]:
    """The sentences of `sentences.txt`.

    >>> len(own_sentences())
    12
    """
    text = files("reluctant.demo").joinpath("sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def choose(folder: Path, count: int, *, own: bool = False) -> list[str]:
    """English sentences for the model in a folder, at most `count`, chosen by a rule.

    Those of 5 to 15 words in the folder's test-general.tsv, at even distances. own, or no such
    file: ours, at even distances.

    Raises ReluctantError if the file is not one of pairs, or has no sentence of that length.
    """
    path = folder / HELD_OUT
    if own or not path.is_file():
        return evenly(own_sentences(), count)
    from reluctant.translation.pairs import read  # noqa: PLC0415

    sources = dict.fromkeys(pair.source for pair in read([path])[0])
    fit = [source for source in sources if FEWEST <= len(source.split()) <= MOST]
    if not fit:
        raise ReluctantError(
            f"expected sentences of {FEWEST} to {MOST} words in {path}, got none: say --text for "
            "our own"
        )
    return evenly(fit, count)
