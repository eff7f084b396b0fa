"""How active a model's neurons are while it trains, and a penalty that keeps more of them silent.

The penalty is an L1 term on the hidden vectors, as in Szatkowski et al. 2025 and TwELL (arXiv
2603.23198): its gradient is a constant for each active neuron, which the backward pass of a served
layer adds to what it computes anyway. So no activation is stored again for it.
"""

import warnings
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.surgery.swap import seat_of
from reluctant.trainer import Trainer

Weight = float | Callable[[int], float]


def density(model: nn.Module) -> dict[str, float | None]:
    """The running share of active neurons of each served layer, by its name in the model.

    Of calls with gradients, which count them as they go: a mean in which each call has a tenth of
    the weight. None for a layer that no such call has counted yet, or none counts: one of GELU,
    say, or of so few tokens that torch trains it. Asks nothing of the layers, so it can be called
    at every step.

    Raises ReluctantError if model is no nn.Module.

    >>> from reluctant import optimize
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    >>> report = optimize(model)
    >>> model(torch.randn(64, 8)).sum().backward()
    >>> 0.2 < density(model)[""] < 0.8
    True
    """
    return {name: trainer.density for name, trainer in _trainers(model).items()}


class ActivityPenalty:
    """What `activity_penalty` returns: call it once a step, and add what comes to the loss.

    steps: how often it was called; to be set after a resume. remove: the layers are not penalised
    any more.
    """

    def __init__(self, trainers: dict[str, Trainer], weight: Callable[[int], float]) -> None:
        self._trainers, self._weight = trainers, weight
        self._terms: dict[int, list[tuple[Tensor, int]]] = {}
        self.steps = 0
        for trainer in trainers.values():
            trainer.penalty = self

    @property
    def weight(self) -> float:
        """That of the next call."""
        return float(self._weight(self.steps))

    def add(self, trainer: Trainer, size: Tensor, pairs: int) -> None:
        """Take the size of the hidden vectors of one call of a layer: for the layers to call."""
        self._terms.setdefault(id(trainer), []).append((size, pairs))

    def __call__(self) -> Tensor:
        """weight times the mean of |h|, over the calls of the layers since this was last called.

        A scalar with gradients. Raises ReluctantError if no layer was called with gradients since:
        so it is in checkpoints with use_reentrant=True, which compute without.
        """
        terms, self._terms = self._terms, {}
        if not terms:
            raise ReluctantError(
                "expected a forward pass with gradients through the penalised layers since the "
                "penalty was last called; there was none: call the model first (and checkpoints "
                "with use_reentrant=False)"
            )
        missing = [n for n, trainer in self._trainers.items() if id(trainer) not in terms]
        if missing and self.steps == 0:
            warnings.warn(
                f"the activity penalty does not reach {', '.join(missing)}: torch computed these "
                f"layers, or nobody called them",
                ReluctantWarning,
                stacklevel=2,
            )
        weight, self.steps = self.weight, self.steps + 1
        means = [
            torch.stack([size for size, _ in calls]).sum() / sum(pairs for _, pairs in calls)
            for calls in terms.values()
        ]
        return weight * torch.stack(means).mean()

    def remove(self) -> None:
        """Leave the layers alone."""
        for trainer in self._trainers.values():
            if trainer.penalty is self:
                trainer.penalty = None
        self._terms = {}


def activity_penalty(
    model: nn.Module, weight: Weight, *, start: int = 0, ramp: int = 0
) -> ActivityPenalty:
    """Let a model's served layers learn to keep more of their neurons silent.

    model: one that `optimize` has served. weight: of the mean of |h| over tokens, neurons and
    layers, where h is what comes to the second map; or a function of the step that gives it.
    start, ramp: the weight is 0 for so many steps, and then grows evenly for so many. A layer whose
    activation is nowhere exactly zero is left out. A second penalty takes the first one's place.

    Returns an `ActivityPenalty`. Raises ReluctantError for a model without served layers that can
    be silent, and for a weight, start or ramp that is no number or is negative.

    >>> from reluctant import optimize
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    >>> report = optimize(model)
    >>> penalty = activity_penalty(model, 0.5, ramp=2)
    >>> for _ in range(3):
    ...     loss = model(torch.randn(64, 8)).square().mean() + penalty()
    ...     loss.backward()
    >>> penalty.steps, penalty.weight
    (3, 0.5)
    """
    for name, number in (("start", start), ("ramp", ramp)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ReluctantError(f"{name}: expected a number of steps from 0 on, got {number!r}")
    if isinstance(weight, Real) and not isinstance(weight, bool):
        full = float(weight)
        if not 0 <= full < float("inf"):
            raise ReluctantError(f"weight: expected a finite number from 0 on, got {weight!r}")
        schedule = _ramp(full, start, ramp)
    elif callable(weight):
        if start or ramp:
            raise ReluctantError("expected either a function as weight, or start and ramp")
        schedule = weight
    else:
        raise ReluctantError(f"weight: expected a number or a function of the step, got {weight!r}")
    trainers = {
        name: trainer
        for name, trainer in _trainers(model).items()
        if trainer.activation.zero_below is not None
    }
    if not trainers:
        raise ReluctantError(
            "expected a model with served layers whose activation is exactly zero somewhere; "
            "there are none: call optimize(model) first"
        )
    return ActivityPenalty(trainers, schedule)


def _ramp(full: float, start: int, ramp: int) -> Callable[[int], float]:
    def weight(step: int) -> float:
        if step < start + ramp:
            return full * max(step - start, 0) / max(ramp, 1)
        return full

    return weight


def _trainers(model: nn.Module) -> dict[str, Trainer]:
    if not isinstance(model, nn.Module):
        raise ReluctantError(f"expected a model, an nn.Module; got {type(model).__name__}")
    found = ((name, seat_of(module)) for name, module in model.named_modules())
    return {name: seat.engine.trainer for name, seat in found if seat is not None}
