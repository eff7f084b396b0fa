"""tools.lm: the same figures with the engine and without, and after a break."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import reluctant
from reluctant import ways
from tools.lm import plain, record
from tools.lm.__main__ import app
from tools.lm.model import Shape
from tools.lm.plot import draw
from tools.lm.table import difference, page
from tools.lm.text import Text, paragraphs, tokenised
from tools.lm.train import Learner, Settings, train

TINY = Settings(steps=8, stop=8, batch=4, length=16, warm_up=2, every=3, threads=1,
                shape=Shape(32, 128, 2, 2))  # fmt: skip


@pytest.fixture(scope="module")
def text() -> Text:
    words = ["the", "cat", "that", "sat", "on", "a", "mat", "saw", "some", "rats", "and", "ran"]
    draw = torch.Generator().manual_seed(0)
    picked = torch.randint(len(words), (400, 12), generator=draw).tolist()
    return tokenised([" ".join(words[i] for i in row) + f", {n}." for n, row in enumerate(picked)])


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(settings: Settings, text: Text, folder: Path, **more: Any) -> record.Record:
    assert train(settings, text, folder, **more)
    return record.read(folder / f"{settings.name}.jsonl")


def test_the_split_is_by_paragraph_and_has_both_parts(text: Text) -> None:
    assert 0 < len(text.valid) < len(text.train) / 10
    assert text.fingerprint == Text(text.train, text.valid, 1).fingerprint


def test_headings_go() -> None:
    assert paragraphs("VOLUME II\n\nEmma\n\nShe was _so_\nclever!\n") == ["She was so clever!"]


def test_an_epoch_has_every_window_once(text: Text) -> None:
    windows = (len(text.train) - 1) // 16
    steps = [text.batch(step, 1, 16, seed=1)[0] for step in range(windows)]
    assert torch.equal(torch.cat(steps).unique(dim=0),
                       text.train[: windows * 16].view(-1, 16).unique(dim=0))  # fmt: skip
    assert not torch.equal(steps[0], text.batch(0, 1, 16, seed=2)[0])


@pytest.mark.parametrize("limit", [0.0, 2.0])  # dense, sparse
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_the_engine_changes_nothing_beyond_rounding(
    text: Text, tmp_path: Path, penalty: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "training_limits", lambda dtype, weights, tokens: (limit, 0.0))
    settings = replace(TINY, penalty=penalty, ramp=3)
    ours, theirs = (run(replace(settings, engine=e), text, tmp_path) for e in (True, False))
    assert ours.header["weights"] == theirs.header["weights"]
    for a, b in zip(ours.steps, theirs.steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["penalty"] == pytest.approx(b["penalty"], rel=1e-3)
    assert ours.validations == pytest.approx(theirs.validations, abs=1e-4)
    if limit:
        assert theirs.densities()[0] == (1, pytest.approx(ours.densities()[0][1], abs=2e-4))
    else:
        assert not ours.densities()
    assert ours.steps[0]["penalty"] == 0
    assert (ours.steps[3]["penalty"] > 0) == (penalty > 0)


def test_the_penalty_in_plain_torch_has_the_engines_gradients(text: Text) -> None:
    grads = []
    for engine in (True, False):
        learner = Learner(replace(TINY, engine=engine, penalty=1.0), text)
        assert learner.penalty is not None
        learner.model(text.train[:16][None])
        learner.penalty().backward()  # type: ignore[no-untyped-call]
        grads.append(learner.model.blocks[0].feed_forward[0].weight.grad)  # type: ignore[index, union-attr]
    torch.testing.assert_close(*grads)
    assert grads[0].any()


def test_density_in_plain_torch(text: Text) -> None:
    learner = Learner(TINY, text)
    counts: list[int] = []
    relu = learner.model.activations()[1]
    relu.register_forward_hook(lambda m, i, h: counts.append(int((h > 0).sum())))
    found = plain.density(learner.model, text.train[:32].view(2, 16))
    assert found[1] == counts[0] / (32 * 128)


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_after_a_break_the_bits_are_those_without(
    text: Text, tmp_path: Path, engine: bool, killed: bool
) -> None:
    settings = replace(TINY, engine=engine, penalty=0.5, ramp=3)
    whole = run(settings, text, tmp_path / "whole")

    def stop(line: dict[str, Any]) -> bool:
        if killed and line["step"] == 5:
            raise KeyboardInterrupt
        return line["step"] != 5

    folder = tmp_path / "broken"
    if killed:
        with pytest.raises(KeyboardInterrupt):
            train(settings, text, folder, on_step=stop)
        with (folder / f"{settings.name}.jsonl").open("a") as file:
            file.write('{"step": 6, "lo')
    else:
        assert not train(settings, text, folder, on_step=stop)
    assert not record.read(folder / f"{settings.name}.jsonl").ended
    resumed = run(settings, text, folder)
    assert [line["loss"] for line in resumed.steps] == [line["loss"] for line in whole.steps]
    assert resumed.validations == whole.validations
    assert resumed.end["weights"] == whole.end["weights"]
    assert [file.name for file in folder.iterdir()] == [f"{settings.name}.jsonl"]
    assert train(settings, text, folder)  # nothing left to do


def test_memory(text: Text, tmp_path: Path) -> None:
    found = run(TINY, text, tmp_path)
    highest = max(line["memory"] for line in found.steps)
    assert 0 < highest <= found.end["peak_memory"] / 2**20 + 1


def test_a_run_with_other_settings_is_refused(text: Text, tmp_path: Path) -> None:
    run(replace(TINY, stop=1), text, tmp_path)
    with pytest.raises(reluctant.ReluctantError, match="remove it"):
        train(replace(TINY, stop=1, lr=0.5), text, tmp_path)
    with pytest.raises(reluctant.ReluctantError, match="smaller --length"):
        text.batch(0, 1, 10**6, seed=0)


def test_table_and_picture(text: Text, tmp_path: Path) -> None:
    for engine in (False, True):
        for penalty in (0.0, 0.5):
            run(replace(TINY, engine=engine, penalty=penalty, threads=2), text, tmp_path)
    run(replace(TINY, stop=4), text, tmp_path)
    runs = record.read_all(tmp_path)
    names = ["torch", "reluctant", "torch, penalty", "reluctant, penalty", "torch, 1 thread"]
    assert [each.label for each in runs] == names
    said = page(runs)
    assert "- reluctant, penalty and torch, penalty: 0.0" in said
    assert "- torch, 1 thread and torch: 0.0" in said
    assert difference(runs[0], runs[2], 8) > difference(runs[0], runs[1], 8)
    draw(runs, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_bytes().startswith(b"<?xml")
    shown = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert shown.output.strip() == said.strip()


def test_the_command_takes_a_text_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("\n\n".join(f"Number {n} is followed by {n + 1}." for n in range(400)))
    command = ["--text", str(file), "--steps", "1", "--batch", "1", "--length", "8"]
    found = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert len(record.read(tmp_path / "torch.jsonl").steps) == 1
