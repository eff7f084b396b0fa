"""What was found out about one training step."""

from dataclasses import dataclass, field
from math import isfinite

from reluctant.bench.train.model import worst

AS_TRUE = 1.5  # times eager's error: rounding is no constant
# And so much more. float32: oneDNN, which ours calls as well, adds up in one chain and errs two to
# three times as much as eager's MKL. bfloat16: eager may hardly err; in a stack it is chance which
# signs, and with them slopes, rounding has turned around before the later layers.
LITTLE = {"layer": {"float32": 2.0**-18, "bfloat16": 2.0**-9},
          "stack": {"float32": 2.0**-18, "bfloat16": 2.0**-5}}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One cell. Times in milliseconds a step, shares of 1.

    kept: bytes from the forward to the backward pass, besides x and the weights. errors: relative
    ones, against float64 autograd, by contender ("ours", "eager" ...) and tensor ("y", "x" and
    weights: of their gradients). ways: layers' calls of ours that went over active neurons only
    ("training"), and others. missing: peers that could not be had, and why.
    """

    kind: str
    dtype: str
    tokens: int
    d_model: int
    d_ff: int
    gated: bool
    layers: int
    density: float  # that was asked for
    active: float
    ours_ms: float
    peers: dict[str, float]
    best: str  # the fastest peer whose numbers are right
    kept: dict[str, int]
    errors: dict[str, dict[str, float]]
    ways: dict[str, int]
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def ratio_eager(self) -> float:
        """How many times ours it takes eager."""
        return self.peers["eager"] / self.ours_ms

    @property
    def ratio_best(self) -> float:
        """How many times ours it takes the best peer."""
        return self.peers[self.best] / self.ours_ms

    @property
    def ratio_kept(self) -> float | None:
        """How many times as much eager keeps; None: ours keeps nothing."""
        return self.kept["eager"] / self.kept["ours"] if self.kept["ours"] else None

    @property
    def wrong(self) -> list[str]:
        """Those with an error that neither eager's nor rounding explains."""
        return [name for name in self.errors if self.wrong_tensors(name)]

    def wrong_tensors(self, name: str) -> list[str]:
        """Which of a contender's tensors are wrong."""
        return wrong_tensors(self.errors, name, LITTLE[self.kind][self.dtype])

    def worst(self, name: str) -> float:
        """The largest of a contender's errors; a NaN, if there is one."""
        return worst(self.errors[name].values())


def wrong_tensors(errors: dict[str, dict[str, float]], name: str, little: float) -> list[str]:
    """Which of a contender's tensors err more than `AS_TRUE` times as much as eager's, and little
    besides."""
    eager = errors["eager"]
    return [
        what
        for what, error in errors[name].items()
        if not (isfinite(error) and error <= AS_TRUE * eager[what] + little)
    ]
