"""Weights copied from torch.nn.Transformer: the same outputs, the same gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reluctant
from reluctant.errors import ReluctantError
from reluctant.transformer import Transformer
from theirs import D_FF, HEADS, PAD, SOURCE, TARGET, V_SOURCE, V_TARGET, D, Theirs

# torch says which of its layers do not take its fused path
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")


@pytest.mark.parametrize("pad", [None, PAD])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_first": True},
        {"batch_first": False},
        {"bias": False},
        {"activation": "gelu", "layer_norm_eps": 1e-3},
        {"activation": F.hardswish, "norm_first": True, "bias": False},
    ],
    ids=lambda options: ",".join(options) if isinstance(options, dict) else str(options),
)
def test_same_logits_and_gradients_in_float64(options: dict[str, Any], pad: int | None) -> None:
    theirs = Theirs(**options)
    ours = theirs.ours(pad=pad, bos=1, eos=2)
    real = TARGET != PAD  # what is computed at a target's padding nobody reads
    expected, got = theirs(SOURCE, TARGET, pad)[real], ours(SOURCE, TARGET)[real]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for logits in (expected, got):
        F.cross_entropy(logits, TARGET[real]).backward()
    layer, our_layer = theirs.transformer.decoder.layers[1], ours.decoder.layers[1]
    in_proj = [
        getattr(our_layer.masked_multi_head_attention, name).weight.grad
        for name in ("query", "key", "value")
    ]
    for mine, given in [
        (ours.input_embedding.weight.grad, theirs.source.weight.grad),
        (ours.output_embedding.weight.grad, theirs.target.weight.grad),
        (ours.linear.weight.grad, theirs.output.weight.grad),
        (torch.cat(in_proj), layer.self_attn.in_proj_weight.grad),
        (our_layer.feed_forward.up.weight.grad, layer.linear1.weight.grad),
        (our_layer.add_norm_3.norm.weight.grad, layer.norm3.weight.grad),
        (
            ours.encoder.layers[0].multi_head_attention.output.weight.grad,
            theirs.transformer.encoder.layers[0].self_attn.out_proj.weight.grad,
        ),
    ]:
        assert given.abs().max() > 1e-6
        torch.testing.assert_close(mine, given, rtol=1e-9, atol=1e-11)


def test_same_logits_in_float32_in_eval_mode_to_rounding() -> None:
    theirs = Theirs(torch.float32).eval()
    ours = theirs.ours()
    assert not ours.training
    with torch.no_grad():
        torch.testing.assert_close(
            ours(SOURCE, TARGET), theirs(SOURCE, TARGET), rtol=1e-4, atol=1e-5
        )


def test_stacks_with_any_mask_and_without_last_norms() -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(D, HEADS, D_FF, 0.0, layer_norm_eps=1e-4, batch_first=True)
    other = nn.TransformerDecoderLayer(D, HEADS, D_FF, 0.0, layer_norm_eps=1e-4, batch_first=True)
    stacks = (
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        nn.TransformerDecoder(other, 2, nn.LayerNorm(D, eps=0.1, bias=False)),
    )
    theirs = nn.Transformer(D, HEADS, custom_encoder=stacks[0], custom_decoder=stacks[1]).double()
    ours = Transformer.from_torch(theirs, nn.Embedding(V_SOURCE, D).double())
    x, y = torch.randn(2, 3, 5, D, dtype=torch.float64)
    allowed = torch.rand(5, 5) > 0.4
    allowed |= torch.eye(5, dtype=torch.bool)
    scores = torch.randn(5, 5, dtype=torch.float64)
    for mask in (allowed, scores):
        flipped = ~mask if mask.dtype == torch.bool else mask  # in torch's layers True is masked
        expected = stacks[0](x, mask=flipped)
        torch.testing.assert_close(ours.encoder(x, mask), expected, rtol=1e-10, atol=1e-10)
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        expected = stacks[1](y, x, tgt_mask=causal, memory_mask=flipped)
        got = ours.decoder(y, ours.decoder.start(x, mask))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_dropout_is_copied_and_acts_in_training_only() -> None:
    theirs = Theirs(dropout=0.3)
    ours = theirs.ours()
    assert (ours.config.dropout, ours.config.attention_dropout) == (0.3, 0.3)
    assert ours.config.activation_dropout == 0.3
    assert not torch.equal(ours(SOURCE, TARGET), ours(SOURCE, TARGET))
    ours.eval()
    torch.testing.assert_close(ours(SOURCE, TARGET), theirs.eval()(SOURCE, TARGET))


def test_nothing_is_shared_with_the_original() -> None:
    theirs = Theirs()
    ours = theirs.ours(positions=nn.Embedding(8, D).double())
    pointers = {p.data_ptr() for p in theirs.parameters()}
    assert pointers.isdisjoint(p.data_ptr() for p in ours.parameters())


def test_tables_of_positions_shared_embedding_and_tied_output() -> None:
    theirs = Theirs()
    tables = torch.randn(2, 8, D, dtype=torch.float64)
    shared = {"target_embedding": None, "output": None, "embedding_scale": 1.0}
    ours = theirs.ours(positions=(tables[0], tables[1][None]), **shared)
    assert ours.config.positions == "fixed"
    assert ours.linear.weight is ours.output_embedding.weight is ours.input_embedding.weight
    x, y = theirs.source(SOURCE) + tables[0, :6], theirs.source(TARGET) + tables[1, :4]
    mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
    expected = theirs.transformer(x, y, tgt_mask=mask) @ theirs.source.weight.T
    torch.testing.assert_close(ours(SOURCE, TARGET), expected, rtol=1e-10, atol=1e-10)
    trainable = theirs.ours(positions=nn.Parameter(tables[0]), **shared)
    assert trainable.config.positions == "learned"
    assert torch.equal(trainable.output_positions.table, tables[0])
    assert isinstance(trainable.output_positions.table, nn.Parameter)


def test_a_model_that_engines_serve_is_copied_too() -> None:
    theirs = Theirs(torch.float32).eval()
    with torch.no_grad():
        expected = theirs.ours()(SOURCE, TARGET)
        reluctant.optimize(theirs.transformer)
        torch.testing.assert_close(theirs.ours()(SOURCE, TARGET), expected)


class _Swapped(nn.TransformerEncoderLayer):
    def _sa_block(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super()._sa_block(x, *args, **kwargs)


def _stack(layer: nn.TransformerEncoderLayer, norm: nn.Module | None = None) -> Any:
    return nn.TransformerEncoder(layer, 1, norm, enable_nested_tensor=False)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"activation": torch.sin}, "register_activation"),
        ({"custom_encoder": nn.Identity()}, "plain nn.TransformerEncoder, got Identity"),
        (
            {"custom_encoder": _stack(_Swapped(D, HEADS, D_FF))},
            "plain nn.TransformerEncoderLayer, got _Swapped",
        ),
        (
            {"custom_encoder": _stack(nn.TransformerEncoderLayer(D, 2, D_FF))},
            "expected one heads throughout, got 2 and 4",
        ),
        (
            {"custom_encoder": _stack(nn.TransformerEncoderLayer(D, HEADS, D_FF), nn.RMSNorm(D))},
            "plain nn.LayerNorm, got RMSNorm",
        ),
    ],
)
def test_refuses_what_it_has_no_place_for(parts: dict[str, Any], message: str) -> None:
    theirs = nn.Transformer(D, HEADS, 1, 1, D_FF, **parts)
    with pytest.raises(ReluctantError, match=message):
        Transformer.from_torch(theirs, nn.Embedding(V_SOURCE, D))


def test_refuses_what_is_no_transformer() -> None:
    with pytest.raises(ReluctantError, match=r"expected an nn\.Transformer, got Linear"):
        Transformer.from_torch(nn.Linear(D, D), nn.Embedding(V_SOURCE, D))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_embedding": nn.Embedding(V_TARGET, D + 2)}, "target_embedding: expected"),
        ({"target_embedding": nn.Embedding(V_TARGET, D).double()}, "got .* torch.float64"),
        ({"target_embedding": nn.Embedding(V_TARGET, D, max_norm=1.0)}, "max_norm"),
        ({"output": nn.Linear(D, V_TARGET + 1)}, "output: expected"),
        ({"positions": torch.zeros(8, D + 1)}, "positions: expected"),
        ({"positions": (torch.zeros(8, D), torch.zeros(9, D))}, "positions: expected"),
        ({"positions": (torch.zeros(8, D), None)}, "positions: expected"),
        ({"pad": V_TARGET}, "pad, bos, eos"),
    ],
)
def test_refuses_parts_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReluctantError, match=message):
        Theirs(torch.float32).ours(**options)
