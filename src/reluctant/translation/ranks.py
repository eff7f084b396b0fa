"""The processes of a run: one, or as many as torchrun starts, and who computes what."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch


class Ranks:
    """One process that does everything; `distributed.py` has the others.

    rank, size: of this process, and how many there are. weight: what a rank's loss is multiplied
    by before the backward pass, so that what torch makes of all ranks' gradients is their sum.
    sharded: whether a rank holds a part of the parameters only. alike: whether all ranks draw the
    same random numbers.
    """

    rank, size, weight = 0, 1, 1.0
    sharded, alike = False, True

    @property
    def first(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0

    def divided(self, model: Transformer) -> Transformer:
        """What of the model this rank holds; to be done before an engine serves it."""
        return model

    def seed(self, number: int) -> None:
        """Let dropout draw from here on: by every rank for itself where it has rows of its own."""
        torch.manual_seed(number)

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """The objective, with what adds up the gradients of all ranks."""
        return objective

    def share(self, batch: Batch) -> Batch:
        """This rank's part of a batch."""
        return batch

    def synchronised(self, objective: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Around a backward pass: gradients need to be added up after a step's last one only."""
        return nullcontext()

    def penalty_share(self, batch: Batch) -> float:
        """This rank's part of the mean that the penalty is of."""
        return 1.0

    def total(self, number: float) -> float:
        """The loss of all ranks, from this one's."""
        return number

    def added(self, number: float) -> float:
        """The sum over all ranks."""
        return number

    def expect_alike(self, what: str) -> None:
        """Raise ReluctantError, on every rank, if the ranks do not all say the same."""

    def agreed(self, flag: bool) -> bool:
        """The first rank's word, for decisions that go by the clock."""
        return flag

    def told(self, number: float) -> float:
        """The first rank's number."""
        return number

    def clip(self, model: nn.Module, largest: float) -> float:
        """Scale the gradient down to this norm; gives what it was."""
        return float(nn.utils.clip_grad_norm_(model.parameters(), largest))

    def weights(self, model: Transformer) -> dict[str, Tensor]:
        """All of the model's parameters, each once, whole and under its name in a model of one."""
        return {name: tensor.detach() for name, tensor in model.named_parameters()}

    def placed(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter, or one of its moments, as the distributed checkpoint knows it."""
        return tensor

    def barrier(self) -> None:
        """Wait for all."""
