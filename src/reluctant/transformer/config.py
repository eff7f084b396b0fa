"""What a Transformer is made of."""

import math
from dataclasses import dataclass, fields
from typing import Any

from reluctant.activations import Activation, resolve
from reluctant.errors import ReluctantError
from reluctant.feedforward import GATED

POSITIONS = ("sinusoidal", "learned", "fixed")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and variants; the defaults are the base model of Vaswani et al. 2017 (table 3).

    source_vocab, target_vocab: tokens; target_vocab None: one vocabulary and one embedding for
        both, as in section 3.4.
    d_model, heads, d_ff, encoder_layers, decoder_layers: as in the paper.
    activation: of the feed-forward layers, as `FeedForward` takes it.
    dropout: of the embedded tokens and of every sub-layer's output (section 5.4).
    embedding_dropout: of the embedded tokens, if it is another; None: as dropout.
    attention_dropout, activation_dropout: of attention weights and hidden neurons, as in torch.
    norm_first: normalise each sub-layer's input (pre-norm), not the residual sum (post-norm).
    encoder_norm, decoder_norm: one more norm after the last layer; None: as norm_first.
    norm_eps, final_norm_eps: of the layers' and of those last norms; the latter None: the former.
    bias: whether linear maps and norms have one.
    positions: "sinusoidal" (section 3.5, any length), or a table of max_positions for each side
        that is "learned", or "fixed": given, and not trained.
    tied_positions: one learned table for both sides.
    embedding_scale: factor of embedded tokens; None: sqrt(d_model), section 3.4.
    embedding_norm: one more norm, of the embedded tokens with their positions, as BART has it.
    tied, output_bias: the last linear map has the target embedding's weights; has a bias.
    source_padding_idx, target_padding_idx: rows of the embeddings that are zero at first, and get
        no gradient from the embedding (a tied output has one for them); they mask nothing.
    sparse, scale_grad_by_freq: of both embeddings' gradients, as in nn.Embedding.
    pad, bos, eos: ids of padding (None: there is none; nothing is masked), begin and end.
    bos_shared: targets begin with what is padding or the end elsewhere: bos is pad's or eos' id, as
        in Marian and BART.

    Raises ReluctantError for a value that does not fit.

    >>> TransformerConfig(source_vocab=8000, heads=7)
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: heads: expected a divisor of d_model=512, got 7
    """

    source_vocab: int
    target_vocab: int | None = None
    d_model: int = 512
    heads: int = 8
    d_ff: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    activation: str | Activation = "relu"
    dropout: float = 0.1
    embedding_dropout: float | None = None
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    norm_first: bool = False
    encoder_norm: bool | None = None
    decoder_norm: bool | None = None
    norm_eps: float = 1e-5
    final_norm_eps: float | None = None
    bias: bool = True
    positions: str = "sinusoidal"
    max_positions: int = 512
    tied_positions: bool = False
    embedding_scale: float | None = None
    embedding_norm: bool = False
    tied: bool = True
    output_bias: bool = False
    source_padding_idx: int | None = None
    target_padding_idx: int | None = None
    sparse: bool = False
    scale_grad_by_freq: bool = False
    pad: int | None = 0
    bos: int = 1
    eos: int = 2
    bos_shared: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, str(field.type), getattr(self, field.name))
        if not (isinstance(self.activation, str) and self.activation in GATED):
            resolve(self.activation)
        if self.d_model % self.heads:
            raise _wrong("heads", f"a divisor of d_model={self.d_model}", self.heads)
        if self.positions not in POSITIONS:
            raise _wrong("positions", f"one of {', '.join(POSITIONS)}", self.positions)
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise _wrong("d_model", "an even number for sinusoidal positions", self.d_model)
        ids, size = (self.pad, self.bos, self.eos), min(self.source_vocab, self.targets)
        if len(set(ids)) < 3 - self.bos_shared or max(self.bos, self.eos, self.pad or 0) >= size:
            raise _wrong("pad, bos, eos", f"three different ids below {size}", ids)
        if self.bos_shared and (self.pad == self.eos or self.bos not in (self.pad, self.eos)):
            raise _wrong("bos_shared", "a bos that is pad or eos, and these two different", ids)
        for side, size in (("source", self.source_vocab), ("target", self.targets)):
            name = f"{side}_padding_idx"
            if (getattr(self, name) or 0) >= size:
                raise _wrong(name, f"an id below {size}", getattr(self, name))

    @property
    def targets(self) -> int:
        """Size of the target vocabulary."""
        return self.source_vocab if self.target_vocab is None else self.target_vocab


def _check(name: str, kind: str, value: Any) -> None:
    """Compare a value with its field's type, such as "<class 'int'>" or "int | None"."""
    if value is None and "None" in kind:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least = 0 if name in ("pad", "bos", "eos") or name.endswith("padding_idx") else 1
    if "bool" in kind:
        fits, expected = isinstance(value, bool), "True or False"
    elif "int" in kind:
        fits = number and isinstance(value, int) and value >= least
        expected = f"an integer from {least} up"
    elif name.endswith("dropout"):
        fits, expected = number and 0 <= value <= 1, "a probability in [0, 1]"
    else:
        fits = "float" not in kind or (number and 0 < value < math.inf)
        expected = "a positive finite number"
    if not fits:
        raise _wrong(name, expected, value)


def _wrong(name: str, expected: str, value: object) -> ReluctantError:
    return ReluctantError(f"{name}: expected {expected}, got {value!r}")
