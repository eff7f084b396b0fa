"""Losses of models of different shapes where they have had, or take, the same time."""

import math
from collections.abc import Mapping, Sequence
from statistics import linear_regression
from typing import NamedTuple

from reluctant.lab.study.catalogue import ratio_name
from reluctant.lab.study.plan import SIZES
from reluctant.lab.study.report.figures import Figure, Results


class Equal(NamedTuple):
    """time: that all have, in seconds of training or milliseconds a token; 0: not known. losses: by
    the ratio's label; None: no figure.
    """

    time: float
    losses: dict[str, Figure | None]


def label(ratio: float) -> str:
    """A ratio as people write it.

    >>> label(0.25), label(16)
    ('1/4', '16')
    """
    return f"1/{1 / ratio:g}" if ratio < 1 else f"{ratio:g}"


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
    """By ratio, the loss of the best of its models that take no longer for a token than a time: the
    shortest in which every ratio has one. what: "engine_ms" or "plain_ms".

    Nothing is interpolated between a ratio's sizes: as small as they are, their times do not go by
    size alone. None for a ratio of which a model was not timed, or all in time have diverged.
    """
    names = {r: [ratio_name(r, size) for size in SIZES] for r in results.plan.ratios}
    times = {r: {name: _time(results, name, what) for name in of} for r, of in names.items()}
    there = {r: {n: t for n, t in of.items() if t is not None} for r, of in times.items()}
    whole = {r: of for r, of in there.items() if len(of) == len(SIZES)}
    if not whole:
        return Equal(0.0, {})
    time = max(min(of.values()) for of in whole.values())
    found: dict[str, Figure | None] = {label(ratio): None for ratio in names}
    for ratio, of in whole.items():
        losses = [results.loss(name) for name, each in of.items() if each <= time]
        known = [loss for loss in losses if loss is not None]
        found[label(ratio)] = min(known, key=lambda loss: loss.mean) if known else None
    return Equal(time, found)


class Timed(NamedTuple):
    """A model by the label of its ratio and its size, with the time of its tokens in ms."""

    ratio: str
    size: str
    time: float
    loss: Figure


def front(results: Results, what: str, seed: int | None = None) -> list[Timed]:
    """The models that no other beats: none that is as fast has as low a loss; the fastest first.

    what: as for `decoding`. seed: by its times and losses alone; None: by the means over all.
    """
    found = []
    for ratio in results.plan.ratios:
        for size in SIZES:
            name = ratio_name(ratio, size)
            time, loss = _times(results, name, what), results.loss(name)
            if seed is not None:
                time, loss = (each and each.only(seed) for each in (time, loss))
            if time is not None and loss is not None:
                found.append(Timed(label(ratio), size, time.mean, loss))
    found.sort(key=lambda each: (each.time, each.loss.mean))
    return [
        each
        for at, each in enumerate(found)
        if all(each.loss.mean < faster.loss.mean for faster in found[:at])
    ]


def always(results: Results, what: str) -> list[tuple[str, str]]:
    """Ratio and size of the models at the front by the means, and in each seed by itself."""
    fronts = [front(results, what, seed) for seed in (None, *results.by_seed("timing"))]
    there = [{(each.ratio, each.size) for each in one} for one in fronts]
    return [(e.ratio, e.size) for e in fronts[0] if all((e.ratio, e.size) in one for one in there)]


def _time(results: Results, name: str, what: str) -> float | None:
    """The mean over the seeds: a time is the shape's, not the weights'."""
    figure = _times(results, name, what)
    return None if figure is None else figure.mean


def _times(results: Results, name: str, what: str) -> Figure | None:
    return results.figure("timing", lambda r: r["models"].get(name, {}).get(what))
