"""`reluctant bench --whole`: models beside other engines, and their answers beside generate's."""

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner, Result

from reluctant.bench import limits
from reluctant.cli import app
from reluctant.errors import ReluctantError
from reluctant.surgery.linears import LEAST_VOCABULARY
from reluctant.whole import compare as comparing
from reluctant.whole import compare_table, peers
from reluctant.whole.alike import asks as asking
from reluctant.whole.alike import run as running
from reluctant.whole.alike import run_alike
from reluctant.whole.alike.asks import METHODS, Ask, asks
from reluctant.whole.alike.judge import DIFFERENT, SAME, TIE, Judge
from reluctant.whole.alike.table import show
from reluctant.whole.compare import alike, compare, prompts_of
from reluctant.whole.load import Loaded, load
from reluctant.whole.peers import Peer, UnfitError, Work, build, torches, ways
from reluctant.whole.peers import ctranslate as ctranslate_peer
from reluctant.whole.peers import llama as llama_peer
from reluctant.whole.twin import twin

VOCABULARY = LEAST_VOCABULARY + 8

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMORY_BYTES", 2**16)
    monkeypatch.setattr(asking, "LONGEST", 20)


def drawn(model: Any) -> Any:
    """Random weights of a size that makes the model write more than one word."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def writer() -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64}
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2)
    return drawn(transformers.LlamaForCausalLM(config))


def gemma() -> Any:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    config = transformers.Gemma3TextConfig(
        **sizes, **heads, num_hidden_layers=2, query_pre_attn_scalar=32
    )
    return drawn(transformers.Gemma3ForCausalLM(config))


def translator() -> Any:
    sides = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))
    }
    config = transformers.M2M100Config(vocab_size=VOCABULARY, d_model=32, **sides)
    model = drawn(transformers.M2M100ForConditionalGeneration(config))
    model.generation_config.num_beams = 2
    return model


def loaded(model: Any) -> Loaded:
    return Loaded("tiny", model)


def printed(of: Any, result: Any) -> str:
    out = io.StringIO()
    of(result, Console(file=out, width=150))
    return out.getvalue()


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "150"})


# What is asked.


def test_prompts_are_padded_on_the_left_and_a_third_stands_in_batches() -> None:
    found = asks(loaded(writer()), new=4, share=0.3)
    count = dict.fromkeys(METHODS, 0)
    batched = dict.fromkeys(METHODS, 0)
    for ask in found:
        assert ask.ids.shape == ask.mask.shape
        assert len(ask.ids) in (1, asking.TOGETHER)
        assert bool((ask.mask.diff(dim=1) >= 0).all())  # zeros, then ones
        assert bool(ask.mask[:, -1].all())
        assert bool((ask.ids[ask.mask == 0] == 0).all())
        lengths = ask.mask.sum(1)
        assert bool(((lengths >= asking.SHORTEST) & (lengths <= asking.LONGEST)).all())
        assert int(lengths.max()) == ask.ids.shape[1]
        count[ask.method] += len(ask.ids)
        batched[ask.method] += len(ask.ids) * (len(ask.ids) > 1)
    assert count == {name: round(0.3 * most) for name, (most, _) in METHODS.items()}
    assert batched["greedy"] == 20
    assert len({ask.seed for ask in found}) == len(found)
    assert len(asks(loaded(writer()), new=4)) == 300 - 3 * (68 + 8 + 8 + 8 + 12) // 4


def test_prompts_are_real_text_after_what_the_tokenizer_begins_with() -> None:
    class Letters:
        bos_token_id = 2

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            ids = [2, *(3 + ord(letter) % 1000 for letter in text)]
            return {"input_ids": torch.tensor([ids]) if "return_tensors" in _ else ids}

    given = Loaded("tiny", writer(), Letters())
    for ask in asks(given, new=4, share=0.05):
        for ids, mask in zip(ask.ids, ask.mask, strict=True):
            prompt = ids[mask.bool()]
            assert int(prompt[0]) == 2
            assert not bool((prompt[1:] == 2).any())
    first, second = prompts_of(given, 2)
    assert first.shape == second.shape == (1, comparing.PROMPT)
    assert int(first[0, 0]) == int(second[0, 0]) == 2
    text = "".join(chr(number - 3) for number in first[0, 1:].tolist())
    assert text.startswith("It is a truth universally")


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(ReluctantError, match="share"):
        asks(loaded(writer()), new=4, share=share)


# The same, ties and errors.


@pytest.mark.parametrize("make", [writer, translator], ids=["writer", "translator"])
def test_the_same_tokens_every_way(make: Callable[[], Any]) -> None:
    result = run_alike(loaded(make()), new=5, share=0.2)
    assert result.alike
    assert [method.count(SAME) for method in result.methods] == [40, 4, 4, 4, 8]
    assert [method.batched for method in result.methods] == [12, 0, 0, 0, 4]
    assert all(method.rows for method in result.methods[:4])
    assert not result.reasons
    text = printed(show, result)
    assert "yes the same tokens" in text
    assert "top-p 0.9" in text
    found = json.loads(json.dumps(result.to_json()))
    assert found["alike"] is True
    assert found["methods"][0]["rows"]["decisions"] == 40 * 5


class Planted:
    """In the place of `reluctant.generate`: torch's own, with a weight that is off by `much`."""

    def __init__(self, much: float) -> None:
        self.much = much

    def __call__(self, served: Any) -> Callable[..., Tensor]:
        def generate(**kwargs: Any) -> Tensor:
            weight = served.get_output_embeddings().weight
            kept, draw = weight.data.clone(), torch.Generator().manual_seed(1)
            weight.data += self.much * weight.data.abs() * torch.randn(weight.shape, generator=draw)
            try:
                found: Tensor = served.generate(**kwargs)
            finally:
                weight.data.copy_(kept)
            return found

        return generate


