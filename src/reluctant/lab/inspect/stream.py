"""One pass of a text through a model whose feed-forward layers are watched."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from random import Random
from time import perf_counter
from typing import Any

import torch
from torch import nn

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.items import batches, blocks
from reluctant.lab.inspect.subject import Batch, Item, Subject
from reluctant.lab.instruments import Instrument
from reluctant.lab.placed import Placed
from reluctant.lab.residual import Residuals
from reluctant.lab.watch import Seen, Watch, Watched
from reluctant.whole.load import one_line

KEPT = 8  # sequences of which the model's arithmetic is counted


class Stream:
    """Sends sequences through the model, and has the instruments read its layers.

    model: a copy of the subject's, whose layers are watched.

    instruments: of each layer, by its name. tokens: that went through each stack; sequences: how
    many. kept: a few sequences, each as likely as any other. seconds: of the pass.
    """

    def __init__(
        self,
        subject: Subject,
        model: nn.Module,
        layers: Watched,
        residuals: Residuals,
        *,
        seed: int,
    ) -> None:
        self.subject, self.model = subject, model
        self._layers, self._residuals = layers, residuals
        sizes = {"positions": subject.longest, "vocabulary": subject.vocabulary}
        self.instruments = {
            watch.name: Instrument(watch, seed=seed + number, **sizes)
            for number, watch in enumerate(layers.watches)
        }
        self.tokens = dict.fromkeys(subject.stacks, 0)
        self.sequences, self.seconds, self.kept = 0, 0.0, list[Item]()
        self._random = Random(seed)
        self._alone = not subject.batched
        self._placed: dict[str, Placed] = {}

    def run(
        self,
        items: Iterable[Item],
        answering: nn.Module | None,
        stopped: Callable[[], bool],
        on_progress: Callable[[], object],
    ) -> bool:
        """Take all of them; says whether that was all, or it was stopped in between.

        answering: a copy of the model that says what the decoder reads; None: the items have it.
        """
        start = perf_counter()
        self._layers.show(self._see)
        try:
            for block in blocks(items):
                there = block if answering is None else self._answered(block, answering, stopped)
                for batch in self._batches(there):
                    if stopped():
                        return False
                    self._take(batch)
                    on_progress()
                if len(there) < len(block):
                    return False
        finally:
            self._layers.show(None)
            self.seconds += perf_counter() - start
        return True

    def _answered(
        self, block: Sequence[Item], answering: nn.Module, stopped: Callable[[], bool]
    ) -> list[Item]:
        """With what the model says, as far as there is time."""
        answered: list[Item] = []
        for batch in batches(block, alone=not self.subject.batched):
            if stopped():
                break
            sources = [item.source for item in batch]
            answers = self._tried(partial(self.subject.answers, answering, sources))
            answered += map(Item, sources, answers)
        return answered

    def _batches(self, block: Sequence[Item]) -> Iterator[list[Item]]:
        """The very first sequence goes alone, and shows whether each layer is called with a row for
        each position. Experts are not, and would take padding for tokens: then all go alone.
        """
        if not self.sequences and block:
            yield [block[0]]
            block = block[1:]
            self._alone |= any(each.unplaced or not each.tokens for each in self._all())
        yield from batches(block, alone=self._alone)

    def _all(self) -> Iterable[Instrument]:
        return self.instruments.values()

    def _take(self, batch: Sequence[Item]) -> None:
        subject, made = self.subject, Batch(batch, self.subject.stacks, self.subject.pad)
        self._placed = made.placed()
        self._tried(partial(subject.forward, self.model, made))
        self._residuals.end()
        for stack, placed in self._placed.items():
            self.tokens[stack] += len(placed.rows)
        for item in batch:
            self.sequences += 1
            if len(self.kept) < KEPT:
                self.kept.append(item)
            elif (slot := self._random.randrange(self.sequences)) < KEPT:
                self.kept[slot] = item

    def _tried(self, call: Callable[[], Any]) -> Any:
        try:
            with torch.no_grad():
                return call()
        except ReluctantError:
            raise
        except Exception as error:  # whatever a model raises
            raise ReluctantError(
                f"{self.subject.name} does not run on this text: {one_line(error)}"
            ) from error

    def _see(self, watch: Watch, seen: Seen) -> None:
        placed = self._placed_of(watch, seen)
        instrument = self.instruments[watch.name]
        instrument.add(seen, placed)
        self._residuals.called(
            seen.x,
            seen.y,
            lambda residual, why: instrument.add_update(seen.y, residual, placed, why),
        )

    def _placed_of(self, watch: Watch, seen: Seen) -> Placed | None:
        placed = self._placed[self.subject.stack_of(watch.name)]
        return placed if len(seen.x) == placed.size else None

    @property
    def memory_bytes(self) -> int:
        """Of all instruments."""
        return sum(instrument.memory_bytes for instrument in self._all())
