"""All runtimes, in both searches and with both sizes of batches."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from reluctant.errors import ReluctantError
from reluctant.machine import header
from reluctant.translation.pairs import Pair, read
from reluctant.translation.score import Scores, score
from tools.decoding.measure import Measured, measure, turns
from tools.decoding.runtimes import PLAIN, ROOM, Runtimes, runtimes
from tools.decoding.table import Result, Row

BATCHES, BEAMS = (1, 32), (1, 4)


def first_pairs(path: Path, count: int) -> list[Pair]:
    """Pairs of sentences from the beginning of a file, each English, tab, German.

    Raises ReluctantError for a file that holds none, or fewer.
    """
    pairs, _ = read([path])
    if len(pairs) < count:
        raise ReluctantError(
            f"expected {count} pairs in {path}, got {len(pairs)}: say --sentences {len(pairs)}"
        )
    return pairs[:count]


class Comparison:
    """Of a model's runtimes on pairs of sentences.

    Raises ReluctantError for a folder that holds no model of `reluctant train`, for sentences that
    are blank or too long, and if sacrebleu is not installed.
    """

    def __init__(self, folder: Path, pairs: Sequence[Pair]) -> None:
        self._references = [pair.target for pair in pairs]
        score(self._references, self._references)  # if it is missing, not after all the work
        self._folder = folder
        self._found: Runtimes = runtimes(folder)
        self._sources = self._found.plain.encode([pair.source for pair in pairs])
        for number, ids in enumerate(self._sources, 1):
            if not 0 < len(ids) <= ROOM:
                raise ReluctantError(
                    f"expected sentences of 1 to {ROOM} tokens, got {len(ids)} in the one of line "
                    f"{number}: leave it out"
                )

    def turns(self, rounds: int) -> int:
        """How many there are in all."""
        lengths = [len(ids) for ids in self._sources]
        each = sum(len(turns(lengths, batch)) for batch in BATCHES)
        return len(BEAMS) * each * rounds * len(self._found.ways)

    def run(self, rounds: int, on_turn: Callable[[], object] = lambda: None) -> Result:
        """Measure. on_turn: called after each turn."""
        rows, signature = list[Row](), ""
        load = os.getloadavg()[0]
        for beam in BEAMS:
            for batch in BATCHES:
                how = {"batch": batch, "beam": beam, "rounds": rounds}
                found = measure(self._found.ways, self._sources, on_turn=on_turn, **how)
                plain = self._texts(found[PLAIN])
                for name, measured in found.items():
                    texts = self._texts(measured)
                    scores = score(texts, self._references)
                    rows.append(_row(name, batch, beam, measured, scores, _same(texts, plain)))
                    signature = scores.bleu_signature
        return Result(
            model=str(self._folder),
            machine=header("ctranslate2"),
            load=load,
            sentences=len(self._sources),
            rounds=rounds,
            threads=torch.get_num_threads(),
            bleu_signature=signature,
            rows=rows,
            missing=self._found.missing,
        )

    def _texts(self, measured: Measured) -> list[str]:
        return self._found.plain.vocabulary.decode(measured.targets)


def _same(texts: Sequence[str], others: Sequence[str]) -> int:
    return sum(text == other for text, other in zip(texts, others, strict=True))


def _row(name: str, batch: int, beam: int, measured: Measured, scores: Scores, same: int) -> Row:
    return Row(
        runtime=name,
        batch=batch,
        beam=beam,
        tokens=measured.tokens,
        seconds=measured.seconds,
        tokens_per_second=measured.tokens_per_second,
        bleu=scores.bleu,
        same=same,
    )
