"""What greedy decoding and both beam searches share: sources encoded once, then step by step."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.certified import served_head
from reluctant.transformer.model import Transformer

if TYPE_CHECKING:
    from reluctant.transformer.served import Decoder

Prefix = Sequence[int] | Tensor
_Found = TypeVar("_Found")


class Steps:
    """The decoding of a batch of sources, ids (batch, m).

    limits: how many tokens each target may have, its prefix included, (batch,) int64; most: the
    largest of them. begin: (batch, 1 + given), bos and the prefix, the same for all or (batch,
    given). fill: what stands after a target's end.

    Raises ReluctantError for a model in training mode, a max_length that its positions do not
    allow, and a prefix that cannot be one.
    """

    def __init__(
        self,
        model: Transformer,
        source: Tensor,
        max_length: int | None = None,
        prefix: Prefix = (),
        forced_eos: bool = False,
    ) -> None:
        if model.training:
            raise ReluctantError("the model is in training mode, with dropout: call model.eval()")
        self.model, self.forced_eos = model, forced_eos
        self.pad, self.eos = model.config.pad, model.config.eos
        self.fill = self.eos if self.pad is None else self.pad
        self.limits = _limits(model, source, max_length)
        self.most: int = max(self.limits.tolist(), default=0)
        given = _prefix(model, prefix, self.limits)
        self.given = given.size(1)
        self.begin = torch.cat([given.new_full((len(source), 1), model.config.bos), given], 1)
        self._served = _served(model)
        begun = None if self._served is None else self._served.start(model, source)
        self.cache = model.start(source) if begun is None else begun
        self.cache.memory_mask = _plain_mask(self.cache.memory_mask, model.linear.weight.dtype)
        self._head = served_head(model)
        self._decoder: Decoder | None = None

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (rows, target_vocab) after tokens (rows, length), bos first: what they had in the
        step before, and more. rows: as many as sources, or a multiple.
        """
        x = self._by_decoder(tokens, lambda decoder, new: decoder.hidden(new))
        if x is None:
            return self.model.decode(tokens[:, self.cache.length :], self.cache)[:, -1]
        logits: Tensor = self.model.linear(x)
        return logits

    def most_likely(self, tokens: Tensor) -> Tensor:
        """Ids (rows,) of the largest logits after tokens, as above; none is padding."""
        if self._head is None:
            return self.without_padding(self.logits(tokens)).argmax(-1)
        x = self._by_decoder(tokens, lambda decoder, new: decoder.hidden(new))
        if x is None:
            x = self.model.hidden(tokens[:, self.cache.length :], self.cache)[:, -1]
        chosen = self._head.most_likely(x, self.pad)
        if chosen is None:
            chosen = self.without_padding(self.model.linear(x)).argmax(-1)
        return chosen

    def best(self, tokens: Tensor, k: int, *, padding_counts: bool) -> tuple[Tensor, Tensor]:
        """Ids (rows, k) of the most probable next tokens, none of them padding, and the logarithms
        of their probabilities, falling; in the weights' dtype, float32 at least.

        k: at most target_vocab. padding_counts: whether padding has its share in the probabilities.
        """
        served = self._by_decoder(
            tokens,
            lambda decoder, new: decoder.best(new, k, self.pad, counts=padding_counts),
            with_logits=True,
        )
        if served is not None:
            return served
        logits = self.logits(tokens)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if padding_counts:
            gains = self.without_padding(logits.log_softmax(-1))
        else:
            gains = self.without_padding(logits).log_softmax(-1)
        found = gains.topk(k)
        return found.indices, found.values

    def _by_decoder(
        self,
        tokens: Tensor,
        what: "Callable[[Decoder, Tensor], _Found | None]",
        *,
        with_logits: bool = False,
    ) -> "_Found | None":
        """What a served decoder makes of the next tokens; None: the model itself goes on."""
        if self._served is None:
            return None
        if self._decoder is None:
            begin = self.model, self.cache, len(tokens), self.most, with_logits
            self._decoder = self._served.decoder(*begin)
        found = None
        if self._decoder is not None:
            found = what(self._decoder, tokens[:, self.cache.length :])
            if found is None:
                self._decoder.hand_over()
        if found is None:
            self._served = self._decoder = None
        return found

    def reorder(self, rows: Tensor) -> None:
        """Go on with these target rows: ids (rows,), in the order of the sources, as many each."""
        if self._decoder is None:
            self.cache.reorder(rows)
        else:
            self._decoder.reorder(rows)

    def without_padding(self, scores: Tensor) -> Tensor:
        """The same scores (..., target_vocab), padding's -inf by now."""
        if self.pad is not None:
            scores[..., self.pad] = -torch.inf
        return scores

    def end(self, ids: Tensor, gains: Tensor, step: int) -> None:
        """Where a target has to end in this step its next tokens, (batch, beam, k), become an end
        that costs nothing."""
        if self.forced_eos:
            last = self.limits == step + 1
            gains[last] = -torch.inf
            ids[last, :, 0], gains[last, :, 0] = self.eos, 0.0


def _served(model: Transformer) -> Any:
    """The module that has a served model's encoder and decoder; None if it is not served, or no
    `Transformer` but something that answers as one."""
    if type(model) is not Transformer:
        return None
    for attention in model.decoder.modules():
        if isinstance(attention, MultiHeadAttention):
            if not hasattr(type(attention.query), "_unserved"):
                return None
            from reluctant.transformer import served  # noqa: PLC0415  loaded by who serves

            return served
    return None


def _plain_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """As attention takes it the fastest, at every step: none, or what is added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    if mask.all():
        return None
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)


def _limits(model: Transformer, source: Tensor, max_length: int | None) -> Tensor:
    """The last token chosen is not embedded any more: a table of n positions allows n steps."""
    config = model.config
    room = None if config.positions == "sinusoidal" else config.max_positions
    if max_length is not None and (max_length < 1 or (room is not None and max_length > room)):
        raise ReluctantError(
            f"max_length: expected 1 to {room or 'any number'} (max_positions), got {max_length}"
        )
    if max_length is not None:
        return source.new_full(source.shape[:1], max_length, dtype=torch.int64)
    there = torch.ones_like(source) if config.pad is None else source != config.pad
    limits = there.sum(1) + 50
    return limits if room is None else limits.clamp(max=room)


def _prefix(model: Transformer, prefix: Prefix, limits: Tensor) -> Tensor:
    """Ids (batch, given)."""
    ids = torch.as_tensor(prefix, device=limits.device)
    if ids.numel() == 0:
        return limits.new_empty(len(limits), 0)
    fits = not ids.is_floating_point() and ids.dim() in (1, 2)
    if not fits or (ids.dim() == 2 and len(ids) != len(limits)):
        raise ReluctantError(
            f"prefix: expected ids (length,) or ({len(limits)}, length), got {tuple(ids.shape)} "
            f"{ids.dtype}"
        )
    ids = ids.to(torch.int64).expand(len(limits), -1)
    special = ids == model.config.eos
    if model.config.pad is not None:
        special |= ids == model.config.pad
    if special.any() or ((ids < 0) | (ids >= model.config.targets)).any():
        raise ReluctantError(
            f"prefix: expected ids below {model.config.targets}, none of them pad or eos; got "
            f"{ids.tolist()}"
        )
    if ids.size(1) >= min(limits.tolist(), default=ids.size(1) + 1):
        raise ReluctantError(
            f"prefix: expected fewer tokens than max_length, {min(limits.tolist())}; got "
            f"{ids.size(1)}"
        )
    return ids
