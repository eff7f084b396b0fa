"""Models of transformers with their peculiarities: what their decoders read, say, and are named."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import reluctant
from inspected import D_FF, LINES, ROOM, D, letters, lively
from reluctant.lab.inspect import inspect, subject_of
from reluctant.lab.inspect.head import APART
from reluctant.lab.inspect.record import Record
from test_inspect_models import t5

pytestmark = [
    pytest.mark.usefixtures("one_thread", "briefly"),
    pytest.mark.filterwarnings("ignore:.*max_length.*"),
]
TINY = {"vocab_size": 100, "hidden_size": D, "intermediate_size": D_FF, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 2, "max_position_embeddings": ROOM, "pad_token_id": 0}
SIZES = {
    f"{side}_{what}": n
    for side in ("encoder", "decoder")
    for what, n in (("layers", 1), ("ffn_dim", D_FF), ("attention_heads", 2))
}
LETTERS = [*map(chr, range(97, 123)), ".", ","]
PIECES = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS])}


def nllb() -> tuple[Any, Any]:
    words = transformers.NllbTokenizer(
        vocab=PIECES, merges=[], extra_special_tokens=["eng_Latn", "deu_Latn"]
    )
    config = transformers.M2M100Config(
        **SIZES, vocab_size=len(words), d_model=D, max_position_embeddings=48,
        decoder_start_token_id=2,
    )  # fmt: skip
    return lively(transformers.M2M100ForConditionalGeneration(config)), words


def mbart() -> tuple[Any, Any]:
    words = transformers.MBartTokenizer(
        vocab=[(name, 0.0) for name in PIECES], src_lang="en_XX", tgt_lang="ro_RO"
    )
    config = transformers.MBartConfig(
        **SIZES, vocab_size=len(words) + 5, d_model=D, max_position_embeddings=48,
        decoder_start_token_id=words.convert_tokens_to_ids("ro_RO"),
    )  # fmt: skip
    return lively(transformers.MBartForConditionalGeneration(config)), words


def test_a_decoder_made_of_bert_is_a_decoder() -> None:
    """Its layers are called decoder.bert.encoder.layer."""
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**TINY),
        transformers.BertConfig(**TINY, is_decoder=True, add_cross_attention=True),
    )
    config.decoder_start_token_id, config.pad_token_id = 3, 0
    model = lively(transformers.EncoderDecoderModel(config=config))
    record = inspect(model, LINES, words=letters(), targets=["ein", "zwei drei", "x", "y"])
    assert [layer.stack for layer in record.layers] == ["encoder", "decoder"]
    assert [layer.index for layer in record.layers] == [0, 0]
    for layer in record.layers:
        assert (layer.tokens, layer.unplaced) == (record.text.by_stack[layer.stack], 0)
        assert layer.overlap is not None
    assert record.layers[1].promotes_why == APART


@pytest.mark.parametrize("make", [t5, mbart])
def test_a_target_is_read_as_in_training(make: Any) -> None:
    """Where the model itself makes of labels what its decoder reads."""
    made = make()
    model, words = made if isinstance(made, tuple) else (made, letters(around=False))
    subject, seen = subject_of(model, words), list[Tensor]()
    labels = words(text_target="abc")["input_ids"]
    labels += [] if 2 in labels else [2]  # such tokenizers leave the end to who trains
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([labels]))
    assert subject.given("abc") == seen[0][0].tolist()


def test_answers_are_no_longer_than_a_sequence() -> None:
    """A source of 30 may have an answer of 80; of 30 are the counts by position."""
    model, words = t5(), letters(around=False)
    model.generation_config.eos_token_id = None  # it goes on for as long as it may
    words.model_max_length = 30
    record = inspect(model, ["ab" * 15], words=words, limit=1)
    assert record.text.by_stack == {"encoder": 30, "decoder": 30}
    ids = torch.tensor([words("ab" * 15)["input_ids"]])
    row = model.generate(ids, do_sample=False, num_beams=1, max_new_tokens=29)[0].tolist()
    assert len(row) == 30
    assert subject_of(model, words).answers(model, ids.tolist()) == [row]


def test_padding_that_the_model_has_no_row_for() -> None:
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=D, n_layer=1, n_head=2, n_inner=D_FF, n_positions=ROOM,
        bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model, words = lively(transformers.GPT2LMHeadModel(config)), letters(around=False)
    before = inspect(model, LINES, words=words)
    words.add_special_tokens({"pad_token": "<pad>"})
    assert words.pad_token_id == 100
    assert subject_of(model, words).pad < 100  # with it no sequences could go side by side
    assert inspect(model, LINES, words=words).layers[0].use == before.layers[0].use


def test_heads_with_maps_of_their_own_promote_nothing() -> None:
    makers = transformers.BertForMaskedLM, transformers.RobertaForMaskedLM
    configs = transformers.BertConfig(**TINY), transformers.RobertaConfig(**TINY)
    for maker, config in zip(makers, configs, strict=True):
        (layer,) = inspect(lively(maker(config)), LINES, words=letters()).layers
        assert layer.promotes_why == APART
        assert layer.neurons[0].promotes is layer.neurons[0].suppresses is None


@pytest.mark.parametrize("kind", ["t5", "t5 tied", "mbart"])
def test_heads_without_promote(kind: str) -> None:
    """T5's reads its layers' sum times a constant, if it is the embeddings."""
    if kind == "mbart":
        model, words = mbart()
        down = model.model.decoder.layers[0].fc2
    else:
        config = t5().config
        config.tie_word_embeddings = kind == "t5 tied"
        model, words = lively(transformers.T5ForConditionalGeneration(config)), letters()
        down = model.decoder.block[0].layer[2].DenseReluDense.wo
    reluctant.optimize(model)
    _, layer = inspect(model, ["sun", "moon"], words=words, targets=["a", "tree"]).layers
    assert layer.promotes_why is None
    neuron = layer.neurons[0]
    best = (model.lm_head.weight @ down.weight[:, neuron.index]).topk(10).values.tolist()
    assert [each.score for each in neuron.promotes or ()] == pytest.approx(best, rel=1e-4)


def test_a_tokenizer_stays_set_to_its_languages() -> None:
    model, words = nllb()
    before = words.src_lang, words.tgt_lang, words("sun")["input_ids"]
    record = inspect(model, ["sun moon"], words=words, languages=("deu_Latn", "eng_Latn"))
    assert record.sentences[0].parts["encoder"][0] == "deu_Latn"
    assert record.sentences[0].parts["decoder"][1] == "eng_Latn"
    assert (words.src_lang, words.tgt_lang, words("sun")["input_ids"]) == before


class Counting(nn.Module):
    """A model whose forward writes into its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(100, D), nn.LayerNorm(D)
        self.layer = reluctant.FeedForward(D, D_FF)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(64, D))

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        x = self.embedding(ids)
        self.last[: x.shape[1]] = x[0]
        return self.norm(x + self.layer(x))  # type: ignore[no-any-return]


def test_buffers_stay_as_they_are() -> None:
    model = lively(Counting())
    record: Record = inspect(model, LINES, words=letters(around=False))
    assert record.sound
    assert (float(model.calls), float(model.last.abs().sum())) == (0.0, 0.0)
