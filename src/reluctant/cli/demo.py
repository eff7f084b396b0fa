"""`reluctant demo`."""

from typing import Annotated

import typer

from reluctant.cli.common import FAILED, JsonFile, clean_exit, progress
from reluctant.files import write_json


def demo(
    sentences: Annotated[int, typer.Option(min=1, help="How many, at most 48.")] = 6,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together.")] = 1,
    json: JsonFile = None,
) -> None:
    """Put stress marks on Russian sentences with a trained Transformer: in its own package, then
    with its weights in reluctant.transformer and a cache, without the engine and with it.

    Exit code 1 if a text differs, or logits are further from float64 with the engine than without.
    """
    with clean_exit(json):
        from rich.console import Console  # noqa: PLC0415

        from reluctant.demo import accentor, run_demo  # noqa: PLC0415
        from reluctant.demo.table import show  # noqa: PLC0415

        texts = accentor.sentences(sentences)
        with progress() as bar:
            task = bar.add_task("decoding, three ways", total=-(-len(texts) // batch_size))
            result = run_demo(texts, batch_size=batch_size, on_batch=lambda: bar.advance(task))
        show(result, Console())
        if json is not None:
            write_json(json, result.to_json())
        if not result.unchanged:
            raise typer.Exit(FAILED)
