"""Served layers in training: every kind, every mode of torch, many processes."""

import copy
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reluctant
from layers import D_FF, D, Own, drawn, encoder_layer, pair, same
from reluctant import trainer
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize
from reluctant.surgery.swap import seat_of

TOKENS = 80  # of which a step is worth while


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Placed(nn.Module):
    """Someone's own layer with three dropouts."""

    def __init__(self, before: float = 0.0, between: float = 0.0, after: float = 0.0) -> None:
        super().__init__()
        self.first, self.second, self.third = map(nn.Dropout, (before, between, after))
        self.up, self.down = nn.Linear(D, D_FF), nn.Linear(D_FF, D)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(F.relu(self.up(self.first(x))))
        return self.third(self.down(h))


class Inline(nn.Module):
    """As BART's layers: the feed-forward layer stands inside a forward that does more."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.activation_fn, self.activation_dropout = F.relu, p
        self.norm = nn.LayerNorm(D)

    def forward(self, hidden_states: Tensor) -> Tensor:
        h = self.activation_fn(self.fc1(hidden_states))
        h = F.dropout(h, p=self.activation_dropout, training=self.training)
        return self.norm(hidden_states + self.fc2(h))


def sequential(p: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Dropout(p), nn.Linear(D_FF, D))


def decoder_part(p: float = 0.0) -> nn.Module:
    """A decoder layer of which only what belongs to the feed-forward layer drops."""
    layer = nn.TransformerDecoderLayer(D, 2, D_FF, p, batch_first=True)
    layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
    layer.multihead_attn.dropout = 0.0
    return Twice(layer)


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x, x)
        return y


KINDS: dict[str, Callable[[float], nn.Module]] = {
    "FeedForward": lambda p: FeedForward(D, D_FF, dropout=p),
    "reglu": lambda p: FeedForward(D, D_FF, "reglu", dropout=p),
    "relu2": lambda p: FeedForward(D, D_FF, "relu2", dropout=p),
    "Sequential": sequential,
    "own": lambda p: Placed(between=p),
    "decoder": decoder_part,
    "inline": Inline,
}


def steps(model: nn.Module) -> dict[str, int]:
    """How many calls went over active neurons, and how many otherwise."""
    (seat,) = [seat for module in model.modules() if (seat := seat_of(module))]
    return {"sparse": seat.engine.calls["training"], "dense": seat.engine.calls["dense"]}


def quiet(layer: nn.Module, by: float = 1.0) -> nn.Module:
    """With fewer neurons active."""
    with torch.no_grad():
        for name, bias in layer.named_parameters():
            if name.endswith(("gate.bias", "up.bias", "fc1.bias", "linear1.bias", "0.bias")):
                bias.sub_(by)
    return layer


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.backward(drawn(*y.shape, dtype=y.dtype, seed=9))
    grads = [x.grad, *(p.grad for p in model.parameters())]
    return [y.detach(), *(g for g in grads if g is not None)]


def alike(ours: list[Tensor], theirs: list[Tensor], rtol: float = 1e-5) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        size = other.double().norm().clamp_min(1e-12)
        assert float((mine.double() - other.double()).norm() / size) < rtol


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_torchs(kind: str, dtype: torch.dtype) -> None:
    layer = quiet(KINDS[kind](0.0)).to(dtype)
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(2, 600, D, dtype=dtype)
    for _ in range(2):
        alike(gradients(layer, x), gradients(twin, x), 1e-5 if dtype is torch.float32 else 2e-2)
    assert steps(layer) == {"sparse": 2, "dense": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(kind: str) -> None:
    layer = quiet(KINDS[kind](0.0))
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(2, 600, D)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            alike(gradients(layer, x), gradients(twin, x), 3e-2)
    assert steps(layer) == {"sparse": 2, "dense": 0}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(layer(x), twin(x))
    alike(gradients(layer, x), gradients(twin, x))


class Firm(Own):
    """Computes in float32 under autocast, too."""

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(hidden.float(), scale)


def test_casts_of_its_own_are_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "reluctant")
    layer, twin, calls = pair(Firm())
    x = drawn(2, TOKENS, D)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            alike(gradients(layer, x), gradients(twin, x), 1e-6)
    (said,) = caplog.messages
    assert said.endswith("left to its own code: under autocast its own result is another")
    before = calls()
    alike(gradients(layer, x), gradients(twin, x))
    assert calls() == before + 1


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_in_training(kind: str) -> None:
    """The mean over many draws is the result without; the variance is torch's."""
    layer = quiet(KINDS[kind](0.5).train(), 0.3)
    if kind in ("decoder", "inline"):  # what follows is not linear: no mean to compare
        for module in layer.modules():
            if isinstance(module, nn.LayerNorm):
                module.forward = lambda x: x  # type: ignore[method-assign]
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(1, TOKENS, D)
    ours, theirs = (torch.stack([m(x).detach() for _ in range(400)]) for m in (layer, twin))
    assert steps(layer)["sparse"] == 400
    wanted = twin.eval()(x).detach()
    spread = theirs.std(0)
    assert ((ours.mean(0) - wanted).abs() < 7 * spread / 20 + 1e-4).all()
    assert abs(float((ours.var(0).mean() / theirs.var(0).mean()).log())) < 0.05
    torch.manual_seed(5)
    first = gradients(layer, x)
    torch.manual_seed(5)
    for mine, again in zip(first, gradients(layer, x), strict=True):
        assert torch.equal(mine, again)


