"""A training step over active neurons: values, gradients, what is kept, what is drawn."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reluctant.activations import Activation, resolve, thresholded_relu
from reluctant.kernels import gradients, sums
from reluctant.training import Call, Weights, feed_forward, lists, plain, unserved

ACTIVATIONS = [*map(resolve, ("relu", "relu2", "relu6", "hardswish")), thresholded_relu(0.5)]
# Limits of the active neurons' way, and of its sketch: the ways that a step can go.
WAYS = {"lists": (2.0, 0.0), "screened": (2.0, 2.0), "dense": (0.0, 0.0)}


def call_of(activation: Activation, way: str, drop: float = 0.0, *, sized: bool = True) -> Call:
    return Call(activation, *WAYS[way], drop, sized)


def drawn(
    draw: Callable[..., Tensor],
    shape: tuple[int, ...],
    d: int,
    d_ff: int,
    *,
    gated: bool = False,
    bias: bool = True,
    shift: float = 0.0,
) -> tuple[Tensor, Weights]:
    """x and weights, float64. shift: added to what feeds the activation."""
    w1, w2, wg = draw(d_ff, d), draw(d, d_ff), draw(d_ff, d) if gated else None
    b1, b2 = (draw(d_ff), draw(d)) if bias else (None, None)
    bg = draw(d_ff) if gated and bias else None
    if bias:
        fires = bg if gated else b1
        assert fires is not None
        fires += shift
    return draw(*shape, d), Weights(w1, b1, w2, b2, wg, bg)


def results(
    function: Callable[..., Any], x: Tensor, weights: Weights, dy: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """y, the sum of |h|, and the gradients of x and the weights that there are."""
    tensors = [None if t is None else t.to(dtype).requires_grad_() for t in (x, *weights)]
    y, size = function(tensors[0], Weights(*tensors[1:]))
    leaves = [t for t in tensors if t is not None]
    grads = torch.autograd.grad((y, size), leaves, (dy.to(dtype), torch.full_like(size, 0.5)))
    return [y.detach(), size.detach(), *grads]


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm().clamp_min(1e-30))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([*WAYS]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(1,), (2, 3), (17,), (2, 150), (513,)]),
    st.integers(1, 90),
    st.integers(1, 300),
    st.sampled_from([-9.0, -3.0, -0.25, 0.0, 1.0, 9.0]),
    st.integers(0, 2**16),
)
def test_sums_without_rounding_are_exact(
    activation: Activation,
    way: str,
    gated: bool,
    bias: bool,
    shape: tuple[int, ...],
    d: int,
    d_ff: int,
    shift: float,
    seed: int,
) -> None:
    """Of small multiples of 1/4, of which float32 sums lose nothing, in any order."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> Tensor:
        return torch.randint(-2, 3, sizes, generator=generator).double() / 2

    x, weights = drawn(draw, shape, d, d_ff, gated=gated, bias=bias, shift=shift)
    call, dy = call_of(activation, way), draw(*shape, d)
    truth = results(lambda *t: plain(*t, call, F.dropout), x, weights, dy, torch.float64)
    ours = results(lambda *t: feed_forward(*t, call), x, weights, dy, torch.float32)
    # hardswish divides by 6, and squares of squares grow: a few roundings.
    rounds = activation.name in ("hardswish", "relu2")
    for mine, wanted in zip(ours, truth, strict=True):
        assert mine.shape == wanted.shape
        if rounds or mine.dim() == 0:  # of all |h| the sum is too large a number
            # what cancels leaves less than the roundings of as many terms as there are tokens
            size = max(float(wanted.abs().max()), x.numel() / d) if wanted.numel() else 1.0
            assert float((mine.double() - wanted).abs().sum()) < 1e-6 * size * mine.numel() + 1e-30
        else:
            assert torch.equal(mine.double(), wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "activation", "gated", "tokens", "d", "d_ff", "shift"),
    [
        (torch.float32, "relu", False, 4096, 128, 512, -1.6),
        (torch.float32, "relu", False, 4096, 64, 256, 3.0),
        (torch.float32, "relu", False, 300, 100, 5000, 0.0),
        (torch.float32, "relu2", False, 600, 96, 333, -0.5),
        (torch.float32, "relu", True, 700, 96, 333, -1.0),
        (torch.float32, "relu", False, 1, 256, 700, 0.0),
        (torch.bfloat16, "relu", False, 700, 128, 512, -1.6),
        (torch.bfloat16, "relu", True, 400, 96, 333, 0.0),
        (torch.bfloat16, "relu2", False, 300, 100, 400, -1.0),
    ],
)
def test_the_error_is_no_larger_than_torchs(
    way: str,
    dtype: torch.dtype,
    activation: str,
    gated: bool,
    tokens: int,
    d: int,
    d_ff: int,
    shift: float,
) -> None:
    if way == "screened" and dtype is torch.bfloat16:
        pytest.skip("there is none in bfloat16")
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        scale = sizes[-1] ** -0.5 if len(sizes) > 1 and sizes[-1] != tokens else 0.1
        scale = 1.0 if sizes == (tokens, d) else scale
        return (torch.randn(*sizes, generator=generator) * scale).to(dtype).double()

    x, weights = drawn(draw, (tokens,), d, d_ff, gated=gated, shift=shift)
    weights = Weights(*(None if t is None else t.to(dtype).double() for t in weights))
    call, dy = call_of(resolve(activation), way), draw(tokens, d)
    # A z within rounding of zero may fall to either side, with another slope: not of interest.
    fires, b = (weights[4], weights[5]) if gated else (weights[0], weights[1])
    near = (F.linear(x, fires, b).abs() < 64 * torch.finfo(dtype).eps).any(1)
    if not near.all():
        dy[near] = 0
    truth = results(lambda *t: plain(*t, call, F.dropout), x, weights, dy, torch.float64)
    theirs = results(lambda *t: plain(*t, call, F.dropout), x, weights, dy, dtype)
    ours = results(lambda *t: feed_forward(*t, call), x, weights, dy, dtype)
    floor = 0.2 * torch.finfo(dtype).eps
    del truth[1], theirs[1], ours[1]  # one number's error is chance
    for mine, other, wanted in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == other.dtype
        assert error(mine, wanted) <= 1.5 * error(other, wanted) + floor


