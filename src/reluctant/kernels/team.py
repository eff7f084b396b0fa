"""A kernel's work as numbered pieces, which the caller and whoever helps take in turns.

A piece is computed alike whoever does it, so the result does not depend on who did which.
"""

from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels import pool
from reluctant.kernels.vector import I8, I32, I64

# Work is in bytes read, about ten to a nanosecond and thread.
_SHARE = 1 << 19  # of a thread: below, dividing the work costs more than it saves
_WAKE = 1 << 20  # of all: below, a sleeping thread would come too late

Team = tuple[int, int, int]
ALONE: Team = (0, 1, 0)


def threads_for(work: int) -> int:
    """How many threads at most a kernel that reads `work` bytes should run on; 1: the caller's.

    Follows `torch.get_num_threads()`. The kernels' bits do not depend on it.
    """
    return min(torch.get_num_threads(), max(work // _SHARE, 1))


def team_for(work: int) -> Team:
    """Who computes a call that reads `work` bytes: what kernels and `spread` take."""
    threads = threads_for(work)
    return team_of(threads, wake=work >= _WAKE) if threads > 1 else ALONE


def team_of(threads: int, *, wake: bool = True) -> Team:
    """The caller and `threads` - 1 helpers, as far as there can be any.

    `pool.Pool.control`, how many threads at most, and whether those that sleep are woken.
    """
    return pool.pool().ask_for(threads - 1), threads, int(wake)


def _float_mode(builder: Any, instruction: str, room: Any) -> None:
    """Stores (`st`) or loads (`ld`) how this thread treats subnormals, and how it rounds."""
    if pool.X86:
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer()])
        name = f"llvm.x86.sse.{instruction}mxcsr"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [builder.bitcast(room, I8.as_pointer())])


def _post(control: int, function: int, data: int, helpers: int, wake: int) -> None:
    pool.post(control, function, data, helpers, helpers if wake else 0)


def _close(control: int) -> None:
    pool.close(control)
    pool.swap_at(control + 8 * pool.BUSY, 0)


def _alone(control: int, helpers: int) -> bool:
    return control == 0 or helpers < 1 or pool.swap_at(control + 8 * pool.BUSY, 1) != 0


def _take(b: Any, shared: Any, who: Any, call: Any) -> None:
    """Emits: piece after piece, until none is left. shared: `_layout`."""
    counter = b.gep(shared, [I32(0), I32(0), I32(0)])
    total = b.load(b.gep(shared, [I32(0), I32(1)]))
    arguments = b.load(b.gep(shared, [I32(0), I32(3)]))
    head, inside, after = (b.append_basic_block(name) for name in ("head", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    k = b.atomic_rmw("add", counter, I64(1), "acq_rel")
    b.cbranch(b.icmp_signed("<", k, total), inside, after)
    b.position_at_end(inside)
    call(b, k, who, arguments)
    b.branch(head)
    b.position_at_end(after)


def _layout(arguments: Any) -> Any:
    """What helpers need: the counter, on a cache line that nothing else is written to; the number
    of pieces; the caller's floating-point mode; the arguments."""
    return ir.LiteralStructType([ir.ArrayType(I64, 8), I64, I32, arguments])


def _member(module: Any, layout: Any, call: Any) -> Any:
    """The function `void(shared, who)` that a helper runs."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I64])
    member = ir.Function(module, kind, module.get_unique_name("member"))
    member.linkage = "internal"
    b = ir.IRBuilder(member.append_basic_block("entry"))
    shared, before = b.bitcast(member.args[0], layout.as_pointer()), b.alloca(I32)
    _float_mode(b, "st", before)
    _float_mode(b, "ld", b.gep(shared, [I32(0), I32(2)]))
    _take(b, shared, member.args[1], call)
    _float_mode(b, "ld", before)
    b.ret_void()
    return member


@intrinsic
def spread(typing_context: Any, piece: Any, team: Any, count: Any, args: Any) -> Any:
    """Runs `piece(k, who, *args)` once for each k below `count`, and returns when all are done.

    piece: a compiled function that gives nothing and raises nothing; who: which thread it is, 0
    the caller's, below the team's number of threads: for room of its own. team: `team_for`'s. args:
    a tuple. On x86 all compute in the caller's floating-point mode: `torch.set_flush_denormal` sets
    the calling thread's alone, and the bits must not depend on which thread a piece falls to.
    """
    piece_signature = typing_context.resolve_function_type(
        piece, (types.intp, types.intp, *args.types), {}
    )
    n = types.int64

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, team_value, count_value, args_value = values
        control, threads, wake = cgutils.unpack_tuple(builder, team_value, 3)
        compiled = piece.dispatcher.overloads[tuple(piece_signature.args)]
        context.add_linking_libs([compiled.library])

        def call(b: Any, k: Any, who: Any, arguments: Any) -> None:
            function = context.declare_function(b.module, compiled.fndesc)
            items = cgutils.unpack_tuple(b, arguments, len(args.types))
            context.call_conv.call_function(
                b, function, types.none, piece_signature.args, [k, who, *items]
            )

        layout = _layout(context.get_value_type(args))
        data = cgutils.alloca_once(builder, layout)  # on the stack: helpers inside are waited for
        member = _member(builder.module, layout, call)
        fewer = builder.icmp_signed("<", threads, count_value)
        helpers = builder.sub(builder.select(fewer, threads, count_value), I64(1))
        alone = context.compile_internal(builder, _alone, types.boolean(n, n), [control, helpers])
        with builder.if_else(builder.trunc(alone, ir.IntType(1))) as (by_itself, together):
            with by_itself, cgutils.for_range(builder, count_value) as loop:
                call(builder, loop.index, I64(0), args_value)
            with together:
                parts = [builder.gep(data, [I32(0), I32(k)]) for k in range(4)]
                builder.store(I64(0), builder.gep(parts[0], [I32(0), I32(0)]))
                builder.store(count_value, parts[1])
                _float_mode(builder, "st", parts[2])
                builder.store(args_value, parts[3])
                addresses = [builder.ptrtoint(member, I64), builder.ptrtoint(data, I64)]
                context.compile_internal(
                    builder, _post, types.void(n, n, n, n, n), [control, *addresses, helpers, wake]
                )
                _take(builder, data, I64(0), call)
                context.compile_internal(builder, _close, types.void(n), [control])
        return context.get_dummy_value()

    return types.void(piece, types.UniTuple(n, 3), n, args), generate
