"""The text: fetched from a Debian package, cleaned, split, and as token ids."""

import hashlib
import re
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from reluctant.errors import ReluctantError
from reluctant.files import write_atomic

PACKAGE = "r-cran-janeaustenr"
INSIDE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
SHA256 = "54f0f3ca350776f7bdf3fa0c2fa5a04f2f567f5eb63289add08b5b85ae024c6a"
VOCABULARY = 4096
ONE_IN = 40  # paragraphs that are kept for validation


@dataclass(frozen=True)
class Text:
    """train, valid: token ids, one after another; vocabulary: how many ids there are."""

    train: Tensor
    valid: Tensor
    vocabulary: int

    @property
    def fingerprint(self) -> str:
        """Of the ids: runs of the same one learned the same text."""
        both = torch.cat([self.train, self.valid]).numpy()
        return hashlib.sha256(both.tobytes()).hexdigest()[:16]

    def batch(self, step: int, rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (rows, length) of a step, counted from 0: a function of these alone.

        Each epoch has windows of the text in an order of its own.

        >>> text = Text(torch.arange(9), torch.arange(9), 9)
        >>> one, other = (text.batch(step, 2, 2, seed=0)[1].flatten().tolist() for step in (0, 1))
        >>> sorted(one + other)
        [1, 2, 3, 4, 5, 6, 7, 8]
        """
        windows = _windows(self.train, length)
        chosen = []
        for number in range(step * rows, (step + 1) * rows):
            epoch, at = divmod(number, len(windows))
            draw = torch.Generator().manual_seed(seed * 10_007 + epoch)  # 32 bits count
            chosen.append(windows[torch.randperm(len(windows), generator=draw)[at]])
        picked = torch.stack(chosen)
        return picked[:, :-1].contiguous(), picked[:, 1:].contiguous()

    def validation(self, rows: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of all of it, in order."""
        for picked in torch.split(_windows(self.valid, length), rows):
            yield picked[:, :-1].contiguous(), picked[:, 1:].contiguous()


def _windows(ids: Tensor, length: int) -> Tensor:
    if len(ids) <= length:
        raise ReluctantError(
            f"expected a text of more than {length} tokens in each part, got {len(ids)}: a longer "
            f"text, or a smaller --length"
        )
    return ids.unfold(0, length + 1, length)


def austen(folder: Path) -> list[str]:
    """The novels' paragraphs; fetched into the folder if they are not there.

    Raises ReluctantError if they cannot be had, or are not the ones that are known.
    """
    file = folder / "austen.txt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, "\n".join(paragraphs("\n\n".join(_books(_fetch())))))
    text = file.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if found != SHA256:
        raise ReluctantError(f"expected {file} to have SHA-256 {SHA256}, got {found}: remove it")
    return text.decode().splitlines()


def _fetch() -> bytes:
    with tempfile.TemporaryDirectory() as room:
        get = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
        try:
            subprocess.run(get, cwd=room, check=True)
            (package,) = Path(room).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=room, check=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise ReluctantError(
                f"expected Debian's apt-get to download {PACKAGE} ({error}): call apt-get update, "
                f"or take a text of your own by --text"
            ) from error
        return (Path(room) / INSIDE).read_bytes()


def _books(database: bytes) -> Iterator[str]:
    """R's lazy-load database: each entry a length, and as zlib's stream a vector of lines.

    The vector: "X" for its byte order, versions, the name of an encoding; a kind, a length; and of
    each line flags, a length, and its bytes.
    """
    while database:
        stream = zlib.decompressobj()
        entry, database = stream.decompress(database[4:]), stream.unused_data
        (named,) = struct.unpack_from(">I", entry, 14)
        at = 18 + named
        kind, lines = struct.unpack_from(">II", entry, at)
        if kind != 16:
            raise ReluctantError(f"expected R's vector of strings (16) in {INSIDE}; got {kind}")
        at, book = at + 8, []
        for _ in range(lines):
            (length,) = struct.unpack_from(">I", entry, at + 4)
            book.append(entry[at + 8 : at + 8 + length].decode())
            at += 8 + length
        yield "\n".join(book)


def paragraphs(text: str) -> list[str]:
    """Those of a plain text, each on one line, without headings and marks of emphasis.

    >>> paragraphs("CHAPTER I\\n\\n\\nEmma was\\n_very_ clever.\\n\\nby Jane Austen\\n")
    ['Emma was very clever.']
    """
    found = (" ".join(part.replace("_", "").split()) for part in re.split(r"\n\s*\n", text))
    return [each for each in found if re.search(r"[a-z].*[].,;:?!\"')-]$", each)]


def tokenised(found: list[str]) -> Text:
    """Paragraphs as ids, of byte pairs that are learned from those for training.

    A paragraph's hash says which part it is in.
    """
    parts: tuple[list[str], list[str]] = [], []
    for each in found:
        digest = hashlib.sha256(each.encode()).digest()
        parts[int.from_bytes(digest[:4], "big") % ONE_IN == 0].append(each + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(parts[0], trainer)
    train, valid = (
        torch.tensor([i for one in tokenizer.encode_batch(part) for i in one.ids]) for part in parts
    )
    return Text(train, valid, tokenizer.get_vocab_size())
