"""The next token of each sequence, certified: only logits that can decide are computed exactly.

Between logits and decision stands what makes *scores* of them: the model's own functions of its
projection's output, then logits processors. Each score grows with its own logit and depends on no
other. So the scores of bounds are bounds of the scores, and what stays below another one's lower
bound cannot win. The choice is that which all logits would give, with the same bits and the lowest
id among equals.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.projection import Projection, Stale

MOST = 4096  # logits of a sequence that are computed one by one; beyond, all are
_MARGIN = 1e-3  # of a probability: more than float32 sums over a vocabulary lose


class Scores(Protocol):
    """What makes scores of logits, both float32."""

    def of_bounds(self, low: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Of bounds, (m, vocabulary) each."""

    def of_some(self, m: int, ids: Tensor, logits: Tensor, low: Tensor, up: Tensor) -> Tensor:
        """Of sequence m's logits of these ids, all (k,). low, up: the bounds of their scores."""


class Counts(Protocol):
    """rows: how many rows of the projection were read exactly, by decision of one sequence."""

    rows: list[int]


class Undecided(Exception):  # noqa: N818 - a finding, not an error
    """All logits have to be looked at."""


class Step:
    """What is known of one step's scores.

    x: (m, d_model), contiguous, of the weights' dtype. scores: makes scores, float32, of (m,
    vocabulary) float32 logits; None: they are the scores. low, up: bounds of the scores.
    """

    def __init__(
        self,
        projection: Projection,
        x: Tensor,
        scores: "Scores | None",
        counts: Counts,
    ) -> None:
        self.projection, self.x, self.scores, self.counts = projection, x, scores, counts
        low, up = self.logits = projection.bounds(x)
        self.low, self.up = (low, up) if scores is None else scores.of_bounds(low, up)

    def exact(self, least: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each sequence the ids, ascending, whose score may reach `least`, and these scores.

        least: (m, 1) or (m, vocabulary). Raises Undecided for too many of them.
        """
        which = (self.up >= least) & (self.up > -torch.inf)  # what is forbidden stays so
        found = [row.nonzero()[:, 0] for row in which]
        if not all(0 < len(ids) <= MOST for ids in found):
            raise Undecided
        low, up = self.logits
        logits = [
            self.projection.some(self.x, m, ids, low[m, ids], up[m, ids]).float()
            for m, ids in enumerate(found)
        ]
        self.counts.rows += map(len, found)
        if self.scores is None:
            return list(zip(found, logits, strict=True))
        return [
            (ids, self.scores.of_some(m, ids, some, self.low[m, ids], self.up[m, ids]))
            for m, (ids, some) in enumerate(zip(found, logits, strict=True))
        ]


def decided(
    projection: Callable[[], Projection],
    x: Tensor,
    scores: "Scores | None",
    counts: Counts,
    decide: Callable[[Step], list[int]],
    say: Callable[[str], object],
) -> list[int] | None:
    """What `decide` makes of a step; None if it takes all logits to tell, or there is no sketch of
    these weights, as of a NaN among them: then `say` is told.
    """
    for _ in range(2):  # once more with a new sketch, if the weights have left theirs
        try:
            return decide(Step(projection(), x, scores, counts))
        except Stale:
            continue
        except Undecided:
            break
        except ReluctantError as error:
            say(str(error))
            break
    return None


def likeliest(
    projection: Callable[[], Projection],
    x: Tensor,
    left_out: int | None,
    say: Callable[[str], object],
) -> tuple[Any, Any] | None:
    """`decided` by `greedy`, where float32 logits are the scores, in one call: the ids, and how
    many logits were computed for each."""
    for _ in range(2):
        try:
            return projection().likeliest(x.contiguous(), left_out, MOST)
        except Stale:
            continue
        except ReluctantError as error:
            say(str(error))
            break
    return None


def greedy(step: Step) -> list[int]:
    """The ids with the largest scores."""
    return [int(ids[s.argmax()]) for ids, s in step.exact(step.low.amax(1, keepdim=True))]


def sample(
    step: Step,
    waits: Tensor,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[int]:
    """The draws that `torch.multinomial` makes of softmax(scores): argmax(p / q), q ~ Exp(1).

    waits: (m, vocabulary) float64, the logarithms of q as it draws them: p / q and score - log q
    are largest at one id, but for ties within rounding. top_k: only the k largest scores take part,
    and those equal to the last; 0: all. top_p: of these only the smallest set of largest
    probabilities that reaches it.

    Raises Undecided where it takes all logits to tell.
    """
    if top_k:
        least = step.low.topk(min(top_k, step.low.shape[1]), dim=1).values[:, -1:]
        return [
            _drawn(ids, _nucleus(_top(scores, top_k), top_p), waits[m])
            for m, (ids, scores) in enumerate(step.exact(least))
        ]
    best = (step.low.double() - waits).amax(1, keepdim=True)
    least = best + waits
    runners = step.exact(least - 1e-12 * (1 + least.abs()))  # room for what float64 rounds
    drawn = [_drawn(ids, scores, waits[m]) for m, (ids, scores) in enumerate(runners)]
    if top_p < 1.0 and not _all_in_nucleus(step, drawn, top_p):
        raise Undecided
    return drawn


def _top(scores: Tensor, k: int) -> Tensor:
    return scores.masked_fill(scores < scores.topk(min(k, len(scores))).values[-1], -torch.inf)


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """The scores with -inf in the place of those that transformers' top-p leaves out: the smallest,
    as long as they have no more than 1 - top_p together."""
    if top_p >= 1.0:
        return scores
    rising, order = scores.double().sort(stable=True)
    upto = rising.softmax(0).cumsum(0)
    out = upto <= 1.0 - top_p
    out[-1] = False
    count = int(out.sum())
    # Of equals, and within what float32 rounds, it is chance which of them is left out.
    near = (upto[:-1] - (1.0 - top_p)).abs() < 1e-6 * (10 + len(scores))
    if near.any() or (count > 0 and rising[count - 1] == rising[count] > -torch.inf):
        raise Undecided
    return scores.index_fill(0, order[:count], -torch.inf)


def _drawn(ids: Tensor, scores: Tensor, waits: Tensor) -> int:
    return int(ids[(scores.double() - waits[ids]).argmax()])


def _all_in_nucleus(step: Step, drawn: Sequence[int], top_p: float) -> bool:
    """Whether the more likely ids have certainly less than top_p together, for each drawn one.

    Their scores are computed; of the sum over all, what the others have at least.
    """
    at = torch.tensor(drawn)[:, None]
    above = step.exact(step.low.gather(1, at))
    for m, (ids, scores) in enumerate(above):
        own = scores[ids == drawn[m]].double()
        weights = (scores.double() - own).exp()
        others = (step.low[m].double() - own).exp()
        others[ids] = 0.0
        share = (weights[scores >= own].sum() - 1.0) / (weights.sum() + others.sum())
        if not float(share) < top_p - _MARGIN:
            return False
    return True
