"""A served encoder-decoder's steps as programs: the same numbers as its own, and nobody misled."""

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reluctant
from reluctant.errors import ReluctantError
from reluctant.surgery.swap import map_seat_of
from reluctant.transformer import Transformer, TransformerConfig, beam_search, greedy
from reluctant.transformer import pooled_beam_search as pooled
from reluctant.transformer import served as programs
from reluctant.transformer.steps import Steps

V, D = 5000, 256
SOURCES = torch.tensor([[3, 4, 5, 6, 11], [7, 8, 9, 0, 0], [10, 0, 0, 0, 0], [0, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def build(seed: int = 0, dtype: torch.dtype = torch.float16, **options: Any) -> Transformer:
    """Of numbers of a dtype; a tenth of its neurons are active."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": D, "heads": 4, "d_ff": 320, "encoder_layers": 1}
    sizes |= {"decoder_layers": 2, "norm_first": True}
    model = Transformer(TransformerConfig(V, **(sizes | options))).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape))
        if name.endswith("up.bias"):
            parameter.sub_(1.5)
        parameter.copy_(parameter.to(dtype))
    return model


def served(model: Transformer, **how: bool) -> Transformer:
    model = copy.deepcopy(model)
    reluctant.optimize(model, **({"narrow": True} | how))  # type: ignore[arg-type]
    return model


def logits(model: Transformer, targets: Tensor, sources: Tensor = SOURCES) -> tuple[Tensor, Any]:
    """Of every step, (rows, steps, V), with each source's targets side by side; and the steps."""
    steps = Steps(model, sources, targets.size(1) + 1)
    found = [steps.logits(targets[:, : k + 1]).clone() for k in range(targets.size(1))]
    return torch.stack(found, 1), steps


def off(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).square().mean().sqrt())


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float16, {}),
        (torch.float16, {"norm_first": False, "bias": False, "heads": 8}),
        (torch.float16, {"positions": "learned", "max_positions": 40, "embedding_norm": True}),
        (torch.float16, {"pad": None, "encoder_norm": False, "decoder_norm": False}),
        (torch.float16, {"activation": "gelu", "tied": False, "output_bias": True}),
        (torch.float32, {"target_vocab": 60}),
        (torch.float32, {"d_model": 32, "d_ff": 64}),  # no map large enough to gain by itself
    ],
)
def test_as_true_as_torch(dtype: torch.dtype, options: dict[str, Any]) -> None:
    plain = build(1, dtype, **options)
    targets = torch.randint(3, 60, (8, 36))
    sources = SOURCES[:3] if options.get("pad", 0) is not None else SOURCES[:1].expand(2, -1)
    rows = 2 * len(sources)
    targets = targets[:rows]
    truth = copy.deepcopy(plain).double()(sources.repeat_interleave(2, 0), targets)
    model = served(plain)
    first, _ = logits(model, targets, sources)  # in which feed-forward layers are looked at
    ours, steps = logits(model, targets, sources)
    theirs, _ = logits(plain, targets, sources)
    assert steps._decoder is not None
    assert off(ours, truth) <= 1.5 * off(theirs, truth)
    assert off(first, truth) <= 1.5 * off(theirs, truth)


@pytest.mark.parametrize("search", [greedy, beam_search, pooled])
@pytest.mark.parametrize("batch", [1, 4, 20])
def test_the_same_tokens(search: Any, batch: int) -> None:
    plain = build(2)
    model, sources = served(plain), SOURCES.repeat(5, 1)[:batch]
    for _ in range(2):
        ours, theirs = (search(m, sources, max_length=40) for m in (model, plain))
        if search is greedy:
            assert torch.equal(ours, theirs)
        else:
            assert torch.equal(ours.tokens, theirs.tokens)
            torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("search", [greedy, beam_search, pooled])
def test_with_a_prefix_and_a_forced_end(search: Any) -> None:
    plain = build(3)
    model = served(plain)
    options: dict[str, Any] = {"prefix": [7, 8, 9], "forced_eos": True, "max_length": 9}
    ours, theirs = (search(m, SOURCES, **options) for m in (model, plain))
    assert torch.equal(getattr(ours, "tokens", ours), getattr(theirs, "tokens", theirs))


def test_the_same_bits_for_any_number_of_threads() -> None:
    model, targets = served(build(4)), torch.randint(3, V, (8, 6))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            found.append(logits(model, targets)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], found[2])
    assert torch.allclose(found[0], found[1], atol=1e-5)  # in it layers were compared with torch's


def load(model: Transformer) -> None:
    model.load_state_dict(build(9).state_dict())


def write(model: Transformer) -> None:
    for parameter in model.decoder.parameters():
        parameter.mul_(2)


def write_longer_numbers(model: Transformer) -> None:
    layer: Any = model.decoder.layers[0]
    layer.multi_head_attention.output.weight.mul_(1.3)


def write_unseen(model: Transformer) -> None:
    layer: Any = model.decoder.layers[1]
    layer.multi_head_attention.query.weight.data.mul_(-1.5)
    layer.masked_multi_head_attention.value.bias.data.add_(1)


def replace(model: Transformer) -> None:
    attention: Any = model.decoder.layers[0].masked_multi_head_attention
    attention.key.weight = nn.Parameter(attention.key.weight.flip(0))


