"""Training runs: the same losses with the engine and without, and the same bits after a break."""

import errno
import json
import os
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import reluctant
from learning import TINY, some_data
from reluctant import ways
from reluctant.transformer import load
from reluctant.translation import checkpoint, journal
from reluctant.translation.data import Data
from reluctant.translation.objective import projected_loss
from reluctant.translation.picture import draw
from reluctant.translation.plan import plan
from reluctant.translation.schedule import rate
from reluctant.translation.settings import Settings, read_settings
from reluctant.translation.train import Run, Watch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return some_data(tmp_path_factory.mktemp("text"))


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in journal.read(folder / journal.NAME).steps]


def bits(folder: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "checkpoint.safetensors")
    found = {}
    for name in names:
        for key, tensor in load_file(folder / name).items():
            found[f"{name} {key}"] = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return found


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("limit", [0.0, 2.0])  # dense, sparse
def test_the_engine_changes_no_loss_beyond_rounding(
    data: Data, tmp_path: Path, penalty: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "training_limits", lambda dtype, weights, tokens: (limit, 0.0))
    settings = replace(TINY, penalty=penalty, ramp=3, dropout=0.0)
    found = []
    for engine in (True, False):
        folder = tmp_path / str(engine)
        assert Run(folder, data, replace(settings, engine=engine)).train()
        found.append(journal.read(folder / journal.NAME))
    for ours, theirs in zip(found[0].steps, found[1].steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours.get("penalty", 0) == pytest.approx(theirs.get("penalty", 0), rel=1e-3)
    for ours, theirs in zip(found[0].validations, found[1].validations, strict=True):
        assert ours["validation"] == pytest.approx(theirs["validation"], abs=1e-4)
    if limit:
        density = found[0].steps[0]["density"]
        assert density == pytest.approx(found[1].steps[0]["density"], abs=1e-3)
        assert len(density) == 3
    assert found[0].steps[0]["loss"] > found[0].steps[-1]["loss"]


def reached(run: Run, step: int) -> bool:
    return run.progress.step == step


@pytest.mark.parametrize("engine", [False, True])
def test_after_a_break_the_bits_are_those_without(
    data: Data, tmp_path: Path, engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "training_limits", lambda dtype, weights, tokens: (2.0, 0.0))
    settings = replace(TINY, engine=engine, penalty=0.5, ramp=3, average=3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert Run(whole, data, settings).train()
    for stop in (2, 5, 6):
        torch.manual_seed(stop)  # what is drawn elsewhere is nothing to a run
        run = Run(broken, data, settings)
        assert not run.train(Watch(stop=partial(reached, run, stop)))
    last = Run(broken, data, settings)
    assert last.progress.step == 6
    assert last.train()
    assert losses(broken) == losses(whole)
    ours, theirs = bits(broken), bits(whole)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []
    again = Run(broken, data, settings)
    assert again.done
    assert again.train()
    assert len(losses(broken)) == settings.steps


def test_the_model_is_the_mean_of_the_last_checkpoints(data: Data, tmp_path: Path) -> None:
    settings = replace(TINY, steps=9, average=2)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def keep(line: dict[str, Any]) -> None:
        if line["step"] % 3 == 0:
            kept[line["step"]] = {
                name: p.detach().clone() for name, p in run.learner.parameters.items()
            }

    run = Run(tmp_path, data, settings)
    assert run.train(Watch(step=keep))
    assert checkpoint.kept(tmp_path) == [6, 9]
    best = run.progress.best_step
    last = [kept[step] for step in (best - 3, best) if step]
    model = dict(load(tmp_path).named_parameters())
    for name, parameter in model.items():
        mean = torch.stack([weights[name].double() for weights in last]).mean(0)
        torch.testing.assert_close(parameter.double(), mean, rtol=0, atol=1e-6)


def test_what_is_validated_is_the_mean_negative_log_likelihood(data: Data, tmp_path: Path) -> None:
    run = Run(tmp_path, data, replace(TINY, average=1, engine=False))
    run.train()
    model, nats, tokens = load(tmp_path).double(), 0.0, 0
    for pair in data.valid:
        source, target = run.vocabulary.encode([pair.source, pair.target])
        with torch.no_grad():
            logits = model(torch.tensor([[*source, 2]]), torch.tensor([[1, *target]]))
        nats += float(F.cross_entropy(logits[0], torch.tensor([*target, 2]), reduction="sum"))
        tokens += len(target) + 1
    assert run.progress.best == pytest.approx(nats / tokens, rel=1e-5)


def test_accumulated_batches_are_one_larger_batch(data: Data, tmp_path: Path) -> None:
    settings = replace(TINY, dropout=0.0, engine=False)
    runs = [Run(tmp_path / str(n), data, settings) for n in range(2)]
    batches = [runs[0].batches.collate(indices) for indices in runs[0].batches.epoch(0)[:2]]
    width = [max(b[i].size(1) for b in batches) for i in range(3)]
    padded = type(batches[0])(
        *(torch.cat([F.pad(b[i], (0, width[i] - b[i].size(1))) for b in batches]) for i in range(3))
    )
    found = runs[0].learner.step(1, batches), runs[1].learner.step(1, [padded])
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-5)
    assert found[0].norm == pytest.approx(found[1].norm, rel=1e-4)


def test_autocast_learns_much_the_same(data: Data, tmp_path: Path) -> None:
    found = []
    for autocast in (False, True):
        folder = tmp_path / str(autocast)
        Run(folder, data, replace(TINY, autocast=autocast, dropout=0.0)).train()
        found.append(losses(folder))
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], abs=0.1)


