"""`reluctant.lab.inspect.inspect`: sentences, one token's walk, and models of other kinds."""

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import reluctant
import reluctant.lab.inspect
from inspected import D_FF, LINES, MAKERS, ROOM, D, Tried, calls, letters, lively
from reluctant.errors import ReluctantError, ReluctantWarning
from reluctant.lab.inspect import Record, inspect, run_inspection, subject_of
from reluctant.lab.inspect.items import Items, batches
from reluctant.lab.inspect.of_layer import Layer
from reluctant.lab.inspect.run import Options
from reluctant.lab.inspect.stream import Stream
from reluctant.lab.inspect.subject import Item
from reluctant.lab.inspect.text import Lines
from reluctant.lab.residual import NO_NORM, OTHER, Residuals
from reluctant.lab.watch import Watch, watched
from reluctant.surgery.swap import seat_of
from reluctant.transformer import greedy

pytestmark = pytest.mark.usefixtures("one_thread")
kinds = pytest.mark.parametrize("kind", MAKERS)
TINY = {"vocab_size": 100, "hidden_size": D, "intermediate_size": D_FF, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "max_position_embeddings": ROOM}


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reluctant.lab.inspect, "Options", partial(Options, turn=0.0))


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-6)


def look(tried: Tried, lines: list[str] | None = None, **options: Any) -> Record:
    options = tried.options | options
    return inspect(tried.model, lines or LINES, words=tried.words, **options)


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


@kinds
def test_what_a_sentence_used(kind: str) -> None:
    tried = MAKERS[kind]()
    options = {"targets": None} if kind == "post-norm" else {}
    record = look(tried, sentences=[LINES[0]], neurons=1, **options)
    (sentence,) = record.sentences
    assert sentence.text == LINES[0]
    if kind == "post-norm":  # what the decoder reads is the model's own
        source = torch.tensor([tried.items[0]["encoder"]])
        answer = greedy(tried.model, source, max_length=64)[0].tolist()
        answer = answer[: answer.index(2)] if 2 in answer else answer
        tried.items = [{"encoder": tried.items[0]["encoder"], "decoder": [1, *answer][:65]}]
        assert sentence.output == tried.words.decode([answer])[0]
    tried.items = tried.items[:1]
    seen, ids = calls(tried), tried.items[0]
    assert {stack: len(parts) for stack, parts in sentence.parts.items()} == {
        stack: len(each) for stack, each in ids.items()
    }
    assert [layer.name for layer in sentence.layers] == [layer.name for layer in record.layers]
    for layer, told in zip(record.layers, sentence.layers, strict=True):
        h, z = seen[layer.name].h[0], seen[layer.name].z[0]
        lengths = [float(v.norm()) for v in _values(tried, layer)]
        for token, hs, zs in zip(told.tokens, h, z, strict=True):
            fires = zs > 0 if layer.exact_zeros else hs != 0
            assert token.active == int(fires.sum())
            norms = {i: abs(float(hs[i])) * lengths[i] for i in range(D_FF) if fires[i]}
            best = sorted(norms, key=lambda i: -norms[i])[:12]
            assert [each.index for each in token.neurons] == best
            for each in token.neurons:
                assert (each.h, each.norm) == (near(float(hs[each.index])), near(norms[each.index]))
        added = {i: sum((float(hs[i]) * lengths[i]) ** 2 for hs in h) for i in range(D_FF)}
        assert [w.neuron for w in told.without] == sorted(added, key=lambda i: -added[i])[:3]
        told_of = {neuron.index for neuron in layer.neurons}
        assert told_of >= {each.index for token in told.tokens for each in token.neurons}
        assert told_of >= {without.neuron for without in told.without}


def _values(tried: Tried, layer: Layer) -> Tensor:
    down: Any = tried.model.get_submodule(tried.layers[layer.name][1])
    return down.weight.detach().double().T


@kinds
def test_without_a_neuron_is_with_its_value_zero(kind: str) -> None:
    tried = MAKERS[kind]()
    options = {"targets": None} if kind == "post-norm" else {}
    record = look(tried, sentences=LINES[:2], **options)
    for sentence, item in zip(record.sentences, tried.items, strict=False):
        before = _says(tried, tried.model, item)
        for layer in sentence.layers:
            assert len(layer.without) == 3
            for without in layer.without:
                other = copy.deepcopy(tried.model)
                with torch.no_grad():
                    other.get_submodule(tried.layers[layer.name][1]).weight[:, without.neuron] = 0
                after = _says(tried, other, item)
                assert (without.before, without.after) == (before[0], after[0])
                assert without.change == pytest.approx(
                    _change(tried, other, before, item), rel=1e-3, abs=1e-6
                )
                assert without.fired
    assert any(w.change > 1e-4 for s in record.sentences for x in s.layers for w in x.without)


