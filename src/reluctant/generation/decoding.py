"""Hugging Face's own decoding loops, with a projection of which as little is read as will do.

The loop is transformers': stopping, caches, streamers, padding and all. Ours are two places in it.
The model's output projection hands over the hidden states it is called with instead of computing
logits; and in the place of the logits processors stands one that decides the next token from them
(`choose`), the processors included, and gives the loop scores in which that token stands alone. A
sampling loop draws its random numbers all the same, as many and in the same order as without us.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation import logits_process as processors
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GENERATION_MODES_MAPPING

from reluctant.announce import announced
from reluctant.errors import ReluctantError
from reluctant.generation.choose import Step, decided, greedy, sample
from reluctant.generation.finish import Finish, same_bits, seen, state_of
from reluctant.linear import MAX_ROWS, serves
from reluctant.surgery.linears import Capture, HeadSeat, captured, head_of
from reluctant.surgery.modes import is_watched
from reluctant.surgery.swap import head_seat_of

_log = logging.getLogger("reluctant")

# A score grows with its own logit and depends on no other. Exactly these: a subclass may do more.
# The first compute it, the others leave it as it is or set it.
_BY_VALUE = (
    processors.TemperatureLogitsWarper,
    processors.RepetitionPenaltyLogitsProcessor,
)
_BY_LOGIT = (
    *_BY_VALUE,
    processors.MinLengthLogitsProcessor,
    processors.MinNewTokensLengthLogitsProcessor,
    processors.NoRepeatNGramLogitsProcessor,
    processors.SuppressTokensAtBeginLogitsProcessor,
    processors.SuppressTokensLogitsProcessor,
    processors.ForcedBOSTokenLogitsProcessor,
    processors.ForcedEOSTokenLogitsProcessor,
)
_MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
_BEAMS = (GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)


@announced
def generate(model: nn.Module, inputs: Any = None, **kwargs: Any) -> Any:
    """`model.generate(inputs, **kwargs)`: the same tokens, with the output projection certified.

    model: a transformers model that `optimize` has served. Greedy decoding and sampling decide each
    token from bounds of all logits and a few exact ones; beam search takes all logits from one
    reading of the projection. What cannot be proved for these arguments goes through the model's
    own `generate`; the report of `optimize` has the reason. The same tokens are promised in
    float32; in 16 bits logits are rounded so coarsely that another order of addition may show.

    Raises what `model.generate` raises, and ReluctantError for a model that has none.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> size = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
        >>> config = LlamaConfig(vocab_size=8192, num_attention_heads=2, **size)
        >>> model, prompt = LlamaForCausalLM(config).eval(), torch.tensor([[5, 6, 7]])
        >>> before = model.generate(prompt, max_new_tokens=4, do_sample=False)
        >>> import reluctant
        >>> report = reluctant.optimize(model)
        >>> after = reluctant.generate(model, prompt, max_new_tokens=4, do_sample=False)
        >>> bool((before == after).all()), len(report.head.decoding.rows)
        (True, 3)
    """
    ask = getattr(model, "generate", None)
    if not callable(ask):
        raise ReluctantError(f"expected a model with generate; got {type(model).__name__}")
    others = {"custom_generate", "assistant_model", "negative_prompt_ids"}
    given = sorted(name for name in others if kwargs.get(name) is not None)
    if given:
        _say(model, f"{', '.join(given)} is left to transformers")
        return ask(inputs, **kwargs)
    config, _ = model._prepare_generation_config(  # type: ignore[operator]
        kwargs.get("generation_config"),
        **{name: value for name, value in kwargs.items() if name != "generation_config"},
    )
    mode = config.get_generation_mode(None)
    if mode not in (*_MODES, *_BEAMS):
        _say(model, f"{mode.value} is left to transformers")
        return ask(inputs, **kwargs)
    # transformers does not hand a streamer on to a decoding method from outside.
    method = partial(_decode, streamer=kwargs.get("streamer"))
    return ask(inputs, custom_generate=method, **kwargs)


def decoding(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any,
    generation_config: Any, **model_kwargs: Any,
) -> Any:  # fmt: skip
    """For `model.generate(..., custom_generate=reluctant.decoding)`: what `generate` does.

    Takes and gives what transformers' decoding methods do. A streamer does not reach it: that is
    what `generate` is for.
    """
    return _decode(
        model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
    )


def _decode(
    model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any,
    generation_config: Any, synced_gpus: bool = False, streamer: Any = None, **model_kwargs: Any,
) -> Any:  # fmt: skip
    mode = generation_config.get_generation_mode(None)
    if mode not in (*_MODES, *_BEAMS):
        raise ReluctantError(
            f"expected greedy decoding, sampling or beams; got {mode.value}: leave custom_generate "
            "out, or call reluctant.generate, which leaves it to transformers"
        )
    method = getattr(type(model), GENERATION_MODES_MAPPING[mode])
    own = partial(
        method,
        model,
        input_ids,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        synced_gpus=synced_gpus,
        **({} if streamer is None else {"streamer": streamer}),
        **model_kwargs,
    )
    head, seat = head_of(model), head_seat_of(model)
    if mode in _BEAMS:  # scores of beams are compared, and so need the normaliser of all logits
        if seat is not None:
            seat.decoding.beams += 1
        return own(logits_processor=logits_processor)
    why = _why_not(head, seat, len(input_ids), logits_processor, generation_config)
    why = why or _who_looks(model, head, generation_config, model_kwargs)
    if why:
        _say(model, why)
        return own(logits_processor=logits_processor)
    assert isinstance(head, nn.Linear)
    assert seat is not None
    with captured(head) as capture:
        chooser = _Chooser(model, head, seat, capture, logits_processor, mode is _MODES[1])
        return own(logits_processor=chooser)


def _why_not(head: Any, seat: Any, sequences: int, given: Any, config: Any) -> str:
    """Why the projection cannot be certified for this call; "" if it can."""
    weight = None if head is None else head._parameters.get("weight")
    if seat is None:
        why = "the output projection is not served"
    elif type(weight) is not nn.Parameter or not serves(
        weight.data[:1], weight.data, head._parameters["bias"]
    ):
        why = "the output projection's weight is no plain one that kernels read"
    elif sequences > MAX_ROWS:
        why = f"more than {MAX_ROWS} sequences at once"
    elif config.return_dict_in_generate and (config.output_scores or config.output_logits):
        why = "all scores are asked for"
    elif is_watched() or torch.is_autocast_enabled("cpu"):
        why = "a mode of torch watches or casts operations"
    elif other := _other_than_known(given, sampled=bool(config.do_sample)):
        why = f"{other} looks at more than one logit at a time"
    else:
        why = ""
    return why


def _who_looks(model: Any, head: Any, config: Any, model_kwargs: dict[str, Any]) -> str:
    """Why logits have to be there after each forward; "" if nobody but the loop looks at them."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    if any(
        "forward" in each.__dict__ or any(each.__dict__[h] for h in hooks) for each in (model, head)
    ):
        why = "a hook or a forward of its own is on the model or its output projection"
    elif config.prefill_chunk_size is not None:
        why = "the prompt is read in chunks"
    elif model._compiled_call_impl is not None or model._valid_auto_compile_criteria(
        model_kwargs, config
    ):
        why = "its forward is compiled"
    else:
        why = ""
    return why