def test_another_run_in_the_folder_is_refused(data: Data, tmp_path: Path) -> None:
    Run(tmp_path, data, replace(TINY, steps=2)).train()
    with pytest.raises(reluctant.ReluctantError, match="another d_ff"):
        Run(tmp_path, data, replace(TINY, steps=2, d_ff=128))
    other = Data(data.train[:-1], [data.train[-1], *data.valid], data.counts)
    with pytest.raises(reluctant.ReluctantError, match="other text"):
        Run(tmp_path, other, replace(TINY, steps=2))
    assert Run(tmp_path, data, replace(TINY, steps=2, minutes=5.0, patience=3)).done


def test_a_loss_that_is_not_finite_ends_it_and_spoils_nothing(data: Data, tmp_path: Path) -> None:
    settings = replace(TINY, steps=6)
    run = Run(tmp_path, data, settings)

    def spoil(line: dict[str, Any]) -> None:
        if line["step"] == 4:
            with torch.no_grad():
                run.learner.model.linear.weight[5, 5] = torch.nan

    with pytest.raises(reluctant.ReluctantError, match="step 5 is nan"):
        run.train(Watch(step=spoil))
    again = Run(tmp_path, data, settings)
    assert again.progress.step == 3
    assert all(torch.isfinite(p).all() for p in again.learner.parameters.values())


def test_a_full_disk_leaves_the_checkpoint_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, data, TINY)
    real = os.fsync

    def full(descriptor: int) -> None:
        if run.progress.step > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(reluctant.ReluctantError, match=r"expected room for .* No space left"):
        run.train()
    monkeypatch.setattr(os, "fsync", real)
    again = Run(tmp_path, data, TINY)
    assert again.progress.step == 3
    assert again.train()


def test_it_ends_when_nothing_gets_better(data: Data, tmp_path: Path) -> None:
    settings = replace(TINY, steps=60, every=1, patience=2, lr=0.0, average=1)
    run = Run(tmp_path, data, settings)
    assert run.train()
    assert (run.progress.step, run.progress.best_step) == (3, 1)


def test_time_ends_it_with_a_model(data: Data, tmp_path: Path) -> None:
    run = Run(tmp_path, data, replace(TINY, steps=10**6, every=10**5, minutes=0.01))
    assert run.train()
    assert 0 < run.progress.step == run.progress.best_step
    assert load(tmp_path).config.d_ff == TINY.d_ff
    assert Run(tmp_path, data, replace(TINY, steps=10**6, every=10**5, minutes=0.01)).done


def test_stopped_in_its_last_step_it_still_gets_its_model(data: Data, tmp_path: Path) -> None:
    settings = replace(TINY, steps=4, every=10)
    first = Run(tmp_path, data, settings)
    assert not first.train(Watch(stop=lambda: first.progress.step == 4))
    again = Run(tmp_path, data, settings)
    assert not again.done
    assert again.train()
    assert again.progress.best_step == 4
    load(tmp_path)


@pytest.mark.parametrize(
    "name", ["checkpoint.safetensors", "weights-0000003.safetensors", "model.safetensors"]
)
def test_what_is_not_of_a_run_is_not_written_over(data: Data, tmp_path: Path, name: str) -> None:
    Run(tmp_path, data, TINY).train()
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    (tmp_path / journal.NAME).unlink()
    for file in tmp_path.iterdir():
        if file.name != name:
            file.unlink()
    (tmp_path / name).write_bytes(kept)
    with pytest.raises(reluctant.ReluctantError, match="name another --out"):
        Run(tmp_path, data, TINY)
    assert (tmp_path / name).read_bytes() == kept


