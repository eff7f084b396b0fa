"""Every number of `reluctant inspect` against loops over tokens and neurons in float64."""

import copy
import io
import math
import operator
from functools import cache
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from torch import Tensor

from inspected import LINES, MAKERS, ROOM, Calls, Tried, calls, near
from reluctant.lab.inspect import Record, inspect
from reluctant.lab.inspect.of_layer import Layer, Neuron
from reluctant.lab.inspect.table import show
from reluctant.lab.residual import EITHER

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
NEURONS = 5


@cache
def found(kind: str) -> tuple[Tried, Record, dict[str, Calls]]:
    tried = MAKERS[kind]()
    record = inspect(
        tried.model, LINES, words=tried.words, neurons=NEURONS, name=kind, **tried.options
    )
    return tried, record, calls(tried)


CASES = [(kind, number) for kind in MAKERS for number in range(2)]
cases = pytest.mark.parametrize(("kind", "number"), CASES)


def of(kind: str, number: int) -> tuple[Tried, Layer, Calls, list[list[int]]]:
    tried, record, seen = found(kind)
    layer = record.layers[number]
    stack = tried.layers[layer.name][2]
    return tried, layer, seen[layer.name], [item[stack] for item in tried.items]


def active(layer: Layer, z: float, h: float) -> bool:
    return z > 0 if layer.activation == "relu" else h != 0


def sets(layer: Layer, seen: Calls) -> list[list[set[int]]]:
    """Of each sequence, of each token: the neurons that are active."""
    return [
        [
            {i for i in range(layer.d_ff) if active(layer, float(zs[i]), float(hs[i]))}
            for zs, hs in zip(z, h, strict=True)
        ]
        for z, h in zip(seen.z, seen.h, strict=True)
    ]


