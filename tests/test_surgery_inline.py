"""Layers that stand inside a larger forward: what is served, what is not, and who may watch."""

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layers import D_FF, D, calls, drawn, same, served
from reluctant.errors import ReluctantWarning
from reluctant.surgery import optimize, restore


class Layer(nn.Module):
    """As in BART: normalises, adds the residual, drops; all in one forward."""

    def __init__(self, d_ff: int = D_FF, p: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(D, d_ff), nn.Linear(d_ff, D)
        self.norm = nn.LayerNorm(D)
        self.activation_fn: Callable[[Tensor], Tensor] = F.relu
        self.activation_dropout = p
        self.rest = nn.Dropout(p)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.between(self.activation_fn(self.fc1(self.norm(hidden))))
        h = F.dropout(h, p=self.activation_dropout, training=self.training)
        return hidden + self.rest(self.fc2(h))

    def between(self, h: Tensor) -> Tensor:
        return h


class Needs(Layer):
    """Cannot be called with hidden states alone: only its first real call proves it."""

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        return super().forward(hidden + position[:1])


class Aside(Layer):
    """Uses the activation elsewhere, and looks at a weight."""

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(self.activation_fn(hidden).to(self.fc1.weight.dtype))


class Clamps(Layer):
    def between(self, h: Tensor) -> Tensor:
        return h.clamp(max=1e4)


class ClampsInPlace(Layer):
    def between(self, h: Tensor) -> Tensor:
        return h.clamp_(max=1e4)


class Norms(Layer):
    def between(self, h: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:])


class Returns(Layer):
    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.activation_fn(self.fc1(hidden))
        return self.fc2(h), h  # type: ignore[return-value]


class Penalises(Layer):
    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        z = self.fc1(hidden)
        return self.fc2(self.activation_fn(z)) + z.mean()


class Twice(Layer):
    def between(self, h: Tensor) -> Tensor:
        return self.activation_fn(h)


class Shares(Layer):
    """Uses the activation for something else before the layer is through."""

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        z = self.fc1(self.norm(hidden))
        aside = self.activation_fn(hidden)
        h = F.dropout(self.activation_fn(z), p=self.activation_dropout, training=self.training)
        return self.rest(self.fc2(h)) + aside


class Lonely(Layer):
    def forward(self) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(torch.ones(D))))


class Skips(Layer):
    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        self.activation_fn(hidden)
        return self.fc2(self.fc1(hidden))


class Later(Layer):
    """Starts to do more when told to, by something that no attribute shows."""

    told: ClassVar[list[bool]] = []

    def between(self, h: Tensor) -> Tensor:
        return 2 * h if self.told else h


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    layer = layer.eval()
    twin = copy.deepcopy(layer)
    assert len(optimize(layer).swapped) == 1
    return layer, twin


@pytest.mark.parametrize("kind", [Layer, Aside, Shares])
@pytest.mark.parametrize("d_ff", [D_FF, D, 5])
def test_is_served(kind: type[Layer], d_ff: int) -> None:
    layer, twin = pair(kind(d_ff))
    x = drawn(2, 3, D)
    for given in (x, x[0], x[0, 0]):
        same(layer(given), twin(given))
    assert calls(layer) == 3
    same(layer(hidden=x, mask=None), twin(x))
    assert calls(layer) == 4
    layer(x).square().sum().backward()
    twin(x).square().sum().backward()
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    assert restore(layer) == 1
    assert type(layer) is kind
    assert calls(layer) == 0


@pytest.mark.parametrize(
    "kind",
    [Clamps, ClampsInPlace, Norms, Returns, Penalises, Twice, Skips],
    ids=lambda k: k.__name__,
)
def test_a_forward_that_does_more_is_left_alone(kind: type[Layer]) -> None:
    layer = kind().eval()
    held = dict(layer.__dict__)
    report = optimize(nn.ModuleDict({"no": layer, "yes": Layer()}))
    assert [entry.name for entry in report.swapped] == ["yes"]
    (entry,) = report.untouched
    assert (entry.name, entry.d_model, entry.d_ff) == ("no", D, D_FF)
    assert type(layer) is kind
    assert layer.__dict__ == held
    assert layer.fc2.weight.is_contiguous()


class NeedsAndClamps(Needs):
    def between(self, h: Tensor) -> Tensor:
        return h.clamp(max=0.01)


def test_the_first_real_calls_prove_or_refute() -> None:
    layer, twin = pair(Needs())
    x, position = drawn(2, 3, D), drawn(1, D)
    same(layer(x, position), twin(x, position))
    assert calls(layer) == 1
    with torch.no_grad():
        same(layer(x, position), twin(x, position))
    assert calls(layer) == 2

    layer, twin = pair(NeedsAndClamps())
    for _ in range(2):
        same(layer(x, position), twin(x, position))
    with pytest.warns(ReluctantWarning, match="clamp"):
        y = layer(x, position)
    same(y, twin(x, position))
    assert calls(layer) == 0
    assert type(layer) is NeedsAndClamps


