"""Where a layer's dropouts act: shown by what they do to its result, one after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.surgery.site import Site
from reluctant.surgery.still import still

_P = 0.5  # as likely as not: a mask that is not the same one is another result


def placed(module: nn.Module, site: Site) -> tuple[nn.Dropout | None, nn.Dropout | None]:
    """The dropout that acts on what comes to the second map, and the one that acts on the result.

    None where there is none, or none that is shown: each acts alone, with one random state, and has
    to give what it would give there. In weights that are zero nothing can be seen.
    """
    dropouts = [d for d in site.dropouts if type(d) is nn.Dropout]
    between, after = list[nn.Dropout](), list[nn.Dropout]()
    if not dropouts:
        return None, None
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (1,) * (site.leading - 1) + (5,) if site.leading else ()
    x = torch.randn(*shape, site.d_model, generator=generator, device="cpu")
    x = x.to(site.up.weight.dtype)
    with still(module, keeps=True) as twin:
        inner, outer = _at(site, x, inner=True), _at(site, x, inner=False)
        if _same(inner, outer) or _same(inner, _at(site, x, inner=None)):
            return None, None
        for dropout in dropouts:
            copy = twin(dropout)
            copy.training, copy.p = True, _P
            torch.default_generator.manual_seed(0)  # no other device's
            found = getattr(twin(module), site.method)(x.clone())
            copy.training = False
            if _same(found, inner):
                between.append(dropout)
            elif _same(found, outer):
                after.append(dropout)
    return _only(between), _only(after)


def _only(dropouts: list[nn.Dropout]) -> nn.Dropout | None:
    """Two in one place would have to act one after the other: left to the layer's own code."""
    return dropouts[0] if len(dropouts) == 1 else None


def _at(site: Site, x: Tensor, *, inner: bool | None) -> Tensor:
    """The layer's result with a dropout before the second map, after it, or nowhere."""
    gate = site.gate or site.up
    h = site.activation(F.linear(x, gate.weight, gate.bias))
    if site.gate is not None:
        h = h * F.linear(x, site.up.weight, site.up.bias)
    torch.default_generator.manual_seed(0)
    if inner:
        h = F.dropout(h, _P)
    y = F.linear(h if site.norm is None else site.norm(h), site.down.weight, site.down.bias)
    return F.dropout(y, _P) if inner is False else y


def _same(a: object, b: Tensor) -> bool:
    """Whether it is, but for rounding."""
    if not isinstance(a, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    scale = float(b.double().abs().max()) if b.numel() else 0.0
    slack = 64 * torch.finfo(b.dtype).eps * max(scale, torch.finfo(b.dtype).tiny)
    return bool(((a - b).double().abs() <= slack).all())
