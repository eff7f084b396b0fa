"""`reluctant optimize` on what it cannot or must not load: one line, exit code 2, nothing run."""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Config, T5EncoderModel, ViTConfig, ViTModel
from typer.testing import CliRunner, Result

from reluctant.cli import app
from reluctant.whole.load import load

RAN: list[str] = []  # what must not be run adds to it


@pytest.fixture(autouse=True)
def nothing_has_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    RAN.clear()
    yield
    RAN.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8, architectures=None
    )
    T5EncoderModel(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(tmp_path: Path, *arguments: str) -> str:
    """Run the command, which has to refuse; gives what it says."""
    out = tmp_path / "out.json"
    before = sorted(tmp_path.rglob("*"))
    result: Result = CliRunner().invoke(app, ["optimize", *arguments, "--json", str(out)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    said = result.stderr.strip()
    assert said.startswith("reluctant: ")
    assert "\n" not in said
    assert sorted(tmp_path.rglob("*")) == before
    return said


def edit(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | changes))


def test_no_such_folder(tmp_path: Path) -> None:
    assert "there is none" in refused(tmp_path, str(tmp_path / "no"))


def test_folder_without_config(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refused(tmp_path, str(folder))


def test_broken_config(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    assert "cannot be loaded" in refused(tmp_path, str(folder))


def test_unknown_type_of_model(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", model_type="no-such-type", architectures=["NoSuchModel"])
    assert "no-such-type" in refused(tmp_path, str(folder))


def test_no_weights(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(tmp_path, str(folder))


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(folder: Path, tmp_path: Path, kept: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    assert "cannot be loaded" in refused(tmp_path, str(folder))


def test_missing_weights(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.block.0.layer.1.DenseReluDense.wo.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert "lacks 1 weights" in refused(tmp_path, str(folder))


def test_weights_of_another_shape(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", d_ff=48)
    assert "cannot be loaded" in refused(tmp_path, str(folder))


def run(what: str) -> None:
    RAN.append(what)


class Evil:
    def __reduce__(self) -> Any:
        return run, ("pickle",)


def test_pickles_are_not_run(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    tensors: dict[str, Any] = load_file(file)
    file.unlink()
    torch.save(tensors | {"evil": Evil()}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refused(tmp_path, str(folder))
    assert not RAN
    pickle.loads(pickle.dumps(Evil()))
    assert RAN == ["pickle"]  # it would have


def test_bare_tensors_of_torch_are_read(folder: Path) -> None:
    file = folder / "model.safetensors"
    torch.save(load_file(file), folder / "pytorch_model.bin")
    wanted = T5EncoderModel.from_pretrained(folder).state_dict()
    file.unlink()
    found = load(str(folder)).model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


CODE = """
import test_optimize_command_load as tests
tests.run("code of the folder")
from transformers import T5Config, T5EncoderModel
class OwnConfig(T5Config):
    model_type = "own"
class OwnModel(T5EncoderModel):
    config_class = OwnConfig
"""
OWN = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}


@pytest.mark.parametrize("model_type", ["own", "t5"])
def test_code_of_a_folder_is_not_run(folder: Path, tmp_path: Path, model_type: str) -> None:
    (folder / "own.py").write_text(CODE)
    edit(folder / "config.json", model_type=model_type, architectures=["OwnModel"], auto_map=OWN)
    assert "--trust-remote-code" in refused(tmp_path, str(folder))
    assert not RAN


def test_code_of_a_tokenizer_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "own.py").write_text(CODE)
    (folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["own.A", null]}}'
    )
    assert "--trust-remote-code" in refused(tmp_path, str(folder))
    assert not RAN


@pytest.mark.filterwarnings("ignore")
def test_code_of_a_folder_runs_if_trusted(folder: Path) -> None:
    (folder / "own.py").write_text(CODE)
    edit(folder / "config.json", model_type="own", architectures=["OwnModel"], auto_map=OWN)
    assert type(load(str(folder), trust_remote_code=True).model).__name__ == "OwnModel"
    assert RAN == ["code of the folder"]


def test_hub_name_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "nobody/nothing cannot be loaded" in refused(tmp_path, "nobody/nothing")


def test_no_name_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(tmp_path, "not a name")
    refused(tmp_path, "")


def test_without_transformers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'reluctant[hf]'" in refused(tmp_path, str(folder))


# Factories


def raises() -> nn.Module:
    raise RuntimeError("no\nluck")


def text() -> str:
    return "no model"


def without_inputs() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


def without_tensors() -> Any:
    return without_inputs(), {"n": 3}


def wrong_inputs() -> Any:
    return without_inputs(), torch.zeros(2, 9)


def without_feed_forward() -> Any:
    return nn.Linear(4, 4), torch.zeros(2, 4)


def takes_pictures() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "image_size": 8, "patch_size": 4}
    return ViTModel(ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))


def encoder() -> nn.Module:
    return T5EncoderModel(
        T5Config(vocab_size=40, d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8)
    ).eval()


NOT_A_MODEL = 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:factory", "ModuleNotFoundError"),
        (".:factory", "gave no model"),
        (":factory", "gave no model"),
        ("test_optimize_command_load:", "gave no model"),
        ("test_optimize_command_load:no_such", "AttributeError"),
        ("test_optimize_command_load:NOT_A_MODEL", "not callable"),
        ("test_optimize_command_load:raises", "RuntimeError: no luck"),
        ("test_optimize_command_load:text", "got str"),
        ("test_optimize_command_load:without_inputs", "takes no token ids"),
        ("test_optimize_command_load:takes_pictures", "takes no token ids"),
        ("test_optimize_command_load:without_tensors", "tensors"),
        ("test_optimize_command_load:wrong_inputs", "does not run"),
        ("test_optimize_command_load:without_feed_forward", "no feed-forward layer"),
    ],
)
def test_factories_that_give_no_model(tmp_path: Path, name: str, says: str) -> None:
    assert says in refused(tmp_path, name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt", "a", "--tokens", "3"], "got both"),
        (["--prompt", "a"], "no tokenizer"),
        (["--tokens", "0"], "--tokens"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, arguments: list[str], says: str) -> None:
    name = "test_optimize_command_load:encoder"
    result = CliRunner().invoke(app, ["optimize", name, *arguments])
    assert result.exit_code == 2
    assert says in result.stderr


def test_the_users_own_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_only.py").write_text(
        "from torch import nn\n\nclass Made:\n    make = staticmethod(lambda: nn.Linear(2, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = sys.path.copy()
    assert isinstance(load("mine_only:Made.make").model, nn.Linear)
    assert sys.path == path
    del sys.modules["mine_only"]


def test_dtype_and_eval_mode(folder: Path) -> None:
    model = load(str(folder), dtype=torch.bfloat16).model
    assert not model.training
    assert next(model.parameters()).dtype == torch.bfloat16
    assert type(model) is T5EncoderModel
