"""The encoder-decoder of Vaswani et al. 2017 on this library's feed-forward layer."""

from reluctant.transformer.attention import MultiHeadAttention
from reluctant.transformer.config import TransformerConfig
from reluctant.transformer.decoding import Beams, beam_search, greedy
from reluctant.transformer.io import load, save
from reluctant.transformer.layers import AddNorm, Decoder, Encoder, PositionalEncoding
from reluctant.transformer.model import Transformer
from reluctant.transformer.pooled import pooled_beam_search

__all__ = [
    "AddNorm",
    "Beams",
    "Decoder",
    "Encoder",
    "MultiHeadAttention",
    "PositionalEncoding",
    "Transformer",
    "TransformerConfig",
    "beam_search",
    "greedy",
    "load",
    "pooled_beam_search",
    "save",
]
