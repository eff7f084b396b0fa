"""Two and four processes learn what one does; a tensor-parallel layer is the plain one."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

import at_work
import reluctant
from learning import some_data
from reluctant.feedforward import FeedForward
from reluctant.transformer import load
from reluctant.translation import journal
from reluctant.translation.batches import Batch
from reluctant.translation.distributed import DataRanks, ranks_of
from reluctant.translation.settings import Settings
from reluctant.translation.split_layer import SplitFeedForward
from reluctant.translation.train import Run

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = ("data", "sharded", "tensor")
LAYERS, D = 3, at_work.EXACT.d_model


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process for each mode."""
    folder = tmp_path_factory.mktemp("alone")
    for mode in MODES:
        settings = replace(at_work.settings_of(mode), engine=False)
        assert Run(folder / mode, some_data(folder), settings).train()
    return folder


def together(size: int, folder: Path) -> Path:
    mp.spawn(at_work.rank, (size, str(folder), MODES, free_port()), nprocs=size)  # type: ignore[no-untyped-call]
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return together(2, tmp_path_factory.mktemp("two"))


def expect_the_same(many: Path, one: Path, size: int) -> None:
    runs = [journal.read(folder / journal.NAME) for folder in (many, one)]
    assert runs[0].header["ranks"] == size
    for ours, theirs in zip(runs[0].steps, runs[1].steps, strict=True):
        assert ours["penalty"] == pytest.approx(theirs["penalty"], rel=2e-3, abs=1e-5)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=2e-3)
    for a, b in zip(runs[0].validations, runs[1].validations, strict=True):
        assert a["validation"] == pytest.approx(b["validation"], abs=2e-4)
    weights = [dict(load(folder).named_parameters()) for folder in (many, one)]
    assert weights[0].keys() == weights[1].keys()
    # AdamW moves a weight by the learning rate however small its gradient is: where that is hardly
    # more than rounding (of a key's bias, which changes no attention, nothing else is left of
    # it), runs differ.
    for name, weight in weights[0].items():
        if not name.endswith("key.bias"):
            near = (weight - weights[1][name]).abs() < 2e-3
            assert near.float().mean() > 0.9, name


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_learn_what_one_does(mode: str, two: Path, alone: Path) -> None:
    expect_the_same(two / mode, alone / mode, 2)


@pytest.mark.slow
def test_four_processes_learn_what_one_does(alone: Path, tmp_path: Path) -> None:
    together(4, tmp_path)
    for mode in MODES:
        expect_the_same(tmp_path / mode, alone / mode, 4)


def test_bytes_a_step(two: Path, alone: Path) -> None:
    """As docs/scale.md has them: what each rank hands over."""
    found = {mode: int((two / f"{mode}-0.txt").read_text()) for mode in MODES}
    run = Run(alone / "data", some_data(alone), replace(at_work.EXACT, engine=False))
    parameters = sum(p.numel() for p in run.learner.parameters.values())
    assert found["data"] == 4 * parameters
    # weights twice (the last ones gathered stay), and gradients; parts are padded to one size
    assert 8 * parameters < found["sharded"] < 13 * parameters
    batch = run.batches.collate(run.batches.epoch(run.progress.epoch)[run.progress.position])
    assert found["tensor"] == 4 * D * 2 * _positions(batch)


def _positions(batch: Batch) -> int:
    """One encoder layer, two decoder layers."""
    return batch.source.numel() + 2 * batch.target.numel()


def test_a_rank_without_a_row_learns_from_none() -> None:
    ranks = DataRanks.__new__(DataRanks)
    ranks.rank, ranks.size = 3, 4
    batch = Batch(*(torch.arange(6).view(2, 3) + 1 for _ in range(3)))
    share = ranks.share(batch)
    assert share.source.tolist() == [[1, 2, 3]]
    assert not share.labels.any()
    ranks.rank = 1
    assert ranks.share(batch).labels.tolist() == [[4, 5, 6]]


class Mesh:
    """Of one of two ranks."""

    def __init__(self, rank: int) -> None:
        self.get_rank, self.size = (lambda: rank), (lambda: 2)


@pytest.mark.parametrize("activation", ["relu", "reglu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_of_a_layer_add_up_to_it(activation: str, bias: bool) -> None:
    torch.manual_seed(0)
    whole, mesh = FeedForward(6, 10, activation, bias=bias), [Mesh(0), Mesh(1)]
    parts: list[Any] = [SplitFeedForward(whole, each) for each in mesh]  # type: ignore[arg-type]
    x = torch.randn(4, 6)
    total = parts[0].part(x) + parts[1].part(x)
    total = total if parts[0].total_bias is None else total + parts[0].total_bias
    torch.testing.assert_close(total, whole(x))
    with pytest.raises(reluctant.ReluctantError, match="multiple of the 2 ranks"):
        SplitFeedForward(FeedForward(6, 9), mesh[0])  # type: ignore[arg-type]


def test_what_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    wrong = Settings(parallel="tensor", activation_dropout=0.1)
    with pytest.raises(reluctant.ReluctantError, match="activation_dropout 0"), ranks_of(wrong):
        pass
