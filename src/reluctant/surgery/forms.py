"""What has the form of a feed-forward layer: where its parts lie. Nothing is proved here."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant.feedforward import FeedForward
from reluctant.surgery.families import INLINE, Row
from reluctant.surgery.site import Attribute, Part, Unfit, sizes
from reluctant.weights import is_norm


@dataclass(frozen=True, eq=False)
class Form:
    """What has the form of a feed-forward layer; not yet known to be one.

    up, down, gate: its linear maps; in a form that is not `proven` in any order.
    norm: what may normalise the hidden vector by its root mean square.
    live: the activation as the module holds it, None if there is none to see.
    proven: torch or we wrote the code that calls the parts, so their order is known.
    row: where they lie in a forward that does more; the proof comes later then, from `watch`.
    """

    method: str
    up: nn.Module
    down: nn.Module
    live: object
    parts: tuple[Part, ...]
    gate: nn.Module | None = None
    attribute: Attribute | None = None
    children: int | None = None
    proven: bool = True
    row: Row | None = None
    norm: nn.Module | None = None

    def name(self, module: nn.Module) -> str:
        return next((part.name for part in self.parts if part.module is module), "gate")


def whole(module: nn.Module) -> Form | None:
    """Look for a layer that is all that the module, or torch's own method of it, computes."""
    if isinstance(module, FeedForward) and type(module).forward is FeedForward.forward:
        return Form(
            *("forward", module.up, module.down, module.activation),
            _parts(module, ("up", "gate", "dropout", "down")),
            module.gate,
            attribute=Attribute(None, "activation", module.activation),
        )
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return _torch_layer(module)
    return _own(module)


