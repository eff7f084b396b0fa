"""What stays as it was when engines are in, in copies, in files, and after `restore`."""

import copy
import io
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.surgery import Report, optimize, refresh, restore
from reluctant.surgery.swap import seat_of

D, D_FF = 64, 256


class Plain(nn.Module):
    """A feed-forward layer of someone's own, with a forward that keeps count if asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.lin_a, self.lin_b = nn.Linear(D, D_FF), nn.Linear(D_FF, D)
        self.double = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin_b(F.relu(self.lin_a(x)))
        return 2 * y if self.double else y


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(D, 2, D_FF, 0.0, batch_first=True) for _ in range(2)
        )
        self.own = Plain()
        self.again = self.own
        self.ffn = FeedForward(D, D_FF)
        self.gated = FeedForward(D, D_FF, "reglu")
        self.stack = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.blocks, self.own, self.again, self.ffn, self.gated, self.stack):
            x = F.layer_norm(x + layer(x), (D,))
        return x


LAYERS = 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair() -> tuple[Model, Model, Report]:
    """An optimized model, its untouched twin, and the report."""
    torch.manual_seed(0)
    model = Model().eval()
    twin = copy.deepcopy(model)
    return model, twin, optimize(model)


def served(model: nn.Module) -> list[Any]:
    return [seat for module in model.modules() if (seat := seat_of(module))]


def calls(model: nn.Module) -> int:
    return sum(sum(seat.engine.calls.values()) for seat in served(model))


def check_same(model: nn.Module, twin: nn.Module) -> None:
    for x in (drawn(1, 1, D, seed=1), drawn(2, 20, D, seed=2)):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


def test_names_shapes_values_classes_stay() -> None:
    model, twin, report = pair()
    assert len(report.swapped) == LAYERS
    ours, theirs = model.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    names = [name for name, _ in twin.named_modules()]
    assert [name for name, _ in model.named_modules()] == names
    for (_, module), (_, other) in zip(model.named_modules(), twin.named_modules(), strict=True):
        assert isinstance(module, type(other))
    assert isinstance(model.own, Plain)
    assert "Plain" in type(model.own).__qualname__
    assert type(model.own).__module__ == Plain.__module__
    check_same(model, twin)
    assert calls(model) > 0


def test_restore_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    before = [(type(m), dict(m.__dict__), list(m.__dict__)) for m in model.modules()]
    parameters = [(p, p.detach().clone(), p.stride()) for p in model.parameters()]
    fused = [block.activation_relu_or_gelu for block in model.blocks]
    assert fused == [1, 1]
    optimize(model)
    assert [block.activation_relu_or_gelu for block in model.blocks] == [0, 0]
    check_same(model, copy.deepcopy(model))
    assert restore(model) == LAYERS
    assert [(type(m), dict(m.__dict__), list(m.__dict__)) for m in model.modules()] == before
    for now, (parameter, value, stride) in zip(model.parameters(), parameters, strict=True):
        assert now is parameter
        assert torch.equal(now, value)
        assert now.stride() == stride
    assert restore(model) == 0


def test_twice_is_once() -> None:
    model, twin, first = pair()
    check_same(model, twin)
    second = optimize(model, way="dense")
    assert [entry.name for entry in second.swapped] == [entry.name for entry in first.swapped]
    assert all(a.engine is b.engine for a, b in zip(first.swapped, second.swapped, strict=True))
    assert {entry.reason for entry in second.swapped} == {"served already"}
    assert {seat.engine.way for seat in served(model)} == {"dense"}
    check_same(model, twin)
    assert restore(model) == LAYERS


def test_state_dicts_go_both_ways() -> None:
    model, twin, _ = pair()
    torch.manual_seed(1)
    other = Model().eval()
    check_same(model, twin)
    for assign in (False, True):
        for source in (other, twin):
            state = {name: value.clone() for name, value in source.state_dict().items()}
            assert str(model.load_state_dict(state, strict=True, assign=assign)) == (
                "<All keys matched successfully>"
            )
            check_same(model, source)
    fresh = Model().eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    check_same(fresh, twin)
    before = calls(model)
    model(drawn(1, 1, D))
    assert calls(model) == before + LAYERS + 1  # `own` is there twice
    assert restore(model) == LAYERS
    check_same(model, twin)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "protocol 0", "torch.save"])
def test_copies_are_served_by_engines_of_their_own(how: str, tmp_path: Path) -> None:
    model, twin, _ = pair()
    check_same(model, twin)
    if how == "deepcopy":
        clone = copy.deepcopy(model)
    elif how == "torch.save":
        torch.save(model, tmp_path / "model.pt")
        clone = torch.load(tmp_path / "model.pt", weights_only=False)
    else:
        clone = pickle.loads(pickle.dumps(model, 0 if how == "protocol 0" else 4))
    assert [type(m) for m in clone.modules()] == [type(m) for m in model.modules()]
    assert clone.own is clone.again
    check_same(clone, twin)
    for mine, theirs in zip(served(clone), served(model), strict=True):
        assert mine.engine is not theirs.engine
        assert mine.site.up is not theirs.site.up
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.mul_(1.5)
    changed = copy.deepcopy(twin)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    before = calls(model), calls(clone)
    check_same(clone, changed)
    assert calls(model) == before[0]
    assert calls(clone) > before[1]
    check_same(model, twin)
    assert restore(clone) == LAYERS
    assert [type(m) for m in clone.modules()] == [type(m) for m in twin.modules()]
    assert [block.activation_relu_or_gelu for block in clone.blocks] == [1, 1]
    for mine, theirs in zip(clone.parameters(), twin.parameters(), strict=True):
        assert mine.stride() == theirs.stride()
    check_same(clone, changed)
    check_same(model, twin)


def test_a_served_layer_alone_copies_too() -> None:
    model, twin, _ = pair()
    with pytest.warns(UserWarning, match="enable_nested_tensor"):  # the fused path is off
        stack = nn.TransformerEncoder(model.blocks[0], 3).eval()
    assert len(served(stack)) == 3
    x = drawn(2, 3, D)
    one = twin.blocks[0]
    torch.testing.assert_close(stack(x), one(one(one(x))), rtol=1e-4, atol=1e-5)
    assert restore(stack) == 3


class Stateful(Plain):
    """Leaves the engine out of what it pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: v for name, v in self.__dict__.items() if not name.startswith("_reluctant")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.revived = True


