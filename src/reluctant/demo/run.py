"""The demo: one trained model in its own package, and in our Transformer, side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch

import reluctant
from reluctant.demo.accentor import load
from reluctant.demo.cached import Cached
from reluctant.demo.decode import decode
from reluctant.demo.layers import Layer, measure, record_inputs
from reluctant.demo.logits import Forced, compare
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.machine import cpu_model, versions

AS_TRUE = 1.5  # times the RMS error without the engine, against float64: no more is allowed
WARM_UP = "Он уехал."  # what the first calls are made with: they compile, and check the layers


@dataclass(frozen=True)
class Result:
    """What the demo found, by name of the way: "package", "cached", "engine".

    Attributes:
        sentences: as they were given.
        texts: way -> the sentences with stress marks.
        seconds: way -> wall-clock time of decoding them all.
        forced: errors of logits, with the package's answers given.
        layers: the feed-forward layers, in the model's order.
        batch_size: sentences decoded together.
        threads: of torch, during the run.
    """

    sentences: list[str]
    texts: dict[str, list[str]]
    seconds: dict[str, float]
    forced: Forced
    layers: list[Layer]
    batch_size: int
    threads: int

    @property
    def identical(self) -> bool:
        """Whether all three made the same texts."""
        return self.texts["package"] == self.texts["cached"] == self.texts["engine"]

    @property
    def as_true(self) -> bool:
        """Whether logits are as near to float64 with the engine as without it."""
        return self.forced.engine.rms <= AS_TRUE * self.forced.cached.rms

    @property
    def unchanged(self) -> bool:
        """What is promised: the same answers, from logits as true as before."""
        return self.identical and self.as_true

    @property
    def calls(self) -> dict[str, int]:
        """How often the engine went each way, in all layers together, while decoding."""
        ways = self.layers[0].calls
        return {way: sum(layer.calls[way] for layer in self.layers) for way in ways}

    @property
    def feed_forward_share(self) -> float:
        """About which share of decoding with a cache the feed-forward layers take, without engine.

        More than this no faster layer can save: calls x time of a call / seconds.
        """
        spent = sum(sum(layer.calls.values()) * layer.eager_us for layer in self.layers)
        return 1e-6 * spent / self.seconds["cached"]

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        return {
            "sentences": len(self.sentences),
            "identical": self.identical,
            "seconds": self.seconds,
            "calls": self.calls,
            "layers": [asdict(layer) for layer in self.layers],
            "logit_error": {
                way: {key: _finite(value) for key, value in error.items()}
                for way, error in asdict(self.forced).items()
            },
            "feed_forward_share": self.feed_forward_share,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "machine": cpu_model(),
            "versions": versions("reluctant", "torch", "ruaccent-predictor"),
        }


def run_demo(
    texts: Sequence[str],
    *,
    batch_size: int = 1,
    rounds: int = 5,
    on_batch: Callable[[], object] = lambda: None,
) -> Result:
    """Put stress marks on the texts three ways in turns, and look at each feed-forward layer.

    Args:
        texts: Russian sentences of at most 200 characters.
        batch_size: sentences decoded together.
        rounds: turns of each way when the layers are timed.
        on_batch: called after each batch, for a progress bar.

    Raises:
        ReluctantError: ruaccent-predictor is not installed; there are no texts.
    """
    if not texts or batch_size < 1:
        raise ReluctantError(
            f"expected texts and a batch size of 1 or more, got {len(texts)} and {batch_size}"
        )
    with _own_threads():
        package = load()
        cached, served = Cached(package), Cached(package)
        report = reluctant.optimize(served.transformer)
        engines = {entry.name: entry.engine for entry in report.swapped if entry.engine is not None}
        ways = {"package": package, "cached": cached, "engine": served}
        decode(ways, [[WARM_UP] * batch_size])
        for engine in engines.values():
            engine.calls.update(dict.fromkeys(engine.calls, 0))
        batches = [list(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        decoded = decode(ways, batches, on_batch)
        calls = {
            name: {way: n for way, n in engine.calls.items() if way != "training"}
            for name, engine in engines.items()
        }
        answers = decoded["package"].texts
        return Result(
            sentences=list(texts),
            texts={way: each.texts for way, each in decoded.items()},
            seconds={way: each.seconds for way, each in decoded.items()},
            forced=compare(cached, served, texts, answers),
            layers=_layers(package, cached, engines, calls, texts, answers, batch_size, rounds),
            batch_size=batch_size,
            threads=torch.get_num_threads(),
        )


def _layers(
    package: Any,
    cached: Cached,
    engines: dict[str, Engine],
    calls: dict[str, dict[str, int]],
    texts: Sequence[str],
    answers: Sequence[str],
    batch_size: int,
    rounds: int,
) -> list[Layer]:
    """Ours are given what the package's own layers are given: the models are one."""
    theirs = {name: f"transformer.{name.removesuffix('.feed_forward')}" for name in engines}
    inputs = record_inputs(package, list(theirs.values()), texts, answers)
    return [
        measure(
            theirs[name],
            cached.transformer.get_submodule(name),
            *(engine, inputs[theirs[name]], batch_size, calls[name], rounds),
        )
        for name, engine in engines.items()
    ]


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if isfinite(value) else None


@contextmanager
def _own_threads() -> Iterator[None]:
    """The accentor limits torch's threads when it is loaded; afterwards they are as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
