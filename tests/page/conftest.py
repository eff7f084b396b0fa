"""A browser for all tests here, and pages to look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reluctant.lab.page import write_inspection, write_study
from tests.page.browser import Browser, browser, missing
from tests.page.sample import record
from tests.page.sample_study import study


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages: of a record, of one without exact zeros, of an empty one, of a study."""
    folder = tmp_path_factory.mktemp("pages")
    write_inspection(record(), folder / "record.html")
    write_inspection(record(soft=True), folder / "soft.html")
    write_inspection(record(normed=True), folder / "normed.html")
    nothing = {"layers": [], "sentences": [], "walk": None}
    write_inspection(record() | nothing, folder / "empty.html")
    write_study(study(), folder / "study.html")
    write_study(study(quick=True), folder / "quick.html")
    return folder


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("downloads")) as one:
        yield one


@pytest.fixture
def chromium(window: Browser, pages: Path) -> Iterator[Browser]:
    """The window; after each test there was no error, and nothing was asked but pages and files
    that they made themselves.
    """
    window.errors()
    window.requests()
    yield window
    assert window.errors() == []
    own = (pages.as_uri(), "blob:", "about:", "data:")
    assert [url for url in window.requests() if not url.startswith(own)] == []
    assert window.run("return window.hacked") is None
