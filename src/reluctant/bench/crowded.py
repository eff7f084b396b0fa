"""The engine beside eager on a machine that has something else to do (`reluctant bench --crowded`).

Everything is two processes' or more: busy ones that only keep the cores from us (`beside`), and
workers that all compute at once (`together`). Both end by themselves when their pipe does, so that
none outlives this process, however it ends.
"""

import copy
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from time import sleep
from typing import Any, TypeVar

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import reluctant
from reluctant import ways
from reluctant.bench.children import answer, processes
from reluctant.bench.row import TOLERANCE
from reluctant.machine import cpu_model, header, versions
from reluctant.timing import in_turns

BUSY = (0, 1, 2, 4)  # processes beside ours
WORKERS = 4  # that compute at once
TOKENS = (1, 512)
D_MODEL, D_FF, LAYERS, BLOCKS = 512, 2048, 12, 6
BIAS = -1.0  # of torch's own initial weights: leaves 4 % of the neurons active
TURN = 0.15  # seconds of a turn that are timed, beside busy processes
WORK = 1.5  # seconds of a turn of all workers
NAMES = ("eager", "engine")
STEPS = 3 * len(BUSY) + len(TOKENS)

Model = TypeVar("Model", bound=nn.Module)

_SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print("ready", flush=True)
while True:
    pass
"""


@dataclass(frozen=True)
class Beside:
    """Times of one call beside busy processes, in microseconds: median, and 95th percentile."""

    what: str
    tokens: int
    busy: int
    eager: tuple[float, float]
    engine: tuple[float, float]
    error: float  # of the engine's output against eager's, relative

    @property
    def ratio(self) -> float:
        """How many times ours it takes eager."""
        return self.eager[0] / self.engine[0]


@dataclass(frozen=True)
class Together:
    """Layer calls a second of all workers together, the median over the rounds."""

    tokens: int
    workers: int
    eager: float
    engine: float

    @property
    def ratio(self) -> float:
        """How many times as many calls."""
        return self.engine / self.eager


@dataclass(frozen=True)
class Result:
    """All of it, and what it was measured on."""

    beside: list[Beside]
    together: list[Together]
    load: float
    table: str
    limited_to: str | None = None

    @property
    def agree(self) -> bool:
        """Whether every output was right."""
        return all(row.error <= TOLERANCE for row in self.beside)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            **asdict(self),
            "beside": [asdict(row) | {"ratio": row.ratio} for row in self.beside],
            "together": [asdict(row) | {"ratio": row.ratio} for row in self.together],
            "machine": cpu_model(),
            "threads": torch.get_num_threads(),
            "versions": versions("reluctant", "torch", "numba"),
        }


def run_crowded(
    *,
    rounds: int = 8,
    limited_to: str | None = None,
    on_progress: Callable[[str, float], object] = lambda what, done: None,
) -> Result:
    """Measure all cells, engine and eager in turns.

    Args:
        rounds: turns of each.
        limited_to: how this process was limited (`reluctant.bench.limited`), for the heading.
        on_progress: is told what is being measured, and how many of `STEPS` are done.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    beside, together, steps = [], [], 0
    with torch.inference_mode():
        for what, make, tokens in (
            (f"{LAYERS} layers", layers, 1),
            *((f"encoder of {BLOCKS}", encoder, n) for n in TOKENS),
        ):
            models: dict[str, nn.Module] = {"eager": make(), "engine": served(make())}
            for busy in BUSY:
                on_progress(f"{what}, {tokens} tokens, beside {busy}", steps)
                beside.append(_beside(what, models, tokens, busy, rounds))
                steps += 1
    for tokens in TOKENS:
        on_progress(f"{WORKERS} processes at once, {tokens} tokens", steps)
        together.append(_together(tokens, rounds))
        steps += 1
    on_progress("done", STEPS)
    return Result(beside, together, load, ways.in_use().name, limited_to)


def layers() -> nn.Sequential:
    """Feed-forward layers, one after the other."""
    torch.manual_seed(0)
    stack = [
        nn.Sequential(nn.Linear(D_MODEL, D_FF), nn.ReLU(), nn.Linear(D_FF, D_MODEL))
        for _ in range(LAYERS)
    ]
    return _quiet(nn.Sequential(*stack))


