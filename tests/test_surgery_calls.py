"""Which calls the engine takes, which go to the original, and that nobody can tell but by time."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore
from reluctant.surgery.swap import seat_of

D, D_FF = 64, 256


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.dropout = nn.Dropout(0.0)
        self.flag = False

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        y = self.down(self.dropout(F.relu(self.up(hidden))))
        return 2 * scale * y if self.flag else scale * y if scale != 1.0 else y


class Quiet(Own):
    """With a dropout that is no submodule."""

    def forward(self, hidden: Tensor) -> Tensor:
        h = F.dropout(F.relu(self.up(hidden)), 0.1, self.training)
        return self.down(h)


def encoder_layer(dropout: float = 0.0) -> nn.Module:
    return nn.TransformerEncoderLayer(D, 2, D_FF, dropout, batch_first=True)


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module, Callable[[], int]]:
    """An optimized layer, its untouched twin, and how many calls its engine took."""
    twin = copy.deepcopy(layer)
    (entry,) = optimize(layer).swapped
    return layer, twin, lambda: sum(entry.engine.calls.values())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [Own, encoder_layer, lambda: FeedForward(D, D_FF)])
def test_gradients_are_eagers(make: Callable[[], nn.Module]) -> None:
    layer, twin, calls = pair(make())
    x, y = drawn(2, 5, D).requires_grad_(), drawn(2, 5, D).requires_grad_()
    for _ in range(2):
        layer(x).square().sum().backward()
        twin(y).square().sum().backward()
    same(x.grad, y.grad)
    for (name, mine), theirs in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert calls() == 2


def test_training_goes_on_as_before() -> None:
    layer = nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False)
    twin = copy.deepcopy(layer)
    report = optimize(layer)
    losses: list[list[float]] = []
    for model in (layer, twin):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        losses.append([])
        for _ in range(6):
            loss = F.mse_loss(model(drawn(4, 6, D)), drawn(4, 6, D, seed=1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    assert losses[0][-1] < losses[0][0]
    assert all(sum(entry.engine.calls.values()) == 6 for entry in report.swapped)


@pytest.mark.filterwarnings("ignore:grad and param do not obey the gradient layout")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_an_optimizer_survives_optimize_and_restore(
    kind: Callable[..., torch.optim.Optimizer], fused: bool
) -> None:
    """Fused optimizers keep moments in the memory order that the weights had in the first step."""
    models = [nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizers = [kind(m.parameters(), lr=1e-2, fused=fused, **more) for m in models]
    fresh = kind(models[0].parameters(), lr=1e-2, fused=fused, **more)

    def train() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for step in range(3):
                loss = F.mse_loss(model(drawn(4, D, seed=step)), drawn(4, D, seed=9))
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()
        same(*(model[2].weight for model in models))

    train()
    optimize(models[0])
    assert not models[0][2].weight.is_contiguous()
    train()
    saved = optimizers[1].state_dict()  # with moments in the usual order
    fresh.load_state_dict(copy.deepcopy(saved))
    optimizers[0] = fresh
    train()
    restore(models[0])
    train()


@pytest.mark.parametrize("make", [lambda: encoder_layer(0.1), Quiet])
def test_dropout_acts_as_before(make: Callable[[], nn.Module]) -> None:
    layer, twin, calls = pair(make().train())
    x = drawn(2, 5, D)
    for seed in range(3):
        torch.manual_seed(seed)
        mine = layer(x)
        torch.manual_seed(seed)
        same(mine, twin(x))
    assert calls() == 0
    same(layer.eval()(x), twin.eval()(x))
    assert calls() == 1


def test_dropout_for_uncertainty_acts_in_eval_mode() -> None:
    layer, _, calls = pair(encoder_layer(0.5).eval())
    x = drawn(2, 5, D)
    assert torch.equal(layer(x), layer(x))
    layer.dropout.train()
    assert not torch.equal(layer(x), layer(x))
    assert calls() == 2


PARTS = ["linear1", "activation", "dropout", "linear2", "dropout2"]


@pytest.mark.parametrize("part", PARTS)
def test_hooks_added_later_fire(part: str) -> None:
    layer = nn.TransformerDecoderLayer(D, 2, D_FF, 0.0, nn.ReLU(), batch_first=True)
    layer, twin, calls = pair(layer)
    x = drawn(2, 5, D).requires_grad_()
    module = getattr(layer, part)
    seen: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: seen.append("forward")),
        module.register_forward_pre_hook(lambda *_: seen.append("pre")),
        module.register_full_backward_hook(lambda *_: seen.append("backward")),
        module.register_full_backward_pre_hook(lambda *_: seen.append("backward_pre")),
    ]
    for i, names in enumerate([("forward",), ("pre",), ("backward",), ("backward_pre",)]):
        seen.clear()
        same(layer(x, x), twin(x, x))
        layer(x, x).sum().backward()
        assert set(names) <= set(seen)
        hooks[i].remove()
    assert calls() == 0
    same(layer(x, x), twin(x, x))
    assert calls() == 1


def test_hooks_of_the_layer_itself_fire_too() -> None:
    layer, twin, calls = pair(Own())
    handle = layer.register_forward_hook(lambda module, args, y: y + 1)
    same(layer(drawn(3, D)), twin(drawn(3, D)) + 1)
    handle.remove()
    with torch.nn.modules.module.register_module_forward_hook(lambda *_: None):
        same(layer(drawn(3, D)), twin(drawn(3, D)))
    assert calls() == 1


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a, self.b = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def _adapt(m: nn.Module) -> None:
    torch.manual_seed(1)
    m.up = LowRank(m.up)


def _forward(m: nn.Module) -> None:
    m.up.forward = lambda x: F.linear(x, -m.up.weight)


def _drop(m: nn.Module) -> None:
    m.dropout = nn.Hardtanh(-1.0, 0.5)


def _patch(m: nn.Module) -> None:
    plain = Own.forward
    m.forward = lambda x: -plain(m, x)


def _retype(m: nn.Module) -> None:
    m.down.bfloat16()
    m.dropout.register_forward_hook(lambda module, args, y: y.bfloat16())


LATER = {
    "adapter": _adapt,
    "parametrization": lambda m: parametrize.register_parametrization(m.up, "weight", Halved()),
    "pruning": lambda m: prune.l1_unstructured(m.up, "weight", 0.5),
    "instance forward": _forward,
    "other part": _drop,
    "own forward": _patch,
    "other dtype": _retype,
    "new weight": lambda m: setattr(m.up, "weight", nn.Parameter(m.up.weight.detach() * -2)),
}


@pytest.mark.parametrize("change", LATER)
def test_a_layer_changed_later_computes_what_it_became(change: str) -> None:
    layer, twin, _ = pair(Own().eval())
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    for model in (layer, twin):
        LATER[change](model)
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    again = optimize(nn.ModuleList([layer, FeedForward(D, D_FF)]))
    assert len(again.swapped) + len(again.refused) + len(again.untouched) >= 1
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    restore(layer)
    assert type(layer) is Own
    same(layer(drawn(3, D)), twin(drawn(3, D)))


def test_a_longer_sequential() -> None:
    layer, twin, _ = pair(nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)))
    for model in (layer, twin):
        model.append(nn.Sigmoid())
    same(layer(drawn(3, D)), twin(drawn(3, D)))


def test_an_activation_changed_later() -> None:
    layer, twin, _ = pair(encoder_layer().eval())
    for model in (layer, twin):
        model.activation = F.gelu
        model.activation_relu_or_gelu = 2
    same(layer(drawn(1, 3, D)), twin(drawn(1, 3, D)))


def test_other_arguments_go_to_the_original() -> None:
    layer, twin, calls = pair(Own())
    x = drawn(3, D)
    same(layer(hidden=x), twin(x))
    assert calls() == 1
    same(layer(x, 3.0), twin(x, 3.0))
    same(layer(x, scale=3.0), twin(x, scale=3.0))
    assert calls() == 1
    for bad in (drawn(3, D + 1), torch.ones(3, D, dtype=torch.long), x.double()):
        with pytest.raises(RuntimeError) as ours:
            layer(bad)
        with pytest.raises(RuntimeError) as theirs:
            twin(bad)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(TypeError):
        layer()
    ffn, _, _ = pair(FeedForward(D, D_FF))
    with pytest.raises(ReluctantError, match=str(D)):
        ffn(drawn(3, D + 1))


def test_the_first_real_call_tells_a_mismatch() -> None:
    layer, twin, calls = pair(Own())
    layer.flag = twin.flag = True
    x = drawn(3, D).requires_grad_()
    with pytest.warns(ReluctantWarning, match="d_model=64"):
        y = layer(x)
    assert torch.equal(y, twin(x))
    y.sum().backward()
    assert x.grad is not None
    assert type(layer) is Own
    assert seat_of(layer) is None
    assert calls() == 1
    assert layer.down.weight.is_contiguous()
    assert torch.equal(layer(x), twin(x))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_first_call_that_is_not_finite(value: float) -> None:
    layer, twin, calls = pair(Own())
    x = drawn(4, D)
    x[1, 2] = value
    ours, theirs = layer(x), twin(x)
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    torch.testing.assert_close(ours[[0, 2, 3]], theirs[[0, 2, 3]])
    assert calls() == 1
    assert seat_of(layer) is not None
    assert layer(drawn(0, D)).shape == (0, D)


@pytest.mark.parametrize("enable", [True, False])
def test_padding_masks(enable: bool) -> None:
    model = nn.TransformerEncoder(encoder_layer(0.1), 2, enable_nested_tensor=enable).eval()
    twin = copy.deepcopy(model)
    report = optimize(model)
    nested: list[bool] = []
    first = model.layers[0]
    first.register_forward_pre_hook(lambda module, args: nested.append(args[0].is_nested))
    for lengths in ([7, 3, 5], [7, 1, 7]):
        x = drawn(3, 7, D, seed=lengths[1])
        mask = torch.arange(7)[None, :] >= torch.tensor(lengths)[:, None]
        for context in (torch.no_grad, torch.inference_mode):
            with context(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*nested tensors.*prototype.*")
                ours = model(x, src_key_padding_mask=mask)
                theirs = twin(x, src_key_padding_mask=mask)
            same(ours[~mask], theirs[~mask])
            assert ours.shape == theirs.shape
    assert nested == [enable] * 4
    assert all(sum(entry.engine.calls.values()) == 4 for entry in report.swapped)


def test_nested_tensors_with_gradients() -> None:
    layer, twin, _ = pair(nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)))
    grads: list[Tensor] = []
    for model in (layer, twin):
        parts = [drawn(3, D).requires_grad_(), drawn(5, D).requires_grad_()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nested tensors.*prototype.*")
            y = model(torch.nested.as_nested_tensor(parts))
        torch.cat(y.unbind()).square().sum().backward()
        grads.append(torch.cat([part.grad for part in parts if part.grad is not None]))
    same(*grads)


def test_the_fused_path_is_off() -> None:
    layer, twin, calls = pair(encoder_layer().eval())
    with torch.no_grad():
        same(layer(drawn(2, 3, D)), twin(drawn(2, 3, D)))
    assert calls() == 1


def _vmap(m: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(m)(x)


def _per_sample(m: nn.Module, x: Tensor) -> Tensor:
    held = dict(m.named_parameters())
    grads = torch.func.grad(lambda p: torch.func.functional_call(m, p, (x,)).sum())(held)
    return torch.cat([g.flatten() for g in grads.values()])


def _functional(m: nn.Module, x: Tensor) -> Tensor:
    weights = {name: 2 * p for name, p in m.named_parameters()}
    return torch.func.functional_call(m, weights, (x,))


def _dual(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on first use
        y = m(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        return torch.autograd.forward_ad.unpack_dual(y).tangent


def _jit(m: nn.Module, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(m, (drawn(4, D),))(x)


def _autocast(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m(x)


def _flops(m: nn.Module, x: Tensor) -> Tensor:
    with FlopCounterMode(display=False) as counter:
        m(x)
    return torch.tensor(counter.get_total_flops())


def _exported(m: nn.Module, x: Tensor) -> Tensor:
    program = torch.export.export(m, (x,))
    assert "reluctant" not in str(program.graph)
    return program.module()(x)


def _symbolic(m: nn.Module, x: Tensor) -> Tensor:
    return torch.fx.symbolic_trace(m)(x)


def _checkpointed(m: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    checkpoint(m, x, use_reentrant=False).square().sum().backward()
    assert x.grad is not None
    return x.grad


def _twice(m: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


TOOLS = [_vmap, _per_sample, _functional, _dual, _jit, _autocast, _flops, _exported, _symbolic]
TOOLS += [_checkpointed, _twice]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__[1:])
@pytest.mark.parametrize("warm", [True, False])
def test_the_tools_of_torch_see_what_they_saw(
    tool: Callable[[nn.Module, Tensor], Tensor], warm: bool
) -> None:
    layer, twin, _ = pair(nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)))
    x = drawn(3, D)
    if warm:
        layer(x)
    torch.testing.assert_close(tool(layer, x), tool(twin, x), rtol=1e-3, atol=1e-4)
    same(layer(x), twin(x))


def test_compiles_into_one_graph() -> None:
    model = nn.Sequential(encoder_layer(), FeedForward(D, D_FF), Own()).eval()
    twin = copy.deepcopy(model)
    report = optimize(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for x in (drawn(2, 5, D), drawn(2, 5, D, seed=1)):
        same(compiled(x), twin(x))
    with torch.no_grad():
        same(compiled(drawn(1, 1, D)), twin(drawn(1, 1, D)))
    assert all(sum(entry.engine.calls.values()) == 3 for entry in report.swapped)
    for module in (model, twin):  # hooks come before compilation, says torch
        module[2].up.register_forward_hook(lambda module, args, y: y + 1)
    torch.compiler.reset()
    same(compiled(x), twin(x))
    assert sum(report.swapped[2].engine.calls.values()) == 3
