"""Which sentences are held out, and that what is trained on does not give them away."""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise

from reluctant.errors import ReluctantError
from reluctant.translation.pairs import Pair

TRAIN = "train"
_BEGIN, _END = "\x02", "\x03"  # no word has these
# Scripts that put no space between words; each character counts as a word. Thai and Lao; Burmese;
# Khmer; Japanese kana; Chinese, in four places.
_UNSPACED = [
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
]


def part_of(sentence: str, shares: Mapping[str, float]) -> str:
    """The part that a sentence belongs to: a name of `shares`, or "train".

    The sentence alone decides, whatever else is in the data: by a hash of its letters and digits,
    in lower case and with every digit 0, so that no spelling of it is in two parts.

    Each part has a hash of its own, and takes what falls below its share; what falls below two goes
    where it is lower in proportion. So raising a share, or adding a name, moves sentences into
    that part only, never from one of the others to another, "train" among them; and the order of
    the names does not matter. The price: a part has less than its share by half its product with
    each other's. Of 0.01 and 0.01, 0.00995 each.

    Raises ReluctantError for shares that are negative or leave nothing for training, and for a
    share that is called "train".

    >>> part_of("Good morning!", {"valid": 0.01, "test": 0.01})
    'train'
    >>> part_of("Good morning!", {"test": 0.9}) == part_of("good  morning", {"test": 0.9})
    True
    """
    _check(shares)
    return _part("".join(_words(sentence)), shares)


def split(pairs: Iterable[Pair], shares: Mapping[str, float]) -> dict[str, list[Pair]]:
    """The pairs of each part, in order, by `part_of` of their sources. Errors: as there.

    >>> parts = split([Pair("one", "eins"), Pair("two", "zwei")], {"test": 0.01})
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 2, 'test': 0}
    """
    _check(shares)
    parts: dict[str, list[Pair]] = {name: [] for name in (TRAIN, *shares)}
    for pair in pairs:
        parts[_part("".join(_words(pair.source)), shares)].append(pair)
    return parts


def without_near(
    pairs: Sequence[Pair], held_out: Sequence[Pair], threshold: float = 0.6
) -> tuple[list[Pair], int]:
    """The pairs that do not give a held-out one away, in order, and how many do.

    A pair does if its source is nearly a held-out source, or its target a held-out target:
        the same letters and digits, as `part_of` reads them; or, if both have three words or more,
        a Jaccard similarity of at least `threshold` (0 < threshold <= 1) between their sets of
        pairs of neighbouring words, with a mark at the beginning and at the end.

    By an index of the held-out side, of which only the rarest word pairs are looked up that two
    similar sets cannot both do without (the prefix filter of Chaudhuri et al., 2006).

    Raises ReluctantError for another threshold.

    >>> held_out = [Pair("he sat by the old river at night", "er saß nachts am alten Fluss")]
    >>> near = Pair("She sat by the old river at night.", "Sie saß an einem Fluss.")
    >>> without_near([near, Pair("by the river", "am Fluss")], held_out)
    ([Pair(source='by the river', target='am Fluss')], 1)
    """
    if not 0 < threshold <= 1:
        raise ReluctantError(f"expected a threshold above 0, and at most 1, got {threshold}")
    sources = _Near((pair.source for pair in held_out), threshold)
    targets = _Near((pair.target for pair in held_out), threshold)
    kept = [pair for pair in pairs if not (sources.has(pair.source) or targets.has(pair.target))]
    return kept, len(pairs) - len(kept)


class _Near:
    """Sentences, and whether another one is nearly one of them."""

    def __init__(self, sentences: Iterable[str], threshold: float) -> None:
        self._threshold = threshold
        words = [_words(sentence) for sentence in sentences]
        self._forms = {"".join(each) for each in words}
        self._bigrams = [_bigrams(each) for each in words]
        self._index: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for number, bigrams in enumerate(self._bigrams):
            for bigram in bigrams:
                self._index[bigram].append(number)

    def has(self, sentence: str) -> bool:
        words = _words(sentence)
        if "".join(words) in self._forms:
            return True
        own = _bigrams(words)
        # Similar sets share at least `common` elements. So at most the rest of `own` are without a
        # fellow, and of any one more than these, one has a fellow. (Rounding may add one: no harm.)
        common = math.ceil(self._threshold * len(own) - 1e-9)
        found = sorted((self._index.get(bigram, []) for bigram in own), key=len)
        rarest = found[: len(own) - common + 1]
        candidates = {number for numbers in rarest for number in numbers}
        return any(self._similar(own, self._bigrams[number]) for number in candidates)

    def _similar(self, one: set[tuple[str, str]], other: set[tuple[str, str]]) -> bool:
        common = len(one & other)
        return common / (len(one) + len(other) - common) >= self._threshold


def _bigrams(words: list[str]) -> set[tuple[str, str]]:
    """Of one or two words none: they are too few to be similar."""
    return set(pairwise([_BEGIN, *words, _END])) if len(words) > 2 else set()


def _words(sentence: str) -> list[str]:
    """Runs of letters and digits, in lower case, each digit 0.

    >>> _words("Don't pay 20 €!")
    ['don', 't', 'pay', '00']
    """
    # casefold undoes NFKC in places
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
    return folded.translate(_LETTERS).split()


class _Letters(dict[int, str]):
    """What becomes of a character, found out when it is first seen."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character.isdecimal():
            result = "0"
        elif unicodedata.category(character)[0] not in "LMN":  # a mark belongs to its letter
            result = " "
        elif any(first <= code <= last for first, last in _UNSPACED):
            result = f" {character} "
        else:
            result = character
        self[code] = result
        return result


_LETTERS = _Letters()


def _check(shares: Mapping[str, float]) -> None:
    if TRAIN in shares or not (all(s >= 0 for s in shares.values()) and sum(shares.values()) < 1):
        raise ReluctantError(
            f"expected shares from 0 up, of a sum below 1, none of them {TRAIN!r}, which has the "
            f"rest; got {dict(shares)}"
        )


def _part(form: str, shares: Mapping[str, float]) -> str:
    best, part = 1.0, TRAIN
    for name in sorted(shares):
        key = blake2b(name.encode(), digest_size=32).digest()
        digest = blake2b(form.encode(), digest_size=8, key=key).digest()
        value = int.from_bytes(digest, "big") / 2**64
        if value < shares[name] * best:
            best, part = value / shares[name], name
    return part
