"""A served Transformer's encoder, and its decoder step by step, each as a program.

A model as small as a translator's does a hundred operations of some microseconds in every step, and
calling them takes longer than they do. Here a step is one call, where `transformer.maps` says that
it may be. The numbers are those of the model itself, within rounding.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reluctant.kernels.program import OUT
from reluctant.program import DONE, NO_TOKEN, most_probable, room
from reluctant.surgery.modes import is_watched
from reluctant.transformer.cache import Cache, KeyValues, Past
from reluctant.transformer.maps import Maps, forget, maps_of
from reluctant.transformer.model import Transformer
from reluctant.transformer.sublayers import Stack, positions_of

MOST_ROWS = 256  # beyond, torch's own products are as fast
_ROOM = 32  # positions there is room for at first

Lists = tuple[Any, Any]  # of keys, (lists, room) int32, and how long they are, (lists,) int64


def start(model: Transformer, source: Tensor) -> Cache | None:
    """`Transformer.start`, or None: it has to do it itself.

    source: (batch, m) int64.
    """
    batch, m = source.shape if source.dim() == 2 else (0, 0)
    rows = batch * m
    maps = maps_of(model) if 0 < rows <= MOST_ROWS and source.dtype is torch.int64 else None
    if maps is None or not source.is_cpu:
        return None
    for _ in range(2):
        mask = model.padding_mask(source)
        d, heads = model.config.d_model, model.config.heads
        stack = Stack(maps, source.contiguous().view(-1), (batch, m, d))
        positions = positions_of(model.input_positions, m, d)
        stack.embed(model.input_embedding, model.scale, positions, model.input_norm)
        lists, (keys, values) = _seen(mask, batch, m), room(2, rows, d).unbind()
        encoder: Any = model.encoder
        for layer in encoder.layers:
            attention = layer.multi_head_attention
            stack.attend(layer.add_norm_1, attention, keys, values, lists, own=True)
            stack.feed_forward(layer.add_norm_2, layer.feed_forward)
        stack.finish(encoder.norm)
        decoder: Any = model.decoder
        attentions = [layer.multi_head_attention for layer in decoder.layers]
        two = [maps.by_module[m] for each in attentions for m in (each.key, each.value)]
        memory = room(len(two), batch, m, d)
        stack.program.maps(stack.x, two, [*memory.view(len(two), rows, d)])
        found = stack.run()
        if found == DONE:
            each = memory.view(-1, 2, batch, m, heads, d // heads).transpose(3, 4)
            return Cache([Past(KeyValues(), (k, v)) for k, v in each], mask, batch)
        if found == NO_TOKEN:
            return None
        forget(model)  # a map is not what was copied, which torch does not know
        if (again := maps_of(model)) is None:
            return None
        maps = again
    return None


def decoder(
    model: Transformer, cache: Cache, rows: int, most: int, with_logits: bool
) -> "Decoder | None":
    """See `Decoder`; None: the model has to do it itself."""
    maps = maps_of(model) if 0 < rows <= MOST_ROWS and not cache.length else None
    return None if maps is None else Decoder(model, maps, cache, rows, most, with_logits)


class Decoder:
    """The steps of one decoding of a served model, for targets of so many rows.

    cache: `Transformer.start`'s; its length is kept, but not its keys and values: these lie by
    position, where they are first written, and lists say which of them each row sees. most: the
    most positions there may be. with_logits: whether logits are asked for.
    """

    def __init__(
        self, model: Transformer, maps: Maps, cache: Cache, rows: int, most: int, with_logits: bool
    ) -> None:
        self._model, self._maps, self.cache, self.rows = model, maps, cache, rows
        d, layers = model.config.d_model, len(cache.layers)
        self._most, self._room, self._with_logits = most, min(_ROOM, most), with_logits
        self._ids = torch.zeros(rows, dtype=torch.int64, device="cpu")
        self._own = room(layers, 2, self._room, rows, d)
        self._lists = np.empty((rows, self._room), np.int32)
        self._lengths = np.zeros(rows, np.int64)
        # (batch, m, d): the order in which both `start`s write them
        self._memory = [
            [each.transpose(1, 2).contiguous().flatten(2) for each in past.memory]
            for past in cache.layers
        ]
        m = cache.layers[0].memory[0].size(2)
        self._memory_lists = _seen(cache.memory_mask, cache.sources, m)
        self._positions = positions_of(model.output_positions, most, d)
        self._build()

    def _build(self) -> None:
        model, positions = self._model, self._positions
        stack = self._stack = Stack(self._maps, self._ids, (self.rows, 1, model.config.d_model))
        self._embeds = stack.embed(
            model.output_embedding, model.scale, positions[:1], model.output_norm
        )
        decoder: Any = model.decoder
        own, seen, firsts = (self._lists, self._lengths), self._memory_lists, list[int]()
        for layer, (keys, values), memory in zip(
            decoder.layers, self._own, self._memory, strict=True
        ):
            attention = layer.masked_multi_head_attention
            firsts.append(stack.attend(layer.add_norm_1, attention, keys, values, own, own=True))
            attention = layer.multi_head_attention
            stack.attend(layer.add_norm_2, attention, memory[0], memory[1], seen, own=False)
            stack.feed_forward(layer.add_norm_3, layer.feed_forward)
        stack.finish(decoder.norm)
        self._logits: Tensor | None = None
        head = self._maps.head(model, self.rows) if self._with_logits else None
        if head is not None:
            self._logits = room(self.rows, head.n)
            stack.program.maps(stack.x, [head], [self._logits])
        # What changes from step to step: where new keys and values go, and the position.
        self._ops, _, self._map_rows = stack.program.tables()
        self._grows = [first + k for first in firsts for k in range(2)]
        self._begins = [each.data_ptr() for pair in self._own for each in pair]

    def hidden(self, tokens: Tensor) -> Tensor | None:
        """What `Transformer.hidden` gives for the last of the next tokens (rows, n): (rows,
        d_model), good until the next step; None: it has to do it itself (see `hand_over`)."""
        for k in range(tokens.size(1)):
            if is_watched() or not self._step(tokens[:, k]):
                return None
        return self._stack.x

    def best(
        self, tokens: Tensor, k: int, left_out: int | None, *, counts: bool
    ) -> tuple[Tensor, Tensor] | None:
        """Ids and log probabilities, (rows, k) each, of the most probable next tokens, falling.

        left_out: an id that is never chosen; counts: whether it has its share in the probabilities.
        """
        x = self.hidden(tokens)
        if x is None:
            return None
        logits = self._model.linear(x) if self._logits is None else self._logits
        return most_probable(logits, k, left_out, counts=counts)

    def _step(self, ids: Tensor) -> bool:
        at = self.cache.length
        if at == self._room:
            self._grow()
        self._ids.copy_(ids)
        self._lists[:, at] = np.arange(at * self.rows, (at + 1) * self.rows)
        self._lengths[:] = at + 1
        for _ in range(2):
            if not self._maps.fresh() and not self._renew():
                return False
            if not self._stack.holds():
                self._build()
            self._ops[self._embeds, 3] = self._positions[at].data_ptr()
            step = at * self._stack.x.nbytes
            self._map_rows[self._grows, OUT] = [begin + step for begin in self._begins]
            found = self._stack.run()
            if found == DONE:
                self.cache.length, self.cache.rows = at + 1, self.rows
                return True
            if found == NO_TOKEN or not self._renew():
                return False
        return False

    def _renew(self) -> bool:
        """Read the weights anew, if they may still be read so."""
        forget(self._model)
        maps = maps_of(self._model)
        if maps is None:
            return False
        self._maps = maps
        self._positions = positions_of(
            self._model.output_positions, self._most, self._model.config.d_model
        )
        self._build()
        return True

    def _grow(self) -> None:
        own, lists, n = self._own, self._lists, self._room
        self._room = min(2 * n, self._most)
        self._own = room(*own.shape[:2], self._room, *own.shape[3:])
        self._own[:, :, :n] = own
        self._lists = np.empty((self.rows, self._room), np.int32)
        self._lists[:, :n] = lists
        self._build()

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows: as `Cache.reorder`."""
        n = self.cache.length
        self._lists[:, :n] = self._lists[rows.numpy(), :n]

    def hand_over(self) -> None:
        """Give the cache all keys and values so far, as the model itself keeps them."""
        n, heads = self.cache.length, self._model.config.heads
        index = torch.from_numpy(self._lists[:, :n].astype(np.int64))
        for (keys, values), past in zip(self._own, self.cache.layers, strict=True):
            past.target = KeyValues()
            if n:
                two = (each.flatten(0, 1)[index] for each in (keys, values))
                past.target.append(
                    *(each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in two)
                )


def _seen(mask: Tensor | None, batch: int, m: int) -> Lists:
    """Which positions of each source are seen. mask: None, or (batch, 1, 1, m), boolean or what is
    added to scores, 0 or -inf."""
    places = np.arange(batch * m, dtype=np.int32).reshape(batch, m)
    if mask is None:
        return places, np.full(batch, m, np.int64)
    seen = mask[:, 0, 0] if mask.dtype is torch.bool else mask[:, 0, 0] == 0
    first = (~seen).numpy().argsort(1, kind="stable")
    return np.take_along_axis(places, first, 1), seen.sum(1).numpy()
