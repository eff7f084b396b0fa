"""`reluctant bench`."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from reluctant.cli import bench_train as _train
from reluctant.cli import whole as _whole
from reluctant.cli.common import FAILED, JsonFile, clean_exit, deliver, listed, progress
from reluctant.errors import ReluctantError
from reluctant.files import write_json

_OF_BOTH = ("dtypes", True)  # the one choice that whole models have, too


def bench(
    phases: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="decode (1 token), few (2-16), many (more); or train, alone."
        ),
    ] = "",
    shapes: Annotated[
        str, typer.Option(metavar="SHAPES", help="As 1024/4096,1024/2816g (g: gated).")
    ] = "",
    dtypes: Annotated[
        str, typer.Option(metavar="NAMES", help="float32,bfloat16. --whole: of the checkpoint.")
    ] = "",
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
        int | None,
        typer.Option(min=1, help="Turns of each: 5, --quick, --plot 4, --crowded 8, --whole 3."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look at each phase.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure what the picture needs, and draw it."),
    ] = None,
    rows_from: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="With --plot: draw what --json has written."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The whole grid: hours.")] = False,
    crowded: Annotated[
        bool, typer.Option("--crowded", help="Beside busy processes; eager is the only peer.")
    ] = False,
    maps: Annotated[
        bool, typer.Option("--maps", help="Linear maps and output projections; torch is the peer.")
    ] = False,
    limited_to: Annotated[
        str | None,
        typer.Option("--as", metavar="avx2", help="As on a processor with no more than that."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Whole models instead of layers, beside other engines.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="With --whole, repeatable: a folder, a hub name or package.module:factory. "
            "Default: the shapes of M2M100-418M and OPT-1.3B.",
        ),
    ] = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers", help="With --whole: 300 continuations against model.generate, untimed."
        ),
    ] = False,
    new: Annotated[int, typer.Option(min=1, help="With --whole: tokens of a continuation.")] = 32,
    share: Annotated[
        float, typer.Option(help="With --answers: a part of the continuations, as 0.1.")
    ] = 1.0,
    json: JsonFile = None,
) -> None:
    """Time layers beside torch eager and compiled, oneDNN, ONNX Runtime and OpenVINO.

    Without options: the layers of docs/figures.md. Options that choose what is measured are
    multiplied with each other: all their combinations. Exit code 1 if an output is off by more than
    its dtype's rounding.

    --phases train: a step forward and backward, of one layer and of six, beside torch eager,
    compiled and with activation checkpointing, and oneDNN; with everyone's errors of output and
    gradients, what is kept in between, and memory. It goes with --shapes, --dtypes, --densities,
    --tokens, --peers, --rounds, --quick, --plot, --from, --as and --json.

    --whole: models beside transformers, CTranslate2, OpenVINO GenAI and llama.cpp, those that are
    installed. With --answers exit code 1 if a token differs by more than rounding.
    """
    with clean_exit(json):
        from reluctant.bench import grid, limited, train  # noqa: PLC0415
        from reluctant.bench import plot as picture  # noqa: PLC0415

        picked: dict[str, Any] = {
            "phases": listed(phases, str),
            "shapes": listed(shapes, grid.Shape.parse),
            "dtypes": listed(dtypes, str),
            "densities": [p / 100 for p in listed(densities, float)],
            "tokens": listed(tokens, int),
            "states": listed(states, str),
        }
        wholes = {"quick": quick, "full": full, "real": real, "plot": plot is not None}
        wholes |= {"crowded": crowded, "whole": whole, "maps": maps}
        selected = [name for name, on in wholes.items() if on]
        picks = [f"--{n}" for n, values in picked.items() if values and (n, whole) != _OF_BOTH]
        picks += ["--activation"] * (activation != "relu")
        picks += ["--peers"] * ((crowded or maps) and peers != "")
        if train.grid.alone(picked["phases"]):
            del wholes["plot"], wholes["quick"]
            others = {"--states": states, "--activation": activation != "relu", "--model": model}
            others |= {"--answers": answers, "--new": new != 32, "--share": share != 1.0}
            others |= {f"--{name}": on for name, on in wholes.items()}
            _train.train(
                picked,
                quick=quick,
                rounds=rounds,
                peers=listed(peers, str),
                plot=plot,
                rows_from=rows_from,
                limited_to=limited_to,
                json=json,
                refused=[name for name, on in others.items() if on],
            )
            return
        _check_one(selected, picks, answers or bool(model))
        limited.ensure(limited_to, sys.argv[1:])
        if whole:
            named = [each for text in model or [] for each in listed(text, str)]
            if answers:
                _whole.alike(named, new, share, json)
            else:
                _whole.compare(named, picked["dtypes"], new, rounds, listed(peers, str), json)
            return
        if plot is not None:
            picture.check(plot)
        if rows_from is not None:
            _redraw(rows_from, plot, json)
            return
        if maps or crowded:
            _apart("maps" if maps else "crowded", rounds, limited_to, json)
            return
        _layers(
            (selected or ["usual"])[0],
            {**picked, "activation": activation} if picks else {},
            rounds,
            listed(peers, str),
            limited_to,
            plot,
            json,
        )


def _layers(
    selection: str,
    picked: dict[str, Any],
    rounds: int | None,
    peers: list[str],
    limited_to: str | None,
    plot: Path | None,
    json: Path | None,
) -> None:
    """Layers without gradients. selection: of cells, unless some were picked. peers: names, if some
    were chosen."""
    from rich.console import Console  # noqa: PLC0415

    from reluctant.bench import grid, limited, run_bench  # noqa: PLC0415
    from reluctant.bench import plot as picture  # noqa: PLC0415
    from reluctant.bench.peers import BUILDERS  # noqa: PLC0415
    from reluctant.bench.table import show  # noqa: PLC0415

    names = limited.peers(limited_to, peers)
    names = names or list(grid.SWEEP_PEERS if plot else BUILDERS)
    if selection == "quick" and not peers:
        names.remove("compile")  # minutes of compiling, for what oneDNN's row shows as well
    if picked:
        cells = grid.choose(**picked)
    else:
        selections = {"quick": grid.quick, "full": grid.full, "real": grid.real}
        selections |= {"plot": grid.sweep, "usual": grid.usual}
        cells = selections[selection]()
    with progress() as bar:
        task = bar.add_task("starting", total=len(cells))
        result = run_bench(
            cells,
            rounds=rounds or (4 if selection in ("quick", "plot") else 5),
            names=[] if names == ["none"] else names,
            limited_to=limited_to,
            on_progress=lambda what, done: bar.update(task, description=what, completed=done),
        )
    show(result, Console())
    deliver(result, json, plot, picture.draw)


def _check_one(selected: list[str], picks: list[str], of_whole: bool) -> None:
    """Raise ReluctantError for options that do not go together."""
    if len(selected) > 1 or (selected and picks):
        both = " and ".join([f"--{name}" for name in selected] + picks)
        raise ReluctantError(f"expected one selection, got {both}: leave one out")
    if of_whole and selected != ["whole"]:
        raise ReluctantError("--answers and --model go with --whole")


def _redraw(rows_from: Path, plot: Path | None, json: Path | None) -> None:
    from reluctant.bench import plot as picture  # noqa: PLC0415

    if plot is None or json is not None:
        raise ReluctantError("--from draws a picture: it goes with --plot, without --json")
    picture.draw(picture.load(rows_from), plot)


def _apart(kind: str, rounds: int | None, limited_to: str | None, json: Path | None) -> None:
    """What is no grid of layers: "maps" or "crowded"."""
    from rich.console import Console  # noqa: PLC0415

    from reluctant.bench import crowded, maps  # noqa: PLC0415

    module: Any = maps if kind == "maps" else crowded
    run: Callable[..., Any] = maps.run_maps
    if kind != "maps":
        run = partial(crowded.run_crowded, limited_to=limited_to)
    with progress() as bar:
        task = bar.add_task("starting", total=module.STEPS)
        result = run(
            **({} if rounds is None else {"rounds": rounds}),
            on_progress=lambda what, done: bar.update(task, description=what, completed=done),
        )
    module.show(result, Console())
    if json is not None:
        write_json(json, result.to_json())
    if not result.agree:
        raise typer.Exit(FAILED)
