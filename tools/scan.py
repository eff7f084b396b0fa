"""Surgery on every architecture of the installed transformers: `python -m tools.scan`.

Each architecture's base model is built from a tiny configuration in a process of its own, with a
limit on time and memory; its answers are compared before and after `optimize`. Writes the counts to
docs/families.md.
"""

import contextlib
import copy
import multiprocessing
import resource
import warnings
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import reluctant
from reluctant.files import write_atomic
from tools.tiny import inputs, tiny_config, tiny_model

SECONDS, MEMORY, AT_ONCE = 60, 8 * 2**30, 2  # of the processor; bytes; processes


@dataclass
class Finding:
    """What became of one architecture. difference: relative to the largest output, None if the
    model could not be run on guessed inputs.
    """

    name: str
    built: bool = False
    swapped: int = 0
    refused: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    difference: float | None = None
    slack: float = 0.0
    error: str = ""

    @property
    def bad(self) -> bool:
        changed = self.difference is not None and self.difference > max(1e-4, self.slack)
        return (self.built and bool(self.error)) or changed


def examine(name: str, config: str) -> Finding:
    """Build, run, optimize, run, restore."""
    import transformers  # noqa: PLC0415

    finding = Finding(name)
    try:
        config_class = getattr(transformers, config)
        model = tiny_model(getattr(transformers, name), tiny_config(config_class))
    except Exception as error:
        finding.error = f"{type(error).__name__}: {str(error)[:80]}"
        return finding
    finding.built = True
    twin = copy.deepcopy(model)
    given, before = _first_that_runs(twin)
    if given is not None:  # a model's own randomness is not ours to answer for
        finding.slack = 2 * _difference(before, _run(twin, given))
    try:
        report = reluctant.optimize(model)
    except reluctant.ReluctantError as error:
        if "found no feed-forward" not in str(error):
            finding.error = str(error)[:200]
        return finding
    except Exception as error:
        finding.error = f"optimize raises {type(error).__name__}: {str(error)[:200]}"
        return finding
    finding.swapped = len(report.swapped)
    finding.refused = [entry.reason for entry in report.refused]
    finding.untouched = [entry.reason for entry in report.untouched]
    try:
        if given is not None:
            runs = [_difference(before, _run(model, given)) for _ in range(2)]
            finding.difference = max(runs)
        reluctant.restore(model)
        kinds = [type(module) for module in model.modules()]
        if kinds != [type(module) for module in twin.modules()]:
            finding.error = "restore leaves other classes"
    except Exception as error:
        finding.error = f"afterwards: {type(error).__name__}: {str(error)[:200]}"
    return finding


def _run(model: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        leaves = tree_leaves(dict(model(**given)))
    return [x.float() for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def _first_that_runs(model: nn.Module) -> tuple[dict[str, Tensor] | None, list[Tensor]]:
    for given in inputs(model):
        with contextlib.suppress(Exception):
            found = _run(model, given)
            if found:
                return given, found
    return None, []


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    if [x.shape for x in before] != [x.shape for x in after]:
        return float("inf")
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        if a.numel() == 0:
            continue
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        old, new = a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)
        worst = max(worst, float((old - new).abs().max() / old.abs().max().clamp(min=1e-6)))
    return worst


def _child(pipe: Connection, name: str, config: str) -> None:
    from transformers.utils import logging  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))  # the system ends it then
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with Path("/dev/null").open("w") as sink, contextlib.redirect_stderr(sink):
        pipe.send(examine(name, config))
    pipe.close()


def architectures() -> list[tuple[str, str]]:
    """(class, configuration) of the base model of every model type that transformers knows."""
    from transformers.models.auto import configuration_auto, modeling_auto  # noqa: PLC0415

    found = {}
    configs: dict[str, str] = vars(configuration_auto)["CONFIG_MAPPING_NAMES"]
    for kind, names in modeling_auto.MODEL_MAPPING_NAMES.items():
        config = configs.get(kind)
        for name in (names,) if isinstance(names, str) else names:
            if config is not None:
                found[name] = config
    return sorted(found.items())


def _warm_up() -> None:
    """Load what every process would load for itself."""
    import transformers.models.bert.modeling_bert  # noqa: PLC0415, F401

    torch.set_num_threads(1)  # threads do not outlive a fork
    layer = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    for way in ("few", "many"):
        reluctant.optimize(layer, way=way)
        with torch.no_grad():
            layer(torch.randn(20, 32))