def scale(model: Transformer) -> None:
    layer: Any = model.decoder.layers[0]
    layer.add_norm_2.norm.eps = 0.5
    model.scale = 3.0


CHANGES = [load, write, write_longer_numbers, write_unseen, replace]


@pytest.mark.parametrize("change", [*CHANGES, scale])
def test_changes_between_decodings(change: Callable[[Transformer], None]) -> None:
    plain, targets = build(5), torch.randint(3, V, (4, 5))
    model = served(plain)
    before = [logits(model, targets)[0] for _ in range(2)][1]
    for each in (model, plain):
        change(each)
    ours, steps = logits(model, targets)
    assert steps._decoder is not None
    torch.testing.assert_close(ours, logits(plain, targets)[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, ours, atol=1e-2)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_steps(change: Callable[[Transformer], None]) -> None:
    plain = build(6)
    model = served(plain)
    greedy(model, SOURCES, max_length=3)

    def run(each: Transformer) -> list[Tensor]:
        seen = list[Tensor]()

        def choose(given: Tensor, step: int) -> Tensor:
            if step == 3:
                change(each)
            seen.append(given.nan_to_num(neginf=0.0))
            return torch.full((len(given),), 5 + step)

        greedy(each, SOURCES, max_length=7, choose=choose)
        return seen

    ours, theirs = run(model), run(plain)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def hook_norm(model: Transformer) -> None:
    norm: Any = model.decoder.layers[0].add_norm_1.norm
    norm.register_forward_hook(lambda module, args, y: y * 1.5)


def hook_part(model: Transformer) -> None:
    part: Any = model.decoder.layers[1].feed_forward.up
    part.register_forward_pre_hook(lambda module, args: (args[0] * 1.5,))


def own_forward(model: Transformer) -> None:
    layer: Any = model.encoder.layers[0]
    plain = layer.forward
    layer.forward = lambda *args: plain(*args).flip(-1)


def other_norm(model: Transformer) -> None:
    layer: Any = model.decoder.layers[0]
    layer.add_norm_1.norm = nn.RMSNorm(D)


def other_dtype(model: Transformer) -> None:
    model.double()


@pytest.mark.parametrize("change", [hook_norm, hook_part, own_forward, other_norm, other_dtype])
def test_who_changes_what_goes_on_has_it_so(change: Callable[[Transformer], None]) -> None:
    plain = build(7)
    model, targets = served(plain), torch.randint(3, V, (4, 4))
    before, steps = logits(model, targets)
    assert steps._decoder is not None
    for each in (model, plain):
        change(each)
    ours, steps = logits(model, targets)
    assert steps._decoder is None
    torch.testing.assert_close(ours, logits(plain, targets)[0], rtol=1e-4, atol=1e-4)
    assert change is other_dtype or not torch.allclose(before, ours, atol=1e-2)


def test_modes_and_restored_models() -> None:
    plain = build(8)
    model, targets = served(plain), torch.randint(3, V, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(model, targets)[1]._decoder is None
    with torch.enable_grad():
        assert logits(model, targets)[0].requires_grad
    assert logits(served(plain, batch_invariant=True), targets)[1]._decoder is None
    with torch.inference_mode():
        assert logits(model, targets)[1]._decoder is not None
    reluctant.restore(model)
    ours, steps = logits(model, targets)
    assert steps._decoder is None
    assert torch.equal(ours, logits(plain, targets)[0])


@pytest.mark.parametrize("search", [greedy, beam_search])
def test_a_mode_that_comes_between(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build(9)
    model, calls = served(plain), list[int]()

    def watched() -> bool:
        calls.append(1)
        return len(calls) > 5

    monkeypatch.setattr(programs, "is_watched", watched)
    ours, theirs = (search(m, SOURCES, max_length=12) for m in (model, plain))
    assert torch.equal(getattr(ours, "tokens", ours), getattr(theirs, "tokens", theirs))
    assert len(calls) == 6


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("search", [greedy, beam_search, pooled])
def test_another_default_dtype(search: Any, default: torch.dtype) -> None:
    """Kernels write float32 numbers: what torch makes by default has no room for them, or more."""
    model = served(build(12))
    wanted = search(model, SOURCES, max_length=40)
    torch.set_default_dtype(default)
    try:
        found = search(model, SOURCES, max_length=40)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(getattr(found, "tokens", found), getattr(wanted, "tokens", wanted))


def test_ids_that_are_none() -> None:
    model = served(build(10))
    with pytest.raises(ReluctantError, match="token ids"):
        greedy(model, torch.tensor([[3, V]]))
    with pytest.raises(ReluctantError, match="token ids"):
        greedy(model, SOURCES, choose=lambda given, step: torch.full((len(given),), V))


def test_nothing_is_kept_for_long() -> None:
    model, targets = served(build(11)), torch.randint(3, V, (4, 3))
    logits(model, targets)
    layer: Any = model.decoder.layers[0]
    query = layer.multi_head_attention.query
    seat: Any = map_seat_of(query)
    held = weakref.ref(seat.narrow_of(query).copied().copy)
    assert held() is not None
    reluctant.restore(model)
    assert held() is None
    reluctant.optimize(model, narrow=True)
    logits(model, targets)
    gone = weakref.ref(query)
    del model, layer, query, seat
    assert gone() is None