def _says(tried: Tried, model: Any, item: dict[str, list[int]]) -> tuple[str | None, list[int]]:
    """The text, and the ids of a translation."""
    if "encoder" in item:
        row = greedy(model, torch.tensor([item["encoder"]]), max_length=64)[0].tolist()
        row = row[: row.index(2)] if 2 in row else row
        return tried.words.decode([row])[0], row
    with torch.no_grad():
        output = tried.run(model, item)
    if output.shape[-1] == D:
        return None, []
    return tried.words.convert_ids_to_tokens([int(output[0, -1].argmax())])[0], []


def _change(tried: Tried, other: Any, before: Any, item: dict[str, list[int]]) -> float:
    given = item | ({"decoder": [1, *before[1]]} if "encoder" in item else {})
    with torch.no_grad():
        old, new = (tried.run(model, given)[0].double() for model in (tried.model, other))
    if old.shape[-1] == D:
        old, new = old.mean(0), new.mean(0)
        return 1 - float((old * new).sum() / old.norm() / new.norm())
    if "encoder" not in item:
        old, new = old[-1:], new[-1:]
    return float((old.softmax(-1) - new.softmax(-1)).abs().max())


def test_a_neuron_that_did_not_fire_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = MAKERS["pre-norm"]()
    with torch.no_grad():
        for layer in tried.model.model.decoder.layers:
            layer.fc1.bias[2:] = -1e4  # two neurons at most are left
    tried_out: list[int] = []
    plain = Watch.compute

    def compute(self: Watch, rows: Tensor) -> Any:
        if self.without is not None:
            tried_out.append(self.without)
        return plain(self, rows)

    monkeypatch.setattr(Watch, "compute", compute)
    record = look(tried)
    silent = [w for s in record.sentences for x in s.layers for w in x.without if not w.fired]
    assert len(silent) >= len(record.sentences) * 2
    assert all((w.change, w.before) == (0.0, w.after) for w in silent)
    assert set(tried_out) <= {0, 1}
    assert record.layers[0].dead >= D_FF - 2
    assert record.layers[0].neurons[-1].mean is None


@kinds
def test_one_tokens_walk(kind: str) -> None:
    tried = MAKERS[kind]()
    record = look(tried)
    walk, seen = record.walk, calls(tried)
    assert walk is not None
    layer = record.layers[0]
    assert (walk.layer, walk.sentence) == (layer.name, 0)
    stack = tried.layers[layer.name][2]
    ids, made = tried.items[0][stack], seen[layer.name]
    assert walk.position == len(ids) // 2
    assert walk.token == record.sentences[0].parts[stack][walk.position]
    x, z, h, y = (rows[0][walk.position] for rows in (made.x, made.z, made.h, made.y))
    assert (walk.x, walk.y) == (near(x.tolist()), near(y.tolist()))
    assert (walk.x_norm, walk.y_norm) == (near(float(x.norm())), near(float(y.norm())))
    lengths = [float(v.norm()) for v in _values(tried, layer)]
    norms = [abs(float(h[i])) * lengths[i] for i in range(D_FF)]
    total = sum(norm**2 for norm in norms)
    assert walk.active == len(walk.neurons) == int((h != 0).sum())
    for neuron in walk.neurons:
        i = neuron.index
        assert (neuron.z, neuron.h) == (near(float(z[i])), near(float(h[i])))
        assert (neuron.norm, neuron.share) == (near(norms[i]), near(norms[i] ** 2 / total))
    assert sum(neuron.share for neuron in walk.neurons) == near(1.0)
    assert [n.norm for n in walk.neurons] == sorted((n.norm for n in walk.neurons), reverse=True)
    assert walk.residual is not None
    assert walk.out == near([r + v for r, v in zip(walk.residual, walk.y, strict=True)])
    if kind != "pre-norm":
        assert walk.residual == near(walk.x)
    told_of = {neuron.index for neuron in layer.neurons}
    assert told_of >= {neuron.index for neuron in walk.neurons}


def test_the_walk_prefers_exact_zeros() -> None:
    tried = MAKERS["pre-norm"]()
    tried.model.model.decoder.layers[0].activation_fn = nn.GELU()
    record = look(tried)
    assert [layer.exact_zeros for layer in record.layers] == [False, True]
    assert record.walk is not None
    assert record.walk.layer == record.layers[1].name
    assert record.walk.z_active == 0.0


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


def test_a_limit() -> None:
    tried = MAKERS["pre-norm"]()
    record = look(tried, limit=len(LINES[0]) + 1)
    assert (record.text.sequences, record.text.stopped) == (2, "limit")
    assert not record.text.whole
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


def test_a_gated_layer() -> None:
    config = transformers.LlamaConfig(**TINY, pad_token_id=0)
    model = lively(transformers.LlamaForCausalLM(config))
    tried = Tried(model, letters(around=False), {}, [], lambda model, item: torch.zeros(0))
    (layer,) = look(tried).layers
    assert (layer.gated, layer.activation, layer.exact_zeros) == (True, "silu", False)
    assert layer.flops_per_token == 2 * 3 * D * D_FF
    assert layer.parameters == 3 * D * D_FF
    assert layer.density.mean == 1.0
    assert layer.update is not None
    assert all(neuron.bias is None for neuron in layer.neurons)
    mlp = model.model.layers[0].mlp
    for neuron in layer.neurons:
        assert neuron.key_norm == near(float(mlp.gate_proj.weight.detach()[neuron.index].norm()))