def scan(chosen: list[tuple[str, str]]) -> list[Finding]:
    """A finding for each of these architectures."""
    _warm_up()
    context = multiprocessing.get_context("fork")
    waiting = list(chosen)
    running: dict[Connection, tuple[str, BaseProcess]] = {}
    findings: list[Finding] = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("models", total=len(waiting))
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                ours, theirs = context.Pipe()
                name, config = waiting.pop(0)
                process: BaseProcess = context.Process(target=_child, args=(theirs, name, config))
                process.start()
                theirs.close()
                running[ours] = (name, process)
            for pipe in wait([*running]):
                assert isinstance(pipe, Connection)
                name, process = running.pop(pipe)
                try:
                    findings.append(pipe.recv())
                except EOFError:
                    findings.append(Finding(name, error="ended by the limit on time or memory"))
                process.join()
                progress.advance(bar)
    return sorted(findings, key=lambda finding: finding.name)


def page(findings: list[Finding]) -> str:
    """docs/families.md."""
    import transformers  # noqa: PLC0415

    built = [f for f in findings if f.built]
    ran = [f for f in built if f.difference is not None]
    refused = Counter(_short(reason) for f in built for reason in f.refused)
    untouched = Counter(_short(reason) for f in built for reason in f.untouched)
    lines = [
        "# Which models are served",
        "",
        f"Written by `python -m tools.scan` (`make families`) on "
        f"{datetime.now(UTC):%Y-%m-%d}, transformers {transformers.__version__}, torch "
        f"{torch.__version__}. One base model for each configuration that `AutoModel` knows, from "
        "its default activation and a tiny size, random weights. Models that such a size or "
        "guessed inputs do not fit say nothing about surgery.",
        "",
        "| | models | layers |",
        "|---|---|---|",
        f"| looked at | {len(findings)} | |",
        f"| built from a tiny configuration | {len(built)} | |",
        f"| of these, with layers served | {sum(f.swapped > 0 for f in built)} "
        f"| {sum(f.swapped for f in built)} |",
        f"| with layers refused | {sum(bool(f.refused) for f in built)} "
        f"| {sum(len(f.refused) for f in built)} |",
        f"| with look-alikes left alone | {sum(bool(f.untouched) for f in built)} "
        f"| {sum(len(f.untouched) for f in built)} |",
        f"| nothing found | {sum(not (f.swapped or f.refused or f.untouched) for f in built)} | |",
        f"| run before and after | {len(ran)} | |",
        f"| `optimize` raised, or an output changed beyond rounding | "
        f"{sum(f.bad for f in findings)} | |",
        "",
        f"Largest difference of an output, relative to its largest element: "
        f"{max((f.difference or 0 for f in ran if not f.bad), default=0):.1e}.",
        "",
        *_counts("Refused, by reason", refused),
        *_counts("Left alone, by reason", untouched),
        "## By model",
        "",
        "| model | served | refused | left alone | difference |",
        "|---|---|---|---|---|",
        *(
            f"| {f.name} | {f.swapped} | {len(f.refused)} | {len(f.untouched)} | "
            f"{'not run' if f.difference is None else f'{f.difference:.0e}'}"
            f"{' **' + _plain(f.error) + '**' if f.error else ''} |"
            for f in built
        ),
        "",
        "## Not built",
        "",
        *(f"- {f.name}: {_plain(f.error)}" for f in findings if not f.built),
        "",
    ]
    return "\n".join(lines)


def _short(reason: str) -> str:
    return _plain(reason.split(" (", maxsplit=1)[0].split(": ", maxsplit=1)[0])


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "/").replace("<", "&lt;")


def _counts(title: str, counts: Counter[str]) -> list[str]:
    rows = [f"| {reason} | {count} |" for reason, count in counts.most_common()]
    return [f"## {title}", "", "| reason | layers |", "|---|---|", *rows, ""]


def main(
    only: Annotated[str, typer.Argument(help="Part of a name: show these, write nothing.")] = "",
) -> None:
    """Look at every architecture, and write docs/families.md. Exits 1 if any came out changed."""
    findings = scan([a for a in architectures() if only.lower() in a[0].lower()])
    for finding in findings:
        if finding.bad:
            typer.echo(finding)
    if only:
        typer.echo(page(findings))
    else:
        write_atomic(Path("docs/families.md"), page(findings))
    raise typer.Exit(int(any(finding.bad for finding in findings)))


if __name__ == "__main__":
    typer.run(main)
