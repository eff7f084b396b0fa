"""The bar and the address: where a link leads, and what stays when something else is chosen."""

from pathlib import Path

import pytest

from tests.page.browser import Browser

pytestmark = pytest.mark.page
TOP = "return document.getElementById(arguments[0]).getBoundingClientRect().top"


def test_a_link_to_a_neuron_opens_at_its_card(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en&layer=decoder.layers.1&neuron=32")
    chromium.until("return document.activeElement.id === 'neuron-title'")
    assert 0 <= chromium.run(TOP, "neuron") < 120
    # What was chosen last says where the link leads to.
    chromium.open(pages / "record.html", "lang=en&neuron=32&step=3")
    chromium.until("return document.querySelectorAll('.plot svg').length > 5")
    assert chromium.run("return scrollY") == 0


def test_a_bare_place_stays_apart_from_what_is_chosen(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "study.html", "claim-width")
    chromium.until("return document.activeElement.id === 'claim-width-title'")
    chromium.click("#language")
    assert chromium.run("return location.hash") == "#claim-width&lang=zh"
    chromium.open(pages / "study.html", "claim-width&lang=zh")
    chromium.until("return document.activeElement.id === 'claim-width-title'")
    assert chromium.run("return document.documentElement.lang") == "zh-Hans"


def test_what_is_opened_stays_open(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en")
    opened = "return [...document.querySelectorAll('details')].flatMap((x, n) => x.open ? n : [])"
    chromium.run("for (const n of [0, 3, 7]) document.querySelectorAll('details')[n].open = true")
    chromium.click("#language")
    assert chromium.run(opened) == [0, 3, 7]
    chromium.run("document.querySelector('#layer details').open = true")
    chromium.pick("#layer-choice", "decoder.layers.1")
    assert chromium.run("return document.querySelector('#layer details').open")


def test_the_bar_says_where_one_is_and_that_there_is_more(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en", width=340)
    current = "return document.querySelector('nav [aria-current]')?.textContent"
    assert chromium.run(current) == "One token"
    assert chromium.run("return document.getElementById('nav').className") == "more-after"
    for name, text in (("neurons", "Neurons"), ("sentences", "Sentences")):
        chromium.run("document.getElementById(arguments[0]).scrollIntoView()", name)
        chromium.until(f"{current} === arguments[0]", text)
    chromium.run("scrollTo(0, document.documentElement.scrollHeight)")
    chromium.until(f"{current} === 'How it was made'")
    chromium.until("return document.getElementById('nav').className === 'more-before'")


def test_dark_needs_no_script(chromium: Browser, pages: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    chromium.open(pages / "record.html", theme="dark")
    dark = chromium.run(paper)
    try:
        chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        chromium.open(pages / "record.html", theme="dark")
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert chromium.all("nav [aria-current]") == []
    assert chromium.run(paper) == dark
    chromium.open(pages / "record.html", theme="light")
    assert chromium.run(paper) != dark
