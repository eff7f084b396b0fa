"""The demo on a few short sentences, its figures checked by other routes."""

import json
from copy import deepcopy
from dataclasses import replace
from math import isnan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reluctant.demo import Result, run_demo
from reluctant.demo.accentor import load, sentences, teacher_forced, written
from reluctant.demo.cached import Cached
from reluctant.demo.decode import decode
from reluctant.demo.layers import record_inputs
from reluctant.demo.logits import compare, largest_difference
from reluctant.errors import ReluctantError

TEXTS = ["Он уехал.", "Замок закрыт.", "Пора!"]


@pytest.fixture(scope="module")
def result() -> Result:
    pytest.importorskip("ruaccent")
    return run_demo(TEXTS, batch_size=2, rounds=1)


@pytest.fixture(scope="module")
def accentor() -> Any:
    pytest.importorskip("ruaccent")
    threads = torch.get_num_threads()
    loaded = load()
    torch.set_num_threads(threads)
    return loaded


def test_corpus() -> None:
    lines = sentences()
    assert len(lines) >= 48
    assert len(set(lines)) == len(lines)  # the accentor remembers what it has answered
    for line in lines:
        assert 10 <= len(line) <= 200
        assert line == line.strip()
        assert not set(line) & set("'+́"), "stress marks are what the model puts in"
        assert any("а" <= letter <= "я" for letter in line)


def test_corpus_is_in_the_models_alphabet(accentor: Any) -> None:
    assert set("".join(sentences())) <= accentor.vocab.keys()


def test_answers_do_not_change(result: Result) -> None:
    assert result.identical
    assert result.unchanged
    assert (
        0 <= result.max_logit_diff <= 1e-5 * result.forced.scale + 2 * result.forced.eager.largest
    )
    for text, marked in zip(TEXTS, result.texts["engine"], strict=True):
        assert marked.replace("'", "") == text
        assert marked != text


def test_every_layer_is_seen_and_its_calls_are_those_of_decoding(result: Result) -> None:
    names = [f"transformer.{side}.layers.{i}" for side in ("encoder", "decoder") for i in range(4)]
    assert [layer.name for layer in result.layers] == names
    # A batch is decoded until its longest sentence has ended; one step more for the end itself.
    marked = result.texts["eager"]
    steps = max(map(len, marked[:2])) + 1 + len(marked[2]) + 1
    for layer in result.layers:
        encoder = ".encoder." in layer.name
        assert sum(layer.calls.values()) == (2 if encoder else steps)
        assert layer.typical.tokens == (256 if encoder else layer.typical.tokens)
        assert layer.one.tokens == 1
        assert 0 < layer.text.active <= layer.text.candidates < layer.text.active + 0.02
        assert (layer.padding is not None) == encoder


def test_json(result: Result) -> None:
    figures = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert figures["sentences"] == len(TEXTS)
    assert figures["seconds"].keys() == {"eager", "dense", "engine"}
    assert figures["transformer"]["identical"] is True
    assert figures["transformer"]["seconds"].keys() == {"original", "dense", "engine"}
    assert figures["transformer"]["calls"].keys() == {"few", "many", "dense"}
    for layer in figures["layers"]:
        keys = {"name", "active", "candidates", "dense_us", "sparse_us", "calls"}
        assert keys <= layer.keys()
        assert layer["calls"].keys() == {"few", "many", "dense"}


def test_second_act(result: Result) -> None:
    act = result.transformer
    assert act.identical
    assert act.texts["original"] == result.texts["eager"]
    assert act.seconds["original"] == result.seconds["eager"]
    assert len(act.texts["engine"]) == len(TEXTS)
    # One call a layer for each batch's encoder, and one for each step: of one token a sentence.
    marked = result.texts["eager"]
    steps = max(map(len, marked[:2])) + 1 + len(marked[2]) + 1
    assert sum(act.calls.values()) == 4 * 2 + 4 * steps
    sparse = act.calls["few"] + act.calls["many"]
    assert sparse >= 4 * (steps - 4)  # after <s>, a layer may have too many active


@pytest.mark.parametrize("name", ["dense", "engine"])
def test_one_text_that_differs_is_not_identical(result: Result, name: str) -> None:
    texts = result.transformer.texts
    other = replace(result.transformer, texts=texts | {name: [*texts[name][:-1], "Пора!"]})
    assert not other.identical
    assert not replace(result, transformer=other).unchanged


def test_the_cached_accentor_takes_batches_and_has_weights_of_its_own(
    result: Result, accentor: Any
) -> None:
    before = deepcopy(accentor.model.state_dict())
    cached = Cached(accentor)
    assert cached(TEXTS, batch_size=2) == result.texts["eager"]
    assert cached([], batch_size=2) == []
    with torch.no_grad():
        cached.model.output_proj.bias[accentor.vocab["'"]] = -torch.inf
    assert "'" not in "".join(cached(TEXTS, batch_size=3))
    assert all(torch.equal(before[name], w) for name, w in accentor.model.state_dict().items())


