"""Tries things out on copies of modules, and compares gradients."""

import copy
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.activations import Activation
from reluctant.surgery.site import Unfit
from reluctant.surgery.state import KEY, frozen

# What a module becomes in its copy; None stays None.
Twins = Callable[[Any], Any]


@contextmanager
def still(module: nn.Module, *, keeps: bool = False) -> Iterator[Twins]:
    """A copy to try things out on, as another thread may be using the module: of its structure and
    of its attributes, not of its weights. In evaluation mode; no gradients, no autocast; the random
    state is put back.

    Yields what gives each module's copy. Raises Unfit if a call inside has changed an attribute of
    the module's copy, unless it may (keeps).
    """
    seen: dict[nn.Module, nn.Module] = {}
    twin = _twin(module, seen)
    for part in seen.values():
        part.training = False
    held = {name: frozen(value) for name, value in twin.__dict__.items()}
    rng = torch.random.fork_rng(devices=[])
    with torch.no_grad(), torch.autocast("cpu", enabled=False), rng:
        yield lambda part: part if part is None else seen.get(part, part)
    now = twin.__dict__
    changed = [name for name in held | now if not _unchanged(held.get(name), now.get(name))]
    changed = [name for name in changed if name != "training"]
    if changed and not keeps:
        raise Unfit(f"its forward keeps state on the module ({', '.join(changed)})")


def _unchanged(before: object, now: object) -> bool:
    if type(now) in (list, tuple, dict, set):
        return type(before) is type(now) and bool(before == now)
    return before is now or isinstance(now, nn.Module) or hasattr(now, "popitem")


def _twin(module: nn.Module, seen: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module's structure copied, with whatever hangs on it shared."""
    if module in seen or isinstance(module, torch.jit.ScriptModule):
        return seen.get(module, module)
    twin: nn.Module = object.__new__(getattr(type(module), "_unserved", type(module)))
    seen[module] = twin
    held = {name: _linked(v, seen) for name, v in module.__dict__.items() if name != KEY}
    object.__setattr__(twin, "__dict__", held)
    return twin


def _linked(value: Any, seen: dict[nn.Module, nn.Module]) -> Any:
    """An attribute for the copy: modules, also in lists and behind methods, are copies, too."""
    if isinstance(value, nn.Module):
        return _twin(value, seen)
    if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
        return types.MethodType(value.__func__, _twin(value.__self__, seen))
    if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
        linked = copy.copy(value)
        linked.update((key, _linked(each, seen)) for key, each in value.items())
        return linked
    if type(value) in (list, tuple):
        return type(value)(_linked(each, seen) for each in value)
    return set(value) if type(value) is set else value


def slope(reached: Tensor, leaf: Tensor) -> Tensor | None:
    """The gradient that the sum of `reached` has with respect to a leaf, None without a way."""
    if not reached.requires_grad:
        return None
    ones = torch.ones_like(reached)
    (found,) = torch.autograd.grad(reached, leaf, ones, allow_unused=True, retain_graph=True)
    return found


def same_slope(
    function: Callable[[Tensor], Tensor], activation: Activation, dtype: torch.dtype
) -> bool:
    """Whether autograd gives a function the derivative that it gives the activation.

    Straight-through estimators and functions under no_grad have another one.
    """
    z = 3 * torch.randn(512, generator=torch.Generator("cpu").manual_seed(1), device="cpu")
    sizes = torch.logspace(-3, 4, 64, device="cpu")
    z = torch.cat([z, sizes, -sizes])
    slopes = []
    for f in (function, activation):
        leaf = z.to(dtype).requires_grad_()
        with torch.enable_grad():
            h = f(leaf * 1)  # not the leaf itself, as the function may work in place
        if not h.requires_grad:
            return False
        (slope,) = torch.autograd.grad(h, leaf, torch.ones_like(h), allow_unused=True)
        if slope is None:
            return False
        slopes.append(slope.double())
    slack = 64 * torch.finfo(dtype).eps * (1 + z.double().abs())
    near = (slopes[0] - slopes[1]).abs() <= slack
    return bool((near | ~slopes[0].isfinite()).all())  # formulas of 16 bits overflow in between
