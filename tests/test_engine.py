"""One layer's engine: every way right, changed weights noticed, threads and forks survived."""

import copy
import multiprocessing
import pickle
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reluctant import tables, ways
from reluctant.activations import names, resolve, thresholded_relu
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.kernels import few, pool, team
from reluctant.ways import Limits

SERVED = ["relu", "relu2", "relu6", "hardswish", "thresholded_relu"]


class Layer(nn.Module):
    """A feed-forward layer in plain torch, and its engine."""

    def __init__(self, d=64, d_ff=256, activation="relu", shift=-1.0, gated=False, bias=True):
        super().__init__()
        self.up, self.down = nn.Linear(d, d_ff, bias=bias), nn.Linear(d_ff, d, bias=bias)
        self.gate = nn.Linear(d, d_ff, bias=bias) if gated else None
        for part in (self.up, self.gate):
            if part is not None:
                nn.init.normal_(part.weight, std=d**-0.5)
                if bias:
                    nn.init.constant_(part.bias, shift)
        self.activation = resolve(activation)
        self.engine = Engine(self.up, self.down, self.activation, gate=self.gate)

    def forward(self, x):
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


@pytest.fixture(autouse=True)
def _seed(monkeypatch):
    torch.manual_seed(0)
    # Small layers are as good as large ones here; by themselves they would not choose "few".
    monkeypatch.setattr(
        ways,
        "limits",
        lambda dtype, weights, tokens: Limits(0.9 if tokens <= few.MAX_TOKENS else 0, 0, 0.3),
    )


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", sorted(set(names())))
def test_every_activation_at_one_few_and_many_tokens(activation, gated):
    zero_below = resolve(activation).zero_below
    layer = Layer(activation=activation, gated=gated, shift=(zero_below or 0) - 1)
    with torch.no_grad():
        for shape in ((64,), (1, 64), (3, 2, 64), (2, 50, 64), (0, 64)):
            x = torch.randn(shape)
            close(layer.engine(x), layer(x))
    expected = {"few": 0, "many": 0, "dense": 5, "training": 0}
    if activation in SERVED:
        expected = {"few": 3, "many": 0 if gated else 1, "dense": 2 if gated else 1, "training": 0}
    assert layer.engine.calls == expected
    assert (layer.engine.memory_bytes > 0) is (activation in SERVED)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", ["dense", "few", "many"])
@pytest.mark.parametrize("tokens", [1, 16, 17, 50])
def test_every_way_serves_every_number_of_tokens(way, tokens, bias):
    layer, x = Layer(bias=bias), torch.randn(tokens, 64)
    layer.engine.way = way
    with torch.no_grad():
        close(layer.engine(x), layer(x))
    assert layer.engine.calls == {"few": 0, "many": 0, "dense": 0, "training": 0} | {way: 1}


@given(st.integers(1, 40), st.sampled_from([1, 8, 33]), st.sampled_from([1, 30, 256]))
@settings(max_examples=40, deadline=None)
def test_against_float64(tokens, d, d_ff):
    layer, x = Layer(d, d_ff), torch.randn(tokens, d)
    with torch.no_grad():
        expected = copy.deepcopy(layer).double()(x.double()).float()
        for way in ("auto", "dense", "few", "many"):
            layer.engine.way = way
            close(layer.engine(x), expected)


@pytest.mark.parametrize("tokens", [1, 64])
def test_the_error_is_no_larger_than_torchs(tokens):
    ours, eagers = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        layer, x = Layer(256, 1024), torch.randn(tokens, 256)
        with torch.no_grad():
            expected = copy.deepcopy(layer).double()(x.double())
            for errors, y in ((ours, layer.engine(x)), (eagers, layer(x))):
                errors.append((y - expected).square().mean().item())
        assert layer.engine.calls["dense"] == 0
    assert np.sqrt(np.mean(ours)) <= 1.5 * np.sqrt(np.mean(eagers))


def test_float64_takes_the_dense_way():
    layer, x = Layer().double(), torch.randn(3, 64).double()
    with torch.no_grad():
        torch.testing.assert_close(layer.engine(x), layer(x))
    assert layer.engine.calls["dense"] == 1


