"""Where the time of a whole model goes: measured module by module, while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

from torch import nn

from reluctant.engine import Engine
from reluctant.surgery import Entry, Report

FEED_FORWARD = "feed-forward layers"
HEAD, LINEAR = "output head", "other linear layers"
NORMS, EMBEDDINGS = "norms", "embeddings"
REST = "the rest"  # attention's own products, caches, choice of tokens, Python
KINDS = (FEED_FORWARD, LINEAR, HEAD, NORMS, EMBEDDINGS, REST)


class _Clock:
    """Seconds by kind; nothing that is watched is inside another thing that is watched."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.start: float | None = None

    def enter(self, *_: Any) -> None:
        if self.start is None:
            self.start = perf_counter()

    def leave(self, kind: str) -> Callable[..., None]:
        def stop(*_: Any) -> None:
            if self.start is not None:
                self.seconds[kind] += perf_counter() - self.start
                self.start = None

        return stop


def profile(
    model: nn.Module,
    served: nn.Module,
    report: Report,
    run: Callable[[], object],
    *,
    least: float = 0.5,
) -> dict[str, float]:
    """Shares of the time of `run`, by kind of module; they add up to 1.

    model: what `run` calls: `served`, which was optimised, or its untouched twin.
    report: of the optimisation. least: seconds; `run` is repeated until they have passed.

    The feed-forward layers' time is that from the start of the first product to the end of the
    second one, or that of the call of the engine. Each watched call costs about 2 us more.
    """
    clock = _Clock()
    handles: list[Any] = []
    layers = sites(model, served, report)
    parts = {id(module) for _, firsts, last in layers for module in (*firsts, last)}
    try:
        for module in model.modules():
            kind = _kind(module, model)
            if kind is not None and id(module) not in parts:
                handles.append(module.register_forward_pre_hook(clock.enter))
                handles.append(module.register_forward_hook(clock.leave(kind)))
        for _, firsts, last in layers if model is not served else ():
            handles += [each.register_forward_pre_hook(clock.enter) for each in firsts]
            handles.append(last.register_forward_hook(clock.leave(FEED_FORWARD)))
        total = 0.0
        with _watched_engines(clock):
            while total == 0 or total < least:
                start = perf_counter()
                run()
                total += perf_counter() - start
    finally:
        for handle in handles:
            handle.remove()
    seconds = clock.seconds
    seconds[REST] = max(0.0, total - sum(seconds.values()))
    return {kind: spent / total for kind, spent in seconds.items()}


class Place(NamedTuple):
    """A served layer's modules in one of the twins: its first product or products, its last."""

    entry: Entry
    firsts: tuple[nn.Module, ...]
    last: nn.Module


def sites(model: nn.Module, served: nn.Module, report: Report) -> list[Place]:
    """Find the served layers in `model`, which is `served` or its untouched twin."""
    names = {id(module): name for name, module in served.named_modules()}
    found = []
    for entry in report.swapped:
        if entry.engine is None:
            continue
        neurons = entry.engine.neurons
        parts = [each for each in (neurons.up, neurons.gate, neurons.down) if each is not None]
        if all(id(each) in names for each in parts):
            *firsts, last = (model.get_submodule(names[id(each)]) for each in parts)
            found.append(Place(entry, tuple(firsts), last))
    return found


def _kind(module: nn.Module, model: nn.Module) -> str | None:
    """The kind of a module without submodules; None if its time belongs to the rest."""
    name = type(module).__name__
    if module._modules:
        return None
    head = getattr(model, "get_output_embeddings", None)
    if head is not None and head() is module:
        return HEAD
    if isinstance(module, nn.Linear) or name == "Conv1D":
        return LINEAR
    if isinstance(module, nn.Embedding):
        return EMBEDDINGS
    return NORMS if "Norm" in name else None


@contextmanager
def _watched_engines(clock: _Clock) -> Iterator[None]:
    """Count the engines' time: hooks on a served layer's parts would call the original instead."""
    plain = Engine.forward
    stop = clock.leave(FEED_FORWARD)

    def forward(self: Engine, x: Any) -> Any:
        clock.enter()
        y = plain(self, x)
        stop()
        return y

    Engine.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine.forward = plain  # type: ignore[method-assign]
