"""Which way is the fastest for which call.

The limits stand in a table (`tables`). A way is tried if its limit is above zero, and gives up -
early, and without a trace in the output - where it finds more candidates or active neurons than the
limit. So the way depends on this call alone, its shape and what it turns out to hold, and on the
table: that of this processor's capability, or this machine's own. The table is chosen once in a
process, when it is first needed.
"""

import warnings
from bisect import bisect_left
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import torch

from reluctant import tables
from reluctant.errors import ReluctantWarning
from reluctant.kernels import integer

LEAST_SCREENED = 256  # tokens of a training step for which a sketch is made
NEVER_ABOVE = 2.0  # a limit that no share is above; in no table
_times_said = count()


class Limits(NamedTuple):
    """Shares, of all pairs of token and neuron, up to which a way is taken; 0: never.

    few: candidates of the few-token kernel; screen: candidates of many tokens' integer product;
    many: active neurons, after a dense first product.
    """

    few: float
    screen: float
    many: float


@lru_cache(maxsize=1)
def in_use() -> tables.Found:
    """The table that this process goes by, from its first use on."""
    return tables.find(integer.CAPABILITY, torch.get_num_threads())


def forget() -> None:
    """Choose the table anew when it is next needed: for a process that has written one."""
    in_use.cache_clear()
    limits.cache_clear()
    training_limits.cache_clear()


@lru_cache(maxsize=4096)
def limits(dtype: str, weights: int, tokens: int) -> Limits:
    """The limits for a layer whose W1 has so many weights, and for so many tokens.

    dtype: "float32", "bfloat16" or "float16", which is as many bytes. Those of the next larger
    measured size; beyond, of the largest.

    >>> limits("float32", 4096 * 16384, 1).few > 0
    True
    """
    table, _, problem = in_use()
    if problem is not None and next(_times_said) == 0:
        warnings.warn(problem, ReluctantWarning, stacklevel=2)
    return look_up(table, dtype, weights, tokens)


def look_up(table: tables.Table, dtype: str, weights: int, tokens: int) -> Limits:
    """`limits` by a table."""
    measured = table["limits"]["float32" if dtype == "float32" else "bfloat16"]
    by_tokens = measured[_next(measured, weights)]
    return Limits(*by_tokens[_next(by_tokens, tokens)])


def _next(entries: dict[str, Any], size: int) -> str:
    keys = sorted(entries, key=int)
    return keys[min(bisect_left([int(key) for key in keys], size), len(keys) - 1)]


@lru_cache(maxsize=4096)
def training_limits(dtype: str, weights: int, tokens: int) -> tuple[float, float]:
    """The shares of active neurons up to which a training step goes over these only, and up to
    which it finds them by a sketch; 0: never.

    dtype: "float32" or "bfloat16". As measured for the next larger number of tokens; beyond, for
    the largest. A sketch made for one call pays up to a third of the share up to which one pays
    that is there.
    """
    measured = in_use().table["training"].get(dtype)
    if measured is None or tokens == 0:
        return 0.0, 0.0
    limit = float(measured[_next(measured, tokens)])
    screens = dtype == "float32" and tokens >= LEAST_SCREENED
    return limit, min(limits(dtype, weights, tokens).screen / 3, limit) if screens else 0.0
