"""A trained model to measure on: ruaccent-predictor, and what its layers are given by real text."""

from reluctant.bench.accentor.inputs import record_inputs
from reluctant.bench.accentor.package import load, sentences, source

__all__ = ["load", "record_inputs", "sentences", "source"]
