"""Any model's feed-forward layers on real text: which neurons fire, where, and what they add."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from reluctant.errors import ReluctantError
from reluctant.lab.inspect.open import Languages, open_subject, subject_of
from reluctant.lab.inspect.record import Record
from reluctant.lab.inspect.run import Options, never, run_inspection
from reluctant.lab.inspect.text import Lines

__all__ = [
    "Languages",
    "Options",
    "Record",
    "inspect",
    "open_subject",
    "run_inspection",
    "subject_of",
]


def inspect(
    model: nn.Module,
    lines: Iterable[str],
    *,
    words: Any,
    targets: Iterable[str] | None = None,
    sentences: Sequence[str] | None = None,
    neurons: int = 64,
    limit: int | None = None,
    seed: int = 1,
    name: str = "model",
    languages: Languages = (None, None),
    stopped: Callable[[], bool] = never,
    without: Sequence[tuple[str, int]] = (),
) -> Record:
    """Send text through a model, once, and tell what each of its feed-forward layers did with it.

    model: in eval mode, on the CPU: a `reluctant.transformer.Transformer`, a model of transformers,
        or any other that takes token ids (sequences, length) and returns a tensor. What is run is a
        copy on the same weights; the model stays as it is. Hooks that you have put on it are called
        in the copy, too, for they may be a part of what it computes.
    lines: the text; long ones are cut at the model's length. Memory does not grow with it.
    words: its `Vocabulary`, or its tokenizer of transformers.
    targets: of an encoder-decoder, what the decoder reads, a line for each of `lines`; None: the
        model's own greedy translations.
    sentences: to be looked at one by one; None: the first three lines.
    neurons: how many of each layer are told of, those that add most, and those that sentences need.
    limit: about so many tokens of the text; None: all of it. seed: of the samples.
    name: of the model. languages: codes of source and target, for models of many languages.
    stopped: asked between batches whether to stop and tell what was seen.
    without: neurons to be taken out of each sentence, beside those that add most to it: the name of
        the layer, as the record has it, and the index.

    Raises ReluctantError for a model without a feed-forward layer that can be watched, or that does
    not go with its words, for a text without a token, and targets that are not as many as lines.

    >>> from reluctant.transformer import Transformer, TransformerConfig
    >>> from reluctant.translation.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.train(["new newer newest"] * 9, size=320)
    >>> sizes = dict(d_model=16, heads=2, d_ff=64, encoder_layers=1, decoder_layers=1)
    >>> model = Transformer(TransformerConfig(len(vocabulary), **sizes)).eval()
    >>> record = inspect(model, ["newest", "new"], words=vocabulary, targets=["new", "newer"])
    >>> [(layer.stack, layer.d_ff, layer.tokens) for layer in record.layers]
    [('encoder', 64, 4), ('decoder', 64, 4)]
    >>> record.text.whole, record.sound
    (True, True)
    """
    subject = subject_of(model, words, name=name, languages=languages)
    two = len(subject.stacks) > 1
    if targets is not None and not two:
        raise ReluctantError(
            f"expected no targets for {name}, which has no decoder beside an encoder"
        )
    options = Options(sentences=sentences, neurons=neurons, limit=limit, seed=seed, without=without)
    text, translated = Lines(lines, targets), two and targets is None
    return run_inspection(subject, text, options, translated=translated, stopped=stopped)
