"""The encoder-decoder of Vaswani et al. 2017 on this library's feed-forward layer."""

from typing import TYPE_CHECKING

from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.decoding import Beams, beam_search, greedy
from reluctant.transformer.io import load, save
from reluctant.transformer.layers import AddNorm, Decoder, Encoder, PositionalEncoding
from reluctant.transformer.model import Transformer
from reluctant.transformer.pooled import pooled_beam_search

if TYPE_CHECKING:
    from reluctant.translation.translator import Translator

__all__ = [
    "AddNorm",
    "Beams",
    "Decoder",
    "Encoder",
    "MultiHeadAttention",
    "PositionalEncoding",
    "Transformer",
    "TransformerConfig",
    "Translator",
    "beam_search",
    "greedy",
    "load",
    "pooled_beam_search",
    "save",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name):
        if name != "Translator":  # which stands above all of this
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from reluctant.translation.translator import Translator  # noqa: PLC0415

        return globals().setdefault(name, Translator)

    def __dir__():
        return sorted({*globals(), "Translator"})
