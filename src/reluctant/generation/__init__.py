"""Decoding with an output projection of which only the rows that can matter are read."""