@pytest.mark.parametrize(
    ("rates", "served"),
    [
        ({"between": 0.1}, True),
        ({"after": 0.1}, True),
        ({"between": 0.1, "after": 0.1}, True),
        ({"before": 0.1}, False),
        ({"before": 0.1, "between": 0.1}, False),
        ({}, True),
    ],
)
def test_a_dropout_elsewhere_is_torchs(rates: dict[str, float], served: bool) -> None:
    layer = Placed(**rates).train()
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(1, TOKENS, D).requires_grad_()
    torch.manual_seed(1)
    y = layer(x)
    if not served:
        torch.manual_seed(1)
        assert torch.equal(y, twin(x))
    assert sum(steps(layer).values()) == served


def test_the_last_dropout_of_a_decoder_layer_acts() -> None:
    layer = nn.TransformerDecoderLayer(D, 2, D_FF, 0.0, batch_first=True).train()
    layer.dropout3.p = 1.0
    twin = copy.deepcopy(layer)
    optimize(layer)
    x = drawn(1, TOKENS, D)
    same(layer(x, x), twin(x, x))
    with torch.no_grad():
        same(layer(x, x), twin(x, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("drop", [0.0, 0.5])
@pytest.mark.parametrize("cast", [False, True])
def test_checkpoints(kind: str, reentrant: bool, drop: float, cast: bool) -> None:
    layer = quiet(KINDS[kind](drop).train())
    optimize(layer)
    x = drawn(2, TOKENS, D)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        layer(x.clone().requires_grad_())  # compares, if there is something to compare
        torch.manual_seed(3)
        wanted = gradients(layer, x)
    layer.zero_grad()
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y = checkpoint(layer, leaf, use_reentrant=reentrant)
        y.backward(drawn(*y.shape, seed=9).to(y.dtype))
    # Without gradients another kernel computes; by the same mask, if there is one.
    grads = [leaf.grad, *(p.grad for p in layer.parameters())]
    alike([y.detach(), *(g for g in grads if g is not None)], wanted, 3e-2 if cast else 1e-5)


@pytest.mark.parametrize("activation", ["relu", "reglu", "relu2"])
def test_compiles_into_one_graph(activation: str) -> None:
    layer = quiet(FeedForward(D, D_FF, activation))
    twin = copy.deepcopy(layer)
    optimize(layer)
    layer(drawn(3, D))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for tokens in (TOKENS, 2 * TOKENS):
        x = drawn(tokens, D)
        ours, theirs = gradients(layer, x), gradients(twin, x)
        alike(gradients(compiled, x), theirs)
        assert all(torch.equal(a, b) for a, b in zip(gradients(compiled, x), ours, strict=True))
    with torch.no_grad():
        next(layer.parameters())[3, 2] = next(twin.parameters())[3, 2] = float("nan")
    for mine, other in zip(gradients(compiled, x), gradients(twin, x), strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)
    assert steps(layer)["sparse"] >= 6
    assert reluctant.density(layer)[""] is not None


def test_accumulates_and_goes_back_again() -> None:
    layer, twin, _ = pair(quiet(FeedForward(D, D_FF)))
    found = []
    for model in (layer, twin):
        for part in drawn(3, TOKENS, D):
            loss = model(part).square().mean()
            loss.backward(retain_graph=True)
            loss.backward()
        found.append([p.grad for p in model.parameters()])
    alike(*found)
    loss = layer(drawn(TOKENS, D)).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_without_gradients_nothing_is_kept() -> None:
    layer, twin, _ = pair(quiet(FeedForward(D, D_FF)))
    x = drawn(TOKENS, D)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            y = layer(x)
            assert y.grad_fn is None
            same(y, twin(x))
    layer.requires_grad_(requires_grad=False)
    assert not layer(x).requires_grad
    assert steps(layer)["sparse"] == 0


def test_double_weights_pass_gradcheck() -> None:
    layer = FeedForward(4, 9).double()
    optimize(layer)
    x = drawn(5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_what_torch_trains_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "reluctant")
    for layer, why in (
        (FeedForward(D, D_FF, "gelu"), "gelu has no range where it is exactly zero"),
        (FeedForward(D, D_FF, "hardsigmoid"), "no kernel knows the slope of hardsigmoid"),
        (FeedForward(D, D_FF).to(torch.float16), "float16 weights"),
    ):
        caplog.clear()
        report = optimize(layer)
        for _ in range(2):
            layer(drawn(TOKENS, D).to(layer.up.weight.dtype)).sum().backward()
        assert caplog.messages == [f"feed-forward layer {D}/{D_FF}: trained by torch: {why}"]
        if report.swapped[0].sparse:
            assert report.swapped[0].training == why
            assert "trained by" in str(report)


def test_what_is_left_to_the_original_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "reluctant")
    layer, _, _ = pair(Placed(before=0.5).train())
    x = drawn(TOKENS, D)
    layer(x)
    handle = layer.up.register_forward_hook(lambda *_: None)
    layer(x)
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        layer.eval()(x)
    said = [message.partition(": left to its own code: ")[2] for message in caplog.messages]
    assert said == [
        "a dropout acts elsewhere than around its second map",
        "its parts were replaced, or have hooks",
        "autocast without gradients",
    ]


class Straight(torch.autograd.Function):
    """ReLU with a gradient everywhere."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.relu()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


def test_an_activation_with_a_slope_of_its_own_is_torchs() -> None:
    mine = reluctant.Activation("straight", Straight.apply, 0.0, 1)
    layer = FeedForward(D, D_FF, mine)
    twin = copy.deepcopy(layer)
    report = optimize(layer)
    assert report.swapped[0].training == "no kernel knows the slope of straight"
    x = drawn(TOKENS, D)
    alike(gradients(layer, x), gradients(twin, x))


def test_few_tokens_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FeedForward(D, D_FF)
    optimize(layer)
    monkeypatch.setattr(trainer.ways, "training_limits", lambda dtype, weights, n: (0.0, 0.0))
    layer(drawn(TOKENS, D)).sum().backward()
    assert steps(layer) == {"sparse": 0, "dense": 1}
    assert reluctant.density(layer) == {"": None}


def test_saved_tensors_may_be_packed_and_anomalies_are_found() -> None:
    layer, twin, _ = pair(quiet(FeedForward(D, D_FF)))
    x = drawn(TOKENS, D)
    with torch.autograd.graph.save_on_cpu():
        alike(gradients(layer, x), gradients(twin, x))
    with (
        warnings.catch_warnings(action="ignore"),
        torch.autograd.detect_anomaly(check_nan=True),
        pytest.raises(RuntimeError, match="returned nan values"),
    ):
        (layer(x) * float("nan")).sum().backward()


WORKER = """
import copy, os, sys
import torch, torch.distributed as dist
from torch import nn
import reluctant
rank, how, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
torch.manual_seed(0)
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.ffn = nn.LayerNorm(64), reluctant.FeedForward(64, 256)
        with torch.no_grad():
            self.ffn.up.bias -= 1
    def forward(self, x):
        return x + self.ffn(self.norm(x))
plain = nn.Sequential(Block(), Block())
served = copy.deepcopy(plain)
reluctant.optimize(served)
def wrapped(model):
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard
    for block in model:
        fully_shard(block)
    return fully_shard(model)
models = [wrapped(plain), wrapped(served)]
optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in models]
for step in range(3):
    x = torch.randn(2, 100, 64, generator=torch.Generator().manual_seed(2 * step + rank))
    for model, optimizer in zip(models, optimizers):
        optimizer.zero_grad()
        model(x).square().mean().backward()
    for a, b in zip(*(m.parameters() for m in models)):
        one, other = (getattr(p.grad, "full_tensor", lambda g=p.grad: g)() for p in (a, b))
        assert float((one - other).norm() / one.norm()) < 1e-5
    for optimizer in optimizers:
        optimizer.step()
