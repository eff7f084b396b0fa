"""From files of parallel text to what a run learns from and is measured on."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reluctant.errors import ReluctantError
from reluctant.translation.batches import Batches
from reluctant.translation.clean import Limits, clean
from reluctant.translation.pairs import Pair, read
from reluctant.translation.settings import Settings
from reluctant.translation.split import split, without_near
from reluctant.translation.vocabulary import Vocabulary

FEWEST = 2  # sentences to learn from
LONGEST = 512  # tokens of a sentence
NO_LIMITS = Limits(characters=10**9, ratio=10.0**9)


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
        digest = hashlib.sha256(f"{len(self.train)} {len(self.valid)}\n".encode())
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
        train = pairs
        valid, found = _read(validation, settings, limits)
        counts |= {f"{name}, to validate": count for name, count in found.items()}
    else:
        parts = split(pairs, {"valid": settings.valid_share})
        train, valid = parts["train"], parts["valid"]
    held_out = list(valid)
    if keep_out:
        tests = clean(read(keep_out, settings.languages)[0], NO_LIMITS)[0]
        held_out += tests
        valid = valid if validation else without_near(valid, tests)[0]
    train, near = without_near(train, held_out)
    if near:
        counts["near a held-out one"] = near
    counts |= {"to learn from": len(train), "to validate": len(valid)}
    if len(train) < FEWEST:
        raise ReluctantError(
            f"expected at least {FEWEST} pairs of sentences to learn from, got {len(train)} "
            f"({', '.join(f'{name}: {count}' for name, count in counts.items())})"
        )
    return Data(train, valid, counts)


def learned_vocabulary(data: Data, settings: Settings) -> Vocabulary:
    """Of the training side alone."""
    texts = [text for pair in data.train for text in pair]
    return Vocabulary.train(texts, settings.vocab_size, settings.vocab_kind)


def encoded(
    pairs: Sequence[Pair], vocabulary: Vocabulary, settings: Settings
) -> tuple[list[Pair], Batches]:
    """Batches of the pairs that fit, and these: neither side may have more tokens than LONGEST, nor
    than a batch has positions, the mark of its end among them.
    """
    longest = min(settings.batch_tokens, LONGEST)
    # in four bytes a token: as lists of Python's numbers they would be thirty-two
    sources, targets = (
        [array("i", ids) for ids in vocabulary.encode([pair[side] for pair in pairs])]
        for side in (0, 1)
    )
    fits = [i for i in range(len(pairs)) if max(len(sources[i]), len(targets[i])) < longest]
    batches = Batches(
        [sources[i] for i in fits],
        [targets[i] for i in fits],
        settings.batch_tokens,
        settings.seed,
    )
    return [pairs[i] for i in fits], batches


def _read(
    paths: Sequence[Path], settings: Settings, limits: Limits
) -> tuple[list[Pair], dict[str, int]]:
    pairs, counts = read(paths, settings.languages)
    cleaned, dropped = clean(pairs, limits)
    return cleaned, dict(counts + dropped)
