"""The sources: which packages, how each is read, and what is to be said of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reluctant.translation.pairs import Pair
from tools.corpus import catalogue, dictionary, manual
from tools.corpus.packages import Package, load

_CAMPAIGNS = (
    "did", "dm", "dw", "ei", "httt", "l", "low", "nr", "sof", "sota", "sotbe", "thot", "trow",
    "tsg", "ttb", "utbs",
)  # fmt: skip
_PAGES = "usr/share/libreoffice/help/{}/text/.*\\.html"
_CATALOGUES = r"usr/.*/de/LC_MESSAGES/.*\.mo"


@dataclass(frozen=True)
class Source:
    """wanted: the files to be read, by package, as a pattern; the rest goes into SOURCES.md."""

    title: str
    wanted: dict[str, str]
    upstream: str
    licence: str


SOURCES = {
    "dictionary": Source(
        "The German-English dictionary of Ding, by Frank Richter, Technische Universität Chemnitz",
        {"trans-de-en": "usr/share/trans/de-en"},
        "<https://dict.tu-chemnitz.de/>, <https://ftp.tu-chemnitz.de/pub/Local/urz/ding/>",
        "GPL-2.0-or-later",
    ),
    "help": Source(
        "The help of LibreOffice, in English and German",
        {
            "libreoffice-help-en-us": _PAGES.format("en-US"),
            "libreoffice-help-de": _PAGES.format("de"),
        },
        "<https://download.documentfoundation.org/libreoffice/src>, modules helpcontent2 and "
        "translations",
        "MPL-2.0",
    ),
    "office": Source(
        "The German messages of LibreOffice",
        {"libreoffice-l10n-de": _CATALOGUES},
        "<https://download.documentfoundation.org/libreoffice/src>, module translations",
        "MPL-2.0",
    ),
    "accounting": Source(
        "The German messages of GnuCash",
        {"gnucash-common": _CATALOGUES},
        "<https://sourceforge.net/projects/gnucash/files/gnucash%20(stable)/>, po/de.po",
        "GPL-2.0-or-later",
    ),
    "game": Source(
        "The German messages of The Battle for Wesnoth",
        {f"wesnoth-1.16-{name}": _CATALOGUES for name in ("data", *_CAMPAIGNS)},
        "<https://www.wesnoth.org/>, po/*/de.po",
        "GPL-2.0-or-later",
    ),
}
NAMES = [name for source in SOURCES.values() for name in source.wanted]


def packages(folder: Path) -> Iterator[tuple[str, Package]]:
    """The name of a source and a package of it, one after the other. Errors: as `load`."""
    for name, source in SOURCES.items():
        for package, wanted in source.wanted.items():
            yield name, load(package, folder, wanted)


def pairs(found: Sequence[tuple[str, Package]]) -> dict[str, list[Pair]]:
    """The pairs of each file that is written, as they are read."""
    of = {name: [package for source, package in found if source == name] for name in SOURCES}
    text = next(iter(of["dictionary"][0].files.values())).decode()
    general, phrases = dictionary.sort(dictionary.pairs(text))
    english, german = (_pages(package) for package in of["help"])
    return {
        "general": general,
        "phrases": phrases,
        "help": [*manual.pairs(english, german)],
        "interface": _messages([*of["office"], *of["accounting"]]),
        "game": _messages(of["game"]),
    }


def _pages(package: Package) -> dict[str, str]:
    """By what both languages call them."""
    return {re.sub(".*?/text/", "", path): page.decode() for path, page in package.files.items()}


def _messages(found: Sequence[Package]) -> list[Pair]:
    return [
        pair
        for package in found
        for path in sorted(package.files)
        for pair in catalogue.pairs(catalogue.messages(package.files[path]))
    ]


def page(found: Sequence[tuple[str, Package]], kept: dict[str, int]) -> str:
    """SOURCES.md: of each source its packages, upstream, licence and notice.

    kept: how many pairs there are in each file.
    """
    files = {
        "dictionary": ("general", "phrases"), "help": ("help",), "office": ("interface",),
        "accounting": ("interface",), "game": ("game",),
    }  # fmt: skip
    lines = [
        "# Where these sentences come from", "",
        "Each from a package of Debian, in part: text alone, cleaned. The copyright file of each "
        "package is in `notices/`, whole.",
    ]  # fmt: skip
    for name, source in SOURCES.items():
        of = [package for each, package in found if each == name]
        into = ", ".join(f"{file} (of {kept[file]} pairs in all)" for file in files[name])
        lines += [
            "", f"## {source.title}", "",
            f"- Upstream: {source.upstream}",
            f"- Licence: {source.licence}",
            f"- Taken into: {into}",
            *(f"- Package: {package.name} {package.version}, {len(package.files)} files"
              for package in of),
            "", "```", notice(of[0].notice), "```",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def notice(text: str) -> str:
    """What a copyright file says of the work as a whole: up to what it says of parts.

    >>> notice("Format: 1.0\\n\\nFiles: *\\nLicense: MIT\\n\\nFiles: logo.svg\\nLicense: CC0\\n")
    'Format: 1.0\\n\\nFiles: *\\nLicense: MIT'
    """
    return re.split(r"\n\s*\n(?=Files: (?!\*\n))|\n\s*-{5}\n", text, maxsplit=1)[0].rstrip()
