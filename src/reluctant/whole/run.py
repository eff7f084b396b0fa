"""One model before and after `reluctant.optimize`: the same answers, how fast, where time goes."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import reluctant
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.surgery import Report
from reluctant.timing import interleaved
from reluctant.whole.answers import (
    NEW_TOKENS,
    Check,
    as_true,
    beams_of,
    forward,
    generate,
    in_float64,
    same_embeddings,
    same_tokens,
)
from reluctant.whole.inputs import Case, make_case
from reluctant.whole.load import Loaded, one_line
from reluctant.whole.profile import profile, sites
from reluctant.whole.result import Density, Phase, Result
from reluctant.whole.twin import part, twin

WAYS = ("before", "dense", "engine")
SECONDS = 30.0  # about so long each phase is timed, if three rounds fit in
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
ROWS = 64  # of a layer's input that its density is measured on


@dataclass(frozen=True)
class _Answer:
    """generated: token ids by number of beams. output: logits of those, or what forward gives."""

    generated: Mapping[int, Tensor]
    output: Tensor


def run_whole(
    loaded: Loaded,
    *,
    prompt: str | None = None,
    tokens: int | None = None,
    seconds: float = SECONDS,
    on_step: Callable[[str], object] = lambda step: None,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> Result:
    """Optimise a twin of the model, compare the two, and time them in turns.

    loaded: is used up: in the end its weights are in float64. prompt, tokens: as for `make_case`.
    seconds: about so long each phase is timed. on_step: told what comes next. how: more of
    `reluctant.optimize`'s arguments.

    Raises ReluctantError if there is no feed-forward layer in the model, or if it does not run on
    these inputs.
    """
    before = loaded.model
    case = make_case(loaded, prompt=prompt, tokens=tokens)
    on_step("asking the untouched model")
    try:
        old = _ask(before, case)
    except Exception as error:  # whatever the model raises
        raise ReluctantError(
            f"{loaded.name} does not run on {case.what}: {one_line(error)}"
        ) from error
    on_step("optimising")
    served = twin(before)
    report = reluctant.optimize(served, **how)
    part(before, report)
    result = _blank(loaded, case, report)
    if not report.swapped:
        return replace(result, notes=("no layer is served: there is nothing to compare",))
    models = {"before": before, "dense": served, "engine": served}
    notes: list[str] = []
    with _noted(notes):
        new = {}
        for way in WAYS[1:]:
            on_step(f"asking {way}")
            _pin(report, way)
            new[way] = _ask(served, case, old)
    densities = _densities(before, served, report, case, old)
    phases = []
    for name, count, call in _calls(case, old):
        on_step(f"timing {name}, in turns")
        phases.append(_time(name, count, call, models, report, seconds))
    # With what was made since: copies, a sketch, counts.
    result = replace(result, layers=report.__rich__(), added_bytes=report.memory_bytes)
    on_step("comparing with float64")
    exact = in_float64(before, case, lambda model, inputs: _output(model, inputs, old))
    if exact is None:
        notes.append("does not run in float64: compared with the untouched model instead")
    checks = [
        check for way, answer in new.items() for check in _compare(way, old, answer, exact, case)
    ]
    return replace(
        result,
        checks=tuple(checks),
        densities=densities,
        phases=tuple(phases),
        notes=tuple(dict.fromkeys(notes)),
    )


def _blank(loaded: Loaded, case: Case, report: Report) -> Result:
    weights = list(loaded.model.parameters())
    dtype = next((w.dtype for w in weights if w.is_floating_point()), torch.float32)
    return Result(
        name=loaded.name,
        kind=type(loaded.model).__name__,
        inputs=case.what,
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=sum(w.nbytes for w in weights),
        report=report,
        layers=report.__rich__(),
        added_bytes=report.memory_bytes,
    )


def _ask(model: nn.Module, case: Case, old: _Answer | None = None) -> _Answer:
    """Let the model generate, and take its logits for what it (or `old`) generated."""
    generated = {}
    if case.generates:
        for beams in sorted({1, beams_of(model)}):
            generated[beams] = generate(model, case, beams=beams)
    answer = _Answer(generated, torch.empty(0))
    return replace(answer, output=_output(model, case, old or answer))


def _output(model: nn.Module, case: Case, answer: _Answer) -> Tensor:
    return forward(model, case, answer.generated.get(1))


def _compare(
    way: str, old: _Answer, new: _Answer, exact: Tensor | None, case: Case
) -> Iterator[Check]:
    for beams, ids in old.generated.items():
        name = "greedy search" if beams == 1 else f"beam search, {beams} beams"
        logits = old.output if beams == 1 else None
        yield same_tokens(f"{way}: {name}", ids, new.generated[beams], logits)
    if case.mask is not None and not case.generates:
        yield same_embeddings(f"{way}: embeddings", old.output, new.output, case.mask)
    what = "logits" if case.generates else "outputs"
    yield as_true(f"{way}: {what}", old.output, new.output, exact)


def _calls(case: Case, old: _Answer) -> list[tuple[str, int, Callable[[nn.Module], object]]]:
    """What is timed: name, tokens of a call, the call."""
    calls: list[tuple[str, int, Callable[[nn.Module], object]]] = [
        ("prompt" if case.generates else "forward", case.tokens, partial(_forward, case=case))
    ]
    if case.generates:
        beams = max(old.generated)
        how = "greedy" if beams == 1 else f"{beams} beams"
        new = NEW_TOKENS * case.sequences
        calls.append((f"generate, {how}", new, partial(generate, case=case, beams=beams)))
    return calls


def _forward(model: nn.Module, case: Case) -> Tensor:
    return forward(model, case)


def _time(
    name: str,
    tokens: int,
    call: Callable[[nn.Module], object],
    models: Mapping[str, nn.Module],
    report: Report,
    seconds: float,
) -> Phase:
    """Time one phase: each call pins its way first, which takes a microsecond or so."""

    def one(way: str) -> Callable[[int], object]:
        def run(_: int) -> object:
            _pin(report, way)
            return call(models[way])

        return run

    calls = {way: one(way) for way in WAYS}
    start = perf_counter()
    calls["before"](0)  # what has to be compiled was compiled when the model was asked
    once = perf_counter() - start
    rounds = int(min(max(seconds / 2 / len(WAYS) / once, LEAST_ROUNDS), MOST_ROUNDS))
    spent = interleaved(calls, rounds=rounds, settle=None if once > 1.0 else 0.02)
    shares = {
        way: profile(
            models[way], models["engine"], report, partial(calls[way], 0), least=min(seconds, 0.5)
        )
        for way in ("before", "engine")
    }
    return Phase(name, tokens, spent, rounds, shares)


def _densities(
    before: nn.Module, served: nn.Module, report: Report, case: Case, old: _Answer
) -> tuple[Density, ...]:
    """Look at up to 64 positions of each layer's input, of an untouched forward."""
    inputs: dict[int, Tensor] = {}
    handles, found = [], []

    def keep(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            rows = args[0].detach().reshape(-1, args[0].shape[-1])
            some = torch.linspace(0, len(rows) - 1, min(len(rows), ROWS)).round().long()
            inputs[index] = rows[some].clone()

        return hook

    layers = sites(before, served, report)
    for index, site in enumerate(layers):
        handles.append(site.firsts[0].register_forward_pre_hook(keep(index)))
    try:
        _output(before, case, old)
    finally:
        for handle in handles:
            handle.remove()
    for index, x in inputs.items():
        entry = layers[index].entry
        assert entry.engine is not None
        census = entry.engine.census(x)
        every = max(census.tokens * entry.engine.neurons.d_ff, 1)
        found.append(Density(entry.name, census.active / every, census.candidates / every))
    return tuple(found)


def _pin(report: Report, way: str) -> None:
    for entry in report.swapped:
        if entry.engine is not None:
            entry.engine.way = "dense" if way == "dense" else "auto"


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """Collect the warnings of layers that are put back."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ReluctantWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, ReluctantWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
