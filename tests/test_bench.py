"""The benchmark measures the right thing; how fast it is, no test says."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reluctant.bench import layer as drawn
from reluctant.bench import limits, peers, run_bench
from reluctant.bench.run import TOLERANCE
from reluctant.errors import ReluctantError

PHASES = {"decode": 1, "many": 40}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMORY_BYTES", 2**16)
    monkeypatch.setattr(limits, "PEAK_SIZE", 64)
    monkeypatch.setattr("reluctant.bench.run.SETTLE", 0.001)


def truth(up: nn.Linear, down: nn.Linear, x: Tensor) -> Tensor:
    double = nn.Sequential(up, nn.ReLU(), down)
    weights = {name: value.double() for name, value in double.state_dict().items()}
    return torch.func.functional_call(double, weights, x.double())


@pytest.mark.parametrize("d_ff", [96, drawn.CHUNK + 32])
def test_the_reference_is_the_layer_in_float64(d_ff: int) -> None:
    layer = drawn.draw(24, d_ff, 0.1, torch.Generator().manual_seed(1))
    x = torch.randn(5, 24)
    with torch.no_grad():
        expected = truth(layer.up, layer.down, x)
        assert drawn.relative_error(drawn.reference(layer, x), expected) < 1e-14
        assert drawn.relative_error(expected.float() * 1.01, expected) == pytest.approx(
            0.01, rel=1e-3
        )


@pytest.mark.parametrize("active", [0.02, 0.3])
def test_the_layer_has_the_density_that_was_asked_for(active: float) -> None:
    layer = drawn.draw(64, 2048, active, torch.Generator().manual_seed(2))
    z = layer.up(torch.randn(256, 64, generator=torch.Generator().manual_seed(3)))
    assert float((z > 0).float().mean()) == pytest.approx(active, rel=0.1)


@pytest.mark.parametrize("name", peers.OPTIONAL)
@pytest.mark.parametrize("tokens", [1, 7])
def test_a_peer_computes_the_layer_in_float32(name: str, tokens: int) -> None:
    module = name.lower().replace(" ", "")
    if module != "onednn":
        pytest.importorskip(module)
        pytest.importorskip("onnx")
    layer = drawn.draw(48, 160, 0.2, torch.Generator().manual_seed(4))
    first, second = torch.randn(2, tokens, 48)
    with torch.inference_mode():
        peer = peers.OPTIONAL[name](layer.up, layer.down, tokens)
        wrapped = [peer.wrap(first), peer.wrap(second)]
        for x, native in zip((first, second), wrapped, strict=True):
            y = peer.unwrap(peer.call(native))
            assert y.shape == x.shape
            assert drawn.relative_error(y, truth(layer.up, layer.down, x)) < 2e-6


def test_rows() -> None:
    rounds: list[None] = []
    result = run_bench(
        shapes=[(32, 128), (48, 96)],
        phases=PHASES,
        active=0.1,
        rounds=2,
        on_round=lambda: rounds.append(None),
    )
    assert len(rounds) == 2 * 4
    assert result.agree
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [(r["phase"], r["tokens"], r["d_model"], r["d_ff"]) for r in written["rows"]] == [
        ("decode", 1, 32, 128),
        ("many", 40, 32, 128),
        ("decode", 1, 48, 96),
        ("many", 40, 48, 96),
    ]
    for row in written["rows"]:
        assert row["dtype"] == "float32"
        assert 0 < row["active"] <= row["candidates"] <= 1
        assert row["ratio_eager"] == pytest.approx(row["peers"]["eager"] / row["ours_us"])
        assert row["ratio_best"] == pytest.approx(min(row["peers"].values()) / row["ours_us"])
        assert row["limit_share"] == pytest.approx(row["achieved"] / row["limit"])
        assert sum(row["ways"].values()) >= 2 * 2


def test_what_the_rows_say_was_read() -> None:
    (row,) = run_bench(shapes=[(32, 128)], phases={"decode": 1}, active=0.1, rounds=1).rows
    sketch, keys_and_values = 32 * 128, 4 * 32 * 128 * (row.candidates + row.active)
    assert row.achieved * row.ours_us * 1e-6 == pytest.approx(sketch + keys_and_values)


def bfloat16(up: nn.Linear, down: nn.Linear, tokens: int) -> peers.Peer:
    def call(x: Tensor) -> Any:
        return x.new_zeros(x.shape) + down(up(x).relu()).bfloat16()

    return peers.Peer("sloppy", call)


def refused(up: nn.Linear, down: nn.Linear, tokens: int) -> peers.Peer:
    raise ImportError("No module named 'absent'")


def test_a_peer_that_is_not_float32_is_no_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "OPTIONAL", {"sloppy": bfloat16, "absent": refused})
    # Whatever is fastest: the sloppy one must not count.
    monkeypatch.setattr(
        "reluctant.bench.run.interleaved",
        lambda calls, **_: {**dict.fromkeys(calls, 1.0), "ours": 2.0, "eager": 8.0},
    )
    result = run_bench(shapes=[(32, 128)], phases={"decode": 1}, active=0.1, rounds=1)
    (row,) = result.rows
    assert row.wrong == ["sloppy"]
    assert row.errors["sloppy"] > 100 * TOLERANCE
    assert row.ratio_best == 4.0
    assert not result.agree
    assert row.missing == {"absent": "No module named 'absent': pip install 'reluctant[bench]'"}


def test_float32_is_in_force_and_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        result = run_bench(shapes=[(32, 64)], phases={"decode": 1}, rounds=1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert result.precision == "highest"
    assert result.agree


@pytest.mark.parametrize("active", [0.0, 1.0, float("nan")])
def test_density_has_to_be_a_share(active: float) -> None:
    with pytest.raises(ReluctantError, match="between 0 and 1"):
        run_bench(active=active)