def weights(tried: Tried, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values as rows, biases; float64."""
    up, down, _ = tried.layers[layer.name]
    first, second = (tried.model.get_submodule(name) for name in (up, down))
    tensors = first.weight, second.weight.T, first.bias
    keys, values, biases = (tensor.detach().double() for tensor in tensors)
    return keys, values, biases


@pytest.mark.parametrize("kind", MAKERS)
def test_what_was_read(kind: str) -> None:
    tried, record, _ = found(kind)
    assert {layer.name for layer in record.layers} == set(tried.layers)
    assert record.left == []
    by_stack = {stack: sum(len(item[stack]) for item in tried.items) for stack in tried.items[0]}
    text = record.text
    assert (text.by_stack, text.sequences) == (by_stack, len(LINES))
    assert (text.tokens, text.whole, text.stopped) == (sum(by_stack.values()), True, None)
    assert text.bytes == sum(len(line.encode()) for line in LINES)
    assert (record.totals.tokens, text.replaced) == (text.tokens, 0)
    assert record.sound
    assert record.model.kind == {"post-norm": "encoder-decoder", "pre-norm": "decoder"}.get(
        kind, "encoder"
    )
    indices = [(layer.stack, layer.index) for layer in record.layers]
    assert len(set(indices)) == len(indices)
    assert [layer.stack for layer in record.layers] == [s for _, _, s in tried.layers.values()]


@cases
def test_density(kind: str, number: int) -> None:
    _, layer, seen, ids = of(kind, number)
    fired = sets(layer, seen)
    each = [len(some) / layer.d_ff for sequence in fired for some in sequence]
    found = layer.density
    assert layer.tokens == len(each)
    assert (layer.unplaced, layer.exact_zeros) == (0, layer.activation == "relu")
    assert found.mean == near(sum(each) / len(each))
    assert (found.least, found.most) == (near(min(each)), near(max(each)))
    for i, count in enumerate(found.histogram.counts):
        low, high = found.histogram.edges[i : i + 2]
        assert count == sum(low <= d < high or d == high == 1.0 for d in each)
    assert sum(found.histogram.counts) == layer.tokens
    longest = max(map(len, ids))
    assert len(found.by_position) == longest
    for position in range(longest):
        here = [len(s[position]) / layer.d_ff for s in fired if len(s) > position]
        assert found.by_position[position] == near(sum(here) / len(here))
    counts: dict[int, list[float]] = {}
    for sequence, some in zip(ids, fired, strict=True):
        for id, one in zip(sequence, some, strict=True):
            counts.setdefault(id, []).append(len(one) / layer.d_ff)
    assert {t.id: t.count for t in found.by_token} == {i: len(c) for i, c in counts.items()}
    for token in found.by_token:
        assert token.density == near(sum(counts[token.id]) / token.count)
    order = [token.count for token in found.by_token]
    assert order == sorted(order, reverse=True)


@cases
def test_which_neurons(kind: str, number: int) -> None:
    tried, layer, seen, _ = of(kind, number)
    tokens = [some for sequence in sets(layer, seen) for some in sequence]
    use = [sum(i in some for some in tokens) / len(tokens) for i in range(layer.d_ff)]
    assert layer.use == near(use)
    assert layer.dead == use.count(0.0)
    assert layer.always == use.count(1.0)
    shares, values = [], weights(tried, layer)[1]
    for i in range(layer.d_ff):
        length = float(values[i].norm())
        shares.append(sum((float(h[i]) * length) ** 2 for hs in seen.h for h in hs))
    shares = [share / sum(shares) for share in shares]
    total, count = 0.0, 0
    for share in sorted(shares, reverse=True):
        total, count = total + share, count + 1
        if total >= 0.9:
            break
    assert layer.neurons_for_90 == near(count / layer.d_ff)
    largest = sorted(range(layer.d_ff), key=lambda i: -shares[i])[:NEURONS]
    assert [n.index for n in layer.neurons][:NEURONS] == largest
    for neuron in layer.neurons:
        assert neuron.norm_share == near(shares[neuron.index])
        assert neuron.use == near(use[neuron.index])


@cases
def test_near_and_overlap(kind: str, number: int) -> None:
    _, layer, seen, _ = of(kind, number)
    shares = [
        sum(abs(float(v)) > 0.01 * float(h.abs().max()) for v in h) / layer.d_ff
        for hs in seen.h
        for h in hs
    ]
    assert layer.near == near(sum(shares) / len(shares))
    pairs = [(a, b) for some in sets(layer, seen) for a, b in pairwise(some)]
    jaccard = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs]
    assert layer.overlap == near(sum(jaccard) / len(jaccard))


@cases
def test_effective_rank(kind: str, number: int) -> None:
    _, layer, seen, _ = of(kind, number)
    ranks = layer.effective_rank
    for rank, rows in ((ranks.input, seen.x), (ranks.hidden, seen.h), (ranks.output, seen.y)):
        values = torch.cat(rows).svd().S.tolist()
        shares = [value / sum(values) for value in values]
        entropy = -sum(share * math.log(share) for share in shares if share > 0)
        assert rank == pytest.approx(math.exp(entropy), rel=1e-3)
    assert ranks.sample == layer.tokens  # fewer than the sample may have


def _residuals(tried: Tried, layer: Layer, seen: Calls) -> list[Tensor]:
    """Post-norm the layer's own input; in OPT what the norm before it read."""
    if layer.activation == "gelu" or "feed_forward" in layer.name:
        return seen.x
    read: list[Tensor] = []
    model = copy.deepcopy(tried.model).double()
    norm = model.get_submodule(f"{layer.name}.final_layer_norm")
    norm.register_forward_hook(lambda _, args, y: read.append(args[0].reshape(-1, layer.d_model)))
    with torch.no_grad():
        for item in tried.items:
            tried.run(model, item)
    return read


@cases
def test_the_update_against_the_residual_stream(kind: str, number: int) -> None:
    tried, layer, seen, _ = of(kind, number)
    ratios, cosines = [], []
    for ys, rs in zip(seen.y, _residuals(tried, layer, seen), strict=True):
        for y, r in zip(ys, rs, strict=True):
            ratios.append(float(y.norm() / r.norm()))
            cosines.append(float((y * r).sum() / (y.norm() * r.norm())))
    assert layer.update is not None
    assert layer.update_why is None
    assert layer.update.ratio == near(sum(ratios) / len(ratios))
    assert layer.update.cosine == near(sum(cosines) / len(cosines))


@cases
def test_a_neuron(kind: str, number: int) -> None:
    tried, layer, seen, ids = of(kind, number)
    keys, values, biases = weights(tried, layer)
    for neuron in layer.neurons:
        i = neuron.index
        assert neuron.key_norm == near(float(keys[i].norm()))
        assert neuron.value_norm == near(float(values[i].norm()))
        assert neuron.bias == near(float(biases[i]))
        fired = [
            (float(h[i]), sequence, position)
            for zs, hs, sequence in zip(seen.z, seen.h, ids, strict=True)
            for position, (z, h) in enumerate(zip(zs, hs, strict=True))
            if active(layer, float(z[i]), float(h[i]))
        ]
        assert neuron.mean == near(sum(h for h, _, _ in fired) / len(fired))
        fired.sort(key=lambda one: -abs(one[0]))
        _check_contexts(neuron, fired)
        others = [(float(_cosine(keys[i], keys[j])), j) for j in range(layer.d_ff) if j != i]
        for neighbour, (cosine, _) in zip(
            neuron.neighbours, sorted(others, reverse=True), strict=False
        ):
            assert neighbour.cosine == near(cosine)
            assert float(_cosine(keys[i], keys[neighbour.index])) == near(cosine)


def _check_contexts(neuron: Neuron, fired: list[tuple[float, list[int], int]]) -> None:
    assert neuron.contexts
    full = len(neuron.contexts) > 3
    assert len(neuron.contexts) == min(len(fired), 8 if full else 3)
    for context, (h, sequence, position) in zip(neuron.contexts, fired, strict=False):
        assert context.value == near(h)
        around = len(sequence[max(position - 9, 0) : position])
        assert bool(context.before) == (around > 0)
        assert bool(context.after) == (position + 1 < len(sequence))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def test_contexts_are_the_text_around() -> None:
    _, layer, seen, _ = of("pre-norm", 0)
    for neuron in layer.neurons[:NEURONS]:
        best = max(
            (float(h[neuron.index]), line, position)
            for hs, line in zip(seen.h, LINES, strict=True)
            for position, h in enumerate(hs)
        )
        _, line, position = best
        first = neuron.contexts[0]
        assert first.token == line[position]
        assert first.before == " ".join(line[max(position - 9, 0) : position])
        assert first.after == " ".join(line[position + 1 : position + 7])


@cases
def test_what_a_neuron_promotes(kind: str, number: int) -> None:
    tried, layer, _, _ = of(kind, number)
    if kind == "bert" or layer.stack == "encoder":
        assert layer.promotes_why
        assert all(n.promotes is n.suppresses is None for n in layer.neurons)
        return
    _promotes(tried, layer)


def test_what_a_decoders_neuron_promotes() -> None:
    tried, layer, _, _ = of("post-norm", 2)
    assert layer.stack == "decoder"
    _promotes(tried, layer)


def _promotes(tried: Tried, layer: Layer) -> None:
    head = tried.model.get_output_embeddings().weight.detach().double()
    values = weights(tried, layer)[1]
    for neuron in layer.neurons:
        scores = sorted((float((row * values[neuron.index]).sum()) for row in head), reverse=True)
        assert neuron.promotes is not None
        assert neuron.suppresses is not None
        assert [s.score for s in neuron.promotes] == near(scores[: len(neuron.promotes)])
        assert [s.score for s in neuron.suppresses] == near(scores[::-1][: len(neuron.suppresses)])
    assert layer.promotes_why is None


@pytest.mark.parametrize("kind", MAKERS)
def test_parameters_add_up(kind: str) -> None:
    tried, record, _ = found(kind)
    totals = record.totals
    assert totals.parameters == sum(p.numel() for p in tried.model.parameters())
    assert totals.parameters == record.model.parameters
    for layer in record.layers:
        keys, values, biases = weights(tried, layer)
        count = keys.numel() + values.numel() + biases.numel() + layer.d_model
        assert layer.parameters == count
        assert layer.parameters_share == near(count / totals.parameters)
        assert layer.flops_per_token == 2 * (keys.numel() + values.numel())
    assert totals.feed_forward_parameters == sum(layer.parameters for layer in record.layers)


def _attention(queries: int, keys: int, width: int) -> int:
    """Two products: of queries with keys, and of what comes of it with values."""
    return 2 * 2 * queries * keys * width


@pytest.mark.parametrize("kind", MAKERS)
def test_arithmetic_adds_up(kind: str) -> None:
    """By hand: two for each multiplication and addition of all linear maps and attentions."""
    tried, record, _ = found(kind)
    flops = forward = 0
    for item in tried.items:
        lengths = {stack: len(ids) for stack, ids in item.items()}
        for name, module in tried.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                rows = lengths.get("decoder" if "decoder" in name else "encoder", 0)
                if kind == "post-norm" and name == "linear":
                    rows = lengths["decoder"]
                if kind != "post-norm":
                    rows = 1 if "pooler" in name else lengths["model"]
                elif "decoder" in name and ".multi_head_attention." in name:  # of the source
                    of_source = name.endswith(("key", "value"))
                    rows = lengths["encoder" if of_source else "decoder"]
                flops += 2 * rows * module.weight.numel()
        for layer in record.layers:
            n = lengths[layer.stack]
            forward += n * layer.flops_per_token
            flops += _attention(n, n, layer.d_model)
            if layer.stack == "decoder":
                flops += _attention(n, lengths["encoder"], layer.d_model)
    totals = record.totals
    assert totals.flops_sequences == len(LINES)
    assert totals.flops_tokens == record.text.tokens
    assert totals.flops_per_token == near(flops / record.text.tokens)
    assert totals.feed_forward_flops_per_token == near(forward / record.text.tokens)
    shares = [layer.flops_share for layer in record.layers]
    assert sum(share for share in shares if share is not None) == near(forward / flops)


@cases
def test_what_the_engine_saves(kind: str, number: int) -> None:
    _, layer, _, _ = of(kind, number)
    saves = layer.saves
    assert saves.measured is not None
    assert min(saves.measured.torch_ms, saves.measured.engine_ms) > 0
    expected = {"decoder": 1}.get(found(kind)[1].model.kind)
    if expected is None:
        expected = round(layer.tokens / len(LINES))
    assert saves.measured.tokens == expected
    if layer.activation == "gelu":
        assert layer.candidates is None
        assert (saves.computed.bytes_share, saves.computed.flops_share) == (1.0, 1.0)
        return
    assert layer.candidates is not None
    a, c = layer.density.mean, layer.candidates.mean
    assert layer.candidates.tokens == layer.tokens
    assert layer.candidates.slack == near(c - a)
    least, most = _not_ruled_out(*of(kind, number)[:3])
    assert a < least <= c <= most < 1
    assert most - least < 0.01
    # bytes of a neuron's two rows in float32: dense, and the sketch's, the key's and the value's
    assert saves.computed.bytes_share == near((1 + 4 * c + 4 * a) / 8)
    assert saves.computed.flops_share == near((c + a) / 2)


def _not_ruled_out(tried: Tried, layer: Layer, seen: Calls) -> tuple[float, float]:
    """The least and the largest share of neurons that the lemma on top of `reluctant.sketch` leaves
    open, one by one; between them is what it allows for x in 16 bits, and that it is float32.
    """
    keys, _, biases = (each.tolist() for each in weights(tried, layer))
    least = most = count = 0
    for key, bias in zip(keys, biases, strict=True):
        scale = max(map(abs, key)) / 127
        sketch = [scale * round(k / scale) for k in key]
        d, norms = len(key), [math.hypot(*key), math.hypot(*sketch), math.dist(key, sketch)]
        radius = norms[2] + _gamma(d + 4) * norms[1] + _gamma(d + 8) * norms[0]
        for x in torch.cat(seen.x).tolist():
            estimate = sum(map(operator.mul, sketch, x)) + bias
            length = math.hypot(*x)
            bound = estimate + length * radius + _gamma(d + 8) * abs(bias)
            loose = norms[1] * (2 * math.sqrt(d) * max(map(abs, x)) / 2**15 + 1e-5 * length)
            least, most, count = least + (bound >= loose), most + (bound >= -loose), count + 1
    return least / count, most / count


def _gamma(n: int) -> float:
    return n * 2.0**-24 / (1 - n * 2.0**-24)


def test_what_is_not_finite_is_not_known() -> None:
    """A token whose embedding is NaN, and all after it in its sequence; the others count."""
    tried = MAKERS["pre-norm"]()
    id = tried.words(LINES[0][0])["input_ids"][0]
    with torch.no_grad():
        tried.model.model.decoder.embed_tokens.weight[id] = math.nan
    record = inspect(tried.model, LINES, words=tried.words, neurons=NEURONS)
    assert record.sound
    for layer, seen in zip(record.layers, calls(tried).values(), strict=True):
        h = torch.cat(seen.h)
        finite = h.isfinite().all(1)
        assert layer.not_finite == int((~finite).sum()) == len(LINES[0])
        assert layer.neurons_for_90 is None
        for neuron in layer.neurons:
            assert math.isnan(neuron.norm_share)
            best = h[finite, neuron.index].max()
            assert neuron.contexts == [] or neuron.contexts[0].value == near(float(best))
    told = record.to_json()["layers"][0]
    assert told["neurons_for_90"] is told["neurons"][0]["norm_share"] is None
    shown = io.StringIO()
    show(record, Console(file=shown, width=200))
    assert "an unknown part of what is added" in shown.getvalue()
    assert "nan%" not in shown.getvalue()


def test_large_numbers_are_numbers() -> None:
    tried = MAKERS["pre-norm"]()
    with torch.no_grad():
        tried.model.model.decoder.layers[1].fc1.weight.mul_(1e20)
    layer = inspect(tried.model, LINES, words=tried.words).layers[1]
    seen = calls(tried)[layer.name]
    lengths = weights(tried, layer)[1].norm(dim=1)
    shares = (torch.cat(seen.h) * lengths).square().sum(0)
    for neuron in layer.neurons:
        assert neuron.norm_share == near(float(shares[neuron.index] / shares.sum()))
    assert layer.neurons_for_90
    assert (layer.not_finite, layer.unplaced) == (0, 0)
    assert layer.update_why == EITHER


def test_long_lines_are_cut_at_the_models_length() -> None:
    tried = MAKERS["pre-norm"]()
    record = inspect(tried.model, ["ab" * 40], words=tried.words)
    assert (record.text.sequences, record.text.tokens) == (4, 80)
    assert len(record.layers[0].density.by_position) == ROOM
    bert = MAKERS["bert"]()
    record = inspect(bert.model, ["ab" * 40], words=bert.words)  # two special tokens a sequence
    assert (record.text.sequences, record.text.tokens) == (4, 88)
