"""The few-token kernel: the same bits whatever the sketch rules out, as true as dense."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn import ACTIVATIONS, bits, called, drawn, kernel, reference, shapes
from reluctant.kernels import few
from reluctant.kernels.codes import HARDSWISH, RELU
from reluctant.kernels.norm import Norm


def check_bit_for_bit(shape, kind):
    seed, d, d_ff, tokens, shift, hostile = shape
    *layer, x = drawn(seed, d, d_ff, tokens, shift=shift, hostile=hostile)
    code, threshold = kind
    runs = [
        kernel(
            threads,
            layer,
            x,
            code=code,
            threshold=threshold,
            everything=everything,
            turn=seed % 97,
            in_integers=in_integers,
        )
        for threads in (1, 2)
        for everything in (False, True)
        for in_integers in (False, True)
    ]
    assert {status for status, _, _ in runs} == {few.DONE}
    assert len({bits(out) for _, out, _ in runs}) == 1
    active, candidates = runs[0][2]
    assert active <= candidates <= d_ff * tokens
    assert runs[2][2].tolist() == [active, d_ff * tokens]


@given(shapes, st.sampled_from(ACTIVATIONS))
@settings(max_examples=250, deadline=None)
def test_skipping_changes_no_bit(shape, kind):
    check_bit_for_bit(shape, kind)


@pytest.mark.slow
@given(shapes, st.sampled_from(ACTIVATIONS))
@settings(max_examples=10_000, deadline=None)
def test_skipping_changes_no_bit_in_ten_thousand_layers(shape, kind):
    check_bit_for_bit(shape, kind)


@given(shapes, st.sampled_from(ACTIVATIONS))
@settings(max_examples=150, deadline=None)
def test_against_float64(shape, kind):
    seed, d, d_ff, tokens, shift, _ = shape
    keys, bias, values, value_bias, x = drawn(seed, d, d_ff, tokens, shift=shift)
    code, threshold = kind
    wide = [a.astype(np.float64) for a in (keys, bias, values, value_bias, x)]
    z = wide[4] @ wide[0].T + wide[1]
    # At a threshold where f jumps, a neuron within rounding of it may fall on either side.
    clear = np.abs(z - threshold).min() > 1e-5 or threshold in (0.0, -3.0)
    expected = reference(code, threshold, z) @ wide[2] + wide[3]
    _, out, totals = kernel(1, (keys, bias, values, value_bias), x,
                            code=code, threshold=threshold)  # fmt: skip
    if clear:
        assert np.abs(out - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
        assert abs(totals[0] - (z > threshold).sum()) <= (np.abs(z - threshold) < 1e-5).sum()


@pytest.mark.parametrize(("code", "threshold"), ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_as_in_the_dense_way(code, threshold, bad):
    keys, bias, values, value_bias, x = drawn(5, 64, 256, 3)
    x[1, 7] = bad
    with np.errstate(all="ignore"):
        h = reference(code, threshold, (x @ keys.T + bias).astype(np.float32))
        expected = h @ values + value_bias
    _, out, _ = kernel(1, (keys, bias, values, value_bias), x,
                       code=code, threshold=threshold)  # fmt: skip
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert (kind(out) == kind(expected)).all()
    assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize(("code", "threshold"), ACTIVATIONS)
def test_minus_infinity_alone(code, threshold):
    """Every z is -inf: zero for all but hardswish, where torch has NaN."""
    keys, bias, values, value_bias, x = drawn(5, 64, 256, 3)
    keys[:, 7] = np.abs(keys[:, 7]) + np.float32(0.1)
    x[1, 7] = -np.inf
    layer = keys, bias, values, value_bias
    _, out, _ = kernel(1, layer, x, code=code, threshold=threshold)
    assert np.isnan(out[1]).all() == (code == HARDSWISH)
    if code != HARDSWISH:
        assert (out[1] == value_bias).all()


def test_the_error_is_that_of_torch():
    """Root mean square against float64, over many draws: at most 1.5 times eager's."""
    ours, eagers = [], []
    for seed in range(40):
        d, d_ff = ((64, 256), (256, 1024), (512, 2048))[seed % 3]
        keys, bias, values, value_bias, x = drawn(seed, d, d_ff, 1 + seed % 16, shift=-1.0)
        wide = [torch.from_numpy(a).double() for a in (keys, bias, values, value_bias, x)]
        single = [a.float() for a in wide]
        expected, eager = (torch.relu(x_ @ k.T + b) @ v + vb for k, b, v, vb, x_ in (wide, single))
        _, out, _ = kernel(1, (keys, bias, values, value_bias), x)
        scale = expected.square().mean()
        ours.append(((torch.from_numpy(out) - expected).square().mean() / scale).item())
        eagers.append(((eager - expected).square().mean() / scale).item())
    assert np.sqrt(np.mean(ours)) <= 1.5 * np.sqrt(np.mean(eagers))


def test_every_thread_and_thread_count_gives_the_same_bits():
    *layer, x = drawn(11, 512, 2048, 5)
    expected = kernel(1, layer, x)[1].tobytes()
    got = []

    def call():
        got.extend(kernel(n, layer, x)[1].tobytes() for n in (1, 2, 3, 5, 16))

    workers = [threading.Thread(target=call) for _ in range(4)]
    for worker in workers:
        worker.start()
    call()
    for worker in workers:
        worker.join()
    assert len(got) == 25
    assert set(got) == {expected}


