"""Token ids as text that can be read."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from reluctant.translation.vocabulary import Vocabulary

_SPACE = "▁"  # U+2581, of SentencePiece and ours
_MARKED = "Ġ"  # a space among the characters that stand for bytes
_SPELT = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


def _bytes() -> dict[str, int]:
    """The characters that stand for bytes in GPT-2's vocabularies (Radford et al. 2019)."""
    same = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in same]
    return {chr(byte): byte for byte in same} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE = _bytes()


class Words:
    """Says what a token is: as text, with the space before it if it begins a word.

    names: gives the tokenizer's own names of ids, None for one that it does not have.
    style: how these names mark where words begin: "bytes", "space", "word pieces", or "" if they
        do not. special: names that are no text.

    >>> names = ["▁new", "est", "<0xE6>", "<0x9D>", "<0xB1>"]
    >>> words = Words(lambda ids: [names[id] for id in ids], "space", ())
    >>> words.text([0, 1]), words.text([2, 3, 4]), words.piece(0)
    (' newest', '東', ' new')
    """

    def __init__(
        self,
        names: Callable[[list[int]], Sequence[str | None]],
        style: str,
        special: Sequence[str],
    ) -> None:
        self._names, self._style, self._special = names, style, frozenset(special)

    @staticmethod
    def of_vocabulary(vocabulary: Vocabulary) -> "Words":
        def names(ids: list[int]) -> list[str | None]:
            return [vocabulary.token(id) if id < len(vocabulary) else None for id in ids]

        return Words(names, "space", ())

    @staticmethod
    def of_tokenizer(tokenizer: Any) -> "Words":
        """Of a tokenizer of transformers."""
        names = [str(name) for name in tokenizer.get_vocab()]
        style = ""
        for first, found in ((_SPACE, "space"), (_MARKED, "bytes"), ("##", "word pieces")):
            if any(name.startswith(first) for name in names):
                style = found
                break
        return Words(tokenizer.convert_ids_to_tokens, style, tokenizer.all_special_tokens)

    def piece(self, id: int) -> str:
        """One token. Bytes that are no character by themselves are spelt, as <0xC3>."""
        text, name = self.text([id]), self._names([id])[0]
        if "\ufffd" not in text or name is None or "\ufffd" in name:
            return text
        return name if self._style == "space" else _in_hex(self._spelt(name))

    def text(self, ids: Sequence[int]) -> str:
        """Tokens side by side. Bytes that are no character in UTF-8 become U+FFFD."""
        found = self._names(list(ids))
        names = [
            f"<{id}>" if name is None else str(name) for id, name in zip(ids, found, strict=True)
        ]
        if self._style == "bytes":
            return b"".join(map(self._spelt, names)).decode(errors="replace")
        if self._style == "space":
            return _SPELT.sub(_said, "".join(names).replace(_SPACE, " "))
        if self._style == "word pieces":
            return "".join(map(self._word_piece, names))
        return " ".join(names)

    def _spelt(self, name: str) -> bytes:
        if name in self._special:
            return name.encode()
        return b"".join(bytes([_BYTE[c]]) if c in _BYTE else c.encode() for c in name)

    def _word_piece(self, name: str) -> str:
        if name in self._special:
            return name
        return name[2:] if name.startswith("##") else f" {name}"


def _in_hex(bytes: bytes) -> str:
    return "".join(f"<0x{byte:02X}>" for byte in bytes)


def _said(match: re.Match[str]) -> str:
    """Bytes, spelt one by one."""
    return bytes.fromhex(re.sub("<0x|>", "", match[0])).decode(errors="replace")
