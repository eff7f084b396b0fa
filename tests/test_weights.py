"""No weight is moved in memory: whoever else sees it there goes on as before."""

import copy
import multiprocessing
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import reluctant
from layers import D_FF, D, Model, drawn, same, served
from reluctant.errors import ReluctantError
from reluctant.sketch import SERVED
from reluctant.surgery.transposed import Transposed
from reluctant.weights import Matrix, Neurons, copy_of, stored_as

WAYS = ["auto", "few", "many", "dense"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def stack():
    model = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D)).eval()
    nn.init.constant_(model[0].bias, -1.0)
    return model


def both(*, share=False):
    plain = stack()
    model = copy.deepcopy(plain)
    if share:
        for each in (plain, model):
            each.share_memory()
    return plain, model


@torch.no_grad()
def check(plain, model, tokens=(1, 5, 40)):
    for n in tokens:
        x = drawn(n, D)
        same(model(x), plain(x))


def places(model):
    return [(id(p), p.data_ptr(), p.stride(), p.is_shared()) for p in model.parameters()]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_moves(way):
    model = Model().eval()
    before = places(model)
    reluctant.optimize(model, way=way)
    with torch.no_grad():
        model(drawn(2, 5, D))
    assert places(model) == before
    reluctant.refresh(model)
    model(drawn(2, 5, D)).sum().backward()
    reluctant.restore(model)
    assert places(model) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_state_dict_taken_before_is_the_models(way):
    plain, model = both()
    state = model.state_dict()
    reluctant.optimize(model, way=way)
    check(plain, model)
    with torch.no_grad():
        for name, value in plain.state_dict().items():
            value.mul_(-1.5)
            state[name].copy_(value)
    check(plain, model)


@pytest.mark.parametrize("way", WAYS)
def test_views_of_one_flat_vector(way):
    plain, model = both()
    flats = []
    for each in (plain, model):
        flats.append(torch.cat([p.detach().reshape(-1) for p in each.parameters()]))
        nn.utils.vector_to_parameters(flats[-1], each.parameters())
    reluctant.optimize(model, way=way)
    check(plain, model)
    for scale in (-1.0, 0.3):
        for flat in flats:
            flat.mul_(scale)
        check(plain, model)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), flats[1])
    for parameter in model.parameters():
        parameter.view(-1)


def _scale(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.5)


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", ["few", "many"])
def test_another_process_writes_shared_weights(way, late):
    """Nothing tells this process: the kernels see it."""
    plain, model = both(share=not late)
    reluctant.optimize(model, way=way)
    check(plain, model)
    if late:
        for each in (plain, model):
            each.share_memory()
        check(plain, model)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: [_scale(each) for each in (plain, model)]
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert all(p.is_shared() for p in model.parameters())
    check(plain, model)


def test_files_of_safetensors(tmp_path):
    plain, model = both()
    reluctant.optimize(model, way="few")
    check(plain, model)
    save_file(model.state_dict(), tmp_path / "weights")
    for name, value in load_file(tmp_path / "weights").items():
        assert torch.equal(value, plain.state_dict()[name])


def lbfgs(model):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = (model(drawn(8, D)) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def pruned(model):
    prune.l1_unstructured(model[2], "weight", 0.5)


def pruned_for_good(model):
    prune.l1_unstructured(model[2], "weight", 0.5)
    prune.remove(model[2], "weight")


def assigned(model):
    torch.manual_seed(3)
    state = {name: torch.randn_like(value) / 8 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def averaged(model):
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn_like(parameter) / 8)


def swapped(model):
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) / 8


def there_and_back(model):
    model.to(torch.float64).to(torch.float32)


def turned(model):
    model[2].weight.data = model[2].weight.data.t().contiguous().t()


def widened(model):
    model[2].weight.data = torch.ones(D, 1).expand(D, D_FF)


def cut_out(model):
    torch.manual_seed(3)
    model[2].weight.data = torch.randn(D, 2 * D_FF)[:, ::2]


def poisoned(model):
    with torch.no_grad():
        model[2].weight[3, 5] = float("nan")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "change",
    [lbfgs, pruned, pruned_for_good, assigned, averaged, swapped, there_and_back, turned, widened,
     cut_out],
)  # fmt: skip
def test_after_what_people_do_to_weights(change, way):
    plain, model = both()
    (entry,) = reluctant.optimize(model, way=way).swapped
    check(plain, model)
    for each in (plain, model):
        change(each)
    check(plain, model)
    assert entry.engine.memory_bytes >= 0
    reluctant.restore(model)
    check(plain, model)