def test_a_crowded_call_is_handed_to_the_dense_way():
    *layer, x = drawn(2, 64, 1024, 2, shift=0.5)
    status, out, totals = kernel(1, layer, x, limit=0.3)
    assert status == few.DENSE
    assert (out == 7).all()
    assert totals.tolist() == [0, 0]
    assert kernel(1, layer, x, limit=0.95)[0] == few.DONE


def test_a_few_crowded_blocks_are_still_served():
    *layer, x = drawn(2, 64, 2048, 2, shift=-2.0)
    layer[1][600:900] = 5.0  # neurons that always fire, side by side
    for threads in (1, 2, 3):
        status, out, totals = kernel(threads, layer, x, limit=0.3)
        whole = kernel(threads, layer, x)
        assert status == few.DONE
        assert out.tobytes() == whole[1].tobytes()
        assert totals.tolist() == whole[2].tolist()


def test_a_call_is_served_until_most_blocks_are_crowded():
    *layer, x = drawn(2, 64, 4 * few.BLOCK, 2, shift=-2.0)
    layer[1][-2 * few.BLOCK :] = 5.0
    assert kernel(2, layer, x, limit=0.3)[0] == few.DONE
    layer[1][few.BLOCK :] = 5.0
    assert kernel(2, layer, x, limit=0.3)[0] == few.DENSE


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_first_block_decides(threads):
    """For one or two tokens; others are sampled."""
    *layer, x = drawn(2, 64, 8 * few.BLOCK, 1, shift=-2.0)
    layer[1][: few.BLOCK] = 5.0
    status, out, totals = kernel(threads, layer, x, limit=0.3)
    assert status == few.DENSE
    assert (out == 7).all()
    assert totals.tolist() == [0, 0]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_first_neurons_speak_for_all(threads):
    """Else a try in vain would read the whole sketch before the dense way reads all again."""
    *layer, x = drawn(2, 64, 2048, 5, shift=-2.0)
    layer[1][:100] = 5.0
    status, out, totals = kernel(threads, layer, x, limit=0.3)
    assert status == few.DENSE
    assert (out == 7).all()
    assert totals.tolist() == [0, 0]


def test_the_sample_is_of_tokens_all_over():
    """Crowded tokens at the front alone are no reason to give up."""
    *layer, x = drawn(2, 64, 2048, 16, shift=-2.5)
    layer[0][:, 0] = 1.0
    x[:, 0] = 0.0
    x[:4] = 0.0
    x[:4, 0] = 50.0  # every neuron fires
    assert kernel(2, layer, x, limit=0.4)[0] == few.DONE


@pytest.mark.parametrize(("tokens", "status"), [(2, few.DONE), (3, few.DENSE)])
def test_one_or_two_tokens_are_tried_without_a_sample(tokens, status):
    *layer, x = drawn(2, 64, 2048, tokens, shift=-2.0)
    layer[1][: few.SAMPLE] = 5.0  # half of the first block
    assert kernel(2, layer, x, limit=0.6)[0] == status


def test_all_threads_flush_subnormals_or_none():
    """`torch.set_flush_denormal` sets the calling thread's mode only."""
    keys, bias, values, value_bias, x = drawn(0, 64, 2048, 1)
    layer, found = (np.zeros_like(keys), np.full_like(bias, 1e-42), values, value_bias), []
    for flush in (False, True):
        kernel(3, layer, x)  # the pool's threads exist before the mode changes
        torch.set_flush_denormal(flush)
        try:
            runs = [kernel(threads, layer, x) for threads in (1, 2, 3)]
        finally:
            torch.set_flush_denormal(False)
        assert len({bits(out) for _, out, _ in runs}) == 1
        assert len({tuple(totals) for _, _, totals in runs}) == 1
        found.append(runs[0][2][0])
    assert found == [2048, 0]


@pytest.mark.parametrize("where", ["corner", "row", "candidate"])
def test_weights_that_left_their_sketch_are_noticed(where):
    keys, bias, values, value_bias, x = drawn(3, 64, 1024, 1, shift=0.0)
    from arithmetic import layer_of  # noqa: PLC0415
    from reluctant.sketch import Sketch  # noqa: PLC0415

    sketch = Sketch.of(torch.from_numpy(keys))
    changed, turn = keys.copy(), 0
    rows = np.arange(1024)
    if where == "corner":
        changed[5, 5] += np.float32(1e-3)
    else:
        changed *= np.float32(1.5)  # all rows, behind what is remembered of each
        changed[rows, rows % 64] = keys[rows, rows % 64]
        if where == "row":  # one of them: found when its turn comes
            changed[rows != 7] = keys[rows != 7]
            turn = 7
        else:
            changed[0] = keys[0]  # and behind the row whose turn it is
    arrays = layer_of(sketch, changed, bias, values, value_bias, keys)
    out, totals = np.empty_like(x), np.zeros(2, np.int64)
    rest = ((sketch.max_norm, sketch.slack, 0.0, RELU, False, True), Norm(keys[:0, 0], 0.0), 2.0)
    for threads in (1, 2, 3):
        assert called(arrays, x, out, totals, threads, *rest, turn) == few.STALE
    honest = layer_of(sketch, keys, bias, values, value_bias)
    for turn in range(len(keys)):
        assert called(honest, x, out, totals, 1, *rest, turn) == few.DONE
