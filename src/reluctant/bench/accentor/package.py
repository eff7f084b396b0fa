"""ruaccent-predictor, which puts stress marks on Russian text.

A character-level `nn.Transformer` (4 + 4 layers, d_model 256, d_ff 1024, ReLU), 28 MB, MIT, by
Eduard Emkuzhev. Its weights are in its package.
"""

import io
from contextlib import redirect_stdout
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from reluctant.errors import ReluctantError

LENGTH = 256  # positions of the encoder: every text is padded to that many, without a mask

# The package has no types; what is used of it is `.model` (embed, transformer, output_proj) and
# `.vocab`.
Accentor = Any


def load() -> Accentor:
    """The accentor, on the CPU and in eval mode.

    It limits torch to four threads; the caller may want to put the number back.

    Raises:
        ReluctantError: the package is not installed.
    """
    try:
        from ruaccent import load_accentor  # noqa: PLC0415  no extra has it
    except ImportError as error:
        raise ReluctantError(
            f"the real layers are those of the package ruaccent-predictor ({error}): "
            "pip install --no-deps ruaccent-predictor"
        ) from error
    with redirect_stdout(io.StringIO()):  # it reports on every step
        return load_accentor(device="cpu")


def sentences(count: int | None = None) -> list[str]:
    """The sentences of `corpus.txt`, which also names where they are from; all, or some of them.

    count: how many, at even distances; None, or more than there are: all.

    >>> len(sentences()) >= 48, len(sentences(8))
    (True, 8)
    """
    text = files("reluctant.bench.accentor").joinpath("corpus.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    count = len(lines) if count is None else min(count, len(lines))
    return [lines[i * len(lines) // count] for i in range(count)]


def source(accentor: Accentor, text: str) -> Tensor:
    """The encoder's input for a text: token ids (1, 256), as the package itself makes them."""
    vocab = accentor.vocab
    ids = [vocab["<s>"], *_characters(vocab, text[: LENGTH - 2]), vocab["</s>"]]
    return torch.tensor([ids + [vocab["<pad>"]] * (LENGTH - len(ids))])


def target(accentor: Accentor, text: str) -> Tensor:
    """The decoder's input when the answer is known already: token ids (1, characters + 1)."""
    vocab = accentor.vocab
    return torch.tensor([[vocab["<s>"], *_characters(vocab, text)]])


def teacher_forced(accentor: Accentor, text: str, answer: str) -> Tensor:
    """Logits (1, characters of the answer + 1, vocabulary) of every step that led to the answer.

    One pass over the whole answer: the causal mask lets no position see those after it, so each
    gets what it got in decoding.
    """
    model, tokens = accentor.model, target(accentor, answer)
    mask = model.generate_square_subsequent_mask(tokens.size(1))
    logits: Tensor = model(source(accentor, text), tokens, tgt_mask=mask)
    return logits


def _characters(vocab: dict[str, int], text: str) -> list[int]:
    return [vocab.get(character, vocab["<unk>"]) for character in text]