def kept_bytes(forward: Callable[[], Any], apart: list[Tensor]) -> int:
    """What a forward pass keeps for the backward pass, beside some tensors."""
    known = {t.untyped_storage().data_ptr() for t in apart}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        at = t.untyped_storage().data_ptr()
        if at not in known:
            found[at] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = forward()
    del result
    return sum(found.values())


@pytest.mark.parametrize("way", ["lists", "screened"])
def test_little_is_kept(way: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator) * sizes[-1] ** -0.5

    x, weights = drawn(draw, (300,), 64, 2048)
    x = 8 * x
    weights[1].fill_(-1.645)  # 5 %
    tensors = [t.requires_grad_() for t in (x, *weights) if t is not None]
    call = call_of(resolve("relu"), way, sized=False)
    ours = kept_bytes(lambda: feed_forward(x, weights, call), tensors)
    eager = kept_bytes(lambda: plain(x, weights, call, F.dropout), tensors)
    assert eager == 300 * 2048 * 4
    assert ours <= eager / 12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wanted", [*itertools.product([False, True], repeat=3)])
@pytest.mark.parametrize("gated", [False, True])
def test_gradients_that_nobody_wants_are_not_computed(
    way: str, wanted: tuple[bool, bool, bool], gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = drawn(lambda *s: torch.rand(*s, generator=generator) - 0.4, (20,), 8, 70,
                       gated=gated)  # fmt: skip
    call, calls = call_of(resolve("relu"), way), list[Any]()
    run = gradients.run
    monkeypatch.setattr(gradients, "run", lambda *a: (calls.append(a), run(*a)))
    of_x, of_first, of_second = wanted
    flags = (of_x, of_first, of_first, of_second, of_second, of_first, of_first)

    def found(function: Callable[..., Any]) -> list[Tensor | None]:
        tensors = [
            None if t is None else t.detach().clone().requires_grad_(f)
            for t, f in zip((x, *weights), flags, strict=True)
        ]
        y, _ = function(tensors[0], Weights(*tensors[1:]))
        if any(wanted):
            y.square().sum().backward()
        assert y.requires_grad == any(wanted)
        return [None if t is None else t.grad for t in tensors]

    ours = found(lambda *t: feed_forward(*t, call))
    for mine, other in zip(ours, found(lambda *t: plain(*t, call, F.dropout)), strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-3)
    if way != "dense" and any(wanted):
        (arguments,) = calls
        sizes = [len(each) for each in arguments[12:19]]  # the gradients' arrays
        z, factor, gate, gate_bias, up, up_bias, w2 = (size > 0 for size in sizes)
        assert (z, factor) == (of_x, of_x and gated)
        assert (gate, gate_bias, up, up_bias) == (of_first,) * 2 + (of_first and gated,) * 2
        assert w2 == of_second


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ["relu", "hardswish"])
@pytest.mark.parametrize("where", ["x", "dy", "w1", "b1", "w2", "gate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_as_torch_has_it(
    way: str, gated: bool, name: str, where: str, value: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = drawn(lambda *s: torch.randn(*s, generator=generator), (20,), 8, 70, gated=gated)
    dy = torch.randn(20, 8, generator=generator)
    places = {"x": x, "dy": dy, "w1": weights[0], "b1": weights[1], "w2": weights[2]}
    place = places.get(where, weights[4] if gated else weights[0])
    place.view(-1)[5] = value
    call = call_of(resolve(name), way)
    ours = results(lambda *t: feed_forward(*t, call), x, weights, dy, torch.float32)
    theirs = results(lambda *t: plain(*t, call, F.dropout), x, weights, dy, torch.float32)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_a_factor_that_overflows_is_seen() -> None:
    """An infinite factor makes a NaN of the zero of a shut gate."""
    weights = [torch.ones(4, 2), torch.zeros(4), torch.ones(2, 4), torch.zeros(2)]
    weights += [-torch.ones(4, 2), torch.zeros(4)]
    weights[0][1] = 3e38
    x = torch.full((3, 2), 1e5)
    call = call_of(resolve("relu"), "lists")
    y, _ = feed_forward(x, Weights(*weights), call)
    assert y.isnan().all()


@pytest.mark.parametrize("way", WAYS)
def test_dropout_drops_in_both_directions(way: str) -> None:
    """With identities for weights y is what is left of f(x), and dx tells what was."""
    d, p = 300, 0.3
    call = call_of(resolve("relu"), way, p, sized=False)
    eye = torch.eye(d)
    x = torch.randn(200, d).requires_grad_()
    torch.manual_seed(3)
    y, _ = feed_forward(x, Weights(eye, None, eye, None), call)
    y.sum().backward()
    alive, stays = x > 0, y != 0
    assert not stays[~alive].any()
    torch.testing.assert_close(y[stays], x[stays] / (1 - p))
    torch.testing.assert_close(x.grad, stays / (1 - p))
    share = float(stays[alive].float().mean())
    assert abs(share - (1 - p)) < 5 * (p * (1 - p) / int(alive.sum())) ** 0.5
    # Neither tokens nor neurons are more likely than others to be dropped.
    for axis in (0, 1):
        rate = (stays & alive).sum(axis) / alive.sum(axis)
        assert (rate - (1 - p)).abs().max() < 6 * (p * (1 - p) / 60) ** 0.5
    torch.manual_seed(3)
    again, _ = feed_forward(x, Weights(eye, None, eye, None), call)
    assert torch.equal(again, y)
    other, _ = feed_forward(x, Weights(eye, None, eye, None), call)
    assert not torch.equal(other, y)


def test_dropout_of_all() -> None:
    x, weights = drawn(torch.randn, (20,), 8, 70)
    for way in WAYS:
        y, _ = feed_forward(x, weights, call_of(resolve("relu"), way, 1.0))
        assert torch.equal(y, weights[3].expand(20, 8))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_twice_differentiable(way: str, gated: bool, drop: float) -> None:
    torch.manual_seed(0)  # a difference quotient meets a kink in some draws
    x, weights = drawn(lambda *s: torch.rand(*s) - 0.4, (20,), 8, 70, gated=gated)
    call = call_of(resolve("relu2"), way, drop)
    leaves = [t.requires_grad_() for t in (x, *weights) if t is not None]

    def second(function: Callable[..., Any]) -> tuple[Tensor, ...]:
        y, size = function(x, weights)
        first = torch.autograd.grad(y.square().sum() + size, leaves, create_graph=True)
        total = sum((each**2).sum() for each in first)
        assert isinstance(total, Tensor)
        return torch.autograd.grad(total, leaves)

    torch.manual_seed(1)
    ours = second(lambda *t: feed_forward(*t, call))
    if drop > 0:  # torch would draw another mask: a difference quotient under this one

        def first(moved: Tensor) -> Tensor:
            torch.manual_seed(1)
            y, size = feed_forward(moved, weights, call)
            found = torch.autograd.grad(y.square().sum() + size, leaves[1:])
            return sum((g.double() ** 2).sum() for g in found)  # type: ignore[return-value]

        torch.manual_seed(1)
        y, size = feed_forward(x, weights, call)
        some = torch.autograd.grad(y.square().sum() + size, leaves[1:], create_graph=True)
        total = sum((g**2).sum() for g in some)
        assert isinstance(total, Tensor)
        (slope,) = torch.autograd.grad(total, x)
        step = 1e-2 * slope / slope.norm()
        with torch.no_grad():
            ahead, behind = x + step, x - step
        quotient = (first(ahead) - first(behind)) / 2e-2
        assert float(quotient) == pytest.approx(float(slope.norm()), rel=0.05)
        return
    for mine, other in zip(ours, second(lambda *t: plain(*t, call, F.dropout)), strict=True):
        assert error(mine, other.double()) < 1e-4


def test_the_reference_way_passes_gradcheck() -> None:
    for activation, gated in itertools.product(ACTIVATIONS, (False, True)):
        x, weights = drawn(lambda *s: torch.randn(*s).double(), (3,), 4, 9, gated=gated)
        tensors = [t.requires_grad_() for t in (x, *weights) if t is not None]
        call = call_of(activation, "dense")

        def function(x: Tensor, *some: Tensor, call: Call = call) -> tuple[Tensor, Tensor]:
            return plain(x, Weights(*some), call, F.dropout)

        assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("way", WAYS)
def test_bits_do_not_depend_on_threads(way: str) -> None:
    """Where the first product loses nothing, so that its order does not matter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (900, 128), generator=generator) / 2
    w1 = torch.randint(-2, 3, (1024, 128), generator=generator) / 2
    w2, b2 = torch.randn(128, 1024, generator=generator), torch.randn(128, generator=generator)
    dy, b1 = torch.randn(900, 128, generator=generator), torch.full((1024,), -5.0)
    before, found = torch.get_num_threads(), []
    call = call_of(resolve("relu"), way, 0.1, sized=False)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        with torch.random.fork_rng():
            found.append(
                results(lambda *t: feed_forward(*t, call), x, Weights(w1, b1, w2, b2), dy,
                        torch.float32)
            )  # fmt: skip
    torch.set_num_threads(before)
    if way != "dense":  # oneDNN's products promise it for one number of threads
        for other in found[1:]:
            for mine, same in zip(found[0], other, strict=True):
                assert torch.equal(mine, same)


def test_many_tokens_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose lists are one list afterwards."""
    x, weights = drawn(torch.randn, (300,), 8, 70, gated=True)
    call, found = call_of(resolve("relu"), "lists", 0.2), []
    for size in (2**24, 100 * 4 * 70, 1):
        monkeypatch.setattr(lists, "Z_BYTES", size)
        torch.manual_seed(0)
        with torch.random.fork_rng():
            dy = torch.ones(300, 8)
            found.append(results(lambda *t: feed_forward(*t, call), x, weights, dy, torch.float32))
    for other in found[1:]:
        for mine, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(mine, same, rtol=1e-4, atol=1e-3)


def test_a_crowded_call_is_dense_from_where_it_is() -> None:
    told: list[tuple[int, int, bool]] = []
    x, weights = drawn(torch.randn, (300,), 8, 70)

    def seen(pairs: int, active: int, sparse: bool) -> None:
        told.append((pairs, active, sparse))

    z = F.linear(x, weights[0], weights[1])
    for limit in (0.2, 0.9):
        y, _ = feed_forward(x, weights, Call(resolve("relu"), limit, seen=seen))
        wanted = F.linear(z.relu(), weights[2], weights[3])
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-3)
    assert told == [(300 * 70, int((z > 0).sum()), sparse) for sparse in (False, True)]


@pytest.mark.skipif(not sums.BYTES, reason="no byte products here: nothing is screened")
def test_few_tokens_tell_whether_a_sketch_would_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    of = lists.Sketch.of
    monkeypatch.setattr(lists.Sketch, "of", lambda rows: made.append(1) or of(rows))
    x, weights = drawn(torch.randn, (300,), 8, 70)
    for screen, count in ((0.2, 0), (0.9, 1)):
        feed_forward(x, weights, Call(resolve("relu"), 2.0, screen))
        assert len(made) == count


def test_long_chains_are_folded() -> None:
    """Wide rows make blocks of few tokens, so that no block has a chain's worth of pairs."""
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).double()

    x, weights = (
        draw(6000, 1024),
        Weights(draw(130, 1024) / 32, draw(130), draw(1024, 130) / 11, None),
    )
    dy = draw(6000, 1024)
    dy[(F.linear(x, weights.w1, weights.b1).abs() < 1e-4).any(1)] = 0
    call = call_of(resolve("relu"), "lists")
    truth = results(lambda *t: plain(*t, call, F.dropout), x, weights, dy, torch.float64)
    theirs = results(lambda *t: plain(*t, call, F.dropout), x, weights, dy, torch.float32)
    ours = results(lambda *t: feed_forward(*t, call), x, weights, dy, torch.float32)
    for mine, other, wanted in zip(ours[2:], theirs[2:], truth[2:], strict=True):
        assert error(mine, wanted) <= 1.5 * error(other, wanted) + 2e-8


