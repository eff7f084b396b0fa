"""The model that the repository keeps: from a run of `reluctant train` to a folder of its own, with
what it learned from, how good it is, and under which licence it stands.

    python -m tools.corpus build/corpus
    reluctant train build/corpus/train --validation build/corpus/valid.tsv \\
        --keep-out build/corpus/test-general.tsv --keep-out build/corpus/test-help.tsv \\
        --config tools/kept/en-de.toml --out build/en-de
    python -m tools.kept build/en-de build/corpus kept/en-de
"""
