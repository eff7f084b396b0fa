"""How kernels are compiled, and where the compiled code is kept.

*What is kept.* Numba keeps compiled code on disk and looks at the file that a function stands in to
see whether it is still that function's. A kernel's code holds that of the functions it calls, from
other files, so here it goes by all of them: whoever edits a kernel, or pulls another version, runs
what is written.

*How much is compiled.* Numba optimises every function, with all that it calls, as if it were to be
called from Python, and does so again in each of its callers: with five levels the innermost loops
are optimised five times. Here only the function that Python called is optimised and turned into
machine code; what it calls is handed to it as it was lowered. That halves the first use's wait.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import codegen, event
from numba.core.caching import NullCache
from numba.core.compiler_lock import global_compiler_lock

_REORDERED = {"reassoc", "contract"}


@lru_cache(maxsize=1)
def sources_hash() -> bytes:
    """Of the names and contents of all files in this folder."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_bytes()
        found.update(f"{path.name} {len(text)}\n".encode())
        found.update(text)
    return found.digest()


def kernel(*, inline: str = "never", reordered: bool = False) -> Callable[..., Any]:
    """Numba's `njit` as all kernels use it: without the interpreter's lock, IEEE 754 throughout.

    inline: "always" puts the function's code into its callers. reordered: the compiler may choose
    the order of a sum's additions; for sums in float64 that only widen a bound or are compared with
    one, never for what decides or is an output.

    Where no folder for compiled code can be written, functions are compiled in every process.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = njit(
            nogil=True,
            error_model="numpy",
            inline=inline,
            fastmath=_REORDERED if reordered else False,
        )(function)
        try:
            compiled.enable_caching()
            compiled._cache._cache_file._source_stamp = sources_hash()
        except RuntimeError:  # no folder that can be written
            pass
        _lean_inside_others(compiled)
        return compiled

    return decorate


class _Compilation(event.Listener):  # type: ignore[misc]
    """One that Python asked for. depth: how many functions are being compiled, one in the other."""

    def __init__(self) -> None:
        self.depth = 0
        self.environments: list[tuple[str, Any]] = []

    def on_start(self, _: Any) -> None:
        self.depth += 1

    def on_end(self, _: Any) -> None:
        self.depth -= 1


_thread = threading.local()  # now: the compilation that this thread is in, or None


def _inside() -> "_Compilation | None":
    """The compilation, if what is compiled at the moment is called by other functions only."""
    now: _Compilation | None = getattr(_thread, "now", None)
    return now if now is not None and now.depth > 1 else None


_finalize, _set_env = codegen.JITCodeLibrary.finalize, codegen.JITCPUCodegen.set_env


def _finalize_lean(library: Any) -> None:
    """In place of Numba's: what others call is linked, and that is all."""
    if _inside() is None:
        _finalize(library)
        return
    for other in dict.fromkeys(library._linking_libraries):
        library._reload_init.update(other._reload_init)
        library._final_module.link_in(other._get_module_for_linking(), preserve=True)
    library._finalize_dynamic_globals()
    library._finalized = True


def _set_env_later(generator: Any, name: str, environment: Any) -> None:
    """A function's environment is written into its machine code: here, when there is some."""
    now = _inside()
    if now is None:
        _set_env(generator, name, environment)
    else:
        now.environments.append((name, environment))


codegen.JITCodeLibrary.finalize, codegen.JITCPUCodegen.set_env = _finalize_lean, _set_env_later


@contextmanager
def _compilation(generator: Any) -> Iterator[None]:
    now = _thread.now = _Compilation()
    try:
        with event.install_listener("numba:compile", now):
            yield
    finally:
        _thread.now = None
    for name, environment in now.environments:
        if generator._engine.get_global_value_address(name):
            _set_env(generator, name, environment)


def _lean_inside_others(compiled: Any) -> None:
    """Lets the function be compiled without what only Python's callers need, where others call it.

    Called from Python later, it is compiled once more, in full.
    """
    compile_, add = compiled.compile, compiled.add_overload
    lean: set[tuple[Any, ...]] = set()

    def compile_once(signature: Any) -> Any:
        if getattr(_thread, "now", None) is None:
            with global_compiler_lock, _compilation(compiled.targetctx.codegen()):
                for arguments in lean:
                    del compiled.overloads[arguments]
                lean.clear()
                return compile_(signature)
        options, cache = compiled._compiler.targetoptions, compiled._cache
        inner = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        compiled._compiler.targetoptions, compiled._cache = options | inner, NullCache()
        try:
            return compile_(signature)
        finally:
            compiled._compiler.targetoptions, compiled._cache = options, cache

    def add_overload(result: Any) -> None:
        if _inside() is None:
            add(result)
            return
        lean.add(tuple(result.signature.args))  # the dispatch from Python is not to find it
        compiled.overloads[tuple(result.signature.args)] = result

    compiled.compile, compiled.add_overload = compile_once, add_overload
