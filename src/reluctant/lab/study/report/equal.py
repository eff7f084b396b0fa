"""Losses of models of different shapes where they have had, or take, the same time."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from reluctant.lab.study.catalogue import ratio_name
from reluctant.lab.study.plan import SIZES
from reluctant.lab.study.report.figures import Figure, Results


class Equal(NamedTuple):
    """time: that all have, in seconds of training or milliseconds a token; 0: not known. losses: by
    the ratio's label; None for a ratio that no such time was had of.
    """

    time: float
    losses: dict[str, Figure | None]


def label(ratio: float) -> str:
    """A ratio as people write it.

    >>> label(0.25), label(16)
    ('1/4', '16')
    """
    return f"1/{1 / ratio:g}" if ratio < 1 else f"{ratio:g}"


def interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The value at x of the line through points, in any order; None outside of them.

    >>> interpolated(2.0, [3.0, 1.0], [30.0, 10.0]), interpolated(4.0, [1.0, 3.0], [1.0, 3.0])
    (20.0, None)
    """
    points = sorted(zip(xs, ys, strict=True))
    for (left, low), (right, high) in pairwise(points):
        if left <= x <= right:
            share = (x - left) / (right - left) if right > left else 0.5
            return low + share * (high - low)
    return None


def training(results: Results) -> Equal:
    """By ratio, the loss of the middle models when all had learned as long as the one that was
    first to end: by their curves, and the mean measured time of a step.
    """
    names = {ratio: ratio_name(ratio, "middle") for ratio in results.plan.ratios}
    steps = {ratio: _step(results, name) for ratio, name in names.items()}
    there = {ratio: seconds for ratio, seconds in steps.items() if seconds is not None}
    if not there:
        return Equal(0.0, {})
    time = min(there.values()) * results.plan.steps
    found: dict[str, Figure | None] = {}
    for ratio, seconds in there.items():
        values = [
            interpolated(
                min(time / seconds, results.plan.steps),  # it may be above by rounding
                [point["step"] for point in each["curve"]],
                [point["loss"] for point in each["curve"]],
            )
            for each in results.by_seed(names[ratio]).values()
        ]
        found[label(ratio)] = _figure(values)
    return Equal(time, found)


def decoding(results: Results, what: str) -> Equal:
    """By ratio, the loss of a model that takes the time of a token which all ratios' models have
    between them, interpolated over the logarithm of the time. what: "engine_ms" or "plain_ms".

    None for a ratio whose three models are all faster, or all slower; then the time is the base
    model's.
    """
    times = {
        ratio: [_time(results, ratio_name(ratio, size), what) for size in SIZES]
        for ratio in results.plan.ratios
    }
    there = {r: [t for t in ts if t is not None] for r, ts in times.items() if None not in ts}
    base = _time(results, ratio_name(4, "middle"), what)
    if not there or base is None:
        return Equal(0.0, {})
    fastest, slowest = max(min(ts) for ts in there.values()), min(max(ts) for ts in there.values())
    common = math.sqrt(fastest * slowest) if fastest <= slowest else base
    found: dict[str, Figure | None] = {}
    for ratio, ts in there.items():
        by_size = [results.by_seed(ratio_name(ratio, size)) for size in SIZES]
        values = [
            interpolated(
                math.log(common),
                [math.log(t) for t in ts],
                [each[seed]["loss"] for each in by_size],
            )
            for seed in by_size[0]
            if all(seed in each and each[seed]["loss"] is not None for each in by_size)
        ]
        found[label(ratio)] = _figure(values)
    return Equal(common, found)


def _step(results: Results, name: str) -> float | None:
    return _time(results, name, "step_s")


def _time(results: Results, name: str, what: str) -> float | None:
    """The mean over the seeds: a time is the shape's, not the weights'."""
    figure = results.figure("timing", lambda r: r["models"].get(name, {}).get(what))
    return None if figure is None else figure.mean


def _figure(values: Sequence[float | None]) -> Figure | None:
    there = [value for value in values if value is not None]
    return Figure(tuple(there)) if there and len(there) == len(values) else None