def test_an_error_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_ours", Planted(0.1))
    result = run_alike(loaded(writer()), new=8, share=0.1)
    assert not result.alike
    assert result.methods[0].count(DIFFERENT) > 5
    verdict = next(v for v in result.methods[0].verdicts if v.kind == DIFFERENT)
    assert verdict.gap is not None
    assert verdict.rounding is not None
    assert verdict.gap > 10 * verdict.rounding > 0.0
    text = printed(show, result)
    assert "NO  some tokens differ" in text
    assert "different: greedy" in text


def tied(model: Any, pairs: int = 200) -> Any:
    """Two words of equal logits but for rounding, over and over: the one or the other may win."""
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight[:] = weight[:pairs].repeat(-(-len(weight) // pairs), 1)[: len(weight)]
        weight *= 1 + 2e-8 * torch.randn(weight.shape, dtype=torch.float64)
    return model


def asked(model: Any, method: str) -> tuple[Ask, Tensor]:
    """One call, and what the model itself writes."""
    ask = next(a for a in asks(loaded(model), new=3, share=0.02) if a.method == method)
    torch.manual_seed(ask.seed)
    return ask, model.generate(input_ids=ask.ids, attention_mask=ask.mask, **ask.how)


@pytest.mark.parametrize("method", ["greedy", "4 beams"])
def test_a_tie_is_a_tie(method: str) -> None:
    """The other word of a pair is as good; the neighbour is not."""
    model = tied(writer())
    judge = Judge(model, twin(model))
    ask, theirs = asked(model, method)
    assert judge.compare(ask, 0, theirs, swapped(theirs, 200)).kind == TIE
    wrong = judge.compare(ask, 0, theirs, swapped(theirs, 7))
    assert wrong.kind == DIFFERENT
    assert wrong.at == 2
    assert judge.compare(ask, 0, theirs, theirs[:, :-1]).kind == DIFFERENT


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("greedy", "4 beams")])
def test_another_draw_is_an_error(method: str) -> None:
    model = writer()
    judge = Judge(model, twin(model))
    ask, theirs = asked(model, method)
    verdict = judge.compare(ask, 0, theirs, swapped(theirs, 5))
    assert verdict.kind == DIFFERENT
    assert verdict.at == 2


def swapped(ids: Tensor, by: int) -> Tensor:
    """With another last word."""
    ids = ids.clone()
    ids[:, -1] = (ids[:, -1] + by) % VOCABULARY
    return ids


