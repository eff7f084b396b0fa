"""The sub-layers of a stack, encoder or decoder, as operations of a program."""

from typing import Any

from torch import Tensor, nn

from reluctant.program import DONE, Program, room
from reluctant.surgery.seat import kind_of
from reluctant.surgery.swap import seat_of
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.layers import AddNorm, PositionalEncoding
from reluctant.transformer.maps import Maps


class Stack:
    """One stack's program, and what it works on.

    maps: the model's. ids: (rows,) int64, of tokens; shape: in which the model gives a feed-forward
    layer what are rows here. x: (rows, d_model): what has come of the tokens so far, at the end the
    result.
    """

    def __init__(self, maps: Maps, ids: Tensor, shape: tuple[int, ...]) -> None:
        assert maps.read is not None
        self.maps, self.ids, self.shape = maps, ids, shape
        self.program = Program(maps.read)
        # h: what a sub-layer gets; q, a: queries, and what they see; out: what it gives
        rows = len(ids), shape[-1]
        self.x, self._h, self._q, self._a, self._out = room(5, *rows).unbind()
        self._waits = False  # whether `out` has still to be added to x
        self._layers: dict[int, tuple[nn.Module, Tensor]] = {}
        self._ready: dict[int, tuple[Any, Any]] = {}

    def embed(
        self, embedding: nn.Embedding, scale: float, positions: Tensor, norm: nn.Module
    ) -> int:
        """Tokens and positions (length, d_model), in turns. Gives the operation's number."""
        op = self.program.embed(self.ids, embedding.weight.data, scale, positions, self.x)
        if isinstance(norm, nn.LayerNorm):
            self.program.norm(self.x, None, self.x, norm)
        return op

    def attend(
        self,
        add_norm: AddNorm,
        attention: MultiHeadAttention,
        keys: Tensor,
        values: Tensor,
        lists: tuple[Any, Any],
        *,
        own: bool,
    ) -> int:
        """An attention over the keys and values that `lists` say (`Program.attend`); own: they are
        those of the rows themselves, made first. Gives the number of the keys' map, then."""
        maps, given = self.maps.by_module, self._before(add_norm)
        three = attention.query, attention.key, attention.value
        outs = [self._q, keys.view(-1, keys.shape[-1])[: len(given)]]
        outs.append(values.view(-1, values.shape[-1])[: len(given)])
        count = 3 if own else 1
        first = self.program.maps(given, [maps[each] for each in three[:count]], outs[:count])
        self.program.attend(self._q, keys, values, self._a, *lists, attention.heads)
        self.program.maps(self._a, [maps[attention.output]], [self._out])
        self._after(add_norm)
        return first + 1

    def feed_forward(self, add_norm: AddNorm, module: nn.Module) -> None:
        """A feed-forward layer: by its kernel for few tokens, or, where that does not serve it as
        the first way, by calling it."""
        given, seat = self._before(add_norm), seat_of(module)
        found = None
        if seat is not None and seat.serves(module, given) and kind_of(given) in seat.checked:
            found = seat.engine.first_few(given)
        if seat is not None and found is not None and found[0].read is self.maps.read:
            ready, limit = found
            op = self.program.few(ready.few, given, self._out, limit, ready)
            self._ready[op] = seat.engine, ready
        else:
            op = self.program.leave()
        self._layers[op] = module, given
        self._after(add_norm)

    def finish(self, norm: nn.Module) -> None:
        """The stack's last norm, or none."""
        last = norm if isinstance(norm, nn.LayerNorm) else None
        if self._waits or last is not None:
            self.program.norm(self.x, self._out if self._waits else None, self.x, last)

    def _before(self, add_norm: AddNorm) -> Tensor:
        """What the sub-layer gets."""
        added = self._out if self._waits else None
        self._waits = False
        if add_norm.norm_first:
            self.program.norm(self.x, added, self._h, add_norm.norm)
            return self._h
        if added is not None:
            self.program.norm(self.x, added, self.x, None)
        return self.x

    def _after(self, add_norm: AddNorm) -> None:
        self._waits = add_norm.norm_first
        if not self._waits:
            self.program.norm(self.x, self._out, self.x, add_norm.norm)

    def holds(self) -> bool:
        """Whether what the feed-forward layers' kernels read is still what their engines keep."""
        return all(engine.keeps(ready) for engine, ready in self._ready.values())

    def run(self) -> int:
        """All of it; gives DONE, STALE or NO_TOKEN (`reluctant.program`)."""
        at, left = self.program.run(), set[int]()
        while at >= 0:
            module, given = self._layers[at]
            self._out.copy_(module(given.view(self.shape)).view_as(given))
            left.add(at)
            at = self.program.run(at + 1)
        if at == DONE:
            for op, (engine, _) in self._ready.items():
                engine.calls["few"] += op not in left
        return at


def positions_of(encoding: PositionalEncoding, length: int, d_model: int) -> Tensor:
    """What a PositionalEncoding adds to the first positions: (length, d_model) float32.

    Raises ReluctantError for more than it has.
    """
    if encoding.table is not None and len(encoding.table) >= length:
        return encoding.table.data[:length]
    added: Tensor = encoding(room(1, length, d_model).zero_())[0]
    return added
