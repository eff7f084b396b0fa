"""What a conversion from torch carries over besides weights, and what it refuses to lose."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from reluctant.errors import ReluctantError
from reluctant.transformer import Transformer, load, save
from theirs import D_FF, HEADS, SOURCE, TARGET, V_SOURCE, V_TARGET, D, Theirs

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")
Change = Callable[[Theirs], dict[str, Any] | None]


def embedding(n: int, **options: Any) -> nn.Embedding:
    return nn.Embedding(n, D, dtype=torch.float64, **options)


def padding_rows(theirs: Theirs) -> None:
    theirs.source = embedding(V_SOURCE, padding_idx=7)
    theirs.target = embedding(V_TARGET, padding_idx=9)


def padding_row_of_one_side(theirs: Theirs) -> None:
    theirs.target = embedding(V_TARGET, padding_idx=9)


def scaled_by_frequency(theirs: Theirs) -> None:
    theirs.source = embedding(V_SOURCE, scale_grad_by_freq=True)
    theirs.target = embedding(V_TARGET, scale_grad_by_freq=True)


def sparse(theirs: Theirs) -> None:
    theirs.source, theirs.target = (
        embedding(V_SOURCE, sparse=True),
        embedding(V_TARGET, sparse=True),
    )


def shared_weight(theirs: Theirs) -> None:
    """One weight in two modules, of which one has a row without gradients."""
    theirs.source = embedding(V_TARGET, padding_idx=6)
    theirs.target.weight = theirs.source.weight


def tied_output(theirs: Theirs) -> None:
    theirs.target = embedding(V_TARGET, padding_idx=9)
    theirs.output.weight = theirs.target.weight


def all_tied(theirs: Theirs) -> None:
    shared_weight(theirs)
    theirs.output.weight = theirs.source.weight


def frozen_parts(theirs: Theirs) -> None:
    theirs.transformer.encoder.requires_grad_(False)
    theirs.target.requires_grad_(False)
    layer = theirs.transformer.decoder.layers[1]
    layer.self_attn.in_proj_weight.requires_grad_(False)
    layer.norm2.bias.requires_grad_(False)
    layer.linear1.weight.requires_grad_(False)
    theirs.output.bias.requires_grad_(False)


def norms_without_weight(theirs: Theirs) -> None:
    theirs.transformer.encoder.norm = nn.LayerNorm(D, elementwise_affine=False)
    theirs.transformer.decoder.layers[0].norm1 = nn.LayerNorm(D, elementwise_affine=False)
    theirs.transformer.double()


def some_without_bias(theirs: Theirs) -> None:
    layer = theirs.transformer.encoder.layers[0]
    layer.linear1 = nn.Linear(D, D_FF, bias=False)
    layer.norm1 = nn.LayerNorm(D, bias=False)
    layer.self_attn = nn.MultiheadAttention(D, HEADS, bias=False, batch_first=True)
    theirs.transformer.double()


def one_learned_table(theirs: Theirs) -> dict[str, Any]:
    table = nn.Parameter(torch.randn(8, D, dtype=torch.float64))
    theirs.register_parameter("table", table)
    theirs.positions = (table, table)
    return {"positions": table}


def one_learned_table_and_one_fixed(theirs: Theirs) -> dict[str, Any]:
    table = nn.Parameter(torch.randn(8, D, dtype=torch.float64))
    theirs.register_parameter("table", table)
    theirs.positions = (table, torch.randn(8, D, dtype=torch.float64))
    return {"positions": theirs.positions}


def an_embedding_for_positions(theirs: Theirs) -> dict[str, Any]:
    theirs.add_module("table", table := embedding(8))
    theirs.positions = (table.weight, table.weight)
    return {"positions": table}


CHANGES = [
    *(padding_rows, padding_row_of_one_side, scaled_by_frequency, sparse, shared_weight),
    *(tied_output, all_tied, frozen_parts, norms_without_weight, some_without_bias),
    *(one_learned_table, one_learned_table_and_one_fixed, an_embedding_for_positions),
]


def train(model: Callable[[Tensor, Tensor], Tensor], parameters: Any) -> Tensor:
    """Logits after some steps, in which any difference of a gradient would show."""
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(SOURCE % V_TARGET, TARGET).flatten(0, 1), TARGET.flatten()).backward()
        optimizer.step()
    return model(SOURCE % V_TARGET, TARGET)


@pytest.mark.parametrize(
    "change",
    [pytest.param(c, marks=[] if i % 4 == 0 else pytest.mark.slow) for i, c in enumerate(CHANGES)],
    ids=lambda f: f.__name__,
)
def test_trains_as_the_original_does(change: Change, tmp_path: Path) -> None:
    theirs = Theirs()
    options = change(theirs) or {}
    ours = theirs.ours(**options)
    torch.testing.assert_close(ours(SOURCE % V_TARGET, TARGET), theirs(SOURCE % V_TARGET, TARGET))
    pytest.importorskip("safetensors")
    save(ours, tmp_path)
    back = load(tmp_path).train()
    expected = train(theirs, theirs.parameters())
    for model in (ours, back):
        got = train(model, model.parameters())
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
    again = theirs.ours(**options)  # weights that have moved alike, one by one
    for (name, mine), given in zip(ours.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine, given, rtol=1e-9, atol=1e-10, msg=name)
        assert mine.requires_grad == given.requires_grad


def test_gradients_of_embeddings_are_of_the_same_kind() -> None:
    theirs = Theirs()
    sparse(theirs)
    ours = theirs.ours()
    ours(SOURCE, TARGET).sum().backward()
    assert ours.input_embedding.weight.grad is not None
    assert ours.input_embedding.weight.grad.is_sparse
    theirs.source = embedding(V_SOURCE)
    with pytest.raises(ReluctantError, match="expected one sparse throughout"):
        theirs.ours()


def test_dropouts_are_those_of_each_place() -> None:
    theirs = Theirs(dropout=0.3)
    ours = theirs.ours(embedding_dropout=0.0)
    assert ours.dropout.p == 0
    assert theirs.ours().dropout.p == 0.3
    assert theirs.ours(embedding_dropout=0.1).dropout.p == 0.1
    for stack in (theirs.transformer.encoder, theirs.transformer.decoder):
        for layer in stack.layers:
            layer.dropout = nn.Identity()  # what drops nothing is often replaced so
    assert theirs.ours().config.activation_dropout == 0
    theirs.transformer.decoder.layers[1].dropout3.p = 0.2
    with pytest.raises(ReluctantError, match=r"expected one dropout throughout, got 0\.3 and 0\.2"):
        theirs.ours()


def test_dropout_in_training_is_the_originals() -> None:
    """With everything dropped in one kind of place, both give the same."""
    for where in ("dropout", "embedding_dropout"):
        theirs = Theirs(dropout=1.0 if where == "dropout" else 0.0)
        with torch.no_grad():
            got = theirs.ours(embedding_dropout=0.0)(SOURCE, TARGET)
            torch.testing.assert_close(got, theirs(SOURCE, TARGET))


def test_mode_device_and_dtype_are_the_originals_whatever_the_callers() -> None:
    for training in (True, False):
        theirs = Theirs(torch.bfloat16).train(training)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        with torch.device("meta"), torch.inference_mode():
            ours = theirs.ours()
        assert torch.equal(torch.get_rng_state(), before)
        assert all(module.training == training for module in ours.modules())
        for p in ours.parameters():
            assert (p.dtype, p.device.type, p.is_inference()) == (torch.bfloat16, "cpu", False)
            assert p.requires_grad
        ours(SOURCE, TARGET).sum().backward()
    torch.set_default_dtype(torch.float64)
    try:
        ours = Theirs(torch.float32).ours()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    empty = Theirs().to("meta")
    empty.output.weight = empty.target.weight
    ours = empty.ours()
    assert {p.device.type for p in ours.parameters()} == {"meta"}
    assert ours.linear.weight is ours.output_embedding.weight


@torch.no_grad()
def test_learned_positions_stay_learned_without_gradients() -> None:
    table = nn.Parameter(torch.randn(1, 8, D, dtype=torch.float64))
    ours = Theirs().ours(positions=table)
    assert ours.config.positions == "learned"
    assert ours.input_positions.table is ours.output_positions.table
    assert ours.output_positions.table.requires_grad


class Scaled(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return 2 * super().forward(ids)


class Special(nn.Parameter):
    """As quantised and distributed weights are."""


class Reversed(nn.Transformer):
    def forward(self, source: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        y: Tensor = super().forward(source.flip(1), target, **kwargs)
        return y


def _change(path: str, change: Callable[[Any], object]) -> Change:
    def apply(theirs: Theirs) -> None:
        change(theirs.get_submodule(path))

    return apply


def _set(path: str, make: Callable[[], object]) -> Change:
    holder, _, name = path.rpartition(".")
    return lambda theirs: setattr(theirs.get_submodule(holder), name, make())


LAYER = "transformer.encoder.layers.1"
HOOKS = "got one with hooks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("source", lambda: Scaled(V_SOURCE, D)), "source_embedding.*got Scaled"),
        (_set("target", lambda: embedding(V_TARGET, max_norm=1.0)), "target_embedding.*max_norm"),
        (_set("transformer", lambda: Reversed(D, HEADS, 1, 1)), "got Reversed"),
        (_change("transformer", lambda m: setattr(m, "forward", m.forward)), "forward of its own"),
        (_change(LAYER, lambda m: setattr(m, "_ff_block", m._ff_block)), "_ff_block of its own"),
        (_change(LAYER, lambda m: m.register_forward_hook(print)), HOOKS),
        (_change("output", lambda m: m.register_full_backward_hook(print)), HOOKS),
        (_change("source", lambda m: m.register_forward_pre_hook(print)), HOOKS),
        (_change("source", lambda m: m.weight.register_hook(print)), HOOKS),
        (
            _change("output", lambda m: m.weight.register_post_accumulate_grad_hook(print)),
            HOOKS,
        ),
        (_change(f"{LAYER}.linear1", lambda m: prune.l1_unstructured(m, "weight", 0.5)), HOOKS),
        (_change(f"{LAYER}.linear2", parametrizations.weight_norm), "parametrizations"),
        (_change("source", parametrizations.spectral_norm), "parametrizations"),
        (_set(f"{LAYER}.linear1.weight", lambda: Special(torch.zeros(D_FF, D))), "a Special for"),
        (_set(f"{LAYER}.linear1", nn.Identity), r"linear1: expected a plain nn\.Linear"),
        (_set(f"{LAYER}.dropout2", nn.AlphaDropout), "dropout2.*got AlphaDropout"),
        (_set(f"{LAYER}.norm1", lambda: nn.LayerNorm((6, D), elementwise_affine=False)), "shape"),
        (_change(f"{LAYER}.norm1", lambda m: setattr(m, "eps", 1e-3)), "one norm_eps throughout"),
        (
            _set(f"{LAYER}.self_attn", lambda: nn.MultiheadAttention(D, HEADS, batch_first=False)),
            "one batch_first throughout",
        ),
        (
            _set(f"{LAYER}.self_attn", lambda: nn.MultiheadAttention(D, HEADS, kdim=4)),
            "without kdim",
        ),
        (
            _set(f"{LAYER}.self_attn", lambda: nn.MultiheadAttention(D, HEADS, add_bias_kv=True)),
            "add_bias_kv",
        ),
        (
            _set(f"{LAYER}.self_attn", lambda: nn.MultiheadAttention(D, HEADS, add_zero_attn=True)),
            "add_zero_attn",
        ),
        (_set(f"{LAYER}.activation", lambda: F.gelu), "fused path goes on with relu"),
        (_set(f"{LAYER}.activation", nn.PReLU), "expected an activation of"),
        (_change(LAYER, lambda m: m.eval()), "one mode throughout"),
        (
            _change(LAYER, lambda m: m.float()),
            r"expected .*float64 .* got .*float32",
        ),
        (_change(LAYER, lambda m: m.to("meta")), "on meta"),
        (_change("target", lambda m: m.to("meta")), "target_embedding.*on meta"),
        (
            _change(
                "transformer.encoder.layers", lambda m: m.__setitem__(0, m[1])
            ),  # one layer, used twice
            "shared with another",
        ),
        (
            lambda theirs: setattr(theirs.output, "weight", embedding_of(theirs).weight),
            "weight shared with another",
        ),
    ],
)
def test_refuses_what_would_be_lost(change: Change, message: str) -> None:
    theirs = Theirs()
    change(theirs)
    with pytest.raises(ReluctantError, match=message):
        theirs.ours()


def embedding_of(theirs: Theirs) -> nn.Embedding:
    theirs.source = embedding(V_TARGET)
    return theirs.source


@pytest.mark.parametrize(
    "positions",
    [
        torch.zeros(8, 1, D, dtype=torch.float64),  # as torch's tutorial has it
        torch.zeros(2, 8, D, dtype=torch.float64),
        embedding(8, padding_idx=0),
        embedding(8, sparse=True),
        embedding(8, scale_grad_by_freq=True),
        embedding(8, max_norm=1.0),
        (torch.zeros(8, D, dtype=torch.float64),) * 3,
    ],
    ids=lambda p: type(p).__name__,
)
def test_refuses_positions_that_are_not_added_as_they_are(positions: Any) -> None:
    with pytest.raises(ReluctantError, match="positions: expected"):
        Theirs().ours(positions=positions)


def test_a_copy_of_a_copy_is_the_same_model() -> None:
    theirs = Theirs()
    padding_rows(theirs)
    ours = theirs.ours()
    twin: Transformer = copy.deepcopy(ours)
    assert twin.config == ours.config
    assert twin.input_embedding.padding_idx == 7
    assert twin.output_embedding.padding_idx == 9
