"""How alike a sentence's positions become by depth, in words and charts: a part of claim 1."""

import math
from typing import Any

from reluctant.lab.study.report.figures import Figure, Results, mean, sign
from reluctant.lab.study.report.say import Two, chart, compared, line, listing, stated, two

CASES = {
    "whole": two("all paths", "全部路径"),
    "without feed-forward": two("no feed-forward layer", "没有前馈层"),
    "without residual": two("no residual", "没有残差"),
    "attention alone": two("attention alone", "只有注意力"),
    "learned without": two("a model that learned without feed-forward", "训练时就没有前馈层的模型"),
}
DISTANCE = two("distance from all positions alike", "与“各位置全同”的距离")
# The distance stays, if so much of it is left at the end: collapsed stacks have some 1e-7 of it.
STAYS = 0.1
# After so many layers it tells how fast it falls: with no residual it is soon float32's rounding.
EARLY = (2, 3)
_ROUNDING = 1e-12
Item = tuple[Two, int | None, int]


def literature(results: Results) -> list[Item]:
    """For `beside`: what Dong et al. say of stacks, and the untrained stacks here."""
    alone, slowed = (_speed(results, case) for case in ("attention alone", "without residual"))
    return [
        (
            two(
                "attention alone makes all positions alike (Dong et al.)",
                "只有注意力时各位置趋于全同（Dong 等）",
            ),
            _stays(results, "attention alone"),
            -1,
        ),
        (
            two("with the residual it does not (Dong et al.)", "有残差时不会（Dong 等）"),
            _stays(results, "without feed-forward"),
            1,
        ),
        (
            two(
                "nor with the feed-forward layer and no residual (Dong et al., abstract)",
                "有前馈层而没有残差时也不会（Dong 等，摘要）",
            ),
            _stays(results, "without residual"),
            1,
        ),
        (
            two(
                "the feed-forward layer slows it (Dong et al., analysis)",
                "前馈层使之变慢（Dong 等，正文分析）",
            ),
            sign(slowed, alone),
            1,
        ),
    ]


def said(results: Results) -> list[Two | None]:
    """What is left of the distance by depth, and how fast it falls."""
    depth = results.plan.deep
    trained = {case: _depth(results, "trained", case, "distance", -1) for case in CASES}
    kept = {case: _kept(results, case) for case in CASES}
    parts: list[Two | None] = []
    for en, zh, figures in (
        (f"At the end of the trained encoder the {DISTANCE['en']} is, with",
         f"训练好的编码器末端{DISTANCE['zh']}", trained),
        (f"Of this distance there is left after {depth} untrained layers, as a share, with",
         f"这一距离在未训练的 {depth} 层之后所剩的比例", kept),
    ):  # fmt: skip
        stateds = [stated(CASES[case], figure) for case, figure in figures.items()]
        parts.append(listing(two(en, zh), stateds))
    names = CASES["without residual"], CASES["attention alone"]
    for layers in EARLY:
        lead = two(f"After {layers} of them the distance is, with", f"其中 {layers} 层之后的距离")
        early = (
            _depth(results, "untrained", case, "distance", layers)
            for case in ("without residual", "attention alone")
        )
        both = zip(names, early, strict=True)
        parts.append(listing(lead, [stated(name, each, 5) for name, each in both]))
    what = two(
        "decimal logarithm of this distance (the mean of the two)",
        "这一距离的常用对数（两处平均）",
    )
    slowed, alone = (_speed(results, case) for case in ("without residual", "attention alone"))
    return [*parts, compared(names[0], slowed, names[1], alone, what, 2)]


def charts(results: Results) -> list[dict[str, Any]]:
    """Distance and rank by depth, of trained encoders and untrained stacks."""
    first = results.any("rank")
    if first is None:
        return []
    made = []
    for state, state_words in (
        ("trained", two("trained", "训练后")),
        ("untrained", two("untrained, deeper", "未训练，更深")),
    ):
        for what, label in (
            ("distance", DISTANCE),
            ("sentence_rank", two("effective rank of a sentence", "句子的有效秩")),
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
            x = two("layers passed", "经过的层数")
            made.append(chart(title, x, label, series, log="y"))
    return made


def _stays(results: Results, case: str) -> int | None:
    """1: in every seed more than STAYS of the distance is left at the end; -1: in none; 0: in some.
    None: for want of seeds.
    """
    kept = _kept(results, case)
    if kept is None or len(kept.values) < 2:
        return None
    stays = [value > STAYS for value in kept.values]
    return 1 if all(stays) else 0 if any(stays) else -1


def _kept(results: Results, case: str) -> Figure | None:
    """Of the distance before the first untrained layer, the share that is left after the last."""

    def of(result: Any) -> float | None:
        found = result["untrained"].get(case)
        return None if found is None else found["distance"][-1] / found["distance"][0]

    return results.figure("rank", of)


def _speed(results: Results, case: str) -> Figure | None:
    """The decimal logarithm of the distance in the untrained stack, the mean over EARLY."""

    def of(result: Any) -> float:
        distances = result["untrained"][case]["distance"]
        return mean([math.log10(max(distances[depth], _ROUNDING)) for depth in EARLY])

    return results.figure("rank", of)


def _depth(results: Results, state: str, case: str, what: str, depth: int) -> Figure | None:
    """After so many layers; 0: before the first; -1: after the last."""

    def of(result: Any) -> float | None:
        found = result[state].get(case)
        return None if found is None else found[what][depth]

    return results.figure("rank", of)
