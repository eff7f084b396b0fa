"""How far a pre-activation may be from the sketch's estimate of it: the one place that says so.

The lemma and its proof stand on top of `reluctant.sketch`. Everything is float64. Written for LLVM,
where the same lines do for one neuron and for a vector of them.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def sketch_room(b: Any, norm: Any, radius: Any, loss: Any, own_norm: Any) -> Any:
    """N radius + loss ||k^||: what the sketch, the sums' rounding and integers for x lose.

    b: the builder; the rest: values of one kind, numbers or vectors.
    """
    return b.fadd(b.fmul(norm, radius), b.fmul(loss, own_norm))


def bias_room(b: Any, slack: Any, bias: Any) -> Any:
    """gamma_{d+8} |b|: what adding the bias may lose, wherever in the sum it is added."""
    return b.fmul(slack, magnitude(b, bias))


def magnitude(b: Any, value: Any) -> Any:
    """|value|, of numbers or vectors."""
    kind = value.type
    name = f"llvm.fabs.v{kind.count}f64" if isinstance(kind, ir.VectorType) else "llvm.fabs.f64"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(kind, [kind]), name)
    return b.call(function, [value])


@intrinsic
def room(_: Any, norm: Any, radius: Any, loss: Any, own_norm: Any, slack: Any, bias: Any) -> Any:
    """How far z may be from its estimate, for one neuron and token."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *sketch, slack_, bias_ = args
        return builder.fadd(sketch_room(builder, *sketch), bias_room(builder, slack_, bias_))

    return types.float64(*[types.float64] * 6), generate
