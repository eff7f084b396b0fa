"""The command line: `reluctant demo`, `reluctant bench`, `reluctant optimize`.

Exit codes: 0, all is well; 1, it ran and a check failed; 2, it could not run (usage, input, a
missing extra); 130, interrupted. Heavy imports stand inside the commands: help is quick.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reluctant.errors import ReluctantError
from reluctant.files import check_writable, write_json

T = TypeVar("T")

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    help="The Transformer's feed-forward layer, exact and fast on CPUs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the figures there too, as JSON."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reluctant {version('reluctant')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together.")] = 1,
    json: JsonFile = None,
) -> None:
    """Put stress marks on Russian sentences with a trained Transformer: untouched, pinned, engine;
    then with its weights in reluctant.transformer, decoded with a cache: pinned, engine.

    Exit code 1 if a text differs, or logits are further from float64 than they were.
    """
    with _clean_exit(json):
        from reluctant.demo import run_demo  # noqa: PLC0415
        from reluctant.demo.accentor import sentences  # noqa: PLC0415
        from reluctant.demo.table import show  # noqa: PLC0415

        texts = sentences()
        with _progress() as progress:
            task = progress.add_task("decoding, five ways", total=-(-len(texts) // batch_size))
            result = run_demo(texts, batch_size=batch_size, on_batch=lambda: progress.advance(task))
        show(result, Console())
        if json is not None:
            write_json(json, result.to_json())
        if not result.unchanged:
            raise typer.Exit(FAILED)


@app.command()
def bench(
    phases: Annotated[
        str, typer.Option(metavar="NAMES", help="decode (1 token), few (2-16), many (more).")
    ] = "",
    shapes: Annotated[
        str, typer.Option(metavar="SHAPES", help="As 1024/4096,1024/2816g (g: gated).")
    ] = "",
    dtypes: Annotated[str, typer.Option(metavar="NAMES", help="float32,bfloat16.")] = "",
    densities: Annotated[
        str, typer.Option(metavar="PERCENT", help="Shares of active neurons, as 1,4,32.")
    ] = "",
    tokens: Annotated[str, typer.Option(metavar="NUMBERS", help="Rows of x, as 1,8,512.")] = "",
    states: Annotated[
        str, typer.Option(metavar="NAMES", help="cold (a model's layers in turn), warm (one).")
    ] = "",
    activation: Annotated[str, typer.Option(help="relu, or gelu: the dense way.")] = "relu",
    peers: Annotated[
        str, typer.Option(metavar="NAMES", help="Some of the peers; none: eager only.")
    ] = "",
    real: Annotated[bool, typer.Option("--real", help="A trained model's layers only.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Turns of each: 5, --quick and --plot 4, --crowded 8.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look at each phase.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure what its two panels need, and draw them."),
    ] = None,
    rows_from: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="With --plot: draw what --json has written."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The whole grid: hours.")] = False,
    crowded: Annotated[
        bool, typer.Option("--crowded", help="Beside busy processes; eager is the only peer.")
    ] = False,
    limited_to: Annotated[
        str | None,
        typer.Option("--as", metavar="avx2", help="As on a processor with no more than that."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Time layers beside torch eager and compiled, oneDNN, ONNX Runtime and OpenVINO.

    Without options: every claim of the README. Options that choose what is measured are
    multiplied with each other: all their combinations. Exit code 1 if an output is off by more than
    its dtype's rounding.
    """
    with _clean_exit(json):
        from reluctant.bench import grid, limited, run_bench  # noqa: PLC0415
        from reluctant.bench import plot as picture  # noqa: PLC0415
        from reluctant.bench.peers import BUILDERS  # noqa: PLC0415
        from reluctant.bench.table import show  # noqa: PLC0415

        picked: dict[str, Any] = {
            "phases": _listed(phases, str),
            "shapes": _listed(shapes, grid.Shape.parse),
            "dtypes": _listed(dtypes, str),
            "densities": [p / 100 for p in _listed(densities, float)],
            "tokens": _listed(tokens, int),
            "states": _listed(states, str),
        }
        wholes = {"quick": quick, "full": full, "real": real, "plot": plot is not None}
        wholes["crowded"] = crowded
        whole = [name for name, on in wholes.items() if on]
        picks = [f"--{name}" for name, values in picked.items() if values]
        picks += ["--activation"] * (activation != "relu")
        picks += ["--peers"] * (crowded and peers != "")
        if len(whole) > 1 or (whole and picks):
            both = " and ".join([f"--{name}" for name in whole] + picks)
            raise ReluctantError(f"expected one selection, got {both}: leave one out")
        limited.ensure(limited_to, sys.argv[1:])
        if plot is not None:
            picture.check(plot)
        if rows_from is not None:
            if plot is None or json is not None:
                raise ReluctantError("--from draws a picture: it goes with --plot, without --json")
            picture.draw(picture.load(rows_from), plot)
            return
        if crowded:
            _bench_crowded(rounds or 8, limited_to, json)
            return
        names = limited.peers(limited_to, _listed(peers, str))
        names = names or list(grid.SWEEP_PEERS if plot else BUILDERS)
        if quick and not peers:
            names.remove("compile")  # minutes of compiling, for what oneDNN's row shows as well
        if picks:
            cells = grid.choose(**picked, activation=activation)
        else:
            selections = {"quick": grid.quick, "full": grid.full, "real": grid.real}
            selections |= {"plot": grid.sweep, "usual": grid.usual}
            cells = selections[whole[0] if whole else "usual"]()
        with _progress() as progress:
            task = progress.add_task("starting", total=len(cells))
            result = run_bench(
                cells,
                rounds=rounds or (4 if quick or plot else 5),
                names=[] if names == ["none"] else names,
                limited_to=limited_to,
                on_progress=lambda what, done: progress.update(
                    task, description=what, completed=done
                ),
            )
        show(result, Console())
        if json is not None:
            write_json(json, result.to_json())
        if plot is not None:
            picture.draw(result.rows, plot)
        if not result.agree:
            raise typer.Exit(FAILED)


