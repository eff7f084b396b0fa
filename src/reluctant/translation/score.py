"""How good translations are, as the field measures it: sacrebleu's BLEU and chrF."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reluctant.errors import ReluctantError


@dataclass(frozen=True)
class Scores:
    """bleu, chrf: from 0 to 100, with sacrebleu's signatures, which say how they were computed."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str

    def __str__(self) -> str:
        return f"BLEU {self.bleu:.1f} ({self.bleu_signature}), chrF {self.chrf:.1f}"


def score(translations: Sequence[str], references: Sequence[str]) -> Scores:
    """Compare translations with one reference each (Post 2018; Popović 2015).

    Raises ReluctantError if sacrebleu is not installed, or for different numbers of sentences.

    >>> found = score(["Die Katze sitzt auf der Matte."], ["Die Katze sitzt auf der Matte."])
    >>> round(found.bleu), round(found.chrf)
    (100, 100)
    """
    if len(translations) != len(references):
        raise ReluctantError(
            f"expected a reference for each of {len(translations)} translations, got "
            f"{len(references)}"
        )
    metrics = _metrics()
    bleu, chrf = metrics.BLEU(), metrics.CHRF()
    texts, wanted = list(translations), [list(references)]
    found = bleu.corpus_score(texts, wanted).score, chrf.corpus_score(texts, wanted).score
    return Scores(*found, str(bleu.get_signature()), str(chrf.get_signature()))


def _metrics() -> Any:
    try:
        from sacrebleu import metrics  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ReluctantError(
            f"BLEU and chrF need sacrebleu ({error}): pip install 'reluctant[translate]'"
        ) from error
    return metrics
