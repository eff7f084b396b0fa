"""Training steps of one model, at several densities: all contenders in turns."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from reluctant.bench.peers.torches import compiler_reset
from reluctant.bench.train import peers
from reluctant.bench.train.grid import KINDS, Cell
from reluctant.bench.train.model import (
    Batch,
    build,
    draw_batch,
    errors,
    forget,
    reference,
    results,
    set_density,
)
from reluctant.bench.train.row import LITTLE, Row, wrong_tensors
from reluctant.timing import interleaved

SETTLE = 0.02  # seconds at the start of a turn that are not timed
TURN = 0.04  # seconds of a turn that are timed
CALM = 2**29  # products of a cell from which a step is so long that its start does not matter
BUDGET = 8.0  # seconds for a row, once there have been three rounds


def measure(
    cells: Sequence[Cell],
    *,
    rounds: int,
    names: Iterable[str] = tuple(peers.BUILDERS),
    on_cell: Callable[[Cell], object] = lambda cell: None,
    on_round: Callable[[], object] = lambda: None,
) -> Iterator[Row]:
    """The rows of cells that differ in nothing but their density: of one model, built once.

    rounds: turns of each contender; fewer, but three, where a step takes long. names: of the peers.
    on_cell: is told of each cell before it is measured; on_round: called after each round.
    """
    kind, tokens, shape, dtype = cells[0].group
    generator = torch.Generator().manual_seed(0)
    model = build(kind, shape, getattr(torch, dtype), generator)
    built: list[peers.Contender] = []
    missing: dict[str, str] = {}
    with torch.enable_grad(), compiler_reset():
        for cell in cells:
            on_cell(cell)
            set_density(model, cell.density)
            batch = draw_batch(model, tokens, generator)
            if not built:
                others, missing = peers.build(model, batch, names)
                built = [peers.ours(model), *others]
            set_density(built[0].model, cell.density)
            yield _row(cell, built, missing, batch, rounds, on_round)


def _row(
    cell: Cell,
    contenders: Sequence[peers.Contender],
    missing: dict[str, str],
    batch: Batch,
    rounds: int,
    on_round: Callable[[], object],
) -> Row:
    ours = contenders[0]
    kept, found = _first_steps(contenders, batch)
    before = _ways(ours)
    seconds = interleaved(
        {each.name: partial(_step, each, batch) for each in contenders},
        rounds=rounds,
        settle=SETTLE if cell.products < CALM else None,
        turn=TURN,
        budget=BUDGET,
        on_round=on_round,
    )
    ways = {way: calls - before[way] for way, calls in _ways(ours).items()}
    names = [each.name for each in contenders[1:]]
    little = LITTLE[cell.kind][cell.dtype]
    right = [name for name in names if not wrong_tensors(found, name, little)]
    shape = cell.shape
    for each in contenders:
        forget(each.model, batch.x)
    return Row(
        kind=cell.kind,
        dtype=cell.dtype,
        tokens=cell.tokens,
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        gated=shape.gated,
        layers=KINDS[cell.kind],
        density=cell.density,
        active=batch.active,
        ours_ms=1e3 * seconds["ours"],
        peers={name: 1e3 * seconds[name] for name in names},
        best=min(right or ["eager"], key=lambda name: seconds[name]),
        kept=kept,
        errors=found,
        ways=ways,
        missing=missing,
    )


def _step(contender: peers.Contender, batch: Batch, _: int) -> Tensor:
    return contender.step(batch)


def _first_steps(
    contenders: Sequence[peers.Contender], batch: Batch
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """The bytes that each contender keeps, and its errors."""
    forget(contenders[0].model, batch.x)
    truth = reference(contenders[0].model, batch)
    kept, found = {}, {}
    for each in contenders:
        forget(each.model, batch.x)
        y, kept[each.name] = forward(each, batch.x)
        y.backward(batch.dy)  # type: ignore[no-untyped-call]
        found[each.name] = errors(results(each.model, batch.x, y), truth)
    return kept, found


def forward(contender: peers.Contender, x: Tensor) -> tuple[Tensor, int]:
    """The output, and the bytes that autograd keeps after the forward pass, besides x and the
    model's parameters."""
    sizes: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()  # which y holds, so that no other can be where it is
        sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = contender.forward(x)
    for leaf in (x, *contender.model.parameters()):
        sizes.pop(leaf.untyped_storage().data_ptr(), None)
    return y, sum(sizes.values())


def _ways(ours: peers.Contender) -> dict[str, int]:
    """Calls with gradients, by the way they went."""
    return {way: sum(engine.calls[way] for engine in ours.engines) for way in ("training", "dense")}