def _bench_crowded(rounds: int, limited_to: str | None, json: Path | None) -> None:
    from reluctant.bench import crowded  # noqa: PLC0415

    with _progress() as progress:
        task = progress.add_task("starting", total=crowded.STEPS)
        result = crowded.run_crowded(
            rounds=rounds,
            limited_to=limited_to,
            on_progress=lambda what, done: progress.update(task, description=what, completed=done),
        )
    crowded.show(result, Console())
    if json is not None:
        write_json(json, result.to_json())
    if not result.agree:
        raise typer.Exit(FAILED)


@app.command()
def tune(
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute, and coarse; else some minutes.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Go back to the table that is shipped.")
    ] = False,
) -> None:
    """Measure which way of computing is the fastest on this machine, and go by it from now on.

    The table is kept in the user's cache folder, one for each number of threads. Do it when the
    machine is idle, and again after an upgrade.
    """
    with _clean_exit(None):
        from reluctant import tables  # noqa: PLC0415

        if forget:
            if quick:
                raise ReluctantError("expected --quick or --forget, got both: leave one out")
            for path in tables.forget():
                typer.echo(f"removed: {path}")
            return
        tables.check_folder()
        from reluctant.bench import crossings  # noqa: PLC0415
        from reluctant.tune import run_tune, show  # noqa: PLC0415

        plan = crossings.QUICK if quick else crossings.FULL
        with _progress() as progress:
            task = progress.add_task("starting", total=len(plan))
            tuned = run_tune(
                plan,
                on_progress=lambda what, done: progress.update(
                    task, description=what, completed=done
                ),
            )
        show(tuned, Console())


@app.command()
def optimize(
    model: Annotated[
        str,
        typer.Argument(help="A Hugging Face folder, a hub name, or package.module:factory."),
    ],
    prompt: Annotated[str | None, typer.Option(help="The text the model is given.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="So many random tokens instead of a text.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="What the weights are loaded as.")
    ] = "float32",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Put engines under a model: what is served, whether it answers as before, and how fast it is.

    A factory is a function without arguments that returns a module, or (module, inputs). Nothing
    is written, and no code from a model's folder is run without --trust-remote-code.

    Exit code 1 if an answer changed by more than rounding.
    """
    with _clean_exit(json):
        import torch  # noqa: PLC0415

        from reluctant.whole import run_whole  # noqa: PLC0415
        from reluctant.whole.load import load  # noqa: PLC0415
        from reluctant.whole.table import show  # noqa: PLC0415

        with Console(stderr=True).status("loading") as status:
            loaded = load(model, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code)
            result = run_whole(loaded, prompt=prompt, tokens=tokens, on_step=status.update)
        show(result, Console())
        if json is not None:
            write_json(json, result.to_json())
        if not result.unchanged:
            raise typer.Exit(FAILED)


def _listed(text: str, kind: Callable[[str], T]) -> list[T]:
    """The values of an option that takes several, separated by commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return [kind(part) for part in parts]
    except ReluctantError:
        raise
    except ValueError as error:
        raise ReluctantError(f"expected numbers separated by commas, got {text!r}") from error


def main() -> None:
    """Entry point of the `reluctant` command."""
    signal.signal(signal.SIGINT, _stop)
    app()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End at once. A KeyboardInterrupt would get lost in the callbacks of Numba's compiler, and
    there is nothing to tidy up but the cursor that a progress bar hides.
    """
    console = Console(stderr=True)
    console.show_cursor()
    console.print("\nreluctant: interrupted")
    console.file.flush()
    os._exit(INTERRUPTED)


@contextmanager
def _clean_exit(json: Path | None) -> Iterator[None]:
    """One line and an exit code instead of a traceback, for what is not a defect of ours.

    Args:
        json: where the result will be written; checked before the long run, not after it.
    """
    try:
        if json is not None:
            check_writable(json)
        yield
    except ReluctantError as error:
        typer.echo(f"reluctant: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error


def _progress() -> Progress:
    """A progress bar on stderr, so that stdout holds the figures and nothing else."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


if __name__ == "__main__":
    main()
