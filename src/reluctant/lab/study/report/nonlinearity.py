"""Claim 1 in words and tables."""

from collections.abc import Mapping
from typing import Any

from reluctant.lab.study.nonlinearity import IMITATED, TRAINED
from reluctant.lab.study.report import losses
from reluctant.lab.study.report.claim import Claim, verdict
from reluctant.lab.study.report.figures import Figure, Results, mean, sign
from reluctant.lab.study.report.say import (
    NAMES,
    Two,
    beside,
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

CASES: Mapping[str, Two] = {
    "whole": two("all paths", "保留全部路径"),
    "without feed-forward": two("without feed-forward", "去掉前馈层"),
    "without residual": two("without residual", "去掉残差"),
    "attention alone": two("attention alone", "只有注意力"),
    "learned without": two("learned without feed-forward", "训练时就没有前馈层"),
}
# Layers of an untrained stack after which paths are compared: with attention alone the distance is
# soon that of float32's rounding, whatever the paths.
EARLY = 2
TITLE = two("What the non-linearity is worth", "非线性值多少")
DISTANCE = two("distance from rank one", "与秩一矩阵的距离")


def write(results: Results) -> Claim:
    """All of it."""
    words = texts("nonlinearity", results.plan)
    how = sign(results.loss("identity"), results.loss("base"))
    return Claim(
        key="nonlinearity",
        groups=["nonlinearity"],
        found=[*losses.said(results, TRAINED), *_linear(results), *_ranks(results)],
        verdict=joined([verdict(how, words["agrees"], words["contradicts"]), _beside(results)]),
        tables=[losses.loss_table(results, TITLE, TRAINED), _r2_table(results)],
        charts=_charts(results),
    )


def _beside(results: Results) -> Two | None:
    def early(case: str) -> Figure | None:
        return _depth(results, "untrained", case, "distance", EARLY)

    alone = early("attention alone")
    return beside(
        [
            (
                two("attention alone loses rank (Dong et al.)", "只有注意力时秩塌缩（Dong 等）"),
                sign(alone, early("whole")),
                -1,
            ),
            (
                two("the residual stops it (Dong et al.)", "残差能阻止（Dong 等）"),
                sign(early("without feed-forward"), alone),
                1,
            ),
            (
                two("so does the feed-forward layer (Dong et al.)", "前馈层也能（Dong 等）"),
                sign(early("without residual"), alone),
                1,
            ),
            (
                two(
                    "attention cannot take the feed-forward layer's place (Zhao et al.)",
                    "注意力不能代替前馈层（Zhao 等）",
                ),
                sign(results.loss("none-deep"), results.loss("base")),
                1,
            ),
        ]
    )


def _linear(results: Results) -> list[Two | None]:
    collapse, rounding = (
        results.figure("linear", lambda r, name=name: r["collapse"][name])  # type: ignore[misc]
        for name in ("from one matrix", "from float64")
    )
    said: list[Two | None] = []
    if collapse is not None and rounding is not None:
        a, b = max(collapse.values), max(rounding.values)
        said.append(
            two(
                "The trained layers with the identity are their one matrix: their outputs differ "
                f"by {a:.1e} of the largest at most, where float32 itself rounds by {b:.1e}.",
                f"带恒等函数的训练好的层就是那一个矩阵：输出之差至多为最大输出的 {a:.1e}，"
                f"而 float32 自身的舍入为 {b:.1e}。",
            )
        )
    shares = {name: _r2(results, name) for name in IMITATED if name != "identity"}
    lead = two(
        "One linear map has an R^2, the mean over the layers, of", "一个线性映射的 R^2（各层平均）"
    )
    said.append(listing(lead, [stated(NAMES[n], each, 2) for n, each in shares.items()]))
    rise = _rise(results, "base")
    if rise is not None:
        said.append(
            two(
                f"With all ReLU layers replaced by such maps, the loss rises by {rise.text()}.",
                f"把所有 ReLU 层都换成这样的映射，损失上升 {rise.text()}。",
            )
        )
    return said


def _r2(results: Results, name: str, layer: str | None = None) -> Figure | None:
    def of(result: Any) -> float:
        shares = result["imitated"][name]["r2"]
        return mean(shares) if layer is None else shares[layer]

    return results.figure("linear", of)


def _rise(results: Results, name: str) -> Figure | None:
    return results.figure(
        "linear", lambda r: r["imitated"][name]["replaced"] - r["imitated"][name]["loss"]
    )


def _ranks(results: Results) -> list[Two | None]:
    said = []
    for state, depth, words in (
        ("trained", -1, two("At the end of the trained encoder", "训练好的编码器末端")),
        (
            "untrained",
            EARLY,
            two("After two layers of the untrained stack", "未训练的堆叠两层之后"),
        ),
        ("untrained", -1, two("At its end", "其末端")),
    ):
        figures = {case: _depth(results, state, case, "distance", depth) for case in CASES}
        parts = [stated(CASES[case], figure) for case, figure in figures.items()]
        lead = two(f"{words['en']} the distance from rank one is", f"{words['zh']}与秩一矩阵的距离")
        said.append(listing(lead, parts))
        said.append(
            compared(
                CASES["attention alone"],
                figures["attention alone"],
                CASES["whole"],
                figures["whole"],
                DISTANCE,
            )
        )
    return said


def _depth(results: Results, state: str, case: str, what: str, depth: int) -> Figure | None:
    def of(result: Any) -> float | None:
        found = result[state].get(case)
        return None if found is None else found[what][depth]

    return results.figure("rank", of)


def _r2_table(results: Results) -> dict[str, Any]:
    first, rows = results.any("linear"), []
    if first is not None:
        for name in (each for each in IMITATED if each in first["imitated"]):
            shares = [cell(_r2(results, name, each)) for each in first["imitated"][name]["r2"]]
            rows.append([NAMES[name], *shares, cell(_rise(results, name))])
    layers = list(first["imitated"]["base"]["r2"]) if first else []
    columns = [
        two("model", "模型"),
        *(two(each.replace(".layers.", " "), each.replace(".layers.", " ")) for each in layers),
        two("loss, all replaced", "全部替换后损失增加"),
    ]
    return table(two("R^2 of the best linear map", "最佳线性映射的 R^2"), columns, rows)


def _charts(results: Results) -> list[dict[str, Any]]:
    first = results.any("rank")
    if first is None:
        return []
    charts = []
    for state, state_words in (
        ("trained", two("trained", "训练后")),
        ("untrained", two("untrained, deeper", "未训练，更深")),
    ):
        for what, label in (
            ("distance", DISTANCE),
            ("rank", two("effective rank", "有效秩")),
        ):
            series = [
                line(
                    CASES[case],
                    [
                        (float(depth), _depth(results, state, case, what, depth))
                        for depth in range(len(first[state][case][what]))
                    ],
                )
                for case in first[state]
            ]
            title = two(
                f"{label['en'].capitalize()} by depth, {state_words['en']}",
                f"{label['zh']}随深度的变化（{state_words['zh']}）",
            )
            charts.append(chart(title, two("layers", "层数"), label, series, log="y"))
    return charts
