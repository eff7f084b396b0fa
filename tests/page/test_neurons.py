"""The neuron browser's small manners."""

from pathlib import Path

import pytest

from tests.page.browser import Browser
from tests.page.sample import record

pytestmark = pytest.mark.page
TAB, END = "\ue004", "\ue010"
LAYER = record()["layers"][0]


@pytest.fixture
def shown(chromium: Browser, pages: Path) -> Browser:
    chromium.open(pages / "record.html", "lang=en")
    return chromium


def test_a_number_out_of_range_is_set_back_and_said(shown: Browser) -> None:
    before = shown.run("return document.getElementById('neuron-number').value")
    shown.one("#neuron-number").send_keys("999" + TAB)
    assert shown.run("return document.getElementById('neuron-number').value") == before
    assert shown.text("#said") == "Go to neuron (0 to 255)"


def test_the_list_says_what_it_shows(shown: Browser) -> None:
    assert shown.text(".list-head").split("\n")[:2] == ["number", "fires for"]
    best = max(LAYER["neurons"], key=lambda one: one["norm_share"])
    label = str(shown.one(".option").get_attribute("aria-label"))
    assert label.startswith(f"Neuron {best['index']}, fires for ")
    assert label.endswith("% of tokens")
    assert shown.one("#neuron").get_attribute("aria-live") is None
    assert "not of the output itself" in shown.text("#neuron")


def test_the_chosen_one_stays_in_view(shown: Browser) -> None:
    shown.run("document.querySelector('.listbox').focus()")
    shown.keys(END)
    for order in ("index", "use", "norm"):
        shown.pick("#neuron-order", order)
        inside = shown.run(
            "const list = document.querySelector('.listbox').getBoundingClientRect();"
            "const one = document.querySelector('[aria-selected=true]').getBoundingClientRect();"
            "return one.top >= list.top - 1 && one.bottom <= list.bottom + 1"
        )
        assert inside, order
    shown.one("#neuron-filter").send_keys("no such word anywhere")
    assert not shown.one(".listbox").is_displayed()


def test_a_finger_gets_the_nearest_with_details(shown: Browser) -> None:
    touch = (
        "const canvas = document.querySelector('.field-canvas');"
        "const box = canvas.getBoundingClientRect();"
        "const event = {pointerType: arguments[0], bubbles: true,"
        " clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};"
        "for (let by = 0; by < 60; by += 3) {"
        "  const here = {...event, clientX: event.clientX + by};"
        "  canvas.dispatchEvent(new PointerEvent('click', here));"
        "  const index = new URLSearchParams(location.hash.slice(1)).get('neuron');"
        "  if (index) found.add(Number(index));"
        "}"
    )
    kept = {one["index"] for one in LAYER["neurons"]}
    for kind in ("touch", "mouse"):
        shown.run("window.found = new Set()")
        shown.run(touch, kind)
        found = set(shown.run("return [...found]"))
        assert found & kept if kind == "touch" else found - kept
