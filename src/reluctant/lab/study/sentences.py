"""English sentences with their German translations, by a small grammar: text for a smoke run."""

import random
from itertools import product

from reluctant.translation.pairs import Pair

COUNT = 120
# articles by gender: "the" as a subject and as an object, "a" as an object, "the" after "mit"
_MASCULINE = ("der", "den", "einen", "dem")
_FEMININE = ("die", "die", "eine", "der")
_NEUTER = ("das", "das", "ein", "dem")
_NOUNS = {
    "dog": ("Hund", _MASCULINE),
    "bird": ("Vogel", _MASCULINE),
    "cat": ("Katze", _FEMININE),
    "teacher": ("Lehrerin", _FEMININE),
    "child": ("Kind", _NEUTER),
    "horse": ("Pferd", _NEUTER),
}
_PLACES = {
    "in the garden": "im Garten",
    "at the window": "am Fenster",
    "near the bridge": "bei der Brücke",
    "on the street": "auf der Straße",
}
_VERBS = {"see": "sehen", "hear": "hören", "find": "finden", "look for": "suchen"}
_MODALS = {"can": "kann", "will": "wird", "must": "muss"}
_PRONOUNS = {"he": "er", "she": "sie"}
_LINKS = {"and": "und", "but": "aber"}


def pairs(count: int = COUNT) -> list[Pair]:
    """The first of all, in an order that is always the same.

    >>> len(set(pairs()))
    120
    >>> pairs(2)[0]
    Pair(source='He is at the window with the cat, but he will see it.', \
target='Er ist mit der Katze am Fenster, aber er wird es sehen.')
    """
    everything = [*_seen(), *_together(), *_joined()]
    random.Random(1).shuffle(everything)
    return everything[:count]


def _seen() -> list[Pair]:
    return [
        Pair(
            f"The {a} {modal[0]} {verb[0]} a {b} {place[0]}.",
            f"{_upper(gender_a[0])} {noun_a} {modal[1]} {gender_b[2]} {noun_b} {place[1]} "
            f"{verb[1]}.",
        )
        for (a, (noun_a, gender_a)), (b, (noun_b, gender_b)), modal, verb, place in product(
            _NOUNS.items(), _NOUNS.items(), _MODALS.items(), _VERBS.items(), _PLACES.items()
        )
        if a != b
    ]


def _together() -> list[Pair]:
    return [
        Pair(
            f"The {a} and the {b} are {place[0]}.",
            f"{_upper(gender_a[0])} {noun_a} und {gender_b[0]} {noun_b} sind {place[1]}.",
        )
        for (a, (noun_a, gender_a)), (b, (noun_b, gender_b)), place in product(
            _NOUNS.items(), _NOUNS.items(), _PLACES.items()
        )
        if a != b
    ]


def _joined() -> list[Pair]:
    return [
        Pair(
            f"{_upper(he)} is {place[0]} with the {a}, {link[0]} {he} {modal[0]} {verb[0]} it.",
            f"{_upper(er)} ist mit {gender[3]} {noun} {place[1]}, {link[1]} {er} {modal[1]} es "
            f"{verb[1]}.",
        )
        for (a, (noun, gender)), (he, er), link, modal, verb, place in product(
            _NOUNS.items(),
            _PRONOUNS.items(),
            _LINKS.items(),
            _MODALS.items(),
            _VERBS.items(),
            _PLACES.items(),
        )
    ]


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
