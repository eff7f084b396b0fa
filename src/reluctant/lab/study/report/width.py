"""Claim 2 in words and tables."""

from typing import Any

from reluctant.lab.study.catalogue import ACTIVATIONS, BASE, CAPACITY, ratio_name
from reluctant.lab.study.plan import SIZES
from reluctant.lab.study.report import equal, losses
from reluctant.lab.study.report.claim import Claim, verdict
from reluctant.lab.study.report.figures import Figure, Results, sign
from reluctant.lab.study.report.say import (
    NAMES,
    Two,
    beside,
    cell,
    chart,
    compared,
    joined,
    line,
    lowest,
    table,
    two,
)
from reluctant.lab.study.report.texts import texts

RATIO = two("d_ff / d_model", "d_ff / d_model")
SHAPE = (two("d_model", "d_model"), two("d_ff", "d_ff"), two("parameters", "参数量"))
LOSS_AXIS = two("loss, nats a token", "损失（每词元纳特）")
OTHERS = (*ACTIVATIONS, "hourglass", *CAPACITY)
TITLE = two("Other activations and shapes, at equal parameters", "参数量相等时的其他激活与形状")


def write(results: Results) -> Claim:
    """All of it."""
    return Claim(
        key="width",
        groups=["width", "timing"],
        found=[*_ratios(results), *_passes(results), *_others(results)],
        verdict=_verdict(results),
        tables=[
            _equal_table(results),
            _all_table(results),
            _pass_table(results),
            losses.loss_table(results, TITLE, (BASE, *OTHERS)),
        ],
        charts=_charts(results),
    )


def _by_ratio(results: Results, size: str) -> dict[str, Figure | None]:
    return {equal.label(r): results.loss(ratio_name(r, size)) for r in results.plan.ratios}


