"""What was found of one sentence, and of one token on its way. None: not known."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fired:
    """A neuron for one token; norm: |h| |v|, the length of what it adds."""

    index: int
    h: float
    norm: float


@dataclass(frozen=True)
class TokenUse:
    active: int
    neurons: list[Fired]


@dataclass(frozen=True)
class Without:
    """The answer with a neuron and without it. change: the largest change of a probability, or of
    a model without words 1 - the cosine of the mean output vectors. fired: if it did not, its h was
    exactly zero at every position, and nothing can change. asked: whether it was named by who
    asked, and is not only one of those that added most.
    """

    neuron: int
    fired: bool
    before: str | None
    after: str | None
    change: float
    asked: bool = False


@dataclass(frozen=True)
class SentenceLayer:
    """tokens: of each its neurons; empty for an expert, of which it is not known where its tokens
    stand, and which is here for the neurons that were asked for. calls: how often the layer was
    called for the sentence; tokens tell of the first time.
    """

    name: str
    stack: str
    tokens: list[TokenUse]
    without: list[Without]
    calls: int = 1


@dataclass(frozen=True)
class Sentence:
    """parts: the tokens that each stack reads."""

    text: str
    output: str | None
    parts: dict[str, list[str]]
    layers: list[SentenceLayer]


@dataclass(frozen=True)
class WalkNeuron:
    """share: of the sum of h_i^2 |v_i|^2 of this token."""

    index: int
    z: float
    h: float
    norm: float
    share: float


@dataclass(frozen=True)
class Walk:
    """One token on its way through one layer. z_active: the z above which a neuron fires. neurons:
    at most 64 of those that fired, the longest first. out: residual + y.
    """

    sentence: int
    layer: str
    position: int
    token: str
    x: list[float]
    z_active: float | None
    neurons: list[WalkNeuron]
    active: int
    y: list[float]
    residual: list[float] | None
    out: list[float] | None
    x_norm: float
    y_norm: float
