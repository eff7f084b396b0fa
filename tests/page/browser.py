"""A headless Chromium that notes what goes wrong and what is asked of a network."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")


def missing() -> str | None:
    """What these tests need and is not there."""
    if CHROMIUM is None or DRIVER is None:
        return "no Chromium here: apt-get install chromium chromium-driver"
    if find_spec("selenium") is None:
        return "no Selenium here: make installs it"
    return None


def axe() -> str:
    """The accessibility checker's script. Its package is not imported: it would want Playwright."""
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("no axe here: pip install --no-deps axe-playwright-python")
    return (Path(found.origin).parent / "axe.min.js").read_text("utf-8")


class Browser:
    """One window. `errors` and `requests` are what came since the last look."""

    def __init__(self, downloads: Path) -> None:
        from selenium import webdriver  # noqa: PLC0415

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{argument}")
        options.add_argument("--lang=en")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(str(DRIVER))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(120)
        self.downloads = downloads
        behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)

    def open(
        self,
        page: Path,
        hash: str = "",
        *,
        width: int = 1200,
        height: int = 900,
        theme: str = "light",
    ) -> None:
        """Load the page anew, without motion, in a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get("about:blank")
        self.driver.get(f"{page.as_uri()}#{hash}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        """Click in the middle of the first such element."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block:'center'})", selector)
        self.one(selector).click()

    def pick(self, selector: str, value: str) -> None:
        """Choose an option of a list."""
        from selenium.webdriver.support.select import Select  # noqa: PLC0415

        Select(self.one(selector)).select_by_value(value)

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains  # noqa: PLC0415

        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, script: str, *arguments: Any) -> Any:
        """What the script returns as soon as it is true, within ten seconds."""
        from selenium.webdriver.support.wait import WebDriverWait  # noqa: PLC0415

        return WebDriverWait(self.driver, 10).until(lambda _: self.run(script, *arguments))

    def download(self, name: str) -> str:
        """The file that is being saved, as text, once it is there."""
        file = self.downloads / name
        for _ in range(100):
            if file.exists() and file.stat().st_size:
                break
            time.sleep(0.1)
        text = file.read_bytes().decode("utf-8-sig")
        file.unlink()
        return text

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        events = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        sent = [event["message"] for event in events]
        return [
            one["params"]["request"]["url"]
            for one in sent
            if one["method"] == "Network.requestWillBeSent"
        ]


@contextmanager
def browser(downloads: Path) -> Iterator[Browser]:
    one = Browser(downloads)
    try:
        yield one
    finally:
        one.driver.quit()
