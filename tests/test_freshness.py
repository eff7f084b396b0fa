"""What is written to the weights is in the very next call; nothing is made anew without need."""

import copy
import gc
import multiprocessing
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import reluctant
from reluctant import freshness, op, prepared
from reluctant.activations import resolve, thresholded_relu
from reluctant.engine import Engine
from reluctant.kernels import few
from reluctant.kernels.watch import row_sum
from reluctant.sketch import Sketch
from test_engine import Layer, close

D, D_FF = 64, 256


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def made(monkeypatch):
    """A list that grows with every sketch."""
    sketches = []

    def counted(keys):
        sketches.append(keys.shape)
        return Sketch.of(keys)

    class Counted(Sketch):
        of = staticmethod(counted)

    monkeypatch.setattr(prepared, "Sketch", Counted)
    return sketches


def lying(layer, across):
    """The layer with every matrix stored the other way round, if `across`: as Conv1Ds' are."""
    for part in (layer.up, layer.down, layer.gate) if across else ():
        if part is not None:
            part.weight = nn.Parameter(part.weight.data.t().contiguous().t())
    return layer.requires_grad_(False)


def row(w, value):
    w[7] = value


def column(w, value):
    w[:, 7] = value


def block(w, value):
    w[3:20, 5:9] = value


WRITES = [row, column, block]
KINDS = [("few", 1), ("few", 40), ("many", 40)]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(("way", "tokens"), KINDS)
def test_a_write_behind_torch_shows_in_the_next_call(way, tokens, write, gated, across):
    layer = lying(Layer(gated=gated, shift=-3.0), across)
    layer.engine.way = way
    for name in ("up", "down", "gate") if gated else ("up", "down"):
        for value in (3.0, -2.0, float("inf"), 0.5, float("nan"), 0.25):
            x = torch.randn(tokens, D)
            close(layer.engine(x), layer(x)) if value != 0.5 else layer.engine(x)
            before = getattr(layer, name).weight.data.clone()
            write(getattr(layer, name).weight.data, value)
            wanted = layer(x)
            torch.testing.assert_close(
                layer.engine(x), wanted, rtol=1e-4, atol=1e-3, equal_nan=True
            )
            getattr(layer, name).weight.data.copy_(before)
    served = layer.engine.calls[way]
    assert served > 0 or (gated and way == "many")


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("name", ["up", "gate", "down"])
def test_a_single_weight_is_seen_within_as_many_calls_as_the_matrix_has_rows(name, across):
    layer = lying(Layer(gated=True, shift=-6.0), across)
    layer.engine.way, x = "few", torch.randn(1, D)
    layer.engine(x)
    getattr(layer, name).weight.data[9, 13] = float("nan")
    wanted = layer(x)
    seen = [bool(layer.engine(x).isnan().any()) for _ in range(D_FF)]
    assert wanted.isnan().any()
    assert seen[-1]


def test_neurons_given_new_weights_row_by_row():
    """2 % of the rows, every later call compared: as those who revive dormant neurons do it."""
    layer = Layer(D, 2048, shift=-1.4).requires_grad_(False)
    layer.engine.way, xs = "few", torch.randn(40, 1, D)
    layer.engine(xs[0])
    rows = torch.randperm(2048)[:40]
    layer.up.weight.data[rows] = torch.randn(40, D) * 3 / D**0.5
    for x in xs:
        close(layer.engine(x), layer(x))


def test_a_row_that_changes_at_all_changes_its_sum():
    numbers = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    for kind in (np.float32, np.uint16):
        line = (numbers * 1000).astype(np.int32).astype(np.uint16) if kind is np.uint16 else numbers
        first = row_sum(line)
        for k in range(300):
            changed = line.copy()
            changed[k] += kind(1)
            assert row_sum(changed) != first
            changed = line.copy()
            changed[[k, (k + 7) % 300]] = changed[[(k + 7) % 300, k]]
            assert (row_sum(changed) != first) == (changed[k] != line[k])


