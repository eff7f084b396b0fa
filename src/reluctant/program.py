"""Operations of one step of a model, in tables that `kernels.program` goes through in one call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reluctant.kernels import best
from reluctant.kernels import program as kernels
from reluctant.kernels.entry import ARRAYS, NUMBERS, TABLE
from reluctant.kernels.team import Team, team_for
from reluctant.narrow import Narrow
from reluctant.weights import as_array

DONE, STALE, NO_TOKEN = kernels.DONE, kernels.STALE, kernels.NO_TOKEN


class Weights(NamedTuple):
    """One linear map's, as a program reads them.

    row: of the table of maps, without where the result goes. read: the weights' dtype as they are
    read; n, d: their shape. held: what lies at the addresses.
    """

    row: tuple[int, ...]
    read: torch.dtype
    n: int
    d: int
    held: tuple[Any, ...]


def weights_of(linear: nn.Linear, narrow: Narrow | None) -> Weights:
    """Those of a map of float32 weights, (n, d), on the CPU, on end.

    narrow: what reads them in 16 bits, if there is such a thing. A weight that it has no copy of is
    read as it is.
    """
    weight, bias = linear.weight.data, linear.bias
    n, d = weight.shape
    bias_at = 0 if bias is None else bias.data_ptr()
    copied = None if narrow is None else narrow.copied()
    if copied is None or copied.copy is None:
        row = (weight.data_ptr(), bias_at, 0, n, 0, 0, 0)
        return Weights(row, weight.dtype, n, d, (weight, bias))
    stood = copied.corner.ctypes.data, copied.sums.ctypes.data
    row = (copied.copy.data_ptr(), bias_at, 0, n, weight.data_ptr(), *stood)
    return Weights(row, copied.copy.dtype, n, d, (weight, bias, copied))


def room(*shape: int) -> Tensor:
    """What kernels write numbers to: float32 on the CPU, whatever torch makes by default."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def most_probable(
    logits: Tensor, k: int, left_out: int | None, *, counts: bool
) -> tuple[Tensor, Tensor]:
    """Ids and log softmax of the k largest logits of each row, falling, the lowest of equals first:
    (rows, k) int64 and float32. Of a row with a NaN in it all are NaN.

    logits: (rows, n) float32, contiguous, on the CPU; left_out: an id that is not among them, whose
    logits are overwritten; counts: whether it has its share in the probabilities.

    >>> ids, gains = most_probable(torch.tensor([[0.0, 2.0, 1.0]]), 2, None, counts=True)
    >>> ids, gains.exp()
    (tensor([[1, 2]]), tensor([[0.6652, 0.2447]]))
    """
    ids = torch.empty(len(logits), k, dtype=torch.int64, device="cpu")
    gains = room(len(logits), k)
    given, *found = (as_array(each) for each in (logits, ids, gains))
    team = team_for(8 * logits.nbytes)
    best.run(given, -1 if left_out is None else left_out, counts, *found, team)
    return ids, gains


