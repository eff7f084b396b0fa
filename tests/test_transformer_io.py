"""save and load: what comes back, and what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reluctant
from reluctant import files
from reluctant.activations import thresholded_relu
from reluctant.errors import ReluctantError
from reluctant.transformer import Transformer, TransformerConfig, load, save

safetensors = pytest.importorskip("safetensors.torch")
SOURCE, TARGET = torch.tensor([[5, 7, 4, 9, 0]]), torch.tensor([[1, 4, 3]])


def build(dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "source_vocab": 12}
    sizes |= {"d_model": 16, "heads": 4, "d_ff": 64}
    return Transformer(TransformerConfig(**(sizes | options))).to(dtype).eval()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned", "max_positions": 7, "norm_first": True, "bias": False},
        {"positions": "fixed", "target_vocab": 9, "tied": False, "output_bias": True},
        {"activation": "reglu", "pad": None, "target_vocab": 12},
    ],
    ids=str,
)
def test_comes_back_bit_for_bit(
    options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    model = build(dtype, **options)
    if options.get("positions") == "fixed":
        nn.init.normal_(model.input_positions.table)
    save(model, tmp_path / "new" / "model")
    back = load(tmp_path / "new" / "model")
    assert back.config == model.config
    assert not back.training
    assert torch.equal(back(SOURCE, TARGET), model(SOURCE, TARGET))
    assert (back.linear.weight is back.output_embedding.weight) == model.config.tied
    names = sorted(path.name for path in (tmp_path / "new" / "model").iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_saves_under_engines_with_shared_weights_once(tmp_path: Path) -> None:
    model = build()
    before = model(SOURCE, TARGET)
    reluctant.optimize(model)
    down = model.decoder.layers[0].feed_forward.down  # safetensors takes contiguous tensors only
    down.weight = nn.Parameter(down.weight.detach().t().contiguous().t())
    assert not down.weight.is_contiguous()
    save(model, tmp_path)
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    assert len(tensors) == len(list(model.parameters()))  # which names the tied ones once, too
    assert torch.equal(load(tmp_path)(SOURCE, TARGET), before)


def test_a_save_that_fails_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(model := build(seed=1), tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ReluctantError, match="No space"):
        save(build(seed=2), tmp_path)
    assert torch.equal(load(tmp_path)(SOURCE, TARGET), model(SOURCE, TARGET))


def test_dropout_may_be_edited_by_hand(tmp_path: Path) -> None:
    save(build(), tmp_path)
    edit(tmp_path, lambda config: config.update(dropout=0.3))
    assert load(tmp_path).config.dropout == 0.3


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(norm_first=True), "saved with another norm_first"),  # no shape tells
        (lambda c: c.update(heads=2, d_ff=32), "saved with another heads, d_ff"),
        (lambda c: c.update(heads=3), "a divisor of d_model=16"),
        (lambda c: c.update(layers=3), "config.json is not a TransformerConfig.*layers"),
        (lambda c: c.pop("source_vocab"), "config.json is not a TransformerConfig.*source_vocab"),
        (lambda c: c.pop("pad"), None),
    ],
)
def test_config_has_to_be_the_weights_own(
    change: Callable[[dict[str, Any]], object], message: str | None, tmp_path: Path
) -> None:
    save(build(), tmp_path)
    edit(tmp_path, change)
    if message is None:
        message = "saved with another pad"
    with pytest.raises(ReluctantError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layers.0.feed_forward.up.bias"), "only one of them has encoder"),
        (lambda t: t.update(extra=torch.zeros(1)), "only one of them has extra"),
        (
            lambda t: t.update({"encoder.layers.0.feed_forward.up.bias": torch.zeros(63)}),
            r"size mismatch for encoder.layers.0.feed_forward.up.bias.*\[63\]",
        ),
        (
            lambda t: t.update({"encoder.layers.0.feed_forward.up.bias": torch.zeros(64).half()}),
            "not of one floating dtype",
        ),
        (lambda t: t.clear(), "not of one floating dtype"),
    ],
)
def test_weights_have_to_fit_the_config(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    save(build(), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.load_file(file)
    change(tensors)
    safetensors.save_file(tensors, file)  # without the config: another program's file
    with pytest.raises(ReluctantError, match=f"(?s){message}"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04no pickle is read."])
def test_missing_and_broken_files(name: str, content: bytes | None, tmp_path: Path) -> None:
    save(build(), tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReluctantError, match=r"expected config\.json and model\.safetensors"):
        load(tmp_path)


def test_config_that_is_json_but_no_object(tmp_path: Path) -> None:
    save(build(), tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ReluctantError, match="is not a TransformerConfig"):
        load(tmp_path)


def test_an_activation_needs_a_name_that_is_known(tmp_path: Path) -> None:
    activation = thresholded_relu(0.3125)
    model = build(activation=activation)
    with pytest.raises(ReluctantError, match=r"reluctant\.register_activation"):
        save(model, tmp_path)
    save(build(activation=thresholded_relu()), tmp_path)
    assert load(tmp_path).config.activation == "thresholded_relu"


def test_names_the_command_when_safetensors_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ReluctantError, match=r"pip install 'reluctant\[hf\]'"):
        save(build(), tmp_path)
    with pytest.raises(ReluctantError, match=r"pip install 'reluctant\[hf\]'"):
        load(tmp_path)
