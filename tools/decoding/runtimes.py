"""Who decodes: each of them with the weights of one folder."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from reluctant.errors import ReluctantError
from reluctant.translation.backend import Search
from reluctant.translation.trained import Trained
from tools.decoding.ctranslate import KINDS, CTranslate2
from tools.decoding.uncached import Uncached
from tools.decoding.weights import POSITIONS, expect_plain

# From sources, ids with the end, and a number of hypotheses to one target each.
Decode = Callable[[Sequence[list[int]], int], list[list[int]]]
PLAIN = "no engine"
ROOM = POSITIONS - 50  # which a target has beyond its source


class Runtimes(NamedTuple):
    """ways: in the order of the table. missing: who is not there, and why. plain: PLAIN's model."""

    ways: dict[str, Decode]
    missing: dict[str, str]
    plain: Trained


def runtimes(folder: Path) -> Runtimes:
    """All that can be had here, of the model in a folder.

    Raises ReluctantError for a folder without a model and its vocabulary, and for a model that the
    others cannot be given.
    """
    plain = Trained(folder, engine=False, narrow=False, longest=ROOM)
    expect_plain(plain.model.config)
    uncached: Any = copy.copy(plain)
    uncached.model = Uncached(plain.model)
    ways: dict[str, Decode] = {
        "engine": partial(_search, Trained(folder, engine=True, narrow=True, longest=ROOM)),
        PLAIN: partial(_search, plain),
        "torch.nn.Transformer": partial(_search, uncached),
    }
    names = [plain.vocabulary.token(number) for number in range(len(plain.vocabulary))]
    missing = {}
    for kind in KINDS:
        try:
            ways[f"CTranslate2 {kind}"] = CTranslate2(plain.model, names, kind).search
        except ReluctantError as error:
            missing[f"CTranslate2 {kind}"] = str(error)
    return Runtimes(ways, missing, plain)


def _search(backend: Trained, sources: Sequence[list[int]], beam: int) -> list[list[int]]:
    return [best for (best,) in backend.search(sources, Search(beam=beam))]