def _ratios(results: Results) -> list[Two | None]:
    said = [
        lowest(
            _by_ratio(results, size),
            two(
                f"At equal parameters ({size} models) the loss by d_ff / d_model",
                f"参数量相等时（{_size(size)['zh']}模型），损失随 d_ff / d_model",
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
            f"At equal time of a token {en} ({token.time:.2f} ms) the loss",
            f"{zh}每词元时间相等（{token.time:.2f} 毫秒）时，损失",
        )
        said.append(lowest(token.losses, lead))
    return [*said, _alike(results)]


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
    ratios = [
        r for r in results.plan.ratios if _passed(results, ratio_name(r, "middle"), "density")
    ]
    if len(ratios) < 2:
        return []
    said: list[Two | None] = []
    for what, words, digits in (
        ("density", two("share of active neurons", "激活神经元比例"), 3),
        ("rank_h", two("effective rank between the two maps", "两次映射之间的有效秩"), 1),
        ("rank_y", two("effective rank of the output", "输出的有效秩"), 1),
        ("distinct", two("share of tokens with a set of their own", "拥有独特集合的词元比例"), 3),
    ):
        low, high = (
            _passed(results, ratio_name(r, "middle"), what) for r in (ratios[0], ratios[-1])
        )
        names = [two(f"{RATIO['en']} = {equal.label(r)}", f"比例 {equal.label(r)}") for r in ratios]
        said.append(compared(names[-1], high, names[0], low, words, digits))
    return said


def _others(results: Results) -> list[Two | None]:
    base, narrow = results.loss("base"), ratio_name(results.plan.ratios[0], "middle")
    label = equal.label(results.plan.ratios[0])
    named = two(f"first down, then up ({label})", f"先降后升（{label}）")
    said = [compared(named, results.loss(narrow), NAMES["base"], base)]
    return said + losses.against_base(results, OTHERS)


def _verdict(results: Results) -> Two:
    """Of going up at all: the best of the ratios above one against the first, which is below."""
    ratios = results.plan.ratios
    wide = {r: results.loss(ratio_name(r, "middle")) for r in ratios if r > 1}
    there = [figure for figure in wide.values() if figure is not None]
    narrow = results.loss(ratio_name(ratios[0], "middle"))
    best = min(there, key=lambda figure: figure.mean) if there else None
    words = texts("width", results.plan)
    said = verdict(sign(narrow, best), words["agrees"], words["contradicts"])
    return joined([said, _beside(results)])


def _beside(results: Results) -> Two | None:
    low, high = (
        _passed(results, ratio_name(results.plan.ratios[i], "middle"), "density") for i in (0, -1)
    )
    base = results.loss("base")
    names = {
        "hourglass": two("hourglasses do better (Liao et al.)", "沙漏更好（Liao 等）"),
        "middle": two("the middle does better (2508.17734)", "放在中间更好（2508.17734）"),
        "swiglu": two("SwiGLU does better than ReLU (Shazeer)", "SwiGLU 优于 ReLU（Shazeer）"),
        "relu2": two("so does ReLU squared (So et al.)", "ReLU 的平方也更好（So 等）"),
    }
    wider = two("wider is sparser (Li et al.)", "越宽越稀疏（Li 等）")
    return beside(
        [
            (wider, sign(high, low), -1),
            *((words, sign(results.loss(name), base), -1) for name, words in names.items()),
        ]
    )


def _passed(results: Results, name: str, what: str) -> Figure | None:
    return results.figure("passes", lambda r: r["models"].get(name, {}).get(what))


def _timed(results: Results, name: str, what: str) -> Figure | None:
    return results.figure("timing", lambda r: r["models"].get(name, {}).get(what))


def _size(size: str) -> Two:
    return dict(
        zip(
            SIZES,
            (two("small", "小"), two("middle", "中"), two("large", "大")),
            strict=True,
        )
    )[size]


def _equal_table(results: Results) -> dict[str, Any]:
    time, engine = equal.training(results).losses, equal.decoding(results, "engine_ms").losses
    plain, rows = equal.decoding(results, "plain_ms").losses, []
    for ratio in results.plan.ratios:
        name, label = ratio_name(ratio, "middle"), equal.label(ratio)
        first, loss = results.any(name), results.loss(name)
        if first is None:
            continue
        shape = [first["d_model"], first["d_ff"], first["parameters"]]
        others = [cell(each.get(label)) for each in (time, engine, plain)]
        rows.append([label, *shape, cell(loss), *others])
    columns = [
        RATIO,
        *SHAPE,
        two("loss at equal parameters", "参数量相等时的损失"),
        two("at equal training time", "训练时间相等时"),
        two("at equal ms a token, engine", "每词元毫秒相等时（引擎）"),
        two("at equal ms a token, plain torch", "每词元毫秒相等时（普通 torch）"),
    ]
    return table(two("How wide", "升到多宽"), columns, rows)


def _all_table(results: Results) -> dict[str, Any]:
    rows = []
    for ratio in results.plan.ratios:
        for size in SIZES:
            name = ratio_name(ratio, size)
            first = results.any(name)
            if first is not None:
                times = [
                    _timed(results, name, each) for each in ("engine_ms", "plain_ms", "step_s")
                ]
                shape = [first["d_model"], first["d_ff"], first["parameters"]]
                rows.append(
                    [equal.label(ratio), *shape, cell(results.loss(name)), *map(cell, times)]
                )
    columns = [
        RATIO,
        *SHAPE,
        two("loss", "损失"),
        two("ms a token, engine", "每词元毫秒（引擎）"),
        two("ms a token, plain torch", "每词元毫秒（普通 torch）"),
        two("s a training step", "每训练步秒数"),
    ]
    return table(two("All sizes", "所有规模"), columns, rows)


def _pass_table(results: Results) -> dict[str, Any]:
    first, rows = results.any("passes"), []
    for name in first["models"] if first else ():
        whats = ("density", "distinct", "rank_x", "rank_h", "rank_y")
        figures = [_passed(results, name, what) for what in whats]
        found = first["models"][name] if first else {}
        rows.append([name, found["d_model"], found["d_ff"], *map(cell, figures)])
    columns = [
        two("model", "模型"),
        *SHAPE[:2],
        two("density", "密度"),
        two("tokens with a set of their own", "拥有独特集合的词元"),
        two("effective rank of inputs", "输入的有效秩"),
        two("between", "中间的有效秩"),
        two("of outputs", "输出的有效秩"),
    ]
    return table(two("What passes", "通过了什么"), columns, rows)


def _charts(results: Results) -> list[dict[str, Any]]:
    ratios = results.plan.ratios
    by_size = [
        line(_size(size), [(r, results.loss(ratio_name(r, size))) for r in ratios])
        for size in SIZES
    ]
    charts = [chart(two("Loss by width", "损失与宽度"), RATIO, LOSS_AXIS, by_size, log="x")]
    for what, words in (
        ("engine_ms", two("with the engine", "有引擎")),
        ("plain_ms", two("in plain torch", "普通 torch")),
    ):
        series = []
        for ratio in ratios:
            points = []
            for size in SIZES:
                time = _timed(results, ratio_name(ratio, size), what)
                if time is not None:
                    points.append((time.mean, results.loss(ratio_name(ratio, size))))
            series.append(line(two(equal.label(ratio), equal.label(ratio)), sorted(points, key=_x)))
        title = two(f"Loss by time of a token, {words['en']}", f"损失与每词元时间（{words['zh']}）")
        axis = two("ms a token", "每词元毫秒")
        charts.append(chart(title, axis, LOSS_AXIS, series, log="x"))
    widths = [_width(results, ratio_name(r, "middle")) for r in ratios]
    points = [
        (width, _passed(results, ratio_name(r, "middle"), "density"))
        for r, width in zip(ratios, widths, strict=True)
        if width is not None
    ]
    density = [line(two("ReLU", "ReLU"), points)]
    title = two("Share of active neurons by width", "激活神经元比例与宽度")
    charts.append(chart(title, two("d_ff", "d_ff"), two("density", "密度"), density, log="xy"))
    return charts


def _x(point: tuple[float, Figure | None]) -> float:
    return point[0]


def _width(results: Results, name: str) -> float | None:
    first = results.any(name)
    return None if first is None else float(first["d_ff"])
