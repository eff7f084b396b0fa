"""What a served layer can gain, known before any call: to ask computes and changes nothing."""

import torch

from reluctant import ways
from reluctant.engine import Engine
from reluctant.kernels.codes import NONE
from reluctant.sketch import SERVED

SPARSE = "sparse"
_TOKENS = (1, 2, 4, 8, 16, 64, 512, 4096)


def gain(engine: Engine) -> str:
    """ "sparse", or "dense only: " and why: what the engine can do for its layer as it is now."""
    why = _why_dense(engine)
    return f"dense only: {why}" if why else SPARSE


def _why_dense(engine: Engine) -> str:
    activation, keys = engine.activation, engine.neurons.keys
    if engine.way == "dense":
        why = "pinned to the dense way"
    elif activation.zero_below is None:
        why = f"{activation.name} has no range where it is exactly zero"
    elif activation.kernel == NONE:
        why = f"no kernel computes {activation.name}"
    elif keys.dtype not in SERVED:
        served = ", ".join(_name(each) for each in SERVED)
        why = f"{_name(keys.dtype)} weights (the sparse ways serve {served})"
    elif keys.is_inference():
        why = "its weights were made in inference mode, in which torch does not tell of changes"
    elif not engine.sparse and keys.dtype == torch.float16:
        why = "kernels cannot read its float16 weights as they lie, or what it computes overflows"
    elif not engine.sparse:
        why = "kernels cannot read its weights as they lie in memory"
    elif engine.way == "auto" and not _is_ever_tried(_name(keys.dtype), keys.numel()):
        why = f"{keys.numel()} weights a map are too few, by this processor's table"
    else:
        why = ""
    return why


def _is_ever_tried(dtype: str, weights: int) -> bool:
    return any(any(ways.limits(dtype, weights, tokens)) for tokens in _TOKENS)


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
