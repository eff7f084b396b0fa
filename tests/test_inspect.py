"""`reluctant.lab.inspect.inspect`: what it leaves alone, where it stops, what it refuses."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reluctant
import reluctant.lab.inspect
from inspected import D_FF, LINES, MAKERS, D, kept, letters, look, near
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.lab.inspect import inspect, run_inspection, subject_of
from reluctant.lab.inspect.items import Items, batches
from reluctant.lab.inspect.reading import Reading
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
    assert record.text.sequences == 32  # it is asked before the trial and before each batch
    taken = sorted(lines, key=len)[:32]
    assert record.text.bytes == sum(map(len, taken))  # not what was read ahead
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
    assert record.text.bytes == len(LINES[0]) + len(LINES[1])
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


def _kept(count: int) -> int:
    """Bytes that a text of so many times the lines leaves behind, in tensors and in Python."""
    tried = MAKERS["pre-norm"]()
    subject, model = subject_of(tried.model, tried.words), copy.deepcopy(tried.model)
    lines = (line for _ in range(count) for line in LINES)
    with watched(model) as layers, Residuals(model, {D}) as residuals:
        stream = Stream(Reading(subject, model, layers, residuals), seed=1)
        with kept() as found:
            items = Items(subject, Lines(lines), None)
            stream.run(items, None, lambda: False, lambda step: None)
    assert stream.sequences == count * len(LINES)
    assert len(stream.kept) == 8
    return found[0]


def test_memory_does_not_grow_with_the_text() -> None:
    _kept(2)  # what is imported and compiled on the way
    assert _kept(150) - _kept(2) < 100_000  # h of one layer would be 1 MB


def test_the_test_of_memory_notices_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, leaked = Stream._tell, list[Any]()

    def tell(self: Stream, call: Any) -> None:
        leaked.append(call.seen.h)
        plain(self, call)

    monkeypatch.setattr(Stream, "_tell", tell)
    assert _kept(150) - _kept(2) > 1_000_000


def test_batches_hold_all_and_are_small() -> None:
    items = [Item([1] * (1 + number * 7 % 300), [1] * (number % 11)) for number in range(64)]
    found = list(batches(items, alone=False))
    assert sorted(map(len, (i.source for batch in found for i in batch))) == sorted(
        len(item.source) for item in items
    )
    for batch in found:
        longest = max(len(side) for item in batch for side in item.sides)
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
        return seen._replace(y=seen.y + 1) if self.name.endswith("1") else seen

    monkeypatch.setattr(Watch, "compute", wrong)
    with pytest.warns(ReluctantWarning, match="put back"):
        record = look(MAKERS["pre-norm"]())
    assert not record.sound
    assert [check.holds for check in record.checks] == [True, False, True]
    assert "were put back: model.decoder.layers.1" in record.checks[1].says
    assert [layer.name for layer in record.layers] == ["model.decoder.layers.0"]
    assert [left.name for left in record.left] == ["model.decoder.layers.1"]
    assert "it was put back" in record.left[0].reason


def test_an_output_that_changed_is_no_sound_record(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Watch.__call__

    def wrong(self: Watch, x: Tensor, drop: float = 0.0) -> Tensor:
        y = plain(self, x, drop)
        return y * 1.5 if len(calls) > 4 else y

    calls: list[int] = []
    monkeypatch.setattr(Watch, "see", None, raising=False)
    monkeypatch.setattr(Watch, "__call__", lambda *a: (calls.append(1), wrong(*a))[1])
    record = look(MAKERS["pre-norm"]())
    assert [check.holds for check in record.checks] == [False, True, True]
    assert not record.sound


@pytest.mark.parametrize("where", ["second sentence", "padded batch"])
def test_an_output_that_changed_anywhere(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, plain = MAKERS["pre-norm"](), Watch.__call__
    rows = {"second sentence": len(LINES[1]), "padded batch": 2 * len(LINES[1])}[where]

    def wrong(self: Watch, x: Tensor, drop: float = 0.0) -> Tensor:
        y = plain(self, x, drop)
        return y * 1.5 if self.see is None and x.numel() == rows * D else y

    monkeypatch.setattr(Watch, "__call__", wrong)
    record = look(tried)
    assert [check.holds for check in record.checks] == [False, True, True]
    assert "3 sentences and a padded batch" in record.checks[0].says


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


def test_interrupted_after_the_pass() -> None:
    tried, steps = MAKERS["pre-norm"](), list[str]()
    record = run_inspection(
        subject_of(tried.model, tried.words),
        Lines(LINES),
        Options(turn=0.0),
        translated=False,
        stopped=lambda: "sentence 2" in steps,
        on_step=steps.append,
    )
    assert (record.text.whole, record.text.stopped) == (False, "interrupted")
    assert record.text.sequences == len(LINES)
    assert all(layer.saves.measured is None for layer in record.layers)


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
