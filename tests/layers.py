"""Layers and models for the tests of surgery, and what those tests ask of them."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize
from reluctant.surgery.swap import seat_of

D, D_FF = 64, 256


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class Own(nn.Module):
    """A feed-forward layer of someone's own, with an option and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.dropout = nn.Dropout(0.0)
        self.flag = False

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        y = self.down(self.dropout(F.relu(self.up(hidden))))
        return 2 * scale * y if self.flag else scale * y if scale != 1.0 else y


class Odd(nn.Module):
    """A feed-forward layer with the down map registered first, under misleading names."""

    def __init__(self, function: Callable[[Tensor], Tensor], d_ff: int = D_FF) -> None:
        super().__init__()
        self.encoder = nn.Linear(d_ff, D)
        self.decoder = nn.Linear(D, d_ff)
        self.noise = nn.Dropout(0.1)
        self.function = function

    def forward(self, hidden: Tensor) -> Tensor:
        return self.encoder(self.noise(self.function(self.decoder(hidden))))


class Between(Odd):
    """The same, with something more: wrap(module, x) says what its forward returns."""

    def __init__(self, wrap: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__(F.relu)
        self.wrap = wrap

    def forward(self, hidden: Tensor) -> Tensor:
        return self.wrap(self, hidden)

    def plain(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(D, 2, D_FF, 0.0, batch_first=True) for _ in range(2)
        )
        self.own = Own()
        self.again = self.own
        self.ffn = FeedForward(D, D_FF)
        self.gated = FeedForward(D, D_FF, "reglu")
        self.stack = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.blocks, self.own, self.again, self.ffn, self.gated, self.stack):
            x = F.layer_norm(x + layer(x), (D,))
        return x


LAYERS = 6


def encoder_layer(dropout: float = 0.0) -> nn.Module:
    return nn.TransformerEncoderLayer(D, 2, D_FF, dropout, batch_first=True)


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module, Callable[[], int]]:
    """An optimized layer, its untouched twin, and how many calls its engine took."""
    twin = copy.deepcopy(layer)
    (entry,) = optimize(layer).swapped
    return layer, twin, lambda: sum(entry.engine.calls.values())


def served(model: nn.Module) -> list[Any]:
    return [seat for module in model.modules() if (seat := seat_of(module))]


def calls(model: nn.Module) -> int:
    return sum(sum(seat.engine.calls.values()) for seat in served(model))


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
