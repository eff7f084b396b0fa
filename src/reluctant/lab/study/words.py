"""Classes of tokens that need no tagger: the kind of word before a token, and where it stands."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.translation.batches import Batch
from reluctant.translation.vocabulary import EOS, PAD, Vocabulary

OTHER = 0
_WORDS = {
    "article": "a an the",
    "preposition": "about above across after against along among around at before behind below "
    "beneath beside between beyond by down during for from in inside into near of off on onto out "
    "outside over past since through to toward towards under until up upon with within without",
    "pronoun": "i you he she it we they me him her us them my your his its our their mine yours "
    "hers ours theirs this that these those who whom whose which what",
    "conjunction": "and or but nor so yet because although though if unless while whereas when "
    "than as",
    "auxiliary": "am is are was were be been being do does did have has had having can could will "
    "would shall should may might must",
}
KINDS = {name: frozenset(words.split()) for name, words in _WORDS.items()}
CLASSES = ("other", *KINDS)
PLACES = ("first third", "middle third", "last third")
STRETCHES = 4  # of a sentence, between thirds and halves
LEAST = 0.02  # of all tokens, that come after a function word, for this to be English
_MARK = "▁"  # begins a word, in the vocabulary's tokens


class Labels(NamedTuple):
    """Of tokens, one each. token: its id; kind: of the word before, an index of CLASSES; place: an
    index of PLACES; early: whether it stands in the first half of its sentence, 0 or 1.
    """

    token: Tensor
    kind: Tensor
    place: Tensor
    early: Tensor

    @property
    def function(self) -> Tensor:
        """Whether the word before is a function word, 0 or 1."""
        return (self.kind != OTHER).long()

    @property
    def stretch(self) -> Tensor:
        """Both place and early in one: 0 and 1 of the first half, 2 and 3 of the second."""
        return self.place + 1 - self.early

    def at(self, rows: Tensor) -> "Labels":
        """Those of some tokens. rows: their indices."""
        return Labels(*(each[rows] for each in self))


def kind(word: str) -> int:
    """An index of CLASSES, by closed lists of English function words.

    >>> CLASSES[kind("The")], CLASSES[kind("cat")]
    ('article', 'other')
    """
    lower = word.lower()
    return next((i for i, words in enumerate(KINDS.values(), 1) if lower in words), OTHER)


def kinds_before(tokens: Sequence[str]) -> list[int]:
    """Of each token, the class of the word before the one that it belongs to; OTHER at first.

    A word begins with the vocabulary's mark, or is a punctuation mark.

    >>> kinds_before(["▁the", "▁hou", "se", "▁of", "▁", "it"])
    [0, 1, 1, 0, 2, 2]
    """
    found: list[int] = []
    word, before = "", OTHER
    for token in tokens:
        text = token.removeprefix(_MARK)
        goes_on = found and text == token and (not word or (word + text).isalnum())
        if not goes_on:
            before, word = kind(word), ""
        word += text
        found.append(before)
    return found


def labels(batches: Sequence[Batch], vocabulary: Vocabulary) -> Labels:
    """Of all source tokens in the order of the text, without padding, the ends among them.

    Raises ReluctantError if hardly any is behind an English function word.
    """
    found: list[tuple[int, int, int, int]] = []
    for batch in batches:
        for row in batch.source.tolist():
            ids = [id for id in row if id != PAD]
            tokens = ["." if id == EOS else vocabulary.token(id) for id in ids]
            count = len(tokens)
            found += [
                (id, each, 3 * i // count, int(2 * i < count))
                for i, (id, each) in enumerate(zip(ids, kinds_before(tokens), strict=True))
            ]
    result = Labels(*torch.tensor(found).reshape(-1, 4).unbind(1))
    share = float(result.function.double().mean()) if found else 0.0
    if share < LEAST:
        raise ReluctantError(
            f"expected English sources: {share:.1%} of their tokens are behind an article, "
            "preposition, pronoun, conjunction or auxiliary; leave `combination` out with --only"
        )
    return result


def balanced(found: Labels, seed: int) -> Tensor:
    """Indices of tokens, drawn so that the class of the word before and the place do not go
    together: there are as many of a class of function words in each stretch of the sentence, and in
    each as many behind a function word as not.

    Then neither class nor place, nor any sum of what they tell, says whether exactly one is true of
    "behind a function word" and "in the first half". In the text as it is `early` alone says it of
    most, as function words are few.

    Raises ReluctantError if no such tokens are left.
    """
    cell = STRETCHES * found.kind + found.stretch
    cells = len(CLASSES) * STRETCHES
    others, *functions = cell.bincount(minlength=cells).view(-1, STRETCHES).amin(1).tolist()
    total = sum(functions)
    counts = [each * min(others, total) // max(total, 1) for each in functions]
    if not any(counts):
        raise ReluctantError(
            "expected tokens behind function words and behind others from the beginning to the end "
            f"of sentences; of {len(cell)} tokens none are left when both are made equally common: "
            "give more text, or leave `combination` out with --only"
        )
    mixed = torch.randperm(len(cell), generator=torch.Generator().manual_seed(seed))
    wanted = [count for count in (sum(counts), *counts) for _ in range(STRETCHES)]
    return torch.cat([mixed[cell[mixed] == i][:count] for i, count in enumerate(wanted)])
