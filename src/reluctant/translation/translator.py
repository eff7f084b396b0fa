"""From sentences to translations, with a model from a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reluctant.errors import ReluctantError
from reluctant.files import expanded
from reluctant.translation.backend import Backend, Search
from reluctant.translation.folder import is_hugging_face
from reluctant.translation.segments import segments

# Tokens of what is translated at once. A model sees few sentences that are longer while it learns,
# and is no good at them: `reluctant train` leaves out what has more than 500 characters.
LONGEST = 200
_POSITIONS = 8192  # of the sources of a batch, counted for each hypothesis: bounds the memory


@dataclass(frozen=True)
class Translation:
    """One translation of a sentence.

    tokens: as the vocabulary writes them, without special ones. log_probability: the natural
    logarithm of its probability, with its end. score: that, divided by the length penalty, by
    which hypotheses are compared.
    """

    text: str
    log_probability: float
    score: float
    tokens: tuple[str, ...]


class _Found(NamedTuple):
    """A target of one segment; log_probability: None if nobody asked."""

    ids: list[int]
    log_probability: float | None


class Translator:
    """Translates with the model in a folder.

    folder: what `reluctant train` has written (config.json, model.safetensors, tokenizer.json), or
        an encoder-decoder of Hugging Face with its tokenizer, such as Marian, M2M100, NLLB, BART
        or T5. Weights are computed with in float32.
    engine: serve the model by `reluctant.optimize`. narrow: as there, read 16-bit copies of
        weights that were stored in 16 bits.
    batch_size: most sentences that are decoded together; long ones are fewer.
    longest: most tokens of what is translated at once. A sentence with more of them, or with more
        than the model has positions for, is cut into segments (`segments`: where sentences end, if
        it can be); their translations are joined by a space.
    trust_remote_code: run code that comes with a Hugging Face model.
    source_lang, target_lang: codes, for Hugging Face models of many languages.

    Raises ReluctantError for a folder that is not such a one, and for missing packages.

    >>> from tempfile import TemporaryDirectory
    >>> from reluctant.transformer import Transformer, TransformerConfig, save
    >>> from reluctant.translation.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.train(["new newer newest"] * 9, size=320)
    >>> sizes = dict(d_model=16, heads=2, d_ff=64, encoder_layers=1, decoder_layers=1)
    >>> with TemporaryDirectory() as folder:  # as `reluctant train` would fill it
    ...     vocabulary.save(folder)
    ...     save(Transformer(TransformerConfig(len(vocabulary), **sizes)), folder)
    ...     translator = Translator(folder)
    >>> len(translator.translate(["newest", "new"], beam=2))
    2
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        engine: bool = True,
        narrow: bool = True,
        batch_size: int = 32,
        longest: int = LONGEST,
        trust_remote_code: bool = False,
        source_lang: str | None = None,
        target_lang: str | None = None,
    ) -> None:
        if batch_size < 1 or longest < 2:
            raise ReluctantError(
                "expected a batch_size of at least 1 and a longest of at least 2, got "
                f"{batch_size} and {longest}"
            )
        folder, self._batch_size = expanded(folder), batch_size
        if is_hugging_face(folder):
            from reluctant.translation.hugging_face import HuggingFace  # noqa: PLC0415  an extra

            self._backend: Backend = HuggingFace(
                folder,
                engine=engine,
                narrow=narrow,
                longest=longest,
                trust_remote_code=trust_remote_code,
                languages=(source_lang, target_lang),
            )
            return
        if source_lang is not None or target_lang is not None:
            raise ReluctantError(
                f"expected no source_lang and target_lang for {folder}, which has the two "
                "languages it was trained on: leave them out"
            )
        from reluctant.translation.trained import Trained  # noqa: PLC0415  loads torch

        self._backend = Trained(folder, engine=engine, narrow=narrow, longest=longest)

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 1,
        length_penalty: float = 0.6,
        max_length: int | None = None,
        on_done: Callable[[int], object] = lambda count: None,
    ) -> list[str]:
        """The translation of each sentence; "" for a blank one.

        Sentences of like length are decoded together, which changes their translations only where
        two are equally good but for rounding.

        beam: 1 is greedy decoding, more is beam search with so many hypotheses.
        length_penalty: of beam search: a log probability is divided by ((5 + length) / 6) **
            length_penalty (Wu et al. 2016, equation 14), that of a Hugging Face model by length **
            length_penalty, as transformers does.
        max_length: most tokens of a translation, or of each segment's; None: 50 more than the
            source has.
        on_done: told after each batch how many sentences more are done.

        Raises ReluctantError for what is no text, and for numbers that do not fit.
        """
        found = self._search(sentences, Search(beam, 1, length_penalty, max_length), False, on_done)
        return [self._text([target.ids for target, *_ in parts]) for parts in found]

    def translations(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 1,
        length_penalty: float = 0.6,
        best: int = 1,
        max_length: int | None = None,
        on_done: Callable[[int], object] = lambda count: None,
    ) -> list[list[Translation]]:
        """Up to `best` (at most `beam`) translations of each sentence with scores, the best first.

        The rest as `translate`. Scores take one more pass of the model over what it has found. The
        k-th translation of a sentence in several segments joins the k-th of each. A blank sentence
        has one, which is empty and certain.
        """
        how = Search(beam, best, length_penalty, max_length)
        return [
            [self._translation(part, length_penalty) for part in _joined(parts)]
            for parts in self._search(sentences, how, True, on_done)
        ]

    def _text(self, targets: Sequence[list[int]]) -> str:
        return " ".join(filter(None, (self._backend.text(ids) for ids in targets)))

    def _translation(self, targets: Sequence[_Found], exponent: float) -> Translation:
        log_p = sum((target.log_probability or 0.0 for target in targets), 0.0)
        length = sum(len(target.ids) for target in targets)
        return Translation(
            self._text([target.ids for target in targets]),
            log_p,
            log_p / self._backend.penalty(length, exponent) if length else 0.0,
            tuple(token for target in targets for token in self._backend.tokens(target.ids)),
        )

    def _search(
        self,
        sentences: Sequence[str],
        how: Search,
        scored: bool,
        on_done: Callable[[int], object],
    ) -> list[list[list[_Found]]]:
        """For each sentence, for each of its segments: the targets."""
        parts = self._encoded(sentences)
        found: list[list[list[_Found]]] = [[[] for _ in each] for each in parts]
        places = [(i, j) for i, each in enumerate(parts) for j in range(len(each))]
        left = [len(each) for each in parts]
        on_done(left.count(0))
        lengths = [len(parts[i][j]) for i, j in places]
        for batch in _batches(lengths, self._batch_size, _POSITIONS // how.beam):
            sources = [parts[i][j] for i, j in (places[number] for number in batch)]
            done = 0
            for number, targets in zip(batch, self._targets(sources, how, scored), strict=True):
                i, j = places[number]
                found[i][j] = targets
                left[i] -= 1
                done += left[i] == 0
            on_done(done)
        return found

    def _targets(
        self, sources: Sequence[list[int]], how: Search, scored: bool
    ) -> list[list[_Found]]:
        found = self._backend.search(sources, how)
        if not scored:
            return [[_Found(ids, None) for ids in targets] for targets in found]
        results: list[list[_Found]] = [[] for _ in sources]
        for rank in range(max(map(len, found))):
            rows = [row for row, targets in enumerate(found) if rank < len(targets)]
            targets = [found[row][rank] for row in rows]
            values = self._backend.log_probabilities([sources[row] for row in rows], targets)
            for row, ids, value in zip(rows, targets, values, strict=True):
                results[row].append(_Found(ids, value))
        return results

    def _encoded(self, sentences: Sequence[str]) -> list[list[list[int]]]:
        """Of each sentence the ids of its segments: none if it is blank, mostly one."""
        if isinstance(sentences, str):
            raise ReluctantError("expected a list of sentences, got one text: put it in a list")
        for sentence in sentences:
            _expect_text(sentence)
        parts = [[ids] if ids else [] for ids in self._backend.encode(sentences)]
        for i, sentence in enumerate(sentences):
            if parts[i] and not self._fits(parts[i][0]):
                cut = segments(sentence, lambda text: self._fits(*self._backend.encode([text])))
                parts[i] = [ids for ids in self._backend.encode(cut) if ids]
        return parts

    def _fits(self, ids: Sequence[int]) -> bool:
        return len(ids) <= self._backend.longest


def _expect_text(sentence: object) -> None:
    if not isinstance(sentence, str):
        raise ReluctantError(f"expected sentences, each a str; got {type(sentence).__name__}")
    try:
        sentence.encode()
    except UnicodeEncodeError as error:
        raise ReluctantError(f"expected text, got {sentence!r}: {error}") from error


def _batches(lengths: Sequence[int], size: int, positions: int) -> list[list[int]]:
    """Indices from short to long, at most `size` a batch, and so many positions with padding.

    >>> _batches([9, 2, 3, 9], 3, 18)
    [[1, 2], [0, 3]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        batch = batches[-1] if batches else []
        count = len(batch) + 1
        if not batch or count > size or count * lengths[index] > positions:
            batches.append([])
        batches[-1].append(index)
    return batches


def _joined(parts: Sequence[Sequence[_Found]]) -> list[list[_Found]]:
    """The k-th of each segment, or its last, for every k that one of them has."""
    most = max(map(len, parts), default=1)
    return [[part[min(rank, len(part) - 1)] for part in parts] for rank in range(most)]
