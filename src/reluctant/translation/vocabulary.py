"""Pieces of words, of both languages in one vocabulary, and the sentences that they make up."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic
from reluctant.translation.clean import SPACE

PAD, BOS, EOS, UNK = 0, 1, 2, 3
FILE = "tokenizer.json"
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SMALLEST = 300
_MARK = "▁"  # U+2581 stands for a space, at the beginning of each word
# The rarest characters, up to this share of a text, are spelt as bytes: each would have a token of
# its own that is hardly ever trained.
_RARE = 1e-4


class Vocabulary:
    """Tokens, each with an id: from sentences to ids and back.

    A sentence is normalised first: Unicode's form NFC, and each run of white space and control
    characters one space, none at the ends, as `clean` does; U+2581 counts as white space, too, for
    it marks the spaces. What is normalised comes back from its ids as it was, whatever the
    characters: one without a token is spelt as its bytes in UTF-8. No text becomes one of the
    special ids PAD, BOS, EOS, UNK: "</s>" are four characters.

    >>> vocabulary = Vocabulary.train(["low lower lowest", "new newer newest"] * 9, size=320)
    >>> ids = vocabulary.encode(["newest low 東"])
    >>> [vocabulary.token(id) for id in ids[0]]
    ['▁newest', '▁low', '▁', '<0xE6>', '<0x9D>', '<0xB1>']
    >>> vocabulary.decode(ids)
    ['newest low 東']
    """

    def __init__(self, tokenizer: Any) -> None:
        """tokenizer: a `tokenizers.Tokenizer`, as `train` and `load` make them."""
        self._tokenizer = tokenizer
        self._size: int = tokenizer.get_vocab_size()

    @staticmethod
    def train(sentences: Iterable[str], size: int, kind: str = "bpe") -> "Vocabulary":
        """Learn the tokens from sentences of both languages.

        size: of the vocabulary, with the 4 special tokens and the 256 bytes; at least 300. From
            too little text a smaller one results.
        kind: "bpe", byte pair encoding (Sennrich et al. 2016): the same sentences, in whatever
            order, give the same vocabulary. "unigram" (Kudo 2018): `tokenizers` adds its scores up
            in a random order, so two of them may differ a little.

        Raises ReluctantError if tokenizers is not installed, for another kind, too small a size,
        and sentences without any text.
        """
        package = _tokenizers()
        if kind not in ("bpe", "unigram") or size < _SMALLEST:
            raise ReluctantError(
                f"expected a vocabulary of kind 'bpe' or 'unigram' and a size of at least "
                f"{_SMALLEST}, got {kind!r} and {size}"
            )
        options = {
            "vocab_size": size,
            "special_tokens": _SPECIAL + _BYTES,
            "show_progress": False,
        }
        if kind == "bpe":
            model = package.models.BPE(unk_token=_SPECIAL[UNK], byte_fallback=True)
            trainer = package.trainers.BpeTrainer(**options)
        else:
            model = package.models.Unigram()
            trainer = package.trainers.UnigramTrainer(unk_token=_SPECIAL[UNK], **options)
        tokenizer = _around(model, package)
        text = [tokenizer.normalizer.normalize_str(_encodable(each)) for each in sentences]
        if not any(text):
            raise ReluctantError("expected sentences to learn a vocabulary from, got no text")
        tokenizer.train_from_iterator(_without_rare(text, size), trainer)
        # As special tokens they got their ids; known as such they would be found in text, too.
        values = json.loads(tokenizer.to_str())
        values["added_tokens"] = []
        values["model"]["byte_fallback"] = True  # a trainer of unigrams forgets it
        return Vocabulary(package.Tokenizer.from_str(json.dumps(values)))

    @staticmethod
    def load(folder: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises ReluctantError if tokenizers or the file is missing, if it cannot be read, and if
        its ids are others than those of PAD, BOS, EOS, UNK and from there on without a gap.
        """
        package, path = _tokenizers(), Path(folder) / FILE
        try:
            tokenizer = package.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:
            raise ReluctantError(
                f"expected {FILE}, as written by `Vocabulary.save`, in {folder}: {error}"
            ) from error
        tokens = tokenizer.get_vocab()
        special = [tokenizer.id_to_token(id) for id in (PAD, BOS, EOS, UNK)]
        if special != _SPECIAL or set(tokens.values()) != set(range(len(tokens))):
            raise ReluctantError(
                f"expected {path} with ids from 0 on, the first of them {', '.join(_SPECIAL)}; got "
                f"{special} and {len(tokens)} in all: train another one with Vocabulary.train"
            )
        tokenizer.encode_special_tokens = True  # those of another program's file
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return Vocabulary(tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` to the folder, which is made if need be, atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / FILE, self._tokenizer.to_str(pretty=True) + "\n")

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The ids of each sentence, none of them special.

        Raises ReluctantError for a string with surrogates, which no text has.
        """
        # One by one: a batch would start the package's threads, for no gain in time on few cores.
        encode = self._tokenizer.encode
        return [encode(_encodable(each), add_special_tokens=False).ids for each in sentences]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """The sentence of each row of ids. Special ids are left out, and negative ones.

        Raises ReluctantError for an id that no token has.
        """
        rows = [[id for id in row if id > UNK] for row in ids]
        if (largest := max((id for row in rows for id in row), default=0)) >= self._size:
            raise self._unknown(largest)
        return [self._tokenizer.decode(row, skip_special_tokens=False) for row in rows]

    def __len__(self) -> int:
        return self._size

    def token(self, id: int) -> str:
        """The token with this id. Raises ReluctantError if there is none."""
        if not 0 <= id < self._size:
            raise self._unknown(id)
        return str(self._tokenizer.id_to_token(id))

    def _unknown(self, id: int) -> ReluctantError:
        return ReluctantError(f"expected ids from 0 to {self._size - 1}, got {id}")


def _around(model: Any, package: Any) -> Any:
    """A tokenizer with this model: what is done to text before it and after it."""
    tokenizer = package.Tokenizer(model)
    tokenizer.normalizer = package.normalizers.Sequence(
        [
            package.normalizers.NFC(),
            package.normalizers.Replace(package.Regex(f"[{SPACE}{_MARK}]+"), " "),
            package.normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = package.pre_tokenizers.Sequence(
        [
            package.pre_tokenizers.Metaspace(_MARK, prepend_scheme="always"),
            package.pre_tokenizers.Punctuation("isolated"),
            package.pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = package.decoders.Sequence(
        [
            package.decoders.ByteFallback(),
            package.decoders.Metaspace(_MARK, prepend_scheme="always"),
        ]
    )
    return tokenizer


def _without_rare(text: list[str], size: int) -> list[str]:
    """The text with a space for each rare character; common ones are at most half the tokens."""
    counts: Counter[str] = Counter()
    for sentence in text:
        counts.update(sentence)
    rarest = sorted(counts, key=lambda character: (counts[character], character))
    superfluous = len(rarest) - (size - len(_SPECIAL) - len(_BYTES)) // 2
    allowance, rare = _RARE * counts.total(), []
    for number, character in enumerate(rarest):
        allowance -= counts[character]
        if number >= superfluous and allowance < 0:
            break
        rare.append(character)
    table = str.maketrans(dict.fromkeys(rare, " "))
    return [sentence.translate(table) for sentence in text] if rare else text


def _encodable(sentence: str) -> str:
    try:
        sentence.encode()
    except UnicodeEncodeError as error:
        raise ReluctantError(f"expected text, got {sentence!r}: {error}") from error
    return sentence


def _tokenizers() -> Any:
    try:
        import tokenizers  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ReluctantError(
            f"a vocabulary needs the package tokenizers ({error}): "
            "pip install 'reluctant[translate]'"
        ) from error
    return tokenizers
