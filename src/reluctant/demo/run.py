"""The demo: one trained model three ways, and in our own Transformer, side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch

import reluctant
from reluctant.demo.accentor import load
from reluctant.demo.cached import Cached, SecondAct
from reluctant.demo.decode import Decoded, decode
from reluctant.demo.layers import Layer, measure, record_inputs, side, typical_tokens
from reluctant.demo.logits import Forced, compare, largest_difference
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.machine import cpu_model, versions
from reluctant.surgery import Report

AS_TRUE = 1.5  # times the untouched model's RMS error against float64: no more is allowed


@dataclass(frozen=True)
class Result:
    """What the demo found. Seconds are sums over all sentences.

    Attributes:
        texts: name of the way -> the sentences with stress marks.
        max_logit_diff: largest difference of any logit, engine against untouched: at every step
            of decoding, and once more with the untouched model's answers given to both.
        dense_logit_diff: the same in decoding, pinned dense against untouched: what another order
            of summing alone does.
        forced: logits of the same answers against those of the model in float64.
        layers: the feed-forward layers, in the model's order.
        seconds: "eager", "dense", "engine".
        transformer: the same weights and sentences through `reluctant.transformer`.
        batch_size: sentences decoded together.
        threads: of torch, during the run.
    """

    texts: dict[str, list[str]]
    max_logit_diff: float
    dense_logit_diff: float
    forced: Forced
    layers: list[Layer]
    seconds: dict[str, float]
    transformer: SecondAct
    batch_size: int
    threads: int

    @property
    def identical(self) -> bool:
        """Whether all three made the same texts."""
        return self.texts["eager"] == self.texts["dense"] == self.texts["engine"]

    @property
    def unchanged(self) -> bool:
        """Whether the model's answers did not change: same texts, logits as true as before."""
        return self.identical and self.as_true and self.transformer.identical

    @property
    def as_true(self) -> bool:
        """Whether the logits are as near to float64 as those of the untouched model."""
        return self.forced.engine.rms <= AS_TRUE * self.forced.eager.rms

    @property
    def feed_forward_share(self) -> float:
        """About which share of the untouched model's time its feed-forward layers take.

        More than this no faster layer can save: calls x time of the median call / seconds.
        """
        spent = sum(sum(layer.calls.values()) * layer.typical.eager_us for layer in self.layers)
        return 1e-6 * spent / self.seconds["eager"]

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes. A layer's dense_us and sparse_us are those of its typical call."""
        return {
            "sentences": len(self.texts["eager"]),
            "identical": self.identical,
            "max_logit_diff": _finite(self.max_logit_diff),
            "layers": [
                {
                    "name": layer.name,
                    "active": layer.text.active,
                    "candidates": layer.text.candidates,
                    "dense_us": layer.typical.dense_us,
                    "sparse_us": layer.typical.sparse_us,
                    "calls": layer.calls,
                    "padding": layer.padding and layer.padding._asdict(),
                    "typical": asdict(layer.typical),
                    "one": asdict(layer.one),
                }
                for layer in self.layers
            ],
            "seconds": self.seconds,
            "transformer": {
                "identical": self.transformer.identical,
                "seconds": self.transformer.seconds,
                "calls": self.transformer.calls,
            },
            "logit_error": {
                name: {key: _finite(value) for key, value in asdict(error).items()}
                for name, error in (("eager", self.forced.eager), ("engine", self.forced.engine))
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
    """Put stress marks on the texts three times, and look at each feed-forward layer.

    In turns with these three, the same weights decode the same texts through `Transformer`'s cache.

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
        accentors = {name: load() for name in ("eager", "dense", "engine")}
        dense = _engines(reluctant.optimize(accentors["dense"].model, way="dense"))
        free = _engines(reluctant.optimize(accentors["engine"].model))
        cached = {name: Cached(accentors["eager"]) for name in ("dense", "engine")}
        reluctant.optimize(cached["dense"].model.transformer, way="dense")
        ours = _engines(reluctant.optimize(cached["engine"].model.transformer))

        batches = [list(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        everyone = accentors | {f"cached {name}": each for name, each in cached.items()}
        decode(everyone, batches[:1])  # compiles what has to be compiled
        for engine in (*free.values(), *ours.values()):
            engine.calls.update(dict.fromkeys(engine.calls, 0))
        decoded = decode(everyone, batches, on_batch)
        calls = {name: dict(engine.calls) for name, engine in free.items()}
        second_act = _second_act(decoded, list(ours.values()))

        logits = {name: each.logits for name, each in decoded.items()}
        answers = decoded["eager"].texts
        exact = load()
        exact.model.double()
        forced = compare(accentors["eager"], accentors["engine"], exact, texts, answers)
        tokens = typical_tokens([len(steps) for steps in logits["eager"]], [*map(len, batches)])
        inputs = record_inputs(accentors["eager"], list(free), texts, answers)
        layers = [
            measure(
                name,
                accentors["eager"].model.get_submodule(name),
                {"dense": dense[name], "engine": engine},
                inputs[name],
                tokens[side(name)],
                calls[name],
                rounds,
            )
            for name, engine in free.items()
        ]
        return Result(
            texts={name: decoded[name].texts for name in accentors},
            max_logit_diff=_max(
                largest_difference(logits["eager"], logits["engine"]), forced.apart
            ),
            dense_logit_diff=largest_difference(logits["eager"], logits["dense"]),
            forced=forced,
            layers=layers,
            seconds={name: decoded[name].seconds for name in accentors},
            transformer=second_act,
            batch_size=batch_size,
            threads=torch.get_num_threads(),
        )


def _engines(report: Report) -> dict[str, Engine]:
    """Name of the layer -> its engine."""
    return {entry.name: entry.engine for entry in report.swapped if entry.engine is not None}


def _second_act(decoded: Mapping[str, Decoded], engines: Sequence[Engine]) -> SecondAct:
    ways = {"original": "eager", "dense": "cached dense", "engine": "cached engine"}
    return SecondAct(
        texts={name: decoded[way].texts for name, way in ways.items()},
        seconds={name: decoded[way].seconds for name, way in ways.items()},
        calls={way: sum(engine.calls[way] for engine in engines) for way in engines[0].calls},
    )


def _max(*values: float) -> float:
    """The largest, NaN if one is NaN."""
    return float(torch.tensor(values, dtype=torch.float64).max())


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
