"""The models of the study: their sizes, what is changed in them, and how they learn."""

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.feedforward import FeedForward
from reluctant.lab.study import nonlinearity, residual, variants
from reluctant.lab.study.catalogue import ratios, variant
from reluctant.lab.study.learn import endless, learn, learner, loss
from reluctant.lab.study.pieces import MODEL, pieces
from reluctant.lab.study.plan import FULL, QUICK, Plan
from reluctant.lab.study.seen import seen
from reluctant.lab.study.shapes import Shape, d_ff_for, fit, parameters
from reluctant.lab.study.text import Text, read
from reluctant.lab.study.variants import layers_of
from reluctant.transformer import Transformer, TransformerConfig
from reluctant.translation.learner import config
from reluctant.translation.settings import Settings
from reluctant.translation.vocabulary import PAD

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = replace(QUICK, d_model=8, d_ff=32, steps=3, points=3, batch_tokens=120, tokens=200)


@pytest.fixture(scope="module")
def text() -> Text:
    return read([], TINY)


def built(norm_first: bool = True, **sizes: Any) -> Transformer:
    torch.manual_seed(0)
    given = {"d_model": 8, "heads": 2, "d_ff": 32, "encoder_layers": 3, "decoder_layers": 3}
    given |= {"norm_first": norm_first}
    model = Transformer(TransformerConfig(40, **(given | sizes)))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # as after training: no two alike
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return model.eval()


def counted(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 90), st.integers(1, 4), st.booleans())
def test_parameters_are_those_of_the_model(half: int, d_ff: int, layers: int, gated: bool) -> None:
    sizes = Settings(
        d_model=2 * half, heads=2, d_ff=d_ff, encoder_layers=layers, decoder_layers=layers,
        activation="swiglu" if gated else "relu",
    )  # fmt: skip
    found = parameters(Shape(2 * half, d_ff), 77, layers, gated=gated)
    assert found == counted(Transformer(config(sizes, 77)))


@settings(deadline=None, max_examples=100)
@given(
    st.integers(100_000, 1_000_000), st.sampled_from([0.25, 0.5, 1, 2, 4, 8, 16]),
    st.integers(300, 4000), st.integers(1, 6),
)  # fmt: skip
def test_fit_finds_equal_parameters(budget: int, ratio: float, words: int, layers: int) -> None:
    try:
        shape = fit(budget, ratio, words, layers, widest=256, tolerance=0.02)
    except ReluctantError:
        assume(False)
    assert abs(parameters(shape, words, layers) / budget - 1) <= 0.02
    assert shape.d_model % 2 == 0
    assert shape.d_model <= 256
    assert abs(shape.d_ff - ratio * shape.d_model) <= 0.1 * ratio * shape.d_model + 1


def test_fit_says_when_there_is_none() -> None:
    with pytest.raises(ReluctantError, match="there is none: choose another size"):
        fit(10**7, 0.25, 2000, 3, widest=128, tolerance=0.02)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.integers(1, 3000), st.booleans(), st.integers(0, 5000))
def test_no_other_d_ff_is_nearer(half: int, d_ff: int, gated: bool, more: int) -> None:
    budget = parameters(Shape(2 * half, d_ff), 500, 3, gated=gated) + more
    found = d_ff_for(budget, 2 * half, 500, 3, gated=gated)
    missed = [
        abs(parameters(Shape(2 * half, found + i), 500, 3, gated=gated) - budget)
        for i in (-1, 0, 1)
    ]
    assert missed[1] == min(missed)


def test_the_full_plan_keeps_its_promises() -> None:
    """Equal parameters within 2 %, no d_model above 128; of every model that has to be equal."""
    budget = parameters(Shape(FULL.d_model, FULL.d_ff), FULL.vocab_size, FULL.layers)
    for name in {each.name for each in pieces(FULL) if each.kind == MODEL}:
        found = variant(name, FULL, FULL.vocab_size, 1)
        assert found.settings.d_model <= 128
        factor = FULL.sizes[("small", "middle", "large").index(ratios(FULL)[name][1])] if (
            name in ratios(FULL)
        ) else 1  # fmt: skip
        if name not in ("none", "none-half"):
            assert abs(counted(found.build(FULL.vocab_size)) / budget / factor - 1) < 0.02, name


