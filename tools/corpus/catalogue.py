"""Messages of programs from gettext's compiled catalogues (.mo)."""

import re
import struct
from collections.abc import Iterator, Mapping

from reluctant.errors import ReluctantError
from reluctant.translation.pairs import Pair
from tools.corpus.tidy import by_sentence, typed

# Markup, variables, addresses, and what asks for code.
_MARKUP = re.compile(r"[<>{}$\\|]|%|&\w+;|\[[a-z_/]|https?:|www\.|\w+[=(]\)|::|\w_\w|@")
_MNEMONIC = re.compile(r"[~_](?=\w)|\(_?[A-Z]\)$")


def messages(catalogue: bytes) -> dict[str, str]:
    """Texts and their translations, without contexts; those with plural forms are left out.

    A context is what gettext keeps before a character 4, or a writer wrote before `^`. The format:
    <https://www.gnu.org/software/gettext/manual/html_node/MO-Files.html>.

    Raises ReluctantError for what is no catalogue in UTF-8.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(catalogue[:4])
    try:
        if order is None:
            raise ValueError("it begins otherwise")
        count, *tables = struct.unpack_from(f"{order}3I", catalogue, 8)
        sides = []
        for table in tables:
            places = struct.unpack_from(f"{order}{2 * count}I", catalogue, table)
            sides.append(
                [
                    catalogue[start : start + length].decode()
                    for length, start in zip(places[::2], places[1::2], strict=True)
                ]
            )
    except (ValueError, struct.error) as error:
        raise ReluctantError(
            f"expected a catalogue of gettext (.mo), got {len(catalogue)} other bytes ({error}): "
            "is it whole?"
        ) from error
    return {
        key.rpartition("\4")[2].rpartition("^")[2]: text.rpartition("^")[2]
        for key, text in zip(*sides, strict=True)
        if key and "\0" not in key
    }


def pairs(texts: Mapping[str, str]) -> Iterator[Pair]:
    """Sentences of messages whose paragraphs correspond; what has markup is left out.

    >>> [*pairs({"_Open file\\n\\nHello $name": "Datei ö_ffnen\\n\\nHallo, $name"})]
    [Pair(source='Open file', target='Datei öffnen')]
    """
    for source, target in texts.items():
        sides = [re.split(r"\s*\n\s*\n\s*", side.strip()) for side in (source, target)]
        if len(sides[0]) != len(sides[1]):
            sides = [[source], [target]]
        for ours, theirs in zip(*sides, strict=True):
            pair = Pair(*(typed(_MNEMONIC.sub("", side)).lstrip("• ") for side in (ours, theirs)))
            if all(pair) and not any(map(_MARKUP.search, pair)):
                yield from by_sentence(pair)
