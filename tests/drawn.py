"""Layers and inputs for the kernels' tests: drawn, sparse as trained ones, hostile."""

import numpy as np
from hypothesis import strategies as st

from arithmetic import layer_of
from reluctant.kernels import few, sums
from reluctant.kernels.codes import HARDSWISH, RELU, RELU2, RELU6
from reluctant.kernels.entry import run_at, table_of
from reluctant.kernels.norm import Norm
from reluctant.kernels.team import team_of
from reluctant.sketch import Sketch

ACTIVATIONS = [
    (RELU, 0.0),
    (RELU2, 0.0),
    (RELU6, 0.0),
    (HARDSWISH, -3.0),
    (RELU, 1.0),
    (RELU, -0.5),
]


def reference(code, threshold, z):
    """The activation in the precision of z, from its definition."""
    with np.errstate(invalid="ignore", over="ignore"):
        if code == RELU2:
            return np.maximum(z, 0) ** 2
        if code == RELU6:
            return np.minimum(np.maximum(z, 0), 6)
        if code == HARDSWISH:
            return z * np.minimum(np.maximum(z + 3, 0), 6) / 6
        return np.where(z <= threshold, z.dtype.type(0), z)


def drawn(seed, d, d_ff, tokens, *, shift=-1.5, hostile=False):
    """keys, bias, values, value_bias, x; `shift` is the mean pre-activation, in deviations."""
    rng = np.random.default_rng(seed)
    keys = (rng.standard_normal((d_ff, d)) / np.sqrt(d)).astype(np.float32)
    bias = (shift + 0.1 * rng.standard_normal(d_ff)).astype(np.float32)
    values = (rng.standard_normal((d_ff, d)) / np.sqrt(d_ff)).astype(np.float32)
    value_bias = rng.standard_normal(d).astype(np.float32)
    x = rng.standard_normal((tokens, d)).astype(np.float32)
    if hostile:
        rows = rng.integers(d_ff, size=3)
        keys[rows[0]] = 0
        keys[rows[1]] *= np.float32(2.0**-60)
        keys[rows[2]] *= np.float32(2.0**80)
        bias[rng.integers(d_ff)] = np.float32(1e-42)
        token, column = rng.integers(tokens), rng.integers(d)
        choice = rng.integers(7)
        if choice < 5:
            x[token, column] = [np.nan, np.inf, -np.inf, -0.0, 3e38][choice]
        elif choice == 5:
            x[token] = 0
        else:
            x[token] *= np.float32(2.0**-50)
    return keys, bias, values, value_bias, x


def kernel(
    threads, layer, x, *, code=RELU, threshold=0.0, limit=2.0, everything=False, turn=0,
    in_integers=sums.INTEGER, factors=None, norm=None, eps=1.0,
):  # fmt: skip
    """One call of the few-token kernel: status, output, (active, candidates).

    factors: (up, bias) of a gated layer; layer then begins with the gates. norm: the weights of a
    norm before the values. uint16 is bfloat16, int16 float16.
    """
    keys, bias, values, value_bias = layer
    sketch = Sketch.of(torch_view(keys))
    arrays = layer_of(sketch, keys, bias, values, value_bias)
    max_norm = sketch.max_norm
    if factors is not None:
        arrays = arrays._replace(factors=factors[0], factor_bias=factors[1])
        max_norm = max(max_norm, float(torch_view(factors[0]).double().norm(dim=1).max()))
    out, totals = np.full_like(x, 7), np.zeros(2, np.int64)
    numbers = (max_norm, sketch.slack, threshold, code, factors is not None, in_integers)
    normed = Norm(keys[:0, 0] if norm is None else norm, eps)
    status = called(
        arrays, x, out, totals, threads, *(numbers, normed, limit, turn), everything=everything
    )
    return status, out, totals


def called(arrays, x, out, totals, threads, numbers, norm, limit, turn, *, everything=False):
    """`run_at` for a layer whose sketch and weights are these arrays."""
    x = np.ascontiguousarray(x)
    table = table_of(arrays, norm, numbers, everything=everything)
    at = (x.ctypes.data, out.ctypes.data, len(x), float(limit))
    return run_at(*table, *at, turn, totals, team_of(threads))


def bits(array):
    """NaN payloads aside: every NaN counts as the same."""
    wide = array if array.dtype == np.float32 else long(array)
    return np.where(np.isnan(wide), wide.dtype.type(np.nan), wide).tobytes()


def torch_view(array):
    import torch  # noqa: PLC0415

    held = {np.dtype(np.uint16): torch.bfloat16, np.dtype(np.int16): torch.float16}
    tensor = torch.from_numpy(array)
    return tensor.view(held[array.dtype]) if array.dtype in held else tensor


def short(array):
    """float32 rounded to bfloat16, as the kernels take it: in uint16."""
    import torch  # noqa: PLC0415

    return torch.from_numpy(array).bfloat16().view(torch.uint16).numpy()


def half(array):
    """float32 rounded to float16, as the kernels take it: in int16."""
    return array.astype(np.float16).view(np.int16)


def long(array):
    """And back, to float64."""
    return torch_view(array).double().numpy()


shapes = st.tuples(
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 15, 16, 17, 64, 130, 256, 300]),
    st.sampled_from([1, 3, 4, 63, 64, 65, 200, 1024, 1030]),
    st.integers(1, few.MAX_TOKENS),
    st.sampled_from([-2.0, -1.0, 0.0, 1.0]),
    st.booleans(),
)
