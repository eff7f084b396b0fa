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
LEAST = 0.02  # of all tokens, that come after a function word, for this to be English
_MARK = "▁"  # begins a word, in the vocabulary's tokens


class Labels(NamedTuple):
    """Of tokens, one each. kind: of the word before, an index of CLASSES; place: an index of
    PLACES; early: whether it stands in the first half of its sentence, 0 or 1.
    """

    kind: Tensor
    place: Tensor
    early: Tensor


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
    found: list[tuple[int, int, int]] = []
    for batch in batches:
        for row in batch.source.tolist():
            ids = [id for id in row if id != PAD]
            tokens = ["." if id == EOS else vocabulary.token(id) for id in ids]
            count = len(tokens)
            found += [
                (each, 3 * i // count, int(2 * i < count))
                for i, each in enumerate(kinds_before(tokens))
            ]
    result = Labels(*torch.tensor(found).reshape(-1, 3).unbind(1))
    share = float((result.kind != OTHER).double().mean()) if found else 0.0
    if share < LEAST:
        raise ReluctantError(
            f"expected English sources: {share:.1%} of their tokens are behind an article, "
            "preposition, pronoun, conjunction or auxiliary; leave `combination` out with --only"
        )
    return result
