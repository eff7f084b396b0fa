"""What stays as it was when engines are in, in copies, in files, and after `restore`."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layers import (
    D_FF,
    LAYERS,
    D,
    Model,
    Own,
    calls,
    drawn,
    served,
)
from reluctant.surgery import Report, optimize, refresh, restore


def model_pair() -> tuple[Model, Model, Report]:
    """An optimized model, its untouched twin, and the report."""
    torch.manual_seed(0)
    model = Model().eval()
    twin = copy.deepcopy(model)
    return model, twin, optimize(model)


def check_same(model: nn.Module, twin: nn.Module) -> None:
    for x in (drawn(1, 1, D, seed=1), drawn(2, 20, D, seed=2)):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


def test_names_shapes_values_classes_stay() -> None:
    model, twin, report = model_pair()
    assert len(report.swapped) == LAYERS
    ours, theirs = model.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    names = [name for name, _ in twin.named_modules()]
    assert [name for name, _ in model.named_modules()] == names
    for (_, module), (_, other) in zip(model.named_modules(), twin.named_modules(), strict=True):
        assert isinstance(module, type(other))
    assert isinstance(model.own, Own)
    assert "Own" in type(model.own).__qualname__
    assert type(model.own).__module__ == Own.__module__
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
    model, twin, first = model_pair()
    check_same(model, twin)
    second = optimize(model, way="dense")
    assert [entry.name for entry in second.swapped] == [entry.name for entry in first.swapped]
    assert all(a.engine is b.engine for a, b in zip(first.swapped, second.swapped, strict=True))
    assert {entry.reason for entry in second.swapped} == {"served already"}
    assert {seat.engine.way for seat in served(model)} == {"dense"}
    check_same(model, twin)
    assert restore(model) == LAYERS


def test_state_dicts_go_both_ways() -> None:
    model, twin, _ = model_pair()
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
    model, twin, _ = model_pair()
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
    assert all(seat.checked for seat in served(model))
    assert not any(seat.checked for seat in served(clone))  # a first call of its own will tell
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
    model, twin, _ = model_pair()
    with pytest.warns(UserWarning, match="enable_nested_tensor"):  # the fused path is off
        stack = nn.TransformerEncoder(model.blocks[0], 3).eval()
    assert len(served(stack)) == 3
    x = drawn(2, 3, D)
    one = twin.blocks[0]
    torch.testing.assert_close(stack(x), one(one(one(x))), rtol=1e-4, atol=1e-5)
    assert restore(stack) == 3


class Stateful(Own):
    """Leaves the engine out of what it pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: v for name, v in self.__dict__.items() if not name.startswith("_reluctant")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.revived = True


class Registered(Own):
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
    one, two = Own(), Own()
    two.up, two.down = one.up, one.down
    model = nn.Sequential(one, nn.ReLU(), two).eval()
    twin = copy.deepcopy(model)
    assert len(optimize(model).swapped) == 2
    check_same(model, twin)
    assert restore(model) == 2
    assert one.down.weight.stride() == (D_FF, 1)
    check_same(model, twin)


def test_layers_that_share_weights() -> None:
    """Parameters of several Linear layers, and of one layer's two maps."""
    one, two = Own(), Own()
    two.up.weight, two.down.weight = one.up.weight, one.down.weight
    tied = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))
    tied[2].weight = tied[0].weight
    model = nn.Sequential(one, nn.ReLU(), two, tied).eval()
    twin = copy.deepcopy(model)
    strides = [p.stride() for p in model.parameters()]
    for way in ("few", "many", "dense"):
        report = optimize(model, way=way)
        assert len(report.swapped) + len(report.refused) == 3
        check_same(model, twin)
    assert len(report.swapped) >= 2
    assert two.down.weight is one.down.weight
    assert tied[2].weight is tied[0].weight
    with torch.no_grad():
        for each in (model, twin):
            each[0].up.weight.mul_(1.5)
            each[3][0].weight.mul_(1.5)
    check_same(model, twin)
    assert restore(model) == len(report.swapped)
    assert [p.stride() for p in model.parameters()] == strides
    check_same(model, twin)


def test_refresh_after_a_write_behind_torch() -> None:
    model, twin, _ = model_pair()
    check_same(model, twin)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        for parameter in (a, b):
            parameter.detach().numpy()[...] *= -1.25
    assert refresh(model) == LAYERS
    check_same(model, twin)
    assert refresh(twin) == 0


def test_one_model_from_several_threads() -> None:
    model, twin, _ = model_pair()
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
