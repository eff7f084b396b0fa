"""Charts and tables: their marks can be read, and their files have everything."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reluctant.lab.page import write_inspection, write_study
from tests.page.browser import Browser
from tests.page.sample import record
from tests.page.sample_study import study

pytestmark = pytest.mark.page
# The labels of the marks of each axis: those of x are all at one height.
LABELS = (
    "const labels = {x: [], y: []};"
    "for (const group of document.querySelectorAll(arguments[0] + ' svg > g')) {"
    "  const texts = [...group.querySelectorAll('text')];"
    "  if (texts.length < 2) continue;"
    "  const all = texts.map((x) => [x.textContent, x.getBoundingClientRect()]);"
    "  const axis = all.every(([, box]) => Math.abs(box.top - all[0][1].top) < 2) ? 'x' : 'y';"
    "  labels[axis].push(...all.map(([text, {left, right}]) => ({text, left, right})));"
    "} return labels"
)


def _chart(places: list[float], heights: list[float], *, log: bool) -> dict[str, Any]:
    points = [{"x": x, "y": y} for x, y in zip(places, heights, strict=True)]
    axis = {"label": "time", "log": log}
    return {"title": "t", "x": axis, "y": axis, "series": [{"name": "s", "points": points}]}


@pytest.mark.parametrize("width", [1280, 390])
def test_ticks_are_labelled_and_apart(width: int, chromium: Browser, tmp_path: Path) -> None:
    close = [3.16, 3.28, 3.33, 3.87, 3.94, 4.04]
    narrow = [0.47, 0.52, 0.49, 0.5, 0.48, 0.51]
    given = study()
    given["claims"] = given["claims"][:1]
    given["claims"][0]["charts"] = [_chart(close, narrow, log=log) for log in (True, False)]
    write_study(given, tmp_path / "study.html")
    chromium.open(tmp_path / "study.html", "lang=en", width=width)
    chromium.until("return document.querySelectorAll('.plot svg').length === 2")
    chromium.requests()
    for at in (1, 2):
        labels = chromium.run(LABELS, f".chart:nth-child({at})")
        for axis in ("x", "y"):
            texts = [one["text"] for one in labels[axis]]
            assert len(texts) >= 2, (at, axis)
            assert len(set(texts)) == len(texts)
            assert all(texts), texts
        across = sorted(labels["x"], key=lambda one: one["left"])
        for here, there in pairwise(across):
            assert here["right"] < there["left"], across


def test_doublings_all_have_their_labels(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "study.html", "lang=en", width=1280)
    chromium.until("return document.querySelectorAll('.plot svg').length === 3")
    labels = chromium.run(LABELS, ".chart:nth-child(1)")["x"]
    assert [one["text"] for one in labels] == ["1", "2", "4", "8", "16", "32"]


def test_many_layers_do_not_overrun_each_other(chromium: Browser, tmp_path: Path) -> None:
    write_inspection(record(layers=48, neurons=8), tmp_path / "many.html")
    chromium.open(tmp_path / "many.html", "lang=en", width=1280)
    chromium.until("return document.querySelectorAll('#layers > div > .charts svg').length >= 8")
    chromium.requests()
    dots = ".charts:not(.pairs) > figure:nth-child(3) .plot svg > g"
    groups = chromium.run(
        "return [...document.querySelectorAll(arguments[0])].map((g) =>"
        " [...g.querySelectorAll(':scope > path, :scope > circle')]"
        ".map((x) => x.getBoundingClientRect()).map(({left, right}) => [left, right]))"
        ".filter((all) => all.length === 48)",
        dots,
    )
    assert len(groups) == 3
    for at in range(47):
        right = max(group[at][1] for group in groups)
        left = min(group[at + 1][0] for group in groups)
        assert right < left + 1, at


def test_charts_of_layers_have_units(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en")
    chromium.until("return document.querySelectorAll('#layers .charts svg').length >= 11")
    figures = chromium.all("#layers .charts:not(.pairs) figure")
    units = ["neurons", "share", "directions", "ratio", "model", "dense", "ms a token", "neurons"]
    for figure, unit in zip(figures, units, strict=True):
        assert unit in figure.find_element("css selector", ".plot").text
    assert "Tokens a call: 1." in figures[6].text


def test_files_have_every_row(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en")
    chromium.run("for (const one of document.querySelectorAll('details')) one.open = true")
    chromium.click('button[aria-label^="Download as CSV: By neuron"]')
    lines = chromium.download("use.csv").strip().split("\r\n")
    use = record()["layers"][0]["use"]
    assert len(lines) == 1 + len(use)
    assert "The first 200 of 256 rows are shown; the CSV has all of them." in chromium.text(
        "#layer"
    )
    best = max(range(len(use)), key=use.__getitem__)
    assert lines[1].startswith(f"1,{best},{use[best]:.4}"[:8])
    chromium.click('button[aria-label="Download as CSV: Measured: time for a token"]')
    head, first = chromium.download("times.csv").split("\r\n")[:2]
    assert "ms a token" in head
    assert first == '"encoder.layers.0",0.61,0.17,0.61,0.17,1'


def test_the_name_of_a_row_stays_in_sight(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "record.html", "lang=en", width=390)
    script = (
        "const one = document.querySelector('#layers-body > .table .scroll');"
        "one.scrollLeft = 400;"
        "return [one, one.querySelector('tbody th')].map((x) => x.getBoundingClientRect().left)"
    )
    region, name = chromium.run(script)
    assert 0 <= name - region < 3
    assert chromium.text("#layers-body > .table tbody th") == "E0"
