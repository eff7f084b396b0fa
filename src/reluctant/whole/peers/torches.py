"""torch eager, as transformers computes, and ours on the same weights."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

import reluctant
from reluctant.generation.decoding import generate
from reluctant.surgery import Report
from reluctant.whole.peers.peer import Peer, Work
from reluctant.whole.twin import twin


def written(ask: Any, work: Work, prompt: Tensor) -> list[int]:
    """New tokens of `model.generate` or ours."""
    model = work.model
    pad = model.generation_config.pad_token_id
    ids: Tensor = ask(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        num_beams=work.beams,
        max_new_tokens=work.new,
        min_new_tokens=work.new,
        pad_token_id=0 if pad is None else pad,
    )
    start = 1 if model.config.is_encoder_decoder else prompt.shape[1]
    return [int(each) for each in ids[0, start:]]


def eager(work: Work, dtype: torch.dtype = torch.float32) -> Peer:
    """The model as it is."""
    model = _in(work, dtype)
    return Peer(partial(written, model.generate, work), _held(model))


def ours(work: Work, dtype: torch.dtype = torch.float32, **options: Any) -> Peer:
    """A served twin, asked by `reluctant.generate`. options: of `reluctant.optimize`."""
    model = twin(work.model) if dtype is torch.float32 else _in(work, dtype)
    report: Report = reluctant.optimize(model, **options)
    return Peer(
        partial(written, partial(generate, model), work), _held(model), lambda: report.memory_bytes
    )


def _in(work: Work, dtype: torch.dtype) -> Any:
    return work.model if dtype is torch.float32 else copy.deepcopy(work.model).to(dtype)


def _held(model: Any) -> int:
    return sum(weight.nbytes for weight in model.parameters())
