"""The page of a model in a real browser: what is chosen is shown."""

import re
from pathlib import Path

import pytest

from tests.page.browser import Browser
from tests.page.sample import record

pytestmark = pytest.mark.page
RECORD = record()
DOWN, LEFT, HOME, END = "\ue015", "\ue012", "\ue011", "\ue010"
ENTER, TAB = "\ue007", "\ue004"


@pytest.fixture
def shown(chromium: Browser, pages: Path) -> Browser:
    chromium.open(pages / "record.html", "lang=en")
    return chromium


def address(browser: Browser) -> str:
    return str(browser.run("return location.hash"))


def test_the_walk_goes_up_and_down(shown: Browser) -> None:
    titles = []
    for step in range(1, 7):
        assert f"Step {step} of 6" in shown.text(".step-head")
        titles.append(shown.text(".step-head h2"))
        shown.click(".steps .main")
    assert titles == [
        "A token arrives",
        "First up",
        "31 of 256 fire",
        "What each one adds",
        "Then down",
        "The residual add",
    ]
    assert shown.one(".steps .main").get_attribute("aria-disabled") == "true"
    shown.run("document.activeElement.blur()")
    shown.keys(LEFT, LEFT)
    assert "Step 4 of 6" in shown.text(".step-head")
    assert "step=4" in address(shown)
    bars = [
        line.split("\n") for line in shown.text(".bars").replace("\n\n", "\n").split("\n") if line
    ]
    walk = RECORD["walk"]["neurons"]
    assert bars[0] == [f"neuron {walk[0]['index']}"]
    assert len(shown.all("#walk table tbody tr")) == len(walk)
    assert shown.text(".tokens mark").strip() == "dog"


def test_the_drawing_changes_with_the_step(shown: Browser) -> None:
    def ink() -> str:
        return str(shown.run("return document.querySelector('.stage-canvas').toDataURL()"))

    shown.until("return document.querySelector('.stage-canvas').height > 200")
    drawn = []
    for _ in range(6):
        drawn.append(ink())
        shown.click(".steps .main")
    assert len(set(drawn)) == 6
    assert "31 of them lit" in str(shown.one(".stage-canvas").get_attribute("aria-label"))


def test_choosing_a_layer_shows_it(shown: Browser) -> None:
    shown.pick("#layer-choice", "decoder.layers.1")
    assert "decoder.layers.1" in shown.text("#layer figcaption")
    assert "decoder.layers.1" in shown.text("#neurons .card h3")
    assert shown.run("return document.querySelector('#neuron-layer').value") == "decoder.layers.1"
    assert "layer=decoder.layers.1" in address(shown)
    assert "decoder.layers.1" in shown.text("#said")
    shown.until("return document.querySelectorAll('#layers .plot svg[role=img]').length >= 11")
    labels = shown.run("return [...document.querySelectorAll('.plot svg')].map(x => x.ariaLabel)")
    assert all(labels)
    assert "Least 1% (encoder.layers.0), most 3% (decoder.layers.1)" in labels[0]


def test_choosing_a_neuron_shows_it(shown: Browser) -> None:
    layer = RECORD["layers"][0]
    second = sorted(layer["neurons"], key=lambda one: -one["norm_share"])[1]
    shown.run("document.querySelector('.listbox').focus()")
    shown.keys(HOME, DOWN)
    card = shown.text("#neurons .card")
    assert f"Neuron {second['index']} " in card
    assert shown.one('.option[aria-selected="true"]').text.startswith(str(second["index"]))
    assert len(shown.all(".contexts li")) == 8
    assert "what comes after" in card
    assert f"neuron={second['index']}" in address(shown)
    # To a neighbour, of which nothing but its use was kept.
    shown.click("#neurons .card ul a")
    bare = second["neighbours"][0]["index"]
    assert f"Neuron {bare} " in shown.text("#neurons .card")
    assert "--neurons" in shown.text("#neurons .card")
    assert shown.run("return document.activeElement.id") == "neuron-title"


def test_neurons_are_found_sorted_and_gone_to(shown: Browser) -> None:
    shown.pick("#neuron-order", "index")
    listed = [int(one.text.split()[0]) for one in shown.all(".option")]
    assert listed == sorted(listed)
    shown.one("#neuron-filter").send_keys("no such word anywhere")
    assert shown.all(".option") == []
    assert "0 of 16" in shown.text("#said")
    shown.pick("#neuron-layer", "encoder.layers.1")
    number = shown.one("#neuron-number")
    number.clear()
    number.send_keys("7" + TAB)
    assert "Neuron 7 " in shown.text("#neurons .card")
    # And by the pointer, in the field: a dot in its middle.
    shown.click(".field-canvas")
    (index,) = re.findall(r"neuron=(\d+)", address(shown))
    assert 64 < int(index) < 192
    assert f"Neuron {index} " in shown.text("#neurons .card")


