"""Tries things out on a module without leaving a trace, and compares gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reluctant.activations import Activation
from reluctant.surgery.site import Unfit


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast; flags, random state, attributes put back.

    Raises Unfit if a call inside set an attribute of the module.
    """
    flags = [(part, part.training) for part in module.modules()]
    held = dict(module.__dict__)
    try:
        for part, _ in flags:
            part.training = False
        rng = torch.random.fork_rng(devices=[])
        with torch.no_grad(), torch.autocast("cpu", enabled=False), rng:
            yield
    finally:
        for part, flag in flags:
            part.training = flag
        now = dict(module.__dict__)
        changed = [name for name in held | now if held.get(name) is not now.get(name)]
        if changed:
            module.__dict__.clear()
            module.__dict__.update(held)
    if changed:
        raise Unfit(f"its forward keeps state on the module ({', '.join(changed)})")


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
