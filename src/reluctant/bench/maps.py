"""Linear maps and output projections beside torch's own products (`reluctant bench --maps`)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from reluctant.bench.limits import MEMORY_BYTES, reading
from reluctant.bench.row import TOLERANCE
from reluctant.generation.choose import Step, greedy
from reluctant.linear import few_rows
from reluctant.machine import cpu_model, header, versions
from reluctant.projection import Projection
from reluctant.timing import interleaved

COLD = 2**28  # bytes of weights that calls take turns at: more than most caches
MAP = (2048, 2048)
FEW, MANY = (1, 5, 8), (16, 128)
LOGITS, ARGMAX = (128_112, 1024), (262_144, 640)  # M2M100-418M's and Gemma 3 270M's projections
DTYPES = (torch.float32, torch.bfloat16)
STEPS = 3 * len(FEW) + len(MANY) + 3


@dataclass(frozen=True)
class Row:
    """One kind of call: medians in microseconds; bytes: of weights that torch reads in it. error:
    relative, of ours against torch's; of a decision, whether it is another one."""

    what: str
    shape: str
    rows: int
    dtype: str
    torch: float
    ours: float
    bytes: int
    error: float

    @property
    def ratio(self) -> float:
        """How many times ours it takes torch."""
        return self.torch / self.ours

    @property
    def allowed(self) -> float:
        """The largest error that rounding explains."""
        return 2**-8 if self.dtype == "bfloat16" else TOLERANCE


@dataclass(frozen=True)
class Result:
    """All of it; bandwidth: bytes a second that this machine reads from memory."""

    rows: list[Row]
    bandwidth: float

    @property
    def agree(self) -> bool:
        """Whether every output was right."""
        return all(row.error <= row.allowed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "rows": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
            "bandwidth": self.bandwidth,
            "machine": cpu_model(),
            "threads": torch.get_num_threads(),
            "versions": versions("reluctant", "torch", "numba"),
        }


@torch.inference_mode()
def run_maps(
    *, rounds: int = 9, on_progress: Callable[[str, float], object] = lambda what, done: None
) -> Result:
    """Measure all rows, torch and ours in turns.

    on_progress: is told what is being measured, and how many of `STEPS` are done.
    """
    single, short = DTYPES
    cells = [(m, dtype, dtype) for dtype in DTYPES for m in FEW]
    cells += [(m, single, short) for m in FEW] + [(m, single, single) for m in MANY]
    rows = list[Row]()
    for m, dtype, read in cells:
        on_progress(f"{m} rows", len(rows))
        rows.append(_map(m, dtype, read, rounds))
    for what, measure in (("all logits", _logits), ("argmax", _argmax)):
        on_progress(what, len(rows))
        rows.append(measure(rounds))
    on_progress("bandwidth", len(rows))
    return Result(rows, reading(MEMORY_BYTES).measure())


def _map(m: int, dtype: torch.dtype, read: torch.dtype, rounds: int) -> Row:
    """A linear map, other weights at each call. read: what the kernel reads them in."""
    n, d = MAP
    weights, x = _drawn(n, d, m, read)
    plain = [weight.to(dtype) for weight in weights]
    x, count = x.to(dtype), len(weights)
    calls: dict[str, Callable[[int], object]] = {
        "torch": lambda k: F.linear(x, plain[k % count]),
        "ours": lambda k: few_rows(x, weights[k % count], None),
    }
    what = "linear map" if m in FEW else "linear map, batch-invariant"
    kind = _name(dtype) if read is dtype else f"{_name(dtype)}, read as {_name(read)}"
    return _row(what, MAP, m, kind, calls, plain[0].nbytes, rounds)


def _logits(rounds: int) -> Row:
    (n, d), m = LOGITS, 5
    weights, x = _drawn(n, d, m, torch.float32, least=1)
    calls: dict[str, Callable[[int], object]] = {
        "torch": lambda k: F.linear(x, weights[0]),
        "ours": lambda k: few_rows(x, weights[0], None),
    }
    return _row("all logits", LOGITS, m, "float32", calls, weights[0].nbytes, rounds)


class _Counts:
    def __init__(self) -> None:
        self.rows = list[int]()


def _argmax(rounds: int) -> Row:
    """The likeliest token, drawn: certified against all logits and their largest."""
    n, d = ARGMAX
    with torch.inference_mode(False), torch.no_grad():
        weights, x = _drawn(n, d, 1, torch.float32, least=1)
        head = nn.Linear(d, n, bias=False)
        head.weight.copy_(weights[0])
        projection, counts = Projection(head), _Counts()
    calls: dict[str, Callable[[int], object]] = {
        "torch": lambda k: F.linear(x, weights[0]).argmax(1),
        "ours": lambda k: torch.tensor(greedy(Step(projection, x, None, counts))),
    }
    return _row("certified argmax", ARGMAX, 1, "float32", calls, weights[0].nbytes, rounds)


def _row(
    what: str,
    shape: tuple[int, int],
    m: int,
    dtype: str,
    calls: dict[str, Callable[[int], Any]],
    size: int,
    rounds: int,
) -> Row:
    theirs, ours = (calls[name](0).double() for name in ("torch", "ours"))
    error = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
    times = interleaved(calls, rounds=rounds, turn=0.05)
    spent = {name: 1e6 * seconds for name, seconds in times.items()}
    text = f"{shape[0]} x {shape[1]}"
    return Row(what, text, m, dtype, spent["torch"], spent["ours"], size, error)


def _drawn(
    n: int, d: int, m: int, dtype: torch.dtype, least: int = 2
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(n, d, generator=generator).to(dtype)
    count = max(least, COLD // one.nbytes if least > 1 else 1)
    return [one.clone() for _ in range(count)], torch.randn(m, d, generator=generator)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def show(result: Result, console: Console) -> None:
    """The table, and what it was measured on."""
    console.print(header())
    table = Table(title="Linear maps, cold: microseconds a call, medians", box=box.SIMPLE)
    columns = ("", "weights", "rows", "dtype", "torch", "ours", "torch / ours", "of the bandwidth")
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "dtype") else "right")
    for row in result.rows:
        rate = row.bytes / row.ours * 1e6
        rate /= 2 if "read as" in row.dtype else 1
        share = "" if "argmax" in row.what else f"{rate / result.bandwidth:.0%}"
        times = f"{row.torch:.0f}", f"{row.ours:.0f}", f"{row.ratio:.2f}x"
        table.add_row(row.what, row.shape, str(row.rows), row.dtype, *times, share)
        if not row.error <= row.allowed:
            console.print(f"[red]{row.what}: outputs differ by {row.error:.1e}[/]")
    table.caption = f"reading memory: {result.bandwidth / 1e9:.1f} GB/s"
    console.print(table)
