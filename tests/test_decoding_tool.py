"""tools.decoding: other runtimes with a model's weights say what it says, and figures add up."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from learning import write_tsv
from reluctant.errors import ReluctantError
from reluctant.transformer import Transformer, TransformerConfig, beam_search, greedy, save
from reluctant.translation.pairs import read
from reluctant.translation.vocabulary import Vocabulary
from tools.decoding import measure as measuring
from tools.decoding.__main__ import app
from tools.decoding.ctranslate import CTranslate2
from tools.decoding.measure import Measured, measure, turns
from tools.decoding.table import Result, Row, markdown
from tools.decoding.uncached import Uncached, to_torch

SIZE = 40
NAMES = ["<pad>", "<s>", "</s>", "<unk>", *(f"t{i}" for i in range(4, SIZE))]
SOURCES = [[5, 7, 9, 2], [4, 2], [30, 31, 8, 8, 21, 6, 2], [39, 2], [11, 12, 13, 14, 2]]
PADDED = torch.tensor([[*row, *[0] * (7 - len(row))] for row in SOURCES])


def build(**options: Any) -> Transformer:
    """Every weight, bias, norm and position matters, and most of its targets end."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"d_model": 32, "heads": 4, "d_ff": 64, "norm_first": True}
    sizes |= {"encoder_layers": 2, "decoder_layers": 3, "norm_eps": 0.1}
    model = Transformer(TransformerConfig(SIZE, **(sizes | options))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" not in name:  # which would outdo the layers
                parameter.add_(0.2 * torch.randn_like(parameter)).mul_(parameter.dim())
        model.input_embedding.weight[0] = 0.0  # others may choose padding, if it is the best
        model.input_embedding.weight[2] *= 1.5
    return model


def without_padding(rows: torch.Tensor) -> list[list[int]]:
    return [[number for number in row if number] for row in rows.tolist()]


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 2.0])
def test_torch_has_the_same_logits(scale: float | None) -> None:
    model = build(embedding_scale=scale)
    target = torch.randint(3, SIZE, (5, 9))
    expected = model(PADDED, target)
    theirs = Uncached(model)
    sources = theirs.start(PADDED)
    for n in range(1, 10):
        got = theirs.decode(target[:, :n], sources)[:, 0]
        torch.testing.assert_close(got, expected[:, n - 1], rtol=1e-4, atol=1e-4)


def test_torch_gets_copies_that_convert_back() -> None:
    model = build()
    back = Transformer.from_torch(to_torch(model), model.input_embedding, pad=0)
    assert back.config.norm_eps == model.config.norm_eps
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight)


