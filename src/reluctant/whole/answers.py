"""What a model answers, and whether it answers the same after something was done to it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.surgery.swap import head_seat_of
from reluctant.whole.inputs import WITH_TOKENS, Case

NEW_TOKENS = 24
AS_TRUE = 1.5  # times the untouched model's RMS error against float64
COSINE = {torch.float32: 0.999999, torch.bfloat16: 0.999}
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # RMS, where there is no float64 to ask


@dataclass(frozen=True)
class Check:
    """A statement about the answers, whether it holds, and the figures in it."""

    name: str
    holds: bool
    says: str
    figures: Mapping[str, float | None] = field(default_factory=dict)


@torch.inference_mode()
def forward(model: nn.Module, case: Case, ids: Tensor | None = None) -> Tensor:
    """The model's logits, or its last hidden state, or the first tensor it returns.

    ids: what the model generated; its logits are then those of every step that led there.
    """
    kwargs = dict(case.kwargs)
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) and WITH_TOKENS in kwargs:
        kwargs.setdefault("decoder_input_ids", kwargs[WITH_TOKENS] if ids is None else ids)
    elif ids is not None:
        kwargs = {WITH_TOKENS: ids, "attention_mask": torch.ones_like(ids)}
    return _first_tensor(model(*case.args, **kwargs))


def _first_tensor(found: Any) -> Tensor:
    if isinstance(found, Mapping):
        best = [name for name in ("logits", "last_hidden_state") if name in found]
        found = [found[name] for name in best or found]
    for each in _tensors(found):
        return each
    raise TypeError(f"expected a tensor among the outputs, got {type(found).__name__}")


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        yield from _tensors(list(found.values()))
    elif isinstance(found, tuple | list):
        for each in found:
            yield from _tensors(each)


@torch.inference_mode()
def generate(model: Any, case: Case, *, beams: int = 1, new: int = NEW_TOKENS) -> Tensor:
    """Token ids (sequences, positions): `new` tokens by greedy or beam search, without sampling."""
    from reluctant.generation.decoding import generate as certified  # noqa: PLC0415

    config = model.generation_config
    pad = config.pad_token_id
    if pad is None:
        end = config.eos_token_id
        pad = end[0] if isinstance(end, Sequence) else end
    # A served model as its users are told to ask it: its projection certified.
    ask = partial(certified, model) if head_seat_of(model) else model.generate
    ids: Tensor = ask(
        *case.args,
        **case.kwargs,
        do_sample=False,
        num_beams=beams,
        max_new_tokens=new,
        min_new_tokens=new,
        pad_token_id=0 if pad is None else pad,
    )
    return ids


def beams_of(model: Any) -> int:
    """How many beams the model's own generation settings ask for."""
    return int(getattr(getattr(model, "generation_config", None), "num_beams", None) or 1)


def same_tokens(name: str, before: Tensor, after: Tensor, logits: Tensor | None) -> Check:
    """Whether both generated the same.

    logits: (1, positions, vocabulary) of the untouched model for `before`, for greedy search: where
    it says that the two tokens at the first difference are equal but for rounding, both are right.
    """
    if before.shape == after.shape and bool((before == after).all()):
        count = before.shape[-1]
        return Check(name, True, f"{name}: the same tokens, {count} in all")
    says = f"{name}: other tokens"
    if logits is None or before.shape != after.shape or before.shape[0] != 1:
        return Check(name, False, says)
    at = int((before != after)[0].nonzero()[0])
    step = logits[0, at - 1 - (before.shape[-1] - logits.shape[1])].double()
    gap = float((step[before[0, at]] - step[after[0, at]]).abs())
    spread = float(torch.finfo(logits.dtype).eps * 8 * step.abs().max())
    says += f" from {at} on, where their logits are {gap:.1e} apart (rounding: {spread:.1e})"
    return Check(name, gap <= spread, says, {"gap": gap, "rounding": spread})


def same_embeddings(name: str, before: Tensor, after: Tensor, mask: Tensor) -> Check:
    """Whether the texts' embeddings, means over their tokens, point the same way."""
    old, new = _means(before, mask), _means(after, mask)
    cosine = F.cosine_similarity(old, new, dim=-1)
    least = float(cosine.min()) if cosine.isfinite().all() else math.nan
    wanted = COSINE.get(before.dtype, 0.999)
    says = f"{name}: cosine with those before at least {least:.9f}, over {wanted}"
    return Check(name, least > wanted, says, {"cosine": _finite(least)})


def _means(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over a text's tokens, where the output has one vector a token."""
    hidden = hidden.double()
    if hidden.dim() != 3 or hidden.shape[:2] != mask.shape:
        return hidden.flatten(1)
    weight = mask[..., None].double()
    return (hidden * weight).sum(1) / weight.sum(1)


def as_true(what: str, before: Tensor, after: Tensor, exact: Tensor | None) -> Check:
    """Whether what comes out is as near to float64 as it was.

    exact: the same by the model in float64; None if it does not run in it: then the two are
    compared with each other. Positions that were NaN or infinite have to be so still.
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        return Check(what, False, f"{what} of another shape or dtype")
    finite = before.isfinite()
    others = torch.isclose(before[~finite], after[~finite], equal_nan=True)
    if not others.all() or not after[finite].isfinite().all():
        return Check(what, False, f"{what}: NaN and infinities in other places")
    if not finite.any():
        return Check(what, True, f"{what}: no finite value, before and after")
    old, new = before[finite].double(), after[finite].double()
    apart, scale = _rms(old - new), _rms(old)
    figures: dict[str, float | None] = {"apart": apart, "scale": scale}
    reference = None if exact is None else exact[finite].double()
    if reference is None or not reference.isfinite().all():
        allowed = ROUNDING.get(before.dtype, 3e-2) * scale
        says = f"{what}: RMS difference {apart:.1e}, allowed {allowed:.1e}"
        return Check(what, apart <= allowed, says, figures)
    errors = _rms(old - reference), _rms(new - reference)
    allowed = max(AS_TRUE * errors[0], 4 * torch.finfo(before.dtype).eps * scale)
    says = (
        f"{what}: RMS error against float64 {errors[1]:.1e}, untouched {errors[0]:.1e} "
        f"(allowed: {AS_TRUE} times that); they are {scale:.1e} large"
    )
    figures |= {"error_before": errors[0], "error_after": errors[1]}
    return Check(what, errors[1] <= allowed, says, figures)


def in_float64(model: nn.Module, case: Case, run: Callable[[nn.Module, Case], Tensor]) -> Any:
    """What `run` gives for the model in float64; the model stays in it. None if it cannot run."""
    with suppress(Exception):  # models that pin a dtype somewhere: there is no telling how
        model.double()
        double = Case(**(vars(case) | {"args": _double(case.args), "kwargs": _double(case.kwargs)}))
        return run(model, double)
    return None


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _double(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_double(each) for each in value)
    return value


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
