"""Words in two languages, and sentences about figures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reluctant.lab.study.report.figures import Figure, less, sign

Two = dict[str, str]
MISSING = "–"
_LATIN, _HAN = "[A-Za-z0-9]", r"[\u4e00-\u9fff]"
_BORDER = re.compile(f"(?<={_LATIN})(?={_HAN})|(?<={_HAN})(?={_LATIN})")


def two(en: str, zh: str) -> Two:
    """A text in English and in Chinese, there with a space between Latin and Chinese letters.

    >>> two("the loss with GELU", "GELU的损失")["zh"]
    'GELU 的损失'
    """
    return {"en": en, "zh": _BORDER.sub(" ", zh)}


def opening(text: Two) -> Two:
    """Its first sentence.

    >>> opening(two("Agrees in part. And so on.", "部分一致。等等。"))
    {'en': 'Agrees in part.', 'zh': '部分一致。'}
    """
    en, zh = text["en"].split(". ")[0], text["zh"].split("。")[0]
    return two(f"{en.removesuffix('.')}.", f"{zh}。")


def joined(parts: Iterable[Two | None]) -> Two:
    """One text of several; None says nothing."""
    there = [part for part in parts if part is not None]
    return two(" ".join(p["en"] for p in there), "".join(p["zh"] for p in there))


LOSS = two("loss", "损失")
# What the models are called.
NAMES: Mapping[str, Two] = {
    "base": two("ReLU (the base model)", "ReLU（基准模型）"),
    "identity": two("the identity in place of ReLU", "以恒等函数代替 ReLU"),
    "none": two("no feed-forward layers", "没有前馈层"),
    "none-deep": two("no feed-forward layers, more of attention", "没有前馈层，但有更多注意力层"),
    "relu2": two("ReLU squared", "ReLU 的平方"),
    "gelu": two("GELU", "GELU"),
    "swiglu": two("SwiGLU", "SwiGLU"),
    "hourglass": two("a stack of hourglasses", "多个沙漏层相叠"),
    "early": two("neurons early", "神经元多在前面的层"),
    "middle": two("neurons in the middle", "神经元多在中间的层"),
    "late": two("neurons late", "神经元多在后面的层"),
    "no-residual": two("no residual around feed-forward layers", "前馈层没有残差连接"),
    "no-residuals": two("no residual at all", "完全没有残差连接"),
    "shared": two("one wide layer for all", "所有层共用一个宽前馈层"),
    "shared-encoder": two(
        "one wide layer in the encoder, none in the decoder", "编码器共用一个宽前馈层，解码器没有"
    ),
}


def cell(figure: Figure | None) -> Any:
    """Of a table."""
    return MISSING if figure is None else figure.cell()


def stated(name: Two, figure: Figure | None, digits: int = 3) -> Two | None:
    """A name with its figure: no sentence yet."""
    if figure is None:
        return None
    text = figure.text(digits)
    space = "" if name["zh"].endswith("：") else " "
    return two(f"{name['en']} {text}", f"{name['zh']}{space}{text}")


def listing(lead: Two, parts: Iterable[Two | None]) -> Two | None:
    """A sentence with several stated figures."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return two(
        f"{lead['en']}: {'; '.join(p['en'] for p in there)}.",
        f"{lead['zh']}：{'；'.join(p['zh'] for p in there)}。",
    )


def compared(
    name: Two, a: Figure | None, other: Two, b: Figure | None, what: Two = LOSS, digits: int = 3
) -> Two | None:
    """A sentence that says whether a is above or below b by more than their difference spreads."""
    how, difference = sign(a, b), less(a, b)
    if how is None or difference is None:
        return None
    by = difference.size().text(digits)
    name, other = (_set_off(each) for each in (name, other))
    if how == 0:
        return two(
            f"Between {name['en']} and {other['en']} the {what['en']} differs by {by}: within the "
            "spread, no conclusion.",
            f"{name['zh']}与{other['zh']}的{what['zh']}相差 {by}，未超出差幅，不下结论。",
        )
    en, zh = ("higher", "高") if how > 0 else ("lower", "低")
    return two(
        f"With {name['en']} the {what['en']} is {en} than with {other['en']}, by {by}.",
        f"{name['zh']}的{what['zh']}比{other['zh']}{zh} {by}。",
    )


