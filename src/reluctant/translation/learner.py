"""A model that learns: one step of the optimizer after the other."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.model import Transformer
from reluctant.translation.batches import Batch
from reluctant.translation.objective import Objective
from reluctant.translation.ranks import Ranks
from reluctant.translation.schedule import rate
from reluctant.translation.settings import Settings
from reluctant.translation.silence import PlainActivity
from reluctant.translation.vocabulary import BOS, EOS, PAD

COUNTED_EVERY = 50  # steps; plain torch does not know its densities by itself
BETAS = (0.9, 0.98)  # Vaswani et al. 2017, section 5.3


class Step(NamedTuple):
    """What came of a step.

    loss: per token, with smoothed labels and without the penalty. penalty: what was added to it.
    norm: the gradient's, before it was clipped. tokens: the target's. density: of each
    feed-forward layer, None where it is not known, {} if it was not counted.
    """

    loss: float
    penalty: float
    norm: float
    tokens: int
    density: dict[str, float | None]


def config(settings: Settings, vocabulary: int) -> TransformerConfig:
    """The model that the settings ask for; source and target share one vocabulary."""
    return TransformerConfig(
        vocabulary,
        d_model=settings.d_model,
        heads=settings.heads,
        d_ff=settings.d_ff,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        activation=settings.activation,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        norm_first=settings.norm_first,
        pad=PAD,
        bos=BOS,
        eos=EOS,
    )


def parameters(sizes: TransformerConfig) -> int:
    """How many such a model has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(sizes).parameters())


class Learner:
    """Model, optimizer, engine and penalty of a run, on one of its ranks.

    model: plain outside of distributed runs; served by engines if the settings say so.
    """

    def __init__(self, settings: Settings, vocabulary: int, ranks: Ranks) -> None:
        self.settings, self.ranks = settings, ranks
        torch.manual_seed(settings.seed)  # every rank draws the same weights
        self.config = config(settings, vocabulary)
        try:
            whole = Transformer(self.config).to(settings.device).train()
        except (RuntimeError, AssertionError) as error:  # torch without that device
            raise ReluctantError(f"device: torch has no {settings.device!r}: {error}") from error
        self.model = ranks.divided(whole)
        ranks.seed(settings.seed)
        self._plain: PlainActivity | None = None
        self._penalty = None
        if settings.engine:
            import reluctant  # noqa: PLC0415  --no-engine works without Numba

            reluctant.optimize(self.model, parts=("feed_forward",))
            if settings.penalty:
                weight, ramp = settings.penalty, settings.ramp
                self._penalty = reluctant.activity_penalty(self.model, weight, ramp=ramp)
        else:
            self._plain = PlainActivity(self.model, settings.penalty, settings.ramp)
        self.objective = ranks.wrapped(Objective(self.model, settings.label_smoothing))
        self.parameters = dict(self.model.named_parameters())
        matrices = [p for p in self.parameters.values() if p.dim() > 1]
        others = [p for p in self.parameters.values() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=1e-9, fused=True)

    def step(self, number: int, batches: Sequence[Batch]) -> Step:
        """Learn from batches, the first step having number 1; every rank is given the same ones.

        Raises ReluctantError if loss or gradient is not finite; the model is then as before.
        """
        if self._plain is not None:
            self._plain.count = number % COUNTED_EVERY == 1
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.settings, number)
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(int((batch.labels != PAD).sum()) for batch in batches)
        loss, penalty = 0.0, 0.0
        for i, batch in enumerate(batches):
            with self.ranks.synchronised(self.objective, last=i == len(batches) - 1):
                total, term = self._forward(number, self.ranks.share(batch), tokens)
                loss += total.item()
                if term is not None:
                    term = term * (self.ranks.penalty_share(batch) / len(batches))
                    penalty += term.item()
                    total = total + term
                (total * self.ranks.weight).backward()  # type: ignore[no-untyped-call]
        loss, penalty = self.ranks.total(loss), self.ranks.added(penalty)
        norm = self.ranks.clip(self.model, self.settings.clip or math.inf)
        if not math.isfinite(loss + penalty + norm):
            raise ReluctantError(
                f"the loss of step {number} is {loss}, its gradient's norm {norm}: expected finite "
                "numbers; a lower lr, a longer warm_up or a smaller clip often helps. The last "
                "checkpoint is as it was"
            )
        self.optimizer.step()
        return Step(loss, penalty, norm, tokens, self._density())

    def _forward(self, number: int, batch: Batch, tokens: int) -> tuple[Tensor, Tensor | None]:
        with self._cast():
            total: Tensor = self.objective(self.there(batch))
        total = total / tokens
        if not self.settings.penalty:
            return total, None
        counter = self._plain if self._penalty is None else self._penalty
        assert counter is not None
        counter.steps = number - 1  # of all batches of a step
        return total, counter()

    def _cast(self) -> AbstractContextManager[object]:
        kind = torch.device(self.settings.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.autocast)

    def there(self, batch: Batch) -> Batch:
        """The batch where the model is."""
        return Batch(*(tensor.to(self.settings.device) for tensor in batch))

    def _density(self) -> dict[str, float | None]:
        if self._plain is not None:
            return self._plain.density()
        import reluctant  # noqa: PLC0415

        return reluctant.density(self.model)


def moments(learner: Learner, name: str) -> list[Tensor]:
    """AdamW's two running means of a parameter; zeros before the first step."""
    parameter = learner.parameters[name]
    state = learner.optimizer.state.setdefault(parameter, {})
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return [state["exp_avg"], state["exp_avg_sq"]]
