"""From raw text to a translation."""