def _set_off(name: Two) -> Two:
    """A name that has a comma in it, so that it can stand in a sentence."""
    en, zh = name["en"], name["zh"]
    return two(f"{en}," if "," in en else en, f"“{zh}”" if "，" in zh else zh)


def beside(items: Iterable[tuple[Two, int | None, int]]) -> Two | None:
    """A sentence that sets what was found beside what others have: name, sign here, sign there.

    What has no sign here, for want of figures, is left out.
    """
    words = {
        True: two("the same here", "这里相同"),
        False: two("the other way round here", "这里相反"),
        None: two("undecided here", "这里未定"),
    }
    said = []
    for name, here, there in items:
        if here is None:
            continue
        word = words[here == there if here else None]
        said.append(two(f"{name['en']}: {word['en']}", f"{name['zh']}：{word['zh']}"))
    if not said:
        return None
    return two(
        f"Beside the literature: {'; '.join(each['en'] for each in said)}.",
        f"与文献相比：{'；'.join(each['zh'] for each in said)}。",
    )


def lowest(figures: Mapping[str, Figure | None], what: Two, digits: int = 3) -> Two | None:
    """A sentence that says where a figure is lowest, which others it cannot be told from, and of
    which there is none.
    """
    there = {name: figure for name, figure in figures.items() if figure is not None}
    if len(there) < 2:
        return None
    best = min(there, key=lambda name: there[name].mean)
    worst = max(there, key=lambda name: there[name].mean)
    how = {name: sign(figure, there[best]) for name, figure in there.items() if name != best}
    if None in how.values():
        return None
    missing = ", ".join(name for name in figures if name not in there)
    none = two(f" No figure for {missing}.", f"没有 {missing} 的数字。") if missing else two("", "")
    if not any(how.values()):
        return two(
            f"{what['en']} differs by no more than the spread.{none['en']}",
            f"{what['zh']}之差都未超出差幅。{none['zh']}",
        )
    alike = ", ".join(name for name, each in how.items() if each == 0)
    low, high = there[best].text(digits), there[worst].text(digits)
    return two(
        f"{what['en']} is lowest at {best}: {low}, and highest at {worst}: {high}; "
        + (f"not to be told from the lowest: {alike}." if alike else "no other is as low.")
        + none["en"],
        f"{what['zh']}在 {best} 处最低：{low}，在 {worst} 处最高：{high}；"
        + (f"与最低者分不出高下的有：{alike}。" if alike else "其余都更高。")
        + none["zh"],
    )


def table(title: Two, columns: Sequence[Two], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Of the page and of the documents."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def chart(
    title: Two, x: Two, y: Two, series: Sequence[dict[str, Any]], *, log: str = ""
) -> dict[str, Any]:
    """Of the page. log: which axes are logarithmic, such as "xy"."""
    axes = {name: {"label": label, "log": name in log} for name, label in (("x", x), ("y", y))}
    kept = [
        {**each, "points": [p for p in each["points"] if "y" not in log or p["low"] > 0]}
        for each in series
    ]
    return {"title": title, **axes, "series": [each for each in kept if each["points"]]}


def line(name: Two, points: Iterable[tuple[float, Figure | None]]) -> dict[str, Any]:
    """A series of a chart; what is missing is left out."""
    return {
        "name": name,
        "points": [
            {
                "x": x,
                "y": float(f"{figure.mean:.6g}"),
                "low": min(figure.values),
                "high": max(figure.values),
            }
            for x, figure in points
            if figure is not None
        ],
    }
