"""Float32 arithmetic in the open, to test the certificate against: all orders, exact, flushed."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch

from reluctant.freshness import remembered
from reluctant.kernels import sums
from reluctant.kernels.candidates import Layer, Rule, select
from reluctant.kernels.codes import RELU
from reluctant.kernels.lanes import GROUP
from reluctant.sketch import Sketch
from reluctant.weights import Matrix

SMALLEST_NORMAL = np.float32(2.0**-126)


def exact(key, x, bias) -> Fraction:
    """<key, x> + bias without rounding."""
    products = (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(key, x, strict=True))
    return sum(products, Fraction(float(bias)))


def _flush(v):
    return np.float32(0) if abs(v) < SMALLEST_NORMAL else v


def _sum(terms, flush):
    total = np.float32(0)
    for term in terms:
        total = np.float32(total + term)
        total = _flush(total) if flush else total
    return total


def _pairwise(terms, flush):
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return _sum([_pairwise(terms[:half], flush), _pairwise(terms[half:], flush)], flush)


def _fused(key, x, bias):
    total = Fraction(float(bias))
    for a, b in zip(key, x, strict=True):
        total = Fraction(float(np.float32(float(total + Fraction(float(a)) * Fraction(float(b))))))
    return np.float32(float(total))


def evaluations(key, x, bias) -> Iterator[np.float32]:
    """z as float32 code might compute it: orders, groupings, FMA, subnormals kept and flushed."""
    with np.errstate(all="ignore"):
        for flush in (False, True):
            k, v = (np.array([_flush(e) for e in a]) if flush else a for a in (key, x))
            b = _flush(bias) if flush else bias
            products = [np.float32(p) for p in k * v]
            products = [_flush(p) for p in products] if flush else products
            rising = sorted(products, key=abs)
            for order in (products, products[::-1], rising, rising[::-1], sorted(products)):
                yield _sum([*order, b], flush)
                yield _sum([b, *order], flush)
            yield _pairwise([*products, b], flush)
        yield _fused(key, x, bias)
        yield _fused(key[::-1], x[::-1], bias)


def layer_of(sketch: Sketch, keys, bias, values=None, value_bias=None, before=None) -> Layer:
    """before: the keys that are remembered, if these are others."""
    d_ff, d = keys.shape
    then = torch.from_numpy(keys if before is None else before)
    watched = remembered((Matrix.of(then, then.dtype), None, None))._replace(live_gates=keys)
    return Layer(
        sketch.q,
        sketch.scale,
        sketch.radius,
        sketch.own_norm,
        sketch.row_sum,
        keys,
        bias,
        keys,
        bias,
        np.zeros((d_ff, d), np.float32) if values is None else values,
        np.zeros(d, np.float32) if value_bias is None else value_bias,
        *watched,
    )


def candidates(sketch: Sketch, keys, bias, x, threshold=0.0, slack=None, in_integers=False):
    """Which neurons the kernel's sketch step keeps: (tokens, d_ff) booleans."""
    slack = sketch.slack if slack is None else slack
    rule = Rule(threshold, RELU, slack, False, in_integers, 2.0, False, 0)
    layer = layer_of(sketch, keys, bias)
    tokens = sums.Tokens(*sums.take_tokens(x, sketch.rows.shape[1], sketch.max_norm, in_integers))
    found = np.empty((len(x), len(sketch.rows)))
    for group in range(len(sketch.q)):
        if in_integers:
            sums.integer_sums(group, tokens, sketch.q, found, group * GROUP)
        else:
            sums.float_sums(group, tokens, sketch.q, found, group * GROUP)
    kept, index = np.zeros((len(x), len(keys)), bool), np.empty(len(keys), np.int32)
    for m in range(len(x)):
        count = select(0, len(keys), m, tokens, found, layer, rule, index)
        kept[m, index[:count]] = True
    return kept
