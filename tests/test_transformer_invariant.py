"""With batch_invariant, a sentence decoded alone and in a padded batch gives the same bits."""

import pytest
import torch

import reluctant
from reluctant.errors import ReluctantError
from reluctant.surgery.attentions import AttentionSeat
from reluctant.surgery.swap import map_seat_of
from reluctant.transformer import Transformer, TransformerConfig, beam_search, greedy
from reluctant.transformer.attention import MultiHeadAttention

VARIANTS = {
    "base": {},
    "pre-norm, gelu": {"norm_first": True, "activation": "gelu"},
    "gated, no biases": {"activation": "reglu", "bias": False},
    "learned positions": {"positions": "learned", "max_positions": 60},
}


def made(**config) -> Transformer:
    torch.manual_seed(0)
    sizes = {"d_model": 48, "heads": 4, "d_ff": 200, "encoder_layers": 2, "decoder_layers": 2}
    return Transformer(TransformerConfig(5000, **sizes, **config)).eval()


def batch(count=8, seed=1):
    """Sentences of 3 to 38 tokens, and all of them padded to one length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [3 + 5 * k for k in range(count)]
    alone = [torch.randint(3, 5000, (1, n), generator=generator) for n in lengths]
    padded = torch.zeros(count, max(lengths), dtype=torch.int64)
    for row, ids in zip(padded, alone, strict=True):
        row[: ids.shape[1]] = ids[0]
    return alone, padded


def cut(tokens, like):
    return tokens[..., : like.shape[-1]]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_logits(variant):
    model = made(**VARIANTS[variant])
    alone, padded = batch()
    target = torch.randint(3, 5000, (8, 7))
    wanted = model(padded, target)
    report = reluctant.optimize(model, batch_invariant=True)
    together = model(padded, target)
    torch.testing.assert_close(together, wanted, rtol=1e-4, atol=1e-5)
    for k, ids in enumerate(alone):
        assert torch.equal(model(ids, target[k : k + 1])[0], together[k])
        cache = model.start(ids)  # and step by step
        steps = [model.decode(target[k : k + 1, i : i + 1], cache) for i in range(7)]
        assert torch.equal(torch.cat(steps, 1)[0], together[k])
    assert report.outside is not None
    assert not any(each.startswith("MultiHead") for each in report.outside)
    seats = [map_seat_of(m) for m in model.modules() if isinstance(m, MultiHeadAttention)]
    assert len(seats) == 6
    for seat in seats:
        assert isinstance(seat, AttentionSeat)
        assert seat.calls["kernel"] > 0
        assert seat.calls["torch"] == 0
    reluctant.restore(model)
    torch.testing.assert_close(model(padded, target), wanted)


@torch.no_grad()
def test_decoding():
    model = made()
    alone, padded = batch()
    reluctant.optimize(model, batch_invariant=True)
    chosen = greedy(model, padded, max_length=12)
    beams = beam_search(model, padded, beam=3, max_length=12)
    for k, ids in enumerate(alone):
        own = greedy(model, ids, max_length=12)[0]
        assert torch.equal(own, cut(chosen[k], own))
        best = beam_search(model, ids, beam=3, max_length=12)
        assert torch.equal(best.tokens[0], cut(beams.tokens[k], best.tokens))
        assert torch.equal(best.scores[0], beams.scores[k])


def test_what_is_asked_for_is_served_and_no_more():
    model = MultiHeadAttention(TransformerConfig(50, d_model=32, heads=4)).eval()
    with pytest.raises(ReluctantError, match="found no feed-forward layer"):
        reluctant.optimize(model, parts=("feed_forward",), batch_invariant=True)
    assert type(model) is MultiHeadAttention
    report = reluctant.optimize(model, batch_invariant=True)
    assert report.attentions == ("",)
    assert "1 attentions" in str(report)
    x = torch.randn(1, 6, 32)
    with torch.no_grad():
        memory = model.keys_values(x[:, :2])
        y = model.attend(x, *memory, causal=True)  # more queries than keys: torch's
        reluctant.restore(model)
        torch.testing.assert_close(y, model.attend(x, *memory, causal=True))


def test_a_learned_mask_gets_its_gradient():
    model = MultiHeadAttention(TransformerConfig(50, d_model=32, heads=4)).eval()
    model.requires_grad_(False)
    reluctant.optimize(model, batch_invariant=True)
    mask = torch.zeros(1, 4, 5, 5, requires_grad=True)
    x = torch.randn(1, 5, 32)
    model(x, x, mask).square().sum().backward()
    assert mask.grad.abs().max() > 0


@torch.no_grad()
def test_one_sentences_mask_is_its_own():
    model = MultiHeadAttention(TransformerConfig(50, d_model=32, heads=4)).eval()
    reluctant.optimize(model, batch_invariant=True)
    x, mask = torch.randn(6, 7, 32), torch.zeros(6, 1, 1, 7)
    before = model(x, x, mask)
    mask[5, ..., 2] = -1e4
    after = model(x, x, mask)
    assert torch.equal(after[:5], before[:5])
    assert not torch.equal(after[5], before[5])


def test_gradients_and_dropout_are_torchs():
    model = made(attention_dropout=0.5)
    reluctant.optimize(model, batch_invariant=True)
    alone, _ = batch(1)
    model(alone[0], torch.ones(1, 3, dtype=torch.int64)).sum().backward()
    model.train()
    with torch.no_grad():
        model(alone[0], torch.ones(1, 3, dtype=torch.int64))
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            assert map_seat_of(module).calls["kernel"] == 0
            assert module.query.weight.grad is not None
