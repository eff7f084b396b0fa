"""Beam search as fairseq and transformers have it: what has ended waits in a pool of its own."""

import math
from typing import Literal

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.transformer.decoding import Beams
from reluctant.transformer.model import Transformer
from reluctant.transformer.steps import Prefix, Steps


@torch.no_grad()
def pooled_beam_search(
    model: Transformer,
    source: Tensor,
    *,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    max_length: int | None = None,
    prefix: Prefix = (),
    forced_eos: bool = False,
    renormalize: bool = False,
) -> Beams:
    """Decode with num_beams hypotheses that go on at each step, and keep as many that have ended.

    Of a source's hypotheses with one more token the 2 num_beams likeliest are looked at. Those of
    the first num_beams that end go to its pool, where the score is log P / length **
    length_penalty, and the best num_beams stay; the first num_beams of the others go on. At
    max_length all end. What a hypothesis has of `prefix` counts in its length.

    early_stopping: when a source's search is over. True: its pool is full; False: besides, none
    that goes on, if it ended as it is, would be better than the worst in it; "never": however it
    ended, as far as a positive length_penalty tells. These are the parameters of transformers'
    `generate`, and of a converted model the same tokens (`Transformer.from_hugging_face`).

    source, max_length, prefix, forced_eos, errors: as `greedy`. Padding is never chosen, but has
    its share in the probabilities, unless they are normalised again without it (renormalize:
    transformers' renormalize_logits). Gives the pools, the best first. What a source gets depends,
    but for rounding, on nothing else in the batch.

    >>> from reluctant.transformer import TransformerConfig
    >>> _ = torch.manual_seed(0)
    >>> model = Transformer(TransformerConfig(50, d_model=16, heads=2, d_ff=64)).eval()
    >>> source = torch.randint(3, 50, (2, 9))
    >>> tokens, scores = pooled_beam_search(model, source, num_beams=3, max_length=5)
    >>> tokens.shape, scores.shape
    (torch.Size([2, 3, 5]), torch.Size([2, 3]))
    """
    if num_beams < 1 or not math.isfinite(length_penalty):
        raise ReluctantError(
            "expected num_beams of at least 1 and a finite length_penalty, got "
            f"{num_beams!r} and {length_penalty!r}"
        )
    if early_stopping not in (True, False, "never"):
        raise ReluctantError(
            f"early_stopping: expected True, False or 'never', got {early_stopping!r}"
        )
    steps = Steps(model, source, max_length, prefix, forced_eos)
    batch, limits = len(source), steps.limits
    precision = torch.promote_types(model.linear.weight.dtype, torch.float32)
    tokens = steps.begin[:, None].expand(-1, num_beams, -1)
    log_p = torch.zeros(tokens.shape[:2], dtype=precision, device=source.device)
    log_p[:, 1:] = -torch.inf  # one hypothesis to begin with
    pool = _Pool(tokens, log_p)
    over = torch.zeros_like(limits, dtype=torch.bool)
    first = torch.arange(batch, device=source.device)[:, None] * num_beams
    k = min(2 * num_beams, model.config.targets)
    for step in range(steps.given, steps.most):
        if over.all():
            break
        found = steps.best(tokens.flatten(0, 1), k, padding_counts=not renormalize)
        ids, gain = (each.view(batch, num_beams, k) for each in found)
        steps.end(ids, gain, step)
        total = gain.add_(log_p[..., None])
        log_p, best = total.flatten(1).topk(2 * num_beams)
        parent, chosen = best // k, ids.flatten(1).gather(1, best)
        parents = tokens.gather(1, parent[..., None].expand(-1, -1, tokens.size(2)))
        tokens = torch.cat([parents, chosen[..., None]], 2)
        last = limits == step + 1
        ends = (chosen == steps.eos) | last[:, None]
        scores = (log_p / (step + 1) ** length_penalty).masked_fill(
            ~ends | over[:, None], -torch.inf
        )
        pool.add(tokens[:, :num_beams], scores[:, :num_beams], steps.fill)
        log_p, kept = log_p.masked_fill(ends, -torch.inf).topk(num_beams)
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.size(2)))
        steps.reorder((first + parent.gather(1, kept)).flatten())
        hope = log_p[:, 0]
        if early_stopping == "never" and length_penalty > 0:
            hope = hope / limits**length_penalty
        else:
            hope = hope / (step + 1) ** length_penalty
        worst = pool.scores[:, -1]  # -inf where it is not full
        full = worst > -torch.inf
        settled = full if early_stopping is True else full & (hope <= worst)
        over |= settled | last | log_p[:, 0].isneginf()
    return pool.beams(steps.fill)


class _Pool:
    """The best hypotheses of each source that have ended: tokens (batch, num_beams, length) with
    bos, scores (batch, num_beams), the best first; -inf where there is none."""

    def __init__(self, tokens: Tensor, scores: Tensor) -> None:
        self.tokens = tokens
        self.scores = torch.full_like(scores, -torch.inf)
        self.lengths = torch.zeros_like(scores, dtype=torch.int64)

    def add(self, tokens: Tensor, scores: Tensor, fill: int) -> None:
        """Ended hypotheses of one more token than those before, or -inf."""
        if not bool((scores > self.scores[:, -1:]).any()):
            return
        missing = tokens.size(2) - self.tokens.size(2)
        older = torch.nn.functional.pad(self.tokens, (0, missing), value=fill)
        lengths = torch.full_like(self.lengths, tokens.size(2) - 1)
        merged = torch.cat([self.scores, scores], 1)
        self.scores, best = merged.topk(self.scores.size(1))
        self.lengths = torch.cat([self.lengths, lengths], 1).gather(1, best)
        both = torch.cat([older, tokens], 1)
        self.tokens = both.gather(1, best[..., None].expand(-1, -1, both.size(2)))

    def beams(self, fill: int) -> Beams:
        none = self.scores.isneginf()
        longest = int(self.lengths.masked_fill(none, 0).max()) if none.numel() else 0
        tokens = self.tokens[..., 1 : 1 + longest].masked_fill(none[..., None], fill)
        return Beams(tokens, self.scores)
