"""`reluctant compile`."""

from time import perf_counter

import typer

from reluctant.cli.common import JsonFile, clean_exit, progress
from reluctant.files import write_json


def compile_kernels(json: JsonFile = None) -> None:
    """Compile all kernels now, for this kind of processor, instead of in first calls.

    For images of containers: the code is kept beside the package, or in NUMBA_CACHE_DIR. It serves
    processors of the kind that compiled it; NUMBA_CPU_NAME, the same there, names another.
    """
    with clean_exit(json):
        from reluctant.machine import cpu_model, versions  # noqa: PLC0415
        from reluctant.precompile import compile_all, names  # noqa: PLC0415

        start, count = perf_counter(), len(names())
        with progress() as bar:
            task = bar.add_task("compiling", total=count)
            number = iter(range(count))
            place = compile_all(
                lambda kind: bar.update(task, description=kind, completed=next(number))
            )
        seconds = perf_counter() - start
        typer.echo(f"all kernels are compiled ({seconds:.0f} s), and kept in {place}")
        if json is not None:
            made = {"seconds": seconds, "folder": str(place), "kinds": names()}
            machine = {"processor": cpu_model(), "versions": versions("reluctant", "numba")}
            write_json(json, made | machine)