def inside(module: nn.Module) -> Form | None:
    """Look for a layer inside a forward that does more, by the rows of the table."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return None  # their fused path reads the weights and calls no part
    for row in INLINE:
        if any("." in path and path.split(".")[0] not in module._modules for path in row):
            continue
        places = [_place(module, path) for path in row]
        up, live, down = (_held(module, place) for place in places)
        if isinstance(up, nn.Module) and isinstance(down, nn.Module) and callable(live):
            if not fits(up, down):
                continue
            parts, attribute = [], None
            for path, (holder, name) in zip(row, places, strict=True):
                if holder is not None:
                    parts.append(Part(None, path.split(".")[0], holder, type(holder)))
                held = _held(module, (holder, name))
                if isinstance(held, nn.Module):
                    parts.append(Part(holder, name, held, type(held)))
                else:
                    attribute = Attribute(holder, name, held)
            parts = list(dict.fromkeys(parts))
            return Form("forward", up, down, live, tuple(parts), attribute=attribute, row=row)
    return None


def _place(module: nn.Module, path: str) -> tuple[nn.Module | None, str]:
    """(submodule that it would lie in, None: the module; its name there)."""
    *above, name = path.split(".")
    return (module._modules[above[0]] if above else None), name


def _held(module: nn.Module, place: tuple[nn.Module | None, str]) -> object:
    holder, name = place
    holder = module if holder is None else holder
    part = holder._modules.get(name)
    return holder.__dict__.get(name) if part is None else part


def _parts(module: nn.Module, names: Iterable[str]) -> tuple[Part, ...]:
    found = ((name, module._modules.get(name)) for name in names)
    return tuple(Part(None, name, part, type(part)) for name, part in found if part is not None)


def _torch_layer(layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> Form:
    cls = type(layer)
    if cls._ff_block not in (
        nn.TransformerEncoderLayer._ff_block,
        nn.TransformerDecoderLayer._ff_block,
    ):
        raise Unfit("computes its feed-forward in a _ff_block of its own")
    code = getattr(cls.forward, "__code__", None)
    if code is not None and not {"_ff_block", "forward"} & set(code.co_names):
        raise Unfit("has a forward of its own that calls neither _ff_block nor torch's forward")
    last = "dropout2" if isinstance(layer, nn.TransformerEncoderLayer) else "dropout3"
    names = ["linear1", "dropout", "linear2", last]
    for name in names:
        if layer._modules.get(name) is None:
            raise Unfit(f"has no submodule {name}")
    live = layer.activation
    # A copy of a decoder layer has F.relu as an attribute that hides the submodule (torch 2.13), so
    # that the attribute has to stay absent, too.
    attribute = Attribute(None, "activation", layer.__dict__.get("activation"))
    if isinstance(live, nn.Module):
        names.append("activation")
    parts = _parts(layer, names)
    return Form("_ff_block", layer.linear1, layer.linear2, live, parts, attribute=attribute)


def _own(module: nn.Module) -> Form | None:
    """Look for two Linear maps, or three of a gated layer, among the children."""
    if type(module).forward is nn.Module.forward:
        return None  # only a container, such as nn.ModuleList
    parts = {name: part for name, part in module._modules.items() if part is not None}
    linears = _distinct(part for part in parts.values() if sizes(part))
    others = _distinct(
        part
        for part in parts.values()
        if sizes(part) is None and not isinstance(part, _DropoutNd | nn.Identity)
    )
    if not any(fits(a, b) for a in linears for b in linears if a is not b):
        return None
    norm = _inner_norm(linears, others)
    others = [other for other in others if other is not norm]
    if len(linears) <= 3 and len(others) <= 1 and not any(_holds_more(o) for o in others):
        live = others[0] if others else None
        sequential = type(module).forward is nn.Sequential.forward and norm is None
        if sequential and len(linears) == 2:
            wanted = [part for part in (linears[0], live, linears[1]) if part is not None]
            if [p for p in parts.values() if sizes(p) or p is live] != wanted:
                raise Unfit("its parts are not in the order Linear - activation - Linear")
        else:
            linears.sort(key=_widens_first)
        if len(linears) == 2 or (_gated(linears) and not sequential):
            first, *gate, last = linears
            return Form(
                *("forward", first, last, live, _parts(module, parts)),
                gate=gate[0] if gate else None,
                children=len(module._modules),
                proven=sequential,
                norm=norm,
            )
    if len(linears) <= 3 and any(_widens(a, b) for a in linears for b in linears):
        _check_inner_norm(linears, others)
    return None


def _inner_norm(linears: list[nn.Module], others: list[nn.Module]) -> nn.Module | None:
    """What has the form of a root-mean-square norm of all neurons: BitNet's, which keeps zeros."""
    widths = [size[1] for linear in linears if (size := sizes(linear))]
    norms = [other for other in others if any(is_norm(other, width) for width in widths)]
    return norms[0] if len(norms) == 1 else None


def _check_inner_norm(linears: list[nn.Module], others: list[nn.Module]) -> None:
    """Raise Unfit for a gated layer whose hidden vector is normalised in another way."""
    if len(linears) != 3 or not _gated(linears):
        return
    d_model, d_ff = sizes(linears[0]) or (0, 0)
    for other in others:
        weight = other._parameters.get("weight")
        if weight is not None and weight.shape == (d_ff,):
            unfit = Unfit(
                f"a {type(other).__name__} of all d_ff neurons stands before its last Linear: not "
                "served",
                refused=True,
            )
            unfit.d_model, unfit.d_ff = d_model, d_ff
            raise unfit


def _distinct(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(modules))


def fits(up: nn.Module, down: nn.Module) -> bool:
    size = sizes(up)
    return size is not None and size[::-1] == sizes(down)


def _widens(up: nn.Module, down: nn.Module) -> bool:
    size = sizes(up)
    return size is not None and fits(up, down) and size[1] > size[0]


def _widens_first(linear: nn.Module) -> bool:
    """Key that sorts the likelier up map to the front; only running the forward tells."""
    size = sizes(linear)
    return size is None or size[0] > size[1]


def _gated(linears: list[nn.Module]) -> bool:
    """Whether it is two maps of one size, and then one that leads back; not query, key, value."""
    first, second, last = linears
    size = sizes(first)
    return size == sizes(second) != sizes(last) and fits(first, last)


def _holds_more(other: nn.Module) -> bool:
    """Whether it is more than an activation can be: norms, attention, blocks ..."""
    return bool(other._modules or other._buffers) or hasattr(other, "normalized_shape")
