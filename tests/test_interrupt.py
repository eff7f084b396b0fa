"""Ctrl-C as a question."""

import subprocess
import sys
import threading

from reluctant.interrupt import interruptible


def test_ctrl_c_is_a_question_answered() -> None:
    """In a process of its own: what a signal does to a process that runs tests is not ours."""
    code = """
import signal
from reluctant.interrupt import interruptible
before = signal.getsignal(signal.SIGINT)
with interruptible() as pressed:
    assert not pressed()
    signal.raise_signal(signal.SIGINT)
    assert pressed()
assert signal.getsignal(signal.SIGINT) is before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_threads_are_told_of_none() -> None:
    found: list[bool] = []

    def work() -> None:
        with interruptible() as pressed:
            found.append(pressed())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