def test_a_forward_without_input() -> None:
    layer, twin = pair(Lonely())
    with torch.no_grad():
        for _ in range(2):
            same(layer(), twin())
    assert calls(layer) == 2


def test_a_change_that_nothing_tells_of_is_computed() -> None:
    layer, twin = pair(Later())
    x = drawn(3, D)
    same(layer(x), twin(x))
    Later.told.append(True)
    try:
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                same(layer(x), twin(x))
    finally:
        Later.told.clear()
    assert calls(layer) == 1
    same(layer(x), twin(x))
    assert calls(layer) == 2


def test_dropouts_act() -> None:
    for change, between in (
        (lambda m: m.train(), True),
        (lambda m: m.rest.train(), False),
        (lambda m: setattr(m, "training", True), True),
    ):
        layer, twin = pair(Layer(p=0.5))
        change(layer), change(twin)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                torch.manual_seed(1)
                ours = layer(drawn(9, D))
                torch.manual_seed(1)
                if not between:  # those of the active neurons are drawn in another way
                    same(ours, twin(drawn(9, D)))
        assert calls(layer) == 2
        same(layer.eval()(drawn(3, D)), twin.eval()(drawn(3, D)))
        assert calls(layer) == 3
    layer, twin = pair(Layer(p=0.0))
    same(layer.train()(drawn(3, D)), twin.train()(drawn(3, D)))
    assert calls(layer) == 1
    layer.activation_dropout = 0.5
    assert not torch.equal(layer(drawn(3, D)), layer(drawn(3, D)))
    assert calls(layer) == 3


def test_parts_are_what_they_were_for_everyone_else() -> None:
    layer, twin = pair(Layer())
    x = drawn(3, D)
    same(layer(x), twin(x))
    assert torch.equal(layer.fc1(x), twin.fc1(x))
    assert layer.activation_fn is F.relu
    assert type(layer.fc1) is type(layer.fc2) is nn.Linear
    seen: list[tuple[int, ...]] = []
    handle = layer.fc1.register_forward_hook(lambda m, a, y: seen.append(tuple(y.shape)))
    same(layer(x), twin(x))
    assert seen == [(3, D_FF)]
    handle.remove()
    assert calls(layer) == 1
    layer.activation_fn = twin.activation_fn = F.gelu
    same(layer(x), twin(x))
    layer.activation_fn = twin.activation_fn = F.relu
    with torch.autocast("cpu", torch.bfloat16):  # the original code: which weights it casts is its
        with torch.no_grad():
            torch.testing.assert_close(layer(x), twin(x), rtol=1e-2, atol=1e-2)
        assert calls(layer) == 1
        torch.testing.assert_close(layer(x), twin(x), rtol=1e-2, atol=1e-2)  # the trainer casts
    assert calls(layer) == 2
    same(layer(x), twin(x))
    assert calls(layer) == 3


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_part_replaced() -> None:
    layer, twin = pair(Layer())
    torch.manual_seed(3)
    layer.fc1 = twin.fc1 = Doubled(D, D_FF)
    same(layer(drawn(3, D)), twin(drawn(3, D)))
    (entry,) = optimize(layer).refused
    assert "Doubled" in entry.reason
    same(layer(drawn(3, D)), twin(drawn(3, D)))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how: str) -> None:
    layer, twin = pair(Layer())
    x = drawn(3, D)
    same(layer(x), twin(x))
    clone = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    same(clone(x), twin(x))
    assert calls(clone) == 2
    assert (restore(clone), type(clone)) == (1, Layer)
    assert served(clone) == []


def test_threads_share_nothing() -> None:
    layer, twin = pair(Layer())
    inputs = [drawn(1 + i, D, seed=i) for i in range(8)]
    wanted = [twin(x).detach() for x in inputs]
    wrong: list[int] = []

    def work() -> None:
        with torch.no_grad():
            for _ in range(5):
                for i, x in enumerate(inputs):
                    if not torch.allclose(layer(x), wanted[i], rtol=1e-4, atol=1e-5):
                        wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant: bool) -> None:
    layer, twin = pair(Layer(p=0.0))
    grads = []
    for model in (layer, twin):
        x = drawn(3, D).requires_grad_()
        checkpoint(model.train(), x, use_reentrant=reentrant).square().sum().backward()
        grads.append(x.grad)
    same(*grads)
    assert calls(layer) == 2


def test_compiles_into_one_graph() -> None:
    for kind, gain in ((Layer, 1), (Aside, 0)):
        layer, twin = pair(kind())
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        with torch.no_grad():  # with gradients, torch's own operations are compiled
            same(compiled(drawn(3, D)), twin(drawn(3, D)))
        assert calls(layer) == gain
        layer.train()
        twin.train()
        torch.manual_seed(1)
        ours = compiled(drawn(3, D))
        torch.manual_seed(1)
        same(ours, twin(drawn(3, D)))
        torch.compiler.reset()


def test_a_model_no_longer_used_is_freed() -> None:
    layer, _ = pair(Layer())
    layer(drawn(3, D))
    gone = weakref.ref(layer.fc1)
    del layer
    gc.collect()
    assert gone() is None