@pytest.mark.parametrize("way", WAYS)
def test_a_nan_that_is_written_later(way):
    plain, model = both()
    reluctant.optimize(model, way=way)
    check(plain, model)
    for each in (plain, model):
        poisoned(each)
    with torch.no_grad():
        for n in (1, 40):
            torch.testing.assert_close(model(drawn(n, D)), plain(drawn(n, D)), equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
def test_parameters_that_are_lent(way):
    plain, model = both()
    reluctant.optimize(model, way=way)
    other = {name: nn.Parameter(-p.detach()) for name, p in model.named_parameters()}
    x = drawn(3, D)
    with torch.no_grad():
        for _ in range(2):
            lent = [torch.func.functional_call(each, other, (x,)) for each in (plain, model)]
            same(*lent)
            same(model(x), plain(x))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("way", ["few", "many"])
def test_two_engines_on_one_weight_restored_in_any_order(way, first):
    plain, model = both()
    other, also = stack(), stack()
    for source, twin in ((plain, other), (model, also)):
        twin[2].weight = source[2].weight
        twin[0].weight = source[0].weight
    for name in ("bias",):
        for k in (0, 2):
            getattr(also[k], name).data.copy_(getattr(other[k], name).data)
    for each in (model, also):
        reluctant.optimize(each, way=way)
    check(plain, model)
    check(other, also)
    reluctant.restore((model, also)[first])
    with torch.no_grad():
        for each in (plain, model):
            each[2].weight.mul_(-2)
            each[0].weight.data[5] = 3
    check(plain, model)
    check(other, also)
    reluctant.restore((also, model)[first])
    check(plain, model)
    check(other, also)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_their_own_rows(copied):
    plain, model = both()
    reluctant.optimize(model, way="few")
    check(plain, model)
    twin = copied(model)
    with torch.no_grad():
        twin[2].weight.zero_()
    check(plain, model)
    same(twin(drawn(2, D)), twin[2].bias.expand(2, D))
    assert len(served(twin)) == 1


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizers_state_stays_right(fused):
    """Fused optimizers walk weights, gradients and moments in the order of memory."""
    plain, model = both()
    how = {"lr": 0.01, "fused": fused, "eps": 1e-3}  # tiny gradients' signs are rounding's
    optimizers = [torch.optim.AdamW(m.parameters(), **how) for m in (plain, model)]
    for k in range(9):
        if k == 3:
            reluctant.optimize(model, way="few")
        if k == 6:
            reluctant.restore(model)
        for each, optimizer in zip((plain, model), optimizers, strict=True):
            optimizer.zero_grad()
            each(drawn(4, D, seed=k)).square().sum().backward()
            optimizer.step()
        check(plain, model)


# The rows themselves.


def test_rows_in_place_or_copied():
    weight = torch.randn(6, 4)
    live, across = (Matrix.of(w, torch.float32) for w in (weight, torch.randn(4, 6).t()))
    assert live.rows.data_ptr() == live.stored.data_ptr() == weight.data_ptr()
    assert not live.copied
    assert across.copied
    assert torch.equal(across.rows, across.stored.t())
    assert across.rows.is_contiguous()
    assert across.stored.is_contiguous()
    assert stored_as(torch.randn(6, 8)[:, ::2]) is None
    assert stored_as(torch.randn(1, 4).expand(6, 4)) is None


def test_the_memory_that_is_reported():
    """W2 is copied where its rows are columns: an nn.Linear's, not a Conv1D's."""
    model = stack()
    (entry,) = reluctant.optimize(model, way="few").swapped
    copied = entry.engine.memory_bytes
    turned(model)
    assert copied - entry.engine.memory_bytes == 4 * D * D_FF
    held = entry.engine._derived.get(with_sketch=True)
    assert held.values.rows.data_ptr() == model[2].weight.data_ptr()


def test_a_conv1d_is_seen_as_a_linear():
    class Conv1D(nn.Module):
        def __init__(self, d_in, d_out):
            super().__init__()
            self.nx, self.nf = d_in, d_out
            self.weight = nn.Parameter(torch.randn(d_in, d_out))
            self.bias = nn.Parameter(torch.randn(d_out))

    up, down = Conv1D(D, D_FF), Conv1D(D_FF, D)
    neurons = Neurons(Transposed(up), Transposed(down))
    assert (neurons.d_model, neurons.d_ff) == (D, D_FF)
    w1, _, w2, _, _, _ = neurons.tensors()
    assert stored_as(w1)[1]
    assert not stored_as(w2.t())[1]
    with pytest.raises(ReluctantError, match="back to d_model"):
        Neurons(Transposed(up), Transposed(up))


@pytest.mark.parametrize("shape", [(1, 1), (5, 70), (64, 16), (130, 33), (0, 3), (3, 0)])
def test_columns_as_rows_in_every_dtype(shape):
    matrix = torch.randn(shape)
    for source in SERVED:
        for dtype in SERVED:
            found = copy_of(matrix.to(source), dtype, columns=True)
            assert found.is_contiguous()
            assert torch.equal(found, matrix.to(source).t().to(dtype))
