"""What the card says: scores, densities, sure translations, a sample chosen by a rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reluctant.transformer import greedy, load
from reluctant.transformer.model import Transformer
from reluctant.translation.pairs import Pair, read
from reluctant.translation.score import Scores, score
from reluctant.translation.silence import PlainActivity
from reluctant.translation.translator import Translator
from reluctant.translation.vocabulary import EOS, Vocabulary
from tools.kept.margins import margins

SURE, SURE_SENTENCES = 0.05, 6
COUNTED = 200  # sentences that the densities are of
SHOWN = 10
BEAM = 4


@dataclass(frozen=True)
class Measured:
    """scores: by name of the test set and of the way to decode. density: of each layer, in the
    encoder over the source's positions, in the decoder over the steps. sure: source, translation
    and the smallest margin; shown: source, reference and translation.
    """

    scores: dict[tuple[str, str], Scores]
    density: dict[str, float]
    sure: list[tuple[str, str, float]]
    shown: list[tuple[Pair, str]]


def measure(folder: Path, sets: dict[str, Path]) -> Measured:
    """Of the model in a folder. sets: held-out pairs by name, the first one is the one to show."""
    translator, scores, texts = Translator(folder), {}, {}
    for name, file in sets.items():
        pairs = read([file])[0]
        for way, beam in (("greedy", 1), (f"beam {BEAM}", BEAM)):
            texts[name, way] = translator.translate([p.source for p in pairs], beam=beam)
            scores[name, way] = score(texts[name, way], [p.target for p in pairs])
    first = next(iter(sets))
    pairs = read([sets[first]])[0]
    step = max(len(pairs) // SHOWN, 1)
    shown = list(zip(pairs, texts[first, "greedy"], strict=True))[::step][:SHOWN]
    model, vocabulary = load(folder).float(), Vocabulary.load(folder)
    sources = [pair.source for pair in pairs]
    sure = _sure(model, vocabulary, sources)
    return Measured(scores, _density(model, vocabulary, sources[:COUNTED]), sure, shown)


def _ids(vocabulary: Vocabulary, sentence: str) -> Tensor:
    return torch.tensor([[*vocabulary.encode([sentence])[0], EOS]])


def _sure(
    model: Transformer, vocabulary: Vocabulary, sentences: Sequence[str]
) -> list[tuple[str, str, float]]:
    """The first sentences of which the model is sure, of eight words or more."""
    exact, found = load_double(model), []
    for sentence in sentences:
        if len(sentence.split()) < 8:
            continue
        source = _ids(vocabulary, sentence)
        target = greedy(model, source)[0]
        margin = margins(exact, [source], [target])[0] if target[-1] == EOS else 0.0
        if margin > SURE:
            found.append((sentence, vocabulary.decode([target.tolist()])[0], margin))
        if len(found) == SURE_SENTENCES:
            break
    return found


def load_double(model: Transformer) -> Transformer:
    """A copy in float64."""
    copy = Transformer(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    return copy


def _density(
    model: Transformer, vocabulary: Vocabulary, sentences: Sequence[str]
) -> dict[str, float]:
    activity = PlainActivity(model, 0.0, 0)
    activity.count = True
    for sentence in sentences:
        greedy(model, _ids(vocabulary, sentence))
    return {name: share for name, share in activity.density().items() if share is not None}
