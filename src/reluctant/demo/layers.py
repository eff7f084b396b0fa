"""The model's feed-forward layers one by one, on what they are really given."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reluctant.demo.accentor import LENGTH, Accentor, source, teacher_forced
from reluctant.engine import Engine
from reluctant.timing import interleaved

INPUTS = 16  # different inputs that take turns while a layer is timed


class Inputs(NamedTuple):
    """Real inputs of a layer, each (positions, d_model).

    The encoder pads every sentence to 256 positions and uses no mask, so two thirds of what it
    computes is padding. It is real work, but no text: that is `text`, the decoder's all of it.
    """

    rows: Tensor
    text: Tensor


@dataclass(frozen=True)
class Layer:
    """One feed-forward layer of `Transformer`, on what it is really given.

    Attributes:
        name: of the layer in nn.Transformer.
        active: active neurons at the positions of the text, as a share of all.
        candidates: those that the engine has to look at, likewise.
        tokens: rows of a call: the encoder's padded sentences, the decoder's next character.
        eager_us: median microseconds of such a call without the engine.
        engine_us: with it.
        calls: how often the engine went each way while the sentences were decoded.
    """

    name: str
    active: float
    candidates: float
    tokens: int
    eager_us: float
    engine_us: float
    calls: dict[str, int]


def record_inputs(
    accentor: Accentor, names: Sequence[str], texts: Sequence[str], answers: Sequence[str]
) -> dict[str, Inputs]:
    """What each layer's `linear1` is given when the answers are scored, sentence by sentence.

    Args:
        accentor: untouched.
        names: of `nn.TransformerEncoderLayer`s and `nn.TransformerDecoderLayer`s.
        texts: the sentences.
        answers: what decoding made of them.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor]) -> None:
            inputs[name].append(args[0].detach().flatten(0, -2))

        return keep

    layers = {name: accentor.model.get_submodule(name) for name in names}
    hooks = [m.linear1.register_forward_pre_hook(keeper(name)) for name, m in layers.items()]
    try:
        with torch.no_grad(), _slow_path():
            for text, answer in zip(texts, answers, strict=True):
                teacher_forced(accentor, text, answer)
    finally:
        for hook in hooks:
            hook.remove()
    sources = torch.cat([source(accentor, text)[0] for text in texts])
    padding = sources == accentor.vocab["<pad>"]

    def sort(name: str) -> Inputs:
        rows = torch.cat(inputs[name])
        encoder = side(name) == "encoder"
        return Inputs(rows, rows[~padding] if encoder else rows)

    return {name: sort(name) for name in names}


def measure(
    name: str,
    eager: Any,
    engine: Engine,
    inputs: Inputs,
    batch_size: int,
    calls: dict[str, int],
    rounds: int,
) -> Layer:
    """Count and time one layer on its real inputs.

    Args:
        name: of the layer in nn.Transformer.
        eager: the feed-forward layer that no engine serves.
        engine: of the one that is served.
        inputs: what it was really given.
        batch_size: sentences decoded together.
        calls: of the engine, while decoding.
        rounds: turns of each way (see `reluctant.timing`).
    """
    census = engine.census(inputs.text)
    neurons = census.tokens * engine.neurons.d_ff
    tokens = batch_size * (LENGTH if side(name) == "encoder" else 1)
    tokens, eager_us, engine_us = _time(eager, engine, inputs.rows, tokens, rounds)
    shares = census.active / neurons, census.candidates / neurons
    return Layer(name, *shares, tokens, eager_us, engine_us, calls)


def side(name: str) -> str:
    """Which half of the Transformer a layer belongs to: "encoder" or "decoder"."""
    return "encoder" if ".encoder." in name else "decoder"


def _time(
    eager: Callable[[Tensor], Tensor], engine: Engine, rows: Tensor, tokens: int, rounds: int
) -> tuple[int, float, float]:
    """Rows of a call, and its median microseconds without the engine and with it."""
    tokens = min(tokens, len(rows))
    stride = max(1, (len(rows) - tokens) // INPUTS)
    inputs = [rows[i : i + tokens] for i in range(0, len(rows) - tokens + 1, stride)]

    def on_inputs(way: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
        return lambda number: way(inputs[number % len(inputs)])

    with torch.no_grad():
        calls = {"eager": on_inputs(eager), "engine": on_inputs(engine)}
        seconds = interleaved(calls, rounds=rounds)
    return tokens, 1e6 * seconds["eager"], 1e6 * seconds["engine"]


@contextmanager
def _slow_path() -> Iterator[None]:
    """Without the fused encoder layer, which never calls `linear1`."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
