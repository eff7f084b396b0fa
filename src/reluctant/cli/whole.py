"""`reluctant bench --whole`: whole models, for speed or for answers."""

from collections.abc import Sequence
from pathlib import Path

import typer

from reluctant.cli.common import FAILED, progress
from reluctant.errors import ReluctantError
from reluctant.files import write_json

SHAPES = ("reluctant.whole.shapes:m2m100_418m", "reluctant.whole.shapes:opt_1_3b")
DTYPES = ("float32", "bfloat16", "float16")


def compare(
    names: Sequence[str],
    dtypes: Sequence[str],
    new: int,
    rounds: int | None,
    peers: Sequence[str],
    json: Path | None,
) -> None:
    """Time these models beside other engines. dtypes: at most one, what checkpoints are stored as;
    else what their configs say.
    """
    import torch  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from reluctant.console import console  # noqa: PLC0415
    from reluctant.whole import compare as work  # noqa: PLC0415
    from reluctant.whole import compare_table  # noqa: PLC0415
    from reluctant.whole.load import load  # noqa: PLC0415
    from reluctant.whole.peers import OTHERS, ways  # noqa: PLC0415

    if len(dtypes) > 1 or any(name not in DTYPES for name in dtypes):
        given = ",".join(dtypes)
        raise ReluctantError(f"--dtypes: expected one of {', '.join(DTYPES)}; got {given}")
    peers = peers or list(OTHERS)
    ways(torch.float32, peers)  # a name that is none is said before the models are built
    found = []
    with console().status("loading") as status:
        for name in names or SHAPES:
            status.update(f"{name}: loading")
            loaded = load(name)
            made = work.compare(
                loaded,
                dtype=getattr(torch, dtypes[0]) if dtypes else loaded.stored,
                new=new,
                rounds=rounds or work.ROUNDS,
                names=peers,
                on_step=lambda step, name=name: status.update(f"{name}: {step}"),  # type: ignore[misc]
            )
            found.append(made)
            del loaded  # before the next one is built
    result = work.Result(tuple(found))
    compare_table.show(result, Console())
    if json is not None:
        write_json(json, result.to_json())


def alike(names: Sequence[str], new: int, share: float, json: Path | None) -> None:
    """Compare hundreds of continuations of one model; exit code 1 if one differs."""
    from rich.console import Console  # noqa: PLC0415

    from reluctant.whole.alike import run_alike  # noqa: PLC0415
    from reluctant.whole.alike.table import show  # noqa: PLC0415
    from reluctant.whole.load import load  # noqa: PLC0415

    if len(names) != 1:
        raise ReluctantError(f"--answers: expected one --model, got {len(names)}")
    with progress() as bar:
        task = bar.add_task("loading", total=None)
        result = run_alike(
            load(names[0]),
            new=new,
            share=share,
            on_progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    show(result, Console())
    if json is not None:
        write_json(json, result.to_json())
    if not result.alike:
        raise typer.Exit(FAILED)
