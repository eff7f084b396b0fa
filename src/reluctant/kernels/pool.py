"""Helper threads for the kernels: whoever is awake helps, and nobody is waited for in vain.

A parallel region of OpenMP waits until every thread of its team has been scheduled. On a machine
with something else to do that is a tick of the scheduler, milliseconds, for a call that takes a
tenth of one. So the kernels have threads of their own, which work like this:

- The caller posts a job and begins with it at once, piece by piece. It never waits for a helper
  that has not begun.
- Helpers that are awake take pieces as well. When no piece is left the caller closes the job, and
  waits only for helpers that are in it: each of them has a piece in hand.
- A helper looks out for the next job for some microseconds, then sleeps on a semaphore. A large job
  wakes as many as it has pieces for; a small one is helped by those that are awake anyway.
- torch's own OpenMP threads spin for a millisecond after each operation, on the cores that helpers
  are on: behind an attention a call took twice as long. GNU's runtime keeps that to microseconds
  where it has more threads than there are cores; a team of two that never gets any work makes it
  so. (Eager torch was as fast with it as without.)
- One job at a time: a second caller (another thread of the program) computes alone, as do all where
  the system is not Linux.

The threads are started when a job could first use them, and again in a forked child. They hold no
Python state, so the interpreter's shutdown ends them with the process.
"""

import ctypes
import os
import platform
import sys
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from reluctant.kernels.compile import kernel
from reluctant.kernels.vector import I8, I32, I64

# The fields of the control block, int64, a cache line (8 of them) apart where threads meet.
GATE = 0  # OPEN while a job may be entered, plus the number of helpers inside
JOB = 8  # address of the function `void(data, helper)`, address of its data, helpers admitted
ASLEEP = 16  # how many helpers sleep, or are about to
BUSY = 24  # 1 while some caller has a job
FUNCTIONS = 32  # addresses of sem_wait, sem_post, sched_yield, GOMP_parallel (0: there is none)
COUNTS = 40  # jobs posted, helpers woken, helpers that entered: for tests
SEMAPHORE = 48  # 32 bytes of a sem_t, with room to spare
_SIZE = 64

X86 = platform.machine().lower() in ("x86_64", "amd64")

OPEN = 1 << 32
_LOOKS = 3000  # of a helper, before it sleeps: some 30 us
_PATIENCE = 2000  # looks of a caller at the helpers inside, before it offers its core to them


def _order(kind: str) -> Any:
    """An intrinsic `f(address, value)`: the int64 there, before; 'add', 'xchg' or a 'load'."""

    @intrinsic
    def atomic(_: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], I64.as_pointer())
            if kind == "load":
                return builder.load_atomic(at, "acquire", 8)
            return builder.atomic_rmw(kind, at, args[1], "seq_cst")

        return types.int64(types.int64, types.int64), generate

    return atomic


add_at, swap_at, _load_at = _order("add"), _order("xchg"), _order("load")


@kernel()
def load_at(address: int) -> int:
    """The int64 at an address, with all that was written before it was."""
    found: int = _load_at(address, 0)
    return found


@intrinsic
def pause(_: Any) -> Any:
    """Tells the core that this is a loop that waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if X86:
            kind, name = ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call_at(_: Any, function: Any, argument: Any) -> Any:
    """Calls a C function `int(void *)` at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(I32, [I8.as_pointer()])
        function = builder.inttoptr(args[0], kind.as_pointer())
        return builder.call(function, [builder.inttoptr(args[1], I8.as_pointer())])

    return types.int32(types.int64, types.int64), generate


@intrinsic
def _two_at(_: Any, region: Any, function: Any) -> Any:
    """Has OpenMP run a C function `f(void *)` by two threads, `region` being GOMP_parallel."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, pointer, I32, I32])
        region = builder.inttoptr(args[0], kind.as_pointer())
        function = builder.inttoptr(args[1], pointer)
        builder.call(region, [function, ir.Constant(pointer, None), I32(2), I32(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _enter(_: Any, function: Any, data: Any, helper: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I64])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], I8.as_pointer()), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@kernel()
def _serve(control: int, helper: int) -> None:
    """A helper's life."""
    last, looks = 0, 0
    region = load_at(control + 8 * (FUNCTIONS + 3))
    if helper == 1 and region != 0:  # its team stays as long as it does
        _two_at(region, load_at(control + 8 * (FUNCTIONS + 2)))
    while True:
        job = load_at(control + 8 * COUNTS)
        # Each job once: a helper that has seen that no piece is left stays out.
        if job != last and load_at(control + 8 * GATE) & OPEN:
            if add_at(control + 8 * GATE, 1) & OPEN and helper <= load_at(control + 8 * (JOB + 2)):
                add_at(control + 8 * (COUNTS + 2), 1)
                _enter(load_at(control + 8 * JOB), load_at(control + 8 * (JOB + 1)), helper)
            add_at(control + 8 * GATE, -1)
            last, looks = job, 0
        looks += 1
        pause()
        if looks > _LOOKS:
            add_at(control + 8 * ASLEEP, 1)
            call_at(load_at(control + 8 * FUNCTIONS), control + 8 * SEMAPHORE)
            looks = 0


