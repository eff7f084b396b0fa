"""Script, style and the charting library, each as one text to stand inside a page.

The files in `script` are JavaScript modules that import each other by name. A page opened from a
disk cannot import, so each becomes a function that is called at once and gives what it exports,
after those that it needs. `vendor` holds D3 and Observable Plot as their makers built them.
"""

import json
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from reluctant.errors import ReluctantError

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:function|const) (\w+))", re.MULTILINE)
_STYLES = ("base", "frame", "parts", "walk", "neurons", "sentences", "study")


def folder(name: str) -> Traversable:
    """One of this package's folders of data."""
    return files("reluctant.lab.page") / name


@cache
def script(entry: str) -> str:
    """The module `entry` and all that it imports, as one module without imports.

    >>> script("words").splitlines()[0]
    'const $words = (() => {'
    """
    laid: dict[str, str] = {}
    _lay(entry, laid, ())
    return "\n".join(laid.values())


@cache
def style() -> str:
    """All rules of style, but for the dark colours."""
    return "\n".join(_text("style", f"{name}.css") for name in _STYLES)


@cache
def dark() -> str:
    """The dark colours: an element of their own, as the page turns them on and off."""
    return _text("style", "dark.css")


@cache
def vendored() -> tuple[str, ...]:
    """D3 and Observable Plot, each with its licence before it, in the order that they load in.

    >>> [text.splitlines()[0] for text in vendored()]
    ['/*! d3 7.9.2 (ISC)', '/*! @observablehq/plot 0.6.17 (ISC)']
    """
    texts = []
    for library in json.loads(_text("vendor", "vendored.json")):
        code, licence = (_text("vendor", file["name"]) for file in library["files"])
        name = f"{library['package']} {library['version']} ({library['licence']})"
        texts.append(f"/*! {name}\n{licence}*/\n{code}")
    return tuple(texts)


def _lay(name: str, laid: dict[str, str], above: tuple[str, ...]) -> None:
    if name in above:
        raise ReluctantError(f"expected modules without a circle, got {' > '.join([*above, name])}")
    if name in laid:
        return
    text = _text("script", f"{name}.js")
    for _, needed in _IMPORT.findall(text):
        _lay(needed, laid, (*above, name))
    names = ", ".join(exported for _, exported in _EXPORT.findall(text))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = $\2;", text))
    laid[name] = f"const ${name} = (() => {{\n{body}return {{ {names} }};\n}})();\n"


def _text(inside: str, name: str) -> str:
    return (folder(inside) / name).read_text(encoding="utf-8")