def test_autocast_is_torchs():
    layer, x = Layer(), torch.randn(3, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = layer.engine(x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, layer(x))


def test_limits_decide(monkeypatch):
    """From the shape: those of the next larger measured one."""
    monkeypatch.undo()
    measured = {"262144": {"1": [0, 0, 0.1], "16": [0, 0, 0]}, "4194304": {"1": [1.0, 0, 0.1]}}
    found = tables.Found({"limits": {"float32": measured}}, "the test's")
    monkeypatch.setattr(ways, "in_use", lambda: found)
    ways.limits.cache_clear()
    request = ((1024, 1, "many"), (1024, 9, "dense"), (1025, 1, "few"), (8192, 99, "few"))
    for d_ff, tokens, way in request:
        layer, x = Layer(256, d_ff, shift=-2.0), torch.randn(tokens, 256)
        with torch.no_grad():
            close(layer.engine(x), layer(x))
        assert layer.engine.calls[way] == 1, (d_ff, tokens)
    ways.limits.cache_clear()


def test_the_table_of_limits():
    for dtype in ("float32", "bfloat16"):
        for weights in (1, 2**18, 2**20, 2**22, 2**24, 2**30):
            for tokens in (1, 13, 16, 64, 512, 10**6):
                limits = ways.limits(dtype, weights, tokens)
                assert all(0 <= limit <= ways.NEVER_ABOVE for limit in limits)
                assert limits.few == 0 or tokens <= few.MAX_TOKENS


def test_a_dense_layer_is_served_densely():
    layer = Layer(shift=4.0)
    with torch.no_grad():
        for tokens in (1, 100):
            x = torch.randn(tokens, 64)
            close(layer.engine(x), layer(x))
    assert layer.engine.calls == {"few": 0, "many": 0, "dense": 2, "training": 0}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("lengths", [[2, 3], [20, 40]])
def test_nested_tensors(layout, lengths):
    layer, parts = Layer(), [torch.randn(n, 64) for n in lengths]
    with torch.no_grad():
        y = layer.engine(torch.nested.nested_tensor(parts, layout=layout))
        assert y.is_nested
        for ours, part in zip(y.unbind(), parts, strict=True):
            close(ours, layer(part))


def test_odd_layouts_of_x():
    layer, x = Layer(), torch.randn(64, 2, 10)
    with torch.no_grad():
        close(layer.engine(x.transpose(0, 2)), layer(x.transpose(0, 2)))
        wide = torch.randn(4, 128)[:, ::2]
        close(layer.engine(wide), layer(wide))
        close(layer.engine(torch.randn(1, 64).expand(5, 64)[:0]), torch.zeros(0, 64))


# Weights that change.


def fused_step(layer):
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, fused=True)
    layer(torch.randn(8, 64)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def plain_step(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(torch.randn(8, 64)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def data_write(layer):
    for p in layer.parameters():
        p.data.mul_(-1.5)


def numpy_write(layer):
    for p in layer.parameters():
        p.detach().numpy()[...] *= 0.7


def load(layer):
    layer.load_state_dict({k: torch.randn_like(v) for k, v in layer.state_dict().items()})


def load_assign(layer):
    state = {k: torch.randn_like(v).contiguous() for k, v in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


def ema_swap(layer):
    with torch.no_grad():
        for p in layer.parameters():
            other = torch.randn_like(p)
            kept = p.data.clone()
            p.data.copy_(other)
            other.copy_(kept)


def merged_adapter(layer):
    a, b = torch.randn(256, 4), torch.randn(4, 64)
    layer.up.weight.data += a @ b


def swapped_data(layer):
    layer.up.weight.data = torch.randn_like(layer.up.weight)
    layer.down.weight.data = torch.randn_like(layer.down.weight)


def replaced_parameter(layer):
    layer.up.weight = nn.Parameter(torch.randn(256, 64))
    layer.up.bias = nn.Parameter(torch.randn(256))


def there_and_back(layer):
    layer.double()
    for p in layer.parameters():
        p.data.mul_(-1)
    layer.float()


def bias_only(layer):
    layer.up.bias.data += 2
    layer.down.bias.data += 1


def strided_bias(layer):
    layer.up.bias = nn.Parameter(torch.randn(512)[::2])
    with torch.no_grad():
        layer.engine(torch.randn(1, 64))
        layer.up.bias.data.add_(3)


def one_row(layer):
    with torch.no_grad():
        layer.up.weight[17] *= -30


CHANGES = [
    *(fused_step, plain_step, data_write, numpy_write, load, load_assign, ema_swap, merged_adapter),
    *(swapped_data, replaced_parameter, there_and_back, bias_only, strided_bias, one_row),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_the_call_after_a_change_is_right(change, tokens):
    layer, x = Layer(), torch.randn(tokens, 64)
    with torch.no_grad():
        close(layer.engine(x), layer(x))
    change(layer)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(layer.engine(x), expected, rtol=1e-4, atol=1e-3)
        layer.engine.way = "few"
        torch.testing.assert_close(layer.engine(x), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("part", ["up", "down"])
def test_weights_that_turn_bad_show_as_in_torch(part):
    layer, x = Layer(), torch.randn(3, 64)
    with torch.no_grad():
        layer.engine(x)
        getattr(layer, part).weight[0, 0] = float("nan")
        for tokens in (3, 40):
            x = torch.randn(tokens, 64)
            torch.testing.assert_close(layer.engine(x), layer(x), equal_nan=True)
            assert layer.engine(x).isnan().any()


# Gradients.


@pytest.mark.parametrize("activation", [*SERVED, "gelu"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tokens", [2, 40])
def test_gradients_are_torchs(activation, gated, tokens):
    layer = Layer(activation=activation, gated=gated).eval()
    x = torch.randn(tokens, 64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    probe = torch.randn(tokens, 64)
    ours = torch.autograd.grad((layer.engine(x) * probe).sum(), inputs)
    theirs = torch.autograd.grad((layer(x) * probe).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)


def test_gradients_for_some_inputs_only_and_second_derivatives():
    layer, x = Layer(activation="relu2"), torch.randn(2, 64, requires_grad=True)
    layer.requires_grad_(False)
    firsts = [torch.autograd.grad(f(x).square().sum(), x, create_graph=True)[0]
              for f in (layer.engine, layer)]  # fmt: skip
    seconds = [torch.autograd.grad(g.square().sum(), x)[0] for g in firsts]
    close(*firsts)
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-3)
    assert not layer.engine(x.detach()).requires_grad


def test_the_gradients_error_is_no_larger_than_torchs():
    ours, eagers = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        layer, x = Layer(), torch.randn(4, 64)
        wide = copy.deepcopy(layer).double()
        wide(x.double()).square().sum().backward()
        for errors, forward in ((ours, layer.engine), (eagers, layer)):
            layer.zero_grad()
            forward(x).square().sum().backward()
            for p, q in zip(layer.parameters(), wide.parameters(), strict=True):
                scale = q.grad.square().mean()
                errors.append(((p.grad - q.grad).square().mean() / scale).item())
    assert np.sqrt(np.mean(ours)) <= 1.5 * np.sqrt(np.mean(eagers))


# Copies, threads, processes, graphs.


def test_copies_and_pickles_are_their_own():
    layer, x = Layer(), torch.randn(2, 64)
    with torch.no_grad():
        before = layer.engine(x)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert twin.engine.neurons.up is twin.up
            assert torch.equal(twin.engine(x), before)
            twin.up.weight.mul_(-1)
            close(twin.engine(x), twin(x))
            assert torch.equal(layer.engine(x), before)


def test_threads_share_an_engine():
    layer = Layer(256, 1024)
    xs = [torch.randn(tokens, 256) for tokens in (1, 3, 16, 40)]
    with torch.no_grad():
        expected = [layer.engine(x) for x in xs]
    layer.engine.refresh()
    wrong = []

    def call():
        with torch.no_grad():
            for _ in range(10):
                wrong.extend(
                    None for x, y in zip(xs[:3], expected, strict=False)
                    if not torch.equal(layer.engine(x), y)
                )  # fmt: skip
                close(layer.engine(xs[3]), expected[3])

    workers = [threading.Thread(target=call) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_thread_count_changes_no_bit_and_is_left_alone():
    layer, before = Layer(512, 2048), torch.get_num_threads()
    xs = [torch.randn(tokens, 512) for tokens in (1, 9)]
    got = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                got.append([layer.engine(x) for x in xs])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in got[1:]:
        assert all(torch.equal(a, b) for a, b in zip(got[0], other, strict=True))


def _in_child(layer, x, expected, queue):
    with torch.no_grad():  # and no parallel operation of torch: its pool is not in the child
        same = torch.equal(layer.engine(x), expected)
        queue.put((same, pool.pool().counts()[0] > 0))  # with helpers of its own


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_the_same():
    layer, x = Layer(512, 2048), torch.randn(1, 512)
    with torch.no_grad():
        expected = layer.engine(x)  # the pool has been started
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(layer, x, expected, queue))
    child.start()
    child.join(20)
    child.kill()  # does nothing, unless it waits for threads that are not there
    assert child.exitcode == 0
    assert queue.get(timeout=5) == (True, sys.platform == "linux" and torch.get_num_threads() > 1)


def test_where_there_are_no_helpers_everything_is_serial(monkeypatch):
    monkeypatch.setattr(sys, "platform", "elsewhere")
    monkeypatch.setattr(pool, "_pools", [pool.Pool()])
    assert team.team_for(10**12)[0] == 0
    layer, x = Layer(512, 2048), torch.randn(1, 512)
    with torch.no_grad():
        close(layer.engine(x), layer(x))


def test_one_graph_serves_all_layers():
    from torch._dynamo.testing import CompileCounterWithBackend  # noqa: PLC0415 - slow

    layers = nn.ModuleList([Layer() for _ in range(3)])
    counter = CompileCounterWithBackend("aot_eager")
    call = torch.compile(lambda layer, x: layer.engine(x), backend=counter, fullgraph=True)
    with torch.no_grad():
        for layer in layers:
            x = torch.randn(2, 64)
            close(call(layer, x), layer(x))
            assert layer.engine.calls["few"] == 1  # the sparse way, inside the graph
    assert counter.frame_count == 1


def test_compiled_gradients():
    layer, x = Layer(activation=thresholded_relu(0.25)), torch.randn(2, 64, requires_grad=True)
    call = torch.compile(layer.engine, backend="aot_eager", fullgraph=True)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad(call(x).square().sum(), inputs)
    theirs = torch.autograd.grad(layer(x).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)


def test_the_operator_keeps_torchs_rules():
    from reluctant import op  # noqa: PLC0415

    layer = Layer(8, 32).requires_grad_(False)
    x = torch.randn(2, 8)
    args = (x, *layer.engine.neurons.tensors(), layer.engine._handle, "relu")
    torch.library.opcheck(op.feed_forward, args)


def test_the_operator_without_its_engine_is_dense():
    from reluctant import op  # noqa: PLC0415

    layer, x = Layer(), torch.randn(2, 64)
    with torch.no_grad():
        args = (x, *layer.engine.neurons.tensors(), torch.zeros(1), "relu")
        close(op.feed_forward(*args), layer(x))
        other = Layer().engine._handle  # a handle of other weights
        close(op.feed_forward(*args[:-2], other, "relu"), layer(x))


# Errors.


@pytest.mark.parametrize(
    ("x", "said"),
    [(torch.ones(3, 63), "63"), (torch.ones(3, 64, dtype=torch.int64), "int64"),
     (torch.tensor(1.0), r"\(\)")],
)  # fmt: skip
def test_a_bad_x_is_refused(x, said):
    layer = Layer()
    with torch.no_grad(), pytest.raises(ReluctantError, match=said):
        layer.engine(x)
    with pytest.raises(ReluctantError, match=said):
        layer.engine(x)


def test_parts_that_do_not_fit_are_refused():
    relu = resolve("relu")
    with pytest.raises(ReluctantError, match="back to d_model"):
        Engine(nn.Linear(4, 8), nn.Linear(8, 5), relu)
    with pytest.raises(ReluctantError, match="gate"):
        Engine(nn.Linear(4, 8), nn.Linear(8, 4), relu, gate=nn.Linear(4, 9))
    with pytest.raises(ReluctantError, match=r"nn\.Linear"):
        Engine(nn.Identity(), nn.Linear(8, 4), relu)
    with pytest.raises(ReluctantError, match="one dtype"):
        Engine(nn.Linear(4, 8), nn.Linear(8, 4).double(), relu)
    with pytest.raises(ReluctantError, match="auto, dense, few, many"):
        Engine(nn.Linear(4, 8), nn.Linear(8, 4), relu, way="fast")


@pytest.mark.parametrize("part", ["up", "down"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_are_refused_and_nothing_is_changed(part, bad):
    up, down = nn.Linear(4, 8), nn.Linear(8, 4)
    with torch.no_grad():
        {"up": up, "down": down}[part].weight[1, 1] = bad
    stride = down.weight.stride()
    with pytest.raises(ReluctantError, match=f"{part}.weight holds a NaN"):
        Engine(up, down, resolve("relu"))
    assert down.weight.stride() == stride


def test_census_counts():
    layer, x = Layer(), torch.randn(2, 20, 64)
    with torch.no_grad():
        census = layer.engine.census(x)
        active = (layer.up(x) > 0).sum().item()
    assert census.tokens == 40
    assert census.active == active
    assert active <= census.candidates < 1.5 * active
    gelu = Layer(activation="gelu").engine.census(x)
    assert gelu.candidates == 40 * 256
