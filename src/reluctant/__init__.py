"""The Transformer feed-forward layer, exact and fast on CPUs."""

__version__ = "0.1.0"
