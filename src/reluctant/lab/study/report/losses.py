"""The losses of trained models beside the base model's: in sentences, in tables, as a verdict."""

import math
from collections.abc import Sequence
from typing import Any

from reluctant.lab.study.catalogue import BASE, HALF
from reluctant.lab.study.report.claim import NO_VERDICT, verdict
from reluctant.lab.study.report.figures import Figure, Results, less, mean, sign
from reluctant.lab.study.report.say import (
    NAMES,
    Two,
    cell,
    compared,
    joined,
    listing,
    stated,
    table,
    two,
)

LEAD = two("Loss in nats a token", "损失（每词元纳特）")
COLUMNS = (
    two("model", "模型"),
    two("parameters", "参数量"),
    two("loss", "损失"),
    two("more than ReLU", "比 ReLU 多"),
)


def called(name: str) -> Two:
    """What a model is called, at whatever rate it learned."""
    return NAMES[name.removesuffix(HALF)]


def better(results: Results, name: str) -> str:
    """A model, or the same with half the learning rate: which of them there is; if both, which
    diverged in fewer seeds; if in as many, which has the lower mean loss.
    """

    def order(each: str) -> tuple[bool, int, float]:
        ended = [r["loss"] for r in results.by_seed(each).values() if r["loss"] is not None]
        lost, runs = diverged(results, each)
        return not runs, lost, mean(ended) if ended else math.inf

    return min((name, name + HALF), key=order)


def diverged(results: Results, name: str) -> tuple[int, int]:
    """In how many runs training ended with a loss that was not finite, of how many."""
    runs = results.by_seed(name).values()
    return sum(bool(each.get("diverged")) for each in runs), len(runs)


def worse(results: Results, name: str, other: str) -> Figure | None:
    """By how much the loss is above another model's; None unless it is in all of several seeds."""
    more = less(results.loss(name), results.loss(other))
    if more is None or len(more.values) < 2 or min(more.values) <= 0:
        return None
    return more


def listed(results: Results, names: Sequence[str]) -> Two | None:
    """All of them in one sentence."""
    parts = [stated(called(name), results.loss(name)) or _lost(results, name) for name in names]
    return listing(LEAD, parts)


def said(results: Results, names: Sequence[str], base: str = BASE) -> list[Two | None]:
    """All of them in one sentence, and each against the base model in one of its own."""
    return [listed(results, names), *against_base(results, names, base)]


def against_base(results: Results, names: Sequence[str], base: str = BASE) -> list[Two | None]:
    """A sentence for each but the base model."""
    return [
        compared(called(name), results.loss(name), called(base), results.loss(base))
        for name in names
        if name != base
    ]


def judged(
    results: Results, name: str, agrees: Two, contradicts: Two, base: str = BASE
) -> Two:  # fmt: skip
    """The verdict of a claim which says that the loss of `name` is above the base model's.

    Training that diverged has no loss; that is evidence itself.
    """
    (lost, runs), (base_lost, base_runs) = diverged(results, name), diverged(results, base)
    if not runs or not base_runs:
        return NO_VERDICT
    if not lost and not base_lost:
        return verdict(sign(results.loss(name), results.loss(base)), agrees, contradicts)
    why = two(
        f"Training diverged in {lost} of {runs} runs with {called(name)['en']}, and in {base_lost} "
        f"of {base_runs} with {called(base)['en']}.",
        f"{called(name)['zh']}的 {runs} 次训练中发散 {lost} 次，"
        f"{called(base)['zh']}的 {base_runs} 次中发散 {base_lost} 次。",
    )
    return joined([lead(lost / runs - base_lost / base_runs), why])


def lead(share: float) -> Two:
    """How a verdict begins. share: from -1, against the claim, to 1, for it; 0: undecided.

    >>> lead(1)["en"], lead(-0.5)["en"], lead(0)["en"]
    ('Agrees.', 'Contradicts in part.', 'Undecided.')
    """
    if share == 0:
        return two("Undecided.", "未定。")
    en, zh = ("Agrees", "一致") if share > 0 else ("Contradicts", "相悖")
    return two(f"{en}.", f"{zh}。") if abs(share) == 1 else two(f"{en} in part.", f"部分{zh}。")


def loss_table(
    results: Results, title: Two, names: Sequence[str], base: str = BASE
) -> dict[str, Any]:
    """Parameters, loss, and by how much it is above the base model's; of those that are there."""
    return table(title, COLUMNS, [_row(results, each, base) for each in names if results.any(each)])


def rates_table(results: Results, title: Two, names: Sequence[str]) -> dict[str, Any]:
    """The same of models that learned at two rates: the better of them, and then both."""
    base, lr = better(results, BASE), results.plan.lr
    found = {name: better(results, name) for name in names}
    rows = [
        [*_row(results, best, base), _loss(results, name), _loss(results, name + HALF)]
        for name, best in found.items()
        if results.any(best)
    ]
    rates = [two(f"at rate {rate:g}", f"学习率 {rate:g}") for rate in (lr, lr / 2)]
    return table(title, [*COLUMNS, *rates], rows)


def _row(results: Results, name: str, base: str) -> list[Any]:
    first, loss = results.any(name), results.loss(name)
    parameters = first["parameters"] if first else None
    more = less(loss, results.loss(base)) if name != base else None
    return [called(name), parameters, _loss(results, name), cell(more)]


def _loss(results: Results, name: str) -> Any:
    lost, runs = diverged(results, name)
    return _times(lost, runs) if lost else cell(results.loss(name))


def _lost(results: Results, name: str) -> Two | None:
    """A name and that its training diverged: no sentence yet."""
    lost, runs = diverged(results, name)
    if not lost:
        return None
    times = _times(lost, runs)
    return two(f"{called(name)['en']} {times['en']}", f"{called(name)['zh']} {times['zh']}")


def _times(lost: int, runs: int) -> Two:
    return two(f"diverged in {lost} of {runs}", f"{runs} 次中发散 {lost} 次")
