"""Claim 2 in words and tables."""

from reluctant.lab.study.catalogue import ACTIVATIONS, BASE, CAPACITY, ratio_name
from reluctant.lab.study.plan import SIZES
from reluctant.lab.study.report import equal, losses
from reluctant.lab.study.report.claim import NO_VERDICT, Claim, verdict
from reluctant.lab.study.report.figures import Figure, Results, less, sign
from reluctant.lab.study.report.say import (
    LOSS,
    NAMES,
    Two,
    beside,
    compared,
    joined,
    listing,
    lowest,
    stated,
    two,
)
from reluctant.lab.study.report.texts import texts
from reluctant.lab.study.report.width_tables import (
    RATIO,
    SIZE,
    all_table,
    charts,
    equal_table,
    pass_table,
    passed,
)

OTHERS = (*ACTIVATIONS, "hourglass", *CAPACITY)
TITLE = two("Other activations and shapes, at equal parameters", "参数量相等时的其他激活与形状")


def write(results: Results) -> Claim:
    """All of it."""
    return Claim(
        key="width",
        groups=["width", "timing"],
        figures=_figures(results),
        found=[*_ratios(results), *_passes(results), *_others(results)],
        verdict=_verdict(results),
        tables=[
            equal_table(results),
            all_table(results),
            pass_table(results),
            losses.loss_table(results, TITLE, (BASE, *OTHERS)),
        ],
        charts=charts(results),
    )


def _by_ratio(results: Results, size: str) -> dict[str, Figure | None]:
    return {equal.label(r): results.loss(ratio_name(r, size)) for r in results.plan.ratios}


def _figures(results: Results) -> Two | None:
    lead = two(
        "Loss at equal parameters, by d_ff / d_model", "参数量相等时的损失（依 d_ff / d_model）"
    )
    by_ratio = _by_ratio(results, "middle")
    at = [stated(_at(r), by_ratio[equal.label(r)]) for r in results.plan.ratios]
    up, down = _best(results)
    if up is None or down is None:
        return listing(lead, at)
    difference = two(
        f"The best above 1 ({equal.label(up[0])}) less the best below 1 ({equal.label(down[0])})",
        f"大于 1 者中最好的（{equal.label(up[0])}）减小于 1 者中最好的（{equal.label(down[0])}）",
    )
    more = stated(LOSS, less(up[1], down[1]))
    return joined([listing(lead, at), listing(difference, [more])])


def _at(ratio: float) -> Two:
    return two(f"{equal.label(ratio)}:", f"{equal.label(ratio)}：")


def _when(ratio: float) -> Two:
    label = equal.label(ratio)
    return two(f"{RATIO['en']} = {label}", f"{RATIO['zh']} 为 {label} 时")


def _ratios(results: Results) -> list[Two | None]:
    said = [
        lowest(
            _by_ratio(results, size),
            two(
                f"At equal parameters ({size} models) the loss by d_ff / d_model",
                f"参数量相等时（{SIZE[size]['zh']}模型），损失随 d_ff / d_model",
            ),
        )
        for size in SIZES
    ]
    time = equal.training(results)
    lead = two(
        f"At equal training time ({time.time:.0f} s) the loss",
        f"训练时间相等（{time.time:.0f} 秒）时，损失",
    )
    said.append(lowest(time.losses, lead))
    for what, en, zh in (
        ("engine_ms", "with the engine", "有引擎"),
        ("plain_ms", "in plain torch", "普通 torch"),
    ):
        token = equal.decoding(results, what)
        lead = two(
            f"With at most {token.time:.3f} ms a token {en}, the loss of a ratio's best model",
            f"{zh}每词元至多 {token.time:.3f} 毫秒时，各比例最好模型的损失",
        )
        said += [lowest(token.losses, lead), _front(results, what, two(en, zh))]
    return [*said, _alike(results)]


def _front(results: Results, what: str, how: Two) -> Two | None:
    """The models that are worth their time, and which of them are so in every seed."""
    lead = two(
        f"Models that no other equals or beats in both time {how['en']} and loss, "
        "by d_ff / d_model",
        f"{how['zh']}时，没有其他模型在时间和损失上都不逊于它的模型（依 d_ff / d_model）",
    )
    parts, always = [], equal.always(results, what)
    for each in equal.front(results, what):
        name = two(
            f"{each.ratio} ({each.size}), {each.time:.3f} ms:",
            f"{each.ratio}（{SIZE[each.size]['zh']}），{each.time:.3f} 毫秒：",
        )
        parts.append(stated(name, each.loss))
    en = ", ".join(f"{ratio} ({size})" for ratio, size in always) or "none"
    zh = "、".join(f"{ratio}（{SIZE[size]['zh']}）" for ratio, size in always) or "无"
    seeds = two(f"In every seed by itself: {en}.", f"单看每个种子都是如此的有：{zh}。")
    return joined([listing(lead, parts), seeds]) if parts else None


def _alike(results: Results) -> Two | None:
    """Whether the engine's tokens are those of plain torch."""
    shares = [
        each["alike"]
        for found in results.by_seed("timing").values()
        for each in found["models"].values()
    ]
    if not shares:
        return None
    same, count = sum(shares) * results.plan.sentences, len(shares) * results.plan.sentences
    return two(
        f"The engine's tokens are those of plain torch in {same:.0f} of {count} translations.",
        f"{count} 个译文中有 {same:.0f} 个引擎与普通 torch 的词元完全相同。",
    )


