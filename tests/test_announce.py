"""Who waits for the compiler is told so; nobody else is."""

import io

import pytest
from numba import njit
from rich.console import Console

from reluctant import announce
from reluctant.kernels import activate


def compiles_something() -> int:
    @njit
    def inner(n):
        return n + 1

    @njit
    def outer(n):
        return inner(n) + inner(n)

    return announce.announced(outer)(1)


def test_a_short_wait_is_not_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "AFTER", float("inf"))
    assert compiles_something() == 4
    assert capsys.readouterr() == ("", "")


def test_a_long_one_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "AFTER", 0.0)
    assert compiles_something() == 4
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("reluctant: compiling kernels for this processor, once: 0 of at most")
    njit(lambda n: n + 2)(1)
    assert announce.announced(activate.is_active.py_func)(1, 0.0, 1.0)
    assert capsys.readouterr().err == ""  # nothing was compiled, and nobody listens any more


def test_a_terminal_has_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(announce, "AFTER", 0.0)
    monkeypatch.setattr(announce, "console", lambda: terminal)
    assert compiles_something() == 4
    assert "compiling kernels for this processor, once" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is erased


def test_listening_ends_with_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @announce.announced
    def fails() -> None:
        raise ValueError("no")

    monkeypatch.setattr(announce, "AFTER", 0.0)
    with pytest.raises(ValueError, match="no"):
        fails()
    njit(lambda n: n + 2)(1)
    assert capsys.readouterr().err == ""


def test_the_kernels_are_counted() -> None:
    assert {"is_active", "activate"} <= announce._kernels()
