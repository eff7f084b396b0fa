"""Float32 weights that are 16-bit numbers: the same bits of half the bytes, and never old ones."""

import copy
import gc
import os
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import reluctant
from reluctant.activations import resolve
from reluctant.dense import linear
from reluctant.engine import Engine
from reluctant.linear import few_rows
from reluctant.narrow import Narrow
from reluctant.sketch import SERVED
from reluctant.surgery.linears import MapSeat
from reluctant.surgery.swap import map_seat_of
from reluctant.ways import NEVER_ABOVE, Limits
from reluctant.weights import copy_of, narrowest

SHORT = [dtype for dtype in SERVED if dtype is not torch.float32]
shorts = pytest.mark.parametrize("short", SHORT, ids=str)


def map_of(n, d, short, seed=0):
    """A float32 map whose numbers are those of a 16-bit dtype."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(d, n).requires_grad_(False)
    made.weight.copy_(torch.randn(n, d, generator=generator).to(short))
    return made


@shorts
@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 15), (64, 33), (131, 64), (70, 2100)])
def test_the_same_bits(short, n, d):
    made, x = map_of(n, d, short), torch.randn(16, d)
    read = made.weight.to(short)
    for rows in (1, 2, 5, 6, 7, 16):
        wanted = few_rows(x[:rows], made.weight, made.bias)
        assert torch.equal(few_rows(x[:rows], read, made.bias), wanted)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40), st.sampled_from(SHORT))
def test_all_numbers_of_a_dtype_are_found_to_be_such(bits, dtype):
    numbers = torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = numbers.float()
    found = narrowest([wide], SERVED)
    assert (found in SHORT) != bool(wide.isnan().any())
    if found in SHORT:  # signs of zeros included
        assert torch.equal(copy_of(wide, found).float().view(torch.int32), wide.view(torch.int32))


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(0, 999), st.integers(1, 2000))
def test_no_other_number_is_taken_for_one(bits, place, length):
    number = np.array([bits], np.uint32).view(np.float32)
    wide = torch.zeros(length)
    wide[place % length] = float(number[0])
    for dtype in SHORT:
        same = bool((wide.to(dtype).float() == wide).all())
        assert (narrowest([wide], [dtype]) is dtype) == same


def test_all_weights_are_looked_at():
    weight = torch.ones(700, 800)
    for at in (0, 2**18 - 1, 2**18, -1):
        weight.view(-1)[at] = 1 + 2.0**-20
        assert narrowest([torch.ones(2, 2), weight], SERVED) is torch.float32
        assert narrowest([weight.t()], SERVED) is torch.float32
        weight.view(-1)[at] = 1.0
    assert narrowest([weight, weight.t()], SERVED) is torch.bfloat16
    assert narrowest([weight[:, ::2]], SERVED) is torch.float32  # not as it lies


WRITES = {
    "torch": lambda w: w.mul_(2.0),
    "data": lambda w: w.data.mul_(2.0),
    "numpy": lambda w: np.multiply(w.detach().numpy(), 2.0, out=w.detach().numpy()),
    "no 16-bit numbers any more": lambda w: w.add_(1e-3),
    "the same behind its back": lambda w: w.data.add_(1e-3),
    "a NaN": lambda w: w.data.fill_(torch.nan),
    "other memory": lambda w: setattr(w, "data", w.data * 3),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_was_changed_is_read(write):
    made = map_of(300, 40, torch.bfloat16)
    narrow, x = Narrow(made), torch.randn(2, 40)
    assert narrow.read().dtype is torch.bfloat16
    assert narrow.memory_bytes > 300 * 40 * 2
    write(made.weight)
    y = few_rows(x, narrow.read(), made.bias)
    torch.testing.assert_close(y, made(x), rtol=1e-5, atol=1e-4, equal_nan=True)
    narrow.forget()
    assert narrow.memory_bytes == 0


def test_one_row_written_unseen_is_noticed_at_once():
    made = map_of(1200, 16, torch.bfloat16)
    narrow = Narrow(made)
    narrow.read()
    made.weight.data[901] += 2.0
    assert torch.equal(narrow.read().float(), made.weight)


def test_of_large_vocabularies_within_as_many_reads_as_there_are_parts():
    made = map_of(2**15 + 5, 4, torch.bfloat16)
    narrow = Narrow(made)
    narrow.read()
    made.weight.data[901] += 2.0
    reads = [narrow.read() for _ in range(2)]
    assert torch.equal(reads[-1].float(), made.weight)


def test_weights_of_whose_changes_torch_does_not_tell():
    with torch.inference_mode():
        made = nn.Linear(40, 300)
        made.weight.copy_(made.weight.bfloat16())
        narrow = Narrow(made)
        assert narrow.read().data_ptr() == made.weight.data_ptr()
        up, down = nn.Linear(40, 300).bfloat16().float(), nn.Linear(300, 40).bfloat16().float()
        engine, x = Engine(up, down, resolve("relu"), narrow=True), torch.randn(1, 40)
        engine.way = "few"
        engine(x)
        up.weight[7, 3] += 5.0
        torch.testing.assert_close(engine(x), down(torch.relu(up(x))), rtol=1e-5, atol=1e-4)


def test_a_shallow_copy_reads_its_own_weights():
    model = nn.Sequential(map_of(300, 300, torch.bfloat16))
    reluctant.optimize(model, narrow=True)
    x = torch.randn(2, 300)
    model(x)
    other = copy.copy(model[0])
    own = map_of(600, 300, torch.bfloat16, seed=5)
    other._parameters = dict(own._parameters)
    for _ in range(2):
        torch.testing.assert_close(other(x), own(x), rtol=1e-5, atol=1e-4)
        wanted = nn.functional.linear(x, *model[0].parameters())
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-4)


def test_subnormals_are_told_apart_even_where_they_are_flushed():
    weight = torch.full((3, 3), 1.0005e-39)
    torch.set_flush_denormal(True)
    try:
        assert narrowest([weight], SERVED) is torch.float32
    finally:
        torch.set_flush_denormal(False)


def test_other_weights_are_read_as_they_are():
    made = nn.Linear(40, 30).requires_grad_(False)
    narrow = Narrow(made)
    assert narrow.read().data_ptr() == made.weight.data_ptr()
    assert narrow.memory_bytes == 0
    short = made.to(torch.float16)
    assert Narrow(short).read().data_ptr() == short.weight.data_ptr()
    across = nn.Linear(2, 2).requires_grad_(False)
    across.weight.data = torch.ones(2, 2).t()[:, :1].expand(2, 2)
    assert Narrow(across).read().dtype is torch.float32


def test_it_keeps_no_map_alive_and_copies_have_their_own():
    made = map_of(300, 300, torch.bfloat16)
    seat = MapSeat(narrow=True)
    seat.narrow_of(made).read()
    assert copy.deepcopy(seat).memory_bytes == 0 < seat.memory_bytes
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own():
    made = map_of(300, 40, torch.bfloat16)
    narrow = Narrow(made)
    with narrow._lock.held():  # as another thread might, just then
        child = os.fork()
        if child == 0:
            os._exit(0 if narrow.read().dtype is torch.bfloat16 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


WAYS = {
    "few": (3, Limits(NEVER_ABOVE, 0, 0)),
    "screened": (40, Limits(0, NEVER_ABOVE, 0)),
    "many": (40, Limits(0, 0, NEVER_ABOVE)),
    "dense": (3, Limits(0, 0, 0)),
}


# Kernels for many tokens take a while to compile: for one dtype.
CASES = [(short, way) for way in WAYS for short in SHORT if way == "few" or short is SHORT[0]]


@pytest.mark.parametrize(("short", "way"), CASES)
@pytest.mark.parametrize("gated", [False, True], ids=["", "gated"])
def test_a_layers_bits_are_the_same(short, gated, way):
    torch.manual_seed(1)
    up, down = map_of(320, 64, short, 1), map_of(64, 320, short, 2)
    gate = [map_of(320, 64, short, 3)] if gated else []
    parts = [up, down, *gate]
    up.bias.sub_(0.5)
    tokens, limits = WAYS[way]
    x, ys = torch.randn(tokens, 64), []
    for narrow in (False, True):
        engine = Engine(up, down, resolve("relu"), gate=gate[0] if gate else None, narrow=narrow)
        engine.forced = limits
        ys.append(engine(x))
    assert torch.equal(*ys)
    assert engine.memory_bytes > 0
    for part in parts:  # seen, and behind torch's back
        part.weight.mul_(0.5)
        part.weight.data.mul_(2.0)
        part.weight.data.mul_(3.0)
    plain = Engine(up, down, resolve("relu"), gate=gate[0] if gate else None)
    plain.forced = limits
    assert torch.equal(engine(x), plain(x))


def test_large_numbers_are_as_large_as_float32_allows():
    """They overflow where float32 does, not where float16 would."""
    up, down = map_of(64, 64, torch.float16), map_of(64, 64, torch.float16)
    engine = Engine(up, down, resolve("relu"), narrow=True)
    engine.way = "few"
    x = torch.full((1, 64), 1e6)
    torch.testing.assert_close(engine(x), down(torch.relu(up(x))), rtol=1e-4, atol=1e3)
    assert engine.calls["few"] == 1


def test_a_model_is_served_and_restored():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(256, 512), nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512))
    )
    model = model.eval().bfloat16().float()
    places = [p.data_ptr() for p in model.parameters()]
    x = torch.randn(2, 256)
    with torch.no_grad():
        plain = reluctant.optimize(model)
        wanted, before = model(x), plain.memory_bytes
        report = reluctant.optimize(model, narrow=True)
        assert torch.equal(model(x), wanted)
        added = report.memory_bytes
        assert added != before
        assert map_seat_of(model[0]).memory_bytes >= 256 * 512 * 2
        assert copy.deepcopy(model)[0].weight.dtype is torch.float32
        assert torch.equal(copy.deepcopy(model)(x), wanted)
        assert not reluctant.optimize(model).swapped[0].engine.narrow
        assert torch.equal(model(x), wanted)
    assert reluctant.restore(model) == 2
    assert places == [p.data_ptr() for p in model.parameters()]


def test_gradients_are_torchs():
    made = map_of(300, 300, torch.bfloat16).requires_grad_(True)
    x = torch.randn(2, 300)
    wanted = made(x).sum()
    y = linear(x, made.weight, made.bias, None, Narrow(made)).sum()
    y.backward()
    assert made.weight.grad is not None
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-3)
