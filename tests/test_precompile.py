"""`reluctant compile` compiles all that engines need."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from reluctant import precompile
from reluctant.cli import app
from reluctant.kernels import integer

# Layers as users have them: other sizes, activations, strides, more tokens.
USED = """
import torch, reluctant
from torch import nn
torch.manual_seed(0)
torch.set_grad_enabled(False)
def stack(activation, dtype, d=64, d_ff=256):
    return nn.Sequential(nn.Linear(d, d_ff), activation, nn.Linear(d_ff, d)).to(dtype).eval()
for way in ("few", "many", "auto", "dense"):
    for dtype in (torch.float32, torch.bfloat16):
        for activation in (nn.ReLU(), nn.Hardswish(), nn.Threshold(0.5, 0.0)):
            model = stack(activation, dtype)
            model[0].bias -= 1
            reluctant.optimize(model, way=way)
            for tokens in (1, 3, 16, 17, 100):
                model(torch.randn(tokens, 64).to(dtype))
        gated = reluctant.FeedForward(48, 96, "reglu").to(dtype).eval()
        reluctant.optimize(gated, way=way)
        for tokens in (1, 40):
            gated(torch.randn(tokens, 48).to(dtype))
large = stack(nn.ReLU(), torch.float32, 512, 2048)
large[2].weight.data = large[2].weight.t().contiguous().t()
large[0].bias -= 2
reluctant.optimize(large)
for tokens in (1, 8, 512):
    large(torch.randn(tokens, 512))
torch.set_grad_enabled(True)
for dtype in (torch.float32, torch.bfloat16):
    for activation in ("relu", "relu2", "reglu"):
        trained = reluctant.FeedForward(48, 200, activation, dropout=0.1).to(dtype)
        with torch.no_grad():
            (trained.gate or trained.up).bias -= 2
        reluctant.optimize(trained)
        reluctant.activity_penalty(trained, 1.0)
        trained(torch.randn(300, 48).to(dtype)).sum().backward()
"""


def _marked(kind: precompile.Kind) -> object:
    rare = kind.read is not None and kind.way != "few tokens"  # minutes, all in all
    return pytest.param(kind, marks=pytest.mark.slow if rare else [])


KINDS = precompile.kinds()


@pytest.mark.parametrize("kind", [_marked(kind) for kind in KINDS], ids=[str(k) for k in KINDS])
def test_every_kind_goes_its_way(kind: precompile.Kind) -> None:
    expected = {"few tokens": "few", "many tokens": "many"}
    expected["many tokens, screened"] = "many" if integer.available() else "dense"
    assert precompile.compile_one(kind) == expected[kind.way]


def test_the_command_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[precompile.Kind] = []
    maps: list[object] = []
    monkeypatch.setattr(precompile, "compile_one", seen.append)
    monkeypatch.setattr(precompile, "compile_maps", maps.append)
    steps: list[tuple[object, bool]] = []
    monkeypatch.setattr(
        precompile, "compile_step", lambda dtype, gated: steps.append((dtype, gated))
    )
    result = CliRunner().invoke(app, ["compile", "--json", str(tmp_path / "x.json")])
    assert result.exit_code == 0, result.output
    assert "all kernels are compiled" in result.stdout
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["kinds"] == precompile.names()
    assert written["folder"] in result.stdout.replace("\n", "")
    assert seen == precompile.kinds()
    assert steps == precompile.STEPS
    assert len(seen) + len(maps) + len(steps) == len(precompile.names())


def test_code_that_can_be_kept_nowhere_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = SimpleNamespace(stats=SimpleNamespace(cache_path=None))
    monkeypatch.setattr(precompile, "run_at", nowhere)
    monkeypatch.setattr(precompile, "compile_one", lambda kind: pytest.fail("it ran"))
    result = CliRunner().invoke(app, ["compile"])
    assert result.exit_code == 2
    assert "NUMBA_CACHE_DIR" in result.stderr


@pytest.mark.slow
def test_what_is_used_afterwards_is_compiled(tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, int]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        subprocess.run([sys.executable, *arguments], env=environment, check=True)
        return {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")}

    compiled = run("-m", "reluctant", "compile")
    assert compiled
    assert run("-c", USED) == compiled
