"""The demo on a few short sentences, its figures checked by other routes; and its command."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import reluctant.demo
from reluctant.cli import app
from reluctant.demo import Result, run_demo
from reluctant.demo.accentor import load, sentences, teacher_forced, written
from reluctant.demo.cached import Cached
from reluctant.demo.decode import decode
from reluctant.demo.layers import Layer, record_inputs
from reluctant.demo.logits import Error, Forced, compare
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


def test_some_sentences_are_real_ones_of_all_of_the_corpus() -> None:
    lines = sentences()
    for count in (1, 2, 8, 47, 48, 100):
        some = sentences(count)
        assert len(set(some)) == len(some) == min(count, len(lines))
        assert some == [line for line in lines if line in some]
    authors = len(lines) // 8
    assert all(set(sentences(8)) & set(lines[i : i + authors]) for i in range(0, 48, authors))


def test_corpus_is_in_the_models_alphabet(accentor: Any) -> None:
    assert set("".join(sentences())) <= accentor.vocab.keys()


def test_answers_do_not_change(result: Result) -> None:
    assert result.identical
    assert result.unchanged
    assert 0 < result.forced.engine.rms <= 1.5 * result.forced.cached.rms
    assert result.texts.keys() == result.seconds.keys() == {"package", "cached", "engine"}
    for text, marked in zip(TEXTS, result.texts["engine"], strict=True):
        assert marked.replace("'", "") == text
        assert marked != text


def test_every_layer_is_seen_and_its_calls_are_those_of_decoding(result: Result) -> None:
    names = [f"transformer.{side}.layers.{i}" for side in ("encoder", "decoder") for i in range(4)]
    assert [layer.name for layer in result.layers] == names
    # A batch is decoded until its longest sentence has ended; one step more for the end itself.
    marked = result.texts["package"]
    steps = max(map(len, marked[:2])) + 1 + len(marked[2]) + 1
    for layer in result.layers:
        encoder = ".encoder." in layer.name
        assert sum(layer.calls.values()) == (2 if encoder else steps)
        assert layer.tokens == (512 if encoder else 2)
        assert 0 < layer.active <= layer.candidates < layer.active + 0.02
        assert min(layer.eager_us, layer.engine_us) > 0
    assert sum(result.calls.values()) == 4 * 2 + 4 * steps


def test_json(result: Result) -> None:
    figures = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert figures["sentences"] == len(TEXTS)
    assert figures["identical"] is True
    assert figures["seconds"].keys() == {"package", "cached", "engine"}
    assert figures["calls"].keys() == {"few", "many", "dense"}
    for layer in figures["layers"]:
        assert {"name", "active", "candidates", "tokens", "eager_us", "engine_us"} <= layer.keys()


def test_the_cached_accentor_takes_batches_and_has_weights_of_its_own(
    result: Result, accentor: Any
) -> None:
    before = deepcopy(accentor.model.state_dict())
    cached = Cached(accentor)
    assert cached(TEXTS, batch_size=2) == result.texts["package"]
    assert cached([], batch_size=2) == []
    with torch.no_grad():
        cached.transformer.linear.bias[accentor.vocab["'"]] = -torch.inf
    assert "'" not in "".join(cached(TEXTS, batch_size=3))
    assert all(torch.equal(before[name], w) for name, w in accentor.model.state_dict().items())


def test_written_is_what_the_package_writes(accentor: Any) -> None:
    vocab = accentor.vocab
    a, b, end = vocab["а"], vocab["'"], vocab["</s>"]
    for ids in ([a, b, end, a], [vocab["<s>"], a, vocab["<pad>"], b, vocab["<unk>"]], [end], [a]):
        assert written(accentor, ids) == accentor._tensor_to_text(torch.tensor(ids))


def test_active_is_what_torch_counts(result: Result, accentor: Any) -> None:
    names = [layer.name for layer in result.layers]
    inputs = record_inputs(accentor, names, TEXTS, result.texts["package"])
    for layer in result.layers:
        up = accentor.model.get_submodule(layer.name).linear1
        rows, text = inputs[layer.name]
        assert layer.active == pytest.approx(float((up(text) > 0).float().mean()), abs=1e-5)
        if ".encoder." in layer.name:
            assert len(text) == sum(map(len, TEXTS)) + 2 * len(TEXTS)
            assert len(rows) == 256 * len(TEXTS)


def test_inputs_and_scores_are_those_of_decoding(accentor: Any) -> None:
    """What the last position of each step of the package's own decoding was given, and gave."""
    text = TEXTS[0]
    layer = accentor.model.transformer.decoder.layers[2]
    seen: list[Tensor] = []
    gave: list[Tensor] = []
    hooks = [
        layer.linear1.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1])),
        accentor.model.output_proj.register_forward_hook(lambda _, args, y: gave.append(y)),
    ]
    (answer,) = decode({"package": accentor}, [[text]])["package"].texts
    for hook in hooks:
        hook.remove()
    name = "transformer.decoder.layers.2"
    inputs = record_inputs(accentor, [name], [text], [answer])[name].rows
    torch.testing.assert_close(torch.stack(seen), inputs, atol=1e-4, rtol=1e-4)
    for logits in (teacher_forced(accentor, text, answer), Cached(accentor).scores(text, answer)):
        torch.testing.assert_close(torch.cat(gave), logits[0].detach(), atol=1e-4, rtol=1e-4)


