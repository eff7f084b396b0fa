"""Finds the feed-forward layers of live modules, and says what keeps others from being served."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from reluctant.activations import Activation, identify
from reluctant.feedforward import FeedForward
from reluctant.surgery.dropout import placed
from reluctant.surgery.forms import Form, fits, inside, whole
from reluctant.surgery.leftover import leftover
from reluctant.surgery.prove import prove
from reluctant.surgery.site import Part, Site, Unfit, as_linear, is_conv1d, sizes
from reluctant.surgery.still import same_slope

LOOKED_FOR = (
    "FeedForward, torch.nn.TransformerEncoderLayer and TransformerDecoderLayer, modules and "
    "nn.Sequentials that are nn.Linear - activation - (dropout) - nn.Linear, gated or not, and "
    "layers with such parts under the names that reluctant.surgery.families lists"
)


def examine(module: nn.Module) -> Site | Unfit | None:
    """Return the module's own feed-forward layer, why it is left alone, or None: nothing like it.

    Looks at the module, its submodules and, for the rows of the table, one level further. Nothing
    is changed.
    """
    found = _examine(module, whole)
    if found is None or (isinstance(found, Unfit) and not found.refused):
        found = _examine(module, inside) or found
    return found or _examine(module, leftover)


def _examine(module: nn.Module, look: Callable[[nn.Module], Form | None]) -> Site | Unfit | None:
    form = None
    try:
        form = look(module)
        if form is None:
            return None
        _check_module(module, form)
        for part in form.parts:
            _check_part(part)
        for linear in (form.up, form.down, form.gate):
            _check_linear(linear, form)
        _check_weights(form.norm, form)
        return _site(module, form)
    except Unfit as unfit:
        if form is not None:
            unfit.d_model, unfit.d_ff = sizes(form.up) or (None, None)
            activation = identify(form.live) if form.live is not None else None
            unfit.activation = activation.name if activation else None
        return unfit


def _check_module(module: nn.Module, form: Form) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise Unfit("is TorchScript: optimize the module it was made from", refused=True)
    if "forward" in module.__dict__ or form.method in module.__dict__:
        raise Unfit(
            "its forward was replaced on the instance (offloading hooks do that): "
            "optimize the model before",
            refused=True,
        )
    own = ("__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__")
    for name in (*own, "__getnewargs__", "__getnewargs_ex__"):
        if getattr(type(module), name, None) is not getattr(nn.Module, name, None):
            raise Unfit(f"copies or pickles itself in a way of its own ({name})", refused=True)
    if not form.proven and (module._parameters or module._buffers):
        names = ", ".join([*module._parameters, *module._buffers])
        raise Unfit(f"has parameters or buffers of its own ({names}), so its forward does more")


def _check_part(part: Part) -> None:
    _, name, module, _ = part
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
    if any(hooks) or module._backward_pre_hooks:
        raise Unfit(
            f"{name} has hooks (weight_norm and pruning are hooks, too), which the engine would "
            "not call: remove them first",
            refused=True,
        )
    if "forward" in module.__dict__:
        raise Unfit(
            f"the forward of {name} was replaced on the instance (offloading hooks do that)",
            refused=True,
        )


def _check_linear(part: nn.Module | None, form: Form) -> None:
    if part is None:
        return
    name = form.name(part)
    if type(part) is not nn.Linear and not is_conv1d(part):
        kind = type(part).__name__
        if kind == nn.Linear.__name__:  # peft and torch.ao have Linears of their own
            kind = f"{type(part).__module__}.{kind}"
        raise Unfit(
            f"{name} is a {kind}, not a plain nn.Linear (quantised, adapted or parametrized "
            "weights are not served: merge or remove that first)",
            refused=True,
        )
    _check_weights(part, form)
    if 0 in (sizes(part) or ()):
        raise Unfit(f"{name} has no neurons, or no inputs: there is nothing to save", refused=True)
    up = form.up
    if not (fits(up, part) if part is form.down else sizes(up) == sizes(part)):
        raise Unfit(f"the sizes of {name} do not fit those of the first Linear", refused=True)


def _check_weights(part: nn.Module | None, form: Form) -> None:
    if part is None:
        return
    name = form.name(part)
    first = form.up._parameters.get("weight")
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


def _site(module: nn.Module, form: Form) -> Site:
    up, down, gate = form.up, form.down, form.gate
    activation: Activation | None
    trains, leading = True, 2
    known = form.proven or form.row is not None
    if known:
        activation = identify(form.live, _dtype(up)) if form.live is not None else None
    else:
        linears = [up, down] if gate is None else [up, gate, down]
        proof = prove(module, linears, form.live, form.norm)
        up, down, gate, activation = proof.up, proof.down, proof.gate, proof.activation
        trains, leading = proof.trains, proof.leading
    linear = activation is not None and activation.name == "identity"
    if (known and form.live is None) or (linear and not isinstance(module, FeedForward)):
        raise Unfit("has no activation between its two Linear layers")
    if activation is None:
        live = "in its forward" if form.live is None else repr(form.live)
        raise Unfit(
            f"the activation {live} is none that is known (reluctant.activations.register adds "
            "one)",
            refused=True,
        )
    if known and not isinstance(form.live, Activation):
        assert callable(form.live)
        if not same_slope(form.live, activation, torch.float64):
            raise Unfit(
                f"its activation has the values of {activation.name}, but another gradient",
                refused=True,
            )
    dropouts, scalars = _switches(module, form)
    site = Site(
        *(form.method, as_linear(up), as_linear(down)),
        None if gate is None else as_linear(gate),
        activation,
        parts=form.parts,
        attribute=form.attribute,
        live=form.live,
        row=form.row,
        children=form.children,
        trains=trains,
        leading=leading,
        dropouts=dropouts,
        scalars=scalars,
        norm=form.norm,
        inplace=form.row is not None and _writes(form.live),
        known=form.proven and form.row is None,
    )
    if form.row is not None:
        return site  # what its forward drops is seen in each call
    between, after = placed(module, site)
    return replace(site, between=between, after=after)


def _writes(live: Any) -> bool:
    """Whether an activation writes its result into what it gets."""
    z = torch.ones(3, device="cpu")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return bool(live(z).data_ptr() == z.data_ptr())


def _dtype(up: nn.Module) -> torch.dtype:
    weight = up._parameters["weight"]
    assert weight is not None
    return weight.dtype


def _switches(
    module: nn.Module, form: Form
) -> tuple[tuple[_DropoutNd, ...], tuple[tuple[nn.Module | None, str], ...]]:
    """The dropouts that may act in between, and the attributes that may decide what happens."""
    if form.row is None:
        modules = [part.module for part in form.parts]
        return tuple(part for part in modules if isinstance(part, _DropoutNd)), ()
    holders = [None, *dict.fromkeys(part.holder for part in form.parts if part.holder)]
    dropouts, scalars = [], []
    for holder in holders:
        place = module if holder is None else holder
        dropouts += [part for part in place._modules.values() if isinstance(part, _DropoutNd)]
        kinds = (bool, int, float, str)
        scalars += [(holder, n) for n, v in place.__dict__.items() if isinstance(v, kinds)]
    return tuple(dict.fromkeys(dropouts)), tuple(scalars)
