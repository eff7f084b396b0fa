"""From logits to tokens: one step of the decoder a token, all it needs of the past in a cache."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.transformer.model import Transformer
from reluctant.transformer.steps import Prefix, Steps


def most_likely(logits: Tensor, step: int) -> Tensor:
    """The most likely token of each row. logits: (batch, vocabulary); gives ids (batch,)."""
    return logits.argmax(-1)


@torch.no_grad()
def greedy(
    model: Transformer,
    source: Tensor,
    *,
    max_length: int | None = None,
    choose: Callable[[Tensor, int], Tensor] = most_likely,
    prefix: Prefix = (),
    forced_eos: bool = False,
) -> Tensor:
    """Decode token by token, until every row has ended or has max_length tokens.

    source: ids (batch, m). max_length: None: 50 more than a row's source has tokens, as in section
    6.1 of the paper (padding does not count), or what a table of positions allows. choose: your
    own sampling; from logits (batch, target_vocab) and the step's number, from 0, to ids (batch,).
    Padding's logit is -inf: it is never chosen. prefix: ids that every target begins with after
    `bos`, (length,) or for each (batch, length), such as the token of a language; they count as
    tokens. forced_eos: the last token that max_length allows is `eos`.

    Gives int64 ids (batch, length), without `bos`; after a row's `eos` stands `pad` (or `eos` if
    there is no padding), and a row without an `eos` has not ended.

    Where `reluctant.optimize` serves the model and `choose` is left as it is, of the last linear
    map only the rows are read that can be the most likely; the report's `head.decoding` counts
    them.

    Raises ReluctantError for a model in training mode, a max_length that its positions do not
    allow, a prefix that cannot be one, and ids of another shape from `choose`.

    >>> from reluctant.transformer import TransformerConfig
    >>> _ = torch.manual_seed(0)
    >>> model = Transformer(TransformerConfig(50, d_model=16, heads=2, d_ff=64)).eval()
    >>> source = torch.randint(3, 50, (2, 9))
    >>> def sample(logits, step):
    ...     return torch.multinomial(logits.softmax(-1), 1).squeeze(1)
    >>> greedy(model, source, max_length=5, choose=sample).shape
    torch.Size([2, 5])
    """
    steps = Steps(model, source, max_length, prefix, forced_eos)
    tokens, limits = steps.begin, steps.limits
    done = torch.zeros_like(limits, dtype=torch.bool)
    for step in range(steps.given, steps.most):
        if done.all():
            break
        if choose is most_likely:
            chosen = steps.most_likely(tokens)
        else:
            chosen = choose(steps.without_padding(steps.logits(tokens)), step)
        if chosen.shape != done.shape or chosen.is_floating_point():
            raise ReluctantError(
                f"choose: expected token ids of shape {tuple(done.shape)}, got "
                f"{tuple(chosen.shape)} {chosen.dtype}"
            )
        last = limits == step + 1
        if forced_eos:
            chosen = chosen.masked_fill(last, steps.eos)
        chosen = chosen.masked_fill(done, steps.fill)
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        done |= (chosen == steps.eos) | last
    return tokens[:, 1:]


class Beams(NamedTuple):
    """Hypotheses of every source, the best first.

    tokens: int64 ids (batch, beam, length), as `greedy` gives them. A hypothesis that was left
        before it ended is followed by `pad` too, or by -1 if there is no padding.
    scores: (batch, beam) log probability / length penalty; -inf, and no tokens, where there were
        fewer hypotheses.
    """

    tokens: Tensor
    scores: Tensor


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Tensor,
    *,
    beam: int = 4,
    length_penalty: float = 0.6,
    max_length: int | None = None,
    early_stop: bool = True,
    prefix: Prefix = (),
    forced_eos: bool = False,
) -> Beams:
    """Decode with the `beam` best hypotheses at each step, ended ones among them.

    Score: log P / ((5 + length) / 6) ** length_penalty (Wu et al. 2016, eq. 14; the defaults are
    Vaswani et al. 2017, section 6.1). One that ended keeps its place until it is overtaken, so
    beam=1 is `greedy`. early_stop: a source's search is over when none of its hypotheses that go
    on can still become its best, however it ends; else when all have ended. source, max_length,
    prefix, forced_eos (neither of which costs a hypothesis anything), errors: as `greedy`.

    What a source gets depends, but for rounding, on nothing else in the batch, nor on padding at
    its end: the search of each is over by itself.

    >>> from reluctant.transformer import TransformerConfig
    >>> _ = torch.manual_seed(0)
    >>> model = Transformer(TransformerConfig(50, d_model=16, heads=2, d_ff=64)).eval()
    >>> source = torch.randint(3, 50, (2, 9))
    >>> tokens, scores = beam_search(model, source, beam=3, max_length=5)
    >>> tokens.shape, scores.shape
    (torch.Size([2, 3, 5]), torch.Size([2, 3]))
    """
    if beam < 1 or not 0 <= length_penalty < float("inf"):
        raise ReluctantError(
            "expected beam of at least 1 and a length_penalty from 0 up, got "
            f"{beam!r} and {length_penalty!r}"
        )
    steps = Steps(model, source, max_length, prefix, forced_eos)
    limits, fill, batch = steps.limits, steps.fill, len(source)
    tokens = steps.begin[:, None].expand(-1, beam, -1)
    precision = torch.promote_types(model.linear.weight.dtype, torch.float32)
    lengths = torch.full_like(tokens[..., 0], steps.given)
    scores = torch.zeros_like(lengths, dtype=precision)
    scores[:, 1:] = -torch.inf  # one hypothesis to begin with
    log_p, done = scores.clone(), scores.isinf()
    over = torch.zeros_like(limits, dtype=torch.bool)
    slots = torch.arange(beam, device=source.device)
    first = torch.arange(batch, device=source.device)[:, None] * beam
    k = min(beam, model.config.targets)  # of a hypothesis' continuations more cannot be among all

    def penalty(length: Tensor) -> Tensor:
        return ((5 + length.to(precision)) / 6) ** length_penalty

    for step in range(steps.given, steps.most):
        hope = (log_p / penalty(limits)[:, None]).masked_fill(done, -torch.inf)
        settled = hope.amax(1) <= scores.masked_fill(~done, -torch.inf).amax(1)
        over |= (settled if early_stop else done.all(1)) | (limits == step)
        if over.all():
            break
        found = steps.best(tokens.flatten(0, 1), k, padding_counts=False)
        ids, gain = (each.view(batch, beam, k) for each in found)
        steps.end(ids, gain, step)
        stays = done | over[:, None]
        gain.masked_fill_(stays[..., None], -torch.inf)
        gain[..., 0].masked_fill_(stays, 0.0)  # what stays has one continuation: itself
        ids[..., 0].masked_fill_(stays, fill)
        total = log_p[..., None] + gain
        lengths = lengths + ~stays
        ranked = (total / penalty(lengths)[..., None]).flatten(1)
        # where the search is over, equals must not change places any more
        best = ranked.topk(beam).indices.where(~over[:, None], slots * k)
        parent, chosen = best // k, ids.flatten(1).gather(1, best)
        scores, log_p = ranked.gather(1, best), total.flatten(1).gather(1, best)
        lengths, done = lengths.gather(1, parent), done.gather(1, parent)
        parents = tokens.gather(1, parent[..., None].expand_as(tokens))
        tokens = torch.cat([parents, chosen[..., None]], 2)
        done = done | ((chosen == model.config.eos) & ~over[:, None]) | log_p.isinf()
        steps.reorder((first + parent).flatten())
    tokens = tokens[..., 1:].masked_fill(log_p.isinf()[..., None], fill)
    if steps.pad is None:
        left = torch.arange(tokens.size(2), device=source.device) >= lengths[..., None]
        tokens = tokens.masked_fill(left & ~done[..., None], -1)
    return Beams(tokens, scores)
