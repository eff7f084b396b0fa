"""Losses of models of different shapes where they have had, or take, the same time."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import linear_regression
from typing import Any, NamedTuple

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
    first to end: by `learned` of their curves, and the mean measured time of a step.
    """
    names = {ratio: ratio_name(ratio, "middle") for ratio in results.plan.ratios}
    steps = {ratio: _time(results, name, "step_s") for ratio, name in names.items()}
    there = {ratio: seconds for ratio, seconds in steps.items() if seconds is not None}
    if not there:
        return Equal(0.0, {})
    time = min(there.values()) * results.plan.steps
    found: dict[str, Figure | None] = {label(ratio): None for ratio in names}
    for ratio, seconds in there.items():
        step = min(time / seconds, results.plan.steps)  # it may be above by rounding
        found[label(ratio)] = results.figure(
            names[ratio],
            lambda each, step=step: (  # type: ignore[misc]
                None if each["diverged"] else learned(each["curve"], step)
            ),
        )
    return Equal(time, found)


def learned(curve: Sequence[Mapping[str, float]], step: float) -> float:
    """The loss at a step: of the line of least squares through the losses over the logarithm of the
    step, from two fifths of the curve on.

    A single point is as high as its last batches were hard, and that is alike for all models of a
    seed, at the same step: read at different steps, they would differ by it.

    >>> round(learned([{"step": s, "loss": 5 - math.log(s)} for s in (1, 4, 6, 8, 10)], 7.0), 6)
    3.05409
    """
    last = curve[-1]["step"]
    points = [(math.log(p["step"]), p["loss"]) for p in curve if p["step"] >= 0.4 * last]
    if len(points) < 2:
        return points[0][1]
    slope, at_zero = linear_regression(*zip(*points, strict=True))
    return at_zero + slope * math.log(step)


def decoding(results: Results, what: str) -> Equal:
    """By ratio, the loss of a model that takes the time of a token which all ratios' models have
    between them, interpolated over the logarithm of the time. what: "engine_ms" or "plain_ms".

    None for a ratio whose three models are all faster, or all slower, and for one that diverged;
    if no time is common to all, it is the base model's. Each seed's losses are interpolated between
    its own times, so that a figure's spread has theirs in it.
    """
    shapes = {r: [ratio_name(r, size) for size in SIZES] for r in results.plan.ratios}
    times = {r: [_time(results, name, what) for name in names] for r, names in shapes.items()}
    there = {r: [t for t in ts if t is not None] for r, ts in times.items() if None not in ts}
    base = _time(results, ratio_name(4, "middle"), what)
    if not there or base is None:
        return Equal(0.0, {})
    fastest, slowest = max(min(ts) for ts in there.values()), min(max(ts) for ts in there.values())
    common = math.sqrt(fastest * slowest) if fastest <= slowest else base
    found: dict[str, Figure | None] = {label(ratio): None for ratio in shapes}
    for ratio in there:
        of_seed = results.by_seed("timing")
        values = {
            seed: _between(results, shapes[ratio], seed, of_seed[seed]["models"], what, common)
            for seed in of_seed
        }
        found[label(ratio)] = _figure(values)
    return Equal(common, found)


def _between(
    results: Results, names: Sequence[str], seed: int, times: Any, what: str, common: float
) -> float | None:
    """The loss at a time, of one seed's models of these names."""
    models = [results.by_seed(name).get(seed) for name in names]
    losses = [None if model is None else model["loss"] for model in models]
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(names):
        return None
    logs = [math.log(times[name][what]) for name in names]
    return interpolated(math.log(common), logs, known)


def _time(results: Results, name: str, what: str) -> float | None:
    """The mean over the seeds: a time is the shape's, not the weights'."""
    figure = results.figure("timing", lambda r: r["models"].get(name, {}).get(what))
    return None if figure is None else figure.mean


def _figure(values: Mapping[int, float | None]) -> Figure | None:
    there = {seed: value for seed, value in values.items() if value is not None}
    complete = there and len(there) == len(values)
    return Figure(tuple(there.values()), tuple(there)) if complete else None