@pytest.mark.parametrize(
    ("part", "shape"),
    [("b1", (1,)), ("w2", (8, 60)), ("w2", (7, 70)), ("wg", (60, 8)), ("bg", (1,)), ("b2", (1,))],
)
def test_shapes_that_kernels_would_run_out_of_are_torchs(part: str, shape: tuple[int, ...]) -> None:
    x, weights = drawn(torch.randn, (20,), 8, 70, gated=True)
    assert unserved(x, weights) == ""
    odd = weights._replace(**{part: torch.randn(shape)})
    assert "was expected" in unserved(x, odd)
    assert "was expected" in unserved(x[:, :4], weights)


@pytest.mark.parametrize("way", WAYS)
def test_signs_that_are_only_noted_count(way: str) -> None:
    x, weights = drawn(torch.randn, (20,), 8, 70)
    call, dy = call_of(resolve("relu"), way), torch.randn(20, 8)
    negated = torch._neg_view(x)
    odd = weights._replace(w2=torch._neg_view(weights.w2))
    y, _ = feed_forward(negated, odd, call)
    torch.testing.assert_close(y, plain(-x, odd, call, F.dropout)[0])
    x.requires_grad_()
    y, _ = feed_forward(x, weights, call)
    (ours,) = torch.autograd.grad(y, x, torch._neg_view(dy))
    (theirs,) = torch.autograd.grad(plain(x, weights, call, F.dropout)[0], x, -dy)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_frozen_rows_leave_x_to_be_written_to() -> None:
    """As with torch's layers: x is kept for the first map's gradients alone."""
    x, weights = drawn(torch.randn, (20,), 8, 70)
    weights.w2.requires_grad_()
    for way in WAYS:
        rows = x.clone()
        y, _ = feed_forward(rows, weights, call_of(resolve("relu"), way))
        rows += y.detach()
        y.sum().backward()