def test_a_run_that_learned_nothing_yet_begins_anew(data: Data, tmp_path: Path) -> None:
    with pytest.raises(reluctant.ReluctantError, match="a divisor of d_model"):
        Run(tmp_path, data, replace(TINY, heads=5))
    Run(tmp_path, data, replace(TINY, vocab_size=310))
    (tmp_path / ".model.safetensors.half").write_text("half")
    run = Run(tmp_path, data, replace(TINY, vocab_size=400))
    assert len(run.vocabulary) > 310
    assert not (tmp_path / ".model.safetensors.half").exists()


def test_sentences_of_too_many_tokens(data: Data, tmp_path: Path) -> None:
    with pytest.raises(reluctant.ReluctantError, match="batch_tokens=4"):
        Run(tmp_path, data, replace(TINY, batch_tokens=4))


def test_no_gradients_are_computed_to_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True)
    monkeypatch.setattr(torch, "zeros_like", lambda *a, **k: pytest.fail("room for gradients"))
    with torch.no_grad():
        projected_loss(x, weight, torch.tensor([0, 1, 2, 3]))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 600), st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_loss_and_its_gradients_are_torchs(
    tokens: int, vocabulary: int, smoothing: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 5, dtype=torch.float64, generator=random)
    weight = torch.randn(vocabulary, 5, dtype=torch.float64, generator=random)
    labels = torch.randint(vocabulary, (tokens,), generator=random)
    grads = []
    for ours in (True, False):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            loss = projected_loss(a, b, labels, smoothing)
        else:
            loss = F.cross_entropy(a @ b.T, labels, reduction="sum", label_smoothing=smoothing)
        (3 * loss).backward()
        grads.append((loss.detach(), a.grad, b.grad))
    for ours_, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours_, theirs)


@settings(deadline=None)
@given(
    st.sampled_from(["cosine", "inverse-sqrt", "constant"]),
    st.integers(0, 50),
    st.integers(1, 200),
)
def test_the_learning_rate_rises_then_never_again(schedule: str, warm_up: int, steps: int) -> None:
    chosen = Settings(schedule=schedule, warm_up=warm_up, steps=steps, lr=0.5)
    rates = [rate(chosen, step) for step in range(1, steps + 1)]
    top = max(min(warm_up, steps) - 1, 0)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert 0 <= min(rates) <= max(rates) <= 0.5


def test_settings_from_a_file_and_over_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('d-ff = 96\nschedule = "constant"\ndevice = "meta"\nlr = -1\n')
    found = read_settings(file, {"d_ff": 64, "engine": False, "lr": 0.1})
    assert (found.d_ff, found.schedule, found.device, found.lr) == (64, "constant", "meta", 0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("d_fff = 3", "unknown setting 'd_fff'"),
        ("d_ff = 5\nd-ff = 6", "d-ff stands there twice"),
        ("d_ff = 0", "d_ff: expected a whole number from 1 up, got 0"),
        ("d_ff = 2.5", "d_ff: expected a whole number"),
        ("d_ff = true", "d_ff: expected a whole number"),
        ("dropout = 1.5", "dropout: expected a number from 0 to 1"),
        ("lr = nan", "lr: expected a number"),
        ("engine = 1", "engine: expected true or false"),
        ("activation = 7", "activation: expected a text"),
        ('source_lang = "en"', "both source_lang and target_lang"),
        ('device = "cuda"', "add --no-engine"),
        ("d_ff =", "expected settings as TOML"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(reluctant.ReluctantError, match=said):
        read_settings(file, {})


def test_the_plan_counts_what_the_run_has(data: Data, tmp_path: Path) -> None:
    found = plan(data, TINY)
    run = Run(tmp_path, data, TINY)
    assert found.parameters == sum(p.numel() for p in run.learner.parameters.values())
    assert found.feed_forward == 3 * (2 * 32 * 64 + 32 + 64)
    assert found.steps_per_epoch == len(run.batches.epoch(0))
    assert found.seconds > 0


def test_the_picture_and_half_a_line(data: Data, tmp_path: Path) -> None:
    Run(tmp_path, data, TINY).train()
    metrics = tmp_path / journal.NAME
    with metrics.open("a") as file:
        file.write('{"step": 9, "lo')
    found = journal.read(metrics)
    assert [line["step"] for line in found.steps] == list(range(1, 9))
    assert [line["step"] for line in found.validations] == [3, 6, 8]
    assert all("signature" in line for line in found.validations)
    draw(found, tmp_path / "learning.svg")
    assert (tmp_path / "learning.svg").read_text().startswith("<?xml")
    assert json.loads(metrics.read_text().split("\n")[0])["settings"]["d_ff"] == 64
