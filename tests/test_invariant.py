"""A row's bits are its own, whatever else is in the batch: for any number of rows."""

import pytest
import torch
from torch import nn

import reluctant
from reluctant.activations import resolve
from reluctant.engine import Engine
from reluctant.invariant import linear
from reluctant.sketch import SERVED
from reluctant.surgery.linears import MapSeat
from reluctant.surgery.swap import map_seat_of

dtypes = pytest.mark.parametrize("dtype", SERVED, ids=str)
ROWS = 131


def same(a, b):
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def assert_own(function, x):
    """Every row of function(x) has the bits it has alone, and in other company."""
    with torch.no_grad():
        y = function(x)
        for m in (0, 1, 17, len(x) - 1):
            assert same(function(x[m : m + 1])[0], y[m])
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
        for count in (2, 5, 16, 17, 63, 97):
            assert same(function(x[order[:count]]), y[order[:count]])
    return y


@dtypes
@pytest.mark.parametrize("d", [7, 64, 300, 2100])
def test_linear_maps(dtype, d):
    torch.manual_seed(d)
    made, x = nn.Linear(d, 70).to(dtype), torch.randn(ROWS, d).to(dtype)
    y = assert_own(lambda rows: linear(rows, made.weight, made.bias), x)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y, made(x), rtol=8 * eps, atol=30 * eps)
    three = linear(x[:6].view(2, 3, d), made.weight, made.bias)
    assert torch.equal(three.view(6, -1), y[:6])


def test_what_no_kernel_serves_goes_row_by_row():
    torch.manual_seed(0)
    made, x = nn.Linear(300, 70).double(), torch.randn(40, 300).double()
    assert_own(lambda rows: linear(rows, made.weight, made.bias), x)
    single, rows = made.float(), x.float()
    assert_own(lambda x: linear(x, single.weight, single.bias), rows)
    assert_own(lambda x: linear(x.t().contiguous().t(), single.weight, single.bias), rows)
    assert linear(rows[:0], single.weight, single.bias).shape == (0, 70)
    with torch.autocast("cpu"):
        y = assert_own(lambda x: linear(x, single.weight, single.bias), rows)
        assert y.dtype is torch.bfloat16


@pytest.mark.parametrize(("d", "d_ff"), [(37, 131), (63, 301), (64, 513)])
@pytest.mark.parametrize("kind", ["relu", "reglu", "gelu"])
def test_layers_of_odd_width_in_float64(d, d_ff, kind):
    """A row begins at another alignment among others than alone, and MKL's bits go by that."""
    torch.manual_seed(0)
    layer = reluctant.FeedForward(d, d_ff, kind).double().eval()
    reluctant.optimize(layer, batch_invariant=True)
    assert_own(layer, torch.randn(50, d, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:.*nested tensors.*prototype.*")
def test_maps_called_by_keyword_and_with_what_no_kernel_takes():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(301, 300)), torch.randn(60, 301)
    reluctant.optimize(model, batch_invariant=True)
    assert_own(lambda rows: model[0](input=rows), x)
    with torch.no_grad():
        torch.testing.assert_close(model(x.to_sparse()), model(x))
    nested = torch.nested.nested_tensor([x[:3], x[3:7]])
    assert model(nested)[1].shape == (4, 300)


LAYERS = {
    "relu": ("relu", False, False),
    "relu, gated": ("relu", True, False),
    "relu, normed": ("relu", False, True),
    "gelu": ("gelu", False, False),
    "silu, gated": ("silu", True, False),
    "tanh, normed": ("tanh", False, True),
}


@dtypes
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("way", ["auto", "dense", "few", "many"])
def test_layers(dtype, kind, way):
    if way != "auto" and (dtype is not torch.float32 or kind != "relu"):
        way = "few"
    activation, gated, normed = LAYERS[kind]
    torch.manual_seed(1)
    up, gate, down = nn.Linear(60, 330), nn.Linear(60, 330), nn.Linear(330, 60)
    norm = nn.RMSNorm(330, eps=1e-5).to(dtype) if normed and dtype is not torch.float16 else None
    parts = [part.to(dtype) for part in (up, down)]
    engine = Engine(
        *parts,
        resolve(activation),
        gate=gate.to(dtype) if gated else None,
        norm=norm,
        way=way,
        batch_invariant=True,
    )
    x = torch.randn(ROWS, 60).to(dtype)
    y = assert_own(engine, x)
    plain = Engine(*parts, resolve(activation), gate=engine.neurons.gate, norm=norm, way="dense")
    with torch.no_grad():
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y, plain(x), rtol=30 * eps, atol=60 * eps)
        assert engine(x[:0]).shape == (0, 60)


def test_one_row_that_must_be_dense_changes_no_other():
    """float16 numbers that overflow, which the kernel leaves to the dense way."""
    if torch.float16 not in SERVED:
        pytest.skip("float16 is not served here")
    torch.manual_seed(0)
    up, down = nn.Linear(64, 256).half(), nn.Linear(256, 64).half()
    engine = Engine(up, down, resolve("relu2"), way="few", batch_invariant=True)
    x = torch.randn(40, 64).half()
    x[5] *= 1000
    y = assert_own(engine, x)
    assert not y[5].isfinite().all()
    assert y[[m for m in range(40) if m != 5]].isfinite().all()
    assert min(engine.calls["few"], engine.calls["dense"]) > 0


class Block(nn.Module):
    """Parts of every kind: served, small, and torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.small = nn.LayerNorm(48), nn.Linear(60, 3)
        self.map = nn.Linear(48, 60)
        self.mlp = nn.Sequential(nn.Linear(60, 1030), nn.GELU(), nn.Linear(1030, 60))

    def forward(self, x):
        h = self.mlp(self.map(self.norm(x)))
        return torch.cat([h, self.small(h)], -1)


def test_a_model():
    torch.manual_seed(0)
    model = Block().eval()
    x = torch.randn(ROWS, 48)
    with torch.no_grad():
        wanted = model(x)
    report = reluctant.optimize(model, batch_invariant=True)
    y = assert_own(model, x)
    torch.testing.assert_close(y, wanted)
    assert report.outside == ("LayerNorm (1)",)
    assert "outside: LayerNorm (1), what" in " ".join(str(report).split())
    assert len(report.maps) == 2
    assert reluctant.optimize(model).outside is None
    reluctant.restore(model)


def test_calls_that_want_gradients_are_torchs():
    model = nn.Sequential(nn.Linear(300, 300))
    reluctant.optimize(model, batch_invariant=True)
    x = torch.randn(20, 300)
    model(x).sum().backward()
    assert model[0].weight.grad is not None
    seat = map_seat_of(model[0])
    assert isinstance(seat, MapSeat)
    assert seat.calls == {"few rows": 0, "torch": 1}
    with torch.no_grad():
        model(x)
        model.double()(x.double())
    assert seat.calls == {"few rows": 1, "torch": 2}
