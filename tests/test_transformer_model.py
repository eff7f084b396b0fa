"""The model itself: figure 1's boxes, what they share, and what they make of hostile input."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reluctant import FeedForward
from reluctant.errors import ReluctantError
from reluctant.transformer import AddNorm, MultiHeadAttention, Transformer, TransformerConfig

SOURCE, TARGET = torch.tensor([[5, 7, 4, 9, 3], [4, 8, 6, 10, 3]]), torch.tensor([[1, 4], [1, 9]])


def build(dtype: torch.dtype = torch.float64, **options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "source_vocab": 12}
    sizes |= {"d_model": 16, "heads": 4, "d_ff": 64}
    return Transformer(TransformerConfig(**(sizes | options))).to(dtype).eval()


def test_the_boxes_of_figure_1_are_there_under_their_names() -> None:
    model = Transformer(TransformerConfig(100, 90, d_model=16, heads=4, d_ff=64))
    for layers, boxes in [
        (model.encoder.layers, ["multi_head_attention", "feed_forward"]),
        (
            model.decoder.layers,
            ["masked_multi_head_attention", "multi_head_attention", "feed_forward"],
        ),
    ]:
        assert len(layers) == 6
        for layer in layers:
            parts = dict(layer.named_children())
            assert [name for name in parts if not name.startswith("add_norm")] == boxes
            assert sum(isinstance(part, AddNorm) for part in parts.values()) == len(boxes)
            assert isinstance(layer.feed_forward, FeedForward)
            assert isinstance(layer.multi_head_attention, MultiHeadAttention)
    assert model.input_embedding.weight.shape == (100, 16)
    assert model.output_embedding.weight.shape == model.linear.weight.shape == (90, 16)


def test_no_two_layers_share_a_parameter() -> None:
    layers = [*(model := build()).encoder.layers, *model.decoder.layers]
    seen: set[int] = set()
    for layer in layers:
        pointers = {parameter.data_ptr() for parameter in layer.parameters()}
        assert len(pointers) == len(list(layer.parameters()))
        assert seen.isdisjoint(pointers)
        seen |= pointers


def test_the_feed_forward_layer_is_position_wise() -> None:
    model, order = build(), torch.randperm(9)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        y = layer.feed_forward(x)
        torch.testing.assert_close(layer.feed_forward(x[:, order]), y[:, order])
        changed = x.clone()
        changed[:, 4] += 1
        others = [0, 1, 2, 3, 5, 6, 7, 8]
        torch.testing.assert_close(layer.feed_forward(changed)[:, others], y[:, others])


def test_only_the_positional_encoding_tells_positions_apart() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    blind, model = build(positions="fixed"), build()  # a fixed table is zero until it is given
    torch.testing.assert_close(blind.encode(SOURCE[:, order]), blind.encode(SOURCE)[:, order])
    assert not torch.allclose(model.encode(SOURCE[:, order]), model.encode(SOURCE)[:, order])


def test_sinusoids_are_the_formula_at_any_length_and_dtype() -> None:
    model = build()
    for length, dtype in [(3, torch.float32), (3, torch.float64), (700, torch.float64)]:
        got = model.to(dtype).input_positions(torch.zeros(1, 2, 16, dtype=dtype), length - 2)[0]
        for i in range(16):
            function = math.cos if i % 2 else math.sin
            expected = function((length - 1) / 10000 ** (2 * (i // 2) / 16))
            assert abs(got[-1, i].item() - expected) <= torch.finfo(dtype).eps * length


def test_dropout_is_where_the_paper_has_it() -> None:
    """With everything dropped, only the norms of zeros are left."""
    model = build(dropout=1.0).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("bias"):
                nn.init.normal_(parameter)
    expected = torch.zeros(16, dtype=torch.float64)
    for layer in model.encoder.layers:
        expected = layer.add_norm_2.norm(layer.add_norm_1.norm(expected))
    torch.testing.assert_close(model.encode(SOURCE), expected.expand(2, 5, 16))
    for layer in model.decoder.layers:
        norms = (layer.add_norm_1.norm, layer.add_norm_2.norm, layer.add_norm_3.norm)
        expected = torch.zeros_like(expected) if layer is model.decoder.layers[0] else expected
        for norm in norms:
            expected = norm(expected)
    torch.testing.assert_close(model(SOURCE, TARGET)[0, 0], model.linear(expected))


def test_dropout_comes_before_the_residual_in_pre_norm_too() -> None:
    model = build(dropout=1.0, norm_first=True, encoder_norm=False).train()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            nn.init.normal_(parameter)
    assert model.encode(SOURCE).eq(0).all()


def test_attention_weights_are_dropped_in_training_only() -> None:
    model = build(dropout=0.0, attention_dropout=0.5)
    assert torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))
    model.train()
    assert not torch.allclose(model(SOURCE, TARGET), model(SOURCE, TARGET))


def test_no_position_sees_what_comes_after_it() -> None:
    model, target = build(), torch.tensor([[1, 4, 9, 3]])
    changed = torch.tensor([[1, 4, 5, 6]])
    before, after = model(SOURCE[:1], target), model(SOURCE[:1], changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_changes_nothing(norm_first: bool) -> None:
    model = build(norm_first=norm_first)
    padded = torch.nn.functional.pad(SOURCE, (0, 4))
    torch.testing.assert_close(model(padded, TARGET), model(SOURCE, TARGET))
    unmasked = build(norm_first=norm_first, pad=None)
    assert not torch.allclose(unmasked(padded, TARGET), unmasked(SOURCE, TARGET))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_source_of_padding_only_is_as_if_there_were_none(dtype: torch.dtype) -> None:
    model = build(dtype)
    source = SOURCE.clone()
    source[1] = 0
    logits = model(source, TARGET)
    torch.testing.assert_close(logits[0], model(SOURCE, TARGET)[0])
    longer = torch.zeros(1, 1100, dtype=torch.long)  # attention kernels go block by block
    torch.testing.assert_close(logits[1:], model(longer, TARGET[1:]))
    logits.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    bias = model.decoder.layers[0].multi_head_attention.output.bias
    attention = model.decoder.layers[0].multi_head_attention
    mask = model.padding_mask(source[1:])
    x, memory = torch.randn(1, 2, 16, dtype=dtype), torch.randn(1, 5, 16, dtype=dtype)
    torch.testing.assert_close(attention(x, memory, mask), bias.expand(1, 2, 16))


def test_empty_batches_and_single_positions() -> None:
    model = build()
    assert model(SOURCE[:0], TARGET[:0]).shape == (0, 2, 12)
    assert model(SOURCE[:, :1], TARGET[:, :1]).shape == (2, 1, 12)


def test_tied_weights_stay_tied_in_copies() -> None:
    model = copy.deepcopy(build(torch.float32)).double()
    assert model.linear.weight is model.output_embedding.weight is model.input_embedding.weight
    model(SOURCE, TARGET).sum().backward()
    assert model.input_embedding.weight.grad is not None
    loose = build(tied=False, target_vocab=12, output_bias=True)
    assert len({id(m.weight) for m in (loose.linear, loose.output_embedding)}) == 2
    assert loose.linear.bias is not None
    assert model.linear.bias is None


def test_learned_positions_end_where_the_table_ends() -> None:
    model = build(positions="learned", max_positions=5)
    cache = model.start(SOURCE)
    for _ in range(5):
        model.decode(TARGET[:, :1], cache)
    with pytest.raises(ReluctantError, match="at most max_positions=5 positions, got 6"):
        model.decode(TARGET[:, :1], cache)
    with pytest.raises(ReluctantError, match="at most max_positions=5 positions, got 10"):
        model(torch.cat([SOURCE, SOURCE], 1), TARGET)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SOURCE[0], TARGET, "as many targets as sources"),
        (SOURCE, TARGET[:1], "as many targets as sources"),
        (SOURCE[:, :, None], TARGET, r"token ids \(batch, length\).*got \(2, 5, 1\)"),
        (SOURCE[:, :0], TARGET, "length at least 1"),
        (SOURCE, TARGET[:, :0], "length at least 1"),
        (SOURCE.double(), TARGET, "torch.float64"),
        (SOURCE + 5, TARGET, "expected token ids from 0 to 11, got 8 to 15"),
        (SOURCE, TARGET - 2, "expected token ids from 0 to 11, got -1 to 7"),
    ],
)
def test_says_what_is_wrong_with_the_ids(source: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        build()(source, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model: expected an integer from 1 up, got 0"),
        ({"d_model": 16.0}, "d_model: expected an integer"),
        ({"encoder_layers": True}, "encoder_layers: expected an integer"),
        ({"heads": 3}, "heads: expected a divisor of d_model=16, got 3"),
        ({"d_model": 15, "heads": 3}, "an even number for sinusoidal"),
        ({"dropout": 1.5}, "dropout: expected a probability"),
        ({"attention_dropout": "no"}, "attention_dropout: expected a probability"),
        ({"norm_first": 1}, "norm_first: expected True or False"),
        ({"norm_eps": 0.0}, "norm_eps: expected a positive finite number"),
        ({"embedding_scale": float("inf")}, "embedding_scale: expected a positive finite"),
        ({"positions": "rotary"}, "positions: expected one of sinusoidal, learned, fixed"),
        ({"activation": "rleu"}, "unknown activation 'rleu'"),
        ({"eos": 12}, "pad, bos, eos: expected three different ids below 12"),
        ({"pad": 5, "target_vocab": 5}, "three different ids below 5"),
        ({"pad": 1}, "pad, bos, eos"),
        ({"bos_shared": True}, "bos_shared: expected a bos that is pad or eos"),
        ({"bos_shared": True, "bos": 0, "pad": 2}, "bos_shared"),
        ({"bos": -1}, "bos: expected an integer from 0 up"),
        ({"target_vocab": 0}, "target_vocab: expected an integer from 1 up"),
    ],
)
def test_config_refuses_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        build(**options)


def test_gated_layers_fit_in_by_their_published_names() -> None:
    model = build(activation="reglu")
    assert model.encoder.layers[0].feed_forward.gated
    assert model(SOURCE, TARGET).isfinite().all()
