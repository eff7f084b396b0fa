"""From an instrument to what the record says of its layer."""

from collections.abc import Iterator

import torch
from torch import Tensor

from reluctant.lab.arithmetic import flops_of, parameters_of
from reluctant.lab.density import EDGES
from reluctant.lab.density import Density as Counted
from reluctant.lab.inspect.of_layer import (
    Density,
    Histogram,
    Layer,
    Rank,
    Saves,
    TokenDensity,
    Update,
)
from reluctant.lab.inspect.of_neuron import Wanted, neurons_of
from reluctant.lab.inspect.subject import Subject
from reluctant.lab.instruments import Instrument
from reluctant.lab.rank import effective_rank
from reluctant.lab.saves import candidates_of, computed, measured

TOKENS = 200  # the most frequent ones, of which the density is told


@torch.no_grad()
def layer_of(instrument: Instrument, subject: Subject, wanted: Wanted) -> Layer:
    """What an instrument has read, in full."""
    watch, counted = instrument.watch, instrument.density
    tokens, rows = instrument.tokens, instrument.sample.rows
    candidates = candidates_of(watch, rows)
    share = None if candidates is None else candidates.mean
    parameters = parameters_of([watch])
    stack = subject.stack_of(watch.name)
    shares = norm_shares(instrument)
    why = _why_not(subject, stack, instrument.d_model)
    promotes = None if why else subject.head
    timed = (
        None if wanted.tokens is None else measured(watch, rows, wanted.tokens, turn=wanted.turn)
    )
    seen = watch.compute(rows)
    x, h, y = (effective_rank(each.float()) for each in (rows, seen.h, seen.y))
    return Layer(
        name=watch.name,
        stack=stack,
        index=wanted.index,
        activation=watch.engine.activation.name,
        gated=watch.engine.neurons.gate is not None,
        exact_zeros=watch.exact_zeros,
        d_model=instrument.d_model,
        d_ff=instrument.d_ff,
        parameters=parameters,
        parameters_share=parameters / wanted.parameters,
        flops_per_token=flops_of(watch),
        flops_share=wanted.flops_share,
        tokens=tokens,
        unplaced=instrument.unplaced,
        not_finite=instrument.not_finite,
        calls_per_token=tokens / max(wanted.stack_tokens, 1),
        density=_density(counted, subject),
        near=instrument.near / max(tokens, 1),
        candidates=candidates,
        dead=int((instrument.use == 0).sum()),
        always=int((instrument.use == tokens).sum()) if tokens else 0,
        use=(instrument.use.double() / max(tokens, 1)).tolist(),
        neurons_for_90=_fewest(shares, 0.9),
        overlap=instrument.overlap / instrument.neighbours if instrument.neighbours else None,
        effective_rank=Rank(x, h, y, len(rows)),
        update=_update(instrument),
        update_why=instrument.why or None,
        saves=Saves(computed(watch, counted.mean, share), timed),
        neurons=list(neurons_of(instrument, subject, shares, wanted, promotes=promotes)),
        promotes_why=why,
    )


def norm_shares(instrument: Instrument) -> Tensor:
    """Each neuron's part of the sum of h_i^2 |v_i|^2 over all tokens: float64 (d_ff,).

    All NaN where an h was not finite.
    """
    values = instrument.watch.engine.neurons.values.double()
    sums = instrument.energy * values.square().sum(1)
    total = sums.sum()
    if not total.isfinite():
        return torch.full_like(sums, torch.nan)
    return sums / total.clamp(min=torch.finfo(torch.float64).tiny)


def _fewest(shares: Tensor, part: float) -> float | None:
    """The smallest share of neurons that has this part of it all; None if it is no number."""
    if not shares.isfinite().all():
        return None
    if not shares.any():
        return 0.0
    reached = shares.sort(descending=True).values.cumsum(0)
    return float((reached < part).sum() + 1) / len(shares)


def _density(counted: Counted, subject: Subject) -> Density:
    d_ff, tokens = counted.d_ff, counted.tokens
    active, there = counted.by_position.double()
    last = int(there.nonzero().max()) + 1 if there.any() else 0
    positions = [
        a / (n * d_ff) if n else None
        for a, n in zip(active[:last].tolist(), there[:last].tolist(), strict=True)
    ]
    return Density(
        mean=counted.mean,
        least=counted.least / d_ff if tokens else 0.0,
        most=counted.most / d_ff,
        histogram=Histogram(list(EDGES), counted.histogram.tolist()),
        by_position=positions,
        by_token=list(_by_token(counted, subject)),
    )


def _by_token(counted: Counted, subject: Subject) -> Iterator[TokenDensity]:
    active, counts = counted.by_token
    order = counts.sort(descending=True, stable=True).indices[:TOKENS].tolist()
    for id in order:
        count = int(counts[id])
        if count:
            density = int(active[id]) / (count * counted.d_ff)
            yield TokenDensity(subject.words.piece(id), id, count, density)


def _update(instrument: Instrument) -> Update | None:
    if instrument.why or not instrument.updates:
        return None
    count = instrument.updates
    return Update(instrument.ratio / count, instrument.cosine / count)


def _why_not(subject: Subject, stack: str, d_model: int) -> str | None:
    """Why it is not told which tokens the layer's values promote."""
    if subject.head is None:
        return "the model has no output projection"
    if stack != subject.stacks[-1]:
        return f"the output projection does not read the {stack}"
    if subject.apart is not None:
        return subject.apart
    if subject.head.shape[1] != d_model:
        return "the output projection reads vectors of another length"
    return None
