"""A model and a text in, a record out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

import reluctant
from reluctant.errors import ReluctantError
from reluctant.lab.arithmetic import counted, flops_of, parameters_of, parameters_of_model
from reluctant.lab.inspect.gather import layer_of
from reluctant.lab.inspect.items import Items
from reluctant.lab.inspect.of_layer import Layer
from reluctant.lab.inspect.of_neuron import Wanted
from reluctant.lab.inspect.of_sentence import Sentence
from reluctant.lab.inspect.record import Check, Left, Model, Record, Totals
from reluctant.lab.inspect.record import Text as Read
from reluctant.lab.inspect.sentences import Look, expect_sentences, needed
from reluctant.lab.inspect.stream import Stream
from reluctant.lab.inspect.subject import Batch, Subject
from reluctant.lab.inspect.text import Text
from reluctant.lab.inspect.walk import walk
from reluctant.lab.residual import Residuals
from reluctant.lab.watch import Watched, watched
from reluctant.machine import cpu_model
from reluctant.whole.twin import twin


@dataclass(frozen=True)
class Options:
    """sentences: to be looked at one by one; None: the first three lines. neurons: of each layer,
    those that add most. limit: about so many tokens of the text; None: all. seed: of what is
    drawn. command: what the user typed. turn: seconds of each way in each round of what is timed.
    """

    sentences: Sequence[str] | None = None
    neurons: int = 64
    limit: int | None = None
    seed: int = 1
    command: str = ""
    turn: float = 0.01

    def __post_init__(self) -> None:
        if self.neurons < 1 or self.seed < 0 or (self.limit is not None and self.limit < 1):
            raise ReluctantError(
                "expected neurons and a limit of at least 1, and a seed of at least 0, got "
                f"{self.neurons}, {self.limit} and {self.seed}"
            )


def never() -> bool:
    """Says that nobody wants it to stop."""
    return False


def run_inspection(
    subject: Subject,
    text: Text,
    options: Options,
    *,
    translated: bool,
    stopped: Callable[[], bool] = never,
    on_step: Callable[[str], object] = lambda step: None,
) -> Record:
    """Send the text through a copy of the model, on the same weights, and tell what was seen.

    translated: whether the model itself is to say what its decoder reads. stopped: asked between
    batches. on_step: told what goes on, also after each batch.

    Raises ReluctantError for a model without a layer that can be watched, a text or a sentence
    without a token, and a model that does not run.
    """
    expect_sentences(subject, options.sentences or ())
    on_step("looking for the layers")
    model, plain = twin(subject.model), twin(subject.model)
    with watched(model) as layers:
        if not layers.watches:
            reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in layers.left[:5])
            raise ReluctantError(f"no feed-forward layer can be watched: {reasons}")
        with _residuals(model, layers) as residuals:
            stream = Stream(subject, model, layers, residuals, seed=options.seed)
            answering = subject.prepared(twin(subject.model)) if translated else None
            items = Items(subject, text, options.limit)
            whole = stream.run(items, answering, stopped, lambda: on_step("reading"))
            if not stream.sequences:
                got = "none" if whole else "no time to read it"
                raise ReluctantError(
                    f"expected a text with at least one token, got {got}: {text.name}"
                )
            texts = items.first if options.sentences is None else options.sentences
            looks, sentences = list[Look](), list[Sentence]()
            for each in texts:
                on_step(f"sentence {len(looks) + 1}")
                looks.append(Look(subject, model, layers, residuals, each))
                sentences.append(looks[-1].told(stopped))
            way, checks = walk(looks), _checks(looks, layers, plain)
        totals, shares = _arithmetic(stream, plain)
        named = {name: needed(sentences, way, name) for name in stream.instruments}
        found = list[Layer]()
        for name, instrument in stream.instruments.items():
            on_step(f"layer {len(found) + 1}")
            wanted = Wanted(
                index=sum(subject.stack_of(name) == other.stack for other in found),
                parameters=totals.parameters,
                flops_share=shares[name],
                neurons=options.neurons,
                needed=named[name],
                tokens=None if stopped() else _tokens_of_a_call(stream, name),
                turn=options.turn,
            )
            found.append(layer_of(instrument, subject, wanted))
    by = "interrupted" if not whole else "limit" if items.limited else None
    return Record(
        reluctant=reluctant.__version__,
        machine=cpu_model(),
        command=options.command,
        model=_model(subject, totals.parameters),
        text=_read(stream, text, by, translated=translated),
        totals=totals,
        layers=found,
        left=[Left(entry.name, entry.reason) for entry in layers.left],
        sentences=sentences,
        walk=way,
        checks=checks,
    )


def _residuals(model: nn.Module, layers: Watched) -> Residuals:
    widths = {watch.keys.shape[1] for watch in layers.watches}
    parts = (watch.engine.neurons.norm for watch in layers.watches)
    return Residuals(model, widths, [part for part in parts if part is not None])


def _checks(looks: Sequence[Look], layers: Watched, plain: nn.Module) -> list[Check]:
    lost = layers.lost()
    says = f"{len(lost)} of {len(layers.watches)} layers were put back: {', '.join(lost)}"
    if not lost:
        says = f"all {len(layers.watches)} layers computed what the model's own code computes"
    return [*(look.check(plain) for look in looks[:1]), Check("layers", not lost, says)]


def _arithmetic(stream: Stream, plain: nn.Module) -> tuple[Totals, dict[str, float | None]]:
    """What the model computes for some sequences of the text, and each layer's share of it."""
    subject, instruments = stream.subject, stream.instruments
    kept, sides = stream.kept, list(enumerate(subject.stacks))
    alone = [Batch([item], subject.stacks, subject.pad) for item in kept]
    flops = sum(counted(partial(subject.complete, plain, batch)) for batch in alone)
    lengths = {stack: sum(len(item[side]) for item in kept) for side, stack in sides}
    of_layers = dict[str, float]()
    for name, instrument in instruments.items():
        stack = subject.stack_of(name)
        calls = instrument.tokens / max(stream.tokens[stack], 1)  # of a token, mostly one
        of_layers[name] = flops_of(instrument.watch) * calls * lengths[stack]
    tokens = sum(lengths.values())
    totals = Totals(
        parameters=parameters_of_model(subject.model),
        feed_forward_parameters=parameters_of(each.watch for each in instruments.values()),
        flops_per_token=flops / tokens,
        feed_forward_flops_per_token=sum(of_layers.values()) / tokens,
        tokens=sum(stream.tokens.values()),
        flops_sequences=len(kept),
        flops_tokens=tokens,
    )
    return totals, {name: each / flops if flops else None for name, each in of_layers.items()}


def _tokens_of_a_call(stream: Stream, layer: str) -> int:
    """One, where tokens come one after the other; else as many as a sequence has."""
    stack = stream.subject.stack_of(layer)
    if stack == "decoder" or stream.subject.kind == "decoder":
        return 1
    return max(1, round(stream.tokens[stack] / stream.sequences))


def _model(subject: Subject, parameters: int) -> Model:
    return Model(subject.name, type(subject.model).__name__, subject.kind, parameters)


def _read(stream: Stream, text: Text, stopped: str | None, *, translated: bool) -> Read:
    two = len(stream.subject.stacks) > 1
    facts: dict[str, Any] = {"name": text.name, "bytes": text.bytes, "replaced": text.replaced}
    return Read(
        **facts,
        sequences=stream.sequences,
        tokens=sum(stream.tokens.values()),
        by_stack=stream.tokens,
        seconds=stream.seconds,
        whole=stopped is None,
        stopped=stopped,
        target=("translated" if translated else "given") if two else None,
    )
