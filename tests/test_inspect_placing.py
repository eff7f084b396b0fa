"""Which rows are which tokens, where models pad, turn, sort or skip them: against hooks, alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer

import reluctant
from inspected import D_FF, LINES, D, Tried, calls, letters, lively, look, near
from reluctant.errors import ReluctantError
from reluctant.lab.inspect import Record, inspect, subject_of
from reluctant.lab.placed import Placed
from reluctant.lab.places import Places

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
# Of as many lengths as lines, for a batch as long as it is wide, and other ones.
SQUARE = ["a", "of", "one", "four", "of", "one"]
SIZES = {"vocab_size": 100, "hidden_size": D, "intermediate_size": D_FF, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 64, "hidden_act": "relu"}


def sequence_first(lines: list[str]) -> Tried:
    """FSMT, whose layers are called with (length, sequences, d_model)."""
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder")
             for name, n in (("layers", 2), ("ffn_dim", D_FF), ("attention_heads", 2))}  # fmt: skip
    config = transformers.FSMTConfig(
        **sizes, langs=["en", "de"], src_vocab_size=100, tgt_vocab_size=100, d_model=D,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2,
    )  # fmt: skip
    model, words = lively(transformers.FSMTForConditionalGeneration(config)), letters(around=False)
    subject, targets = subject_of(model, words), lines[::-1]
    items = [
        {"encoder": subject.encode(line)[0], "decoder": subject.given(target)}
        for line, target in zip(lines, targets, strict=True)
    ]
    layers = {
        name: (f"{name}.fc1", f"{name}.fc2", stack)
        for stack in ("encoder", "decoder")
        for name in (f"model.{stack}.layers.{i}" for i in range(2))
    }

    def run(model: Any, item: dict[str, list[int]]) -> Tensor:
        ids = {name: torch.tensor([each]) for name, each in item.items()}
        found = model(input_ids=ids["encoder"], decoder_input_ids=ids["decoder"])
        return found.logits  # type: ignore[no-any-return]

    return Tried(model, words, layers, items, run, {"targets": targets})


def encoder(name: str, lines: list[str]) -> Tried:
    """An encoder of transformers whose tokens feel the padding, or that pads inside."""
    other: dict[str, Any] = {
        "ConvBert": {"embedding_size": D, "num_attention_heads": 4},
        "Longformer": {"attention_window": 16, "pad_token_id": 0},
    }.get(name, {})
    config = getattr(transformers, f"{name}Config")(**(SIZES | other))
    model, words = lively(getattr(transformers, f"{name}Model")(config)), letters()
    items = [{"model": words(line)["input_ids"]} for line in lines]
    at = "encoder.layer"
    layers = {
        f"{at}.{i}": (f"{at}.{i}.intermediate.dense", f"{at}.{i}.output.dense", "model")
        for i in range(2)
    }

    def run(model: Any, item: dict[str, list[int]]) -> Tensor:
        ids = torch.tensor([item["model"]])
        inputs = {} if name == "FNet" else {"attention_mask": torch.ones_like(ids)}
        return model(ids, **inputs).last_hidden_state  # type: ignore[no-any-return]

    return Tried(model, words, layers, items, run)


def as_alone(tried: Tried, record: Record) -> None:
    """Whether the figures are those of each sequence by itself, its own tokens first."""
    seen = calls(tried)
    assert record.sound
    assert [layer.name for layer in record.layers] == list(tried.layers)
    for layer in record.layers:
        ids = [item[tried.layers[layer.name][2]] for item in tried.items]
        fires = [z[: len(own)] > 0 for z, own in zip(seen[layer.name].z, ids, strict=True)]
        h = [h[: len(own)] for h, own in zip(seen[layer.name].h, ids, strict=True)]
        every, flat = torch.cat(fires), [id for own in ids for id in own]
        assert (layer.tokens, layer.unplaced) == (len(flat), 0)
        assert layer.density.mean == near(float(every.double().mean()))
        assert layer.use == near(every.double().mean(0).tolist())
        assert layer.dead == int((~every.any(0)).sum())
        for token in layer.density.by_token:
            own = torch.tensor([id == token.id for id in flat])
            assert token.count == int(own.sum())
            assert token.density == near(float(every[own].double().mean()))
        for at, density in enumerate(layer.density.by_position):
            there = torch.stack([rows[at] for rows in fires if len(rows) > at])
            assert density == near(float(there.double().mean()))
        pairs = [pair for rows in fires for pair in pairwise(rows)]
        shares = [float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0 for a, b in pairs]
        assert layer.overlap == near(sum(shares) / len(shares))
        piece = {id: subject_of(tried.model, tried.words).words.text([id]) for id in set(flat)}
        for neuron in layer.neurons[:3]:
            values = torch.cat(h)[:, neuron.index]
            best = int(values.abs().masked_fill(~every[:, neuron.index], 0).argmax())
            assert neuron.contexts[0].value == near(float(values[best]))
            assert neuron.contexts[0].token == piece[flat[best]]


class Turned(BertLayer):
    """BERT whose layers are called with (length, sequences, d_model)."""

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        x = attention_output.transpose(0, 1)
        return super().feed_forward_chunk(x).transpose(0, 1)  # type: ignore[no-any-return]


several = pytest.mark.parametrize("lines", [LINES, SQUARE], ids=["lines", "square"])


@several
def test_a_model_that_takes_the_length_first(lines: list[str]) -> None:
    """FSMT. Its decoder feels padding, too."""
    tried = sequence_first(lines)
    as_alone(tried, look(tried, lines))


@several
def test_layers_that_take_the_length_first(lines: list[str]) -> None:
    tried, sizes = encoder("Bert", lines), list[tuple[int, ...]]()
    for layer in tried.model.encoder.layer:
        layer.__class__ = Turned
    embeddings = tried.model.embeddings.word_embeddings
    embeddings.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    as_alone(tried, look(tried, lines))
    batch = len(lines), max(len(item["model"]) for item in tried.items)
    assert batch in sizes  # side by side
    assert (batch[0] == batch[1]) == (lines is SQUARE)


@pytest.mark.parametrize("name", ["ConvBert", "FNet", "Longformer", "Bert"])
def test_padding_that_is_felt(name: str) -> None:
    tried = encoder(name, LINES)
    as_alone(tried, look(tried))


def test_the_flops_of_a_model_that_pads_inside() -> None:
    """What is computed for padding is computed: each sequence has 16 or 32 rows."""
    tried = encoder("Longformer", LINES)
    record = look(tried)
    rows = [-(-len(item["model"]) // 16) * 16 for item in tried.items]
    forward = 2 * sum(rows) * record.layers[0].flops_per_token
    totals = record.totals
    assert totals.feed_forward_flops_per_token == near(forward / record.text.tokens)
    assert record.sentences[0].layers[0].calls == 1
    assert len(record.sentences[0].layers[0].tokens) == len(tried.items[0]["model"])


class Small(nn.Module):
    """Embeddings, a layer, a norm; how the layer is called is said by subclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(100, D), nn.LayerNorm(D)
        self.one, self.two = reluctant.FeedForward(D, D_FF), reluctant.FeedForward(D, D_FF)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.norm(x + self.layers(x))  # type: ignore[no-any-return]

    def layers(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Flat(Small):
    def layers(self, x: Tensor) -> Tensor:
        return self.one(x.reshape(-1, D)).view_as(x)  # type: ignore[no-any-return]


class Sorted(Small):
    """All tokens go to the layer, in another order, as to an expert by the rank of its choice."""

    def layers(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, D)
        order = rows[:, 0].argsort()
        return torch.zeros_like(rows).index_copy(0, order, self.one(rows[order])).view_as(x)


class PadsInside(Small):
    """In front, where nobody expects it."""

    def layers(self, x: Tensor) -> Tensor:
        return self.one(torch.cat([x[:, :1], x], 1))[:, 1:] + self.two(x)  # type: ignore[no-any-return]


class Casts(Small):
    """One layer is called under autocast, in which no engine serves it without gradients."""

    def layers(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.two(x)
        return self.one(x) + y  # type: ignore[no-any-return]


class CastsAtTimes(Small):
    def layers(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=x.shape[1] > 16):
            return self.one(x)  # type: ignore[no-any-return]


def small(kind: type[Small]) -> tuple[Any, Record]:
    model = lively(kind())
    return model, inspect(model, LINES, words=letters(around=False))


def test_flat_rows_are_placed_where_a_norm_proves_their_order() -> None:
    model, record = small(Flat)
    (layer,) = record.layers
    assert (layer.unplaced, layer.tokens) == (0, record.text.tokens)
    for token in layer.density.by_token:  # without attention a token is always the same
        fires = model.one.up(model.embedding.weight[token.id]) > 0
        assert token.density == near(float(fires.double().mean()))


def test_as_many_rows_as_tokens_may_be_in_another_order() -> None:
    _, record = small(Sorted)
    (layer,) = record.layers
    assert (layer.unplaced, layer.tokens) == (record.text.tokens, record.text.tokens)
    assert layer.density.by_token == []
    assert (layer.overlap, record.walk) == (None, None)
    assert all(not neuron.contexts for neuron in layer.neurons)
    assert all(not sentence.layers for sentence in record.sentences)


def test_more_rows_than_tokens_are_refused() -> None:
    _, record = small(PadsInside)
    assert [layer.name for layer in record.layers] == ["two"]
    assert [left.name for left in record.left if "pads inside" in left.reason] == ["one"]
    assert record.sound


def test_a_layer_that_is_never_seen_is_left() -> None:
    _, record = small(Casts)
    assert [layer.name for layer in record.layers] == ["one"]
    reasons = {left.name: left.reason for left in record.left}
    assert "its own code ran in all" in reasons["two"]
    assert "autocast" in reasons["two"]
    model = lively(Flat())
    says = pytest.raises(ReluctantError, match=r"can be looked into: one: .*autocast")
    with torch.autocast("cpu", dtype=torch.bfloat16), says:
        inspect(model, LINES, words=letters(around=False))


def test_calls_that_are_not_seen_are_no_sound_record() -> None:
    _, record = small(CastsAtTimes)
    assert [check.holds for check in record.checks] == [True, True, False]
    assert "calls of one were not seen: autocast" in record.checks[2].says
    assert record.layers[0].tokens < record.text.tokens


def test_padding_that_gets_in_later_is_no_sound_record(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Places.find

    def find(self: Places, layer: str, batch: Placed, *shapes: Any) -> Placed | None:
        return None if batch.shape[0] == len(LINES) else plain(self, layer, batch, *shapes)

    monkeypatch.setattr(Places, "find", find)
    record = look(encoder("Bert", LINES))
    assert [check.holds for check in record.checks] == [True, True, False]
    assert "there may be padding" in record.checks[2].says


def test_a_layer_that_is_used_again_and_again() -> None:
    config = transformers.AlbertConfig(**(SIZES | {"num_hidden_layers": 3, "embedding_size": D}))
    record = inspect(lively(transformers.AlbertModel(config)), LINES, words=letters())
    (layer,) = record.layers
    assert (layer.tokens, layer.calls_per_token) == (3 * record.text.tokens, 3.0)
    assert record.sentences[0].layers[0].calls == 3
    assert len(record.sentences[0].layers[0].tokens) == len(LINES[0]) + 2
