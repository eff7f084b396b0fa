"""One pass of a text through a model whose feed-forward layers are watched."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from time import perf_counter

import torch
from torch import nn

from reluctant.lab.inspect.items import batches, blocks
from reluctant.lab.inspect.reading import Call, Reading, failure
from reluctant.lab.inspect.subject import Item
from reluctant.lab.inspect.trial import padding_counts_nowhere
from reluctant.lab.instruments import Instrument

KEPT = 8  # sequences of which the model's arithmetic is counted
_TRIED = 64  # tokens of the sequence that is tried out before


class Stream:
    """Sends sequences through a watched model, and has the instruments read its layers.

    instruments: of each layer, by its name. tokens: that went through each stack; sequences: how
    many; bytes, replaced: of the text that they are from. kept: a few sequences, each as likely as
    any other. seconds: of the pass. alone: whether sequences go one by one. astray: layers that had
    rows in a padded batch of which it is not known which are padding; longer: those that had more
    rows of one sequence than it has tokens, and it is not known which.
    """

    def __init__(self, reading: Reading, *, seed: int) -> None:
        self.reading, self.subject = reading, reading.subject
        subject = self.subject
        sizes = {"positions": subject.longest, "vocabulary": subject.vocabulary}
        self.instruments = {
            watch.name: Instrument(watch, seed=seed + number, **sizes)
            for number, watch in enumerate(reading.layers.watches)
        }
        self.tokens = dict.fromkeys(subject.stacks, 0)
        self.sequences = self.bytes = self.replaced = 0
        self.seconds, self.kept = 0.0, list[Item]()
        self.astray, self.longer = set[str](), set[str]()
        self._random = Random(seed)
        self.alone = True

    def run(
        self,
        items: Iterable[Item],
        answering: nn.Module | None,
        stopped: Callable[[], bool],
        on_step: Callable[[str], object],
    ) -> bool:
        """Take all of them; says whether that was all, or it was stopped in between.

        answering: a copy of the model that says what the decoder reads; None: the items have it.
        on_step: told after each batch what was done with it. What was translated is read, too.
        """
        start = perf_counter()
        try:
            for number, block in enumerate(blocks(items)):
                if not number:
                    if stopped():
                        return False
                    self._try(block, answering)
                there = block
                if answering is not None:
                    there = self._answered(block, answering, stopped, on_step)
                for batch in batches(there, alone=self.alone):
                    if answering is None and stopped():
                        return False
                    self._take(batch)
                    on_step("reading")
                if len(there) < len(block):
                    return False
        finally:
            self.seconds += perf_counter() - start
        return True

    def _try(self, block: Sequence[Item], answering: nn.Module | None) -> None:
        """See whether sequences may go side by side, padded."""
        item = max(block, key=lambda item: sum(map(len, item.sides)))
        item = Item(item.source[:_TRIED], item.target[:_TRIED])
        if answering is not None:
            item = item._replace(target=self._says([item], answering)[0][:_TRIED])
        self.alone = not padding_counts_nowhere(self.reading, item)
        self.reading.layers.begin()

    def _answered(
        self,
        block: Sequence[Item],
        answering: nn.Module,
        stopped: Callable[[], bool],
        on_step: Callable[[str], object],
    ) -> list[Item]:
        """With what the model says, as far as there is time."""
        answered: list[Item] = []
        for batch in batches(block, alone=self.alone):
            if stopped():
                break
            on_step("translating")
            said = zip(batch, self._says(batch, answering), strict=True)
            answered += [item._replace(target=target) for item, target in said]
        return answered

    def _says(self, batch: Sequence[Item], answering: nn.Module) -> list[list[int]]:
        try:
            with torch.no_grad():
                return self.subject.answers(answering, [item.source for item in batch])
        except Exception as error:  # whatever a model raises
            raise failure(self.subject, error) from error

    def _take(self, batch: Sequence[Item]) -> None:
        made = self.reading.batch(batch)
        self.reading.read(made, self._tell)
        for side, stack in enumerate(self.subject.stacks):
            self.tokens[stack] += sum(len(item.sides[side]) for item in batch)
        for item in batch:
            self.bytes, self.replaced = self.bytes + item.bytes, self.replaced + item.replaced
            self.sequences += 1
            if len(self.kept) < KEPT:
                self.kept.append(item)
            elif (slot := self._random.randrange(self.sequences)) < KEPT:
                self.kept[slot] = item

    def _tell(self, call: Call) -> None:
        name = call.watch.name
        instrument = self.instruments[name]
        instrument.add(call.seen, call.placed)
        instrument.add_update(call.seen.y, call.residual, call.placed)
        if call.placed is None and call.batch.padded:
            self.astray.add(name)
        elif call.placed is None and len(call.seen.x) > len(call.batch.rows):
            self.longer.add(name)

    @property
    def memory_bytes(self) -> int:
        """Of all instruments."""
        return sum(instrument.memory_bytes for instrument in self.instruments.values())
