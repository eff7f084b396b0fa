"""Single sentences: which neurons fired, the answer without one of them, one token's walk."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inspected import D_FF, LINES, MAKERS, D, Tried, calls, letters, lively, look, near
from reluctant.errors import ReluctantError
from reluctant.lab.inspect import inspect
from reluctant.lab.inspect.of_layer import Layer
from reluctant.lab.watch import Watch
from reluctant.transformer import greedy
from test_inspect_models import Routed

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
kinds = pytest.mark.parametrize("kind", MAKERS)


@kinds
def test_what_a_sentence_used(kind: str) -> None:
    tried = MAKERS[kind]()
    options = {"targets": None} if kind == "post-norm" else {}
    record = look(tried, sentences=[LINES[0]], neurons=1, **options)
    (sentence,) = record.sentences
    assert sentence.text == LINES[0]
    if kind == "post-norm":  # what the decoder reads is the model's own
        source = torch.tensor([tried.items[0]["encoder"]])
        answer = greedy(tried.model, source, max_length=64)[0].tolist()
        answer = answer[: answer.index(2)] if 2 in answer else answer
        tried.items = [{"encoder": tried.items[0]["encoder"], "decoder": [1, *answer][:65]}]
        assert sentence.output == tried.words.decode([answer])[0]
    tried.items = tried.items[:1]
    seen, ids = calls(tried), tried.items[0]
    assert {stack: len(parts) for stack, parts in sentence.parts.items()} == {
        stack: len(each) for stack, each in ids.items()
    }
    assert [layer.name for layer in sentence.layers] == [layer.name for layer in record.layers]
    for layer, told in zip(record.layers, sentence.layers, strict=True):
        h, z = seen[layer.name].h[0], seen[layer.name].z[0]
        lengths = [float(v.norm()) for v in _values(tried, layer)]
        for token, hs, zs in zip(told.tokens, h, z, strict=True):
            fires = zs > 0 if layer.exact_zeros else hs != 0
            assert token.active == int(fires.sum())
            norms = {i: abs(float(hs[i])) * lengths[i] for i in range(D_FF) if fires[i]}
            best = sorted(norms, key=lambda i: -norms[i])[:12]
            assert [each.index for each in token.neurons] == best
            for each in token.neurons:
                assert (each.h, each.norm) == (near(float(hs[each.index])), near(norms[each.index]))
        added = {i: sum((float(hs[i]) * lengths[i]) ** 2 for hs in h) for i in range(D_FF)}
        assert [w.neuron for w in told.without] == sorted(added, key=lambda i: -added[i])[:3]
        told_of = {neuron.index for neuron in layer.neurons}
        assert told_of >= {each.index for token in told.tokens for each in token.neurons}
        assert told_of >= {without.neuron for without in told.without}


def _values(tried: Tried, layer: Layer) -> Tensor:
    down: Any = tried.model.get_submodule(tried.layers[layer.name][1])
    return down.weight.detach().double().T


@kinds
def test_without_a_neuron_is_with_its_value_zero(kind: str) -> None:
    tried = MAKERS[kind]()
    options = {"targets": None} if kind == "post-norm" else {}
    record = look(tried, sentences=LINES[:2], **options)
    for sentence, item in zip(record.sentences, tried.items, strict=False):
        before = _says(tried, tried.model, item)
        for layer in sentence.layers:
            assert len(layer.without) == 3
            for without in layer.without:
                other = copy.deepcopy(tried.model)
                with torch.no_grad():
                    other.get_submodule(tried.layers[layer.name][1]).weight[:, without.neuron] = 0
                after = _says(tried, other, item)
                assert (without.before, without.after) == (before[0], after[0])
                assert without.change == pytest.approx(
                    _change(tried, other, before, item), rel=1e-3, abs=1e-6
                )
                assert without.fired
    assert any(w.change > 1e-4 for s in record.sentences for x in s.layers for w in x.without)


def _says(tried: Tried, model: Any, item: dict[str, list[int]]) -> tuple[str | None, list[int]]:
    """The text, and the ids of a translation."""
    if "encoder" in item:
        row = greedy(model, torch.tensor([item["encoder"]]), max_length=64)[0].tolist()
        row = row[: row.index(2)] if 2 in row else row
        return tried.words.decode([row])[0], row
    with torch.no_grad():
        output = tried.run(model, item)
    if output.shape[-1] == D:
        return None, []
    return tried.words.convert_ids_to_tokens([int(output[0, -1].argmax())])[0], []


def _change(tried: Tried, other: Any, before: Any, item: dict[str, list[int]]) -> float:
    given = item | ({"decoder": [1, *before[1]]} if "encoder" in item else {})
    with torch.no_grad():
        old, new = (tried.run(model, given)[0].double() for model in (tried.model, other))
    if old.shape[-1] == D:
        old, new = old.mean(0), new.mean(0)
        return 1 - float((old * new).sum() / old.norm() / new.norm())
    if "encoder" not in item:
        old, new = old[-1:], new[-1:]
    return float((old.softmax(-1) - new.softmax(-1)).abs().max())


def test_a_neuron_that_did_not_fire_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = MAKERS["pre-norm"]()
    with torch.no_grad():
        for layer in tried.model.model.decoder.layers:
            layer.fc1.bias[2:] = -1e4  # two neurons at most are left
    tried_out: list[int] = []
    plain = Watch.compute

    def compute(self: Watch, rows: Tensor) -> Any:
        if self.without is not None:
            tried_out.append(self.without)
        return plain(self, rows)

    monkeypatch.setattr(Watch, "compute", compute)
    record = look(tried)
    silent = [w for s in record.sentences for x in s.layers for w in x.without if not w.fired]
    assert len(silent) >= len(record.sentences) * 2
    assert all((w.change, w.before) == (0.0, w.after) for w in silent)
    assert set(tried_out) <= {0, 1}
    assert record.layers[0].dead >= D_FF - 2
    assert record.layers[0].neurons[-1].mean is None


@kinds
def test_one_tokens_walk(kind: str) -> None:
    tried = MAKERS[kind]()
    record = look(tried)
    walk, seen = record.walk, calls(tried)
    assert walk is not None
    layer = record.layers[0]
    assert (walk.layer, walk.sentence) == (layer.name, 0)
    stack = tried.layers[layer.name][2]
    ids, made = tried.items[0][stack], seen[layer.name]
    assert walk.position == len(ids) // 2
    assert walk.token == record.sentences[0].parts[stack][walk.position]
    x, z, h, y = (rows[0][walk.position] for rows in (made.x, made.z, made.h, made.y))
    assert (walk.x, walk.y) == (near(x.tolist()), near(y.tolist()))
    assert (walk.x_norm, walk.y_norm) == (near(float(x.norm())), near(float(y.norm())))
    lengths = [float(v.norm()) for v in _values(tried, layer)]
    norms = [abs(float(h[i])) * lengths[i] for i in range(D_FF)]
    total = sum(norm**2 for norm in norms)
    assert walk.active == len(walk.neurons) == int((h != 0).sum())
    for neuron in walk.neurons:
        i = neuron.index
        assert (neuron.z, neuron.h) == (near(float(z[i])), near(float(h[i])))
        assert (neuron.norm, neuron.share) == (near(norms[i]), near(norms[i] ** 2 / total))
    assert sum(neuron.share for neuron in walk.neurons) == near(1.0)
    assert [n.norm for n in walk.neurons] == sorted((n.norm for n in walk.neurons), reverse=True)
    assert walk.residual is not None
    assert walk.out == near([r + v for r, v in zip(walk.residual, walk.y, strict=True)])
    if kind != "pre-norm":
        assert walk.residual == near(walk.x)
    told_of = {neuron.index for neuron in layer.neurons}
    assert told_of >= {neuron.index for neuron in walk.neurons}


def test_the_walk_prefers_exact_zeros() -> None:
    tried = MAKERS["pre-norm"]()
    tried.model.model.decoder.layers[0].activation_fn = nn.GELU()
    record = look(tried)
    assert [layer.exact_zeros for layer in record.layers] == [False, True]
    assert record.walk is not None
    assert record.walk.layer == record.layers[1].name
    assert record.walk.z_active == 0.0


@pytest.mark.parametrize("kind", ["post-norm", "bert"])
def test_a_shortened_sentence_is_shown_as_text(kind: str) -> None:
    """Without the tokens that say where it begins and ends."""
    tried, line = MAKERS[kind](), "A dog ran home, and the old bird sings. " * 6
    options = {"targets": None} if kind == "post-norm" else {}
    (sentence,) = look(tried, sentences=[line], **options).sentences
    shown = sentence.text.replace(" ", "")
    assert 15 <= len(shown) < len(line.replace(" ", ""))
    assert line.replace(" ", "").startswith(shown)


@kinds
def test_neurons_that_are_named_are_taken_out(kind: str) -> None:
    """And those that add most, too; the layer by its name, or as tables call it."""
    tried = MAKERS[kind]()
    options = {"targets": None} if kind == "post-norm" else {}
    plain = look(tried, sentences=LINES[:2], **options)
    first, last = plain.layers[0], plain.layers[-1]
    top = {w.neuron for s in plain.sentences for w in s.layers[-1].without}
    named = next(neuron for neuron in range(D_FF) if neuron not in top)
    asked = [(last.name, named), (f"{first.stack} 0", 3), (last.name, named)]
    record = look(tried, sentences=LINES[:2], without=asked, **options)
    for sentence, before, item in zip(record.sentences, plain.sentences, tried.items, strict=False):
        for layer, old in zip(sentence.layers, before.layers, strict=True):
            others = [w for w in layer.without if not w.asked]
            assert others == [w for w in old.without if (layer.name, w.neuron) != (first.name, 3)]
        *_, told = sentence.layers
        assert [w.neuron for w in told.without if w.asked] == [named]
        assert [w.neuron for w in sentence.layers[0].without if w.asked] == [3]
        without = next(w for w in told.without if w.asked)
        other = copy.deepcopy(tried.model)
        with torch.no_grad():
            other.get_submodule(tried.layers[last.name][1]).weight[:, named] = 0
        says = _says(tried, tried.model, item)
        assert without.after == _says(tried, other, item)[0]
        assert without.change == pytest.approx(
            _change(tried, other, says, item), rel=1e-3, abs=1e-6
        )
    assert named in {neuron.index for neuron in record.layers[-1].neurons}


def test_neurons_that_are_not_there() -> None:
    tried = MAKERS["pre-norm"]()
    name = "model.decoder.layers.1"
    for layer, neuron, says in (
        ("model 2", 0, f"model.decoder.layers.0, {name}; got 'model 2'"),
        (name, D_FF, f"expected a neuron of {name} from 0 to {D_FF - 1}, got {D_FF}"),
        (name, -1, "got -1"),
    ):
        with pytest.raises(ReluctantError, match=says):
            look(tried, without=[(layer, neuron)])


def test_a_neuron_of_an_expert_can_be_named() -> None:
    """Of which no sentence tells the tokens."""
    model, words = lively(Routed()), letters(around=False)
    record = inspect(model, LINES, words=words, sentences=LINES[:1], without=[("expert", 5)])
    (layer,) = [each for each in record.sentences[0].layers if each.name == "expert"]
    (without,) = layer.without
    ids, other = torch.tensor([words(LINES[0])["input_ids"]]), copy.deepcopy(model)
    with torch.no_grad():
        other.expert.down.weight[:, 5] = 0
        old, new = (each(ids)[0].double().mean(0) for each in (model, other))
    change = 1 - float(torch.cosine_similarity(old, new, dim=0))
    assert (layer.tokens, without.neuron, without.asked) == ([], 5, True)
    assert without.change == pytest.approx(change, rel=1e-3, abs=1e-6)
