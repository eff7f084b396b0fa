"""Instruments: what feed-forward layers do, measured, and pages that show it."""
