"""What is loaded when: nothing heavy for help, nothing that needs Numba for plain torch."""

import subprocess
import sys

import pytest

import reluctant
from reluctant.errors import ReluctantError
from reluctant.missing import numba_for

WITHOUT_NUMBA = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None\n"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import reluctant; dir(reluctant); assert reluctant.__version__",
        "from reluctant import ReluctantError, ReluctantWarning",
        "from reluctant.cli import app; app(['--help'], standalone_mode=False)",
        "from reluctant.cli import app; app(['bench', '--help'], standalone_mode=False)",
    ],
)
def test_torch_and_numba_are_not_loaded(code: str) -> None:
    heavy = "('torch', 'numba', 'numpy', 'ruaccent', 'onnxruntime', 'openvino', 'reluctant.demo')"
    found = python(f"{code}\nimport sys; print([m for m in {heavy} if m in sys.modules])")
    assert found.splitlines()[-1] == "[]"


def test_numba_is_not_needed() -> None:
    code = """
import torch, reluctant, reluctant.transformer as t
print(reluctant.activation_names(), reluctant.thresholded_relu(0.5))
layer = reluctant.FeedForward(8, 16, "swiglu")
layer(torch.randn(2, 8)).sum().backward()
model = t.Transformer(t.TransformerConfig(20, d_model=16, heads=2, d_ff=32)).eval()
t.greedy(model, torch.tensor([[3, 4, 5]]), max_length=4)
from reluctant.cli import app
app(["--help"], standalone_mode=False)
"""
    python(WITHOUT_NUMBA + code)


def test_every_public_name_is_there_and_no_other() -> None:
    for name in reluctant.__all__:
        assert getattr(reluctant, name) is getattr(reluctant, name)
    assert {*reluctant.__all__, "surgery", "transformer"} <= set(dir(reluctant))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        reluctant.optimise  # noqa: B018
    assert not hasattr(reluctant, "cli_that_is_not")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reluctant", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"reluctant {reluctant.__version__}"


def test_what_needs_numba_says_so() -> None:
    """In one line, by its name, with the mend; commands exit with 2."""
    code = """
import reluctant
from typer.testing import CliRunner
from reluctant.cli import app
for name in ("optimize", "restore", "refresh", "Report", "Entry", "surgery"):
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
    python(WITHOUT_NUMBA + code)


def test_numbas_own_refusal_is_passed_on_and_nothing_else_is_called_numbas() -> None:
    with (
        pytest.raises(ReluctantError, match=r"Numba needs NumPy 2\.4 or less"),
        numba_for("this"),
    ):
        raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.9.")
    with pytest.raises(ImportError, match="einops"), numba_for("this"):
        raise ModuleNotFoundError("No module named 'einops'", name="einops")
