"""One cell of the grid: the engine beside its peers, cold and warm."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import reluctant
from reluctant.bench import layer as drawn
from reluctant.bench import limits, peers, real
from reluctant.bench.grid import Cell
from reluctant.bench.peers.torches import compiler_reset
from reluctant.bench.row import TOLERANCE, Row
from reluctant.engine import Engine
from reluctant.feedforward import FeedForward
from reluctant.machine import available_memory, last_level_cache
from reluctant.timing import interleaved

INPUTS = {"decode": 31, "few": 31, "many": 5}  # prime: every layer meets every input
ROUNDING = 1e-2  # what bfloat16 may be off at all: four of its roundings, 2^-9 each
AS_TRUE = 1.5  # times eager's error: bfloat16's rounding is no constant
SETTLE = 0.03  # seconds at the start of a turn that are not timed
TURN = 0.04  # seconds of a turn that are timed
BUDGET = 25.0  # seconds for a row, once there have been three rounds
CENSUS = 64  # rows of x on which active neurons and candidates are counted
DEPTH = {"decode": (4, 24), "few": (4, 24), "many": (4, 6)}  # layers of a model; at many tokens
# their weights are little beside the arithmetic, and the rows between two uses are many
BEYOND = 1.5  # times the last-level cache: what is read cyclically has left it by then
CONTENDERS = 10  # that hold copies of the weights at once, building them included


def measure(
    cell: Cell,
    *,
    rounds: int,
    names: Iterable[str] = tuple(peers.BUILDERS),
    on_round: Callable[[str], object] = lambda state: None,
) -> list[Row]:
    """The cell's rows, one for each of its states.

    Args:
        cell: what to measure.
        rounds: turns of each implementation; fewer where one turn takes seconds.
        names: of the peers.
        on_round: called after each round with the state.
    """
    with torch.no_grad():  # tensors made in inference mode have no version: no engine takes them
        layers, inputs = _layers(cell)
        engines, ours = _served(layers)
    with torch.inference_mode(), compiler_reset():
        others, missing = peers.build(layers, cell.tokens, names)
        case = _Case(cell, layers, inputs, engines, [ours, *others], missing)
        return [case.row(state, rounds, partial(on_round, state)) for state in cell.states]


def rotation(phase: str, bytes_of_one: int, contenders: int = CONTENDERS) -> int:
    """How many layers to go round: enough to leave the caches, as many as a model may have, and
    no more than half of the free memory holds for every contender.

    >>> 1 <= rotation("decode", 2**20) <= 24
    True
    """
    cache, memory = last_level_cache(), available_memory()
    wanted = -(-int(BEYOND * (cache or 2**30)) // bytes_of_one)
    least, most = DEPTH[phase]
    count = min(max(wanted, least), most)
    if memory is not None:
        count = min(count, memory // (2 * contenders * bytes_of_one))
    return max(count, 1)


def _layers(cell: Cell) -> tuple[list[FeedForward], list[list[Tensor]]]:
    """The layers, and the inputs of each."""
    several = INPUTS[cell.phase]
    if cell.density is None:
        found = copy.deepcopy(real.layers()[0])
        return found, [real.inputs(i, cell.tokens, several) for i in range(len(found))]
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, cell.dtype)
    shape = cell.shape
    layer = drawn.draw(
        *(shape.d_model, shape.d_ff, cell.density, generator),
        activation=cell.activation,
        gated=shape.gated,
        dtype=dtype,
    )
    layer.requires_grad_(False)
    is_cold = "cold" in cell.states
    count = rotation(cell.phase, drawn.weight_bytes(layer)) if is_cold else 1
    layers = drawn.copies(layer, count)
    size = (cell.tokens, cell.shape.d_model)
    inputs = [torch.randn(size, generator=generator).to(dtype) for _ in range(several)]
    return layers, [inputs] * len(layers)


def _served(layers: Sequence[FeedForward]) -> tuple[list[Engine], peers.Peer]:
    served = copy.deepcopy(list(layers))
    engines = []
    for layer in served:
        engine = reluctant.optimize(layer).swapped[0].engine
        assert engine is not None  # entries of `swapped` have one
        engines.append(engine)
    return engines, peers.Peer("ours", served)


@dataclass
class _Case:
    """A cell with everything built."""

    cell: Cell
    layers: list[FeedForward]
    inputs: list[list[Tensor]]
    engines: list[Engine]
    contenders: list[peers.Peer]
    missing: dict[str, str]

    def row(self, state: str, rounds: int, on_round: Callable[[], object]) -> Row:
        count = len(self.layers) if state == "cold" else 1
        active, candidates = self._census(count)
        errors = self._errors(count)
        # Every layer of every contender once: sketches and scratch memory are made in first calls.
        calls = {peer.name: _caller(peer, self.inputs[:count]) for peer in self.contenders}
        for number in range(count):
            for call in calls.values():
                call(number)
        before = self._ways()
        way = self._main_way(calls["ours"], count)
        work, probe = self._limit(way, count, active, candidates)
        seconds = interleaved(
            {**calls, **probe.calls},
            rounds=rounds,
            settle=SETTLE,
            turn=TURN,
            cycle=count,
            rest={peer.name: peer.spins for peer in self.contenders},
            budget=BUDGET,
            on_round=on_round,
        )
        ours = seconds["ours"]
        ways = {way: calls - before[way] for way, calls in self._ways().items()}

        tolerance = TOLERANCE
        if self.cell.dtype == "bfloat16":
            tolerance = min(AS_TRUE * errors["eager"], ROUNDING)
        others = self.contenders[1:]
        right = [p.name for p in others if p.exact and errors[p.name] <= tolerance]
        best = min(right or ["eager"], key=lambda name: seconds[name])
        approximate = [peer.name for peer in others if not peer.exact]
        fastest = min((seconds[name] for name in approximate), default=None)
        shape = self.cell.shape
        return Row(
            phase=self.cell.phase,
            dtype=self.cell.dtype,
            tokens=self.cell.tokens,
            d_model=shape.d_model,
            d_ff=shape.d_ff,
            active=active,
            candidates=candidates,
            ours_us=1e6 * ours,
            peers={peer.name: 1e6 * seconds[peer.name] for peer in others},
            ratio_best=seconds[best] / ours,
            ratio_eager=seconds["eager"] / ours,
            limit_share=work / ours / probe.rate(seconds),
            achieved=work / ours,
            limit=probe.rate(seconds),
            errors=errors,
            ways=ways,
            missing=self.missing,
            cold=state == "cold",
            layers=count,
            layer_bytes=drawn.weight_bytes(self.layers[0]),
            activation=self.cell.activation,
            gated=shape.gated,
            density=self.cell.density,
            ratio_int8=None if fastest is None else fastest / ours,
            approximate=approximate,
            best=best,
            tolerance=tolerance,
        )

    def _different(self, count: int) -> range:
        """Layers with weights of their own; those that were drawn are copies of one."""
        return range(1 if self.cell.density is not None else count)

    def _errors(self, count: int) -> dict[str, float]:
        """The largest of each contender."""
        errors: dict[str, float] = {}
        for i in self._different(count):
            x = self.inputs[i][0]
            truth = drawn.reference(self.layers[i], x)
            for peer in self.contenders:
                error = drawn.relative_error(peer.answer(i, x), truth)
                errors[peer.name] = max(errors.get(peer.name, 0.0), error)
        return errors

    def _census(self, count: int) -> tuple[float, float]:
        """Shares of active neurons and of candidates."""
        active = candidates = total = 0
        for i in self._different(count):
            counted = self.engines[i].census(torch.cat(self.inputs[i])[:CENSUS])
            active, candidates = active + counted.active, candidates + counted.candidates
            total += counted.tokens * self.cell.shape.d_ff
        return active / total, candidates / total

    def _ways(self) -> dict[str, int]:
        first = self.engines[0].calls
        return {way: sum(engine.calls[way] for engine in self.engines) for way in first}

    def _main_way(self, call: Callable[[int], object], count: int) -> str:
        before = self._ways()
        for number in range(count):
            call(number)
        after = self._ways()
        return max(after, key=lambda way: after[way] - before[way])

    def _limit(
        self, way: str, count: int, active: float, candidates: float
    ) -> tuple[float, limits.Probe]:
        """What one call of ours has to do on that way, and the machine's limit for it."""
        cell = self.cell
        weights, tokens = cell.shape.d_model * cell.shape.d_ff, cell.tokens
        first, second = 1 + cell.shape.gated, 1  # products before and after the activation
        if cell.phase == "many":
            per_token = first + second if way == "dense" else 1 + active * (first - 1 + second)
            return 2 * tokens * weights * per_token, limits.multiplying(getattr(torch, cell.dtype))
        fired = [drawn.fired(self.layers[i], self.inputs[i][0]) for i in self._different(count)]
        touched = float(torch.stack([f.any(0) for f in fired]).float().mean())  # by any token
        guessed = min(touched * candidates / active, 1.0) if active else candidates
        values = touched * (first - 1 + second)
        read = {"few": guessed + values, "many": 1 + values, "dense": first + second}[way]
        sketch = weights if way == "few" else 0
        n_bytes = int(sketch + weights * self.layers[0].up.weight.element_size() * read)
        return n_bytes, limits.reading(count * n_bytes)


def _caller(peer: peers.Peer, inputs: Sequence[Sequence[Tensor]]) -> Callable[[int], object]:
    """Goes round the layers, and round the inputs."""
    wrapped: dict[int, Any] = {id(x): peer.wrap(x) for xs in inputs for x in xs}
    turns = [
        (call, [wrapped[id(x)] for x in xs])
        for call, xs in zip(peer.calls[: len(inputs)], inputs, strict=True)
    ]
    count = len(turns)

    def call(number: int) -> object:
        function, xs = turns[number % count]
        return function(xs[number % len(xs)])

    return call
