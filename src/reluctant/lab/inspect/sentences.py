"""Single sentences: which neurons each token used, and what the model says without one of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.answer import Answer, answer, change, next_token, reread, same
from reluctant.lab.inspect.of_sentence import (
    Fired,
    Sentence,
    SentenceLayer,
    TokenUse,
    Walk,
    Without,
)
from reluctant.lab.inspect.reading import Call, Reading
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.watch import Seen, Watch, Watched

LONGEST = 64  # tokens of a sentence that is looked at one by one
SHOWN, TAKEN_OUT = 12, 3  # neurons of a token; of a layer
_NAMES = 8  # of layers in a message


def expect_sentences(subject: Subject, texts: Sequence[str]) -> None:
    """Raise ReluctantError for a sentence without a token."""
    for text in texts:
        if not text.strip() or not subject.encode(text, LONGEST):
            raise ReluctantError(f"expected a sentence with at least one token, got {text!r}")


def neurons_named(
    subject: Subject, layers: Watched, asked: Iterable[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Of neurons that a user names their layers' full names, and their indices.

    asked: the layer by its name, or as tables call it, such as "encoder 0".

    Raises ReluctantError for a layer that is not looked into, and a neuron that it does not have.
    """
    there, counts = dict[str, Watch](), Counter[str]()
    for watch in layers.watches:
        stack = subject.stack_of(watch.name)
        there[watch.name] = there[f"{stack} {counts[stack]}"] = watch
        counts[stack] += 1
    found = []
    for layer, neuron in asked:
        if layer not in there:
            names = [watch.name for watch in layers.watches]
            some = ", ".join(names if len(names) <= _NAMES else [*names[:_NAMES], "..."])
            raise ReluctantError(f"expected a layer that is looked into, {some}; got {layer!r}")
        watch = there[layer]
        if not 0 <= neuron < len(watch.keys):
            raise ReluctantError(
                f"expected a neuron of {watch.name} from 0 to {len(watch.keys) - 1}, got {neuron}"
            )
        found.append((watch.name, neuron))
    return found


class Look:
    """A sentence on its way through the watched model, and all that its layers computed.

    calls: of each layer, by its name. firsts, residuals: of its first call a row for each token,
    where it is known which rows they are, and what it was added to, (rows, d_model).
    """

    def __init__(self, reading: Reading, text: str) -> None:
        subject = self.subject = reading.subject
        self.model, self.layers = reading.model, reading.layers
        found = subject.encode(text, LONGEST)
        self.source, self.whole = found[0], len(found) == 1
        self.answer: Answer = answer(subject, self.model, self.source, LONGEST)
        self.calls: dict[str, list[Seen]] = {watch.name: [] for watch in self.layers.watches}
        self.firsts, self.residuals = dict[str, Seen](), dict[str, Tensor]()
        reading.read(reading.batch([self.answer.item]), self._take)
        self.text = text if self.whole else _text(subject, self.source)

    def tokens(self, stack: str) -> list[int]:
        """The ids that a stack reads."""
        return self.answer.item.sides[self.subject.stacks.index(stack)]

    def _take(self, call: Call) -> None:
        name = call.watch.name
        if not self.calls[name] and call.placed is not None:
            self.firsts[name] = call.own
            if call.residual.rows is not None:
                self.residuals[name] = call.residual.rows[call.placed.rows]
        self.calls[name].append(call.seen)

    def first(self, watch: Watch) -> Seen | None:
        """A layer's first call, a row for each token of its stack; None: not known which."""
        return self.firsts.get(watch.name)

    def compared(self, plain: nn.Module) -> tuple[bool, float]:
        """Whether the watched model says what `plain`, a copy that nobody watches, says; how far
        apart they are.
        """
        return same(reread(self.subject, plain, self.answer.item), self.answer.output)

    def told(self, stopped: Callable[[], bool], asked: Sequence[tuple[str, int]] = ()) -> Sentence:
        """What the record says of it. asked: layers' names and neurons, to be taken out, too."""
        subject, parts = self.subject, dict[str, list[str]]()
        for stack in subject.stacks:
            parts[stack] = [subject.words.piece(id) for id in self.tokens(stack)]
        layers = list[SentenceLayer]()
        for watch in self.layers.watches:
            seen = self.first(watch)
            named = [neuron for layer, neuron in asked if layer == watch.name]
            if seen is not None or named:
                stack = subject.stack_of(watch.name)
                uses = [] if seen is None else list(_uses(watch, seen))
                without = list(self._without(watch, named, stopped))
                calls = len(self.calls[watch.name])
                layers.append(SentenceLayer(watch.name, stack, uses, without, calls))
        return Sentence(self.text, self.answer.text, parts, layers)

    def _without(
        self, watch: Watch, named: Sequence[int], stopped: Callable[[], bool]
    ) -> Iterator[Without]:
        """The answer without each of those named, and of the neurons that added most."""
        subject, before = self.subject, self.answer
        calls = self.calls[watch.name]
        for index in dict.fromkeys([*named, *self._most(watch)]):
            asked = index in named
            if not any(bool(watch.active(call)[:, index].any()) for call in calls):
                yield Without(index, False, before.text, before.text, 0.0, asked)
                continue
            if stopped():
                return
            watch.without = index
            try:
                output, text = reread(subject, self.model, before.item), before.text
                if len(subject.stacks) == 1:
                    text = next_token(subject, output)
                elif text is not None:
                    text = answer(subject, self.model, self.source, LONGEST).text
            finally:
                watch.without = None
            changed = change(subject, before.output, output)
            yield Without(index, True, before.text, text, changed, asked)

    def _most(self, watch: Watch) -> list[int]:
        """A layer's neurons that added most in its first call; none if that cannot be read."""
        seen = self.first(watch)
        if seen is None:
            return []
        added = norms(watch, seen).square().sum(0)
        most: list[int] = added.topk(min(TAKEN_OUT, len(added))).indices.tolist()
        return most


def _text(subject: Subject, ids: list[int]) -> str:
    """As it is shown to who knows nothing of special tokens."""
    return subject.words.text(subject.bare(ids)).strip()


def norms(watch: Watch, seen: Seen) -> Tensor:
    """|h_i| |v_i|, the length of what each neuron adds: float64 (rows, d_ff)."""
    lengths: Tensor = watch.engine.neurons.values.double().norm(dim=1)
    return seen.h.double().abs() * lengths


def _uses(watch: Watch, seen: Seen) -> Iterator[TokenUse]:
    added, active = norms(watch, seen), watch.active(seen)
    added = added.masked_fill(~active, -1.0)  # behind those that fired and add nothing
    found = added.topk(min(SHOWN, added.shape[1]))
    for row, (indices, lengths) in enumerate(
        zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ):
        pairs = zip(indices, lengths, strict=True)
        fired = [Fired(i, float(seen.h[row, i]), norm) for i, norm in pairs if norm >= 0]
        yield TokenUse(int(active[row].sum()), fired)


def needed(sentences: Sequence[Sentence], walk: Walk | None, layer: str) -> set[int]:
    """The neurons of a layer that sentences and the walk name."""
    found = set[int]()
    for sentence in sentences:
        for each in sentence.layers:
            if each.name == layer:
                found |= {fired.index for token in each.tokens for fired in token.neurons}
                found |= {without.neuron for without in each.without}
    if walk is not None and walk.layer == layer:
        found |= {neuron.index for neuron in walk.neurons}
    return found
