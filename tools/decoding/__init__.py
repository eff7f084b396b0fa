"""Who decodes how fast, with the same weights: `python -m tools.decoding MODEL_FOLDER`.

    python -m tools.decoding kept/en-de --json decoding.json
    python -m tools.decoding kept/en-de --markdown >> docs/decoding.md

One run, the same held-out sentences for all, one by one and in batches of 32, greedily and with
beams of 4:

    engine                what `reluctant.optimize` serves, with narrow copies
    no engine             the same model untouched
    torch.nn.Transformer  the same weights in torch's own modules, which keep no cache
    CTranslate2           the same weights, in float32 and int8; needs the package ctranslate2

They take turns, so that whatever else the machine does falls on all of them.
"""
