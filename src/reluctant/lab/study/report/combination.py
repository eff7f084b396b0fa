"""Claim 4 in words and tables."""

from collections.abc import Sequence
from typing import Any

from reluctant.lab.study.combination import ALONE, NEURONS, TASKS, WHERE
from reluctant.lab.study.report.claim import NO_VERDICT, Claim
from reluctant.lab.study.report.figures import Figure, Results, mean, sign
from reluctant.lab.study.report.say import (
    Two,
    cell,
    chart,
    compared,
    joined,
    line,
    listing,
    stated,
    table,
    two,
)
from reluctant.lab.study.report.texts import texts

NAMES = {
    "word": two("is a function word before it", "前一个词是不是虚词"),
    "half": two("is it in the first half", "是否在句子的前半"),
    "both": two("which of the four cases", "四种情况中的哪一种"),
    "either": two("is exactly one of the two true", "两件事是否恰有一件成立"),
    "parts": two("class and place themselves", "类别与位置本身"),
    "token": two("the token itself", "词元本身"),
    "input": two("the input", "输入"),
    "hidden": two("the hidden vector", "隐藏向量"),
    "random": two("a random layer as sparse", "同样稀疏的随机层"),
    "dense": two("a random layer without biases", "无偏置的随机层"),
    "output": two("the output", "输出"),
    "trained": two("the trained layer", "训练后的层"),
    "dealt": two(
        "the trained layer with labels dealt out anew among equal tokens",
        "标签在相同词元间重新分配后的训练层",
    ),
}
# Of accuracies of the "either" task, and of "both", where nothing need be combined.
COMPARED = (
    ("either", "hidden", "input"),
    ("either", "hidden", "random"),
    ("either", "hidden", "dense"),
    ("either", "output", "input"),
    ("both", "output", "input"),
)
# What the verdict is made of.
DECIDE = ("input", "hidden", "random", "dense")
HOW = {1: "above", 0: "same", -1: "below"}
ACCURACY = two("accuracy", "准确率")
CHANCE = two("by chance", "碰巧")
SHARE = two(
    "Share of neurons that answer to a class and a third together, and to neither alone",
    "只响应类别与位置的组合、不响应其中任一单项的神经元比例",
)


def write(results: Results) -> Claim:
    """All of it."""
    return Claim(
        key="combination",
        groups=["combination"],
        figures=_told(results, "either", DECIDE),
        found=[*_probed(results), *_neurons(results)],
        verdict=_verdict(results),
        tables=[_alone_table(results), _probe_table(results), _neuron_table(results)],
        charts=_charts(results),
    )


def _accuracy(results: Results, task: str, where: str, layer: str | None = None) -> Figure | None:
    """Of a layer; None: the mean over all."""

    def of(result: Any) -> float:
        by_layer = {name: each[task][where] for name, each in result["accuracy"].items()}
        return mean(by_layer) if layer is None else by_layer[layer]

    return results.figure("probes", of)


def _alone(results: Results, task: str, where: str) -> Figure | None:
    return results.figure("probes", lambda r: r["alone"][where][task])


def _told(results: Results, task: str, wheres: Sequence[str] = (*ALONE, *WHERE)) -> Two | None:
    figures = {
        where: (_alone if where in ALONE else _accuracy)(results, task, where) for where in wheres
    }
    lead = two(
        f"Accuracy of '{NAMES[task]['en']}' ({TASKS[task]:g} by chance), of layers the mean over "
        "all, from",
        f"“{NAMES[task]['zh']}”的准确率（碰巧为 {TASKS[task]:g}；各层取平均），读自",
    )
    return listing(lead, [stated(NAMES[where], each) for where, each in figures.items()])


def _probed(results: Results) -> list[Two | None]:
    said = [_told(results, task) for task in ("both", "either")]
    for task, one, other in COMPARED:
        what = two(
            f"accuracy of '{NAMES[task]['en']}'",
            f"“{NAMES[task]['zh']}”准确率",
        )
        a, b = _accuracy(results, task, one), _accuracy(results, task, other)
        said.append(compared(NAMES[one], a, NAMES[other], b, what, 4))
    return said