def _passes(results: Results) -> list[Two | None]:
    ratios = [r for r in results.plan.ratios if passed(results, ratio_name(r, "middle"), "density")]
    if len(ratios) < 2:
        return []
    said: list[Two | None] = []
    for what, words in (
        ("density", two("share of active neurons", "激活神经元占比")),
        ("distinct", two("share of tokens with a set of their own", "拥有独特集合的词元占比")),
    ):
        lead = two(words["en"].capitalize(), words["zh"])
        each_ratio = [(r, passed(results, ratio_name(r, "middle"), what)) for r in ratios]
        said.append(listing(lead, [stated(_at(r), figure) for r, figure in each_ratio]))
        low, high = (
            passed(results, ratio_name(r, "middle"), what) for r in (ratios[0], ratios[-1])
        )
        said.append(compared(_when(ratios[-1]), high, _when(ratios[0]), low, words))
    for what, words in (
        ("rank_h", two("effective rank between the two maps", "两次映射之间的有效秩")),
        ("rank_y", two("effective rank of the output", "输出的有效秩")),
    ):
        lead = two(words["en"].capitalize(), words["zh"])
        trained, untrained = (
            passed(results, BASE, what, state) for state in ("trained", "untrained")
        )
        said.append(listing(lead, [_of_most(results, r, what) for r in ratios]))
        names = [
            two("the trained base model", "训练后的基准模型"),
            two("the untrained", "训练前"),
        ]
        said.append(compared(names[0], trained, names[1], untrained, words, 1))
    return said


def _of_most(results: Results, ratio: float, what: str) -> Two | None:
    """The rank at a ratio, and the largest that it could be: as many as there are dimensions."""
    name = ratio_name(ratio, "middle")
    figure, first = passed(results, name, what), results.any(name)
    if figure is None or first is None:
        return None
    most = first["d_ff"] if what == "rank_h" else min(first["d_ff"] + 1, first["d_model"])
    return two(
        f"{equal.label(ratio)}: {figure.text(2)} of {most}",
        f"{equal.label(ratio)} 为 {figure.text(2)}（至多 {most}）",
    )


def _others(results: Results) -> list[Two | None]:
    base, narrow = results.loss("base"), ratio_name(results.plan.ratios[0], "middle")
    label = equal.label(results.plan.ratios[0])
    named = two(f"first down, then up ({label})", f"先降后升（{label}）")
    said = [compared(named, results.loss(narrow), NAMES["base"], base)]
    return said + losses.against_base(results, OTHERS)


def _best(results: Results) -> list[tuple[float, Figure] | None]:
    """The best of the ratios above one, and of those below; None where one has no loss."""
    best: list[tuple[float, Figure] | None] = []
    for side in (
        [r for r in results.plan.ratios if r > 1],
        [r for r in results.plan.ratios if r < 1],
    ):
        losses = {r: results.loss(ratio_name(r, "middle")) for r in side}
        there = [(r, figure) for r, figure in losses.items() if figure is not None]
        whole = there and len(there) == len(losses)
        best.append(min(there, key=lambda each: each[1].mean) if whole else None)
    return best


def _verdict(results: Results) -> Two:
    """Of going up at all: the best that goes up first against the best that goes down first."""
    up, down = _best(results)
    words = texts("width", results.plan)
    if up is None or down is None:
        return joined([NO_VERDICT, _beside(results)])
    said = verdict(sign(down[1], up[1]), words["agrees"], words["contradicts"])
    which = two(
        f"The best that goes up first is {equal.label(up[0])}: {up[1].text()}; the best that goes "
        f"down first {equal.label(down[0])}: {down[1].text()}.",
        f"先升者中最好的是 {equal.label(up[0])}：{up[1].text()}；先降者中最好的是 "
        f"{equal.label(down[0])}：{down[1].text()}。",
    )
    return joined([said, which, *_far(results), _beside(results)])


def _far(results: Results) -> list[Two | None]:
    """Of going far up: the widest beside the narrowest, in loss and in what passes."""
    ratios = results.plan.ratios
    ends = [ratio_name(ratios[i], "middle") for i in (-1, 0)]
    high, low = (_when(ratios[i]) for i in (-1, 0))
    wide, narrow = map(results.loss, ends)
    more = [
        sign(*(passed(results, end, "rank_h", state) for end in ends))
        for state in ("trained", "untrained")
    ]
    holds = texts("width", results.plan)["holds-more"] if more == [1, 1] else None
    return [compared(high, wide, low, narrow), holds]


def _beside(results: Results) -> Two | None:
    low, high = (
        passed(results, ratio_name(results.plan.ratios[i], "middle"), "density") for i in (0, -1)
    )
    base = results.loss("base")
    names = {
        "hourglass": two("hourglasses do better (Liao et al.)", "沙漏更好（Liao 等）"),
        "middle": two(
            "neurons in the middle do better (2508.17734, which leaves the outer layers out)",
            "神经元放在中间更好（2508.17734，那里去掉了两端的前馈层）",
        ),
        "swiglu": two("SwiGLU does better than ReLU (Shazeer)", "SwiGLU 优于 ReLU（Shazeer）"),
        "relu2": two("so does ReLU squared (So et al.)", "ReLU 的平方也更好（So 等）"),
    }
    wider = two(
        "wider is sparser (Li et al., with d_model kept; here it falls)",
        "越宽越稀疏（Li 等，d_model 不变；这里 d_model 变小）",
    )
    return beside(
        [
            (wider, sign(high, low), -1),
            *((words, sign(results.loss(name), base), -1) for name, words in names.items()),
        ]
    )
