"""Pictures of pages, for the documents: `make pictures`.

Their sentences are our own: those of the kept model's text stay in its folder.
"""

import shutil
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

from reluctant.files import write_atomic

# A picture's name; its page, what is chosen in it, and what is scrolled to; the window and theme.
PICTURES = {
    "inspect.png": ("own.html", "lang=en&step=4", "#walk", 1200, 860, "light"),
    "inspect-zh.png": ("own.html", "lang=zh&step=4", "#walk", 1200, 860, "light"),
    "inspect-neurons.png": ("own.html", "lang=en", "#neurons", 1200, 860, "dark"),
    "inspect-phone.png": ("own.html", "lang=en&step=3", ".sentence", 390, 844, "dark"),
    "study.png": ("study.html", "lang=en", "#study-title", 1200, 860, "light"),
}


def take(driver: Any, page: Path, picture: tuple[str, str, str, int, int, str]) -> bytes:
    """One picture as PNG."""
    _, chosen, place, width, height, theme = picture
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
    media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get("about:blank")
    driver.get(f"{page.resolve().as_uri()}#{chosen}")
    driver.execute_script("document.querySelector(arguments[0]).scrollIntoView()", place)
    time.sleep(1)  # charts are drawn when the page has its width
    shot: dict[str, str] = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    return b64decode(shot["data"])


def main(report: Path, folder: Path) -> None:
    """Take each picture of which the page is there."""
    from selenium import webdriver  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        for name, picture in PICTURES.items():
            if (report / picture[0]).exists():
                write_atomic(folder / name, take(driver, report / picture[0], picture))
                print(folder / name)
    finally:
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
