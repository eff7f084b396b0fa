"""All pages: narrow windows, a checker of accessibility, both languages and themes."""

from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import Browser, axe

pytestmark = pytest.mark.page
NAMES = ("record", "soft", "normed", "empty", "study", "quick")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_page_is_wider_than_a_phone(
    name: str, language: str, chromium: Browser, pages: Path
) -> None:
    for width in (390, 320):
        chromium.open(pages / f"{name}.html", f"lang={language}&step=4&sentence=1", width=width)
        chromium.run("for (const one of document.querySelectorAll('details')) one.open = true")
        wide = chromium.run("return document.documentElement.scrollWidth")
        assert wide <= width, (width, wide)
        regions = ".scroll, .listbox, pre, .bar nav"
        script = (
            "const out = [];"
            "for (const one of document.querySelectorAll('body *')) {"
            "  const box = one.getBoundingClientRect();"
            "  if (box.right > innerWidth + 1 && box.width > 1 && !one.closest(arguments[0])"
            "    && !one.closest('svg')) out.push(one.outerHTML.slice(0, 200));"
            "} return out"
        )
        assert chromium.run(script, regions) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(name: str, theme: str, chromium: Browser, pages: Path) -> None:
    language = "en" if theme == "light" else "zh"
    chromium.open(pages / f"{name}.html", f"lang={language}&step=4", theme=theme)
    chromium.run("for (const one of document.querySelectorAll('details')) one.open = true")
    if name != "empty":
        chromium.until("return document.querySelector('.plot svg')")
    chromium.run(axe())
    found: list[dict[str, Any]] = chromium.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})"
        ".then((result) => done(result.violations))"
    )
    said = [
        (one["id"], node["html"][:150], node["failureSummary"])
        for one in found
        for node in one["nodes"]
    ]
    assert said == []


def test_a_study_shows_claims_tables_and_charts(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "study.html", "lang=en")
    assert "Non-linearity" in chromium.text("nav")
    assert chromium.text("#glance dd").startswith("Undecided.")
    assert chromium.text("#claim-nonlinearity ul").startswith("The found.")
    section = chromium.text("#claim-nonlinearity")
    for text in ("The claim.", "The verdict.", "2.800 (0.020)", "reluctant study nonlinearity"):
        assert text in section
    chromium.until("return document.querySelectorAll('.plot svg').length === 3")
    assert "equal parameters: from 2.444 to 3." in str(
        chromium.one(".plot svg").get_attribute("aria-label")
    )
    assert len(chromium.all(".plot g[stroke-width='2'] line")) == 6 + 2
    chromium.click('nav a[href="#claim-width"]')
    assert chromium.run("return document.activeElement.id") == "claim-width-title"
    chromium.click("#language")
    assert "中文 The verdict." in chromium.text("main")


def test_a_quick_study_draws_no_conclusion(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "quick.html", "lang=en")
    assert "It supports no conclusion" in chromium.text(".quick")
    assert "The verdict." not in chromium.text("main")
    assert "At a glance" not in chromium.text("main")