@intrinsic
def _start_of(typing_context: Any, serve: Any) -> Any:
    """The address of a C function `void *(void *)` that runs `serve(control, helper)`.

    Its argument is the address of these two int64.
    """
    arguments = (types.int64, types.int64)
    typing_context.resolve_function_type(serve, arguments, {})

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        compiled = serve.dispatcher.overloads[arguments]
        context.add_linking_libs([compiled.library])
        module, pointer = builder.module, I8.as_pointer()
        kind = ir.FunctionType(pointer, [pointer])
        start = ir.Function(module, kind, module.get_unique_name("helper"))
        start.linkage = "internal"
        inside = ir.IRBuilder(start.append_basic_block("entry"))
        numbers = inside.bitcast(start.args[0], I64.as_pointer())
        told = [inside.load(inside.gep(numbers, [I64(k)])) for k in range(2)]
        function = context.declare_function(module, compiled.fndesc)
        context.call_conv.call_function(inside, function, types.none, arguments, told)
        inside.ret(ir.Constant(pointer, None))
        return builder.ptrtoint(start, I64)

    return types.int64(serve), generate


@kernel()
def _start_address() -> int:
    address: int = _start_of(_serve)
    return address


@kernel()
def post(control: int, function: int, data: int, helpers: int, wake: int) -> None:
    """Opens a job for helpers 1 .. `helpers`, and wakes up to `wake` that sleep."""
    swap_at(control + 8 * JOB, function)
    swap_at(control + 8 * (JOB + 1), data)
    swap_at(control + 8 * (JOB + 2), helpers)
    add_at(control + 8 * COUNTS, 1)
    add_at(control + 8 * GATE, OPEN)
    for _ in range(wake):
        if add_at(control + 8 * ASLEEP, -1) <= 0:
            add_at(control + 8 * ASLEEP, 1)
            break
        add_at(control + 8 * (COUNTS + 1), 1)
        call_at(load_at(control + 8 * (FUNCTIONS + 1)), control + 8 * SEMAPHORE)


@kernel()
def close(control: int) -> None:
    """Closes the job, and returns when no helper is inside."""
    inside = add_at(control + 8 * GATE, -OPEN) - OPEN
    looks = 0
    while inside & (OPEN - 1):
        looks += 1
        pause()
        if looks > _PATIENCE:
            call_at(load_at(control + 8 * (FUNCTIONS + 2)), 0)
        inside = load_at(control + 8 * GATE)


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _openmp() -> int:
    """The address of GOMP_parallel in the OpenMP runtime that torch has loaded; 0 without one."""
    try:
        return _address(ctypes.CDLL("libgomp.so.1", os.RTLD_NOW | os.RTLD_NOLOAD), "GOMP_parallel")
    except (OSError, AttributeError):
        return 0


class Pool:
    """The process's helpers, started when they are first asked for.

    control: the address that kernels take, 0 as long as there is none.
    """

    def __init__(self) -> None:
        self.control, self.helpers = 0, 0
        self._block: Any = None
        self._numbers: list[Any] = []  # what the threads are told: has to outlive them
        self._lock = threading.Lock()

    def ask_for(self, helpers: int) -> int:
        """Makes sure that there are so many helpers, if there can be any; gives `control`."""
        if helpers > self.helpers and sys.platform == "linux":
            with self._lock:
                self._start(helpers)
        return self.control

    def _start(self, helpers: int) -> None:
        program = ctypes.CDLL(None)
        if self._block is None:
            block = np.zeros(_SIZE + 8, np.int64)
            block = block[-block.ctypes.data % 64 // 8 :][:_SIZE]  # on a cache line of its own
            for k, name in enumerate(("sem_wait", "sem_post", "sched_yield")):
                block[FUNCTIONS + k] = _address(program, name)
            block[FUNCTIONS + 3] = _openmp()
            program.sem_init(ctypes.c_void_p(block[SEMAPHORE:].ctypes.data), 0, 0)
            self._block = block
        while self.helpers < helpers and self._spawn(program):
            self.helpers += 1
        if self.helpers:
            self.control = self._block.ctypes.data

    def _spawn(self, program: Any) -> bool:
        """Starts one more; False if there are no more threads to be had."""
        numbers = np.array([self._block.ctypes.data, self.helpers + 1], np.int64)
        thread, start = ctypes.c_ulong(), ctypes.c_void_p(_start_address())
        told = ctypes.c_void_p(numbers.ctypes.data)
        if program.pthread_create(ctypes.byref(thread), None, start, told) != 0:
            return False
        program.pthread_detach(thread)
        self._numbers.append(numbers)
        return True

    def counts(self) -> tuple[int, int, int]:
        """How many jobs were posted, how many sleeping helpers woken, how many entered one."""
        if self._block is None:
            return 0, 0, 0
        posted, woken, entered = (int(n) for n in self._block[COUNTS : COUNTS + 3])
        return posted, woken, entered


_pools = [Pool()]


def pool() -> Pool:
    """This process's. A forked child has one of its own: threads do not go with it."""
    return _pools[0]


def _after_fork_in_child() -> None:
    # The parent's control block stays as it was: a kernel of the forking thread may have it.
    _pools.append(_pools[0])
    _pools[0] = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
