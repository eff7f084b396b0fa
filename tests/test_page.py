"""The pages as files: what is in them, what is escaped, what is refused."""

import json
import re
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.lab.page import bundle, check_page, write, write_inspection, write_study
from reluctant.lab.page.embed import rounded, safe_json
from reluctant.lab.page.words import LANGUAGES, words
from tests.page.sample import HOSTILE, SCRIPT, record
from tests.page.sample_study import study
from tools import vendored

pytest.importorskip("jinja2")
PACKAGE = Path(str(files("reluctant.lab.page")))
MODULES = sorted((PACKAGE / "script").glob("*.js"))
TEMPLATES = sorted((PACKAGE / "templates").glob("*.html"))
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)


class Parsed(HTMLParser):
    """Scripts by their attributes, styles, text, and every attribute of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._within = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] = self.scripts[-1][0], self.scripts[-1][1] + data
        elif self._within == "style":
            self.styles.append(data)

    def json(self, name: str) -> Any:
        (text,) = [text for given, text in self.scripts if given.get("id") == name]
        return json.loads(text)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_inspection(record(), path)
    return path.read_text("utf-8")


def test_hostile_text_stays_data(page: str) -> None:
    parsed = Parsed(page)
    kinds = [given.get("type") for given, _ in parsed.scripts]
    assert kinds == ["application/json"] * 2 + [None] * 2 + ["module"]
    assert parsed.json("data") == json.loads(json.dumps(rounded(record())))
    assert SCRIPT in json.dumps(parsed.json("data"))
    # Nowhere does it stand as it was given, and the title, which is no JSON, is escaped.
    assert SCRIPT not in page
    assert "<title>en-de &lt;i&gt; · reluctant inspect</title>" in page
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]


def test_nothing_is_asked_of_a_network(page: str, tmp_path: Path) -> None:
    write_study(study(), tmp_path / "study.html")
    for text in (page, (tmp_path / "study.html").read_text("utf-8")):
        parsed = Parsed(text)
        asks = {"src", "srcset", "href", "action", "data", "poster", "ping", "background"}
        given = [value or "" for _, name, value in parsed.attributes if name in asks]
        assert given
        assert not [value for value in given if not value.startswith(("#", "data:,"))]
        assert not re.search(r"url\(|@import|image-set", "".join(parsed.styles))
        (policy,) = [
            v
            for t, n, v in parsed.attributes
            if t == "meta" and n == "content" and v and "default-src" in v
        ]
        code = [text for given, text in parsed.scripts if given.get("type") != "application/json"]
        hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in code]
        assert [part.strip().split() for part in policy.split(";")] == [
            ["default-src", "'none'"],
            ["script-src", *(f"'sha256-{one}'" for one in hashes)],
            ["style-src", "'unsafe-inline'"],
            ["img-src", "data:"],
            ["base-uri", "'none'"],
            ["form-action", "'none'"],
        ]


@given(
    st.recursive(st.text() | st.sampled_from(HOSTILE), lambda inner: st.lists(inner, max_size=3))
)
def test_any_text_comes_back(value: Any) -> None:
    text = safe_json(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text.encode("utf-8")) == json.loads(json.dumps(value))


def test_numbers_are_rounded_and_json(tmp_path: Path) -> None:
    assert rounded({"a": [float("inf"), 1 / 3, 10**20], "b": (True, None)}) == {
        "a": [None, 0.33333, 10**20],
        "b": [True, None],
    }
    with pytest.raises(ReluctantError, match="expected what JSON knows, got a float32"):
        write_inspection(record() | {"text": np.float32(1)}, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_real_size_is_small(tmp_path: Path) -> None:
    write_inspection(
        record(layers=6, d_model=256, d_ff=4096, neurons=96, sentences=3), tmp_path / "page.html"
    )
    assert (tmp_path / "page.html").stat().st_size < 0.4 * write.LIMIT


def test_a_page_too_large_loses_neurons_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = record(neurons=64)
    write_inspection(given, tmp_path / "page.html")
    full = (tmp_path / "page.html").stat().st_size
    monkeypatch.setattr(write, "LIMIT", full - 1)
    write_inspection(given, tmp_path / "page.html")
    data = Parsed((tmp_path / "page.html").read_text("utf-8")).json("data")
    assert data["shortened"] == {"neurons": 32, "contexts": 3}
    for kept, was in zip(data["layers"], rounded(given)["layers"], strict=True):
        shares = sorted((one["norm_share"] for one in was["neurons"]), reverse=True)[:32]
        assert [one["norm_share"] for one in kept["neurons"]] == shares
        assert len(kept["use"]) == was["d_ff"]
    monkeypatch.setattr(write, "LIMIT", 1000)
    before = (tmp_path / "page.html").read_bytes()
    with pytest.raises(
        ReluctantError, match=r"with eight neurons a layer: inspect fewer sentences"
    ):
        write_inspection(given, tmp_path / "page.html")
    with pytest.raises(ReluctantError, match="fewer points in its charts"):
        write_study(study(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_refuses_what_is_no_record(tmp_path: Path) -> None:
    for wrong, said in (({}, "got no model, text"), (record() | {"format": 2}, "got format 2")):
        with pytest.raises(ReluctantError, match=f"expected a record.*{said}"):
            write_inspection(wrong, tmp_path / "page.html")
    with pytest.raises(ReluctantError, match=r"expected a study.*got no machine"):
        write_study({"format": 1}, tmp_path / "page.html")
    with pytest.raises(ReluctantError, match="expected a file in an existing folder"):
        write_inspection(record(), tmp_path / "no" / "page.html")
    assert not list(tmp_path.iterdir())


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setitem(sys.modules, "markupsafe", None)
    for call in (
        lambda: check_page(tmp_path / "a"),
        lambda: write_inspection(record(), tmp_path / "a"),
        lambda: write_study(study(), tmp_path / "a"),
    ):
        with pytest.raises(ReluctantError, match=r"pip install 'reluctant\[lab\]'"):
            call()
    assert not list(tmp_path.iterdir())


def test_words_are_the_same_in_both_languages() -> None:
    for key, said in words().items():
        assert set(said) == set(LANGUAGES), key
        assert all(said.values()), key
        holes = [sorted(re.findall(r"\{(\w*)\}", said[language])) for language in LANGUAGES]
        assert holes[0] == holes[1], key
        # Chinese that is left in English would pass for translated.
        assert not re.search("[\u4e00-\u9fff]", said["en"]) or key == "nav.language", key


def test_every_word_is_used_and_every_used_word_is_there() -> None:
    text = "".join(path.read_text("utf-8") for path in MODULES)
    used = set(re.findall(r'"([a-z]+\.[a-z_]+)"', text))
    html = "".join(path.read_text("utf-8") for path in TEMPLATES)
    used |= set(re.findall(r'data-(?:word|label)="([a-z]+\.[a-z_]+)"', html))
    used |= set(re.findall(r'w\(word, "([a-z]+\.[a-z_]+)"', html))
    for name in re.findall(r'section\(word, "(\w+)"\)', html):
        used |= {f"{name}.title", f"{name}.lead"}
    (names,) = re.findall(r"for name in (\[.*\])", html)
    used |= {f"nav.{name}" for name in json.loads(names)}
    assert used == set(words())


def test_modules_import_what_others_export_and_they_use() -> None:
    texts = {path.stem: path.read_text("utf-8") for path in MODULES}
    exported = {
        name: set(re.findall(r"^export (?:function|const) (\w+)", text, re.MULTILINE))
        for name, text in texts.items()
    }
    wanted: set[tuple[str, str]] = set()
    for name, text in texts.items():
        assert text.startswith("// "), name
        assert len(text.splitlines()) < 300, name
        body = _IMPORT.sub("", text)
        assert "import " not in body, name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", body
        )
        for names, source in _IMPORT.findall(text):
            for one in names.replace(",", " ").split():
                assert one in exported[source], (name, source, one)
                assert re.search(rf"\b{one}\b", body), (name, one)
                wanted.add((source, one))
    assert {(name, one) for name, all_ in exported.items() for one in all_} == wanted
    both = bundle.script("inspection") + bundle.script("study")
    assert all(f"const ${name} = " in both for name in texts)


def test_the_charting_library_is_as_it_was_made() -> None:
    assert vendored.check() == []
    assert vendored.wrong(b"other", "0" * 64, "d3.min.js")
    for library, text in zip(vendored.libraries(), bundle.vendored(), strict=True):
        name, version = library["package"].split("/")[-1], library["version"]
        assert library["licence"] == "ISC"
        assert f"v{version} Copyright" in text
        assert "Permission to use, copy, modify" in text
        assert name in text.splitlines()[0]
