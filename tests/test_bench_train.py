"""`reluctant bench --phases train` measures the right thing; how fast it is, no test says."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from reluctant.bench.grid import Shape
from reluctant.bench.train import Cell, Result, Row, grid, measure, memory, peers, plot, run_train
from reluctant.bench.train.memory import Memory
from reluctant.bench.train.model import (
    NEAR,
    Batch,
    Model,
    build,
    draw_batch,
    errors,
    reference,
    results,
    set_density,
)
from reluctant.bench.train.table import show
from reluctant.cli import app
from reluctant.errors import ReluctantError

TINY, GATED = Shape(32, 96), Shape(32, 64, gated=True)
TOKENS = 300  # as many as bfloat16 goes over active neurons from on


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SETTLE", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(cell: Cell, names: Any) -> Memory:
        shape = cell.shape
        sizes = (cell.tokens, shape.d_model, shape.d_ff, shape.gated, cell.density)
        numbers = {name: 2**20 * (1 + k) for k, name in enumerate(names)}
        return Memory(cell.kind, cell.dtype, *sizes, numbers, numbers)

    monkeypatch.setattr(memory, "measure", told)


def made(
    kind: str = "layer", shape: Shape = TINY, tokens: int = 40, dtype: torch.dtype = torch.float32
) -> tuple[Model, Batch]:
    generator = torch.Generator().manual_seed(5)
    model = build(kind, shape, dtype, generator)
    set_density(model, 0.1)
    return model, draw_batch(model, tokens, generator)


def by_hand(model: Model, batch: Batch) -> dict[str, Tensor]:
    """The output and gradients of one layer without gate, in float64, without autograd."""
    (layer,) = model.layers
    w1, b1, w2, b2 = (
        t.detach().double()
        for t in (layer.up.weight, layer.up.bias, layer.down.weight, layer.down.bias)
    )
    x, dy = batch.x.detach().double(), batch.dy.double()
    z = x @ w1.T + b1
    h = z.clamp(min=0)
    dz = (dy @ w2) * (z > 0)
    return {
        "y": h @ w2.T + b2,
        "x": dz @ w1,
        "layers.0.up.weight": dz.T @ x,
        "layers.0.up.bias": dz.sum(0),
        "layers.0.down.weight": dy.T @ h,
        "layers.0.down.bias": dy.sum(0),
    }


def test_the_reference_is_the_layer_and_its_gradients() -> None:
    model, batch = made()
    found, expected = reference(model, batch), by_hand(model, batch)
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        torch.testing.assert_close(found[name], truth, rtol=1e-12, atol=1e-12)
        off = {**expected, name: truth * 1.01}
        kind = name.removeprefix("layers.0.")
        assert errors(off, expected)[kind] == pytest.approx(0.01)
        assert sum(errors(off, expected).values()) == pytest.approx(0.01)


def test_of_several_layers_the_worst_counts() -> None:
    model, batch = made("stack")
    truth = reference(model, batch)
    assert len(truth) == 2 + 6 * 6
    for name, error in (("layers.4.up.bias", 0.2), ("norms.2.weight", 0.3)):
        found = {**truth, name: truth[name] * (1 + error)}
        kind = "up.bias" if "up" in name else "norm.weight"
        assert errors(found, truth)[kind] == pytest.approx(error)
    del found["norms.2.weight"]
    assert errors(found, truth)["norm.weight"] == float("inf")
    found["layers.3.up.bias"] = truth["layers.3.up.bias"] * float("nan")
    assert not errors(found, truth)["up.bias"] >= 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [TINY, GATED])
@pytest.mark.parametrize("kind", grid.KINDS)
@pytest.mark.parametrize(
    "name",
    ["eager", "checkpoint", "oneDNN", "ours", pytest.param("compile", marks=pytest.mark.slow)],
)
def test_everyone_takes_the_step(name: str, kind: str, shape: Shape, dtype: str) -> None:
    model, batch = made(kind, shape, TOKENS, getattr(torch, dtype))
    built, missing = peers.build(model, batch, [] if name in ("eager", "ours") else [name])
    torch._dynamo.reset()
    if missing:
        assert name == "compile"
        pytest.skip(missing["compile"])  # no C++ compiler
    if name == "oneDNN" and dtype == "bfloat16":
        assert len(built) == 1
        return
    one = peers.ours(model) if name == "ours" else built[-1]
    assert one.name == name
    truth = reference(model, batch)
    for _ in range(2):  # nothing is added up
        found = errors(results(one.model, batch.x, one.step(batch)), truth)
        most = 5e-6 if dtype == "float32" else 0.4 if kind == "stack" else 2e-2
        assert found.keys() >= {"y", "x", "up.weight", "up.bias", "down.weight", "down.bias"}
        assert max(found.values()) < most
    assert (sum(e.calls["training"] for e in one.engines) > 0) == (name == "ours")


@pytest.mark.parametrize("kind", grid.KINDS)
@pytest.mark.parametrize("density", [0.05, 0.5])
def test_the_density_is_the_one_that_was_asked_for(kind: str, density: float) -> None:
    generator = torch.Generator().manual_seed(1)
    model = build(kind, Shape(64, 1024), torch.float32, generator)
    set_density(model, density)
    batch = draw_batch(model, 200, generator)
    assert batch.active == pytest.approx(density, rel=0.15)
    counts, nearest = [], []

    def look(_: Any, args: Any, output: Tensor) -> None:
        z = output.detach()
        counts.append(float((z > 0).float().mean()))
        nearest.append(float(z.abs().min()))

    for layer, _ in model.blocks():
        layer.up.register_forward_hook(look)
    model(batch.x)
    assert sum(counts) / len(counts) == pytest.approx(batch.active)
    # Drawn until no sign hangs on rounding; without, 1e-6 would be usual among so many.
    assert min(nearest) > 0.9 * NEAR


def test_what_is_kept_between_the_passes() -> None:
    def kept(name: str, kind: str, shape: Shape) -> int:
        model, batch = made(kind, shape, 300)
        others, _ = peers.build(model, batch, [name] if name in peers.BUILDERS else [])
        (one,) = [each for each in (peers.ours(model), *others) if each.name == name]
        return measure.forward(one, batch.x)[1]

    hidden, x = 300 * 96 * 4, 300 * 32 * 4
    assert kept("eager", "layer", TINY) == hidden  # relu's output is down's input
    assert kept("oneDNN", "layer", TINY) == hidden
    assert kept("eager", "layer", GATED) == 3 * 300 * 64 * 4  # both factors, their product
    assert kept("checkpoint", "layer", TINY) == 0
    assert kept("checkpoint", "stack", TINY) == 5 * x  # all layers' but the first
    # What comes to each norm, and its mean and length for each token; of the last one's output
    # nothing.
    around = 6 * (x + 2 * 300 * 4) + 5 * x
    assert kept("eager", "stack", TINY) == 6 * hidden + around
    assert 0 < kept("ours", "layer", TINY) < hidden / 3
    assert 0 < kept("ours", "stack", TINY) - around < 6 * hidden / 3


def test_rows(no_children: None) -> None:
    seen: list[float] = []
    cells = grid.choose(
        shapes=[TINY], tokens=[TOKENS], densities=[0.2, 0.1], dtypes=["float32", "bfloat16"]
    )
    result = run_train(
        cells,
        rounds=2,
        names=["checkpoint", "oneDNN"],
        on_progress=lambda what, done: seen.append(done),
    )
    assert result.agree, legible(result)
    assert seen == sorted(seen)
    assert seen[-1] == len(cells) + 4
    assert [(m.kind, m.dtype, m.d_ff, m.density) for m in result.memory] == [
        (kind, dtype, 96, 0.1) for kind in grid.KINDS for dtype in ("float32", "bfloat16")
    ]
    assert list(result.memory[0].added) == ["eager", "checkpoint", "ours"]
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"machine", "capability", "threads", "versions", "load", "table"} <= written.keys()
    assert [(r["kind"], r["dtype"], r["density"]) for r in written["rows"]] == [
        (kind, dtype, p)
        for kind in grid.KINDS for dtype in ("float32", "bfloat16") for p in (0.1, 0.2)
    ]  # fmt: skip
    for row in written["rows"]:
        others = ["oneDNN"] if row["dtype"] == "float32" else []
        assert row["peers"].keys() == {"eager", "checkpoint", *others}
        assert row["errors"].keys() == row["kept"].keys() == {"ours", *row["peers"]}
        assert row["ratio_eager"] == pytest.approx(row["peers"]["eager"] / row["ours_ms"])
        assert row["ratio_best"] == pytest.approx(min(row["peers"].values()) / row["ours_ms"])
        assert row["ratio_kept"] == pytest.approx(row["kept"]["eager"] / row["kept"]["ours"])
        assert row["active"] == pytest.approx(row["density"], rel=0.3)
        assert row["layers"] == (6 if row["kind"] == "stack" else 1)
        calls = 2 * 2 * row["layers"]  # each turn begins with one that is not timed
        sparse = row["dtype"] == "float32" or row["density"] < 0.15  # so the table says
        assert row["ways"] == {"training": calls if sparse else 0, "dense": 0 if sparse else calls}
    legible(result)


def legible(result: Result) -> str:
    text = io.StringIO()
    show(result, Console(file=text, width=80))
    assert "…" not in text.getvalue()
    return text.getvalue()


def row(**changes: Any) -> Row:
    fine = {"y": 3e-7, "up.weight": 0.0}
    made = Row(
        kind="layer", dtype="float32", tokens=1024, d_model=1024, d_ff=4096, gated=False, layers=1,
        density=0.05, active=0.05, ours_ms=4567.0, peers={"eager": 13701.0, "oneDNN": 9134.0},
        best="oneDNN", kept={"ours": 2**20, "eager": 2**24, "oneDNN": 2**30},
        errors={"ours": fine, "eager": fine, "oneDNN": fine}, ways={"training": 9, "dense": 1},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_the_tables_hold_the_figures() -> None:
    found = Memory("stack", "bfloat16", 4096, 1024, 4096, False, 0.05, {"ours": 2**29},
                   {"eager": 2**30, "checkpoint": 2**29, "ours": 2**28})  # fmt: skip
    wide = row(kind="stack", layers=6, dtype="bfloat16", tokens=65536, density=0.5, gated=True)
    missing = row(missing={"compile": "no compiler"})
    text = legible(Result([row(), wide, missing], [found], {"memory of it": "too large"}))
    for figure in ("2.00x", "3.00x", "16.0x", "90%", "4.00x", "512", "compile is left out:",
                   "no compiler", "memory of it is left out: too large"):  # fmt: skip
        assert figure in text
    assert "wrong" not in text


@pytest.mark.parametrize(("error", "fine"), [
    (1.4e-6, True), (1e-5, False), (float("nan"), False), (float("inf"), False)
])  # fmt: skip
def test_what_is_wrong(error: float, fine: bool) -> None:
    off = {"y": 3e-7, "up.weight": error}
    one = row(errors={**row().errors, "ours": off})
    assert one.wrong == ([] if fine else ["ours"])
    assert Result([one]).agree == fine
    assert ("ours is wrong" in legible(Result([one]))) != fine
    json.dumps(Result([one]).to_json(), allow_nan=False)
    # Where eager errs as much, rounding explains it; a NaN, nothing explains.
    all_off = row(errors=dict.fromkeys(row().errors, off))
    assert all_off.wrong == ([] if error < 1 else ["ours", "eager", "oneDNN"])


def test_a_wrong_gradient_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    out = tmp_path / "rows.json"
    command = ["bench", "--phases", "train", "--shapes", "32/96", "--tokens", "64", "--rounds", "1"]
    command += ["--densities", "10,20", "--peers", "none", "--json", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert [row.wrong for row in plot.load(out)] == [[]] * 4
    right = peers.ours

    def ours(model: Model) -> peers.Contender:
        one = right(model)
        one.model.layers[0].up.bias.register_hook(lambda gradient: 1.001 * gradient)
        return one

    monkeypatch.setattr(peers, "ours", ours)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    assert "ours is wrong" in done.stdout
    assert "up.bias 1.0e-03" in done.stdout
    assert all(row.wrong == ["ours"] for row in plot.load(out))


def test_a_wrong_peer_is_no_rival(monkeypatch: pytest.MonkeyPatch, no_children: None) -> None:
    def sloppy(model: Model, batch: Batch) -> peers.Forward:
        return lambda x: 0.99 * model(x)

    def broken(model: Model, batch: Batch) -> peers.Forward:
        def fail(x: Tensor) -> Tensor:
            raise RuntimeError("no such\nproduct")

        return fail

    builders = {"sloppy": sloppy, "broken": broken, "checkpoint": peers.checkpointed}
    monkeypatch.setattr(peers, "BUILDERS", builders)
    seconds = {"ours": 2.0, "eager": 8.0, "checkpoint": 6.0, "sloppy": 1.0}
    monkeypatch.setattr(measure, "interleaved", lambda calls, **_: {n: seconds[n] for n in calls})
    result = run_train([Cell("layer", 20, TINY)], rounds=1, names=list(builders))
    (one,) = result.rows
    assert one.wrong == ["sloppy"]
    assert not result.agree
    assert one.errors["sloppy"]["x"] == pytest.approx(0.01, rel=1e-3)
    assert (one.best, one.ratio_best, one.ratio_eager) == ("checkpoint", 3.0, 4.0)
    assert one.ours_ms == 2000.0
    assert one.missing == {"broken": "no such product"}


def test_without_onednn_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, no_children: None
) -> None:
    def missing(*_: Any) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    (one,) = run_train([Cell("layer", 8, TINY)], rounds=1, names=["oneDNN", "checkpoint"]).rows
    assert "_linear_pointwise" in one.missing["oneDNN"]
    assert one.peers.keys() == {"eager", "checkpoint"}


def test_float32_is_in_force_and_put_back(no_children: None) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad():
            result = run_train([Cell("layer", 20, TINY)], rounds=1, names=[])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert result.precision == "highest"
    assert result.agree


def test_memory_is_looked_at_where_most_is_needed() -> None:
    cells = grid.usual()
    middle = Shape(512, 2048)
    assert memory.largest(cells) == [
        Cell("layer", 4096, middle, density=0.05), Cell("stack", 1024, middle, density=0.05)
    ]  # fmt: skip
    assert memory.largest([]) == []


@pytest.mark.skipif(not memory.available(), reason="the system does not say")
def test_a_process_says_what_its_steps_took() -> None:
    hog = torch.ones(2**27)  # what this process holds must not count
    cell = Cell("layer", 512, Shape(32, 8192))
    found = memory.measure(cell, ["eager"])
    assert found.added.keys() == found.before.keys() == {"eager"}
    hidden = 512 * 8192 * 4
    assert 2 * hidden < found.added["eager"] < 5 * hidden  # z and h, or h and its gradient
    assert found.before["eager"] > 2**26
    assert hog.nbytes > 8 * hidden
    assert (found.tokens, found.d_ff, found.density) == (512, 8192, 0.05)


@pytest.mark.slow
@pytest.mark.skipif(not memory.available(), reason="the system does not say")
def test_ours_takes_less_memory_and_checkpoints_no_more() -> None:
    added = memory.measure(Cell("stack", 2048, Shape(64, 2048))).added
    assert added["ours"] < added["eager"] / 2
    assert added["checkpoint"] < added["eager"] / 1.5


def test_a_process_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Memory:
        raise ReluctantError("it has ended early")

    monkeypatch.setattr(memory, "measure", fail)
    result = run_train([Cell("layer", 20, TINY)], rounds=1, names=[])
    assert list(result.skipped.values()) == (["it has ended early"] if memory.available() else [])
    assert len(result.rows) == 1


def test_a_worker_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "reluctant.bench.train.worker"]
    sizes = ["layer", "64", "32/96", "float32", "0.1", "eager", "2"]
    done = subprocess.run(
        [*command, *sizes], input="", text=True, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "peak" not in done.stdout


def test_the_usual_cells() -> None:
    cells = grid.usual()
    assert len(set(cells)) == len(cells)
    layers = {(c.tokens, c.shape) for c in cells if c.kind == "layer"}
    shapes = [Shape(256, 1024), Shape(512, 2048), Shape(1024, 4096)]
    assert layers == {(n, s) for n in (256, 1024) for s in shapes} | {(4096, shapes[1])}
    for n, shape in layers:
        at = [c.density for c in cells if (c.kind, c.tokens, c.shape) == ("layer", n, shape)]
        assert at == [0.01, 0.05, 0.2, 0.5]
    assert {c.shape for c in cells if c.kind == "stack"} == set(shapes)
    assert max(c.products for c in cells) == 6 * 2**30
    assert len({c.density for c in grid.quick()}) == 2
    assert len({c.shape for c in grid.quick()}) == 1


@pytest.mark.parametrize(("picked", "message"), [
    ({"densities": [1.0]}, "between 0 and 1"),
    ({"tokens": [0]}, "tokens from 1"),
    ({"dtypes": ["float16"]}, "float32, bfloat16; got 'float16'"),
])  # fmt: skip
def test_what_cannot_be_picked(picked: dict[str, Any], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        grid.choose(**picked)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--phases", "train,few"], "train alone, got few"),
    (["--phases", "train", "--full"], "--full cannot go with --phases train"),
    (["--phases", "train", "--real"], "--real"),
    (["--phases", "train", "--crowded"], "--crowded"),
    (["--phases", "train", "--maps"], "--maps"),
    (["--phases", "train", "--whole"], "--whole"),
    (["--phases", "train", "--answers"], "--answers"),
    (["--phases", "train", "--new", "3"], "--new"),
    (["--phases", "train", "--share", "0.5"], "--share"),
    (["--phases", "train", "--model", "gpt2"], "--model"),
    (["--phases", "train", "--states", "cold"], "--states"),
    (["--phases", "train", "--activation", "gelu"], "--activation"),
    (["--phases", "train", "--quick", "--tokens", "64"], "expected one selection, got --quick"),
    (["--phases", "train", "--peers", "OpenVINO"], "expected peers among compile, checkpoint"),
    (["--phases", "train", "--from", "a.json"], "goes with --plot"),
    (["--phases", "train", "--plot", "a.jpg"], "ends in one of"),
    (["--phases", "train", "--plot", "a.svg", "--densities", "5"], "with several"),
    (["--phases", "train", "--as", "mmx"], "expected --as avx2"),
])  # fmt: skip
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "interleaved", lambda *_, **__: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())


def test_a_picture_is_drawn_from_written_rows(tmp_path: Path, no_children: None) -> None:
    pytest.importorskip("matplotlib")
    out, first, second = (tmp_path / name for name in ("rows.json", "a.svg", "b.svg"))
    command = ["bench", "--phases", "train"]
    some = ["--shapes", "32/96,16/32", "--densities", "5,20", "--tokens", "20", "--rounds", "1"]
    some += ["--peers", "checkpoint", "--json", str(out), "--plot", str(first)]
    done = CliRunner().invoke(app, [*command, *some])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, [*command, "--plot", str(second), "--from", str(out)])
    assert again.exit_code == 0, again.output
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"<?xml")
    out.write_text('{"rows": [{"phase": "decode"}]}')
    refused = CliRunner().invoke(app, [*command, "--plot", str(second), "--from", str(out)])
    assert refused.exit_code == 2
    assert "expected a file that" in refused.stderr


def test_what_the_picture_shows(tmp_path: Path) -> None:
    rows = [
        row(kind=kind, tokens=n, d_model=d, density=p, dtype=dtype)
        for kind in ("stack", "layer")
        for dtype in ("bfloat16", "float32")
        for n, d in ((256, 256), (256, 512), (1024, 256), (1024, 512), (4096, 512))
        for p in (0.5, 0.05)
    ]
    found = plot.panels([*rows, row(d_model=77)])  # one density makes no line
    assert [{(r.kind, r.dtype, r.tokens, r.d_model) for r in line} for line in found] == [
        {("layer", "float32", 1024, 256)}, {("layer", "float32", 1024, 512)}
    ]  # fmt: skip
    assert [[r.density for r in line] for line in found] == [[0.05, 0.5]] * 2
    assert {r.kind for line in plot.panels([r for r in rows if r.kind == "stack"]) for r in line} \
        == {"stack"}  # fmt: skip
    pytest.importorskip("matplotlib")
    with pytest.raises(ReluctantError, match="found none"):
        plot.draw([row()], tmp_path / "a.svg")
