"""Claim 4 in words and tables."""

from typing import Any

from reluctant.lab.study.combination import TASKS, WHERE
from reluctant.lab.study.report.claim import Claim, verdict
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
    "class": two("class of the word before", "前一个词的类别"),
    "place": two("third of the sentence", "在句中的三分位置"),
    "both": two("both together", "两者的组合"),
    "either": two("function word before or first half, not both", "虚词在前与前半句恰有其一"),
    "input": two("the input", "输入"),
    "hidden": two("the hidden vector", "隐藏向量"),
    "random": two("a random layer as wide", "同宽的随机层"),
    "output": two("the output", "输出"),
    "trained": two("the trained layer", "训练后的层"),
    "shuffled": two("shuffled labels", "打乱标签"),
}
ACCURACY = two("accuracy", "准确率")
KINDS = ("trained", "shuffled", "random")


def write(results: Results) -> Claim:
    """All of it."""
    return Claim(
        key="combination",
        groups=["combination"],
        found=[*_probed(results), *_neurons(results)],
        verdict=_verdict(results),
        tables=[_probe_table(results), _neuron_table(results)],
        charts=_charts(results),
    )


def _accuracy(results: Results, task: str, where: str, layer: str | None = None) -> Figure | None:
    def of(result: Any) -> float:
        by_layer = {name: each[task][where] for name, each in result["accuracy"].items()}
        return mean(by_layer) if layer is None else by_layer[layer]

    return results.figure("probes", of)


def _chance(results: Results, task: str) -> Figure | None:
    return results.figure("probes", lambda r: r["majority"][task])


def _probed(results: Results) -> list[Two | None]:
    said: list[Two | None] = []
    for task in TASKS:
        figures = {where: _accuracy(results, task, where) for where in WHERE}
        chance = _chance(results, task)
        lead = two(
            f"Of '{NAMES[task]['en']}' probes are right, the mean over the layers",
            f"“{NAMES[task]['zh']}”探针的准确率（各层平均）",
        )
        always = stated(two("always the commonest", "总猜最常见的"), chance)
        said.append(listing(lead, [*(stated(NAMES[w], f) for w, f in figures.items()), always]))
    for other in ("input", "random"):
        said.append(
            compared(
                NAMES["hidden"],
                _accuracy(results, "either", "hidden"),
                NAMES[other],
                _accuracy(results, "either", other),
                two("accuracy of the last one", "最后一项的准确率"),
            )
        )
    return said


def _share(results: Results, kind: str, layer: str | None = None) -> Figure | None:
    def of(result: Any) -> float:
        by_layer = {name: each[kind] for name, each in result["layers"].items()}
        return mean(by_layer) if layer is None else by_layer[layer]

    return results.figure("neurons", of)


def _neurons(results: Results) -> list[Two | None]:
    shares = {kind: _share(results, kind) for kind in KINDS}
    what = two("share", "比例")
    lead = two(
        "Neurons that answer to a conjunction and to neither part, as a share",
        "只响应组合、不响应其中任一项的神经元比例",
    )
    return [
        listing(lead, [stated(NAMES[kind], each) for kind, each in shares.items()]),
        *(
            compared(NAMES["trained"], shares["trained"], NAMES[kind], shares[kind], what)
            for kind in KINDS[1:]
        ),
    ]


def _verdict(results: Results) -> Two:
    """Of the task that no sum tells: against the input, and then against random weights."""
    words = texts("combination", results.plan)
    hidden = _accuracy(results, "either", "hidden")
    more = sign(hidden, _accuracy(results, "either", "input"))
    learned = sign(hidden, _accuracy(results, "either", "random"))
    why = {1: words["learned"], -1: words["unlearned"]}.get(learned or 0, words["width"])
    return verdict(more, joined([words["agrees"], why]), words["contradicts"])


def _layers(results: Results) -> list[str]:
    found = results.any("probes")
    return list(found["accuracy"]) if found else []


def _probe_table(results: Results) -> dict[str, Any]:
    rows = []
    for layer in _layers(results):
        for task in TASKS:
            chance = _chance(results, task)
            cells = [cell(_accuracy(results, task, where, layer)) for where in WHERE]
            rows.append([layer.replace(".layers.", " "), NAMES[task], cell(chance), *cells])
    columns = [
        two("layer", "层"),
        two("what", "读什么"),
        two("commonest", "最常见的"),
        *(NAMES[where] for where in WHERE),
    ]
    return table(two("Accuracy of linear probes", "线性探针的准确率"), columns, rows)


def _neuron_table(results: Results) -> dict[str, Any]:
    found = results.any("neurons")
    rows = [
        [layer.replace(".layers.", " "), *(cell(_share(results, kind, layer)) for kind in KINDS)]
        for layer in (found["layers"] if found else ())
    ]
    title = two(
        "Share of neurons that answer to a conjunction and to neither part",
        "只响应组合、不响应其中任一项的神经元比例",
    )
    return table(title, [two("layer", "层"), *(NAMES[kind] for kind in KINDS)], rows)


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
    title = two("What no sum tells, by layer", "相加说不出的那一项，按层")
    return [chart(title, two("encoder layer", "编码器层"), ACCURACY, series)]