def _share(results: Results, kind: str, layer: str | None = None) -> Figure | None:
    """Of a layer; None: the mean over all."""

    def of(result: Any) -> float:
        by_layer = {name: each[kind] for name, each in result["layers"].items()}
        return mean(by_layer) if layer is None else by_layer[layer]

    return results.figure("neurons", of)


def _neurons(results: Results) -> list[Two | None]:
    shares = {kind: _share(results, kind) for kind in NEURONS}
    what = two("share of such neurons", "这类神经元的比例")
    return [
        listing(SHARE, [stated(NAMES[kind], each) for kind, each in shares.items()]),
        *(
            compared(NAMES["trained"], shares["trained"], NAMES[kind], shares[kind], what)
            for kind in ("random", "dealt")
        ),
    ]


def _verdict(results: Results) -> Two:
    """The figures agree if the trained layer tells more of "either" than its input, and more than
    both random layers: what cannot be told apart is evidence of nothing, of equality neither.
    """
    hidden = _accuracy(results, "either", "hidden")
    more = sign(hidden, _accuracy(results, "either", "input"))
    random, dense = (
        sign(hidden, _accuracy(results, "either", where)) for where in ("random", "dense")
    )
    conjunctive = sign(_share(results, "trained"), _share(results, "random"))
    if more is None or random is None or dense is None or conjunctive is None:
        return NO_VERDICT
    learned = min(random, dense)
    lead = two("Not shown.", "未能证实。")
    if more > 0 and learned > 0:
        lead = two("Agrees.", "一致。")
    elif more < 0:
        lead = two("Contradicts.", "相悖。")
    words = texts("combination", results.plan)
    found = {"input": more, "random": learned, "neurons": conjunctive}
    return joined([lead, *(words[f"{name}-{HOW[how]}"] for name, how in found.items())])


def _layers(results: Results) -> list[str]:
    found = results.any("probes")
    return list(found["accuracy"]) if found else []


def _alone_table(results: Results) -> dict[str, Any]:
    rows = [
        [NAMES[task], chance, *(cell(_alone(results, task, where)) for where in ALONE)]
        for task, chance in (TASKS.items() if results.any("probes") else ())
    ]
    columns = [two("what", "读什么"), CHANCE, *(NAMES[where] for where in ALONE)]
    title = two("Accuracy of linear probes of no layer", "不读任何层的线性探针的准确率")
    return table(title, columns, rows)


def _probe_table(results: Results) -> dict[str, Any]:
    rows = [
        [
            layer.replace(".layers.", " "),
            NAMES[task],
            *(cell(_accuracy(results, task, where, layer)) for where in WHERE),
        ]
        for layer in _layers(results)
        for task in TASKS
    ]
    columns = [two("layer", "层"), two("what", "读什么"), *(NAMES[where] for where in WHERE)]
    return table(two("Accuracy of linear probes", "线性探针的准确率"), columns, rows)


def _neuron_table(results: Results) -> dict[str, Any]:
    found = results.any("neurons")
    rows = [
        [layer.replace(".layers.", " "), *(cell(_share(results, kind, layer)) for kind in NEURONS)]
        for layer in (found["layers"] if found else ())
    ]
    return table(SHARE, [two("layer", "层"), *(NAMES[kind] for kind in NEURONS)], rows)


def _charts(results: Results) -> list[dict[str, Any]]:
    layers = _layers(results)
    series = [
        line(
            NAMES[where],
            [
                (float(i), _accuracy(results, "either", where, name))
                for i, name in enumerate(layers)
            ],
        )
        for where in WHERE
    ]
    title = two(
        "Is exactly one of the two true: what probes tell, by layer",
        "两件事是否恰有一件成立：各层探针的准确率",
    )
    return [chart(title, two("encoder layer", "编码器层"), ACCURACY, series)]
