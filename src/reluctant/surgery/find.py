"""Finds the feed-forward layers of live modules, and says what keeps others from being served."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant.activations import Activation, identify
from reluctant.feedforward import FeedForward
from reluctant.surgery.prove import prove, same_slope
from reluctant.surgery.site import Site, Unfit

LOOKED_FOR = (
    "FeedForward, torch.nn.TransformerEncoderLayer and TransformerDecoderLayer, and modules and "
    "nn.Sequentials that are nn.Linear - activation - (dropout) - nn.Linear"
)


@dataclass(frozen=True, eq=False)
class _Draft:
    """What has the form of a feed-forward layer; not yet known to be one.

    live: the activation as the module holds it, None if there is none to see.
    proven: torch or we wrote the code that calls the parts, so their order is known.
    """

    method: str
    up: nn.Module
    down: nn.Module
    live: object
    parts: dict[str, nn.Module]
    gate: nn.Module | None = None
    attribute: tuple[str, object] | None = None
    children: int | None = None
    proven: bool = True


def examine(module: nn.Module) -> Site | Unfit | None:
    """Return the module's own feed-forward layer, why it is left alone, or None: nothing like it.

    Looks at the module and its direct submodules. Nothing is changed.
    """
    draft = None
    try:
        draft = _draft(module)
        if draft is None:
            return None
        _check_module(module, draft)
        for name, part in draft.parts.items():
            _check_part(name, part)
        for linear in (draft.up, draft.down, draft.gate):
            _check_linear(linear, draft)
        return _site(module, draft)
    except Unfit as unfit:
        if draft is not None:
            unfit.d_model, unfit.d_ff = _sizes(draft.up) or (None, None)
            activation = identify(draft.live) if draft.live is not None else None
            unfit.activation = activation.name if activation else None
        return unfit


def _draft(module: nn.Module) -> _Draft | None:
    if isinstance(module, FeedForward) and type(module).forward is FeedForward.forward:
        names = ("up", "gate", "dropout", "down")
        parts = {n: part for n in names if (part := module._modules.get(n)) is not None}
        activation = module.activation
        return _Draft(
            *("forward", module.up, module.down, activation, parts, module.gate),
            attribute=("activation", activation),
        )
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return _torch_layer(module)
    return _pair(module)


def _torch_layer(layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> _Draft:
    cls = type(layer)
    if cls._ff_block not in (
        nn.TransformerEncoderLayer._ff_block,
        nn.TransformerDecoderLayer._ff_block,
    ):
        raise Unfit("computes its feed-forward in a _ff_block of its own")
    code = getattr(cls.forward, "__code__", None)
    if code is not None and not {"_ff_block", "forward"} & set(code.co_names):
        raise Unfit("has a forward of its own that calls neither _ff_block nor torch's forward")
    parts = {}
    for name in ("linear1", "dropout", "linear2", "dropout2"):
        part = layer._modules.get(name)
        if part is None:
            raise Unfit(f"has no submodule {name}")
        parts[name] = part
    live = layer.activation
    # A copy of a decoder layer has F.relu as an attribute that hides the submodule (torch 2.13), so
    # that the attribute has to stay absent, too.
    attribute = ("activation", layer.__dict__.get("activation"))
    if isinstance(live, nn.Module):
        parts["activation"] = live
    return _Draft("_ff_block", parts["linear1"], parts["linear2"], live, parts, attribute=attribute)


def _pair(module: nn.Module) -> _Draft | None:
    """Look for two Linear layers, d_model -> d_ff and d_ff -> d_model, among the children."""
    if type(module).forward is nn.Module.forward:
        return None  # only a container, such as nn.ModuleList
    parts = {name: part for name, part in module._modules.items() if part is not None}
    linears = _distinct(part for part in parts.values() if _sizes(part))
    others = _distinct(
        part
        for part in parts.values()
        if _sizes(part) is None and not isinstance(part, _DropoutNd | nn.Identity)
    )
    if not any(_fits(a, b) for a in linears for b in linears if a is not b):
        return None
    if len(linears) == 2 and len(others) <= 1 and not any(_holds_more(o) for o in others):
        live = others[0] if others else None
        if type(module).forward is nn.Sequential.forward:
            wanted = [part for part in (linears[0], live, linears[1]) if part is not None]
            if [p for p in parts.values() if _sizes(p) or p is live] != wanted:
                raise Unfit("its parts are not in the order Linear - activation - Linear")
            proven = True
        else:
            proven = False
            linears.sort(key=_widens_first)
        return _Draft(
            *("forward", linears[0], linears[1], live, parts),
            children=len(module._modules),
            proven=proven,
        )
    if len(linears) <= 3 and any(_widens(a, b) for a in linears for b in linears):
        kinds = ", ".join(type(part).__name__ for part in parts.values())
        raise Unfit(
            "a feed-forward stands inside a forward that does more, which is not looked into (its "
            f"parts: {kinds})"
        )
    return None


def _distinct(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(modules))


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a Linear, also a quantised or adapted one; None for everything else."""
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return sizes if all(isinstance(size, int) for size in sizes) else None  # type: ignore[return-value]


