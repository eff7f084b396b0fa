"""Claim 2 in tables and charts."""

from typing import Any

from reluctant.lab.study.catalogue import ratio_name
from reluctant.lab.study.plan import SIZES
from reluctant.lab.study.report import equal
from reluctant.lab.study.report.figures import Figure, Results
from reluctant.lab.study.report.say import NAMES, cell, chart, line, table, two

RATIO = two("d_ff / d_model", "d_ff / d_model")
SHAPE = (two("d_model", "d_model"), two("d_ff", "d_ff"), two("parameters", "参数量"))
LOSS_AXIS = two("loss, nats a token", "损失（每词元纳特）")
SIZE = {
    "small": two("small", "小"),
    "middle": two("middle", "中"),
    "large": two("large", "大"),
}


def passed(results: Results, name: str, what: str, state: str = "trained") -> Figure | None:
    """A figure of what passes through a model, as `width.passes` has it."""
    return results.figure("passes", lambda r: r["models"].get(name, {}).get(state, {}).get(what))


def timed(results: Results, name: str, what: str) -> Figure | None:
    """A time of a model, as `width.timing` has it."""
    return results.figure("timing", lambda r: r["models"].get(name, {}).get(what))


def equal_table(results: Results) -> dict[str, Any]:
    """By ratio, the losses at equal parameters and at equal times."""
    time, rows = equal.training(results).losses, []
    engine, plain = (equal.decoding(results, what) for what in ("engine_ms", "plain_ms"))
    for ratio in results.plan.ratios:
        name, label = ratio_name(ratio, "middle"), equal.label(ratio)
        first, loss = results.any(name), results.loss(name)
        if first is None:
            continue
        others = [cell(each.get(label)) for each in (time, engine.losses, plain.losses)]
        rows.append([label, *_shape(first), cell(loss), *others])
    columns = [
        RATIO,
        *SHAPE,
        two("loss at equal parameters", "参数量相等时的损失"),
        two("at equal training time", "训练时间相等时"),
        two(
            f"best within {engine.time:.3f} ms a token, engine",
            f"每词元 {engine.time:.3f} 毫秒以内的最好者（引擎）",
        ),
        two(
            f"best within {plain.time:.3f} ms a token, plain torch",
            f"每词元 {plain.time:.3f} 毫秒以内的最好者（普通 torch）",
        ),
    ]
    return table(two("How wide", "升到多宽"), columns, rows)


def all_table(results: Results) -> dict[str, Any]:
    """By ratio and size, losses and times."""
    rows = []
    for ratio in results.plan.ratios:
        for size in SIZES:
            name = ratio_name(ratio, size)
            first = results.any(name)
            if first is not None:
                times = [timed(results, name, each) for each in ("engine_ms", "plain_ms", "step_s")]
                cells = map(cell, [results.loss(name), *times])
                rows.append([equal.label(ratio), *_shape(first), *cells])
    columns = [
        RATIO,
        *SHAPE,
        two("loss", "损失"),
        two("ms a token, engine", "每词元毫秒（引擎）"),
        two("ms a token, plain torch", "每词元毫秒（普通 torch）"),
        two("s a training step", "每训练步秒数"),
    ]
    return table(two("All sizes", "所有规模"), columns, rows)


def pass_table(results: Results) -> dict[str, Any]:
    """What passes through the models, trained and before."""
    first, rows = results.any("passes"), []
    models: dict[str, Any] = first["models"] if first else {}
    shapes = {ratio_name(r, "middle"): equal.label(r) for r in results.plan.ratios}
    for name, found in models.items():
        named = shapes.get(name, NAMES.get(name, name))
        for state, words in (("trained", two("yes", "是")), ("untrained", two("no", "否"))):
            whats = ("density", "distinct", "distinct_x", "rank_x", "rank_h", "rank_y")
            figures = [passed(results, name, what, state) for what in whats]
            rows.append([named, found["d_model"], found["d_ff"], words, *map(cell, figures)])
    columns = [
        two("d_ff / d_model, or activation", "d_ff / d_model 或激活函数"),
        *SHAPE[:2],
        two("trained", "训练过"),
        two("density", "密度"),
        two("tokens with a set of their own", "拥有独特集合的词元"),
        two("with an input of their own", "拥有独特输入的词元"),
        two("effective rank of inputs", "输入的有效秩"),
        two("between", "中间的有效秩"),
        two("of outputs", "输出的有效秩"),
    ]
    return table(two("What passes", "通过了什么"), columns, rows)


def charts(results: Results) -> list[dict[str, Any]]:
    """Loss by width and by time, and density by width."""
    ratios = results.plan.ratios
    by_size = [
        line(SIZE[size], [(r, results.loss(ratio_name(r, size))) for r in ratios]) for size in SIZES
    ]
    found = [chart(two("Loss by width", "损失与宽度"), RATIO, LOSS_AXIS, by_size, log="x")]
    for what, words in (
        ("engine_ms", two("with the engine", "有引擎")),
        ("plain_ms", two("in plain torch", "普通 torch")),
    ):
        series = []
        for ratio in ratios:
            points = []
            for size in SIZES:
                time = timed(results, ratio_name(ratio, size), what)
                if time is not None:
                    points.append((time.mean, results.loss(ratio_name(ratio, size))))
            series.append(line(two(equal.label(ratio), equal.label(ratio)), sorted(points, key=_x)))
        title = two(f"Loss by time of a token, {words['en']}", f"损失与每词元时间（{words['zh']}）")
        axis = two("ms a token", "每词元毫秒")
        found.append(chart(title, axis, LOSS_AXIS, series, log="x"))
    widths = [_width(results, ratio_name(r, "middle")) for r in ratios]
    points = [
        (width, passed(results, ratio_name(r, "middle"), "density"))
        for r, width in zip(ratios, widths, strict=True)
        if width is not None
    ]
    density = [line(two("ReLU", "ReLU"), points)]
    title = two("Share of active neurons by width", "激活神经元比例与宽度")
    found.append(chart(title, two("d_ff", "d_ff"), two("density", "密度"), density, log="xy"))
    return found


def _shape(found: dict[str, Any]) -> list[int]:
    """As SHAPE has it."""
    return [found["d_model"], found["d_ff"], found["parameters"]]


def _x(point: tuple[float, Figure | None]) -> float:
    return point[0]


def _width(results: Results, name: str) -> float | None:
    first = results.any(name)
    return None if first is None else float(first["d_ff"])
