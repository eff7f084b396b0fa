"""The layers of a trained model, and what they are given when it reads real text."""

from functools import cache

import torch
from torch import Tensor

from reluctant.bench import accentor
from reluctant.feedforward import FeedForward

SENTENCES = 6  # some hundred positions for each layer


@cache
def layers() -> tuple[list[FeedForward], list[Tensor]]:
    """All feed-forward layers of ruaccent-predictor, and recorded inputs (positions, 256) of each.

    At the positions of the text: the encoder's padding is left out. The decoder is given the text
    itself, without the stress marks that decoding, which is slow, would add.

    Raises:
        ReluctantError: ruaccent-predictor is not installed.
    """
    threads = torch.get_num_threads()
    loaded = accentor.load()
    torch.set_num_threads(threads)
    texts = accentor.sentences()[:SENTENCES]
    model = loaded.model
    names = [name for name, part in model.named_modules() if hasattr(part, "linear1")]
    inputs = accentor.record_inputs(loaded, names, texts, texts)
    return (
        [_as_feed_forward(model.get_submodule(name)) for name in names],
        [inputs[name] for name in names],
    )


def _as_feed_forward(layer: torch.nn.Module) -> FeedForward:
    up, down = layer.linear1, layer.linear2
    assert isinstance(up, torch.nn.Linear)
    assert isinstance(down, torch.nn.Linear)
    copy = FeedForward(up.in_features, up.out_features, "relu").eval()
    copy.up.load_state_dict(up.state_dict())
    copy.down.load_state_dict(down.state_dict())
    return copy.requires_grad_(False)


def inputs(layer: int, tokens: int, count: int) -> list[Tensor]:
    """`count` stretches of text, (tokens, 256) each, as the layer of that number is given them."""
    rows = layers()[1][layer]
    rows = rows.repeat(-(-tokens // len(rows)), 1)  # a long one goes over the text again
    last = len(rows) - tokens
    return [rows[i * last // count :][:tokens].contiguous() for i in range(count)]
