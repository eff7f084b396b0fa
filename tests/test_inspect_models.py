"""Models of all kinds: gated, with transposed maps, two stacks, experts, torch's own."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import reluctant
import reluctant.lab.inspect
from inspected import D_FF, LINES, MAKERS, ROOM, D, Tried, letters, lively, look, near
from reluctant.errors import ReluctantError
from reluctant.lab.inspect import inspect, subject_of
from reluctant.lab.inspect.subject import Batch, Item
from reluctant.lab.residual import NO_NORM, OTHER

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
TINY = {"vocab_size": 100, "hidden_size": D, "intermediate_size": D_FF, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "max_position_embeddings": ROOM}
SIZES = {"layers": 1, "ffn_dim": D_FF, "attention_heads": 2, "sparse_step": 1}


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


def test_the_residual_stream_in_few_digits() -> None:
    """Of float16 and bfloat16 the same figures as of float32, but for rounding."""
    config = transformers.LlamaConfig(**(TINY | {"num_hidden_layers": 2}), pad_token_id=0)
    model, found = lively(transformers.LlamaForCausalLM(config)), list[Any]()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        record = inspect(model.to(dtype), LINES, words=letters(around=False), neurons=1)
        found.append([layer.update for layer in record.layers])
    for updates in found[1:]:
        for few, many in zip(updates, found[0], strict=True):
            assert few.ratio == pytest.approx(many.ratio, rel=0.05)
            assert few.cosine == pytest.approx(many.cosine, abs=0.05)


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


def test_an_encoder_answers_with_its_vectors_whatever_its_head() -> None:
    model = lively(transformers.BertForMaskedLM(transformers.BertConfig(**TINY)))
    subject = subject_of(model, letters())
    batch = Batch([Item([3, 9, 8, 4])], subject.stacks, subject.pad)
    with torch.no_grad():
        output = subject.output(model, batch)
        hidden = model.bert(torch.tensor([[3, 9, 8, 4]])).last_hidden_state
    assert (subject.kind, subject.speaks) == ("encoder", False)
    assert torch.equal(output, hidden)


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
    flops = every.tokens * every.flops_per_token + even * expert.flops_per_token
    assert record.totals.flops_per_token == near(flops / every.tokens)
    assert record.totals.feed_forward_flops_per_token == near(flops / every.tokens)
    assert (every.flops_share or 0) + (expert.flops_share or 0) == near(1.0)


def test_models_with_experts_go_sequence_by_sequence() -> None:
    """An expert would take padding for tokens."""
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIZES.items()}
    config = transformers.NllbMoeConfig(
        **sizes, vocab_size=100, d_model=D, num_experts=4, pad_token_id=0, decoder_start_token_id=2
    )
    model, sequences = lively(transformers.NllbMoeForConditionalGeneration(config)), list[int]()
    model.model.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: sequences.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    words = letters(around=False)
    record = inspect(model, LINES, words=words, targets=LINES)
    assert set(sequences) == {1}
    experts = [layer for layer in record.layers if ".experts." in layer.name]
    assert experts
    assert all(layer.unplaced == layer.tokens > 0 for layer in experts)
    silent = [left for left in record.left if ".experts." in left.name]
    assert len(experts) + len(silent) == 8
    # transformers 5.23 sends some tokens to an expert more than once
    says = "no token of the text came to it", "more rows of a sequence come to it than there are"
    assert all(left.reason.startswith(says) for left in silent)
    plain, fired = copy.deepcopy(model).double(), {layer.name: list[Tensor]() for layer in experts}
    for name, found in fired.items():
        plain.get_submodule(name).fc1.register_forward_hook(
            lambda _, args, z, found=found: found.append(z.reshape(-1, D_FF) > 0)
        )
    with torch.no_grad():
        for ids in words(LINES)["input_ids"]:
            plain(torch.tensor([ids]), decoder_input_ids=torch.tensor([[2, *ids]]))
    for layer in experts:
        active = torch.cat(fired[layer.name])
        assert layer.tokens == len(active)
        assert layer.use == near(active.double().mean(0).tolist())


def test_torchs_own_encoder() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(100, D)
            layer = nn.TransformerEncoderLayer(D, 2, D_FF, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids: Tensor) -> Tensor:
            sequences.append(len(ids))
            return self.encoder(self.embedding(ids))  # type: ignore[no-any-return]

    sequences: list[int] = []
    model = lively(Model())
    record = inspect(model, LINES, words=letters(around=False))
    assert set(sequences) == {1}  # what it would make of padding is not known
    assert [layer.name for layer in record.layers] == ["encoder.layers.0", "encoder.layers.1"]
    assert all(layer.update is not None for layer in record.layers)
    # the fused code that torch takes without us is counted, too
    of_maps = 2 * sum(p.numel() for n, p in model.encoder.named_parameters() if p.dim() == 2)
    assert record.totals.flops_per_token > of_maps


def test_languages_of_a_model_with_prefixes() -> None:
    tasks = {"translation_en_to_de": {"prefix": "to German: "}}
    config = transformers.T5Config(
        vocab_size=100, d_model=D, d_ff=D_FF, d_kv=8, num_heads=2, num_layers=1,
        decoder_start_token_id=0, task_specific_params=tasks,
    )  # fmt: skip
    model, words = lively(transformers.T5ForConditionalGeneration(config)), letters()
    subject = subject_of(model, words, languages=("en", "de"))
    assert subject.encode("sun") == [words("to German: sun")["input_ids"]]
    pieces = subject.encode("a" * 30, 20)
    assert len(pieces) > 1
    assert all(len(piece) <= 20 for piece in pieces)
    assert all(piece[1:12] == words("to German: ")["input_ids"][1:-1] for piece in pieces)
    for wrong in ("en", "fr"), ("a", "b"):  # "b" is one of its tokens, and no language
        with pytest.raises(ReluctantError, match=r"translation_en_to_de.*got"):
            subject_of(model, words, languages=wrong)


def test_languages_that_say_nothing() -> None:
    tried = MAKERS["bert"]()
    with pytest.raises(ReluctantError, match="expected no languages"):
        subject_of(tried.model, tried.words, languages=(None, "de"))