def test_nothing_is_made_anew_without_a_change(made):
    layer = Layer().requires_grad_(False)
    for _ in range(2 * D_FF):
        layer.engine(torch.randn(1, D))
    assert len(made) == 1


# Shapes, dtypes, places.


def sliced(layer):
    layer.up.weight.data = layer.up.weight.data[:128]
    layer.up.bias.data = layer.up.bias.data[:128]
    layer.down.weight.data = layer.down.weight.data[:, :128]


def sliced_whole(layer):
    sliced(layer)
    layer.down.weight.data = layer.down.weight.data.contiguous()


def other_bias_dtype(layer):
    layer.down.bias = nn.Parameter(layer.down.bias.data[:1].expand(D))


def strided_second_bias(layer):
    layer.down.bias.data = torch.randn(2 * D)[::2]


def expanded(layer):
    layer.up.weight.data = torch.randn(1, D).expand(D_FF, D)


def other_way_round(layer):
    layer.up.weight.data = layer.up.weight.data.t().contiguous().t()
    layer.down.weight.data = layer.down.weight.data.t().contiguous().t()


def half(layer):
    layer.bfloat16()


@pytest.mark.parametrize("way", ["few", "many", "dense"])
@pytest.mark.parametrize(
    "change",
    [sliced, sliced_whole, other_bias_dtype, strided_second_bias, expanded, other_way_round, half],
)
def test_another_shape_layout_or_dtype(change, way):
    layer = Layer().requires_grad_(False)
    layer.engine.way, x = way, torch.randn(3, D)
    close(layer.engine(x), layer(x))
    change(layer)
    x = x.to(layer.up.weight.dtype)
    for _ in range(2):
        torch.testing.assert_close(layer.engine(x), layer(x), rtol=2e-2, atol=2e-2)
        layer.down.weight.data[:, 3] = 2
    if change is sliced_whole:
        assert layer.engine.calls["dense"] == (3 if way == "dense" else 0)