def test_a_name_that_is_none() -> None:
    with pytest.raises(ReluctantError, match="the name of a model"):
        variant("nonsense", FULL, 2000, 1)


IDS = torch.tensor([[5, 7, 9, 4, 11, 2, 0], [6, 3, 8, 2, 0, 0, 0]])


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [True, False])
def test_without_feed_forward(norm_first: bool) -> None:
    """As if its output were zero and its norm not there."""
    model, other = built(norm_first), built(norm_first)
    variants.without_feed_forward(model)
    layer, plain = model.encoder.layers[0], other.encoder.layers[0]
    x = torch.randn(2, 5, 8)
    assert torch.equal(layer(x), plain.add_norm_1(x, lambda x: plain.multi_head_attention(x, x)))
    assert not any("feed_forward" in name for name, _ in model.named_parameters())
    assert model(IDS, IDS).shape == (2, 7, 40)


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [True, False])
def test_without_residual(norm_first: bool) -> None:
    model, other = built(norm_first), built(norm_first)
    variants.without_residual(model)
    x = torch.randn(2, 5, 8)
    after, plain = model.encoder.layers[0], other.encoder.layers[0]
    x_1 = plain.add_norm_1(x, lambda x: plain.multi_head_attention(x, x))
    norm, ffn = plain.add_norm_2.norm, plain.feed_forward
    assert torch.equal(after(x), ffn(norm(x_1)) if norm_first else norm(ffn(x_1)))
    variants.without_residuals(model)
    assert sum(isinstance(each, variants.Bare) for each in model.modules()) == 3 * 2 + 3 * 3
    assert counted(model) == counted(other)


@torch.no_grad()
def test_an_hourglass_is_its_blocks_one_after_the_other() -> None:
    glass = variants.Hourglass(6, 3, blocks=3).double()
    x = torch.randn(4, 6).double()
    stream = x
    for block in glass.blocks:
        stream = stream + block(stream)
    assert torch.allclose(glass(x), stream - x)


def test_shared_and_tapered_layers() -> None:
    one, other, plain = built(), built(), built()
    variants.shared(one)
    assert len({id(layer.feed_forward) for layer in layers_of(one).values()}) == 1
    variants.shared_in_encoder(other)
    assert len({id(layer.feed_forward) for layer in other.encoder.layers}) == 1
    for model in (one, other):
        ffn: Any = model.encoder.layers[0].feed_forward
        assert abs(ffn.d_ff / (6 * 32) - 1) < 0.05
    tapered = built()
    variants.tapered([2, 0.5, 0.5])(tapered)
    for stack in (tapered.encoder, tapered.decoder):
        widths = [layer.feed_forward.d_ff for layer in stack.layers]  # type: ignore[union-attr]
        assert widths == [64, 16, 16]
    assert counted(tapered) == counted(plain)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31))
def test_layers_with_the_identity_collapse(d_model: int, d_ff: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer, x = FeedForward(d_model, d_ff, "identity"), torch.randn(20, d_model)
    exact = copy.deepcopy(layer).double()(x.double())
    found = nonlinearity.collapsed(layer)(x.double())
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-9)
    other = FeedForward(d_model, d_ff)
    with torch.no_grad():  # and layers with ReLU do not
        other.up.bias.fill_(-0.5)
        y = other(torch.cat([x, -x]) * 10)
    assert not torch.allclose(nonlinearity.collapsed(other)(torch.cat([x, -x]) * 10), y, atol=1e-3)


