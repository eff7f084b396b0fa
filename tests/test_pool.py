"""Helper threads: every piece once, nobody waited for who has not begun, none woken for nothing."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from reluctant.kernels import pool, team

linux = pytest.mark.skipif(sys.platform != "linux", reason="helpers are for Linux")


@njit(nogil=True)
def _piece(k, who, done, by, spins):
    total = 0.0
    for j in range(spins):
        total += 1.0 / (j + 1 + k)
    done[k] += 1 + (total < 0)
    by[k] = who


@njit(nogil=True)
def _run(crew, count, done, by, spins):
    team.spread(_piece, crew, count, (done, by, spins))


def run(crew, count, spins=100):
    done, by = np.zeros(count, np.int64), np.full(count, -1)
    _run(crew, count, done, by, spins)
    return done, by


@given(st.integers(1, 6), st.integers(0, 300), st.booleans(), st.sampled_from([0, 10, 3000]))
@settings(max_examples=150, deadline=None)
def test_every_piece_is_done_once_by_a_member_of_the_team(threads, count, wake, spins):
    done, by = run(team.team_of(threads, wake=wake), count, spins)
    assert (done == 1).all()
    assert ((by >= 0) & (by < threads)).all()


@linux
def test_helpers_do_help():
    """Long enough for any scheduler: at some time a helper has its turn."""
    crew, end = team.team_of(2), time.monotonic() + 60
    while time.monotonic() < end:
        _, by = run(crew, 2000, 20_000)
        if (by == 1).any():
            return
    raise AssertionError("no helper ever took a piece")


@linux
def test_no_more_are_woken_than_there_are_pieces_for(monkeypatch):
    """On any number of cores: of 64 threads two pieces wake one, one piece none."""
    monkeypatch.setattr(pool, "_pools", [pool.Pool()])
    crew = team.team_of(64)
    time.sleep(0.2)  # all sleep
    for count, most in ((1, 0), (2, 1), (5, 4)):
        before = pool.pool().counts()
        run(crew, count)
        time.sleep(0.2)
        posted, woken, _ = (a - b for a, b in zip(pool.pool().counts(), before, strict=True))
        assert posted == (count > 1)
        assert woken <= most


@linux
def test_small_work_wakes_nobody():
    time.sleep(0.1)
    before = pool.pool().counts()
    done, _ = run(team.team_of(2, wake=False), 50)
    assert (done == 1).all()
    assert pool.pool().counts()[1] == before[1]


@linux
def test_the_caller_does_not_wait_for_a_helper_that_has_not_begun(monkeypatch):
    """Helpers that are never scheduled: here, threads that were never started."""
    empty = pool.Pool()
    monkeypatch.setattr(empty, "_spawn", lambda *_: True)
    monkeypatch.setattr(pool, "_pools", [empty])
    crew = team.team_of(4)
    assert crew[0] != 0
    done, by = run(crew, 100)
    assert (done == 1).all()
    assert (by == 0).all()


def test_the_team_follows_torch_and_the_work():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert team.threads_for(10**12) == 3
        assert team.threads_for(100) == 1
        assert team.team_for(100) == team.ALONE
        torch.set_num_threads(32)
        assert team.threads_for(2**22) == 8
    finally:
        torch.set_num_threads(before)


def test_many_callers_at_once():
    failed = []

    def work():
        for count in range(200):
            done, _ = run(team.team_of(3), count)
            if not (done == 1).all():
                failed.append(count)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@linux
def test_helpers_go_to_sleep():
    """An idle engine uses no processor time: what the process used while nobody called."""
    run(team.team_of(2), 100, 1000)
    time.sleep(0.05)
    before = os.times()
    time.sleep(0.5)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.25


@linux
def test_the_interpreter_ends_with_helpers_awake_and_asleep():
    code = (
        "import numpy as np, time, torch\n"
        "from reluctant.kernels import team, quantise\n"
        "crew = team.team_of(3)\n"
        "rows = np.ones((5000, 64), np.float32); q = np.zeros((79, 16, 64), np.int32)\n"
        "c = np.zeros(64, np.float32); s = c.repeat(5000)\n"
        "n, sums = np.empty((5000, 3)), np.empty(5000, np.int32)\n"
        "quantise.quantise(rows, c, 1e-9, q, s[:5000], n, sums, crew)\n"
        "print(int(q.sum()))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code + more], stderr=subprocess.PIPE, text=True)
        for more in ("", "time.sleep(0.2)\n", "import os; os._exit(0)\n")
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in running]
    assert ended == [("", 0)] * 3


@linux
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_helpers_of_its_own():
    run(team.team_of(2), 100)
    child = os.fork()
    if child == 0:
        fresh = pool.pool().counts() == (0, 0, 0)
        done, _ = run(team.team_of(2), 100)
        os._exit(0 if fresh and (done == 1).all() and pool.pool().helpers == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