@pytest.mark.parametrize("d_ff", [0, 1])
@pytest.mark.parametrize("way", ["auto", "few", "many"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_neurons(d_ff, way):
    up, down = nn.Linear(D, d_ff), nn.Linear(d_ff, D)
    engine = Engine(up, down, resolve("relu"), way=way)
    with torch.no_grad():
        for x in (torch.randn(2, D), torch.randn(0, D)):
            close(engine(x), down(up(x).relu()))
        assert engine.census(torch.randn(2, D)).active <= 2 * d_ff
    assert engine.sparse == (d_ff > 0)
    assert (engine.memory_bytes > 0) == (d_ff > 0)


# Optimizers.


def step_of(optimizer, model, x):
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_somebody_elses_optimizer_makes_nothing_anew(made):
    layer, other = Layer().requires_grad_(False), nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(other.parameters(), fused=True)
    for _ in range(3):
        layer.engine(torch.randn(1, D))
        step_of(optimizer, other, torch.randn(1, 4))
    assert len(made) == 1


def test_a_fused_step_is_noticed(made):
    """torch does not raise the version there."""
    layer, x = Layer(), torch.randn(1, D)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, fused=True)
    with torch.no_grad():
        layer.engine(x)
    version = layer.up.weight._version
    step_of(optimizer, layer, x)
    assert layer.up.weight._version == version
    assert layer.engine._derived._now is not None
    assert not layer.engine._derived._now.stamp.holds()
    with torch.no_grad():
        close(layer.engine(x), layer(x))
    assert len(made) == 2


def test_a_fused_step_on_a_flat_vector_is_noticed():
    layer = Layer()
    flat = nn.Parameter(torch.cat([p.data.reshape(-1) for p in layer.parameters()]))
    nn.utils.vector_to_parameters(flat.data, layer.parameters())
    stamp = freshness.Stamp(layer.engine.neurons)
    flat.grad = torch.randn_like(flat)
    torch.optim.SGD([flat], lr=0.1, fused=True).step()
    assert not stamp.holds()


def test_steps_are_counted_for_layers_that_live():
    gc.collect()
    before = len(freshness._served)
    layer = Layer().requires_grad_(False)
    layer.engine(torch.randn(1, D))
    assert len(freshness._served) == before + 2
    del layer
    gc.collect()
    assert len(freshness._served) == before


def test_parameters_without_memory_take_steps():
    layer = Layer()
    layer.engine(torch.randn(1, D))
    empty = nn.Parameter(torch.empty(0))
    sparse = nn.Embedding(5, 2, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    torch.optim.SGD([empty, *sparse.parameters()], lr=1.0).step()


def test_importing_hooks_into_nobodys_optimizer():
    program = (
        "import torch.optim.optimizer as o; before = len(o._global_optimizer_post_hooks), "
        "len(o._global_optimizer_pre_hooks); import reluctant.engine, reluctant.surgery; "
        "assert before == (len(o._global_optimizer_post_hooks), len(o._global_optimizer_pre_hooks))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


# Made once, by whoever comes first.


def test_many_threads_make_one_sketch(made):
    layer, x = Layer(D, 4096).requires_grad_(False), torch.randn(1, D)
    layer.engine.way = "few"
    start, got = threading.Barrier(6), []

    def call():
        start.wait()
        got.append(layer.engine(x))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(torch.equal(y, got[0]) for y in got)


def test_many_threads_that_find_it_stale_make_one_sketch(made):
    layer, x = Layer(D, 4096).requires_grad_(False), torch.randn(1, D)
    layer.engine.way = "few"
    layer.engine(x)
    stale = layer.engine._derived._now
    layer.up.weight.data.mul_(-1)
    layer.engine(x)
    fresh = layer.engine._derived._now
    layer.engine._derived.drop(stale)  # of a thread that comes late
    assert layer.engine._derived._now is fresh
    assert len(made) == 2


def _in_child(layer, x, queue):
    queue.put((layer.engine(x) - layer(x)).abs().max().item())


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("other", [False, True])
def test_a_fork_while_a_sketch_is_being_made(monkeypatch, other):
    layer, x = Layer().requires_grad_(False), torch.randn(1, D)
    elsewhere = Layer().requires_grad_(False) if other else layer
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Sketch):
        @staticmethod
        def of(keys):
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                go_on.wait(30)
            return Sketch.of(keys)

    monkeypatch.setattr(prepared, "Sketch", Slow)
    few_way = (layer, elsewhere)
    for each in few_way:
        each.engine.way = "few"
    elsewhere.engine(x)
    elsewhere.engine.refresh()
    worker = threading.Thread(target=lambda: layer.engine(x))
    worker.start()
    assert inside.wait(30)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(elsewhere, x, queue))
    child.start()
    child.join(30)
    child.kill()
    go_on.set()
    worker.join()
    assert child.exitcode == 0
    assert queue.get() < 1e-4


def test_an_error_in_making_it_leaves_nothing_half_done(monkeypatch):
    layer, x = Layer().requires_grad_(False), torch.randn(1, D)
    layer.engine.way = "few"

    class Failing(Sketch):
        @staticmethod
        def of(keys):
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "Sketch", Failing)
        with pytest.raises(MemoryError):
            layer.engine(x)
    close(layer.engine(x), layer(x))
    assert layer.engine.calls == {"few": 1, "many": 0, "dense": 0, "training": 0}


def test_a_refresh_while_it_is_being_made_is_not_lost(monkeypatch):
    layer, x = Layer().requires_grad_(False), torch.randn(1, D)
    layer.engine.way = "few"
    inside, go_on, made = threading.Event(), threading.Event(), []

    class Slow(Sketch):
        @staticmethod
        def of(keys):
            sketch = Sketch.of(keys)
            made.append(sketch)
            inside.set()
            go_on.wait(30)
            return sketch

    monkeypatch.setattr(prepared, "Sketch", Slow)
    worker = threading.Thread(target=lambda: layer.engine(x))
    worker.start()
    inside.wait(30)
    layer.up.weight.data[5, 6] += 9  # which no look of the first calls would find
    told = threading.Thread(target=layer.engine.refresh)
    told.start()
    go_on.set()
    worker.join()
    told.join()
    close(layer.engine(x), layer(x))
    assert len(made) == 2


