"""What a model is asked to continue, and how: real text, where it has a tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.whole.inputs import sentences
from reluctant.whole.load import Loaded

SHORTEST, LONGEST = 8, 200  # tokens of a prompt
TOGETHER = 4  # prompts of a batch
TOP_K, TOP_P, BEAMS = 50, 0.9, 4

# How many continuations, and how they are decoded.
METHODS: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "greedy": (200, {}),
    "full sampling": (20, {"do_sample": True}),
    f"top-k {TOP_K}": (20, {"do_sample": True, "top_k": TOP_K}),
    f"top-p {TOP_P}": (20, {"do_sample": True, "top_p": TOP_P}),
    f"{BEAMS} beams": (40, {"num_beams": BEAMS}),
}
_PLAIN: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
}
_PLAIN |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


@dataclass(frozen=True)
class Ask:
    """One call of generate.

    method: of METHODS. ids, mask: (sequences, positions), padded on the left. seed: of torch's
    generator before the call. how: arguments of generate beside these.
    """

    method: str
    ids: Tensor
    mask: Tensor
    seed: int
    how: Mapping[str, Any]

    @property
    def beams(self) -> int:
        return int(self.how["num_beams"])


def asks(loaded: Loaded, *, new: int, share: float = 1.0) -> list[Ask]:
    """All calls for one model; a third of each method's prompts stand in batches of four.

    new: tokens of a continuation. share: of the prompts of each method, at least one.

    Raises ReluctantError if the model cannot continue a text, or `share` is not in (0, 1].
    """
    model: Any = loaded.model
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "generate") or not model.can_generate():
        raise ReluctantError(f"{loaded.name} does not generate: there is nothing to continue")
    if not 0.0 < share <= 1.0:
        raise ReluctantError(f"share: expected more than 0 and at most 1; got {share}")
    pad = model.generation_config.pad_token_id
    pad = 0 if pad is None else int(pad)
    more = _PLAIN | {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": pad}
    stream, first = _stream(loaded)
    longest = min(LONGEST, _room(config) - new)
    if longest < SHORTEST:
        raise ReluctantError(f"{loaded.name} has no room for {SHORTEST} and {new} more tokens")
    draw = torch.Generator().manual_seed(0)
    found: list[Ask] = []
    for method, (most, how) in METHODS.items():
        count = max(1, round(share * most))
        prompts = []
        for _ in range(count):
            length = int(torch.randint(SHORTEST, longest + 1, (), generator=draw))
            start = int(torch.randint(0, len(stream) - length, (), generator=draw))
            prompts.append(torch.cat([first, stream[start : start + length - len(first)]]))
        batched = round(count / 3 / TOGETHER) * TOGETHER
        cuts = [*range(0, batched, TOGETHER), *range(batched, count + 1)]
        for start, end in pairwise(cuts):
            ids, mask = _padded(prompts[start:end], pad)
            found.append(Ask(method, ids, mask, len(found), more | dict(how)))
    return found


def _room(config: Any) -> int:
    """Positions that the model has."""
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or LONGEST + 10**6)


def _stream(loaded: Loaded) -> tuple[Tensor, Tensor]:
    """Token ids of a long text, and what each prompt begins with: at most one special token."""
    if loaded.tokenizer is None:
        config: Any = loaded.model.config
        vocabulary = config.get_text_config().vocab_size
        draw = torch.Generator().manual_seed(1)
        return torch.randint(4, vocabulary, (20 * LONGEST,), generator=draw), torch.empty(0).long()
    corpus = files("reluctant.bench.accentor").joinpath("corpus.txt").read_text(encoding="utf-8")
    lines = [*sentences(), *(s for s in corpus.splitlines() if s and not s.startswith("#"))]
    ids = torch.tensor(loaded.tokenizer(" ".join(lines), truncation=False)["input_ids"])
    begins = len(ids) > 0 and int(ids[0]) == loaded.tokenizer.bos_token_id
    stream, first = ids[int(begins) :], ids[: int(begins)]
    return stream.repeat(-(-2 * LONGEST // max(len(stream), 1))), first


def _padded(prompts: list[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = 1
    return ids, mask
