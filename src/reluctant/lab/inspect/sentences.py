"""Single sentences: which neurons each token used, and what the model says without one of them."""

from collections.abc import Callable, Iterator, Sequence

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
from reluctant.lab.inspect.record import Check
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.residual import Residuals
from reluctant.lab.watch import Seen, Watch, Watched

LONGEST = 64  # tokens of a sentence that is looked at one by one
SHOWN, TAKEN_OUT = 12, 3  # neurons of a token; of a layer


def expect_sentences(subject: Subject, texts: Sequence[str]) -> None:
    """Raise ReluctantError for a sentence without a token."""
    for text in texts:
        if not text.strip() or not subject.encode(text, LONGEST):
            raise ReluctantError(f"expected a sentence with at least one token, got {text!r}")


class Look:
    """A sentence on its way through the watched model, and all that its layers computed.

    calls: of each layer, by its name. residuals: of its first call, (rows, d_model), or None.
    """

    def __init__(
        self,
        subject: Subject,
        model: nn.Module,
        layers: Watched,
        residuals: Residuals,
        text: str,
    ) -> None:
        found = subject.encode(text, LONGEST)
        self.source, self.whole = found[0], len(found) == 1
        self.subject, self.model, self.layers = subject, model, layers
        self.answer: Answer = answer(subject, model, self.source, LONGEST)
        self.calls: dict[str, list[Seen]] = {watch.name: [] for watch in layers.watches}
        self.residuals: dict[str, Tensor] = {}

        def see(watch: Watch, seen: Seen) -> None:
            first = not self.calls[watch.name]
            self.calls[watch.name].append(seen)

            def found(residual: Tensor | None, why: str) -> None:
                if first and residual is not None:
                    self.residuals[watch.name] = residual

            residuals.called(seen.x, seen.y, found)

        layers.show(see)
        try:
            reread(subject, model, self.answer.item)
            residuals.end()
        finally:
            layers.show(None)
        self.text = text if self.whole else subject.words.text(self.source).strip()

    def tokens(self, stack: str) -> list[int]:
        """The ids that a stack reads."""
        return list(self.answer.item[self.subject.stacks.index(stack)])

    def first(self, watch: Watch) -> Seen | None:
        """A layer's first call, if it had a row for each token of its stack."""
        calls = self.calls[watch.name]
        count = len(self.tokens(self.subject.stack_of(watch.name)))
        return calls[0] if calls and len(calls[0].x) == count else None

    def check(self, plain: nn.Module) -> Check:
        """Whether the watched model says what `plain`, a copy that nobody watches, says."""
        untouched = reread(self.subject, plain, self.answer.item)
        holds, apart = same(untouched, self.answer.output)
        what = f"the output while the layers are watched is {apart:.1e} from the untouched model's"
        return Check("watching changes nothing", holds, what)

    def told(self, stopped: Callable[[], bool]) -> Sentence:
        """What the record says of it."""
        subject, parts = self.subject, dict[str, list[str]]()
        for stack in subject.stacks:
            parts[stack] = [subject.words.piece(id) for id in self.tokens(stack)]
        layers = [
            SentenceLayer(
                watch.name,
                subject.stack_of(watch.name),
                list(_uses(watch, seen)),
                list(self._without(watch, seen, stopped)),
            )
            for watch in self.layers.watches
            if (seen := self.first(watch)) is not None
        ]
        return Sentence(self.text, self.answer.text, parts, layers)

    def _without(self, watch: Watch, seen: Seen, stopped: Callable[[], bool]) -> Iterator[Without]:
        """The answer without each of the neurons that added most."""
        subject, before = self.subject, self.answer
        added = norms(watch, seen).square().sum(0)
        calls = self.calls[watch.name]
        for index in added.topk(min(TAKEN_OUT, len(added))).indices.tolist():
            if not any(bool(watch.active(call)[:, index].any()) for call in calls):
                yield Without(index, False, before.text, before.text, 0.0)
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
            yield Without(index, True, before.text, text, change(subject, before.output, output))


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
