"""What the report says, and what bad calls do."""

import io
from inspect import unwrap
from typing import Any

import pytest
from torch import nn

from layers import D_FF, D, Model, served
from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.surgery import optimize, restore


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
    assert report.memory_bytes == report.swapped[0].engine.memory_bytes > 0
    lines = str(report).splitlines()
    rows = {row.split("│")[1].strip(): row for row in lines if row.startswith("│")}
    assert all(word in rows["good"] for word in ("relu", str(D), str(D_FF), "swapped"))
    assert "refused" in rows["bad"]
    assert "1 swapped, 1 refused, 1 untouched" in str(report)
    alone = str(optimize(FeedForward(D, D_FF)))
    assert "(the model itself)" in alone


def stack(activation: nn.Module, d_ff: int = 1024) -> nn.Module:
    return nn.Sequential(nn.Linear(256, d_ff), activation, nn.Linear(d_ff, 256))


def test_the_report_says_what_each_layer_can_gain() -> None:
    model = nn.ModuleDict(
        {
            "plain": stack(nn.ReLU()),
            "short": stack(nn.ReLU()).bfloat16(),
            "long": stack(nn.ReLU()).double(),
            "smooth": stack(nn.GELU()),
            "slow": stack(nn.Hardsigmoid()),
            "refused": stack(nn.PReLU()),
            "untouched": nn.Sequential(nn.Linear(D, 8), nn.Linear(8, D)),
        }
    )
    before = [(p.data_ptr(), p.stride(), p._version) for p in model.parameters()]
    report = optimize(model, way="few")
    gains = {e.name: e.gain for e in report.swapped}
    assert {n for n, g in gains.items() if g == "sparse"} == {"plain", "short"}
    assert gains["long"].startswith("dense only: float64 weights (the sparse ways serve float32")
    assert gains["smooth"] == "dense only: gelu has no range where it is exactly zero"
    assert gains["slow"] == "dense only: no kernel computes hardsigmoid"
    assert [e.sparse for e in report.swapped] == [g == "sparse" for g in gains.values()]
    assert {e.gain for e in (*report.refused, *report.untouched)} == {""}
    text = " ".join(str(report).replace("│", " ").split())
    assert "swapped: sparse" in text
    assert "gelu has no range" in text
    assert [(p.data_ptr(), p.stride(), p._version) for p in model.parameters()] == before
    assert {e.gain for e in optimize(model, way="dense").swapped} == {
        "dense only: pinned to the dense way"
    }
    (entry,) = optimize(stack(nn.ReLU(), 1)).swapped
    assert entry.gain == "sparse" or "too few" in entry.gain


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

    names = unwrap(optimize).__globals__
    engine = names["Engine"]
    monkeypatch.setitem(names, "Engine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimize(model)
    assert len(seen) == 4
    assert [type(m) for m in model.modules()] == types
    assert [p.stride() for p in model.parameters()] == strides
    assert not served(model)
