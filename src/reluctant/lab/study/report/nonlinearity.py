"""Claim 1 in words and tables: losses, and layers imitated by linear maps."""

from typing import Any

from reluctant.lab.study.catalogue import HALF
from reluctant.lab.study.nonlinearity import IMITATED, INSTEAD, TRAINED
from reluctant.lab.study.report import collapse, losses
from reluctant.lab.study.report.claim import Claim
from reluctant.lab.study.report.figures import Figure, Results, less, mean, sign
from reluctant.lab.study.report.say import (
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

TITLE = two(
    "What the non-linearity is worth, at the better of two learning rates",
    "非线性值多少（取两种学习率中较好者）",
)
WAYS = {
    "replaced": two("linear maps", "线性映射"),
    "refitted": two("linear maps fitted one after the other", "逐层重新拟合的线性映射"),
    "mean": two("their mean outputs", "各层的平均输出"),
    "dropped": two("nothing", "什么也不放"),
}
# A model, and another one that it is with some of its weights at zero.
CONTAINS = (("base", "none"), ("identity", "none"), ("none-deep", "none"))


def write(results: Results) -> Claim:
    """All of it."""
    best = {name: losses.better(results, name) for name in TRAINED}
    return Claim(
        key="nonlinearity",
        groups=["nonlinearity"],
        figures=losses.listed(results, list(best.values())),
        found=[
            *losses.said(results, list(best.values()), best["base"]),
            _rates(results, best),
            *(_beside_part(results, best[name], best[part]) for name, part in CONTAINS),
            *(_other_rate(results, best[name], best[part]) for name, part in CONTAINS[1:]),
            *_linear(results),
            *collapse.said(results),
        ],
        verdict=joined([_verdict(results, best), _beside(results, best)]),
        tables=[
            losses.rates_table(results, TITLE, TRAINED),
            _r2_table(results),
            _instead_table(results),
        ],
        charts=collapse.charts(results),
    )


def _verdict(results: Results, best: dict[str, str]) -> Two:
    """Of expressive power only if layers with the identity learned as well as none at all.

    They can be none: what they are worse than that is how they learn, and so may be what they are
    worse than ReLU.
    """
    words = texts("nonlinearity", results.plan)
    base, identity, none = (results.loss(best[name]) for name in ("base", "identity", "none"))
    if losses.worse(results, best["identity"], best["none"]) and sign(identity, base) == 1:
        more = sign(none, base) == 1
        start = losses.lead(0.5 if more else 0)
        return joined([start, words["more-than-none"] if more else None, words["optimisation"]])
    fair = less(identity, none) is not None
    agrees = joined([words["agrees"], words["expressive"] if fair else None])
    return losses.judged(results, best["identity"], agrees, words["contradicts"], best["base"])


def _beside(results: Results, best: dict[str, str]) -> Two | None:
    deep = best["none-deep"]
    unfair = losses.worse(results, deep, best["none"]) is not None
    name = two(
        "attention with as many parameters does not make up for the feed-forward layers "
        "(Zhao et al., of BERT)",
        "参数量相同的注意力补不上前馈层（Zhao 等，对象为 BERT）",
    )
    how = None if unfair else sign(results.loss(deep), results.loss(best["base"]))
    zhao = two(
        "Whether attention can take the feed-forward layer's place (Zhao et al.) is not told here: "
        "with more layers of it the loss is higher than with fewer, which is a matter of "
        "optimisation.",
        "注意力能否代替前馈层（Zhao 等），这里说不出："
        "注意力层更多时损失反而比更少时高，这是优化问题。",
    )
    found = beside([*collapse.literature(results), (name, how, 1)])
    return joined([found, zhao if unfair else None])


def _rates(results: Results, best: dict[str, str]) -> Two | None:
    if not any(map(results.any, best.values())):
        return None
    lr = results.plan.lr
    halves = [NAMES[name] for name, each in best.items() if each.endswith(HALF)]
    return two(
        f"Each model is at the better of two learning rates, {lr:g} and {lr / 2:g}, by its mean "
        f"loss; the lower one is better for {'; '.join(n['en'] for n in halves) or 'no model'}.",
        f"每个模型取 {lr:g} 与 {lr / 2:g} 两种学习率中平均损失较低者；"
        f"较低学习率更好的有：{'；'.join(n['zh'] for n in halves) or '无'}。",
    )


def _beside_part(results: Results, name: str, part: str) -> Two | None:
    """A model beside one that it can be: where it is worse, that is no matter of what it can be.

    The base model has been compared with all others: of it nothing is said but this.
    """
    whole, other = losses.called(name), losses.called(part)
    more = losses.worse(results, name, part)
    if more is None:
        both = results.loss(name), results.loss(part)
        return None if whole is NAMES["base"] else compared(whole, both[0], other, both[1])
    by = more.text()
    return two(
        f"In every seed the loss with {whole['en']} is above that with {other['en']}, by {by}, "
        "though the first model can be the second, with some weights at zero: what it lacks is not "
        "expressive power; training does not find it.",
        f"在每个种子上，{whole['zh']}的损失都高于{other['zh']}，高出 {by}，"
        "而前者只要令一部分权重为零就是后者：所缺的不是表达能力，而是训练没有找到。",
    )


def _other_rate(results: Results, name: str, part: str) -> Two | None:
    """The same two models at the learning rate that is better for neither."""
    if name.endswith(HALF) != part.endswith(HALF):
        return None
    back = name.endswith(HALF)
    rate = results.plan.lr if back else results.plan.lr / 2
    said: list[Any] = []
    for each in (name, part):
        called = losses.called(each)
        loss = results.loss(each.removesuffix(HALF) if back else each + HALF)
        said += [two(f"{called['en']} at {rate:g}", f"{called['zh']}（学习率 {rate:g}）"), loss]
    return compared(*said)


def _linear(results: Results) -> list[Two | None]:
    collapsed, rounding = (
        results.figure("linear", lambda r, name=name: r["collapse"][name])  # type: ignore[misc]
        for name in ("from one matrix", "from float64")
    )
    said: list[Two | None] = []
    if collapsed is not None and rounding is not None:
        a, b = max(collapsed.values), max(rounding.values)
        said.append(
            two(
                "The trained layers with the identity are their one matrix: their outputs differ "
                f"by {a:.1e} of the largest at most, where float32 itself rounds by {b:.1e}.",
                f"带恒等函数的训练好的层就是那一个矩阵：输出之差至多为最大输出的 {a:.1e}，"
                f"而 float32 自身的舍入为 {b:.1e}。",
            )
        )
    shares = {name: _r2(results, name) for name in IMITATED if name != "identity"}
    about = two(
        "One linear map has an R^2, the mean over the layers, of", "一个线性映射的 R^2（各层平均）"
    )
    said.append(listing(about, [stated(NAMES[n], each, 2) for n, each in shares.items()]))
    about = two(
        "The loss rises, with all ReLU layers replaced by", "把所有 ReLU 层换成下列各项时损失的上升"
    )
    rises = [stated(words, _rise(results, "base", way)) for way, words in WAYS.items()]
    said.append(listing(about, rises))
    kept = _kept(results, "base")
    if kept is not None:
        said.append(
            two(
                "Of what the ReLU layers take off the loss, beside their mean outputs, the linear "
                f"maps keep {kept.text(1)} %.",
                f"与只给平均输出相比，ReLU 层所降低的损失中，线性映射保留了 {kept.text(1)} %。",
            )
        )
    return said


def _r2(results: Results, name: str, layer: str | None = None) -> Figure | None:
    def of(result: Any) -> float:
        shares = result["imitated"][name]["r2"]
        return mean(shares) if layer is None else shares[layer]

    return results.figure("linear", of)


def _rise(results: Results, name: str, way: str) -> Figure | None:
    def of(result: Any) -> float:
        found = result["imitated"][name]
        rise: float = found[way] - found["loss"]
        return rise

    return results.figure("linear", of)


def _kept(results: Results, name: str) -> Figure | None:
    """In percent: 100 where linear maps do as well as the layers, 0 where as their means."""

    def of(result: Any) -> float | None:
        found = result["imitated"][name]
        whole = found["mean"] - found["loss"]
        return 100 * (found["mean"] - found["replaced"]) / whole if whole > 0 else None

    return results.figure("linear", of)


def _r2_table(results: Results) -> dict[str, Any]:
    first = results.any("linear")
    imitated = first["imitated"] if first else {}
    layers = list(imitated["base"]["r2"]) if imitated else []
    rows = [[NAMES[n], *(cell(_r2(results, n, each)) for each in layers)] for n in imitated]
    names = [each.replace(".layers.", " ") for each in layers]
    columns = [two("model", "模型"), *(two(each, each) for each in names)]
    title = two(
        "R^2 of the best linear map (layers are counted from 0)",
        "最佳线性映射的 R^2（层从 0 数起）",
    )
    return table(title, columns, rows)


def _instead_table(results: Results) -> dict[str, Any]:
    first = results.any("linear")
    rows = [
        [NAMES[n], *(cell(_rise(results, n, way)) for way in INSTEAD), cell(_kept(results, n))]
        for n in (first["imitated"] if first else ())
    ]
    title = two("Rise of the loss with all layers replaced", "替换所有层后损失的上升")
    kept = two("kept by linear maps, %", "线性映射保留（%）")
    return table(title, [two("model", "模型"), *(WAYS[way] for way in INSTEAD), kept], rows)