def encoder() -> nn.Module:
    """torch's own Transformer encoder."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(D_MODEL, 8, D_FF, batch_first=True)
    return _quiet(nn.TransformerEncoder(block, BLOCKS, enable_nested_tensor=False))


def _quiet(model: Model) -> Model:
    for part in model.modules():
        if isinstance(part, nn.Linear) and part.out_features == D_FF:
            nn.init.constant_(part.bias, BIAS)
    return model.eval().requires_grad_(False)


def served(model: Model) -> Model:
    """A copy with engines."""
    with torch.inference_mode(False):
        model = copy.deepcopy(model)
        reluctant.optimize(model)
    return model


def _beside(what: str, models: dict[str, nn.Module], tokens: int, busy: int, n: int) -> Beside:
    x = torch.randn(1, tokens, D_MODEL, generator=torch.Generator().manual_seed(1))
    parts = LAYERS if "layers" in what else 1  # the time of a layer, or of the whole model
    outputs = [_list(models[name], x)[-1] for name in NAMES]
    error = float((outputs[1] - outputs[0]).norm() / outputs[0].norm())
    calls = {name: lambda _, model=models[name]: _list(model, x) for name in NAMES}
    settle = TURN / 5 if tokens == 1 else None  # else a call is long beside what its start costs
    with busy_processes(busy):
        times = in_turns(calls, rounds=n, settle=settle, turn=TURN)
    figures = {
        name: (1e6 * median(taken) / parts, 1e6 * _p95(taken) / parts)
        for name, taken in times.items()
    }
    return Beside(what, tokens, busy, figures["eager"], figures["engine"], error)


def _list(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Each layer's output for the same x, or the whole model's."""
    return [layer(x) for layer in model] if isinstance(model, nn.Sequential) else [model(x)]


def _p95(times: list[float]) -> float:
    return quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]


@contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes that do nothing but compute, for as long as this lasts."""
    with processes(["-c", _SPIN], count) as started:
        if started:
            sleep(0.3)  # the scheduler's view of them settles
        yield started


def _together(tokens: int, rounds: int) -> Together:
    counts: dict[str, list[float]] = {name: [] for name in NAMES}
    with processes(["-m", "reluctant.bench.worker"], WORKERS) as workers:
        for number in range(rounds):
            for name in NAMES if number % 2 == 0 else reversed(NAMES):
                for child in workers:
                    assert child.stdin is not None
                    child.stdin.write(f"{name} {tokens} {WORK}\n")
                    child.stdin.flush()
                counts[name].append(sum(float(answer(child)) for child in workers))
    return Together(tokens, WORKERS, median(counts["eager"]), median(counts["engine"]))


def show(result: Result, console: Console) -> None:
    """The tables, and what they were measured on."""
    if result.limited_to:
        console.print(f"As on a processor with {result.limited_to}, torch and its libraries too.")
    console.print(header())
    console.print(f"table of limits: {result.table}", markup=False, soft_wrap=True)
    console.print(f"load average before the run: {result.load:.1f}")
    table = Table(title="Beside busy processes: milliseconds, median (95 %)", box=box.SIMPLE)
    for column in ("", "tokens", "busy", "eager", "engine", "eager / engine"):
        table.add_column(column, justify="right" if column else "left")
    for row in result.beside:
        times = [f"{m / 1e3:.3g} ({most / 1e3:.3g})" for m, most in (row.eager, row.engine)]
        table.add_row(row.what, str(row.tokens), str(row.busy), *times, f"{row.ratio:.2f}x")
        if not row.error <= TOLERANCE:
            console.print(f"[red]{row.what}: outputs differ by {row.error:.1e}[/]")
    table.caption = f"{D_MODEL}/{D_FF}, 4 % active; layers: of one of them."
    console.print(table)
    table = Table(title="Processes at once: layer calls a second, of all", box=box.SIMPLE)
    for column in ("processes", "tokens", "eager", "engine", "engine / eager"):
        table.add_column(column, justify="right")
    for line in result.together:
        calls = f"{line.eager:.0f}", f"{line.engine:.0f}", f"{line.ratio:.2f}x"
        table.add_row(str(line.workers), str(line.tokens), *calls)
    console.print(table)
