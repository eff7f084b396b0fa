"""Tiny models with words to look into, and all that their layers compute, seen by hooks."""

import copy
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from reluctant.cli import app
from reluctant.lab.inspect import Record, inspect
from reluctant.transformer import Transformer, TransformerConfig
from reluctant.translation.vocabulary import BOS, EOS, Vocabulary
from translators import sentences


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-4, abs=1e-6)


LINES = ["A dog ran home.", "the old bird sings", "cold, cold river!", "Why so slow?"]
D, D_FF, ROOM = 16, 24, 24


def letters(*, around: bool = True) -> Any:
    """A tokenizer with a token for each letter; around: with one at the beginning and the end."""
    special = ["[PAD]", "[UNK]", "[EOS]", "[CLS]", "[SEP]"]
    words = {word: i for i, word in enumerate([*special, *map(chr, range(32, 127))])}
    tokens = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if around:
        pair = [("[CLS]", 3), ("[SEP]", 4)]
        tokens.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=pair
        )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **names)


def lively(model: nn.Module, seed: int = 1) -> Any:
    """Weights and biases so large that no two tokens are alike."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1.5 * parameter.size(1) ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@dataclass
class Tried:
    """A model, its words, and how its layers are called.

    layers: names of the first and the second map of each layer, and its stack. items: the ids that
    the stacks read, of LINES; run: sends them through a model.
    """

    model: Any
    words: Any
    layers: dict[str, tuple[str, str, str]]
    items: list[dict[str, list[int]]]
    run: Callable[[Any, dict[str, list[int]]], Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def _ids(tokenizer: Any, lines: list[str]) -> list[dict[str, list[int]]]:
    return [{"model": tokenizer(line)["input_ids"]} for line in lines]


def _logits(model: Any, item: dict[str, list[int]]) -> Tensor:
    found = model(torch.tensor([item["model"]]))
    return found.logits if "logits" in found else found.last_hidden_state


def post_norm() -> Tried:
    """Our own Transformer, as the paper has it."""
    vocabulary = Vocabulary.train(sentences(400), size=330)
    torch.manual_seed(0)
    sizes = {"d_model": D, "heads": 2, "d_ff": D_FF, "encoder_layers": 2, "decoder_layers": 1}
    model = lively(Transformer(TransformerConfig(len(vocabulary), **sizes)))
    targets = ["Ein Hund lief.", "der alte Vogel", "kalt", "Warum so langsam?"]
    both = zip(vocabulary.encode(LINES), vocabulary.encode(targets), strict=True)
    items = [{"encoder": [*one, EOS], "decoder": [BOS, *other]} for one, other in both]
    layers = {
        f"{stack}.layers.{i}.feed_forward": (
            f"{stack}.layers.{i}.feed_forward.up",
            f"{stack}.layers.{i}.feed_forward.down",
            stack,
        )
        for stack, count in (("encoder", 2), ("decoder", 1))
        for i in range(count)
    }

    def run(model: Any, item: dict[str, list[int]]) -> Tensor:
        return model(torch.tensor([item["encoder"]]), torch.tensor([item["decoder"]]))

    return Tried(model, vocabulary, layers, items, run, {"targets": targets})


def pre_norm() -> Tried:
    """OPT: a language model, ReLU, the layers inline."""
    tokenizer = letters(around=False)
    config = transformers.OPTConfig(
        vocab_size=100,
        hidden_size=D,
        ffn_dim=D_FF,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=ROOM,
        word_embed_proj_dim=D,
        pad_token_id=0,
    )
    model = lively(transformers.OPTForCausalLM(config))
    at = "model.decoder.layers"
    layers = {f"{at}.{i}": (f"{at}.{i}.fc1", f"{at}.{i}.fc2", "model") for i in range(2)}
    return Tried(model, tokenizer, layers, _ids(tokenizer, LINES), _logits)


def bert() -> Tried:
    """BERT: an encoder, GELU, two modules a layer."""
    tokenizer = letters()
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=D,
        intermediate_size=D_FF,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=ROOM,
    )
    model = lively(transformers.BertModel(config))
    at = "encoder.layer"
    layers = {
        f"{at}.{i}": (f"{at}.{i}.intermediate.dense", f"{at}.{i}.output.dense", "model")
        for i in range(2)
    }
    return Tried(model, tokenizer, layers, _ids(tokenizer, LINES), _logits)


MAKERS = {"post-norm": post_norm, "pre-norm": pre_norm, "bert": bert}


@dataclass
class Calls:
    """One layer's, float64, a tensor a sequence: x, y (n, d_model), z, h (n, d_ff)."""

    x: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    h: list[Tensor] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)


def calls(tried: Tried) -> dict[str, Calls]:
    """What a copy of the model in float64 computes, one sequence at a time, without padding."""
    model, found = copy.deepcopy(tried.model).double(), {name: Calls() for name in tried.layers}
    for name, (up, down, _) in tried.layers.items():
        kept = found[name]

        def first(_: Any, args: Any, z: Tensor, kept: Calls = kept) -> None:
            kept.x.append(args[0].reshape(-1, args[0].shape[-1]))
            kept.z.append(z.reshape(-1, z.shape[-1]))

        def second(_: Any, args: Any, y: Tensor, kept: Calls = kept) -> None:
            kept.h.append(args[0].reshape(-1, args[0].shape[-1]))
            kept.y.append(y.reshape(-1, y.shape[-1]))

        model.get_submodule(up).register_forward_hook(first)
        model.get_submodule(down).register_forward_hook(second)
    with torch.no_grad():
        for item in tried.items:
            tried.run(model, item)
    return found


@contextmanager
def kept() -> Iterator[list[int]]:
    """Becomes the bytes that are left behind, in any tensors and in Python."""
    found = list[int]()
    before = _tensors()
    tracemalloc.start()
    try:
        yield found
        found.append(_tensors() - before + tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def _tensors() -> int:
    """Bytes of all that the garbage collector knows of."""
    gc.collect()
    there = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in there]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def look(tried: Tried, lines: list[str] | None = None, **options: Any) -> Record:
    options = tried.options | options
    return inspect(tried.model, lines or LINES, words=tried.words, **options)


def command(*arguments: object) -> Result:
    """`reluctant inspect` with these arguments."""
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": "120"})


def saved(folder: Path, words: Any = None) -> Path:
    """A language model, with its own tokenizer or another one of as many letters."""
    tried = pre_norm()
    tried.model.save_pretrained(folder)
    (words or tried.words).save_pretrained(folder)
    return folder
