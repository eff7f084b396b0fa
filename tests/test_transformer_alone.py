"""`reluctant.transformer` where Numba cannot be had: plain torch, all of it."""

import subprocess
import sys

import pytest

pytest.importorskip("safetensors.torch")

PROGRAM = """
import sys, tempfile

for name in ("numba", "llvmlite"):
    sys.modules[name] = None  # importing it raises

import torch
from torch import nn
from reluctant.transformer import Transformer, TransformerConfig, beam_search, greedy, load, save

config = TransformerConfig(20, d_model=16, heads=2, d_ff=32, encoder_layers=1, decoder_layers=1)
model = Transformer(config).eval()
source = torch.randint(3, 20, (2, 5))
tokens, best = greedy(model, source, max_length=4), beam_search(model, source, max_length=4)
assert len(tokens) == len(best.tokens) == 2
with tempfile.TemporaryDirectory() as folder:
    save(model, folder)
    assert torch.equal(greedy(load(folder), source, max_length=4), tokens)
theirs = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
Transformer.from_torch(theirs, nn.Embedding(20, 16))(source, source).sum().backward()
heavy = [name for name in sys.modules if name.startswith(("reluctant.kernels", "reluctant.engine"))]
assert set(heavy) <= {"reluctant.kernels", "reluctant.kernels.codes"}, heavy
assert not any(name.startswith("reluctant.surgery") for name in sys.modules)
"""


def test_needs_no_numba_and_no_engine() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore:enable_nested_tensor",
            "-c",
            PROGRAM,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
