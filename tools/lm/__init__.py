"""A small language model that learns English, with the engine and without: `python -m tools.lm`.

    make lm                                                  # all runs, the table and the picture
    python -m tools.lm --engine --penalty 0.1 --out FOLDER   # one run; Ctrl-C, and again: goes on
    python -m tools.lm table FOLDER
    python -m tools.lm plot FOLDER docs/training.svg

A decoder-only Transformer in plain torch. Its text: the six novels of Jane Austen, from Debian's
package r-cran-janeaustenr (1.6 MB; 4.0 MB of text), which `apt-get download` fetches. The novels
are in the public domain; the package, which is Julia Silge's, is under the MIT licence.
"""
