"""What is told of single neurons: what makes them fire, and what their values say."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reluctant.lab.inspect.of_layer import Context, Neighbour, Neuron, Score
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.instruments import Instrument
from reluctant.lab.placed import BEFORE

TOKENS, NEIGHBOURS = 10, 5
# Of neurons that are told of only because a sentence needs them: a page has to stay small.
FEW_CONTEXTS, FEW_TOKENS = 3, 5
_AT_ONCE = 64  # neurons whose products with all tokens are in memory


@dataclass(frozen=True)
class Wanted:
    """What is to be told of a layer.

    index: among those of its stack. stack_tokens: that its stack has read. parameters: of the
    model. flops_share: of the model's. neurons: how many of those that add most; needed: others
    that have to be among them. tokens: of a call that is timed, None: it is not; turn: seconds, as
    `measured` takes it.
    """

    index: int
    stack_tokens: int
    parameters: int
    flops_share: float | None
    neurons: int
    needed: Collection[int]
    tokens: int | None
    turn: float


def neurons_of(
    instrument: Instrument,
    subject: Subject,
    shares: Tensor,
    wanted: Wanted,
    *,
    promotes: Tensor | None,
) -> Iterator[Neuron]:
    """Those with the largest shares (d_ff,) of the norm, and the needed ones, the largest first.

    promotes: the output embeddings (vocabulary, d_model), or None if the layer's values do not go
    there.
    """
    order = shares.sort(descending=True, stable=True).indices.tolist()
    first = set(order[: wanted.neurons])
    picked = [index for index in order if index in first or index in wanted.needed]
    watch = instrument.watch
    values, keys, biases = watch.engine.neurons.values, watch.keys, watch.biases
    value_norms, key_norms = (each.double().norm(dim=1) for each in (values, keys))
    directions = keys.float() / key_norms.float().clamp(min=1e-30)[:, None]
    for at in range(0, len(picked), _AT_ONCE):
        some = picked[at : at + _AT_ONCE]
        cosines = directions[some] @ directions.T
        scores = None if promotes is None else values[some].float() @ promotes.float().T
        for row, index in enumerate(some):
            full, use = index in first, int(instrument.use[index])
            tokens = TOKENS if full else FEW_TOKENS
            of_tokens = None if scores is None else scores[row]
            yield Neuron(
                index=index,
                use=use / max(instrument.tokens, 1),
                mean=float(instrument.total[index]) / use if use else None,
                norm_share=float(shares[index]),
                value_norm=float(value_norms[index]),
                key_norm=float(key_norms[index]),
                bias=None if biases is None else float(biases[index]),
                contexts=_contexts(instrument, subject, index)[: None if full else FEW_CONTEXTS],
                promotes=_said(of_tokens, subject, tokens, largest=True),
                suppresses=_said(of_tokens, subject, tokens, largest=False),
                neighbours=_neighbours(cosines[row], index),
            )


def _contexts(instrument: Instrument, subject: Subject, index: int) -> list[Context]:
    kept = instrument.contexts
    found = []
    for size, value, window in zip(
        kept.sizes[index].tolist(),
        kept.values[index].tolist(),
        kept.windows[index].tolist(),
        strict=True,
    ):
        if size > 0:
            before, token, after = window[:BEFORE], window[BEFORE], window[BEFORE + 1 :]
            texts = (_text(subject, ids) for ids in (before, [token], after))
            found.append(Context(value, *texts))
    return found


def _text(subject: Subject, ids: Sequence[int]) -> str:
    return subject.words.text([id for id in ids if id >= 0])


def _said(
    scores: Tensor | None, subject: Subject, count: int, *, largest: bool
) -> list[Score] | None:
    if scores is None:
        return None
    found = scores.topk(min(count, len(scores)), largest=largest)
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [Score(subject.words.piece(id), score) for id, score in pairs]


def _neighbours(cosines: Tensor, index: int) -> list[Neighbour]:
    cosines = cosines.clone()
    cosines[index] = -torch.inf
    found = cosines.topk(min(NEIGHBOURS, len(cosines) - 1))
    return list(map(Neighbour, found.indices.tolist(), found.values.tolist()))
