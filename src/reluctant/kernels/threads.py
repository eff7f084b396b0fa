"""When and on how many threads the parallel kernels run.

Numba's OpenMP layer serves concurrent callers, but kills a forked child that enters a parallel
region; its `workqueue` layer kills the process on concurrent calls. So: OpenMP (or TBB) or serial,
and serial for good in a child forked after the pool was started. The serial kernels give the same
bits.
"""

import importlib
import os
import threading

import numba
import torch

_SMALL = 1 << 18  # bytes read: below, a parallel region costs more than it saves
_SMALL_ELSEWHERE = 1 << 23  # on other than the main thread, a region costs tens of microseconds

_lock = threading.Lock()
_state: dict[str, bool | None] = {"parallel": None}  # None: not yet tried


def _has_safe_layer() -> bool:
    for pool in ("omppool", "tbbpool"):
        try:
            importlib.import_module(f"numba.np.ufunc.{pool}")
        except ImportError:
            continue
        return True
    return False


def _start() -> bool:
    """Start Numba's threads once. Starting them resets torch's thread count: put it back."""
    with _lock:
        if _state["parallel"] is None:
            usable = False
            if _has_safe_layer():
                before = torch.get_num_threads()
                numba.get_num_threads()  # starts them
                usable = numba.threading_layer() in ("omp", "tbb")
                if torch.get_num_threads() != before:
                    torch.set_num_threads(before)
            _state["parallel"] = usable
    return bool(_state["parallel"])


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    if _state["parallel"]:
        _state["parallel"] = False


os.register_at_fork(after_in_child=_after_fork_in_child)


def run_in_parallel(work: int) -> bool:
    """Whether a kernel that reads `work` bytes should run in parallel now.

    Follows `torch.get_num_threads()`, and sets Numba's count for the calling thread to it.
    """
    threads = torch.get_num_threads()
    if threads == 1 or work < _SMALL or _state["parallel"] is False:
        return False
    if work < _SMALL_ELSEWHERE and threading.current_thread() is not threading.main_thread():
        return False
    if not _start():
        return False
    threads = min(threads, int(numba.config.NUMBA_NUM_THREADS))
    if threads == 1:
        return False
    if numba.get_num_threads() != threads:
        numba.set_num_threads(threads)
    return True