@pytest.mark.parametrize("way", WAYS)
def test_many_gradients_at_once(way: str) -> None:
    x, weights = drawn(lambda *s: torch.rand(*s) - 0.4, (6,), 4, 30)
    call = call_of(resolve("relu"), way, sized=False)
    found = [
        torch.autograd.functional.jacobian(
            lambda t: feed_forward(t, weights, call)[0], x, vectorize=vectorize
        )
        for vectorize in (False, True)
    ]
    torch.testing.assert_close(*found)


def test_one_parameter_in_two_places() -> None:
    w, w2 = torch.rand(30, 4) - 0.4, torch.rand(4, 30)
    x, w = torch.rand(6, 4), w.requires_grad_()
    call = call_of(resolve("relu2"), "lists", sized=False)

    def second(function: Callable[..., Any]) -> tuple[Tensor, ...]:
        y, _ = function(x, Weights(w, None, w2, None, w, None))
        (first,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), w)[0]

    for mine, other in zip(
        second(lambda *t: feed_forward(*t, call)),
        second(lambda *t: plain(*t, call, F.dropout)),
        strict=True,
    ):
        assert error(mine.detach(), other.detach().double()) < 1e-5


def test_a_bias_that_was_written_to_is_refused_where_it_is_read_again() -> None:
    x, weights = drawn(torch.randn, (20,), 8, 70)
    weights[1].requires_grad_()
    call = call_of(resolve("relu"), "lists", sized=False)
    for dy, refused in ((torch.ones(20, 8), False), (torch.full((20, 8), np.inf), True)):
        y, _ = feed_forward(x, weights, call)
        with torch.no_grad():
            weights[1].add_(1)
        if refused:
            with pytest.raises(RuntimeError, match="a weight of a feed-forward layer was written"):
                y.backward(dy)
        else:
            y.backward(dy)