@pytest.mark.parametrize(("method", "border"), [("top-k 50", 49), ("top-p 0.9", None)])
def test_who_may_take_part_can_be_a_tie(method: str, border: int | None) -> None:
    model = writer()
    judge = Judge(model, twin(model))
    ask = next(a for a in asks(loaded(model), new=3, share=0.02) if a.method == method)
    exact = torch.randn(VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    order = exact.argsort(descending=True)
    if border is None:
        border = int((exact.softmax(0)[order].cumsum(0) < asking.TOP_P).sum())
    assert judge._at_border(ask, exact, int(order[border]), 1e-6)
    assert not judge._at_border(ask, exact, int(order[border // 2]), 1e-6)


def test_the_judge_draws_the_numbers_that_sampling_draws() -> None:
    """In float64 the same words win, in each row of a batch and at each step."""
    model = writer()
    judge = Judge(model, twin(model))
    many = asks(loaded(model), new=4, share=0.4)
    ask = next(a for a in many if a.method == "full sampling" and len(a.ids) > 1)
    torch.manual_seed(ask.seed)
    ids = model.generate(input_ids=ask.ids, attention_mask=ask.mask, **ask.how)
    start = ask.ids.shape[1]
    for row in range(len(ids)):
        for step in range(4):
            exact, error = judge._step(ask, row, ids[row, : start + step])
            exact[2] = -torch.inf  # its end, forbidden
            keys = exact - judge._waits(ask, row, step, len(exact))
            assert int(keys.argmax()) == int(ids[row, start + step])
            assert 0 < error < 1e-4


def test_beams_that_were_dropped_by_a_tie() -> None:
    """Ours keeps another of two beams as good, midway, and ends elsewhere: a tie all the same."""
    model = tied(writer())
    ask = next(a for a in asks(loaded(model), new=3, share=0.02) if a.method == "4 beams")
    judge = Judge(model, model)
    plain = judge._kept(model.generate, ask, 0)

    def kept(who: Any, ask: Ask, row: int) -> list[set[tuple[int, ...]]]:
        if who == model.generate:
            return [set(step) for step in plain]
        others = [{(*ids[:-1], (ids[-1] + 200) % VOCABULARY) for ids in s} for s in plain[1:]]
        return [plain[0], *others]

    judge._kept = kept  # type: ignore[method-assign]
    theirs = model.generate(input_ids=ask.ids, attention_mask=ask.mask, **ask.how)
    verdict = judge.compare(ask, 0, theirs, swapped(theirs, 7))
    assert verdict.kind == TIE
    assert verdict.at == 0


def test_a_model_whose_projection_is_not_served() -> None:
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with pytest.raises(ReluctantError, match="is not served"):
        run_alike(loaded(model), new=2, share=0.01)


# The table of peers.


def test_tokens_that_agree() -> None:
    assert alike([1, 2, 3], [1, 2, 3]) == 3
    assert alike([1, 2, 3], [4, 2, 3]) == 0
    assert alike([1, 2, 3], [1, 2]) == 2
    assert alike([], [1]) == 0


ALWAYS = ["eager float32", "reluctant float32", "reluctant float32, batch-invariant"]


def test_a_table_of_what_is_always_there() -> None:
    model = writer()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    made = compare(loaded(model), new=4, rounds=2, names=["none"])
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])  # after float64, too
    assert [line.name for line in made.lines] == ALWAYS
    eager, ours, _ = made.lines
    assert eager.equal == ours.equal == made.tokens == 8
    assert eager.factor == 1.0
    assert eager.tokens_per_second == pytest.approx(4 / eager.seconds)
    weights = sum(w.numel() for w in model.parameters()) * 4
    unread = VOCABULARY * 32 * 4  # the embedding
    assert eager.held == ours.held == weights
    assert made.read_share == pytest.approx(1 - unread / weights)
    wanted = (weights - unread) * eager.tokens_per_second / made.bandwidth
    assert eager.share == pytest.approx(wanted)
    assert ours.added > 0
    text = printed(compare_table.show, comparing.Result((made,)))
    assert "8/8" in text
    assert "tiny: LlamaForCausalLM, checkpoint float32, greedy" in text


def test_what_a_token_reads(tmp_path: Path) -> None:
    """An embedding that is the output projection, too; neither the encoder nor positions."""
    assert Work(gemma(), [], 1, 2, tmp_path).read == 1.0
    model = translator()
    read = (
        sum(w.numel() for w in model.model.decoder.layers.parameters())
        + model.lm_head.weight.numel()
    )
    read += sum(w.numel() for w in model.model.decoder.layer_norm.parameters())
    work = Work(model, [], 1, 2, tmp_path)
    assert work.read == pytest.approx(read * 4 / work.size)


def test_a_16_bit_checkpoint_has_ways_of_its_own() -> None:
    model = translator()
    made = compare(loaded(model), dtype=torch.bfloat16, new=3, rounds=1, names=["none"])
    names = [line.name for line in made.lines]
    assert names[:3] == ["eager float32", "eager bfloat16", "reluctant float32"]
    assert "reluctant bfloat16" in names
    for weight in model.parameters():
        assert torch.equal(weight, weight.bfloat16().float())
    half = made.lines[1]
    assert half.held * 2 == made.lines[0].held == made.weight_bytes
    assert made.beams == 2
    assert "reluctant float32, narrow" in names


def test_who_is_missing_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ctranslate2", "llama_cpp", "gguf", "openvino_genai"):
        monkeypatch.setitem(sys.modules, package, None)
    made = compare(loaded(writer()), new=2, rounds=1)
    assert [line.name for line in made.lines] == ALWAYS
    assert len(made.missing) == 6
    for reason in made.missing.values():
        assert reason.endswith("pip install 'reluctant[peers]'")
    text = printed(compare_table.show, comparing.Result((made,)))
    assert "CTranslate2 float32, CTranslate2 int8 left out: import of ctranslate2 halted" in text


def test_whatever_ails_a_peer_the_others_are_measured(tmp_path: Path) -> None:
    work = Work(writer(), [], 1, 2, tmp_path)

    def unfit(work: Work) -> Peer:
        raise UnfitError("not this one")

    def broken(work: Work) -> Peer:
        raise ValueError("a\nb")

    assert build(unfit, work) == "not this one"
    assert build(broken, work) == "ValueError: a b"
    assert "unheard_of" in str(build(partial(torches.ours, unheard_of=True), work))


def test_a_peer_that_does_not_fit_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(writer(), [], 1, 2, tmp_path)
    monkeypatch.setattr(peers, "available_memory", lambda: 2 * work.size - 1)
    assert "GB to build" in str(build(torches.ours, work))
    monkeypatch.setattr(peers, "available_memory", lambda: 2 * work.size)
    assert isinstance(build(torches.ours, work), Peer)


def test_names_of_peers() -> None:
    assert list(ways(torch.float32, ["llama.CPP"]))[2:] == ["llama.cpp BF16", "llama.cpp Q8_0"]
    with pytest.raises(ReluctantError, match="expected peers among CTranslate2"):
        ways(torch.float32, ["vllm"])


def test_what_a_checkpoint_is_stored_as(tmp_path: Path) -> None:
    model = writer().bfloat16()
    model.save_pretrained(tmp_path)
    found = load(str(tmp_path))
    assert found.stored is torch.bfloat16
    assert found.model.dtype is torch.float32


needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name} here")
    for name in ("ctranslate2", "llama_cpp")
}


