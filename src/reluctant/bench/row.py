"""What was found out about one layer in one phase and state."""

from dataclasses import dataclass, field

TOLERANCE = 1e-5  # relative error; float32 sums reach 2e-6 at these sizes, bfloat16 begins at 2e-3


@dataclass(frozen=True)
class Row:
    """One layer in one phase and state. Times in microseconds a call, shares of 1."""

    phase: str
    dtype: str
    tokens: int
    d_model: int
    d_ff: int
    active: float
    candidates: float
    ours_us: float
    peers: dict[str, float]
    ratio_best: float  # best exact dense peer whose output is right / ours
    ratio_eager: float
    limit_share: float  # achieved / limit
    achieved: float  # bytes/s the engine must read; many: operations/s it must do
    limit: float  # bytes/s of a buffer of what one rotation reads; many: best large product
    errors: dict[str, float]  # relative RMS error against float64, ours among them
    ways: dict[str, int]  # calls of the engine that went each way
    missing: dict[str, str]  # peers that could not be had, and why
    cold: bool = False  # whether the calls went round the layers of a model
    layers: int = 1  # that the calls went round
    layer_bytes: int = 0  # weights of one of them
    activation: str = "relu"
    gated: bool = False
    density: float | None = None  # that was asked for; None: a trained model's layers
    ratio_int8: float | None = None  # fastest approximate peer / ours; None: there is none
    approximate: list[str] = field(default_factory=list)  # peers in int8, or rounded to bfloat16
    best: str = "eager"  # the best exact dense peer
    tolerance: float = TOLERANCE

    @property
    def wrong(self) -> list[str]:
        """Those that are off by more than the rounding of the arithmetic that they claim."""
        exact = [name for name in self.errors if name not in self.approximate]
        return [name for name in exact if not self.errors[name] <= self.tolerance]