def test_written_is_what_the_package_writes(accentor: Any) -> None:
    vocab = accentor.vocab
    a, b, end = vocab["а"], vocab["'"], vocab["</s>"]
    for ids in ([a, b, end, a], [vocab["<s>"], a, vocab["<pad>"], b, vocab["<unk>"]], [end], [a]):
        assert written(accentor, ids) == accentor._tensor_to_text(torch.tensor(ids))


def test_active_is_what_torch_counts(result: Result, accentor: Any) -> None:
    names = [layer.name for layer in result.layers]
    inputs = record_inputs(accentor, names, TEXTS, result.texts["eager"])
    for layer in result.layers:
        up = accentor.model.get_submodule(layer.name).linear1
        rows, text, padding = inputs[layer.name]
        assert layer.text.active == pytest.approx(share(up(text) > 0), abs=1e-5)
        if padding is not None:
            assert len(text) == sum(map(len, TEXTS)) + 2 * len(TEXTS)
            assert len(text) + len(padding) == len(rows) == 256 * len(TEXTS)
            assert layer.padding is not None
            assert layer.padding.active == pytest.approx(share(up(padding) > 0), abs=1e-5)


def share(fires: Tensor) -> float:
    return float(fires.float().mean())


def test_teacher_forcing_repeats_decoding(accentor: Any) -> None:
    """Logits and layer inputs, recorded at the last position of each step of real decoding."""
    text = TEXTS[0]
    layer = accentor.model.transformer.decoder.layers[2]
    seen: list[Tensor] = []
    hook = layer.linear1.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
    decoded = decode({"eager": accentor}, [[text]])["eager"]
    hook.remove()
    (answer,) = decoded.texts
    with torch.no_grad():
        logits = teacher_forced(accentor, text, answer)[0]
    name = "transformer.decoder.layers.2"
    inputs = record_inputs(accentor, [name], [text], [answer])[name].rows
    torch.testing.assert_close(torch.cat(decoded.logits[0]), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(seen), inputs, atol=1e-4, rtol=1e-4)


def test_an_engine_that_is_less_true_shows(accentor: Any, result: Result) -> None:
    """The same model with one weight of 64 rounded to bfloat16 stands for a wrong engine."""
    wrong, exact = deepcopy(accentor), deepcopy(accentor)
    exact.model.double()
    with torch.no_grad():
        weight = wrong.model.transformer.decoder.layers[0].linear2.weight
        weight[:, ::64] = weight[:, ::64].bfloat16().float()
    forced = compare(accentor, wrong, exact, TEXTS, result.texts["eager"])
    assert forced.engine.rms > 1.5 * forced.eager.rms
    assert forced.apart > forced.eager.largest
    assert not replace(result, forced=forced).unchanged


class Echo:
    """An accentor that writes down who was called, and answers with logits of its own."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.model = SimpleNamespace(output_proj=nn.Identity())

    def clear_cache(self) -> None:
        self.log.append("clear")

    def __call__(self, texts: list[str], batch_size: int) -> list[str]:
        assert batch_size == len(texts)
        self.log.append(self.name)
        self.model.output_proj(torch.zeros(1, 2))
        return [text.upper() for text in texts]


def test_each_batch_is_decoded_by_all_who_begin_in_turn() -> None:
    log: list[str] = []
    batches: list[int] = []
    accentors = {name: Echo(name, log) for name in "abc"}
    decoded = decode(accentors, [["x"], ["y", "z"]], lambda: batches.append(len(log)))
    assert [name for name in log if name != "clear"] == [*"abc", *"bca"]
    assert log[::2] == ["clear"] * 6
    assert batches == [6, 12]
    for each in decoded.values():
        assert each.texts == ["X", "Y", "Z"]
        assert [len(steps) for steps in each.logits] == [1, 1]


def test_largest_difference() -> None:
    a = torch.tensor([[0.0, 1.0]])
    other = torch.tensor([[2.0, 1.0]])  # another answer: later steps have other inputs
    nan = torch.tensor([[0.0, torch.nan]])
    assert largest_difference([[a, a]], [[a, a + 0.125]]) == 0.125
    assert largest_difference([[a, a]], [[a + 0.5, a]]) == 0.5
    assert largest_difference([[a, a, a]], [[a, other, a + 100]]) == 2.0
    assert largest_difference([[a], [a]], [[a], [a + 0.25]]) == 0.25
    assert isnan(largest_difference([[a, nan]], [[a, a]]))
    assert isnan(largest_difference([[nan], [a]], [[a], [a]]))


@pytest.mark.parametrize(("texts", "batch_size"), [([], 1), (["Да."], 0)])
def test_nothing_to_do(texts: list[str], batch_size: int) -> None:
    with pytest.raises(ReluctantError, match="batch size"):
        run_demo(texts, batch_size=batch_size)