def _other_than_known(given: Any, *, sampled: bool) -> str:
    """The name of the first processor that is none of those that can be applied to bounds."""
    late = _late(given)
    for each in list(given)[: len(given) - len(late)]:
        if type(each) not in _BY_LOGIT:
            return type(each).__name__
    for each in late:
        plain = each.filter_value == -torch.inf and each.min_tokens_to_keep == 1
        if not (sampled and plain):
            return type(each).__name__
    return ""


def _late(given: Any) -> list[Any]:
    """The filters that sampling ends with: top-k, top-p, or the two in this order."""
    kinds = [type(each) for each in given]
    for end in ([processors.TopKLogitsWarper, processors.TopPLogitsWarper],
                [processors.TopKLogitsWarper], [processors.TopPLogitsWarper]):  # fmt: skip
        if kinds[-len(end) :] == end:
            return list(given)[-len(end) :]
    return []


def _say(model: nn.Module, why: str) -> None:
    seat = head_seat_of(model)
    if seat is not None:
        seat.decoding.reasons[why] += 1
    _log.info("reluctant.generate: %s", why)


@dataclass(frozen=True)
class _Scores:
    """What the model's forward and the logits processors make of the projection's output.

    shape: of the logits.
    """

    model: nn.Module
    finish: Finish
    dtype: torch.dtype
    processors: Sequence[Any]
    input_ids: Any
    shape: tuple[int, int]

    def of_bounds(self, low: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        sides = ((low, -1), (up, 1))
        both = [self.finish.bound(self.model, b.to(self.dtype), side).float() for b, side in sides]
        if not self.processors:
            return both[0], both[1]
        if any(isinstance(getattr(p, "prompt_ignore_length", 0), Tensor) for p in self.processors):
            low, up = (self._processed(self.input_ids, scores) for scores in both)
        else:  # in one call: some take a while to find their ids
            low, up = self._processed(self.input_ids.repeat(2, 1), torch.cat(both)).chunk(2)
        return low, up

    def _processed(self, ids: Tensor, scores: Tensor) -> Tensor:
        for each in self.processors:
            scores = each(ids, scores)
        return scores

    def of_some(self, m: int, ids: Tensor, logits: Tensor, low: Tensor, up: Tensor) -> Tensor:
        """As if these ids were the whole vocabulary. Where the bounds are one, they are the score:
        a processor has set it."""
        logits = self.finish.some(self.model, logits.to(self.dtype), m, ids, self.shape)
        scores = logits.float().expand(len(self.input_ids), -1)  # processors know whose row it is
        for each in self.processors:
            if type(each) in _BY_VALUE:
                scores = each(self._among(ids), scores)
        return torch.where(low == up, up, scores[m])

    def _among(self, ids: Tensor) -> Tensor:
        """The ids so far as places in `ids`, which ascend; beyond the last for those not there:
        processors leave out what is not in the vocabulary."""
        place = torch.searchsorted(ids, self.input_ids)
        there = ids[place.clamp(max=len(ids) - 1)] == self.input_ids
        return torch.where(there, place, len(ids))


class _Chooser(processors.LogitsProcessorList):
    """Stands in the place of the logits processors of one call of generate."""

    def __init__(
        self, model: Any, head: nn.Linear, seat: HeadSeat, capture: Capture, given: Any,
        sampled: bool,
    ) -> None:  # fmt: skip
        super().__init__(given)
        late = _late(given)
        self._early = list(given)[: len(given) - len(late)]
        self._top_k = next((e.top_k for e in late if hasattr(e, "top_k")), 0)
        self._top_p = next((e.top_p for e in late if hasattr(e, "top_p")), 1.0)
        self._model, self._head, self._seat, self._capture = model, head, seat, capture
        self._sampled = sampled
        self._state, (finish, then) = state_of(model), seat.finish
        self._finish: Finish | None = finish if then == self._state else None
        capture.pretends = self._finish is not None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """scores: (m, vocabulary): none, as long as the capture pretends."""
        capture = self._capture
        x, calls, pretended = capture.x, capture.calls, capture.pretends
        capture.x, capture.calls = None, 0
        if not pretended:
            if capture.y is not None and calls == 1:
                self._look(capture.y, scores)
            return super().__call__(input_ids, scores, **kwargs)
        if x is None or calls != 1:
            raise ReluctantError(
                f"expected one call of the output projection a step; got {calls}: call "
                "model.generate without reluctant.decoding, and please report this"
            )
        x, finish = x.contiguous(), self._finish
        assert finish is not None
        with torch.inference_mode(False):
            chosen = self._choose(x.clone() if x.is_inference() else x, input_ids, finish)
        if chosen is None:
            self._seat.decoding.all += len(x)
            logits = finish.logits(self._model, self._seat.projection_of(self._head).all(x))
            return super().__call__(input_ids, logits.float(), **kwargs)
        alone = torch.full_like(scores, -torch.inf)
        alone[torch.arange(len(chosen)), torch.tensor(chosen)] = 0.0
        return alone

    def _look(self, output: Tensor, scores: Tensor) -> None:
        """From a step whose logits were computed: what the forward makes of the projection's
        output. From then on it need not be computed."""
        found = seen(self._model, output, scores.to(output.dtype))
        if found is not None and same_bits(scores.to(output.dtype).float(), scores):
            self._seat.finish, self._finish = (found, self._state), found
            self._capture.pretends = True
        else:
            _say(self._model, "its forward does more to logits than is known")

    def _choose(self, x: Tensor, input_ids: Tensor, finish: Finish) -> list[int] | None:
        projection = self._seat.projection_of(self._head)
        scores: _Scores | None = None
        if finish.kind != "none" or x.dtype is not torch.float32 or self._early:
            shape = len(x), self._head.out_features
            scores = _Scores(self._model, finish, x.dtype, self._early, input_ids, shape)
        decide = self._drawn if self._sampled else greedy
        say = partial(_say, self._model)
        return decided(lambda: projection, x, scores, self._seat.decoding, decide, say)

    def _drawn(self, step: Step) -> list[int]:
        state = torch.get_rng_state()
        waits = torch.empty(step.low.shape, dtype=torch.float32).exponential_()
        torch.set_rng_state(state)  # the loop draws them itself
        return sample(step, waits.double().log_(), self._top_k, self._top_p)
