"""Claim 3 in words and tables."""

from collections.abc import Sequence
from typing import Any

from reluctant.lab.study.report import losses
from reluctant.lab.study.report.claim import Claim
from reluctant.lab.study.report.figures import Figure, Results, less, mean, sign
from reluctant.lab.study.report.say import (
    LOSS,
    MISSING,
    NAMES,
    Two,
    beside,
    cell,
    compared,
    joined,
    listing,
    stated,
    table,
    two,
)
from reluctant.lab.study.report.texts import texts

LEARNED = ("base", "no-residual", "no-residuals")
TITLE = two("With and without the residual path", "有无残差连接")
FREQUENCIES = two("Frequencies of tokens alone", "只看词元频率")
ALWAYS = two("the frequencies of tokens alone", "只看词元频率")
STACKS = {"encoder": "编码器", "decoder": "解码器"}
MOVES = {
    ("left_out", "feed-forward"): two("a feed-forward layer left out", "去掉一个前馈层"),
    ("swapped", "feed-forward"): two(
        "two neighbours' feed-forward layers swapped", "相邻两个前馈层互换"
    ),
    ("left_out", "layer"): two("a whole layer left out", "去掉一整层"),
    ("swapped", "layer"): two("two neighbouring layers swapped", "相邻两整层互换"),
}


def write(results: Results) -> Claim:
    """All of it."""
    words = texts("residual", results.plan)
    how = losses.judged(results, "no-residual", words["agrees"], words["contradicts"])
    return Claim(
        key="residual",
        groups=["residual"],
        figures=losses.listed(results, LEARNED),
        found=[
            *losses.said(results, LEARNED),
            *_frequencies(results),
            _moved(results),
            _first(results),
        ],
        verdict=joined([how, _beside(results)]),
        tables=[_loss_table(results), _move_table(results)],
    )


def _unigram(results: Results) -> Figure | None:
    return results.figure("moved", lambda r: r["unigram"])


def _frequencies(results: Results) -> list[Two | None]:
    """What the models are to be measured by that learn hardly anything."""
    unigram, loss = _unigram(results), results.loss("no-residuals")
    return [
        listing(FREQUENCIES, [stated(LOSS, unigram)]),
        compared(NAMES["no-residuals"], loss, ALWAYS, unigram),
    ]


def _loss_table(results: Results) -> dict[str, Any]:
    table, unigram = losses.loss_table(results, TITLE, LEARNED), _unigram(results)
    if unigram is not None:
        more = less(unigram, results.loss("base"))
        table["rows"].append([FREQUENCIES, MISSING, cell(unigram), cell(more)])
    return table


def _beside(results: Results) -> Two | None:
    last = results.plan.layers - 1

    def missed(indices: Sequence[int]) -> Figure | None:
        """What it costs to leave a whole layer out, one of these of either stack."""
        return results.figure(
            "moved",
            lambda r: mean(
                [
                    e["change"]
                    for e in r["left_out"]
                    if e["what"] == "layer" and e["index"] in indices
                ]
            ),
        )

    between = missed(range(1, last))
    first = two(
        "layers between are missed less than the first (Sun et al., of much deeper language "
        "models)",
        "缺中间的层不如缺首层要紧（Sun 等，对象为深得多的语言模型）",
    )
    less_than_last = two("and less than the last (the same)", "也不如缺末层要紧（同上）")
    return beside(
        [
            (first, sign(between, missed([0])), -1),
            (less_than_last, sign(between, missed([last])), -1),
        ]
    )


def _change(results: Results, how: str, what: str) -> Figure | None:
    """The mean over all places."""
    return results.figure(
        "moved", lambda r: mean([e["change"] for e in r[how] if e["what"] == what])
    )


def _moved(results: Results) -> Two | None:
    lead = two("Mean rise of the loss with", "损失的平均上升")
    return listing(lead, [stated(words, _change(results, *key)) for key, words in MOVES.items()])


def _first(results: Results) -> Two | None:
    """Of the places, where a feed-forward layer is missed the most."""
    found = results.any("moved")
    if found is None:
        return None
    places = [(e["stack"], e["index"]) for e in found["left_out"] if e["what"] == "feed-forward"]
    figures = {place: _at(results, "left_out", "feed-forward", *place) for place in places}
    known = {place: figure for place, figure in figures.items() if figure is not None}
    if not known:
        return None
    most = max(known, key=lambda place: known[place].mean)
    least = min(known, key=lambda place: known[place].mean)
    return two(
        f"The feed-forward layer of {most[0]} layer {most[1]} (counted from 0) is missed the most: "
        f"{known[most].text()}; that of {least[0]} layer {least[1]} the least: "
        f"{known[least].text()}.",
        f"去掉后损失上升最多的是{STACKS[most[0]]}第 {most[1]} 层（从 0 数起）的前馈层："
        f"{known[most].text()}；最少的是{STACKS[least[0]]}第 {least[1]} 层："
        f"{known[least].text()}。",
    )


def _at(results: Results, how: str, what: str, stack: str, index: int) -> Figure | None:
    place = {"what": what, "stack": stack, "index": index}

    def of(result: Any) -> float | None:
        return next((e["change"] for e in result[how] if place.items() <= e.items()), None)

    return results.figure("moved", of)


def _move_table(results: Results) -> dict[str, Any]:
    found, rows = results.any("moved"), []
    for stack, index in dict.fromkeys(
        (e["stack"], e["index"]) for e in (found or {"left_out": []})["left_out"]
    ):
        cells = [cell(_at(results, how, what, stack, index)) for how, what in MOVES]
        rows.append([f"{stack} {index}", *cells])
    title = two(
        "Rise of the loss when a layer is left out, or swapped with the next (counted from 0)",
        "去掉某层或与下一层互换时损失的上升（层从 0 数起）",
    )
    return table(title, [two("layer", "层"), *MOVES.values()], rows)
