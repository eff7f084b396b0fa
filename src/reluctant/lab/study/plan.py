"""How large a study is."""

from dataclasses import asdict, dataclass
from typing import Any

from reluctant.translation.settings import Settings

SIZES = ("small", "middle", "large")


@dataclass(frozen=True)
class Plan:
    """Sizes of models, of text and of what is measured; the defaults are the full study's.

    quick: a smoke run, without conclusions. seeds: of weights and of the order of batches.
    vocab_size: subwords. max_characters: of a sentence. pairs, valid_pairs: at most so many are
    learned from, and validated on; valid_share: of the text, held out.
    d_model, heads, d_ff, layers: of the base model; layers: of each of its two stacks.
    widest: the largest d_model of any model.
    steps, points: of training, and how often the validation loss is taken in them.
    ratios: d_ff / d_model. sizes: parameters of each ratio's models, in those of the base model,
    for `SIZES`. tolerance: by which share parameters that are called equal may differ.
    tokens: of a sample that something is measured on. deep: encoder layers of an untrained stack.
    sentences, longest, rounds: what is decoded to take the time, at most so many tokens of each,
    and how often.
    """

    quick: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)
    vocab_size: int = 2000
    max_characters: int = 60
    pairs: int = 200_000
    valid_pairs: int = 2000
    valid_share: float = 0.01
    d_model: int = 64
    heads: int = 2
    d_ff: int = 256
    layers: int = 3
    widest: int = 128
    steps: int = 1200
    points: int = 12
    batch_tokens: int = 2000
    lr: float = 5e-3
    warm_up: int = 100
    ratios: tuple[float, ...] = (0.25, 0.5, 1, 2, 4, 8, 16)
    sizes: tuple[float, ...] = (0.5, 1, 1.75)
    tolerance: float = 0.02
    tokens: int = 8000
    deep: int = 12
    sentences: int = 20
    longest: int = 24
    rounds: int = 9

    def settings(self, seed: int, **changes: Any) -> Settings:
        """Of a run of `reluctant train` that learns as the study does; plain torch, no dropout.

        The learning rate falls with the inverse square root of the step, so that no point of a
        curve depends on where the run was to end, and two curves can be read at one time.

        >>> FULL.settings(1, d_ff=512).d_ff
        512
        """
        given: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "max_characters": self.max_characters,
            "valid_share": self.valid_share,
            "d_model": self.d_model,
            "heads": self.heads,
            "d_ff": self.d_ff,
            "encoder_layers": self.layers,
            "decoder_layers": self.layers,
            "steps": self.steps,
            "batch_tokens": self.batch_tokens,
            "lr": self.lr,
            "warm_up": self.warm_up,
            "schedule": "inverse-sqrt",
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "engine": False,
            "seed": seed,
        }
        return Settings(**{**given, **changes})

    def to_json(self) -> dict[str, Any]:
        """All fields, as a result file has them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


FULL = Plan()
QUICK = Plan(
    quick=True,
    seeds=(1,),
    vocab_size=320,
    pairs=2000,
    valid_pairs=40,
    valid_share=0.1,
    d_model=16,
    d_ff=64,
    widest=64,
    steps=6,
    points=2,
    batch_tokens=300,
    warm_up=2,
    ratios=(0.25, 4, 16),
    tolerance=0.25,
    tokens=600,
    deep=6,
    sentences=3,
    longest=6,
    rounds=3,
)
