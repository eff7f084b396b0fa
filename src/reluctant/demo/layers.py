"""The model's feed-forward layers one by one, on what they are really given."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median_low
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
    computes is padding. It is real work, but no text: shares are given for each on its own.
    """

    rows: Tensor
    text: Tensor
    padding: Tensor | None = None


class Shares(NamedTuple):
    """Active neurons and candidates, as shares of all neurons."""

    active: float
    candidates: float


@dataclass(frozen=True)
class Times:
    """Median microseconds of one call of a layer with `tokens` rows."""

    tokens: int
    eager_us: float
    dense_us: float
    sparse_us: float


@dataclass(frozen=True)
class Layer:
    """One feed-forward layer.

    Attributes:
        name: of the Transformer layer it belongs to.
        text: shares at the positions of the sentences.
        padding: shares at the encoder's padding; None in the decoder.
        one: times with one token.
        typical: times with the median number of tokens of its calls in this run.
        calls: how often the engine went each way while the sentences were decoded.
    """

    name: str
    text: Shares
    padding: Shares | None
    one: Times
    typical: Times
    calls: dict[str, int]


def typical_tokens(steps: Sequence[int], batches: Sequence[int]) -> dict[str, int]:
    """Tokens of the median call of an encoder layer and of a decoder layer.

    The encoder is called once a batch, always with the padded length. The decoder keeps no
    cache: its n-th call has all n tokens written so far.

    Args:
        steps: decoding steps of each batch.
        batches: sentences of each batch.

    >>> typical_tokens([3, 5], [1, 1])
    {'encoder': 256, 'decoder': 2}
    """
    decoder = [
        n * size for last, size in zip(steps, batches, strict=True) for n in range(1, last + 1)
    ]
    return {
        "encoder": median_low([LENGTH * size for size in batches]),
        "decoder": median_low(decoder),
    }


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
        return Inputs(rows, rows[~padding], rows[padding]) if encoder else Inputs(rows, rows)

    return {name: sort(name) for name in names}


def measure(
    name: str,
    eager: Any,
    engines: Mapping[str, Engine],
    inputs: Inputs,
    tokens: int,
    calls: dict[str, int],
    rounds: int,
) -> Layer:
    """Count and time one layer on its real inputs.

    Args:
        name: of the Transformer layer.
        eager: that layer, untouched.
        engines: "dense" and "engine" -> its engine, pinned to dense and left to choose.
        inputs: what it was really given.
        tokens: rows of the median call.
        calls: of the engine that chooses, while decoding.
        rounds: turns of each way (see `reluctant.timing`).
    """
    engine = engines["engine"]
    return Layer(
        name,
        text=_shares(engine, inputs.text),
        padding=None if inputs.padding is None else _shares(engine, inputs.padding),
        one=_time(eager, engines, inputs.text, 1, rounds),
        typical=_time(eager, engines, inputs.rows, tokens, rounds),
        calls=calls,
    )


def side(name: str) -> str:
    """Which half of the Transformer a layer belongs to: "encoder" or "decoder"."""
    return "encoder" if ".encoder." in name else "decoder"


def _shares(engine: Engine, rows: Tensor) -> Shares:
    census = engine.census(rows)
    neurons = census.tokens * engine.neurons.d_ff
    return Shares(census.active / neurons, census.candidates / neurons)


def _time(
    eager: Any, engines: Mapping[str, Engine], rows: Tensor, tokens: int, rounds: int
) -> Times:
    tokens = min(tokens, len(rows))
    stride = max(1, (len(rows) - tokens) // INPUTS)
    inputs = [rows[i : i + tokens] for i in range(0, len(rows) - tokens + 1, stride)]

    def untouched(x: Tensor) -> Tensor:  # its _ff_block without dropout, which eval leaves out
        y: Tensor = eager.linear2(eager.activation(eager.linear1(x)))
        return y

    def on_inputs(way: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
        return lambda number: way(inputs[number % len(inputs)])

    ways: dict[str, Callable[[Tensor], Tensor]] = {"eager": untouched, **engines}
    with torch.no_grad():
        calls = {name: on_inputs(way) for name, way in ways.items()}
        seconds = interleaved(calls, rounds=rounds)
    return Times(tokens, *(1e6 * seconds[name] for name in ("eager", "dense", "engine")))


@contextmanager
def _slow_path() -> Iterator[None]:
    """Without the fused encoder layer, which never calls `linear1`."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
