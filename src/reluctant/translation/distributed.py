"""Many processes, by PyTorch's own engine, under torchrun: each of three ways is a kind of ranks.

- data: DistributedDataParallel. Each rank has all weights and some rows of a batch; gradients are
  added up while the backward pass goes on.
- sharded: FSDP2, `fully_shard`. The same, but a rank keeps a part of weights and moments only, and
  a layer's weights come together when it is computed.
- tensor: each rank has all rows, and of each feed-forward layer some neurons: columns of W1, rows
  of W2. It proves its own zeros; the partial outputs are added up, one all-reduce in each
  direction (Shoeybi et al. 2019, "Megatron-LM", section 3).
"""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from reluctant.errors import ReluctantError
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch
from reluctant.translation.ranks import Ranks
from reluctant.translation.settings import Settings
from reluctant.translation.split_layer import SplitFeedForward, split
from reluctant.translation.vocabulary import PAD

# How long others wait while one learns subwords or validates; one that dies is noticed at once.
PATIENCE = timedelta(hours=6)


@contextmanager
def ranks_of(settings: Settings) -> Iterator[Ranks]:
    """The ranks that this process is one of: alone, unless torchrun started it.

    Raises ReluctantError for what cannot be divided so.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if settings.parallel != "data":
            raise ReluctantError(
                f"parallel: expected several processes for {settings.parallel!r}, got one: start "
                "it by torchrun --nproc-per-node 2 -m reluctant train ..."
            )
        yield Ranks()
        return
    if settings.device != "cpu":
        raise ReluctantError(f"expected the CPU under torchrun, got device={settings.device!r}")
    kinds: dict[str, type[Together]] = {
        "data": DataRanks,
        "sharded": ShardedRanks,
        "tensor": TensorRanks,
    }
    if settings.parallel == "tensor" and settings.activation_dropout:
        raise ReluctantError(
            "expected activation_dropout 0 with tensor parallelism, where ranks would drop the "
            f"same neurons of their parts; got {settings.activation_dropout}"
        )
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield kinds[settings.parallel](init_device_mesh("cpu", (dist.get_world_size(),)))
    finally:
        dist.destroy_process_group()


class Together(Ranks):
    """What all three have in common."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.rank, self.size = mesh, mesh.get_rank(), mesh.size()

    def told(self, number: float) -> float:
        told = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(told, 0)
        return float(told)

    def agreed(self, flag: bool) -> bool:
        return bool(self.told(float(flag)))

    def barrier(self) -> None:
        dist.barrier()

    def expect_alike(self, what: str) -> None:
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, what)
        if others := [rank for rank, each in enumerate(said) if each != said[0]]:
            raise ReluctantError(
                f"expected the same text, settings and --out on all ranks; rank {others[0]} has "
                f"others than rank 0: {said[others[0]]} and {said[0]}"
            )

    def added(self, number: float) -> float:
        total = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)


class DataRanks(Together):
    """Rows divided; torch takes the mean over ranks of what we give as sums."""

    alike = False

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__(mesh)
        self.weight = float(self.size)

    def seed(self, number: int) -> None:
        torch.manual_seed(number * self.size + self.rank)

    def wrapped(self, objective: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(objective)

    def share(self, batch: Batch) -> Batch:
        """Every `size`th row; a rank without one has a row without a token to learn."""
        if self.rank < len(batch.source):
            return Batch(*(tensor[self.rank :: self.size] for tensor in batch))
        source, target, labels = (tensor[:1] for tensor in batch)
        return Batch(source, target, torch.full_like(labels, PAD))

    def synchronised(self, objective: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(objective, nn.parallel.DistributedDataParallel)
        return nullcontext() if last else objective.no_sync()

    def total(self, number: float) -> float:
        return self.added(number)

    def penalty_share(self, batch: Batch) -> float:
        rows = len(batch.source)
        return len(range(self.rank, rows, self.size)) / rows


class ShardedRanks(DataRanks):
    """And weights divided, too."""

    sharded = True

    def wrapped(self, objective: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import (  # noqa: PLC0415
            fully_shard,
            register_fsdp_forward_method,
        )

        # of keys and values, which nobody changes in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        model: Any = objective.model
        for layer in model.decoder.layers:
            # which `start` asks for keys and values before the layer itself is called
            attention = fully_shard(layer.multi_head_attention, mesh=self.mesh)
            for method in ("keys_values", "attend"):
                register_fsdp_forward_method(attention, method)
        for layer in (*model.encoder.layers, *model.decoder.layers):
            fully_shard(layer, mesh=self.mesh)
        fully_shard(objective, mesh=self.mesh)
        return objective

    def synchronised(self, objective: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        objective.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def clip(self, model: nn.Module, largest: float) -> float:
        norm: Any = nn.utils.clip_grad_norm_(model.parameters(), largest)
        return float(norm.full_tensor())

    def weights(self, model: Transformer) -> dict[str, Tensor]:
        found: dict[str, Any] = dict(model.named_parameters())
        return {name: tensor.detach().full_tensor() for name, tensor in found.items()}


class TensorRanks(Together):
    """Neurons divided; all else is computed by every rank, alike."""

    sharded = True

    def penalty_share(self, batch: Batch) -> float:
        return 1.0 / self.size

    def divided(self, model: Transformer) -> Transformer:
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.feed_forward = SplitFeedForward(layer.feed_forward, self.mesh)
        return model

    def clip(self, model: nn.Module, largest: float) -> float:
        """Everyone's neurons count, and what all have counts once."""
        mine = [p for name, p in model.named_parameters() if split(name) is not None]
        shared = [p for name, p in model.named_parameters() if split(name) is None]
        norms = [
            float(torch.linalg.vector_norm(torch.stack([_norm(p) for p in part])))
            for part in (shared, mine)
        ]
        norm = math.hypot(norms[0], math.sqrt(self.added(norms[1] ** 2)))
        scale = min(largest / (norm + 1e-6), 1.0)  # as torch has it
        for parameter in (*shared, *mine):
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        return norm

    def placed(self, name: str, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, Replicate, Shard  # noqa: PLC0415

        dim = split(name)
        kind = Replicate() if dim is None else Shard(dim)
        return DTensor.from_local(tensor, self.mesh, [kind], run_check=False)

    def weights(self, model: Transformer) -> dict[str, Tensor]:
        found = {}
        for name, parameter in model.named_parameters():
            placed: Any = self.placed(name, parameter.detach())
            found[name.replace(".part.", ".").replace(".total_bias", ".down.bias")] = (
                parameter.detach() if split(name) is None else placed.full_tensor()
            )
        return found


def _norm(parameter: nn.Parameter) -> Tensor:
    return parameter.new_zeros(()) if parameter.grad is None else parameter.grad.norm()