def test_choosing_a_token_and_a_sentence_shows_it(shown: Browser) -> None:
    assert "“dog” in encoder.layers.0" in shown.text("#used-title")
    shown.click('td[data-key="decoder.layers.1:2"]')
    assert "“lief” in decoder.layers.1" in shown.text("#used-title")
    shown.keys(LEFT)
    active = RECORD["sentences"][0]["layers"][3]["tokens"][1]["active"]
    assert shown.text("#used-title") == f"“Hund” in decoder.layers.1: {active} neurons"
    assert "“Hund” in decoder.layers.1" in shown.text("#said").replace("\u2068", "").replace(
        "\u2069", ""
    )
    assert "Ein Hund rannte" in shown.text(".without")
    marked = [one.text.strip() for one in shown.all(".without li:first-child mark")]
    assert marked[:2] == ["lief", "über"]
    assert "changes nothing, exactly" in shown.text(".without li:nth-child(2)")
    shown.keys(END)
    assert "“.” in decoder.layers.1" in shown.text("#used-title")
    shown.pick("#sentence-choice", "1")
    assert "window.hacked" in shown.text("#used-title")
    shown.click("#sentences .card a.neuron")
    assert "neuron=" in address(shown)


def test_languages_switch_and_a_link_remembers(shown: Browser, pages: Path) -> None:
    assert shown.run("return document.documentElement.lang") == "en"
    shown.click("#language")
    assert shown.run("return document.documentElement.lang") == "zh-Hans"
    assert shown.text("h1") == "先升维，再降维"
    assert "lang=zh" in address(shown)
    text = shown.text("main") + shown.text("footer")
    for word in ("First up", "Neurons", "Sentence", "Layers beside", "How many", "undefined"):
        assert word not in text
    shown.click("#language")
    assert shown.text("h1") == "First up, then down"
    shown.open(
        pages / "record.html", "lang=zh&layer=encoder.layers.1&neuron=32&cell=decoder.layers.0:3"
    )
    assert "神经元 32" in shown.text("#neurons .card")
    assert "über" in shown.text("#used-title")


def test_themes_follow_the_system_and_the_switch(shown: Browser, pages: Path) -> None:
    def paper() -> str:
        return str(shown.run("return getComputedStyle(document.body).backgroundColor"))

    light = paper()
    shown.click("#theme")
    dark = paper()
    assert dark != light
    shown.open(pages / "record.html", theme="dark")
    assert paper() == dark
    shown.click("#theme")
    assert paper() == light
    assert "theme=light" in address(shown)


def test_tables_come_as_csv(shown: Browser) -> None:
    shown.click('button[aria-label="Download as CSV: All layers, all numbers"]')
    lines = shown.download("layers.csv").split("\r\n")
    assert len(lines) == 2 + len(RECORD["layers"])
    assert lines[0].startswith('"Layer","Activation","d_model","d_ff","Density"')
    assert lines[1].startswith('"encoder.layers.0","ReLU",32,256,0.01,')
    shown.click('button[aria-label^="Download as CSV: By token"]')
    text = shown.download("tokens.csv")
    assert '"\'=HYPERLINK(""x"")"' in text
    assert '"</script><script>window.hacked = 1</script>"' in text


def test_keyboard_alone(shown: Browser) -> None:
    shown.keys(TAB)
    assert shown.run("return document.activeElement.className") == "skip"
    shown.keys(ENTER)
    assert shown.run("return document.activeElement.id") == "main"
    seen = set()
    for _ in range(120):
        shown.keys(TAB)
        seen.add(
            shown.run("const a = document.activeElement; return a.id || a.className || a.tagName")
        )
        outline = shown.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or shown.run("return document.activeElement === document.body")
    assert {"main", "listbox", "neuron-order", "sentence-choice", "scroll", "csv"} <= seen


def test_without_exact_zeros_and_without_anything(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "soft.html", "lang=en&step=3")
    assert "GELU makes what lies below zero small, but not zero" in chromium.text(".step-text")
    assert "no residual add was seen" in chromium.text("#made")
    assert "do not lead to an output projection" in chromium.text("#neurons .card")
    chromium.open(pages / "empty.html", "lang=en&neuron=3&cell=x:1&sentence=4&step=9")
    assert "no token to follow" in chromium.text("#walk")
    assert "No feed-forward layer" in chromium.text("#layers")
