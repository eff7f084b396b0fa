"""All linear maps of a served Transformer, as programs read them; and whether there may be any.

A program (`reluctant.program`) does at once what takes a model many calls. Nobody may look at what
goes on between them, or change it: the modules have to be plain, and their maps served.
"""

import weakref
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from reluctant.freshness import Parameters
from reluctant.linear import MAX_ROWS
from reluctant.program import Weights, weights_of
from reluctant.surgery.linears import HeadSeat, MapSeat
from reluctant.surgery.modes import is_watched
from reluctant.surgery.swap import Served, map_seat_of
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.layers import (
    AddNorm,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    PositionalEncoding,
)
from reluctant.transformer.model import Transformer

_LAYERS = (EncoderLayer, DecoderLayer)
_OURS = (Transformer, Encoder, Decoder, *_LAYERS, AddNorm, MultiHeadAttention, PositionalEncoding)
_TORCHS = (nn.LayerNorm, nn.Dropout, nn.Identity, nn.ModuleList, nn.Embedding)
_PLAIN = frozenset((*_OURS, *_TORCHS))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_METHODS = frozenset(name for kind in _OURS for name in vars(kind) if callable(vars(kind)[name]))
_training, _held = attrgetter("training"), attrgetter("__dict__")


class Maps:
    """All that programs need of a model's modules, and whether these are still as they were.

    by_module: the weights of each served map; read: the dtype in which all of them are read, None
    if programs may do nothing. Holds no reference to the model itself, which would keep it alive.
    """

    def __init__(self, model: Transformer) -> None:
        head = model.linear if type(model.linear) is nn.Linear else None  # called as it is
        looked_at = [each for each in _without_hidden_layers(model) if each is not head]
        self._modules = [*model.modules()][1:]
        self._seen = self._look(model)
        self._hooks = [vars(module)[hooks] for module in self._modules for hooks in _HOOKS]
        self._parameters: Parameters | None = None
        self._hooked = [*map(bool, self._hooks)]
        self._forgotten = False
        self.by_module: dict[nn.Module, Weights] = {}
        self.read: torch.dtype | None = None
        if all(map(_is_plain, looked_at)) and not any(self._hooked):
            self._parameters = Parameters(self._modules)
            self._read(model, [each for each in looked_at if map_seat_of(each) is not None])

    def _read(self, model: Transformer, maps: list[Any]) -> None:
        for narrow in (True, False):  # a program reads all in one dtype
            self.by_module = {
                each: weights_of(each, map_seat_of(each).narrow_of(each) if narrow else None)  # type: ignore[union-attr]
                for each in maps
            }
            kinds = {
                weights.read for each, weights in self.by_module.items() if each is not model.linear
            }
            if len(kinds) == 1:
                break
        self.read = kinds.pop() if len(kinds) == 1 else None
        for each in maps:
            map_seat_of(each).reader = weakref.ref(self)  # type: ignore[union-attr]

    def _look(self, model: Transformer) -> tuple[list[Any], ...]:
        """What the modules consist of. At the beginning of each decoding: what can be is C's."""
        modules = [model, *self._modules]
        children = [tuple(module._modules.values()) for module in modules]
        return (
            children[1:],
            [*map(id, children[0])],
            [*map(type, modules)],
            [*map(len, map(_held, modules))],
        )

    def hold(self, model: Transformer) -> bool:
        """Whether all is as it was: no other modules, attributes, hooks or parameters."""
        same = self._look(model) == self._seen and [*map(bool, self._hooks)] == self._hooked
        known = self._parameters is None or self._parameters.hold_in_all()
        return same and known and not self._forgotten

    def fresh(self) -> bool:
        """Whether the parameters are those they were, at every step."""
        return self._parameters is not None and self._parameters.hold()

    def training(self) -> bool:
        """Whether a module is in training mode."""
        return any(map(_training, self._modules))

    def forget(self) -> None:
        """Keep nothing of the weights."""
        self.by_module, self.read, self._forgotten = {}, None, True

    def head(self, model: Transformer, rows: int) -> Weights | None:
        """Those of the output projection, if a program of so many rows reads it."""
        weights = self.by_module.get(model.linear)
        return None if weights is None or rows > MAX_ROWS or weights.read != self.read else weights


_of_models: "weakref.WeakKeyDictionary[nn.Module, Maps]" = weakref.WeakKeyDictionary()


def maps_of(model: Transformer) -> Maps | None:
    """All maps of a model, if programs may do what it does, now and without gradients."""
    if torch.is_grad_enabled() or is_watched() or type(model) is not Transformer:
        return None
    if not (model.config.encoder_layers and model.config.decoder_layers):
        return None
    maps = _of_models.get(model)
    if maps is None or not maps.hold(model):
        maps = _of_models[model] = Maps(model)
    return None if maps.read is None or maps.training() else maps


def forget(model: Transformer) -> None:
    """All that was made of a model's maps."""
    for module in model.modules():
        if (seat := map_seat_of(module)) is not None:
            seat.forget()


def _without_hidden_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The module and what it consists of, but for feed-forward layers."""
    yield module
    for name, child in module._modules.items():
        if child is not None and not (name == "feed_forward" and isinstance(module, _LAYERS)):
            yield from _without_hidden_layers(child)


def _is_plain(module: nn.Module) -> bool:
    """Whether it computes what its class says, from float32 numbers."""
    kind: Any = type(module)
    if not vars(module).keys().isdisjoint(_METHODS):
        return False
    if isinstance(module, nn.Embedding) and module.max_norm is not None:  # a look-up changes it
        return False
    if isinstance(module, nn.LayerNorm) and (
        module.weight is None or len(module.normalized_shape) != 1
    ):
        return False
    if kind not in _PLAIN:
        seat = map_seat_of(module)
        if type(seat) not in (MapSeat, HeadSeat) or seat.batch_invariant:  # type: ignore[union-attr]
            return False
        if not issubclass(kind, Served) or kind._unserved is not nn.Linear:
            return False
    return all(
        type(parameter) is nn.Parameter
        and parameter.dtype is torch.float32
        and parameter.is_cpu
        and parameter.is_contiguous()
        and not parameter.is_inference()
        for parameter in module._parameters.values()
        if parameter is not None
    )
