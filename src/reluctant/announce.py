"""A line on stderr for who waits while kernels are compiled: what goes on, and how far it is."""

import sys
from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

from numba.core import event
from numba.core.dispatcher import Dispatcher

from reluctant.console import console

P = ParamSpec("P")
R = TypeVar("R")

AFTER = 2.0  # seconds of compiling that pass in silence
WHAT = "compiling kernels for this processor"


def announced(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, which tells of compiling that takes longer than `AFTER`.

    On a terminal by a progress bar that goes away, elsewhere by one plain line; never by a
    warning. Nothing is printed where the compiled code is at hand.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        listener = _Listener()
        event.register("numba:compile", listener)
        try:
            return function(*args, **kwargs)
        finally:
            event.unregister("numba:compile", listener)
            listener.close()

    return call


def _kernels() -> set[str]:
    """The names of all functions that may have to be compiled."""
    modules = [m for name, m in sys.modules.items() if name.startswith("reluctant.kernels.")]
    objects = [each for module in modules for each in vars(module).values()]
    return {each.py_func.__name__ for each in objects if isinstance(each, Dispatcher)}


class _Listener(event.Listener):  # type: ignore[misc]  # Numba is untyped
    """Counts the kernels as Numba compiles them; it says when each begins and ends."""

    def __init__(self) -> None:
        self.begun: float | None = None
        self.done: set[str] = set()
        self.bar: Any = None
        self.said = False

    def on_start(self, event: Any) -> None:
        if self.begun is None:
            self.begun = perf_counter()
        self._tell()

    def on_end(self, event: Any) -> None:
        self.done.add(event.data["dispatcher"].py_func.__name__)
        self._tell()

    def _tell(self) -> None:
        if self.begun is None or perf_counter() - self.begun < AFTER:
            return
        if not self.said:
            self.said = True
            self.all = _kernels()
            self._begin(perf_counter() - self.begun)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=len(self.done & self.all), refresh=True)

    def _begin(self, seconds: float) -> None:
        if not console().is_terminal:
            share = f"{len(self.done & self.all)} of at most {len(self.all)} functions"
            line = f"reluctant: {WHAT}, once: {share} after {seconds:.0f} s"
            print(line, file=sys.stderr, flush=True)
            return
        from rich import progress  # noqa: PLC0415

        # Drawn when there is news: it needs no thread of its own.
        columns = progress.TextColumn("{task.description}"), progress.BarColumn()
        more = progress.MofNCompleteColumn(), progress.TimeElapsedColumn()
        bar = progress.Progress(
            *columns, *more, console=console(), transient=True, auto_refresh=False
        )
        bar.add_task(f"{WHAT}, once", total=len(self.all))
        bar.start()
        self.bar = bar

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
