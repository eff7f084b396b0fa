"""From files of parallel text to what a run learns from and is measured on."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.translation.clean import Limits, clean
from reluctant.translation.pairs import Pair, read
from reluctant.translation.settings import Settings
from reluctant.translation.split import split, without_near
from reluctant.translation.vocabulary import Vocabulary

FEWEST = 2  # sentences to learn from


@dataclass(frozen=True)
class Data:
    """train, valid: cleaned pairs, none of the former near one of the latter or of what is to be
    kept out. counts: what happened to the lines that were read, for people.
    """

    train: list[Pair]
    valid: list[Pair]
    counts: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """Of all text, in its order: another one is another run."""
        digest = hashlib.sha256()
        for pair in (*self.train, *self.valid):
            digest.update(f"{pair.source}\t{pair.target}\n".encode())
        return digest.hexdigest()[:16]


def gather(
    data: Sequence[Path],
    validation: Sequence[Path],
    keep_out: Sequence[Path],
    settings: Settings,
) -> Data:
    """Read, clean and split.

    validation: if there are none, a share of the data is held out, by a hash of each sentence.
    keep_out: sentences to be tested on later; what is near one of them is not learned from.

    Raises ReluctantError for files that cannot be used, and if too little is left.
    """
    limits = Limits(settings.max_characters, settings.max_ratio)
    pairs, counts = _read(data, settings, limits)
    if validation:
        train, valid = pairs, _read(validation, settings, limits)[0]
    else:
        parts = split(pairs, {"valid": settings.valid_share})
        train, valid = parts["train"], parts["valid"]
    held_out = list(valid)
    if keep_out:
        held_out += _read(keep_out, settings, limits)[0]
    train, near = without_near(train, held_out)
    if near:
        counts["near a held-out one"] = near
    counts |= {"to learn from": len(train), "held out to validate": len(valid)}
    if len(train) < FEWEST:
        raise ReluctantError(
            f"expected at least {FEWEST} pairs of sentences to learn from, got {len(train)} "
            f"({', '.join(f'{name}: {count}' for name, count in counts.items())})"
        )
    return Data(train, valid, dict(counts))


def vocabulary_of(folder: Path, data: Data, settings: Settings) -> Vocabulary:
    """That of a run that was begun, or a new one, of the training side alone; saved there."""
    if (folder / "tokenizer.json").exists():
        return Vocabulary.load(folder)
    texts = [text for pair in data.train for text in pair]
    vocabulary = Vocabulary.train(texts, settings.vocab_size, settings.vocab_kind)
    vocabulary.save(folder)
    return vocabulary


def encoded(
    pairs: Sequence[Pair], vocabulary: Vocabulary, longest: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of sources and of targets, without pairs of which one is longer than `longest`
    tokens with the mark of its end.
    """
    sources = vocabulary.encode([pair.source for pair in pairs])
    targets = vocabulary.encode([pair.target for pair in pairs])
    fits = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if max(len(source), len(target)) < longest
    ]
    return [s for s, _ in fits], [t for _, t in fits]


def _read(
    paths: Sequence[Path], settings: Settings, limits: Limits
) -> tuple[list[Pair], Counter[str]]:
    pairs, counts = read(paths, settings.languages)
    cleaned, dropped = clean(pairs, limits)
    return cleaned, counts + dropped