@needs["ctranslate2"]
@pytest.mark.parametrize("make", [writer, gemma, translator])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_ctranslate2(make: Callable[[], Any], kind: str, tmp_path: Path) -> None:
    agrees_and_changes_nothing(make(), partial(ctranslate_peer.build, kind=kind), tmp_path, kind)


@needs["llama_cpp"]
@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_llama_cpp(kind: str, tmp_path: Path) -> None:
    model = gemma().bfloat16().float()
    agrees_and_changes_nothing(model, partial(llama_peer.build, dtype=kind), tmp_path, kind)
    with pytest.raises(UnfitError, match="this is llama"):
        llama_peer.build(Work(writer(), [], 1, 2, tmp_path), "BF16")


def agrees_and_changes_nothing(
    model: Any, builder: Callable[[Work], Peer], folder: Path, kind: str
) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    prompts = prompts_of(loaded(model), 3)
    beams = model.generation_config.num_beams or 1
    work = Work(model, prompts, beams, 4, folder)
    peer = builder(work)
    found = [peer.write(prompt) for prompt in prompts]
    exact = [torches.written(model.generate, work, prompt) for prompt in prompts]
    peer.close()
    agree = sum(alike(a, b) for a, b in zip(exact, found, strict=True))
    assert agree == 12 if kind in ("float32", "BF16") else agree >= 4
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


# The command.


def test_the_command(tmp_path: Path) -> None:
    writer().save_pretrained(tmp_path / "model")
    out = tmp_path / "out.json"
    common = ["--whole", "--model", str(tmp_path / "model"), "--new", "2", "--json", str(out)]
    result = bench(*common, "--rounds", "1", "--peers", "none")
    assert result.exit_code == 0, result.output
    (made,) = json.loads(out.read_text())["models"]
    assert [line["name"] for line in made["lines"]] == ALWAYS
    assert made["lines"][0]["factor"] == 1.0
    result = bench(*common, "--answers", "--share", "0.01")
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["alike"] is True


def test_the_commands_exit_code_where_tokens_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(running, "_ours", Planted(0.3))
    given = ["--whole", "--answers", "--model", str(tmp_path / "model"), "--new", "8"]
    result = bench(*given, "--share", "0.05")
    assert result.exit_code == 1, result.output
    assert "NO" in result.output


WRONG = [
    (["--answers"], "--answers and --model go with --whole"),
    (["--model", "x"], "go with --whole"),
    (["--whole", "--quick"], "leave one out"),
    (["--whole", "--tokens", "1"], "leave one out"),
    (["--whole", "--dtypes", "int4"], "--dtypes: expected one of"),
    (["--whole", "--peers", "vllm"], "expected peers among"),
    (["--whole", "--answers"], "expected one --model, got 0"),
    (["--whole", "--model", "./no-such-folder"], "there is none"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_what_cannot_be_run_exits_with_2(arguments: list[str], says: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
