"""A served decoder's steps in few calls: what stands between two feed-forward layers is one.

Of a model as small as a translator's, a step is a hundred operations of some microseconds each, and
calling them takes longer than they do. Where `reluctant.optimize` serves all of a decoder's linear
maps, and nobody looks at what goes on in it, `reluctant.program` does them.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reluctant.freshness import Parameters
from reluctant.kernels.program import OUT
from reluctant.program import DONE, NO_TOKEN, STALE, Program, Weights, weights_of
from reluctant.surgery.linears import MapSeat
from reluctant.surgery.modes import is_watched
from reluctant.surgery.swap import Served, map_seat_of
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.cache import Cache, KeyValues
from reluctant.transformer.layers import (
    AddNorm,
    Decoder,
    DecoderLayer,
    PositionalEncoding,
    positions_of,
)
from reluctant.transformer.model import Transformer

MOST_ROWS = 256
_ROOM = 32  # positions there is room for at first
_OURS = (Decoder, DecoderLayer, AddNorm, MultiHeadAttention, PositionalEncoding)
_TORCHS = (nn.LayerNorm, nn.Dropout, nn.Identity, nn.ModuleList, nn.Embedding, nn.Linear)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_METHODS = {"forward", "attend", "mix", "keys_values", "_split"}


class Maps:
    """The linear maps of one decoder, as programs read them. read: the dtype of all."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.parameters = Parameters(modules)
        self.by_module = {
            module: weights_of(module, map_seat_of(module).narrow_of(module))  # type: ignore[arg-type, union-attr]
            for module in modules
            if isinstance(module, nn.Linear)
        }
        kinds = {weights.read for weights in self.by_module.values()}
        self.read = kinds.pop() if len(kinds) == 1 else None


_maps: "weakref.WeakKeyDictionary[nn.Module, Maps]" = weakref.WeakKeyDictionary()


def maps_of(model: Transformer, modules: list[nn.Module]) -> Maps:
    maps = _maps.get(model)
    if maps is None or not maps.parameters.holds():
        maps = _maps[model] = Maps(modules)
    return maps


def between(model: Transformer) -> list[nn.Module]:
    """The modules that a step goes through, feed-forward layers aside."""
    found = [model.output_embedding, model.output_positions, model.output_norm, model.dropout]
    held = list[nn.Module](found) + [model.decoder]
    at = len(held) - 1
    while at < len(held):
        module = held[at]
        held += [
            child
            for name, child in module._modules.items()
            if child is not None and not (name == "feed_forward" and isinstance(module, _LAYERS))
        ]
        at += 1
    return held


_LAYERS = (DecoderLayer,)


def is_plain(model: Transformer, modules: Iterable[nn.Module]) -> bool:
    if type(model) is not Transformer or not vars(model).keys().isdisjoint(_OWN):
        return False
    for module in modules:
        held = module.__dict__
        kind = type(module)
        if kind is nn.Linear or any(held[hooks] for hooks in _HOOKS) or module.training:
            return False
        if not held.keys().isdisjoint(_METHODS):
            return False
        if kind not in _OURS and kind not in _TORCHS:
            seat = map_seat_of(module)
            if seat is None or type(seat) is not MapSeat or seat.batch_invariant:
                return False
            if kind._unserved is not nn.Linear:
                return False
        for parameter in held["_parameters"].values():
            if parameter is not None and not (
                type(parameter) is nn.Parameter
                and parameter.dtype is torch.float32
                and parameter.is_cpu
                and parameter.is_contiguous()
                and not parameter.is_inference()
            ):
                return False
    return True


_OWN = {"decode", "hidden", "_embed", "start", "encode", "padding_mask"}


