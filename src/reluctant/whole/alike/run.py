"""One model asked twice for each continuation: untouched by `generate`, served by ours."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import reluctant
from reluctant.errors import ReluctantError
from reluctant.generation.decoding import generate
from reluctant.machine import cpu_model, versions
from reluctant.whole.alike.asks import METHODS, Ask, asks
from reluctant.whole.alike.judge import DIFFERENT, Judge, Verdict
from reluctant.whole.load import Loaded
from reluctant.whole.twin import twin

NEW = 32  # tokens of a continuation


@dataclass(frozen=True)
class Method:
    """What came of one way of decoding.

    verdicts: one a continuation. batched: how many of them stood in batches. rows: of the
    projection that were read exactly, one number a decision. all_logits: decisions that took all
    logits. seconds: untouched and ours, of all calls together.
    """

    name: str
    verdicts: tuple[Verdict, ...]
    batched: int
    rows: tuple[int, ...]
    all_logits: int
    seconds: tuple[float, float]

    def count(self, kind: str) -> int:
        """How many continuations are of this kind."""
        return sum(verdict.kind == kind for verdict in self.verdicts)


@dataclass(frozen=True)
class Result:
    """All continuations of one model. new: tokens of each. reasons: why calls of ours went as
    without us."""

    name: str
    new: int
    prompts: str
    methods: tuple[Method, ...]
    reasons: dict[str, int]

    @property
    def alike(self) -> bool:
        """Whether nothing differs by more than rounding."""
        return not any(method.count(DIFFERENT) for method in self.methods)

    def to_json(self) -> dict[str, Any]:
        """What `--json` writes."""
        methods = [
            asdict(method)
            | {
                "rows": {
                    "decisions": len(method.rows),
                    "median": median(method.rows) if method.rows else None,
                    "most": max(method.rows, default=None),
                },
                "verdicts": [asdict(verdict) for verdict in method.verdicts],
            }
            for method in self.methods
        ]
        return {
            "model": self.name,
            "new": self.new,
            "prompts": self.prompts,
            "alike": self.alike,
            "methods": methods,
            "reasons": self.reasons,
            "threads": torch.get_num_threads(),
            "machine": cpu_model(),
            "versions": versions("reluctant", "torch", "transformers"),
        }


def run_alike(
    loaded: Loaded,
    *,
    new: int = NEW,
    share: float = 1.0,
    on_progress: Callable[[str, int, int], object] = lambda what, done, all_: None,
) -> Result:
    """Compare all continuations of a model.

    loaded: float32. new: tokens of each continuation. share: of all prompts, to look at a part.
    on_progress: told what is being decoded, and how many continuations of all are done.

    Raises ReluctantError if the model does not generate, or its output projection is not served.
    """
    wanted = asks(loaded, new=new, share=share)
    served = twin(loaded.model)
    report = reluctant.optimize(served)
    if report.head is None or report.head.decoding is None:
        raise ReluctantError(
            f"the output projection of {loaded.name} is not served: there is nothing to compare"
        )
    decoding, judge = report.head.decoding, Judge(loaded.model, served)
    total, done = sum(len(ask.ids) for ask in wanted), 0
    model: Any = loaded.model
    asked = model.generate, _ours(served)
    for who in asked:
        _write(who, wanted[0])  # kernels are compiled, and what a forward does is seen
    methods = []
    for name in METHODS:
        mine = [ask for ask in wanted if ask.method == name]
        verdicts, spent = list[Verdict](), [0.0, 0.0]
        decoding.rows.clear()
        before = decoding.all
        for ask in mine:
            on_progress(name, done, total)
            found = [_write(who, ask) for who in asked]
            (theirs, ours), seconds = zip(*found, strict=True)
            spent = [a + b for a, b in zip(spent, seconds, strict=True)]
            kept = decoding.rows[:], decoding.all
            verdicts += [judge.compare(ask, row, theirs, ours) for row in range(len(ask.ids))]
            decoding.rows[:], decoding.all = kept  # a judge asks once more
            done += len(ask.ids)
        methods.append(
            Method(
                name,
                tuple(verdicts),
                sum(len(ask.ids) for ask in mine if len(ask.ids) > 1),
                tuple(decoding.rows),
                decoding.all - before,
                (spent[0], spent[1]),
            )
        )
    on_progress("done", total, total)
    lengths = [int(n) for ask in wanted for n in ask.mask.sum(1)]
    kind = "random tokens" if loaded.tokenizer is None else "tokens of real text"
    prompts = f"{min(lengths)} to {max(lengths)} {kind}"
    return Result(loaded.name, new, prompts, tuple(methods), dict(decoding.reasons))


def _ours(served: Any) -> Callable[..., Any]:
    return lambda **kwargs: generate(served, **kwargs)


def _write(who: Callable[..., Any], ask: Ask) -> tuple[Tensor, float]:
    torch.manual_seed(ask.seed)
    start = perf_counter()
    ids: Tensor = who(input_ids=ask.ids, attention_mask=ask.mask, **ask.how)
    return ids, perf_counter() - start
