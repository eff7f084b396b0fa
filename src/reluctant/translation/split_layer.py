"""A feed-forward layer of which each rank has some of the neurons."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate

from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward


class SplitFeedForward(nn.Module):
    """This rank's neurons of a layer, and the sum over all ranks.

    part: a `FeedForward` of these neurons, without the last bias, for an engine to serve.
    total_bias: the last bias, which every rank adds to the sum.

    Raises ReluctantError if the neurons cannot be divided evenly.
    """

    total_bias: nn.Parameter | None

    def __init__(self, whole: FeedForward, mesh: DeviceMesh) -> None:
        super().__init__()
        size, rank = mesh.size(), mesh.get_rank()
        if whole.d_ff % size:
            raise ReluctantError(
                f"d_ff: expected a multiple of the {size} ranks, got {whole.d_ff}: change one"
            )
        self.mesh, bias = mesh, whole.down.bias
        mine = slice(rank * whole.d_ff // size, (rank + 1) * whole.d_ff // size)
        self.part = FeedForward(
            *(whole.d_model, whole.d_ff // size, whole.activation),
            gated=whole.gated,
            bias=bias is not None,
            dtype=whole.up.weight.dtype,
        )
        self.part.down.register_parameter("bias", None)
        self.total_bias = None if bias is None else nn.Parameter(bias.detach().clone())
        firsts = [(self.part.up, whole.up)]
        if self.part.gate is not None and whole.gate is not None:
            firsts.append((self.part.gate, whole.gate))
        with torch.no_grad():
            for ours, theirs in firsts:
                ours.weight.copy_(theirs.weight[mine])
                if ours.bias is not None:
                    ours.bias.copy_(theirs.bias[mine])
            self.part.down.weight.copy_(whole.down.weight[:, mine])

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_model), the same on every rank, and so is the result. One all-reduce here, and
        one of x's gradient in the backward pass.
        """
        everywhere = DTensor.from_local(x, self.mesh, [Replicate()], run_check=False)
        y = self.part(everywhere.to_local(grad_placements=[Partial()]))
        parts = DTensor.from_local(y, self.mesh, [Partial()], run_check=False)
        out: Tensor = parts.redistribute(placements=[Replicate()]).to_local()
        return out if self.total_bias is None else out + self.total_bias


def split(name: str) -> int | None:
    """Along which dimension a parameter of this name is divided; None: it is whole.

    >>> split("encoder.layers.0.feed_forward.part.up.weight"), split("linear.weight")
    (0, None)
    """
    if ".part." not in name:
        return None
    return 1 if name.endswith(".down.weight") else 0