calls = [m._reluctant.engine.calls for m in served.modules() if "_reluctant" in m.__dict__]
assert [c["training"] for c in calls] == [3, 3], calls
dist.destroy_process_group()
"""


@pytest.mark.parametrize("how", ["ddp", "fully_shard"])
def test_two_processes(how: str, tmp_path: Path) -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), how, str(tmp_path / "meet")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_a_dropout_inside_a_larger_forward_keeps_little_and_draws_once() -> None:
    layer = quiet(Inline(0.5).train())
    optimize(layer)
    x = drawn(TOKENS, D).requires_grad_()
    kept = 0

    def pack(t: Tensor) -> Tensor:
        nonlocal kept
        kept += t.numel() == TOKENS * D_FF
        return t

    layer(x)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    assert kept == 0  # no hidden vectors
    assert steps(layer) == {"sparse": 2, "dense": 0}


class Asked(Inline):
    """Looks at the hidden vector as well: before the dropout, or what it left."""

    def __init__(self, after: bool) -> None:
        super().__init__(0.5)
        self.after = after

    def forward(self, hidden_states: Tensor) -> Tensor:
        h = self.activation_fn(self.fc1(hidden_states))
        d = F.dropout(h, p=self.activation_dropout, training=self.training)
        y = self.fc2(d)
        if self.training:
            self.size = (d if self.after else h).abs().mean()
        return self.norm(hidden_states + y)


def test_what_a_dropout_got_is_not_what_it_gave() -> None:
    layer = quiet(Asked(after=False)).eval()
    optimize(layer)
    x = drawn(TOKENS, D)
    wanted = F.relu(F.linear(x, layer.fc1.weight, layer.fc1.bias)).abs().mean()
    for _ in range(2):
        layer.train()(x)
        torch.testing.assert_close(layer.size, wanted)


def test_what_a_dropout_gave_cannot_be_had_twice() -> None:
    layer = quiet(Asked(after=True)).eval()
    optimize(layer)
    with pytest.raises(reluctant.ReluctantError, match="restore"):
        layer.train()(drawn(TOKENS, D))


class InPlace(Inline):
    def __init__(self) -> None:
        super().__init__(0.5)
        self.activation_fn = nn.ReLU(inplace=True)


@pytest.mark.parametrize("make", [lambda: Inline(0.5), InPlace])
def test_compiled_code_drops_hidden_vectors_and_not_inputs(make: Callable[[], nn.Module]) -> None:
    torch._dynamo.reset()
    layer = quiet(make().train())
    twin = copy.deepcopy(layer).eval()
    optimize(layer)
    compiled = torch.compile(layer, backend="aot_eager")
    x = drawn(TOKENS, D)
    layer.norm.forward = twin.norm.forward = lambda t: t  # type: ignore[method-assign]
    mean = torch.stack([compiled(x).detach() for _ in range(300)]).mean(0)
    torch.testing.assert_close(mean, twin(x).detach(), atol=0.3, rtol=0.5)


def test_a_norm_before_the_second_map_under_autocast() -> None:
    from test_surgery_norm import Layer  # noqa: PLC0415

    layer, twin, _ = pair(Layer())
    x = drawn(TOKENS, D)
    with torch.autocast("cpu", torch.bfloat16):
        alike(gradients(layer, x), gradients(twin, x), 3e-2)


def test_doubles_are_not_cast() -> None:
    layer, twin, _ = pair(FeedForward(D, D_FF).double())
    x = drawn(TOKENS, D, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        alike(gradients(layer, x), gradients(twin, x), 1e-9)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_dropout_with_padding_and_without_gradients() -> None:
    model = nn.TransformerEncoder(encoder_layer(0.5), 1)
    optimize(model)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    mask = torch.arange(8)[None] >= torch.tensor([[8], [5]])
    with torch.no_grad():
        assert model(drawn(2, 8, D), src_key_padding_mask=mask).isfinite().any()


def test_encoder_layers_with_dropout_learn() -> None:
    """All dropouts on, as people train; the engine takes part in every step."""
    model = nn.TransformerEncoder(encoder_layer(0.1), 2, enable_nested_tensor=False)
    report = optimize(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    x, y = drawn(4, 20, D), drawn(4, 20, D, seed=1)
    for _ in range(30):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(sum(e.engine.calls.values()) == 30 for e in report.swapped if e.engine)