def _fits(up: nn.Module, down: nn.Module) -> bool:
    sizes = _sizes(up)
    return sizes is not None and sizes[::-1] == _sizes(down)


def _widens(up: nn.Module, down: nn.Module) -> bool:
    sizes = _sizes(up)
    return sizes is not None and _fits(up, down) and sizes[1] > sizes[0]


def _widens_first(linear: nn.Module) -> bool:
    """Key that sorts the likelier up map to the front; only running the forward tells."""
    sizes = _sizes(linear)
    return sizes is None or sizes[0] > sizes[1]


def _holds_more(other: nn.Module) -> bool:
    """Whether it is more than an activation can be: norms, attention, blocks ..."""
    return bool(other._modules or other._buffers) or hasattr(other, "normalized_shape")


def _check_module(module: nn.Module, draft: _Draft) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise Unfit("is TorchScript: optimize the module it was made from", refused=True)
    if "forward" in module.__dict__ or draft.method in module.__dict__:
        raise Unfit(
            "its forward was replaced on the instance (offloading hooks do that): "
            "optimize the model before",
            refused=True,
        )
    own = ("__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__")
    for name in (*own, "__getnewargs__", "__getnewargs_ex__"):
        if getattr(type(module), name, None) is not getattr(nn.Module, name, None):
            raise Unfit(f"copies or pickles itself in a way of its own ({name})", refused=True)
    if not draft.proven and (module._parameters or module._buffers):
        names = ", ".join([*module._parameters, *module._buffers])
        raise Unfit(f"has parameters or buffers of its own ({names}), so its forward does more")


def _check_part(name: str, part: nn.Module) -> None:
    hooks = part._forward_hooks, part._forward_pre_hooks, part._backward_hooks
    if any(hooks) or part._backward_pre_hooks:
        raise Unfit(
            f"{name} has hooks (weight_norm and pruning are hooks, too), which the engine would "
            "not call: remove them first",
            refused=True,
        )
    if "forward" in part.__dict__:
        raise Unfit(f"the forward of {name} was replaced on the instance", refused=True)


def _check_linear(part: nn.Module | None, draft: _Draft) -> None:
    if part is None:
        return
    name = next((n for n, p in draft.parts.items() if p is part), "gate")
    if type(part) is not nn.Linear:
        kind = type(part).__name__
        raise Unfit(
            f"{name} is a {kind}, not a plain nn.Linear (quantised, adapted or parametrized "
            "weights are not served: merge or remove that first)",
            refused=True,
        )
    first = draft.up._parameters.get("weight")
    weights = [("weight", part._parameters.get("weight")), ("bias", part._parameters.get("bias"))]
    for what, weight in weights:
        if weight is None and what == "bias":
            continue
        if type(weight) is not nn.Parameter:
            kind = type(weight).__name__
            raise Unfit(f"{name}.{what} is a {kind}, not a plain nn.Parameter", refused=True)
        if weight.device.type != "cpu":
            mend = "load" if weight.device.type == "meta" else "move"
            raise Unfit(
                f"{name}.{what} is on {weight.device.type}, and the engine is for CPUs: "
                f"{mend} the weights first",
                refused=True,
            )
        if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
            raise Unfit(f"{name}.{what} is {weight.dtype}: not served", refused=True)
        if first is not None and weight.dtype != first.dtype:
            raise Unfit(
                f"mixed dtypes: {name}.{what} is {weight.dtype}, the first weight {first.dtype}",
                refused=True,
            )
    up = draft.up
    if not (_fits(up, part) if part is draft.down else _sizes(up) == _sizes(part)):
        raise Unfit(f"the sizes of {name} do not fit those of the first Linear", refused=True)


def _site(module: nn.Module, draft: _Draft) -> Site:
    up, down, gate = draft.up, draft.down, draft.gate
    activation: Activation | None
    trains, leading = True, 2
    if draft.proven:
        activation = identify(draft.live) if draft.live is not None else None
    else:
        proof = prove(module, draft.up, draft.down, draft.live)
        up, down, activation = proof.up, proof.down, proof.activation
        trains, leading = proof.trains, proof.leading
    linear = activation is not None and activation.name == "identity"
    if (draft.proven and draft.live is None) or (linear and not isinstance(module, FeedForward)):
        raise Unfit("has no activation between its two Linear layers")
    if activation is None:
        live = "in its forward" if draft.live is None else repr(draft.live)
        raise Unfit(
            f"the activation {live} is none that is known (reluctant.activations.register adds "
            "one)",
            refused=True,
        )
    if draft.proven and not isinstance(draft.live, Activation):
        assert callable(draft.live)
        if not same_slope(draft.live, activation, torch.float64):
            raise Unfit(
                f"its activation has the values of {activation.name}, but another gradient",
                refused=True,
            )
    assert isinstance(up, nn.Linear)
    assert isinstance(down, nn.Linear)
    assert gate is None or isinstance(gate, nn.Linear)
    return Site(
        *(draft.method, up, down, gate, activation),
        parts=tuple((name, part, type(part)) for name, part in draft.parts.items()),
        attribute=draft.attribute,
        children=draft.children,
        trains=trains,
        leading=leading,
    )
