"""One feed-forward layer, the engine beside its peers."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

import reluctant
from reluctant.bench import layer as drawn
from reluctant.bench import limits, peers
from reluctant.errors import ReluctantError
from reluctant.machine import cpu_model, versions
from reluctant.timing import interleaved

SHAPES = ((512, 2048), (1024, 4096), (4096, 16384))
PHASES = {"decode": 1, "many": 512}
INPUTS = {"decode": 32, "many": 8}  # that take turns: no two calls in a row see the same x
TOLERANCE = 1e-5  # relative error; float32 sums reach 2e-6 at these sizes, bfloat16 begins at 2e-3
SETTLE = 0.1  # seconds: ONNX Runtime's threads go on spinning long enough to halve the next one
CENSUS = 64  # rows of x on which active neurons and candidates are counted


@dataclass(frozen=True)
class Row:
    """One layer in one phase. Times in microseconds a call, shares of 1."""

    phase: str
    dtype: str
    tokens: int
    d_model: int
    d_ff: int
    active: float
    candidates: float
    ours_us: float
    peers: dict[str, float]
    ratio_best: float  # best dense peer whose output is right / ours
    ratio_eager: float
    limit_share: float  # achieved / limit
    achieved: float  # decode: bytes/s the engine must read; many: float32 operations/s it must do
    limit: float  # decode: bytes/s of a buffer of the layer's size; many: best large product
    errors: dict[str, float]  # relative RMS error against float64, ours among them
    ways: dict[str, int]  # calls of the engine that went each way
    missing: dict[str, str]  # peers that could not be had, and why

    @property
    def wrong(self) -> list[str]:
        """Those whose output is not float32's: off by more than its rounding explains."""
        return [name for name, error in self.errors.items() if not error <= TOLERANCE]


@dataclass(frozen=True)
class Result:
    """All rows, and what was measured of the machine beside them."""

    rows: list[Row]
    memory_bandwidth: float  # bytes/s
    load: float  # the system's load average (processes, over a minute) before the run
    precision: str  # torch's float32 matmul precision during the run

    @property
    def agree(self) -> bool:
        """Whether every output was right."""
        return not any(row.wrong for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        packages = ("reluctant", "torch", "onnxruntime", "openvino")
        return {
            **asdict(self),
            "machine": cpu_model(),
            "threads": torch.get_num_threads(),
            "versions": versions(*packages),
        }


def run_bench(
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    phases: dict[str, int] = PHASES,
    active: float = 0.04,
    rounds: int = 15,
    on_round: Callable[[], object] = lambda: None,
) -> Result:
    """Time the engine and every peer that can be had here, in turns.

    Args:
        shapes: pairs (d_model, d_ff).
        phases: "decode" and "many" with their number of tokens a call.
        active: density of the layers that are drawn, strictly between 0 and 1.
        rounds: turns of each implementation (see `reluctant.timing`).
        on_round: called `len(shapes) * len(phases) * rounds` times, for a progress bar.

    Raises:
        ReluctantError: `active` is no share.
    """
    if not 0 < active < 1:
        raise ReluctantError(f"expected a density strictly between 0 and 1, got {active}")
    with _full_precision() as precision:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        memory = limits.reading(limits.MEMORY_BYTES).measure()
        rows = [
            _row(phase, phases[phase], d_model, d_ff, active, rounds, on_round)
            for (d_model, d_ff), phase in product(shapes, phases)
        ]
    return Result(rows, memory, load, precision)


def _row(
    phase: str,
    tokens: int,
    d_model: int,
    d_ff: int,
    active: float,
    rounds: int,
    on_round: Callable[[], object],
) -> Row:
    generator = torch.Generator().manual_seed(0)
    eager = drawn.draw(d_model, d_ff, active, generator)
    ours = copy.deepcopy(eager)
    engine = reluctant.optimize(ours).swapped[0].engine
    assert engine is not None  # entries of `swapped` have one
    inputs = [torch.randn(tokens, d_model, generator=generator) for _ in range(INPUTS[phase])]

    with torch.inference_mode():
        others, missing = peers.build(eager.up, eager.down, tokens)
        contenders = [peers.Peer("ours", ours), peers.Peer("eager", eager), *others]
        truth = drawn.reference(eager, inputs[0])
        errors = {
            peer.name: drawn.relative_error(_answer(peer, inputs[0]), truth) for peer in contenders
        }
        probe = (
            limits.reading(engine.sketch_bytes + 8 * d_model * d_ff)
            if phase == "decode"
            else limits.multiplying()
        )
        before = dict(engine.calls)
        seconds = interleaved(
            {**{peer.name: _caller(peer, inputs) for peer in contenders}, **probe.calls},
            rounds=rounds,
            settle=SETTLE,
            on_round=on_round,
        )
        ways = {way: count - before[way] for way, count in engine.calls.items()}
        counted = engine.census(torch.cat(inputs)[:CENSUS])
    total = counted.tokens * d_ff
    found_active, candidates = counted.active / total, counted.candidates / total
    if phase == "decode":
        work = d_model * d_ff * (1 + 4 * (candidates + found_active))
    else:
        work = 2 * tokens * d_model * d_ff * (1 + found_active)
    achieved, limit = work / seconds["ours"], probe.rate(seconds)

    right = [name for name in errors if name != "ours" and errors[name] <= TOLERANCE]
    best = min(seconds[name] for name in right or ["eager"])
    return Row(
        phase=phase,
        dtype="float32",
        tokens=tokens,
        d_model=d_model,
        d_ff=d_ff,
        active=found_active,
        candidates=candidates,
        ours_us=1e6 * seconds["ours"],
        peers={peer.name: 1e6 * seconds[peer.name] for peer in contenders[1:]},
        ratio_best=best / seconds["ours"],
        ratio_eager=seconds["eager"] / seconds["ours"],
        limit_share=achieved / limit,
        achieved=achieved,
        limit=limit,
        errors=errors,
        ways=ways,
        missing=missing,
    )


def _answer(peer: peers.Peer, x: Tensor) -> Tensor:
    return peer.unwrap(peer.call(peer.wrap(x)))


def _caller(peer: peers.Peer, inputs: Sequence[Tensor]) -> Callable[[int], object]:
    call, wrapped = peer.call, [peer.wrap(x) for x in inputs]
    return lambda number: call(wrapped[number % len(wrapped)])


@contextmanager
def _full_precision() -> Iterator[str]:
    """Float32 products in float32, whatever the process had chosen before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
