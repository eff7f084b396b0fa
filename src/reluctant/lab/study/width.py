"""Claim 2: a wide middle catches more. Models of one size that are wide in different places.

d_ff / d_model from a quarter to sixteen at equal parameters, in three sizes; other activations, a
stack of hourglasses, and the neurons early, in the middle or late.
"""

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reluctant.evenly import evenly
from reluctant.lab.rank import effective_rank
from reluctant.lab.study.bench import Bench
from reluctant.lab.study.catalogue import ACTIVATIONS, BASE, CAPACITY, ratio_name, ratios, variant
from reluctant.lab.study.learn import learner
from reluctant.lab.study.plan import Plan
from reluctant.lab.study.rank import distinct
from reluctant.lab.study.seen import Seen, seen
from reluctant.timing import interleaved
from reluctant.transformer.model import Transformer
from reluctant.transformer.steps import Steps
from reluctant.translation.vocabulary import PAD

_RANKED = 2048  # tokens of which the effective rank is taken


def models(plan: Plan) -> tuple[str, ...]:
    """The models that this experiment trains; last those that others train, too, as these may be
    at work beside it.
    """
    own = (name for name in ratios(plan) if name != BASE)
    return (*own, "hourglass", *CAPACITY, *ACTIVATIONS, BASE)


def timed(plan: Plan) -> tuple[str, ...]:
    """Those whose time is taken."""
    return (*ratios(plan), *ACTIVATIONS)


def passes(bench: Bench, seed: int) -> dict[str, Any]:
    """What goes through layers of different widths, of held-out text; means over a model's layers.

    By model: "d_model", "d_ff", and of the model as it is "trained" and before, "untrained":
    "rank_x", "rank_h", "rank_y": effective rank of inputs, of what is between the maps, and of
    outputs, of tokens drawn at random; "density": the share of neurons above zero; "distinct": the
    share of tokens with a set of active neurons of their own; "distinct_x": with an input of their
    own, which is the most that can be. "density" and "distinct" are null for activations without
    exact zeros.
    """
    batches = bench.text.valid.sample(bench.plan.tokens)
    found: dict[str, Any] = {}
    for name in (*(ratio_name(r, "middle") for r in bench.plan.ratios), *ACTIVATIONS):
        for state, of in (("trained", bench.model), ("untrained", bench.untrained)):
            layers = list(seen(of(name, seed), batches).values())
            sizes = {"d_model": layers[0].x.shape[1], "d_ff": layers[0].h.shape[1]}
            found.setdefault(name, sizes)[state] = passed(layers, name not in ("gelu", "swiglu"))
    return {"models": found}


def passed(layers: Sequence[Seen], exact: bool) -> dict[str, float | None]:
    """The figures of one model, as `passes` gives them. exact: whether neurons are exactly zero."""
    return {
        "rank_x": _mean(layers, lambda each: effective_rank(drawn(each.x))),
        "rank_h": _mean(layers, lambda each: effective_rank(drawn(each.h))),
        "rank_y": _mean(layers, lambda each: effective_rank(drawn(each.y))),
        "distinct_x": _mean(layers, lambda each: len(torch.unique(each.x, dim=0)) / len(each.x)),
        "density": _mean(layers, density) if exact else None,
        "distinct": _mean(layers, lambda each: distinct(each.h)) if exact else None,
    }


def drawn(tokens: Tensor) -> Tensor:
    """Some rows, always the same ones of so many: they come in the order of sentences' lengths."""
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    return tokens[order[:_RANKED]]


def density(layer: Seen) -> float:
    """The share of pairs of a token and a neuron above zero."""
    return float((layer.h > 0).double().mean())


def _mean(layers: Sequence[Seen], of: Callable[[Seen], float]) -> float:
    return sum(map(of, layers)) / len(layers)


def timing(bench: Bench, seed: int) -> dict[str, Any]:
    """How long the models take, all in turns, on one thread: wants a quiet machine.

    On two threads pieces of such small layers are handed over or not, and times jump; on one they
    differ by two or three per cent within a run, and a token takes no longer.

    By model: "engine_ms" and "plain_ms": a token of greedy decoding, by the engine (a step is one
    program) and in plain torch: so many tokens of each of some sentences, one sentence after the
    other, whether they had ended or not, with the encoding of the sentence; "alike": the share of
    sentences whose tokens are the same both ways; "step_s": a step of training, in plain torch.
    """
    import reluctant  # noqa: PLC0415  needs Numba

    plan, names = bench.plan, timed(bench.plan)
    sources = [row[row != PAD][None] for b in bench.text.valid.sample(10**9) for row in b.source]
    chosen = evenly(sources, plan.sentences)
    calls: dict[str, Callable[[int], object]] = {}
    found: dict[str, dict[str, float]] = {}
    for name in names:
        plain = bench.model(name, seed)
        with_engine = copy.deepcopy(plain)
        reluctant.optimize(with_engine)
        first, second = (_decoded(each, chosen, plan.longest) for each in (with_engine, plain))
        found[name] = {"alike": sum(map(torch.equal, first, second)) / len(chosen)}
        calls[f"{name} engine_ms"] = partial(_decoding, with_engine, chosen, plan.longest)
        calls[f"{name} plain_ms"] = partial(_decoding, plain, chosen, plan.longest)
    stepping = {name: _stepping(bench, name, seed) for name in names}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = _in_turns(bench, "decoding", calls)
        steps = _in_turns(bench, "training steps", stepping)
    finally:
        torch.set_num_threads(threads)
    for name, each in found.items():
        for what in ("engine_ms", "plain_ms"):
            each[what] = 1e3 * taken[f"{name} {what}"] / (len(chosen) * plan.longest)
        each["step_s"] = steps[name]
    return {"models": found}


def _in_turns(
    bench: Bench, what: str, calls: dict[str, Callable[[int], object]]
) -> dict[str, float]:
    """The median time of a call of each, in seconds."""
    began, rounds = time.monotonic(), 0

    def on_round() -> None:
        nonlocal rounds
        rounds += 1
        seconds = time.monotonic() - began
        bench.tell(f"time of {what}: round {rounds} of {bench.plan.rounds}, {seconds:.0f} s")
        bench.check()

    return interleaved(calls, rounds=bench.plan.rounds, settle=None, turn=0.0, on_round=on_round)


def _decoding(model: Transformer, sources: list[Tensor], longest: int, number: int) -> None:
    _decoded(model, sources, longest)


@torch.no_grad()
def _decoded(model: Transformer, sources: list[Tensor], tokens: int) -> list[Tensor]:
    """So many most likely tokens of each translation, (1, tokens): what comes after the end counts,
    too, so that a model's time does not hang on how much it has to say.
    """
    found = []
    for source in sources:
        steps = Steps(model, source, tokens)
        ids = steps.begin
        for _ in range(tokens):
            ids = torch.cat([ids, steps.most_likely(ids)[:, None]], 1)
        found.append(ids[:, 1:])
    return found


def _stepping(bench: Bench, name: str, seed: int) -> Callable[[int], object]:
    """Steps of training on the same few batches; the model is one of its own."""
    found = variant(name, bench.plan, len(bench.text.vocabulary), seed)
    learning = learner(found, len(bench.text.vocabulary))
    batches = bench.text.train.batches(bench.plan.batch_tokens, seed)
    rows = [batches.collate(each) for each in batches.epoch(0)[: bench.plan.rounds]]
    return lambda number: learning.step(number, [rows[number % len(rows)]])


MEASURES = {"passes": passes}
TIMING = {"timing": timing}
