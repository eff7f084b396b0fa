"""What was found of one layer. Shares are fractions; None: not known, or it does not apply."""

from dataclasses import dataclass

from reluctant.lab.saves import Candidates, Computed, Measured


@dataclass(frozen=True)
class Histogram:
    """Tokens by density: bin i is from edges[i] to below edges[i + 1], the last one closed."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class TokenDensity:
    token: str
    id: int
    count: int
    density: float


@dataclass(frozen=True)
class Density:
    """Active neurons of a token / d_ff. by_position: None where no token was."""

    mean: float
    least: float
    most: float
    histogram: Histogram
    by_position: list[float | None]
    by_token: list[TokenDensity]


@dataclass(frozen=True)
class Rank:
    """Effective ranks of a random sample of so many tokens; NaN, in JSON null: not finite."""

    input: float
    hidden: float
    output: float
    sample: int


@dataclass(frozen=True)
class Update:
    """What the layer adds against the residual stream that it is added to, means over tokens."""

    ratio: float
    cosine: float


@dataclass(frozen=True)
class Saves:
    computed: Computed
    measured: Measured | None


@dataclass(frozen=True)
class Context:
    """A token for which a neuron fired, with its h, and the text around it."""

    value: float
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class Score:
    token: str
    score: float


@dataclass(frozen=True)
class Neighbour:
    index: int
    cosine: float


@dataclass(frozen=True)
class Neuron:
    """use: share of tokens for which it is active; mean: of h where it is. norm_share: its part of
    the sum of h_i^2 |v_i|^2. promotes, suppresses: tokens with the largest and smallest product of
    its value with their output embeddings. neighbours: neurons with the most similar keys.
    """

    index: int
    use: float
    mean: float | None
    norm_share: float
    value_norm: float
    key_norm: float
    bias: float | None
    contexts: list[Context]
    promotes: list[Score] | None
    suppresses: list[Score] | None
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class Layer:
    """One feed-forward layer. near: the mean share of neurons with |h| above a hundredth of the
    token's largest. dead, always: neurons that are active for none, and for every one of the
    tokens. neurons_for_90: the smallest share of neurons that has 90 % of the sum of h_i^2 |v_i|^2.
    overlap: the mean Jaccard index of neighbouring tokens' active neurons. tokens: that came to the
    layer, and again each time they came again; calls_per_token: how often, mean over the tokens of
    its stack: 1, in models that use a layer several times more, of experts less. unplaced: tokens
    of which it is not known where they stand in the text; not_finite: with an h that is infinite or
    no number, so that sums and means of h are not known.
    """

    name: str
    stack: str
    index: int
    activation: str
    gated: bool
    exact_zeros: bool
    d_model: int
    d_ff: int
    parameters: int
    parameters_share: float
    flops_per_token: int
    flops_share: float | None
    tokens: int
    unplaced: int
    not_finite: int
    calls_per_token: float
    density: Density
    near: float
    candidates: Candidates | None
    dead: int
    always: int
    use: list[float]
    neurons_for_90: float | None
    overlap: float | None
    effective_rank: Rank
    update: Update | None
    update_why: str | None
    saves: Saves
    neurons: list[Neuron]
    promotes_why: str | None