class Registered(Plain):
    """Refuses to have subclasses."""

    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


def test_classes_with_habits_of_their_own() -> None:
    model = nn.Sequential(Stateful(), Registered()).eval()
    twin = copy.deepcopy(model)
    assert len(optimize(model).swapped) == 2
    clone = pickle.loads(pickle.dumps(model))
    assert clone[0].revived
    assert len(served(clone)) == 1
    for copied in (clone, copy.deepcopy(model)):
        check_same(copied, twin)
        assert restore(copied) == 1
        assert [type(m) for m in copied] == [Stateful, Registered]
        assert len(optimize(copied).swapped) == 2
        check_same(copied, twin)


def test_layers_that_share_their_maps() -> None:
    one, two = Plain(), Plain()
    two.lin_a, two.lin_b = one.lin_a, one.lin_b
    model = nn.Sequential(one, nn.ReLU(), two).eval()
    twin = copy.deepcopy(model)
    assert len(optimize(model).swapped) == 2
    check_same(model, twin)
    assert restore(model) == 2
    assert one.lin_b.weight.stride() == (D_FF, 1)
    check_same(model, twin)


def test_refresh_after_a_write_behind_torch() -> None:
    model, twin, _ = pair()
    check_same(model, twin)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        for parameter in (a, b):
            parameter.detach().numpy()[...] *= -1.25
    assert refresh(model) == LAYERS
    check_same(model, twin)
    assert refresh(twin) == 0


def test_one_model_from_several_threads() -> None:
    model, twin, _ = pair()
    inputs = [drawn(1 + i % 3, 1 + i, D, seed=i) for i in range(8)]
    with torch.no_grad():
        wanted = [twin(x) for x in inputs]
    failures: list[str] = []

    def work(turn: int) -> None:
        with torch.no_grad():
            for i in range(turn, turn + 8):
                got, want = model(inputs[i % 8]), wanted[i % 8]
                if not torch.allclose(got, want, rtol=1e-4, atol=1e-5):
                    failures.append(f"input {i % 8}: off by {(got - want).abs().max()}")

    threads = [threading.Thread(target=work, args=(2 * t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(seat.checked for seat in served(model))


def test_the_report_prints_as_a_table() -> None:
    model = nn.ModuleDict(
        {
            "good": FeedForward(D, D_FF),
            "bad": nn.Sequential(nn.Linear(D, D_FF), nn.PReLU(), nn.Linear(D_FF, D)),
            "other": nn.Sequential(nn.Linear(D, 8), nn.Linear(8, D)),
        }
    )
    report = optimize(model)
    names = [[e.name for e in part] for part in (report.swapped, report.refused, report.untouched)]
    assert names == [["good"], ["bad"], ["other"]]
    assert report.memory_bytes == report.swapped[0].engine.sketch_bytes > 0
    lines = str(report).splitlines()
    rows = {row.split("│")[1].strip(): row for row in lines if row.startswith("│")}
    assert all(word in rows["good"] for word in ("relu", str(D), str(D_FF), "swapped"))
    assert "refused" in rows["bad"]
    assert "1 swapped, 1 refused, 1 untouched" in str(report)
    alone = str(optimize(FeedForward(D, D_FF)))
    assert "(the model itself)" in alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model",), "nn.Module"),
        ((nn.Linear(D, D),), "no feed-forward layer in this Linear: looked for FeedForward"),
        ((nn.MultiheadAttention(D, 2),), "no feed-forward layer"),
    ],
)
def test_a_bad_call_says_what_is_wrong(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        optimize(*arguments)


def test_an_unknown_way_changes_nothing() -> None:
    model = Model()
    with pytest.raises(ReluctantError, match="auto, dense, few, many"):
        optimize(model, way="fast")
    assert not served(model)
    with pytest.raises(ReluctantError, match=r"nn\.Module"):
        restore(io.StringIO())  # type: ignore[arg-type]


def test_an_interrupted_swap_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model().eval()
    types = [type(m) for m in model.modules()]
    strides = [p.stride() for p in model.parameters()]
    seen: list[object] = []

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return engine(*args, **kwargs)

    names = optimize.__globals__
    engine = names["Engine"]
    monkeypatch.setitem(names, "Engine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimize(model)
    assert len(seen) == 4
    assert [type(m) for m in model.modules()] == types
    assert [p.stride() for p in model.parameters()] == strides
    assert not served(model)
