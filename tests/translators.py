"""Small models that translate, in folders as `reluctant train` writes them."""

import random
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from reluctant.transformer import Transformer, TransformerConfig, load, save
from reluctant.translation.vocabulary import BOS, EOS, PAD, Vocabulary

WORDS = ["sun", "moon", "tree", "house", "river", "stone", "bird", "old", "cold", "sings", "falls"]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 5))) + rng.choice(".!?")


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [sentence(rng) for _ in range(count)]


def untrained(folder: Path, **options: Any) -> Path:
    """A folder with a model of random weights: it mostly has nothing to say."""
    vocabulary = Vocabulary.train(sentences(400), size=330)
    sizes = {"d_model": 64, "heads": 4, "d_ff": 128, "encoder_layers": 1, "decoder_layers": 1}
    torch.manual_seed(0)
    config = TransformerConfig(len(vocabulary), norm_first=True, dropout=0.0, **(sizes | options))
    save(Transformer(config), folder)
    vocabulary.save(folder)
    return folder


def learned(
    folder: Path, steps: int = 110, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """A folder with a model that has nearly learned to say what it reads."""
    vocabulary, model = Vocabulary.load(untrained(folder, **options)), load(folder).train()
    optimizer, rng = torch.optim.Adam(model.parameters(), lr=3e-3), random.Random(1)
    for _ in range(steps):
        rows = [[*ids, EOS] for ids in vocabulary.encode([sentence(rng) for _ in range(48)])]
        width = max(map(len, rows))
        source = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        given = torch.nn.functional.pad(source[:, :-1], (1, 0), value=BOS)
        logits = model(source, given).flatten(0, 1)
        loss = cross_entropy(logits, source.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save(model.to(dtype), folder)
    return folder
