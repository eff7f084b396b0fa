"""Several threads for a kernel, from the OpenMP pool that torch itself computes on.

Numba has pools of its own, but a second pool is a bad neighbour: OpenMP's threads spin for a while
after each parallel region, so torch's and Numba's workers keep each other off the cores whenever a
kernel follows an operation of torch, as it does in every model. It also brings rules of its own:
`workqueue` dies of concurrent calls, and starting `omp` resets torch's number of threads. Torch's
pool serves concurrent callers, and a region costs about a microsecond.
"""

import ctypes
import os
import platform
import threading
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels.vector import I8, I32, I64

_SMALL = 1 << 19  # bytes read: below, a parallel region costs more than it saves
_SMALL_ELSEWHERE = 1 << 21  # on a thread that may have to start a pool of its own

_POINTER = I8.as_pointer()
_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _addresses() -> tuple[int, int, int]:
    """Of GOMP_parallel, omp_get_thread_num, omp_get_num_threads; zeros if there is no OpenMP."""
    try:
        program = ctypes.CDLL(None)  # importing torch has made its OpenMP's symbols global
        found = (program.GOMP_parallel, program.omp_get_thread_num, program.omp_get_num_threads)
    except (OSError, TypeError, AttributeError):  # no OpenMP, or one of another kind
        return 0, 0, 0
    fork, number, size = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in found)
    return fork, number, size


POOL = _addresses()
_state = {"forked": False}


def _after_fork_in_child() -> None:
    _state["forked"] = True  # the pool's threads are not in the child: OpenMP would wait forever


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def threads_for(work: int) -> int:
    """How many threads a kernel that reads `work` bytes should run on now; 1: the caller's only.

    Follows `torch.get_num_threads()`. The kernels' bits do not depend on it.
    """
    if work < _SMALL or POOL[0] == 0 or _state["forked"]:
        return 1
    if work < _SMALL_ELSEWHERE and threading.current_thread() is not threading.main_thread():
        return 1
    return torch.get_num_threads()


def _float_mode(builder: Any, instruction: str, room: Any) -> None:
    """Stores (`st`) or loads (`ld`) how this thread treats subnormals, and how it rounds."""
    if _X86:
        kind = ir.FunctionType(ir.VoidType(), [_POINTER])
        name = f"llvm.x86.sse.{instruction}mxcsr"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [builder.bitcast(room, _POINTER)])


@intrinsic
def spread(typing_context: Any, worker: Any, pool: Any, threads: Any, args: Any) -> Any:
    """Runs `worker(thread, threads, *args)` once on each of `threads` threads, and waits for all.

    worker: a compiled function that gives nothing and raises nothing; pool: `POOL`; args: a tuple.
    With one thread it is a plain call. On x86 all compute in the caller's floating-point mode:
    `torch.set_flush_denormal` sets the calling thread's alone, and the bits must not depend on
    which thread a neuron falls to.
    """
    worker_signature = typing_context.resolve_function_type(
        worker, (types.intp, types.intp, *args.types), {}
    )

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, pool_value, threads_value, args_value = values
        fork, number, size = cgutils.unpack_tuple(builder, pool_value, 3)
        compiled = worker.dispatcher.overloads[tuple(worker_signature.args)]
        context.add_linking_libs([compiled.library])

        def call(b: Any, thread: Any, count: Any, arguments: Any) -> None:
            function = context.declare_function(b.module, compiled.fndesc)
            items = cgutils.unpack_tuple(b, arguments, len(args.types))
            context.call_conv.call_function(
                b, function, types.none, worker_signature.args, [thread, count, *items]
            )

        # What a member of the team needs, on the caller's stack: it waits until all are done.
        layout = ir.LiteralStructType([I64, I64, context.get_value_type(args), I32])
        module, zero = builder.module, I32(0)
        member = ir.Function(
            module, ir.FunctionType(ir.VoidType(), [_POINTER]), module.get_unique_name("member")
        )
        member.linkage = "internal"
        inside = ir.IRBuilder(member.append_basic_block("entry"))
        shared = inside.bitcast(member.args[0], layout.as_pointer())
        items = [inside.load(inside.gep(shared, [zero, I32(k)])) for k in range(3)]
        before = inside.alloca(I32)
        _float_mode(inside, "st", before)
        _float_mode(inside, "ld", inside.gep(shared, [zero, I32(3)]))
        # A team may be smaller than asked for (OMP_DYNAMIC, OMP_THREAD_LIMIT): its members ask.
        kind = ir.FunctionType(I32, []).as_pointer()
        own, all_of_them = (inside.call(inside.inttoptr(f, kind), []) for f in items[:2])
        call(inside, inside.sext(own, I64), inside.sext(all_of_them, I64), items[2])
        _float_mode(inside, "ld", before)
        inside.ret_void()

        with builder.if_else(builder.icmp_signed("<=", threads_value, I64(1))) as (alone, team):
            with alone:
                call(builder, I64(0), I64(1), args_value)
            with team:
                data = cgutils.alloca_once(builder, layout)
                for k, value in enumerate((number, size, args_value)):
                    builder.store(value, builder.gep(data, [zero, I32(k)]))
                _float_mode(builder, "st", builder.gep(data, [zero, I32(3)]))
                kind = ir.FunctionType(ir.VoidType(), [member.type, _POINTER, I32, I32])
                parallel = builder.inttoptr(fork, kind.as_pointer())
                count = builder.trunc(threads_value, I32)
                builder.call(parallel, [member, builder.bitcast(data, _POINTER), count, zero])
        return context.get_dummy_value()

    addresses = types.UniTuple(types.int64, 3)
    return types.void(worker, addresses, types.int64, args), generate
