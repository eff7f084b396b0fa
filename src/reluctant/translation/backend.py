"""What a translator asks of a model, whoever made it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from reluctant.errors import ReluctantError


@dataclass(frozen=True)
class Search:
    """How to look for translations.

    beam: hypotheses that go on at each step; 1 is greedy decoding. best: how many are wanted.
    length_penalty: exponent of the length that a hypothesis' log probability is divided by.
    max_length: most tokens of a translation; None: 50 more than its source has.

    Raises ReluctantError for a value that cannot be one.

    >>> Search(beam=2, best=3)
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: expected best from 1 to beam, got 3 with beam=2
    """

    beam: int = 1
    best: int = 1
    length_penalty: float = 0.6
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.beam < 1 or not 0 <= self.length_penalty < float("inf"):
            raise ReluctantError(
                "expected a beam of at least 1 and a length_penalty from 0 up, got "
                f"{self.beam} and {self.length_penalty}"
            )
        if not 1 <= self.best <= self.beam:
            raise ReluctantError(
                f"expected best from 1 to beam, got {self.best} with beam={self.beam}"
            )
        if self.max_length is not None and self.max_length < 1:
            raise ReluctantError(f"max_length: expected at least 1, got {self.max_length}")


class Backend(Protocol):
    """A model and its words. longest: most tokens that a source may have, as `encode` gives it."""

    longest: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Sources as the model takes them, with their special tokens; [] for a blank text."""

    def search(self, sources: Sequence[Sequence[int]], how: Search) -> list[list[list[int]]]:
        """Of each source at most `how.best` targets, the best first, as ids: without the begin,
        with the end where it was reached, and without padding.
        """

    def log_probabilities(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[float]:
        """ln P(target | source) of each pair."""

    def penalty(self, length: int, exponent: float) -> float:
        """What the search divides the log probability of a target of so many tokens by."""

    def text(self, ids: Sequence[int]) -> str:
        """What a target says."""

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """A target's tokens as its vocabulary writes them, without special ones."""
