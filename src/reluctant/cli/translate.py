"""`reluctant translate`."""

import json as json_format
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reluctant.cli.common import SourceLang, TargetLang, TrustRemoteCode, clean_exit, progress
from reluctant.errors import ReluctantError
from reluctant.files import write_atomic

if TYPE_CHECKING:
    from reluctant.transformer import Translator

_AT_ONCE = 1024  # lines of a file, sorted by length among each other


def translate(
    text: Annotated[list[str] | None, typer.Argument(help="Texts; otherwise stdin.")] = None,
    input: Annotated[Path | None, typer.Option(help="A file in UTF-8, a text a line.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write there, not to stdout.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A folder as `reluctant train` writes it, or of a Hugging Face encoder-decoder; "
            "otherwise $RELUCTANT_MODEL, or kept/en-de here or in the repository."
        ),
    ] = None,
    beam: Annotated[int, typer.Option(min=1, help="Hypotheses; 1: greedy.")] = 1,
    best: Annotated[
        int, typer.Option(min=1, help="So many translations of each text, at most --beam.")
    ] = 1,
    length_penalty: Annotated[float, typer.Option(min=0, help="Of beams, as an exponent.")] = 0.6,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens of a translation; otherwise 50 above its source."),
    ] = None,
    longest: Annotated[
        int | None,
        typer.Option(min=2, help="Texts with more tokens are cut, where sentences end."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most texts decoded together.")] = 32,
    engine: Annotated[bool, typer.Option(help="Serve the model; otherwise plain torch.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
    source_lang: SourceLang = None,
    target_lang: TargetLang = None,
    trust_remote_code: TrustRemoteCode = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Before each translation its score and a tab.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line, with scores and tokens.")
    ] = False,
) -> None:
    """Translate texts, the lines of a file, or of stdin as they come: one line each, in order.

    A blank line stays blank. --best above 1: several lines a text, with its number, the score and
    the translation between tabs. --output is written whole or not at all.

    --json: objects with "source" and "translations", the best first, of which each has "text",
    "log_probability" (natural), "score" (that, divided by the length penalty) and "tokens".

    A file that is no UTF-8 is refused. Bytes of stdin that are none are replaced, since what came
    before is already out, and stderr says so.
    """
    with clean_exit(output):
        from reluctant.translation.backend import Search  # noqa: PLC0415
        from reluctant.translation.folder import find_model  # noqa: PLC0415
        from reluctant.translation.lines import lines_of  # noqa: PLC0415

        if text and input is not None:
            raise ReluctantError("expected texts or --input, got both: leave one out")
        Search(beam, best, length_penalty, max_length)  # refused before anything is loaded or read
        lines = lines_of(input) if input is not None else text or None
        folder = find_model(model)
        translator = _translator(
            folder,
            threads,
            engine=engine,
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
            source_lang=source_lang,
            target_lang=target_lang,
            **({} if longest is None else {"longest": longest}),
        )
        search = {"beam": beam, "length_penalty": length_penalty, "max_length": max_length}
        shown = _Shown(translator, search, best, scores, json)
        if lines is None:
            _write((shown.lines(some) for some in _from_stdin(batch_size)), output)
        else:
            # on a terminal that shows the translations, too, a bar would be between them
            bar = sys.stderr.isatty() and not (output is None and sys.stdout.isatty())
            _write(_of_lines(shown, lines, bar=bar), output)


def _translator(folder: Path, threads: int | None, **options: Any) -> "Translator":
    import torch  # noqa: PLC0415

    from reluctant.transformer import Translator  # noqa: PLC0415

    if threads is not None:
        torch.set_num_threads(threads)
    return Translator(folder, **options)


@dataclass
class _Shown:
    """Translations as lines. number: of texts so far."""

    translator: "Translator"
    search: dict[str, Any]
    best: int
    scores: bool
    json: bool
    number: int = 0

    def lines(self, sources: Sequence[str], on_done: Any = lambda count: None) -> list[str]:
        options = self.search | {"on_done": on_done}
        if not (self.json or self.scores or self.best > 1):
            return [_one_line(text) for text in self.translator.translate(sources, **options)]
        found = self.translator.translations(sources, best=self.best, **options)
        lines = []
        for source, translations in zip(sources, found, strict=True):
            self.number += 1
            if self.json:
                value = {"source": source, "translations": [asdict(each) for each in translations]}
                lines.append(json_format.dumps(value, ensure_ascii=False))
                continue
            number = f"{self.number}\t" if self.best > 1 else ""
            lines += [f"{number}{t.score:.4f}\t{_one_line(t.text)}" for t in translations]
        return lines


def _one_line(text: str) -> str:
    """A model may write any character, and a text has one line here."""
    return text.replace("\r", " ").replace("\n", " ")


def _of_lines(shown: _Shown, lines: Sequence[str], *, bar: bool) -> Iterator[list[str]]:
    """So many after the other, with a progress bar or without."""
    with progress() if bar else nullcontext() as seen:
        task = None if seen is None else seen.add_task("translating", total=len(lines))

        def on_done(count: int) -> None:
            if seen is not None and task is not None:
                seen.advance(task, count)

        for start in range(0, len(lines), _AT_ONCE):
            yield shown.lines(lines[start : start + _AT_ONCE], on_done)


def _from_stdin(most: int) -> Iterator[list[str]]:
    """What is there, at most so many lines at once."""
    from reluctant.translation.lines import ready_lines  # noqa: PLC0415

    if sys.stdin is None:
        raise ReluctantError("expected texts, got none, and stdin is closed")
    if sys.stdin.isatty():
        typer.echo("reluctant: a line and Enter translates it, Ctrl-D ends", err=True)
    number = 0
    for some in ready_lines(sys.stdin.buffer, most):
        texts = []
        for line in some:
            number += 1
            try:
                texts.append(line.decode())
            except UnicodeDecodeError as error:
                texts.append(line.decode(errors="replace"))
                typer.echo(f"reluctant: line {number}, replaced by U+FFFD: {error}", err=True)
        yield texts


def _write(results: Iterable[list[str]], output: Path | None) -> None:
    """As they come to stdout, or all at once to a file."""
    if output is not None:
        write_atomic(output, "".join(f"{line}\n" for lines in results for line in lines))
        return
    stream = sys.stdout.buffer  # now: a progress bar puts itself in the place of sys.stdout
    try:
        for lines in results:
            stream.write("".join(f"{line}\n" for line in lines).encode())
            stream.flush()
    except BrokenPipeError:
        # Who reads has what he wanted. Nothing may be left to write when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
