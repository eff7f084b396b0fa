"""What is imported when, and what works where Numba is not installed."""

import subprocess
import sys

import pytest

import reluctant
from reluctant.errors import ReluctantError
from reluctant.missing import numba_for


def run_without(modules: tuple[str, ...], code: str) -> str:
    """What the code prints in a process of its own in which these modules cannot be imported."""
    halted = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
    command = [sys.executable, "-W", "error", "-c", halted + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_and_help_need_neither_torch_nor_numba() -> None:
    code = """
import reluctant
assert issubclass(reluctant.ReluctantError, ValueError)
assert reluctant.ReluctantWarning and reluctant.__version__
assert set(reluctant.__all__) < set(dir(reluctant))
from reluctant.cli import app
app(["--help"], standalone_mode=False)
app(["bench", "--help"], standalone_mode=False)
"""
    heavy = ("torch", "numpy", "numba", "llvmlite", "matplotlib", "transformers")
    assert "--densities" in run_without(heavy, code)


def test_plain_layers_need_no_numba() -> None:
    code = """
import torch, reluctant
from reluctant.transformer import Transformer, TransformerConfig, greedy
x = torch.ones(2, 8)
assert reluctant.FeedForward(8, activation="swiglu")(x).shape == x.shape
assert reluctant.FeedForward(8, activation=reluctant.thresholded_relu(0.5))(x).shape == x.shape
assert "relu" in reluctant.activation_names()
config = TransformerConfig(20, d_model=16, heads=2, encoder_layers=1, decoder_layers=1)
assert len(greedy(Transformer(config).eval(), torch.tensor([[3, 4]]), max_length=3)) == 1
"""
    run_without(("numba", "llvmlite"), code)


def test_what_needs_numba_says_so() -> None:
    code = """
import reluctant
from typer.testing import CliRunner
from reluctant.cli import app
for name in ("optimize", "restore", "refresh", "Report", "Entry"):
    try:
        getattr(reluctant, name)
    except reluctant.ReluctantError as error:
        assert str(error).startswith(f"reluctant.{name} needs Numba"), error
        assert "pip install numba" in str(error)
    else:
        raise AssertionError(name)
for command in (["optimize", "nowhere"], ["bench", "--quick"], ["demo"]):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result
    assert "pip install numba" in result.stderr and "Traceback" not in result.stderr, result.stderr
"""
    run_without(("numba", "llvmlite"), code)


def test_numbas_own_refusal_is_passed_on_and_nothing_else_is_called_numbas() -> None:
    with (
        pytest.raises(ReluctantError, match=r"Numba needs NumPy 2\.4 or less"),
        numba_for("this"),
    ):
        raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.9.")
    with pytest.raises(ImportError, match="einops"), numba_for("this"):
        raise ModuleNotFoundError("No module named 'einops'", name="einops")


def test_names() -> None:
    for name in reluctant.__all__:
        assert getattr(reluctant, name) is getattr(reluctant, name)
    assert reluctant.optimize.__name__ == "optimize"
    assert reluctant.activations.names is reluctant.activation_names
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = reluctant.optimise  # type: ignore[attr-defined]
