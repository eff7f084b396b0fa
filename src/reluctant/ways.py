"""Which way is the fastest for which call.

The limits stand in `ways.json`; `python -m reluctant.bench.crossings` measures them. A way is tried
if its limit is above zero, and gives up - early, and without a trace in the output - where it finds
more candidates or active neurons than the limit. So the way depends on this call alone: its shape,
and what it turns out to hold.
"""

import json
from bisect import bisect_left
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

NEVER_ABOVE = 2.0  # a limit that no share is above


class Limits(NamedTuple):
    """Shares, of all pairs of token and neuron, up to which a way is taken; 0: never.

    few: candidates of the few-token kernel; screen: candidates of many tokens' int8 product; many:
    active neurons, after a dense first product.
    """

    few: float
    screen: float
    many: float


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """What `ways.json` holds: what it was measured on, and limits by dtype, weights and tokens."""
    text = files("reluctant").joinpath("ways.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@lru_cache(maxsize=4096)
def limits(dtype: str, weights: int, tokens: int) -> Limits:
    """The limits for a layer whose W1 has so many weights, and for so many tokens.

    dtype: "float32" or "bfloat16". Those of the next larger measured size; beyond, of the largest.

    >>> limits("float32", 4096 * 16384, 1).few > 0
    True
    """
    measured = table()["limits"][dtype]
    by_tokens = measured[_next(measured, weights)]
    return Limits(*by_tokens[_next(by_tokens, tokens)])


def _next(entries: dict[str, Any], size: int) -> str:
    keys = sorted(entries, key=int)
    return keys[min(bisect_left([int(key) for key in keys], size), len(keys) - 1)]
