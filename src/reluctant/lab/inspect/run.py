"""A model and a text in, a record out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, starmap

from torch import nn

import reluctant
from reluctant.errors import ReluctantError
from reluctant.lab.arithmetic import counted, flops_of, parameters_of, parameters_of_model
from reluctant.lab.inspect.checks import checks_of, why_unseen
from reluctant.lab.inspect.gather import layer_of
from reluctant.lab.inspect.items import Items
from reluctant.lab.inspect.of_layer import Layer
from reluctant.lab.inspect.of_neuron import Wanted
from reluctant.lab.inspect.of_sentence import Sentence
from reluctant.lab.inspect.reading import Reading
from reluctant.lab.inspect.record import Left, Model, Record, Totals
from reluctant.lab.inspect.record import Text as Read
from reluctant.lab.inspect.sentences import Look, expect_sentences, needed, neurons_named
from reluctant.lab.inspect.stream import Stream
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.inspect.text import Text
from reluctant.lab.inspect.walk import walk
from reluctant.lab.residual import Residuals
from reluctant.lab.watch import Watched, watched
from reluctant.machine import cpu_model
from reluctant.printable import encodable
from reluctant.whole.twin import twin


@dataclass(frozen=True)
class Options:
    """sentences: to be looked at one by one; None: the first three lines. neurons: of each layer,
    those that add most. limit: about so many tokens of the text; None: all. seed: of what is
    drawn. command: what the user typed. turn: seconds of each way in each round of what is timed.
    without: neurons to be taken out of each sentence, beside those that add most to it: the layer,
    by its name or such as "encoder 0", and the index.
    """

    sentences: Sequence[str] | None = None
    neurons: int = 64
    limit: int | None = None
    seed: int = 1
    command: str = ""
    turn: float = 0.01
    without: Sequence[tuple[str, int]] = ()

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
    single = None if options.sentences is None else list(map(encodable, options.sentences))
    expect_sentences(subject, single or ())
    on_step("looking for the layers")
    model, plain = twin(subject.model), twin(subject.model)
    with watched(model) as layers:
        if not layers.watches:
            reasons = {entry.name: entry.reason for entry in layers.left}
            raise ReluctantError(f"no feed-forward layer can be watched: {_some(reasons)}")
        asked = neurons_named(subject, layers, options.without)
        with _residuals(model, layers) as residuals:
            reading = Reading(subject, model, layers, residuals)
            stream = Stream(reading, seed=options.seed)
            answering = subject.prepared(twin(subject.model)) if translated else None
            items = Items(subject, text, options.limit)
            whole = stream.run(items, answering, stopped, on_step)
            if not stream.sequences:
                got = "none" if whole else "no time to read it"
                raise ReluctantError(
                    f"expected a text with at least one token, got {got}: {text.name}"
                )
            unseen = {name: why_unseen(stream, name) for name in stream.instruments}
            told = [name for name, why in unseen.items() if not why]
            if not told:
                raise ReluctantError(f"no feed-forward layer can be looked into: {_some(unseen)}")
            texts = items.first if single is None else single
            looks, sentences = list[Look](), list[Sentence]()
            for each in texts:
                on_step(f"sentence {len(looks) + 1}")
                looks.append(Look(reading, each))
                sentence = looks[-1].told(stopped, asked)
                there = [layer for layer in sentence.layers if layer.name in told]
                sentences.append(replace(sentence, layers=there))
            way, checks = walk(looks, told), checks_of(looks, stream, plain, told)
            totals, shares = _arithmetic(stream, plain, told)
        found = list[Layer]()
        for name in told:
            on_step(f"layer {len(found) + 1}")
            stack = subject.stack_of(name)
            wanted = Wanted(
                index=[each for each in unseen if subject.stack_of(each) == stack].index(name),
                stack_tokens=stream.tokens[stack],
                parameters=totals.parameters,
                flops_share=shares[name],
                neurons=options.neurons,
                needed=needed(sentences, way, name),
                tokens=None if stopped() else _tokens_of_a_call(stream, name),
                turn=options.turn,
            )
            found.append(layer_of(stream.instruments[name], subject, wanted))
    by = "interrupted" if not whole or stopped() else "limit" if items.limited else None
    left = {entry.name: entry.reason for entry in layers.left}
    left |= {name: why for name, why in unseen.items() if why}
    read = (text.bytes, text.replaced) if by is None else (stream.bytes, stream.replaced)
    return Record(
        reluctant=reluctant.__version__,
        machine=cpu_model(),
        command=options.command,
        model=_model(subject, totals.parameters),
        text=_read(stream, text.name, read, by, translated=translated),
        totals=totals,
        layers=found,
        left=list(starmap(Left, left.items())),
        sentences=sentences,
        walk=way,
        checks=checks,
    )


def _residuals(model: nn.Module, layers: Watched) -> Residuals:
    widths = {watch.keys.shape[1] for watch in layers.watches}
    parts = (watch.engine.neurons.norm for watch in layers.watches)
    return Residuals(model, widths, [part for part in parts if part is not None])


def _some(reasons: Mapping[str, str]) -> str:
    """The first few of the reasons why layers are not looked into."""
    return "; ".join(f"{name}: {why}" for name, why in islice(reasons.items(), 5))


def _arithmetic(
    stream: Stream, plain: nn.Module, told: Sequence[str]
) -> tuple[Totals, dict[str, float | None]]:
    """What the model computes for some sequences of the text, and each layer's share of it."""
    subject, kept, rows = stream.subject, stream.kept, Counter[str]()
    alone = [stream.reading.batch([item]) for item in kept]
    flops = sum(counted(partial(subject.complete, plain, batch)) for batch in alone)
    for batch in alone:
        stream.reading.read(batch, lambda call: rows.update({call.watch.name: len(call.seen.x)}))
    watches = {name: stream.instruments[name].watch for name in told}
    of_layers = {name: flops_of(watch) * rows[name] for name, watch in watches.items()}
    tokens = sum(len(ids) for item in kept for ids in item.sides)
    totals = Totals(
        parameters=parameters_of_model(subject.model),
        feed_forward_parameters=parameters_of(watches.values()),
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


def _read(
    stream: Stream, name: str, read: tuple[int, int], stopped: str | None, *, translated: bool
) -> Read:
    """read: bytes, and how many were replaced."""
    two = len(stream.subject.stacks) > 1
    return Read(
        name=name,
        bytes=read[0],
        replaced=read[1],
        sequences=stream.sequences,
        tokens=sum(stream.tokens.values()),
        by_stack=stream.tokens,
        seconds=stream.seconds,
        whole=stopped is None,
        stopped=stopped,
        target=("translated" if translated else "given") if two else None,
    )
