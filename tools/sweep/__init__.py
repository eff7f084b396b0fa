"""How wide the feed-forward layers of the kept model should be: d_ff / d_model of 4, 8 and 16 on a
fixed fifth of the text, and how long each then takes to decode with the engine.

    python -m tools.sweep build/corpus build/sweep [--device cuda]
"""
