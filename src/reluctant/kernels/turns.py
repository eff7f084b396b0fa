"""Work that threads take in turns: whoever is free does the next piece.

A piece is computed alike whoever does it, so the result does not depend on who did which. On a
shared machine a thread may be kept waiting for long; the others then do without it.
"""

import ctypes
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.vector import I64

STRIDE = 8  # counters are a cache line apart: threads do not wait for each other's
_PATIENCE = 2000  # looks at a counter before the thread offers its core to others


def _address_of_yield() -> int:
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, TypeError, AttributeError):  # no POSIX
        return 0


YIELD = _address_of_yield()


def _place(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [builder.mul(args[1], I64(STRIDE))])


@intrinsic
def add_one(_: Any, counters: Any, k: Any) -> Any:
    """Raises counter k by one, atomically; gives what it was. What was written before is seen by
    whoever reads the new number.

    counters: int64, STRIDE entries for each.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _place(context, builder, signature, args)
        return builder.atomic_rmw("add", at, I64(1), "acq_rel")

    return types.int64(counters, types.intp), generate


@intrinsic
def look(_: Any, counters: Any, k: Any) -> Any:
    """Counter k as it is now, with all that was written before it was raised."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = _place(context, builder, signature, args)
        return builder.load_atomic(at, "acquire", 8)

    return types.int64(counters, types.intp), generate


@intrinsic
def _give_way(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        with builder.if_then(cgutils.is_not_null(builder, args[0])):
            builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@kernel()
def wait_for(counters: Any, k: int, number: int, give_way: int) -> None:
    """Returns when counter k has reached `number`. give_way: `YIELD`, handed in because an address
    must not be compiled into a cached function."""
    looks = 0
    while look(counters, k) < number:
        looks += 1
        if looks > _PATIENCE:
            _give_way(give_way)
