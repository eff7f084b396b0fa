"""Two continuations that differ: two right ones, of equal scores but for rounding, or an error?

Asked is the model in float64, at the first step at which they differ. What float32 may round there
is measured: how far the untouched model's own logits are from those in float64.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from reluctant.generation.decoding import generate
from reluctant.whole.alike.asks import Ask
from reluctant.whole.answers import AS_TRUE

SAME, TIE, DIFFERENT = "same", "tie", "different"
_SUMS = 1e-4  # of a probability: what float32 sums over a vocabulary may lose


@dataclass(frozen=True)
class Verdict:
    """kind: SAME, TIE or DIFFERENT. at: the first new token that differs, from 0. gap: of the two
    scores in float64. rounding: what float32 may round there. says: in words."""

    kind: str
    at: int | None = None
    gap: float | None = None
    rounding: float | None = None
    says: str = ""


class Judge:
    """Compares what a model and its served twin have written.

    model: untouched, float32; a copy in float64 is made when first needed. served: its twin.
    """

    def __init__(self, model: nn.Module, served: nn.Module) -> None:
        self.model, self.served = model, served
        self._double: nn.Module | None = None

    @torch.inference_mode()
    def compare(self, ask: Ask, row: int, theirs: Tensor, ours: Tensor) -> Verdict:
        """theirs, ours: (sequences, positions) that both gave for `ask`; row: which to look at."""
        a, b = theirs[row], ours[row]
        if torch.equal(a, b):
            return Verdict(SAME)
        if a.shape != b.shape:
            return Verdict(DIFFERENT, says=f"{len(b)} tokens instead of {len(a)}")
        start = self._start(ask)
        if ask.beams > 1:
            return self._beams(ask, row, start, a, b)
        at = int((a != b).nonzero()[0])
        exact, error = self._step(ask, row, a[:at])
        rounding = 2 * AS_TRUE * error
        keys = exact - self._waits(ask, row, at - start, len(exact))
        pair = int(a[at]), int(b[at])
        gap = float((keys[pair[0]] - keys[pair[1]]).abs())
        says = f"scores {gap:.1e} apart in float64, rounding {rounding:.1e}"
        tie = gap <= rounding
        if not tie and at >= start:
            tie = self._at_border(ask, exact, max(pair, key=lambda i: float(keys[i])), rounding)
            says += ", at the border of top-k or top-p" * tie
        return Verdict(TIE if tie else DIFFERENT, at - start, gap, rounding, says)

    def _start(self, ask: Ask) -> int:
        """Positions before the first new token."""
        config: Any = self.model.config
        return 1 if config.is_encoder_decoder else ask.ids.shape[1]

    def _step(self, ask: Ask, row: int, ids: Tensor) -> tuple[Tensor, float]:
        """Exact logits (vocabulary,) after these ids, and the float32 model's largest error."""
        exact = self._logits(self.double, ask, row, ids[None])[0, -1]
        plain = self._logits(self.model, ask, row, ids[None])[0, -1].double()
        return exact, float((exact - plain).abs().max())

    @property
    def double(self) -> nn.Module:
        """The model in float64."""
        if self._double is None:
            self._double = copy.deepcopy(self.model).double()
        return self._double

    def _logits(self, model: Any, ask: Ask, row: int, ids: Tensor) -> Tensor:
        """(n, positions, vocabulary) of n sequences (n, positions), without the padding."""
        source = ask.ids[row][ask.mask[row].bool()].expand(len(ids), -1)
        if model.config.is_encoder_decoder:
            given = {"input_ids": source, "decoder_input_ids": ids}
        else:
            given = {"input_ids": ids[:, ask.ids.shape[1] - source.shape[1] :]}
        mask = torch.ones_like(given["input_ids"])
        logits: Tensor = model(**given, attention_mask=mask).logits
        return logits

    def _waits(self, ask: Ask, row: int, step: int, vocabulary: int) -> Tensor:
        """What the draw of this step takes off the scores: see `generation.choose.sample`."""
        if not ask.how["do_sample"] or step < 0:
            return torch.zeros(vocabulary, dtype=torch.float64)
        draw = torch.Generator().manual_seed(ask.seed)
        for _ in range(step + 1):
            waits = torch.empty(len(ask.ids), vocabulary).exponential_(generator=draw)
        return waits[row].double().log()

    def _at_border(self, ask: Ask, exact: Tensor, best: int, rounding: float) -> bool:
        """Whether rounding decides if the one that wins may take part at all."""
        if not ask.how["do_sample"]:
            return False
        scores = exact.clone()
        scores[_ends(self.model)] = -math.inf
        if top_k := ask.how["top_k"]:
            least = scores.topk(min(top_k, len(scores))).values[-1]
            return bool((scores[best] - least).abs() <= rounding)
        if (top_p := ask.how["top_p"]) < 1.0:
            above = scores.softmax(0)[scores > scores[best]].sum()
            return bool((above - top_p).abs() <= math.expm1(2 * rounding) + _SUMS)
        return False

    def _beams(self, ask: Ask, row: int, start: int, a: Tensor, b: Tensor) -> Verdict:
        """Both once more, and the scores of the first beams that only one of them kept."""
        kept = [self._kept(who, ask, row) for who in (self.model.generate, self._generate)]
        kept[0].append({tuple(a.tolist())})
        kept[1].append({tuple(b.tolist())})
        for first, second in zip(*kept, strict=True):
            apart = sorted(first - second), sorted(second - first)
            if all(apart):
                break
        else:
            return Verdict(DIFFERENT, says="other beams, but the same ones when asked again")
        ids = torch.tensor([*apart[0], *apart[1]])
        exact, error = self._sums(ask, row, ids, start)
        count = len(apart[0])
        gap = float((exact[:count, None] - exact[None, count:]).abs().max())
        steps = ids.shape[1] - start
        rounding = 2 * AS_TRUE * error * steps**0.5
        rounding += steps * torch.finfo(torch.float32).eps * float(exact.abs().max())
        says = f"beams' scores {gap:.1e} apart in float64, rounding {rounding:.1e}"
        return Verdict(TIE if gap <= rounding else DIFFERENT, steps - 1, gap, rounding, says)

    def _generate(self, **kwargs: Any) -> Any:
        return generate(self.served, **kwargs)

    def _kept(self, who: Any, ask: Ask, row: int) -> list[set[tuple[int, ...]]]:
        """The beams of this row before each step."""
        heard = _Heard()
        processors = LogitsProcessorList([heard])
        who(input_ids=ask.ids, attention_mask=ask.mask, logits_processor=processors, **ask.how)
        mine = slice(row * ask.beams, (row + 1) * ask.beams)
        return [{tuple(ids) for ids in step[mine].tolist()} for step in heard.steps]

    def _sums(self, ask: Ask, row: int, ids: Tensor, start: int) -> tuple[Tensor, float]:
        """Of sequences: (n,) sums of exact log-probabilities; the largest error of float32."""
        errors, sums = [], []
        for each in ids[:, None]:  # one at a time: logits of all positions are large
            exact = self._logits(self.double, ask, row, each)[0].log_softmax(-1)
            plain = self._logits(self.model, ask, row, each)[0].log_softmax(-1)
            new = each[0, start:]
            exact, plain = (x[-len(new) - 1 : -1] for x in (exact, plain))
            errors.append(float((exact - plain.double()).abs().max()))
            sums.append(exact.gather(1, new[:, None]).sum())
        return torch.stack(sums), max(errors)


class _Heard(LogitsProcessor):
    """Keeps the sequences of each step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(input_ids.clone())
        return scores


def _ends(model: Any) -> list[int]:
    """Ids that end a text: kept from being chosen until the continuation is long enough."""
    end = model.generation_config.eos_token_id
    return [] if end is None else [int(i) for i in (end if isinstance(end, list) else [end])]
