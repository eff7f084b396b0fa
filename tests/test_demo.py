"""The demo with a small model: its texts and counts by other routes, and its command."""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner
from typer.testing import Result as Ran

import reluctant.demo
from reluctant import ways
from reluctant.cli import app
from reluctant.demo import Result, run_demo
from reluctant.demo.layers import Layer
from reluctant.demo.run import WAYS, Decoded, Sentence, take_turns
from reluctant.demo.sentences import choose, own_sentences
from reluctant.engine import Engine
from reluctant.errors import ReluctantError
from reluctant.evenly import evenly
from reluctant.transformer import Transformer, load
from reluctant.translation import folder as finding
from reluctant.translation.vocabulary import BOS, EOS, PAD, Vocabulary
from tests.translators import WORDS, learned, untrained

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


def line(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


FIT = [line(random.Random(seed), 5) for seed in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says what it reads; of its held-out sentences those of five words fit."""
    found = learned(tmp_path_factory.mktemp("models") / "small", dtype=torch.float16)
    rng = random.Random(0)
    pairs = [text for fit in FIT for text in (line(rng, 4), fit, line(rng, 16))]
    text = "".join(f"{source}\t{source}\n" for source in [*pairs, FIT[0]])
    (found / "test-general.tsv").write_text(text, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def seen() -> list[Sentence]:
    return []


@pytest.fixture(scope="module")
def result(folder: Path, seen: list[Sentence]) -> Result:
    """Where every call that may be sparse is, whatever the processor."""
    with pytest.MonkeyPatch.context() as patch:
        few = ways.Limits(ways.NEVER_ABOVE, 0.0, 0.0)
        patch.setattr(ways, "limits", lambda dtype, weights, tokens: few)
        return run_demo(folder, FIT[:4], on_sentence=seen.append)


def recomputed(folder: Path, sentence: str) -> tuple[list[int], Transformer, Tensor]:
    """The most likely target in float64, all of it computed again for every token."""
    model = load(folder).double()
    source = torch.tensor([[*Vocabulary.load(folder).encode([sentence])[0], EOS]])
    target: list[int] = []
    with torch.no_grad():
        while len(target) < source.numel() + 50 and target[-1:] != [EOS]:
            logits = model(source, torch.tensor([[BOS, *target]]))[0, -1]
            logits[PAD] = -torch.inf
            target.append(int(logits.argmax()))
    return target, model, source


def test_all_ways_say_what_the_model_says(
    folder: Path, result: Result, seen: list[Sentence]
) -> None:
    assert seen == result.sentences
    assert [sentence.english for sentence in seen] == FIT[:4]
    vocabulary = Vocabulary.load(folder)
    for sentence in result.sentences:
        target = recomputed(folder, sentence.english)[0]
        assert list(sentence.ways) == list(WAYS)
        for decoded in sentence.ways.values():
            assert decoded.text == vocabulary.decode([target])[0]
            assert decoded.tokens == len(target)
            assert decoded.seconds > 0
    assert result.identical
    assert len({sentence.ways["torch"].text for sentence in seen}) > 1


def test_one_way_is_pinned_and_the_other_is_not(folder: Path, result: Result) -> None:
    """A call for each layer of the encoder, and for each step and layer of the decoder; those of
    the first calls, which compile and compare, are not among them."""
    calls = len(FIT[:4]) + result.total("torch").tokens
    assert result.calls["dense"] == {"few": 0, "many": 0, "dense": calls}
    assert result.calls["engine"] == {"few": calls, "many": 0, "dense": 0}


def test_active_neurons_are_those_above_zero(folder: Path, result: Result) -> None:
    above: dict[str, list[Tensor]] = {}
    for english in FIT[:4]:
        target, model, source = recomputed(folder, english)
        for name in ("encoder.layers.0.feed_forward", "decoder.layers.0.feed_forward"):
            up = model.get_submodule(name).up
            keep: Callable[..., None] = lambda m, a, z, n=name: above.setdefault(n, []).append(  # noqa: E731
                (z > 0).double().flatten()
            )
            up.register_forward_hook(keep)
        model(source, torch.tensor([[BOS, *target[:-1]]]))
    assert [layer.name for layer in result.layers] == list(above)
    for layer in result.layers:
        share = torch.cat(above[layer.name]).mean()
        assert layer.active == pytest.approx(float(share), abs=1e-4)
        assert 0 < layer.active <= layer.candidates < 1


def test_an_engine_that_errs_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put in place of what the ways give."""
    plain, wrong = Engine.forward, list[Sentence]()

    def forward(self: Engine, x: Tensor) -> Tensor:
        y = plain(self, x)
        if not wrong or self.way != "auto":
            return y
        return y + torch.linspace(-1e3, 1e3, y.size(-1))  # says nothing of x any more

    monkeypatch.setattr(Engine, "forward", forward)
    found = run_demo(folder, FIT[:2], on_sentence=wrong.append)
    assert [sentence.identical for sentence in found.sentences] == [True, False]
    assert not found.identical
    assert len({found.sentences[1].ways[way].text for way in ("torch", "dense")}) == 1


def test_who_begins_rotates() -> None:
    log: list[str] = []
    called = {name: lambda source, name=name: log.append(name) or [len(log), 2] for name in "abc"}
    found = [take_turns(called, torch.tensor([[4, 2]]), number) for number in range(4)]
    assert "".join(log) == "abcbcacababc"
    assert [found[1][name][0] for name in "abc"] == [[6, 2], [4, 2], [5, 2]]


@pytest.mark.parametrize("sentences", [[], ["One is here.", " "]])
def test_nothing_to_translate(folder: Path, sentences: list[str]) -> None:
    with pytest.raises(ReluctantError, match="blank"):
        run_demo(folder, sentences)


def test_held_out_sentences_by_length_each_once_at_even_distances(folder: Path) -> None:
    assert choose(folder, 100) == list(dict.fromkeys(FIT))
    assert choose(folder, 3) == [FIT[0], FIT[10], FIT[20]]
    assert choose(folder, 100, own=True) == own_sentences()
    assert evenly("abcdefghij", 4) == list("acfh")


def test_our_own_sentences(tmp_path: Path) -> None:
    own = own_sentences()
    assert choose(tmp_path, 12) == own  # where there is no file
    assert choose(tmp_path, 2) == [own[0], own[6]]
    assert len(set(own)) == 12
    for sentence in own:
        assert 4 <= len(sentence.split()) <= 15
        assert re.fullmatch(r"[A-Z][A-Za-z, ]+[.?]", sentence)


def test_a_file_without_sentences_of_that_length(tmp_path: Path) -> None:
    (tmp_path / "test-general.tsv").write_text("One.\tEins.\n")
    with pytest.raises(ReluctantError, match=r"5 to 15 words.*--text"):
        choose(tmp_path, 3)


def demo(*arguments: str) -> Ran:
    return CliRunner().invoke(app, ["demo", *arguments])


def test_the_command(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    done = demo("--model", str(folder), "--sentences", "3", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["identical"] is True
    assert [each["english"] for each in figures["sentences"]] == [FIT[0], FIT[10], FIT[20]]
    lines = done.stdout.splitlines()
    at = 0
    for sentence in figures["sentences"]:
        at = next(i for i in range(at, len(lines)) if lines[i].strip() == sentence["english"]) + 1
        found = sentence["ways"].values()
        speeds = [f"{each['tokens'] / each['seconds']:.0f}" for each in found]
        german = Vocabulary.load(folder).decode([recomputed(folder, sentence["english"])[0]])[0]
        *start, torchs, denses, engines = lines[at].split()
        assert [torchs, denses, engines] == speeds
        assert german.startswith(" ".join(start))  # a long one goes on in the next line
    for way, total in figures["totals"].items():
        each = [sentence["ways"][way] for sentence in figures["sentences"]]
        assert total["tokens"] == sum(one["tokens"] for one in each)
        assert total["seconds"] == pytest.approx(sum(one["seconds"] for one in each))
        speed = total["tokens"] / total["seconds"]
        first = figures["totals"]["torch"]["tokens_per_second"]
        row = next(line for line in lines if line.split()[:2] == [way, str(total["tokens"])])
        assert row.split()[3:5] == [f"{speed:.1f}", f"{speed / first:.2f}"]
    assert "yes  all 3 translations are the same" in done.stdout
    assert 0 < figures["feed_forward_share"] < 1
    assert f'reluctant translate --model {folder} "' in done.stdout


def test_a_picture_has_our_sentences_and_no_path(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.svg"
    done = demo("--model", str(folder), "--sentences", "2", "--picture", str(file))
    assert done.exit_code == 0, done.output
    text = file.read_text(encoding="utf-8")
    words = "".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ")
    own = own_sentences()
    for wanted in (own[0], own[6], "small translates 2", "yes  all 2", 'reluctant translate "'):
        assert wanted in words
        assert wanted in done.stdout
    assert not [sentence for sentence in FIT if sentence in words]
    assert str(folder) not in text
    assert "url(http" not in text


def made_up(torchs: str = "Ein Haus.", engines: str = "Ein Haus.", seconds: float = 0.1) -> Result:
    same = Sentence("A house.", {way: Decoded("Ein Haus.", 4, 0.2) for way in WAYS})
    each = {"torch": Decoded(torchs, 4, 0.2), "dense": Decoded("Ein Haus.", 4, 0.2)}
    other = Sentence("One house.", each | {"engine": Decoded(engines, 4, seconds)})
    layers = [Layer("encoder.layers.0.feed_forward", 0.5, 0.625), Layer("decoder", 0.0, 1.0)]
    calls = {way: {"few": 1, "many": 0, "dense": 0} for way in ("dense", "engine")}
    return Result("m", [same, other], layers, calls, 0.43, 2)


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, folder: Path, asked: list[str]) -> Callable[..., Ran]:
    """Runs the command, which finds what it is told."""

    def command(result: Result, *arguments: str) -> Ran:
        def run(folder: Path, texts: Sequence[str], on_sentence: Any) -> Result:
            asked[:] = texts
            for sentence in result.sentences:
                on_sentence(sentence)
            return result

        monkeypatch.setattr(reluctant.demo, "run_demo", run)
        return demo("--model", str(folder), *arguments)

    return command


@pytest.mark.parametrize("broken", [{"torchs": "Ein Hut."}, {"engines": "Ein Hut."}], ids=str)
def test_another_text_is_a_failure(
    show: Callable[..., Ran], tmp_path: Path, broken: dict[str, str]
) -> None:
    file, picture = tmp_path / "demo.json", tmp_path / "demo.svg"
    done = show(made_up(**broken), "--json", str(file), "--picture", str(picture))
    assert done.exit_code == 1
    assert "NO   1 of 2 translations" in done.stdout
    assert "Ein Hut." in done.stdout
    assert json.loads(file.read_text())["identical"] is False
    assert "Hut." in picture.read_text()


@pytest.mark.parametrize(("seconds", "factor"), [(0.1, "1.33"), (0.6, "0.50")])
def test_a_speed_is_no_promise(show: Callable[..., Ran], seconds: float, factor: str) -> None:
    done = show(made_up(seconds=seconds))
    assert done.exit_code == 0
    assert "NO" not in done.stdout
    assert factor in done.stdout
    assert "about 43% of the time" in done.stdout


def test_bars_are_as_long_as_the_shares(show: Callable[..., Ran]) -> None:
    done = show(made_up())
    row = next(line for line in done.stdout.splitlines() if "encoder 0" in line)
    head = next(line for line in done.stdout.splitlines() if "candidates" in line)
    full = head.index("100%") + 4 - head.index("0%")
    assert row.count("█") == full / 2
    assert row.split()[-2:] == ["50.0%", "62.5%"]
    assert not any("█" in line and "decoder" in line for line in done.stdout.splitlines())


def test_what_a_terminal_would_obey_is_not_printed(show: Callable[..., Ran]) -> None:
    result = made_up()
    decoded = {way: Decoded("Ein\x1b[2J \rHa\nus [red].", 4, 0.2) for way in WAYS}
    odd = replace(result, sentences=[Sentence("A \x07house.", decoded)])
    done = show(odd)
    assert done.exit_code == 0, done.output
    assert not set("\x1b\r\x07") & set(done.stdout)
    assert "Ein\ufffd[2J \ufffdHa\ufffdus [red]." in done.stdout


def test_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELUCTANT_MODEL", raising=False)
    monkeypatch.setattr(finding, "_checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    done = demo()
    assert done.exit_code == 2
    assert "reluctant train" in done.stderr
    assert "--model FOLDER" in done.stderr
    assert done.stdout == ""


def test_a_model_with_nothing_to_serve(tmp_path: Path) -> None:
    """Its way is said by the engine, as it is: there is nothing exactly zero to skip."""
    folder = untrained(tmp_path / "gelu", activation="gelu")
    done = demo("--model", str(folder), "--sentences", "1", "--json", str(tmp_path / "x.json"))
    assert done.exit_code != 2, done.output
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["calls"]["engine"]["few"] == figures["calls"]["engine"]["many"] == 0
    assert all(layer["candidates"] == 1 for layer in figures["layers"])


def test_a_picture_that_cannot_be_written_is_refused_before_the_run(
    folder: Path, tmp_path: Path
) -> None:
    done = demo("--model", str(folder), "--picture", str(tmp_path / "nowhere" / "x.svg"))
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert done.stdout == ""


def test_which_sentences(show: Callable[..., Ran], asked: list[str]) -> None:
    for arguments, expected in {
        (): evenly(FIT, 20),
        ("--sentences", "2"): [FIT[0], FIT[15]],
        ("--text",): own_sentences(),
        ("--text", "--sentences", "1"): own_sentences()[:1],
    }.items():
        assert show(made_up(), *arguments).exit_code == 0
        assert asked == expected
