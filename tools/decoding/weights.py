"""Which models' weights the other runtimes can take as they are."""

from typing import Any

from reluctant.errors import ReluctantError
from reluctant.transformer.config import TransformerConfig

# As `reluctant train` makes them; what is not named here may be anything.
EXPECTED: dict[str, Any] = {
    "target_vocab": None,
    "activation": "relu",
    "norm_first": True,
    "encoder_norm": None,
    "decoder_norm": None,
    "final_norm_eps": None,
    "bias": True,
    "positions": "sinusoidal",
    "embedding_norm": False,
    "tied": True,
    "output_bias": False,
    "bos_shared": False,
}
POSITIONS = 1024  # of the tables that the others are given


def expect_plain(config: TransformerConfig) -> None:
    """Refuse a model that would be another one elsewhere.

    Raises ReluctantError.

    >>> expect_plain(TransformerConfig(50, norm_first=True))
    >>> expect_plain(TransformerConfig(50))
    Traceback (most recent call last):
        ...
    reluctant.errors.ReluctantError: norm_first: expected True, as in a model of `reluctant \
train`, got False: the other runtimes are given no other kind of model
    """
    if config.pad is None:
        raise ReluctantError(
            "pad: expected an id, as in a model of `reluctant train`, got None: sentences of "
            "different lengths cannot be decoded together"
        )
    for name, expected in EXPECTED.items():
        if (got := getattr(config, name)) != expected:
            raise ReluctantError(
                f"{name}: expected {expected!r}, as in a model of `reluctant train`, got {got!r}: "
                "the other runtimes are given no other kind of model"
            )
