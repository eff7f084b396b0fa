"""The demo: one trained model decodes the same sentences three ways, in turns."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import reluctant
from reluctant.announce import announced
from reluctant.demo.layers import Layer, count
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.machine import cpu_model, versions
from reluctant.surgery import Report
from reluctant.transformer import Transformer, greedy
from reluctant.translation.trained import Trained
from reluctant.translation.translator import LONGEST
from reluctant.whole.profile import FEED_FORWARD, profile

# In the order of the tables.
WAYS = {
    "torch": "untouched",
    "dense": "feed-forward layers by the engine, pinned to its dense way",
    "engine": "all that reluctant.optimize(model, narrow=True) serves",
}
LEAST = 1.0  # seconds in which the feed-forward layers' share of the time is measured


@dataclass(frozen=True)
class Decoded:
    """A translation. tokens: with its end. seconds: wall-clock time of decoding it."""

    text: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Sentence:
    """A sentence in English, and by the names of WAYS what became of it."""

    english: str
    ways: dict[str, Decoded]

    @property
    def identical(self) -> bool:
        """Whether all ways made the same text."""
        return len({decoded.text for decoded in self.ways.values()}) == 1


@dataclass(frozen=True)
class Total:
    """One way's tokens and seconds of all sentences."""

    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Result:
    """What the demo found.

    model: the name of its folder. layers: the served ones, in the model's order. calls: by way,
    how often the engines of all layers went each of theirs. feed_forward_share: of the time of
    "torch". threads: of torch, during the run.
    """

    model: str
    sentences: list[Sentence]
    layers: list[Layer]
    calls: dict[str, dict[str, int]]
    feed_forward_share: float
    threads: int

    @property
    def identical(self) -> bool:
        """Whether all texts are the same, all ways."""
        return all(sentence.identical for sentence in self.sentences)

    def total(self, way: str) -> Total:
        """Of one of WAYS."""
        each = [sentence.ways[way] for sentence in self.sentences]
        return Total(sum(d.tokens for d in each), sum(d.seconds for d in each))

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        totals = {way: self.total(way) for way in WAYS}
        return {
            "model": self.model,
            "identical": self.identical,
            "totals": {
                way: asdict(total) | {"tokens_per_second": total.tokens_per_second}
                for way, total in totals.items()
            },
            "feed_forward_share": self.feed_forward_share,
            "layers": [asdict(layer) for layer in self.layers],
            "calls": self.calls,
            "sentences": [asdict(sentence) for sentence in self.sentences],
            "threads": self.threads,
            "machine": cpu_model(),
            "versions": versions("reluctant", "torch"),
        }


def run_demo(
    folder: Path,
    sentences: Sequence[str],
    *,
    on_sentence: Callable[[Sentence], object] = lambda sentence: None,
) -> Result:
    """Translate the sentences greedily, one at a time, each of them all ways before the next.

    folder: a model as `reluctant train` writes it; computed with in float32. sentences: English.
    on_sentence: told of each as soon as it is done.

    Raises ReluctantError for a folder without such a model, for no sentences and for blank ones.
    """
    loaded = Trained(folder, engine=False, narrow=False, longest=LONGEST)
    encoded = loaded.encode(sentences)
    if not encoded or not all(encoded):
        raise ReluctantError(f"expected sentences, none of them blank; got {list(sentences)}")
    sources = [torch.tensor([ids]) for ids in encoded]
    plain = loaded.model
    models = {way: plain if way == "torch" else deepcopy(plain) for way in WAYS}
    reports = {
        "dense": reluctant.optimize(models["dense"], parts=("feed_forward",), way="dense"),
        "engine": reluctant.optimize(models["engine"], narrow=True),
    }
    engines = {way: _engines(report) for way, report in reports.items()}
    for model in models.values():
        _warm_up(model, sources)
    for engine in (each for some in engines.values() for each in some.values()):
        engine.calls.update(dict.fromkeys(engine.calls, 0))
    ways = {way: partial(_decode, model) for way, model in models.items()}
    done, targets = list[Sentence](), list[list[int]]()
    for number, (english, source) in enumerate(zip(sentences, sources, strict=True)):
        found = take_turns(ways, source, number)
        decoded = {}
        for way in WAYS:
            ids, seconds = found[way]
            decoded[way] = Decoded(loaded.text(ids), len(ids), seconds)
        done.append(Sentence(english, decoded))
        targets.append(found["engine"][0])
        on_sentence(done[-1])
    calls = {way: _calls(each) for way, each in engines.items()}
    again = cycle(sources)
    shares = profile(
        *(plain, models["engine"], reports["engine"]),
        lambda: _decode(plain, next(again)),
        least=LEAST,
    )
    return Result(
        model=folder.name,
        sentences=done,
        layers=count(plain, engines["engine"], sources, targets),
        calls=calls,
        feed_forward_share=shares[FEED_FORWARD],
        threads=torch.get_num_threads(),
    )


def take_turns(
    ways: Mapping[str, Callable[[Tensor], list[int]]], source: Tensor, number: int
) -> dict[str, tuple[list[int], float]]:
    """Each way's ids of the target, and its seconds. number: of the source; who begins rotates, so
    that whatever else the machine does meets all alike.

    >>> ways = {"ours": lambda source: [5, 2], "theirs": lambda source: [5, 2]}
    >>> list(take_turns(ways, torch.tensor([[4, 2]]), 1))
    ['theirs', 'ours']
    """
    names = list(ways)
    first = number % len(names)
    found = {}
    for name in names[first:] + names[:first]:
        start = perf_counter()
        ids = ways[name](source)
        found[name] = ids, perf_counter() - start
    return found


def _decode(model: Transformer, source: Tensor) -> list[int]:
    return greedy(model, source)[0].tolist()


@announced
@torch.no_grad()
def _warm_up(model: Transformer, sources: Sequence[Tensor]) -> None:
    """Whatever is done at first calls: kernels are compiled, layers compared, copies made."""
    for source in sources:
        model.encode(source)  # another length may want other kernels
    greedy(model, sources[0])


def _engines(report: Report) -> dict[str, Engine]:
    return {entry.name: entry.engine for entry in report.swapped if entry.engine is not None}


def _calls(engines: Mapping[str, Engine]) -> dict[str, int]:
    ways = ("few", "many", "dense")
    return {way: sum(engine.calls[way] for engine in engines.values()) for way in ways}