class Program:
    """A list of operations on rows of float32, all of them contiguous and on the CPU.

    read: the dtype in which all maps' weights are read. Keeps all that is given to it alive.

    >>> linear = nn.Linear(4, 3).requires_grad_(False)
    >>> program, x, y = Program(torch.float32), torch.ones(2, 4), torch.empty(2, 3)
    >>> _ = program.maps(x, [weights_of(linear, None)], [y])
    >>> program.run(), torch.allclose(y, linear(x))
    (-1, True)
    """

    def __init__(self, read: torch.dtype) -> None:
        self._read = as_array(torch.empty(0, dtype=read, device="cpu"))
        self._rows: list[tuple[int, ...]] = []
        self._numbers: list[float] = []
        self._map_rows: list[tuple[int, ...]] = []
        self._held: list[Any] = []
        self._work, self._turn = 0, 0
        self._tables: tuple[Any, ...] | None = None

    def embed(
        self, ids: Tensor, table: Tensor, scale: float, positions: Tensor, out: Tensor
    ) -> int:
        """out = table[ids] scale + positions: (rows, d). ids: (rows,) int64; positions: (length,
        d), in turns. Gives the operation's number."""
        places = ids.data_ptr(), table.data_ptr(), positions.data_ptr(), out.data_ptr()
        sizes = (*out.shape, len(positions), len(table))
        return self._add((kernels.EMBED, *places, *sizes), scale, ids, table, positions, out)

    def norm(
        self,
        x: Tensor,
        y: Tensor | None,
        out: Tensor,
        norm: nn.LayerNorm | None,
    ) -> None:
        """x += y, then out = norm(x), of rows; without y or norm, the other alone."""
        places = x.data_ptr(), 0 if y is None else y.data_ptr(), out.data_ptr()
        weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
        weights = (0 if each is None else each.data_ptr() for each in (weight, bias))
        row = (kernels.NORM, *places, *x.shape, *weights)
        self._add(row, 0.0 if norm is None else norm.eps, x, y, out, weight, bias)

    def maps(self, x: Tensor, maps: Sequence[Weights], outs: Sequence[Tensor]) -> int:
        """outs = x weights^T + bias, of maps of as many outputs; gives the first one's number."""
        first = len(self._map_rows)
        for weights, out in zip(maps, outs, strict=True):
            before, after = weights.row[: kernels.OUT], weights.row[kernels.OUT + 1 :]
            self._map_rows.append((*before, out.data_ptr(), *after))
            self._work += weights.n * weights.d * weights.read.itemsize * (1 + len(x) // 4)
        pieces = -(-max(weights.n for weights in maps) // kernels.OUTPUTS_OF_A_PIECE)
        row = (kernels.MAPS, x.data_ptr(), *x.shape, first, len(maps), pieces)
        self._add(tuple(row), 0.0, x, *maps, *outs)
        return first

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, lists: Any, lengths: Any,
        heads: int,
    ) -> int:  # fmt: skip
        """out = softmax(q k^T / sqrt(d_head)) v of each row and head, over the keys on its list.

        queries, out: (rows, d); keys, values: (..., d), rows of all kinds; lists: (some, room)
        int32, lengths: (some,) int64, NumPy's: which of them rows see, as many rows a list. Gives
        the operation's number.
        """
        rows, d = queries.shape
        places = (each.data_ptr() for each in (queries, keys, values, out))
        lists_at = lists.ctypes.data, lengths.ctypes.data
        several = rows // len(lists)
        sizes = rows, heads, d // heads, *lists_at, lists.shape[1], several, keys.numel() // d
        row = (kernels.ATTEND, *places, *sizes)
        return self._add(row, 0.0, queries, keys, values, out, lists, lengths)

    def few(self, table: tuple[Any, ...], x: Tensor, out: Tensor, limit: float, *held: Any) -> int:
        """out = a feed-forward layer of x, both (rows, d), by the kernel for few tokens.

        table: of `kernels.entry.table_of`, its weights read as the program's; limit: of candidates.
        held: what its addresses are of. Where the kernel leaves it to others so does the program.
        Gives the operation's number.
        """
        numbers, values, _, read = table
        assert (len(numbers), len(values), read.dtype) == (TABLE, NUMBERS, self._read.dtype)
        row = (kernels.FEW, numbers.ctypes.data, values.ctypes.data, x.data_ptr(), out.data_ptr())
        self._work += int(numbers[ARRAYS]) * int(numbers[ARRAYS + 1])
        return self._add((*row, len(x)), limit, table, x, out, *held)

    def leave(self) -> int:
        """Here the caller does something; gives the operation's number."""
        return self._add((kernels.LEAVE,), 0.0)

    def _add(self, row: tuple[int, ...], number: float, *held: Any) -> int:
        self._rows.append((*row, *[0] * (kernels.FIELDS - len(row))))
        self._numbers.append(number)
        self._held += held
        return len(self._rows) - 1

    def tables(self) -> tuple[Any, Any, Any]:
        """Operations, numbers and maps, as the kernel reads them: not to be added to any more."""
        if self._tables is None:
            maps = self._map_rows or [(0,) * 7]
            self._tables = (
                np.array(self._rows, np.int64),
                np.array(self._numbers),
                np.array(maps, np.int64),
            )
        return self._tables

    def team(self) -> Team:
        """Who computes it."""
        return team_for(self._work)

    def run(self, start: int = 0, team: Team | None = None) -> int:
        """From operation `start` on, up to one that is the caller's, whose number it gives; DONE,
        STALE or NO_TOKEN, as `kernels.program.run` has it."""
        self._turn += 1
        team = self.team() if team is None else team
        found: int = kernels.run(*self.tables(), self._read, start, self._turn, team)
        return found