def test_a_later_part_of_a_call_that_finds_it_stale_has_all_of_it_computed_anew(monkeypatch):
    layer, x = Layer().requires_grad_(False), torch.randn(50, D)
    layer.engine.way = "few"
    layer.engine(x)
    module = reluctant.engine
    plain, calls = module.run_at, []

    def stale_once(*args):
        calls.append(args)
        if len(calls) == 3:
            layer.up.weight.data.mul_(-1)  # what the first two have read is no more
            return few.STALE
        return plain(*args)

    monkeypatch.setattr(module, "run_at", stale_once)
    close(layer.engine(x), layer(x))
    assert len(calls) == 3 + 4
    census = layer.engine.census(x)
    assert census.active == int((layer.up(x) > 0).sum())


# Questions.


def test_a_question_changes_nothing(made):
    model = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))
    report = reluctant.optimize(model)
    (entry,) = report.swapped
    engine, memory = entry.engine, report.memory_bytes
    for change in (
        lambda: None,
        engine.refresh,
        lambda: model[2].weight.data.mul_(2),
        lambda: reluctant.restore(model),
        lambda: prune.l1_unstructured(model[0], "weight", 0.5),
    ):
        change()
        made.clear()
        now = engine._derived._now
        held = [(id(p), p.data_ptr(), p.stride(), p._version) for p in model.parameters()]
        assert str(report)
        assert report.memory_bytes == memory
        assert engine.sparse
        assert not made
        assert engine._derived._now is now
        assert [(id(p), p.data_ptr(), p.stride(), p._version) for p in model.parameters()] == held
    assert memory >= D * D_FF * 5  # W2's rows and the sketch


def test_restore_and_refresh_give_the_memory_back():
    model = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)).requires_grad_(False)
    (entry,) = reluctant.optimize(model, way="few").swapped
    for give_back in (reluctant.refresh, reluctant.restore):
        model(torch.randn(1, D))
        copied = weakref.ref(entry.engine._derived._now)
        give_back(model)
        assert copied() is None


# What lives no longer than it must.


@pytest.mark.parametrize("way", ["few", "many", "dense"])
@pytest.mark.parametrize("train", [False, True])
def test_a_dropped_model_takes_its_weights_with_it(way, train):
    model = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))
    reluctant.optimize(model, way=way)
    x = torch.randn(20, D)
    if train:
        step_of(torch.optim.SGD(model.parameters(), lr=0.1), model, x)
    with torch.no_grad():
        model(x)
    weights = [weakref.ref(p) for p in model.parameters()]
    gc.collect()
    gc.disable()
    try:
        del model
        assert [ref() for ref in weights] == [None] * 4
    finally:
        gc.enable()


@pytest.mark.parametrize("grad", [False, True])
def test_weights_that_were_replaced_are_let_go(grad):
    layer, x = Layer(), torch.randn(2, D)
    with torch.no_grad():
        layer.engine.way = "few"
        layer.engine(x)
    old = weakref.ref(layer.engine._derived._now)
    layer.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}, assign=True)
    layer.engine.way = "dense"
    with torch.set_grad_enabled(grad):
        layer.engine(x)
    assert old() is None


def test_names_and_handles_do_not_grow():
    gc.collect()
    before = len(op._unregistered), len(op._servers)
    for k in range(5):
        layer = Layer(8, 16, activation=thresholded_relu(0.25 + k))
        twin = copy.deepcopy(layer)
        assert op.activation_of(layer.engine._label) == layer.activation
        del layer
        gc.collect()
        assert op.activation_of(twin.engine._label) == twin.activation
    del twin
    gc.collect()
    assert (len(op._unregistered), len(op._servers)) == before
