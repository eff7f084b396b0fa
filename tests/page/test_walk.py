"""The walk and the sentence view: what they say is true of the record, and it can be seen."""

import math
from pathlib import Path

import pytest

from tests.page.browser import Browser
from tests.page.sample import record

pytestmark = pytest.mark.page
WALK = record(normed=True)["walk"]
LEFT, RIGHT, END = "\ue012", "\ue014", "\ue010"
WIDTH, HEIGHT = 390, 844  # of a phone
CHOSEN = f"layer={WALK['layer']}&neuron={WALK['neurons'][0]['index']}&step=4"
TOP = "return document.querySelector(arguments[0]).getBoundingClientRect().top"


def test_what_is_kept_is_the_residual_stream(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "normed.html", "lang=en&step=1")
    assert "x is the residual stream r, normalised." in chromium.text(".step-text")
    assert chromium.text(".formula .now:last-child, .formula p + p .now") == "x = norm(r)"
    assert "r: 32 numbers" in chromium.text(".labels")
    chromium.open(pages / "normed.html", "lang=en&step=6")
    assert chromium.text(".formula .now") == "r + FFN(x)"
    assert "r is kept" in chromium.text(".step-text")
    r, both = (math.hypot(*WALK[name]) for name in ("residual", "out"))
    assert f"r {r:.3g}, y 5.7, r + y {both:.3g}." in chromium.text(".step-text")


def test_without_a_norm_before_it_x_is_kept(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en&step=6")
    assert chromium.text(".formula .now") == "x + FFN(x)"
    assert "x is kept" in chromium.text(".step-text")
    assert "norm" not in chromium.text(".walk")


def test_a_model_without_biases_has_none_in_its_formula(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "soft.html", "lang=en&step=5")
    assert chromium.text(".formula p") == "FFN(x) = GELU(x W1) W2"
    assert "b₂" not in chromium.text(".step-text")
    chromium.open(pages / "record.html", "lang=en&step=5")
    assert chromium.text(".formula p") == "FFN(x) = ReLU(x W1 + b1) W2 + b2"
    assert "b₂" in chromium.text(".step-text")


@pytest.mark.parametrize("name", ["record", "normed"])
def test_a_phone_shows_the_drawing_at_once(name: str, chromium: Browser, pages: Path) -> None:
    chromium.open(pages / f"{name}.html", "lang=en", width=WIDTH, height=HEIGHT)
    assert chromium.run(TOP, ".stage") < HEIGHT - 250
    for _ in range(3):
        chromium.run("document.querySelector('.steps .main').click()")
    assert 0 <= chromium.run(TOP, ".formula") < 50
    assert chromium.run(TOP, ".step-text") < HEIGHT - 250
    assert "fires most on: “" in chromium.text(".bars")
    assert len(chromium.all(".bars li")) == 5


@pytest.mark.parametrize("start", ["step=4", CHOSEN, "sentence=0"])
def test_a_followed_link_shows_the_neuron_and_back_returns(
    start: str, chromium: Browser, pages: Path
) -> None:
    chromium.open(pages / "record.html", f"lang=en&{start}", width=WIDTH, height=HEIGHT)
    link = ".bars a" if "step" in start else "#sentences .card a.neuron"
    before = chromium.run("return location.hash")
    index = chromium.text(link).split()[-1]
    chromium.click(link)
    assert 0 <= chromium.run(TOP, "#neuron") < HEIGHT / 2
    assert f"Neuron {index} " in chromium.text("#neuron")
    assert chromium.run("return document.activeElement.id") == "neuron-title"
    chromium.driver.back()
    chromium.until("return location.hash === arguments[0]", before)
    chromium.until(f"return Math.abs({TOP.removeprefix('return ')}) < innerHeight", link)


def test_the_arrow_keys_step_the_walk_only_where_it_is_seen(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en")
    chromium.keys(RIGHT)
    assert "Step 2 of 6" in chromium.text(".step-head")
    chromium.run("document.getElementById('sentences').scrollIntoView()")
    chromium.keys(RIGHT)
    assert "Step 2 of 6" in chromium.text(".step-head")


def test_the_chosen_cell_is_in_view(chromium: Browser, pages: Path) -> None:
    hidden = (
        "const names = ['td[aria-selected=true]', '.scroll', 'tbody th'];"
        "const [cell, room, head] = names.map((name) =>"
        "  document.querySelector(`.grid ${name}`).getBoundingClientRect());"
        "return [head.right - cell.left, cell.right - room.right]"
    )
    chromium.open(
        pages / "record.html",
        "lang=en&sentence=1&cell=encoder.layers.1:5",
        width=WIDTH,
        height=HEIGHT,
    )
    assert max(chromium.run(hidden)) < 2
    chromium.run("document.querySelector('.grid td[aria-selected=true]').focus()")
    chromium.keys(END)
    assert max(chromium.run(hidden)) < 2
    for _ in range(6):
        chromium.keys(LEFT)
        assert max(chromium.run(hidden)) < 2
