"""The table of feed-forward layers that stand inside a larger forward, by the names of their parts.

A layer that is a module of its own - two Linear maps and an activation, or three in a gated one -
needs no row: it is recognised by what its forward does, whatever its parts are called. A row is
needed where a whole Transformer layer's forward runs attention, norms and `fc2(act(fc1(x)))` alike.
It only says where to look. That nothing but the activation, and dropout, stands between the two
products is proved for every layer (`watch.py`).
"""

from typing import NamedTuple


class Row(NamedTuple):
    """Paths from the module whose forward computes the layer; at most one submodule deep."""

    up: str
    activation: str
    down: str


INLINE = (
    # BART and its kin, M2M100/NLLB, OPT, Pegasus, Marian, Whisper, FSMT, Speech2Text, DETR's kin
    Row("fc1", "activation_fn", "fc2"),
    Row("fc1", "activation", "fc2"),  # Grounding DINO's text enhancer
    Row("linear1", "activation", "linear2"),  # OneFormer's decoder
    # BERT and its kin: two sibling modules, the second of which adds the residual and normalises
    Row("intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"),
    Row("dense.dense", "dense.act_fn", "output.dense"),  # Reformer
    Row("ffn", "activation", "ffn_output"),  # ALBERT: one layer, called many times
    Row("up_proj", "act", "down_proj"),  # MPT: adds the residual
    Row("dense_h_to_4h", "gelu_impl", "dense_4h_to_h"),  # BLOOM: adds the residual
)
