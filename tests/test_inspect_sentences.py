"""Single sentences: which neurons fired, the answer without one of them, one token's walk."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inspected import D_FF, LINES, MAKERS, D, Tried, calls, look, near
from reluctant.lab.inspect.of_layer import Layer
from reluctant.lab.watch import Watch
from reluctant.transformer import greedy

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
