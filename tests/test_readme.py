"""Both READMEs say the same: commands, code, figures, names and links; and every link is one."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(text: str) -> list[str]:
    """Lines of code blocks, without comments and the spaces before them."""
    fenced = "".join(re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    indented = re.findall(r"^ {4}\S.*", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return [re.sub(r"\s*#.*", "", line) for line in (*fenced, *indented)]


def prose(text: str) -> str:
    without = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}\S.*", "", without, flags=re.MULTILINE)


def links(text: str) -> set[str]:
    return set(re.findall(r"\]\(([^)#]+)\)", text)) - {ENGLISH, CHINESE}


def without_language(links: set[str]) -> set[str]:
    """A picture in Chinese is that of the same name without "-zh"."""
    return {link.replace("-zh.png", ".png") for link in links}


def test_the_same_commands_and_code() -> None:
    assert code(text(ENGLISH)) == code(text(CHINESE))
    assert len(code(text(ENGLISH))) > 15


def test_the_same_names() -> None:
    found = [Counter(re.findall(r"`([^`\n]+)`", prose(text(name)))) for name in (ENGLISH, CHINESE)]
    assert found[0] == found[1]


def test_the_same_figures() -> None:
    """Digits, wherever they stand; English writes small numbers in words, which are not figures."""
    found = []
    for name in (ENGLISH, CHINESE):
        plain = re.sub(r"`[^`\n]+`|\]\([^)]*\)|^\d\. ", "", prose(text(name)), flags=re.MULTILINE)
        found.append(Counter(re.findall(r"\d+(?:[.,-]\d+)*", plain)))
    assert found[0] == found[1]
    assert len(found[0]) > 10


def test_the_same_links() -> None:
    assert links(text(ENGLISH)) == without_language(links(text(CHINESE)))


@pytest.mark.parametrize(
    "name", [ENGLISH, CHINESE, *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(name: str) -> None:
    here = (ROOT / name).parent
    for link in links(text(name)):
        if not link.startswith(("http://", "https://")):
            assert (here / link).exists(), link
