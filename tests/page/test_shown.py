"""Texts, numbers and reasons as a reader sees them: nothing is invisible, nothing is left raw."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from reluctant.lab.page import write_inspection
from tests.page.browser import Browser
from tests.page.sample import record

pytestmark = pytest.mark.page
SEEN = {
    " ": "␣",
    "  ": "␣␣",
    "": "∅",
    "\n": "↵",
    "\x85": "⟨U+0085⟩",
    "\u200b": "⟨U+200B⟩",
    "\ufeff": "⟨U+FEFF⟩",
    "\u202eevil\u202c": "⟨U+202E⟩evil⟨U+202C⟩",
    "a\u2069b": "a⟨U+2069⟩b",
    "a\u200db": "a⟨U+200D⟩b",
    # Joiners stay where emoji and scripts need them.
    "\U0001f469\u200d\U0001f52c": "\U0001f469\u200d\U0001f52c",
    "می\u200cخواهم": "می\u200cخواهم",
    "क्\u200dष": "क्\u200dष",
}


def _opened(browser: Browser, given: dict[str, Any], folder: Path, hash: str = "lang=en") -> None:
    write_inspection(given, folder / "page.html")
    browser.open(folder / "page.html", hash)
    browser.requests()


def test_every_text_can_be_seen(chromium: Browser, tmp_path: Path) -> None:
    given = record()
    tokens = [{"token": text, "count": 1, "density": 0.1} for text in SEEN]
    given["layers"][0]["density"]["by_token"] = tokens
    neuron = max(given["layers"][0]["neurons"], key=lambda one: one["norm_share"])
    neuron["contexts"] = [{"value": 1.0, "before": "", "token": " ", "after": "\u200b"}]
    neuron["promotes"] = [{"token": text, "score": 1.0} for text in (" the", " ")]
    _opened(chromium, given, tmp_path)
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
    assert chromium.run(script, ".chart.tall tbody th") == list(SEEN.values())
    # What stands around a token is running text.
    assert chromium.run(script, ".context") == ["␣⟨U+200B⟩"]
    assert chromium.run(script, ".chips.for .quote") == ["the", "␣"]


def test_small_numbers_are_read(chromium: Browser, tmp_path: Path) -> None:
    given = record()
    neuron = max(given["layers"][0]["neurons"], key=lambda one: one["norm_share"])
    neuron |= {"use": 1.44e-8, "bias": -2.252e-7, "mean": 1e-5, "key_norm": 0.0}
    _opened(chromium, given, tmp_path)
    facts = chromium.text("#neuron .facts-list")
    for text in ("< 0.001% of tokens", "-2.25 × 10⁻⁷", "\n10⁻⁵", "\n0\n"):
        assert text in facts


def test_what_was_read_and_what_is_not_known(chromium: Browser, tmp_path: Path) -> None:
    given = record()
    given["checks"] = [
        {
            "name": "watching changes nothing",
            "holds": True,
            "says": "the output while the layers are watched is 0.0e+00 from the untouched model's",
        },
        {"name": "layers", "holds": False, "says": "something new"},
    ]
    given["left"] = [{"name": "a.b", "reason": "has no activation"}]
    given["layers"][0]["promotes_why"] = "the output projection does not read the encoder"
    _opened(chromium, given, tmp_path)
    assert "It read 800 tokens of news.txt, and 700 of its own translation" in chromium.text(
        "#facts"
    )
    made = chromium.text("#made")
    assert "holds: with the layers watched, the output differs by 0 from" in made
    chromium.click("#language")
    made = chromium.text("#made")
    assert "成立：观察各层时的输出与未改动模型的输出相差 0" in made
    assert "值所提升的词：未知，因为输出投影不读取编码器（encoder.layers.0）。" in made
    # What has no words in Chinese says that it is English.
    english = [one.text for one in chromium.all('#made [lang="en"]')]
    assert english == ["has no activation", "something new"]
    assert "。 " not in chromium.text("#facts") + chromium.text("#layers")
    for wrong in ("undefined", "{", "万 个"):
        assert wrong not in chromium.text("#facts")
    given = deepcopy(record())
    given["text"]["target"] = "given"
    _opened(chromium, given, tmp_path)
    assert "700 of the translation given with it" in chromium.text("#facts")
    del given["text"]["by_stack"]
    _opened(chromium, given, tmp_path)
    assert "It read 1,500 tokens of news.txt." in chromium.text("#facts")