class Steps:
    """The decoder's steps, for targets of `rows`. Its cache: keys and values by position."""

    def __init__(self, model: Transformer, cache: Cache, rows: int, maps: Maps, most: int) -> None:
        self.model, self.cache, self.rows, self.maps = model, cache, rows, maps
        d = model.config.d_model
        self.layers: list[Any] = list(model.decoder.layers)
        self.room = min(_ROOM, most)
        self.most = most
        self.ids = torch.zeros(rows, dtype=torch.int64)
        self.x, self.h, self.q, self.out, self.a = torch.empty(5, rows, d).unbind()
        self.own = torch.empty(len(self.layers), 2, self.room, rows, d)
        self.lists = np.empty((rows, self.room), np.int32)
        self.lengths = np.zeros(rows, np.int64)
        self.memory = [
            tuple(each.transpose(1, 2).contiguous() for each in past.memory)
            for past in cache.layers
        ]
        self.memory_lists = _lists(cache, self.memory[0][0].shape[1])
        self.positions = positions_of(model.output_positions, most, d)
        self.build()

    def build(self) -> None:
        model, maps = self.model, self.maps.by_module
        program = self.program = Program(self.maps.read)
        x, h, q, a, out = self.x, self.h, self.q, self.a, self.out
        heads = model.config.heads
        self.growing, self.left = [], []
        program.embed(self.ids, model.output_embedding.weight.data, model.scale, self.positions[:1], x)
        if isinstance(model.output_norm, nn.LayerNorm):
            program.norm(x, None, x, model.output_norm)
        added = None
        for i, layer in enumerate(self.layers):
            attention = layer.masked_multi_head_attention
            given = self._before(layer.add_norm_1, added)
            keys, values = self.own[i]
            three = [maps[each] for each in (attention.query, attention.key, attention.value)]
            first = program.maps(given, three, [q, keys[0], values[0]])
            self.growing += [(first + 1, keys), (first + 2, values)]
            program.attend(q, keys, values, a, self.lists, self.lengths, heads)
            program.maps(a, [maps[attention.output]], [out])
            self._after(layer.add_norm_1)
            attention = layer.multi_head_attention
            given = self._before(layer.add_norm_2, out)
            program.maps(given, [maps[attention.query]], [q])
            program.attend(q, *self.memory[i], a, *self.memory_lists, heads)
            program.maps(a, [maps[attention.output]], [out])
            self._after(layer.add_norm_2)
            given = self._before(layer.add_norm_3, out)
            self.left.append((program.leave(), layer.feed_forward, given))
            self._after(layer.add_norm_3)
            added = out
        last = model.decoder.norm
        program.norm(x, self._missing(added), x, last if isinstance(last, nn.LayerNorm) else None)
        self.ops, _, self.map_rows = program.tables()
        self.addresses = [keys.data_ptr() for _, keys in self.growing]
        self.growing = [row for row, _ in self.growing]
        self.by_op = {op: (ff, given) for op, ff, given in self.left}
        self.team = program.team()

    def _before(self, add_norm: Any, added: Tensor | None) -> Tensor:
        """What the sub-layer gets; adds what the one before gave if that is still to be done."""
        if add_norm.norm_first:
            self.program.norm(self.x, self._missing(added), self.h, add_norm.norm)
            return self.h
        return self.x

    def _missing(self, added: Tensor | None) -> Tensor | None:
        return added if added is not None and self.layers[0].add_norm_1.norm_first else None

    def _after(self, add_norm: Any) -> None:
        if not add_norm.norm_first:
            self.program.norm(self.x, self.out, self.x, add_norm.norm)

    def hidden(self, tokens: Tensor) -> Tensor | None:
        """tokens: (rows, n); gives (rows, d) of the last."""
        for k in range(tokens.size(1)):
            if is_watched() or not self._step(tokens[:, k]):
                return None
        return self.x

    def _step(self, ids: Tensor) -> bool:
        at = self.cache.length
        if at == self.room:
            self._grow()
        self.ids.copy_(ids)
        self.lists[:, at] = np.arange(at * self.rows, (at + 1) * self.rows)
        self.lengths[:] = at + 1
        for _ in range(2):
            if not self.maps.parameters.holds() and not self._renew():
                return False
            self.ops[0, 3] = self.positions[at].data_ptr()
            offset = at * self.x.nbytes
            self.map_rows[self.growing, OUT] = [place + offset for place in self.addresses]
            found = self._run()
            if found == DONE:
                self.cache.length += 1
                self.cache.rows = self.rows
                return True
            if found == NO_TOKEN or not self._renew():
                return False
        return False

    def _run(self) -> int:
        at = self.program.run(0, self.team)
        while at >= 0:
            feed_forward, given = self.by_op[at]
            self.out.copy_(feed_forward(given))
            at = self.program.run(at + 1, self.team)
        return at

    def _renew(self) -> bool:
        modules = between(self.model)
        if not is_plain(self.model, modules):
            return False
        for module in self.maps.by_module:
            map_seat_of(module).forget()
        _maps.pop(self.model, None)
        self.maps = maps_of(self.model, modules)
        if self.maps.read is None:
            return False
        self.build()
        return True

    def _grow(self) -> None:
        self.room = min(2 * self.room, self.most)
        shape = (*self.own.shape[:2], self.room, *self.own.shape[3:])
        before, self.own = self.own, torch.empty(shape)
        self.own[:, :, : before.shape[2]] = before
        lists = np.empty((self.rows, self.room), np.int32)
        lists[:, : before.shape[2]] = self.lists
        self.lists = lists
        self.build()

    def reorder(self, rows: Tensor) -> None:
        n = self.cache.length
        self.lists[:, :n] = self.lists[rows.numpy(), :n]

    def hand_over(self) -> None:
        """Let the cache have keys and values, as the decoder itself keeps them."""
        n, heads = self.cache.length, self.model.config.heads
        if not n:
            return
        index = torch.from_numpy(self.lists[:, :n].astype(np.int64))
        for own, past in zip(self.own, self.cache.layers, strict=True):
            both = own.flatten(1, 2)[:, index].unflatten(-1, (heads, -1)).transpose(2, 3)
            past.target = KeyValues()
            past.target.append(*both.contiguous())


def _lists(cache: Cache, m: int) -> tuple[Any, Any]:
    lists = np.zeros((cache.sources, m), np.int32)
    lengths = np.full(cache.sources, m, np.int64)
    if cache.memory_mask is None:
        lists[:] = np.arange(cache.sources * m).reshape(-1, m)
    else:
        seen = cache.memory_mask[:, 0, 0].expand(cache.sources, m).numpy() == 0
        for b, row in enumerate(seen):
            (there,) = row.nonzero()
            lengths[b] = len(there)
            lists[b, : len(there)] = b * m + there
    return lists, lengths


def steps_of(model: Transformer, cache: Cache, rows: int, most: int) -> Steps | None:
    if rows > MOST_ROWS or not rows or torch.is_grad_enabled() or is_watched():
        return None
    modules = between(model)
    if not is_plain(model, modules):
        return None
    maps = maps_of(model, modules)
    return None if maps.read is None else Steps(model, cache, rows, maps, most)
