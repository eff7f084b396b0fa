"""`reluctant.lab.inspect.inspect`: what it leaves alone, where it stops, what it refuses."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reluctant
import reluctant.lab.inspect
from inspected import D_FF, LINES, MAKERS, D, letters, look, near
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.lab.inspect import inspect, run_inspection, subject_of
from reluctant.lab.inspect.items import Items, batches
from reluctant.lab.inspect.run import Options
from reluctant.lab.inspect.stream import Stream
from reluctant.lab.inspect.subject import Item
from reluctant.lab.inspect.text import Lines
from reluctant.lab.residual import Residuals
from reluctant.lab.watch import Watch, watched
from reluctant.surgery.swap import seat_of
from reluctant.transformer import greedy

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
kinds = pytest.mark.parametrize("kind", MAKERS)


def snapshot(model: nn.Module) -> Any:
    modules = [
        (n, type(m), sorted(vars(m)), len(m._forward_hooks)) for n, m in model.named_modules()
    ]
    return modules, {name: t.clone() for name, t in model.state_dict().items()}


@kinds
def test_the_model_stays_as_it_is(kind: str) -> None:
    tried = MAKERS[kind]()
    modules, state = snapshot(tried.model)
    with torch.no_grad():
        before = [tried.run(tried.model, item) for item in tried.items]
    look(tried)
    with torch.no_grad():
        after = [tried.run(tried.model, item) for item in tried.items]
    assert all(map(torch.equal, before, after))
    modules_after, state_after = snapshot(tried.model)
    assert modules == modules_after
    assert all(torch.equal(state[name], state_after[name]) for name in state | state_after)
    assert not any(seat_of(module) for module in tried.model.modules())


def test_a_served_model_stays_served() -> None:
    tried = MAKERS["pre-norm"]()
    report = reluctant.optimize(tried.model, way="few")
    record = look(tried)
    assert len(record.layers) == len(report.swapped) == 2
    engines = [seat.engine for module in tried.model.modules() if (seat := seat_of(module))]
    assert [id(engine) for engine in engines] == [id(entry.engine) for entry in report.swapped]
    assert [engine.way for engine in engines] == ["few", "few"]


def test_a_translation_of_its_own_is_what_the_decoder_reads() -> None:
    tried = MAKERS["post-norm"]()
    record = look(tried, targets=None)
    answers = []
    for item in tried.items:
        row = greedy(tried.model, torch.tensor([item["encoder"]]))[0].tolist()
        answers.append([1, *(row[: row.index(2)] if 2 in row else row)])
    assert record.text.target == "translated"
    assert record.text.by_stack["decoder"] == sum(map(len, answers))
    given = look(tried)
    assert given.text.target == "given"
    counts = [layer.tokens for layer in record.layers]
    assert counts[-1] == record.text.by_stack["decoder"]
    assert record.layers[0].use == near(given.layers[0].use)  # the encoder reads the same


def test_stopped_in_between() -> None:
    tried = MAKERS["pre-norm"]()
    asked = iter([False, False, True])
    lines = [f"{line} {number}" for number in range(60) for line in LINES[:1]]
    record = look(tried, lines, stopped=lambda: next(asked, True))
    assert (record.text.whole, record.text.stopped) == (False, "interrupted")
    assert record.text.sequences == 1 + 32  # a batch is asked for before it goes
    assert record.layers[0].tokens == record.text.tokens
    assert len(record.sentences) == 3
    assert all(layer.saves.measured is None for layer in record.layers)
    assert all(not x.without for s in record.sentences for x in s.layers)
    with pytest.raises(ReluctantError, match="no time to read it"):
        look(tried, lines, stopped=lambda: True)


def test_stopped_while_it_translates(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, taken, plain = MAKERS["post-norm"](), list[Item](), Stream._take

    def take(self: Stream, batch: list[Item]) -> None:
        plain(self, batch)
        taken.extend(batch)

    monkeypatch.setattr(Stream, "_take", take)
    record = look(tried, ["sun", "moon"] * 70, targets=None, stopped=lambda: len(taken) >= 64)
    assert (record.text.sequences, record.text.stopped) == (64, "interrupted")


def test_a_limit() -> None:
    tried = MAKERS["pre-norm"]()
    record = look(tried, limit=len(LINES[0]) + 1)
    assert (record.text.sequences, record.text.stopped) == (2, "limit")
    assert not record.text.whole
    assert look(tried, limit=len(LINES[0])).text.sequences == 1
    every = sum(map(len, LINES))
    assert look(tried, limit=every).text.whole
    with pytest.raises(ReluctantError, match="at least 1"):
        look(tried, limit=0)


def test_the_same_seed_gives_the_same_record() -> None:
    tried = MAKERS["pre-norm"]()

    def once() -> dict[str, Any]:
        found = look(tried, LINES * 3).to_json()
        del found["text"]["seconds"]
        for layer in found["layers"]:
            del layer["saves"]["measured"]
        return found

    assert once() == once()


def test_memory_does_not_grow_with_the_text() -> None:
    tried = MAKERS["pre-norm"]()
    subject = subject_of(tried.model, tried.words)
    sizes, held = set(), set()
    for count in (2, 150):
        model = copy.deepcopy(tried.model)
        with watched(model) as layers, Residuals(model, {D}) as residuals:
            stream = Stream(subject, model, layers, residuals, seed=1)
            stream.run(
                Items(subject, Lines(LINES * count), None), None, lambda: False, lambda: None
            )
            sizes.add(stream.memory_bytes)
            held.add(len(stream.kept))
            assert stream.sequences == count * len(LINES)
    assert len(sizes) == 1
    assert held == {8}


def test_batches_hold_all_and_are_small() -> None:
    items = [Item([1] * (1 + number * 7 % 300), [1] * (number % 11)) for number in range(64)]
    found = list(batches(items, alone=False))
    assert sorted(map(len, (i.source for batch in found for i in batch))) == sorted(
        len(item.source) for item in items
    )
    for batch in found:
        longest = max(len(side) for item in batch for side in item)
        assert len(batch) <= 32
        assert len(batch) * longest <= 1024 or len(batch) == 1
    assert [len(batch) for batch in batches(items, alone=True)] == [1] * 64


def test_layers_that_are_left_are_named() -> None:
    tried = MAKERS["pre-norm"]()
    tried.model.model.decoder.layers[0].fc1.register_forward_hook(lambda *_: None)
    record = look(tried)
    assert len(record.layers) == 1
    assert [left.name for left in record.left] == ["model.decoder.layers.0"]
    assert "has hooks" in record.left[0].reason
    tried.model.model.decoder.layers[1].fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(ReluctantError, match=r"no feed-forward layer can be watched.*has hooks"):
        look(tried)


def test_a_layer_that_is_put_back_is_no_sound_record(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Watch.compute

    def wrong(self: Watch, rows: Tensor) -> Any:
        seen = plain(self, rows)
        return seen._replace(y=seen.y + 1)

    monkeypatch.setattr(Watch, "compute", wrong)
    with pytest.warns(ReluctantWarning, match="put back"):
        record = look(MAKERS["pre-norm"]())
    assert not record.sound
    assert [check.holds for check in record.checks] == [True, False]


def test_an_output_that_changed_is_no_sound_record(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Watch.__call__

    def wrong(self: Watch, x: Tensor, drop: float = 0.0) -> Tensor:
        y = plain(self, x, drop)
        return y * 1.5 if len(calls) > 4 else y

    calls: list[int] = []
    monkeypatch.setattr(Watch, "see", None, raising=False)
    monkeypatch.setattr(Watch, "__call__", lambda *a: (calls.append(1), wrong(*a))[1])
    record = look(MAKERS["pre-norm"]())
    assert [check.holds for check in record.checks] == [False, True]
    assert not record.sound


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ffn = reluctant.FeedForward(D, D_FF)

    def forward(self, ids: Tensor) -> Tensor:
        raise RuntimeError("no\nway")


def test_what_cannot_be_looked_into() -> None:
    tried, words = MAKERS["pre-norm"](), letters()
    expected = {
        "got list": lambda: inspect([], LINES, words=words),  # type: ignore[arg-type]
        "call model.eval": lambda: inspect(tried.model.train(), LINES, words=words),
        "expected a tokenizer": lambda: inspect(tried.model.eval(), LINES, words=None),
        "no targets": lambda: inspect(tried.model, LINES, words=words, targets=LINES),
        "at least one token": lambda: inspect(tried.model, ["", "  "], words=words),
        "a sentence with at least": lambda: look(tried, sentences=[""]),
        "found no feed-forward": lambda: inspect(nn.Linear(3, 3).eval(), LINES, words=words),
        "RuntimeError: no way": lambda: inspect(Broken().eval(), LINES, words=words),
        "put it in a list": lambda: inspect(tried.model, "text", words=words),
    }
    for says, call in expected.items():
        with pytest.raises(ReluctantError, match=says):
            call()
    post = MAKERS["post-norm"]()
    with pytest.raises(ReluctantError, match="a target for each line"):
        inspect(post.model, LINES, words=post.words, targets=["one"])


def test_steps_are_told() -> None:
    tried, steps = MAKERS["pre-norm"](), list[str]()
    subject = subject_of(tried.model, tried.words)
    run_inspection(subject, Lines(LINES), Options(turn=0.0), translated=False, on_step=steps.append)
    assert steps[0] == "looking for the layers"
    assert {"reading", "sentence 1", "sentence 3", "layer 1", "layer 2"} <= set(steps)


def test_json_holds_no_number_that_is_none() -> None:
    tried = MAKERS["bert"]()
    with torch.no_grad():
        tried.model.encoder.layer[0].output.dense.weight.zero_()
        tried.model.encoder.layer[0].output.dense.bias.zero_()
    found = look(tried).to_json()
    layer = found["layers"][0]
    assert layer["effective_rank"]["output"] == 0.0
    assert layer["neurons_for_90"] == 0.0
    assert layer["update"]["cosine"] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _finite(found)


def _finite(value: Any) -> None:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _finite(each)
    elif isinstance(value, float):
        assert float("-inf") < value < float("inf")
