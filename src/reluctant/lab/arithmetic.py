"""Parameters and floating-point operations: two for each multiplication and addition."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reluctant.lab.watch import Watch


def parameters_of(watches: Iterable[Watch]) -> int:
    """Of all these layers, each Parameter once."""
    found = dict[int, int]()
    for watch in watches:
        neurons = watch.engine.neurons
        parts = *neurons.tensors(), neurons.norm_weight
        found |= {tensor.data_ptr(): tensor.numel() for tensor in parts if tensor is not None}
    return sum(found.values())


def parameters_of_model(model: nn.Module) -> int:
    """Each Parameter once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_of(watch: Watch) -> int:
    """Of one token in the layer: its two products, or three if it is gated.

    Biases, the activation and norms are not counted, as in `FlopCounterMode`.
    """
    neurons = watch.engine.neurons
    return 2 * neurons.keys.numel() * (2 if neurons.gate is None else 3)


def counted(run: Callable[[], object]) -> int:
    """The operations of all matrix products and convolutions of `run`, attention's own included.

    By `torch.utils.flop_counter`, with attention taken apart into products: it does not know the
    fused kernels of CPUs.

    >>> counted(lambda: nn.Linear(4, 8)(torch.zeros(3, 4)))
    192
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()
