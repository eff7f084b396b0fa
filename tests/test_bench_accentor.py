"""The trained model that the benchmark measures on: its text, and what its layers are given."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from reluctant.bench import accentor as package
from reluctant.bench import real
from reluctant.bench.accentor.inputs import record_inputs
from reluctant.bench.accentor.package import teacher_forced
from reluctant.errors import ReluctantError

TEXTS = ["Он уехал.", "Замок закрыт.", "Пора!"]
NAMES = [f"transformer.{side}.layers.{i}" for side in ("encoder", "decoder") for i in range(4)]


@pytest.fixture(scope="module")
def accentor() -> Any:
    pytest.importorskip("ruaccent")
    threads = torch.get_num_threads()
    loaded = package.load()
    torch.set_num_threads(threads)
    return loaded


def test_corpus() -> None:
    lines = package.sentences()
    assert len(lines) >= 48
    assert len(set(lines)) == len(lines)
    for line in lines:
        assert 10 <= len(line) <= 200
        assert line == line.strip()
        assert not set(line) & set("'+́"), "stress marks are what the model puts in"
        assert any("а" <= letter <= "я" for letter in line)


def test_some_sentences_are_real_ones_of_all_of_the_corpus() -> None:
    lines = package.sentences()
    for count in (1, 2, 8, 47, 48, 100):
        some = package.sentences(count)
        assert len(set(some)) == len(some) == min(count, len(lines))
        assert some == [line for line in lines if line in some]
    authors = len(lines) // 8
    eight = set(package.sentences(8))
    assert all(eight & set(lines[i : i + authors]) for i in range(0, 48, authors))


def test_corpus_is_in_the_models_alphabet(accentor: Any) -> None:
    assert set("".join(package.sentences())) <= accentor.vocab.keys()


def test_inputs_are_those_of_decoding(accentor: Any) -> None:
    """What the last position of each step of the package's own decoding was given, and gave."""
    text = TEXTS[0]
    layer = accentor.model.transformer.decoder.layers[2]
    seen: list[Tensor] = []
    gave: list[Tensor] = []
    hooks = [
        layer.linear1.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1])),
        accentor.model.output_proj.register_forward_hook(lambda _, args, y: gave.append(y)),
    ]
    accentor.clear_cache()
    (answer,) = accentor([text], batch_size=1)
    for hook in hooks:
        hook.remove()
    name = "transformer.decoder.layers.2"
    inputs = record_inputs(accentor, [name], [text], [answer])[name]
    torch.testing.assert_close(torch.stack(seen), inputs, atol=1e-4, rtol=1e-4)
    logits = teacher_forced(accentor, text, answer)
    torch.testing.assert_close(torch.cat(gave), logits[0].detach(), atol=1e-4, rtol=1e-4)


def test_inputs_are_those_of_the_text_alone(accentor: Any) -> None:
    """The encoder's with its two special tokens, as torch gives them without the padding's."""
    inputs = record_inputs(accentor, NAMES, TEXTS, TEXTS)
    assert list(inputs) == NAMES
    for name, rows in inputs.items():
        special = 2 if ".encoder." in name else 1
        assert rows.shape == (sum(len(text) + special for text in TEXTS), 256)
    embedded = accentor.model.embed(torch.cat([package.source(accentor, t) for t in TEXTS]))
    layer = accentor.model.transformer.encoder.layers[0]
    given: list[Tensor] = []
    hook = layer.linear1.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    layer.train()  # torch's own path through `linear1`
    for dropout in (d for d in layer.modules() if isinstance(d, torch.nn.Dropout)):
        dropout.eval()
    layer.self_attn.eval()
    layer(embedded)
    layer.eval()
    hook.remove()
    texts = [given[0][i, : len(text) + 2] for i, text in enumerate(TEXTS)]
    torch.testing.assert_close(inputs[NAMES[0]], torch.cat(texts).detach(), atol=1e-4, rtol=1e-4)


def test_layers_are_the_models_and_take_stretches_of_its_text(accentor: Any) -> None:
    threads = torch.get_num_threads()
    layers, recorded = real.layers()
    assert torch.get_num_threads() == threads
    assert len(layers) == len(recorded) == 8
    for layer, name in zip(layers, NAMES, strict=True):
        theirs = accentor.model.get_submodule(name)
        x = recorded[0][:5]
        torch.testing.assert_close(layer(x), theirs.linear2(theirs.linear1(x).relu()))
    rows = recorded[7]
    several = real.inputs(7, 10, 4)
    assert [each.shape for each in several] == [(10, 256)] * 4
    assert torch.equal(several[0], rows[:10])
    long = len(rows) + 3  # goes over the text again
    assert torch.equal(real.inputs(7, long, 1)[0][len(rows) :], rows[:3])


def test_a_missing_package_names_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruaccent", None)
    with pytest.raises(ReluctantError, match="pip install --no-deps ruaccent-predictor"):
        package.load()
