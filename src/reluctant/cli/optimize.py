"""`reluctant optimize`."""

from typing import Annotated, Literal

import typer

from reluctant.cli.common import FAILED, JsonFile, TrustRemoteCode, clean_exit
from reluctant.files import write_json


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
    trust_remote_code: TrustRemoteCode = False,
    narrow: Annotated[
        bool, typer.Option("--narrow", help="Read float32 weights of 16-bit numbers as such.")
    ] = False,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="A token's bits are its own, at any price.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Put engines under a model: what is served, whether it answers as before, and how fast it is.

    A factory is a function without arguments that returns a module, or (module, inputs). Nothing
    is written, and no code from a model's folder is run without --trust-remote-code.

    Exit code 1 if an answer changed by more than rounding.
    """
    with clean_exit(json):
        import torch  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415

        from reluctant.console import console  # noqa: PLC0415
        from reluctant.whole import run_whole  # noqa: PLC0415
        from reluctant.whole.load import load  # noqa: PLC0415
        from reluctant.whole.table import show  # noqa: PLC0415

        with console().status("loading") as status:
            loaded = load(model, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code)
            how = {"narrow": narrow, "batch_invariant": batch_invariant}
            on_step = status.update
            result = run_whole(loaded, prompt=prompt, tokens=tokens, on_step=on_step, how=how)
        show(result, Console())
        if json is not None:
            write_json(json, result.to_json())
        if not result.unchanged:
            raise typer.Exit(FAILED)
