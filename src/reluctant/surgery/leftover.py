"""Names feed-forward layers in a form that is not served, so that the report leaves none out.

Nothing is run here, and nothing proved: sizes that lead to d_ff neurons and back, and a forward
that calls an activation, are enough to be named. Attention has such sizes, too, but no activation.
"""

import inspect
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant.activations import names
from reluctant.surgery.site import Unfit, sizes

# Gates of attention and of recurrent cells call these, and so say little about feed-forwards.
_GATES = {"identity", "sigmoid", "tanh", "hardsigmoid"}


class _Map(NamedTuple):
    """A linear map, or the maps of several experts in one 3-d parameter.

    holder: whose it is. experts: how many, 0 if it is one map; below 0 where the parameter is read
    as (experts, in, out), not as (experts, out, in): two of a layer are stored alike.
    """

    holder: nn.Module
    name: str
    part: nn.Module | Tensor
    d_in: int
    d_out: int
    experts: int


def leftover(module: nn.Module) -> None:
    """Raise Unfit if the module's forward holds a feed-forward layer, on its own or one level down.

    For what neither is one nor has one under the names of the table.
    """
    if type(module).forward is nn.Module.forward:
        return  # only a container, such as nn.ModuleList
    own = list(_maps(module))
    inner = [each for name, child in module.named_children() for each in _alone(name, child)]
    linears = dict.fromkeys(m.part for m in (*own, *inner) if isinstance(m.part, nn.Module))
    for up, down in _pairs([*own, *inner]):
        fires = _fires(module) or _fires(up.holder)
        ours = up.holder is down.holder
        fused = up.d_out == 2 * down.d_in
        if up.experts and (ours or fires):
            raise _unfit(
                down,
                f"holds the weights of several layers as 3-d parameters ({up.name}, {down.name}), "
                "as mixtures of experts do: not served",
            )
        if up.experts or (fused and not (fires and ours and len(linears) == 2)):
            continue
        if fused:
            raise _unfit(down, "key and gate are one Linear (d_model, 2 d_ff): not served")
        widens = up.d_out > up.d_in
        narrow = ours and len(linears) == 2  # no wider than the model: TimesFM's
        if (fires and (widens or narrow)) or (widens and ours and len(linears) <= 3):
            parts = ", ".join(type(part).__name__ for part in module.children())
            raise _unfit(
                down,
                "a feed-forward stands inside a forward that does more, which is not looked into "
                f"({up.name}, {down.name}; its parts: {parts})",
                refused=fires,
            )


def _unfit(down: _Map, reason: str, *, refused: bool = True) -> Unfit:
    unfit = Unfit(reason, refused=refused)
    unfit.d_model, unfit.d_ff = down.d_out, down.d_in
    return unfit


def _maps(module: nn.Module) -> Iterator[_Map]:
    """The module's own, also those in lists that it has. Each 3-d parameter in both readings."""
    for name, part in module._modules.items():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from (each._replace(holder=module) for each in _maps(part))
        elif part is not None and (size := sizes(part)):
            yield _Map(module, name, part, *size, 0)
    for name, weight in module._parameters.items():
        if weight is not None and weight.ndim == 3 and min(weight.shape) > 1:
            experts, rows, columns = weight.shape
            yield _Map(module, name, weight, columns, rows, experts)
            yield _Map(module, name, weight, rows, columns, -experts)


def _alone(name: str, child: nn.Module) -> list[_Map]:
    """The maps of a child that need another child's to be a layer: BERT's siblings, say."""
    if type(child).forward is nn.Module.forward or sizes(child):
        return []
    maps = list(_maps(child))
    return [] if any(_pairs(maps)) else [m._replace(name=f"{name}.{m.name}") for m in maps]


def _pairs(maps: list[_Map]) -> Iterator[tuple[_Map, _Map]]:
    """Those of which the second leads back from where the first leads, or from half of that."""
    for up, down in itertools.permutations(maps, 2):
        back = up.d_in == down.d_out and up.d_out in (down.d_in, 2 * down.d_in)
        if back and up.experts == down.experts and up.part is not down.part:
            yield up, down


def _fires(module: nn.Module) -> bool:
    """Whether an attribute or a name in the code of the module's class says that it activates."""
    known = set(names()) - _GATES
    for name, part in {**module.__dict__, **module._modules}.items():
        words = {word.rstrip("0123456789") for word in name.split("_")}
        words.add(type(part).__name__.lower())
        called = callable(part) and not isinstance(part, _DropoutNd)
        if called and words & (known | {"act", "activation"}):
            return True
    for cls in itertools.takewhile(lambda cls: cls is not nn.Module, type(module).__mro__):
        for function in vars(cls).values():
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is not None and not known.isdisjoint(code.co_names):
                return True
    return False
