"""English and German sentences from Debian packages: `python -m tools.corpus build/corpus`.

It fetches the packages by `apt-get download`, reads what is needed out of them, and writes

    train/general.tsv    full sentences of a dictionary's examples
    train/phrases.tsv    its phrases of three words or more
    train/help.tsv       the manual of an office suite
    train/interface.tsv  what programs say: messages, labels, tips
    train/game.tsv       dialogues and descriptions of a game
    valid.tsv            1,000 pairs of general, help and game, in proportion to their sizes
    test-general.tsv     1,000 pairs
    test-help.tsv        1,000 pairs
    SOURCES.md, notices/ where each comes from, under which licence

English, tab, German. What is held out is chosen by hashes alone: see `tools.corpus.parts`.
"""