def test_training_begins_with_what_is_built(text: Text) -> None:
    for name in ("base", "hourglass", "shared", "early"):
        found = variant(name, TINY, len(text.vocabulary), 1)
        begun = dict(learner(found, len(text.vocabulary)).model.named_parameters())
        for key, parameter in found.build(len(text.vocabulary)).named_parameters():
            assert torch.equal(parameter, begun[key]), (name, key)


def test_every_model_learns(text: Text) -> None:
    """Two steps change every parameter, but for keys' biases: softmax does not feel these. And but
    for the model without any residual, in the depths of which no gradient is left.
    """
    names = dict.fromkeys(each.name for each in pieces(TINY) if each.kind == MODEL)
    for name in names.keys() - {"no-residuals"}:
        found = variant(name, TINY, len(text.vocabulary), 1)
        learning = learner(found, len(text.vocabulary))
        before = {key: each.detach().clone() for key, each in learning.parameters.items()}
        for step in (1, 2):
            learning.step(step, [next(endless(text.train.batches(120, 1)))])
        still = [k for k, each in learning.parameters.items() if torch.equal(each, before[k])]
        assert [key for key in still if not key.endswith("key.bias")] == [], name


def test_learning_is_the_same_again_and_its_loss_is_of_the_held_out_text(text: Text) -> None:
    steps: list[int] = []
    found = variant("base", TINY, len(text.vocabulary), 1)
    model, result = learn(found, text, TINY.points, lambda step, _: steps.append(step))
    again = learn(found, text, TINY.points, lambda *_: None)[1]
    assert result == again
    assert steps == [1, 2, 3]
    assert [point["step"] for point in result["curve"]] == [1, 2, 3]
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for source, target in zip(text.valid.sources, text.valid.targets, strict=True):
            logits = model(torch.tensor([[*source, 2]]), torch.tensor([[1, *target]]))[0]
            labels = torch.tensor([*target, 2])
            nats += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            tokens += len(labels)
    assert result["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert result["parameters"] == counted(model)
    assert loss(model, text.validation()) == result["loss"]


def test_what_diverges_is_said_and_stops_nothing(text: Text) -> None:
    found = variant("base", replace(TINY, lr=1e30, warm_up=1), len(text.vocabulary), 1)
    result = learn(found, text, 1, lambda *_: None)[1]
    assert result["loss"] is None
    assert result["diverged"] in (2, 3)


def test_other_seeds_and_other_activations_learn_otherwise(text: Text) -> None:
    results = [
        learn(variant(name, TINY, len(text.vocabulary), seed), text, 1, lambda *_: None)[1]["loss"]
        for name, seed in (("base", 1), ("base", 2), ("identity", 1), ("none", 1))
    ]
    assert len(set(results)) == 4


def test_seen_are_the_layers_own_inputs_and_outputs(text: Text) -> None:
    """One sentence after the other, without padding, of layers of their own and of a shared one."""
    for name in ("base", "shared", "shared-encoder"):
        model = variant(name, TINY, len(text.vocabulary), 1).build(len(text.vocabulary))
        batches = text.valid.sample(60)
        found = seen(model, batches)
        assert ("decoder.layers.0" in found) == (name != "shared-encoder")
        for key, each in found.items():
            side = "source" if key.startswith("encoder") else "labels"
            tokens = sum(int((getattr(b, side) != PAD).sum()) for b in batches)
            ffn = layers_of(model)[key].feed_forward
            assert each.x.shape == (tokens, 8)
            with torch.no_grad():
                assert torch.allclose(ffn(each.x), each.y, atol=1e-5)
                assert torch.allclose(torch.relu(ffn.up(each.x)), each.h, atol=1e-5)
        first = batches[0].source[0][batches[0].source[0] != PAD]
        with torch.no_grad():
            x = model.dropout(
                model.input_positions(model.input_embedding(first[None]) * model.scale)
            )
            layer = model.encoder.layers[0]
            x = layer.add_norm_1(x, partial(self_attention, layer))
            wanted = layer.add_norm_2.norm(x)[0]
        assert torch.allclose(found["encoder.layers.0"].x[: len(first)], wanted, atol=1e-5)


def self_attention(layer: Any, x: Tensor) -> Tensor:
    return layer.multi_head_attention(x, x)


def stack(model: Transformer, x: Tensor) -> Tensor:
    """The encoder by hand, whatever its layers are."""
    for layer in model.encoder.layers:
        attention = partial(self_attention, layer)
        x = layer.add_norm_2(layer.add_norm_1(x, attention), layer.feed_forward)
    return model.encoder.norm(x)


@torch.no_grad()
def test_layers_left_out_and_swapped() -> None:
    x = torch.randn(2, 5, 8)

    def zero(model: Transformer, index: int) -> None:
        down: Any = model.encoder.layers[index].feed_forward
        down.down.weight.zero_()
        down.down.bias.zero_()

    left, silent = built(), built()
    residual.leave_ffn(left.encoder, 1)
    zero(silent, 1)
    assert torch.allclose(left.encoder(x), stack(silent, x), atol=1e-6)
    swapped, by_hand = built(), built()
    residual.swap_ffns(swapped.encoder, 0)
    one, two = by_hand.encoder.layers[0], by_hand.encoder.layers[1]
    for name in ("feed_forward", "add_norm_2"):
        states = [copy.deepcopy(getattr(each, name).state_dict()) for each in (one, two)]
        getattr(one, name).load_state_dict(states[1])
        getattr(two, name).load_state_dict(states[0])
    assert torch.allclose(swapped.encoder(x), stack(by_hand, x), atol=1e-6)
    assert not torch.allclose(swapped.encoder(x), built().encoder(x), atol=1e-3)
    fewer, other = built(), built()
    residual.leave_layer(fewer.encoder, 0)
    residual.swap_layers(other.encoder, 1)
    order = [built().encoder.layers[i] for i in (0, 2, 1)]
    wanted = x
    for layer in order:
        wanted = layer(wanted)
    assert torch.allclose(other.encoder(x), built().encoder.norm(wanted), atol=1e-6)
    assert len(fewer.encoder.layers) == 2
    assert other(IDS, IDS).shape == fewer(IDS, IDS).shape


def test_swapped_twice_is_as_before() -> None:
    model = built()
    before = model(IDS, IDS)
    for swap in (residual.swap_ffns, residual.swap_layers):
        for name in ("encoder", "decoder"):
            swap(getattr(model, name), 1)
            assert not torch.equal(model(IDS, IDS), before)
            swap(getattr(model, name), 1)
    assert torch.equal(model(IDS, IDS), before)


def test_attention_alone_makes_positions_alike_by_depth(text: Text) -> None:
    """Dong et al. 2021, at initialisation; and with its residual it does not."""
    deep = replace(TINY, layers=8)
    model = variant("base", deep, len(text.vocabulary), 1).build(len(text.vocabulary))
    batches = text.valid.sample(100)
    whole = nonlinearity.by_depth(model, batches)
    for step in nonlinearity.PATHS["attention alone"]:
        step(model)
    alone = nonlinearity.by_depth(model, batches)
    assert len(alone["distance"]) == len(alone["sentence_rank"]) == 9
    assert alone["sentence_rank"][-1] == pytest.approx(1, abs=1e-4)
    assert whole["sentence_rank"][-1] > 2
    assert alone["distance"][0] == whole["distance"][0]
    assert alone["distance"][-1] < 1e-4
    assert whole["distance"][-1] > 0.3
    assert all(later < before or before < 1e-5 for before, later in pairwise(alone["distance"]))


def test_plans_have_settings_that_fit() -> None:
    for plan in (FULL, QUICK, Plan(steps=7)):
        found = plan.settings(plan.seeds[0])
        assert (found.steps, found.engine, found.dropout) == (plan.steps, False, 0.0)
        assert found.schedule == "inverse-sqrt"