def test_an_engine_that_is_less_true_shows(accentor: Any, result: Result) -> None:
    """The same model with one weight of 64 rounded to bfloat16 stands for a wrong engine."""
    right, wrong = Cached(accentor), Cached(accentor)
    with torch.no_grad():
        weight = wrong.transformer.decoder.layers[0].feed_forward.down.weight
        weight[:, ::64] = weight[:, ::64].bfloat16().float()
    forced = compare(right, wrong, TEXTS, result.texts["package"])
    assert forced.engine.rms > 1.5 * forced.cached.rms
    assert not replace(result, forced=forced).unchanged


class Echo:
    """An accentor that writes down who was called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def clear_cache(self) -> None:
        self.log.append("clear")

    def __call__(self, texts: list[str], batch_size: int) -> list[str]:
        assert batch_size == len(texts)
        self.log.append(self.name)
        return [text.upper() for text in texts]


def test_each_batch_is_decoded_by_all_who_begin_in_turn() -> None:
    log: list[str] = []
    batches: list[int] = []
    accentors = {name: Echo(name, log) for name in "abc"}
    decoded = decode(accentors, [["x"], ["y", "z"]], lambda: batches.append(len(log)))
    assert [name for name in log if name != "clear"] == [*"abc", *"bca"]
    assert log[::2] == ["clear"] * 6
    assert batches == [6, 12]
    assert all(each.texts == ["X", "Y", "Z"] for each in decoded.values())


@pytest.mark.parametrize(("texts", "batch_size"), [([], 1), (["Да."], 0)])
def test_nothing_to_do(texts: list[str], batch_size: int) -> None:
    with pytest.raises(ReluctantError, match="batch size"):
        run_demo(texts, batch_size=batch_size)


def made_up(
    engine: float = 1.0, rms: float = 3e-5, texts: dict[str, list[str]] | None = None
) -> Result:
    same = ["за'мок", "замо'к"]
    return Result(
        sentences=["замок", "замок"],
        texts={"package": same, "cached": same, "engine": same} | (texts or {}),
        seconds={"package": 3.0, "cached": 1.5, "engine": engine},
        forced=Forced(Error(3e-5, 2e-4), Error(rms, 2e-4)),
        layers=[
            Layer(
                *("transformer.encoder.layers.0", 0.043, 0.049, 256, 90.0, 20.0),
                {"few": 5, "many": 4, "dense": 0, "training": 0},
            )
        ],
        batch_size=1,
        threads=2,
    )


def command(monkeypatch: pytest.MonkeyPatch, result: Result, *arguments: str) -> Any:
    asked: list[Any] = []

    def run(texts: Any, **kwargs: Any) -> Result:
        asked.append(texts)
        return result

    monkeypatch.setattr(reluctant.demo, "run_demo", run)
    done = CliRunner().invoke(app, ["demo", *arguments])
    return done, asked


def test_the_command_prints_and_writes_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "demo.json"
    done, asked = command(monkeypatch, made_up(), "--json", str(file))
    assert done.exit_code == 0, done.output
    assert asked == [sentences(6)]
    for text in ("за'мок", "all 2 texts are the package's own", "3.00", "encoder 0", "5 few"):
        assert text in done.stdout
    assert "NO" not in done.stdout
    written = json.loads(file.read_text())
    assert written["seconds"] == {"package": 3.0, "cached": 1.5, "engine": 1.0}
    assert written["layers"][0]["calls"] == {"few": 5, "many": 4, "dense": 0, "training": 0}
    _, asked = command(monkeypatch, made_up(), "--sentences", "3")
    assert asked == [sentences(3)]


@pytest.mark.parametrize(
    "broken",
    [
        {"rms": 4.6e-5},
        {"rms": float("nan")},
        {"texts": {"engine": ["за'мок", "за'мок"]}},
        {"texts": {"cached": ["за'мок", "за'мок"]}},
        {"texts": {"package": ["за'мок", "за'мок"]}},
    ],
    ids=str,
)
def test_a_broken_promise_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: dict[str, Any]
) -> None:
    file = tmp_path / "demo.json"
    done, _ = command(monkeypatch, made_up(**broken), "--json", str(file))
    assert done.exit_code == 1
    assert "NO" in done.stdout
    json.loads(file.read_text())  # written all the same, NaN or not


@pytest.mark.parametrize("engine", [1.6, 4.0])
def test_a_speed_is_no_promise(monkeypatch: pytest.MonkeyPatch, engine: float) -> None:
    """Slower than without the engine, slower than the package: said as it is."""
    done, _ = command(monkeypatch, made_up(engine=engine))
    assert done.exit_code == 0
    assert "NO" not in done.stdout
    assert f"{3 / engine:.2f}" in done.stdout
    assert f"{engine / 1.5:.2f} of the" in done.stdout.replace("\n", " ")
