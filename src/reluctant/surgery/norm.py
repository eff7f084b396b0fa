"""Whether a module is a root-mean-square norm: Zhang & Sennrich 2019, arXiv 1910.07467."""

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reluctant.surgery.still import still
from reluctant.weights import eps_of


def normalises(norm: nn.Module) -> bool:
    """Whether norm(h) is weight * h / sqrt(mean(h^2) + eps), in evaluation and in training.

    Of the module's own weights nothing follows (where they are ones, they might be left out, or be
    taken plus one): made-up ones stand in for them. Zeros have to stay zeros.
    """
    (own,) = norm.parameters()
    eps, generator = eps_of(norm), torch.Generator("cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    weight = drawn(own.numel()).to(own.dtype)
    # Hidden vectors of every size: next to the smallest, it is eps that counts.
    for shape, size in (((3, 2), 1.0), ((5,), eps**0.5), ((1,), 30.0), ((), 1e-2)):
        h = (size * drawn(*shape, own.numel())).relu().to(own.dtype)
        for training in (False, True):
            with still(norm) as twin, suppress(Exception):
                trial: nn.Module = twin(norm)
                trial.training = training
                if _close(functional_call(trial, {"weight": weight}, h.clone()), h, weight, eps):
                    continue
            return False
    return True


def _close(ours: Tensor, h: Tensor, weight: Tensor, eps: float) -> bool:
    wide = h.double()
    wanted = weight.double() * wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    if ours.shape != h.shape or ours.dtype != h.dtype:
        return False
    unit = max(torch.finfo(h.dtype).eps, torch.finfo(torch.float32).eps)  # it may go by float32
    near = (ours.double() - wanted).abs() <= 16 * unit * wanted.abs() + torch.finfo(h.dtype).tiny
    return bool((near & ((ours == 0) | (h != 0))).all())
