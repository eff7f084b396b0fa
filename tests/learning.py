"""A language made up for tests, in which a few words say all, and how to learn it quickly."""

from pathlib import Path

import torch

from reluctant.translation.data import Data, gather
from reluctant.translation.settings import Settings

NOUNS = {"cat": "Katze", "dog": "Hund", "bird": "Vogel", "fish": "Fisch", "horse": "Pferd"}
VERBS = {"sees": "sieht", "likes": "mag", "finds": "findet", "hears": "hört"}
PLACES = {"here": "hier", "there": "dort", "today": "heute"}

TINY = Settings(
    vocab_size=300, d_model=32, heads=2, d_ff=64, encoder_layers=1, decoder_layers=2,
    dropout=0.1, steps=8, batch_tokens=160, every=3, average=2, warm_up=2, lr=0.01,
    valid_share=0.2, score_sentences=5, threads=1,
)  # fmt: skip


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Different ones with their translations."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        a, v, b, p = (
            list(words.items())[int(torch.randint(len(words), (), generator=draw))]
            for words in (NOUNS, VERBS, NOUNS, PLACES)
        )
        number = int(torch.randint(100, (), generator=draw))
        english = f"The {a[0]} {v[0]} {number} of a {b[0]} {p[0]}."
        found[english] = f"{a[1]} {v[1]} {number} {b[1]} {p[1]}."
    return list(found.items())


def write_tsv(file: Path, count: int = 120) -> Path:
    """Them as a file."""
    lines = (f"{english}\t{german}\n" for english, german in sentences(count))
    file.write_text("".join(lines), encoding="utf-8")
    return file


def some_data(folder: Path, settings: Settings = TINY) -> Data:
    """Them as a run takes them."""
    return gather([write_tsv(folder / "text.tsv")], [], [], settings)