def test_searches_over_torch_find_the_same() -> None:
    model = build()
    theirs: Any = Uncached(model)
    assert torch.equal(greedy(theirs, PADDED), greedy(model, PADDED))
    ours, found = (beam_search(each, PADDED, beam=3) for each in (model, theirs))
    assert torch.equal(found.tokens, ours.tokens)
    torch.testing.assert_close(found.scores, ours.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_ctranslate2_decodes_the_same(scale: float | None) -> None:
    pytest.importorskip("ctranslate2")
    model = build(embedding_scale=scale)
    expected = without_padding(greedy(model, PADDED))
    assert sum(2 in row for row in expected) == 3  # two are cut at the limit
    theirs = CTranslate2(model, NAMES, "float32")
    assert theirs.search(SOURCES, 1) == expected
    assert [theirs.search([source], 1)[0] for source in SOURCES] == expected


def test_ctranslate2_in_int8_and_with_beams_gives_targets() -> None:
    pytest.importorskip("ctranslate2")
    for kind in ("float32", "int8"):
        for source, target in zip(
            SOURCES, CTranslate2(build(), NAMES, kind).search(SOURCES, 4), strict=True
        ):
            assert target[-1] == 2 or len(target) == len(source) + 50
            assert set(target) <= set(range(SIZE))


@pytest.mark.parametrize(
    "options",
    [{"norm_first": False}, {"activation": "gelu"}, {"tied": False}, {"positions": "learned"}],
    ids=str,
)
def test_refuses_what_would_be_another_model(options: dict[str, Any]) -> None:
    with pytest.raises(ReluctantError, match=f"{next(iter(options))}: expected .* got"):
        to_torch(build(**options))


class Clock:
    """Each token takes a way as long as it says."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()

    def way(self, name: str, per_token: float) -> Any:
        def decode(sources: Sequence[list[int]], beam: int) -> list[list[int]]:
            self.log.append(name)
            self.now += per_token * sum(map(len, sources))
            return [[*source, beam] for source in sources]

        return decode


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(measuring, "perf_counter", lambda: made.now)
    monkeypatch.setattr(measuring, "sleep", lambda seconds: None)
    return made


def test_all_decode_all_in_turns(clock: Clock) -> None:
    sources = [[i] * (1 + i * 7 % 11) for i in range(50)]
    ways = {name: clock.way(name, cost) for name, cost in (("a", 0.5), ("b", 0.25))}
    done = list[int]()
    found = measure(
        ways, sources, batch=3, beam=4, rounds=2, on_turn=lambda: done.append(len(clock.log))
    )
    words = sum(map(len, sources))
    for name, cost in (("a", 0.5), ("b", 0.25)):
        assert found[name].targets == [[*source, 4] for source in sources]
        assert found[name].seconds == [words * cost] * 2  # without the warm-up
        assert found[name].tokens == words + 50
        assert found[name].tokens_per_second == (words + 50) / (words * cost)
    assert clock.log[:4] == ["a", "a", "b", "b"]  # warmed up
    order = [clock.log[number - 1] for number in done]
    assert order[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(done) == 2 * 2 * len(turns([len(source) for source in sources], 3))


def test_the_median_round_counts() -> None:
    assert Measured([[1, 2], [3, 4]], [1.0, 9.0, 2.0]).tokens_per_second == 2.0


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
@pytest.mark.parametrize("batch", [1, 32])
def test_turns_have_every_sentence_once(count: int, batch: int) -> None:
    lengths = [i * 13 % 17 for i in range(count)]
    found = turns(lengths, batch)
    flat = [i for part in found for indices in part for i in indices]
    assert sorted(flat) == list(range(count))
    assert [lengths[i] for i in flat] == sorted(lengths)
    assert max(len(indices) for part in found for indices in part) == min(batch, count)
    assert len(found) <= measuring.TURNS


def test_what_is_compared_with_what() -> None:
    rows = [
        Row("engine", 1, 1, 30, [0.1], 300.0, 20.0, 3),
        Row("no engine", 1, 1, 30, [0.2], 150.0, 20.0, 3),
        Row("engine", 32, 1, 30, [0.1], 300.0, 20.0, 2),
        Row("no engine", 32, 1, 30, [0.1], 600.0, 20.0, 3),
    ]
    result = Result("kept", "a machine", 0.1, 3, 1, 2, "signature", rows, {"CTranslate2": "why"})
    text = markdown(result)
    assert "| greedy | 1 | engine | 300 | 2.00 | 30 | 20.0 | 3 |" in text
    assert "| greedy | 32 | engine | 300 | 0.50 | 30 | 20.0 | 2 |" in text
    assert "- CTranslate2 is left out: why" in text
    assert "/ length, its default" in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for package in ("safetensors", "tokenizers", "sacrebleu"):
        pytest.importorskip(package)
    pairs, _ = read([write_tsv(tmp_path / "test-general.tsv", 12)])
    vocabulary = Vocabulary.train([text for pair in pairs for text in pair], 300)
    vocabulary.save(tmp_path)
    config = TransformerConfig(
        len(vocabulary), d_model=16, heads=2, d_ff=64, encoder_layers=1, decoder_layers=1,
        norm_first=True,
    )  # fmt: skip
    torch.manual_seed(0)
    save(Transformer(config).half().eval(), tmp_path)
    return tmp_path


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    options = ["--sentences", "5", "--rounds", "2", "--markdown", "--json", f"{folder}/out.json"]
    made = CliRunner().invoke(app, [str(folder), *options], catch_exceptions=False)
    assert made.exit_code == 0
    assert made.stdout.count(" | 5 |\n") == 12
    assert "CTranslate2 int8 is left out: CTranslate2 needs the package" in made.stdout
    written = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert sorted({(row["batch"], row["beam"]) for row in written["rows"]}) == [
        *((1, 1), (1, 4), (32, 1), (32, 4)),
    ]
    for row in written["rows"]:
        assert row["same"] == 5  # in float32 all have the same weights
        assert len(row["seconds"]) == 2
    assert sorted(written["missing"]) == ["CTranslate2 float32", "CTranslate2 int8"]


def test_refuses_before_it_works(folder: Path) -> None:
    for options, message in (
        (["--sentences", "13"], "say --sentences 12"),
        (["--json", f"{folder}/no/out.json"], "create .*no first"),
        (["--test", f"{folder}/nothing.tsv"], "there is none"),
    ):
        with pytest.raises(ReluctantError, match=message):
            CliRunner().invoke(app, [str(folder), *options], catch_exceptions=False)