def test_gpt2_whose_maps_are_transposed() -> None:
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=D, n_layer=2, n_head=2, n_inner=D_FF, n_positions=ROOM
    )
    config.bos_token_id = config.eos_token_id = 2
    model = lively(transformers.GPT2LMHeadModel(config))
    tried = Tried(model, letters(around=False), {}, [], lambda model, item: torch.zeros(0))
    record = look(tried, ["ab" * 30])
    assert (record.model.kind, record.text.sequences) == ("decoder", 3)
    assert [layer.activation for layer in record.layers] == ["gelu_tanh"] * 2
    assert all(layer.update is not None for layer in record.layers)
    assert record.layers[0].parameters == 2 * D * D_FF + D + D_FF


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=100,
        d_model=D,
        d_ff=D_FF,
        d_kv=8,
        num_heads=2,
        num_layers=1,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
    )
    return lively(transformers.T5ForConditionalGeneration(config))


@pytest.mark.filterwarnings("ignore:.*max_length.*")
@pytest.mark.parametrize("targets", [None, ["ein", "zwei", "drei", "vier"]])
def test_an_encoder_decoder_of_theirs(targets: list[str] | None) -> None:
    model, words = t5(), letters(around=False)
    record = inspect(model, LINES, words=words, targets=targets)
    assert record.model.kind == "encoder-decoder"
    assert [layer.stack for layer in record.layers] == ["encoder", "decoder"]
    assert record.sound
    if targets is None:
        assert record.text.target == "translated"
    else:
        assert record.text.by_stack["decoder"] == sum(1 + len(target) for target in targets)
    ids = torch.tensor([words(LINES[0])["input_ids"]])
    settings = {"do_sample": False, "num_beams": 1, "max_new_tokens": 64}
    row = model.generate(ids, **settings)[0].tolist()
    assert record.sentences[0].output == words.decode(row, skip_special_tokens=True).strip()
    end = row.index(2) if 2 in row else len(row)
    assert len(record.sentences[0].parts["decoder"]) == end
    assert model.generation_config.max_length == t5().generation_config.max_length
    assert all(layer.update is not None for layer in record.layers)
    assert record.layers[0].promotes_why == "the output projection does not read the encoder"


def test_attention_beside_the_layer_leaves_no_residual() -> None:
    config = transformers.GPTNeoXConfig(**TINY, use_parallel_residual=True)
    model = lively(transformers.GPTNeoXForCausalLM(config))
    (layer,) = inspect(model, LINES, words=letters(around=False)).layers
    assert (layer.update, layer.update_why) == (None, OTHER)
    config.use_parallel_residual = False
    model = lively(transformers.GPTNeoXForCausalLM(config))
    (layer,) = inspect(model, LINES, words=letters(around=False)).layers
    assert layer.update is not None


class Routed(nn.Module):
    """A layer that all tokens go through, and an expert for those with an even id."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, D)
        self.norm = nn.LayerNorm(D)
        self.all = reluctant.FeedForward(D, D_FF)
        self.expert = reluctant.FeedForward(D, D_FF, "reglu")

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = self.norm(x + self.all(x))
        even = ids % 2 == 0
        return x.masked_scatter(even[..., None], self.expert(x[even]))


def test_an_expert_is_told_of_without_places() -> None:
    model, words = lively(Routed()), letters(around=False)
    record = inspect(model, LINES, words=words)
    every, expert = record.layers
    even = sum(id % 2 == 0 for line in LINES for id in words(line)["input_ids"])
    assert record.model.kind == "other"
    assert (every.tokens, every.unplaced) == (record.text.tokens, 0)
    assert (expert.tokens, expert.unplaced, expert.overlap) == (even, even, None)
    assert expert.density.by_token == expert.density.by_position == []
    assert all(neuron.contexts == [] for neuron in expert.neurons)
    assert expert.update_why == NO_NORM
    assert every.update is not None
    assert [layer.name for layer in record.sentences[0].layers] == ["all"]
    assert record.totals.flops_per_token == near(
        (every.tokens * every.flops_per_token + even * expert.flops_per_token) / every.tokens
    )


def test_torchs_own_encoder() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(100, D)
            layer = nn.TransformerEncoderLayer(D, 2, D_FF, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids: Tensor) -> Tensor:
            return self.encoder(self.embedding(ids))  # type: ignore[no-any-return]

    model = lively(Model())
    record = inspect(model, LINES, words=letters(around=False))
    assert [layer.name for layer in record.layers] == ["encoder.layers.0", "encoder.layers.1"]
    assert all(layer.update is not None for layer in record.layers)
    # the fused code that torch takes without us is counted, too
    of_maps = 2 * sum(p.numel() for n, p in model.encoder.named_parameters() if p.dim() == 2)
    assert record.totals.flops_per_token > of_maps


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
    assert layer["effective_rank"]["output"] is None
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
