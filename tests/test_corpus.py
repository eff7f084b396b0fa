"""The corpus: parsers on sentences of our own, packages made here, and what is held out."""

import gettext
import hashlib
import io
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reluctant.errors import ReluctantError
from reluctant.translation.pairs import Pair, read
from reluctant.translation.split import without_near
from tools.corpus import __main__ as command
from tools.corpus import catalogue, dictionary, manual, packages, parts, sources, tidy
from tools.corpus.faults import fault, good

NEEDS_DPKG = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


# The dictionary.


def test_sub_entries_correspond_by_position() -> None:
    line = "Baum {m} [bot.] | unter dem Baum sitzen :: tree [plant] | to sit under the tree"
    assert [*dictionary.pairs(line)] == [
        Pair("tree", "Baum"),
        Pair("to sit under the tree", "unter dem Baum sitzen"),
    ]


def test_entries_that_do_not_correspond_are_left_out() -> None:
    assert not [*dictionary.pairs("# Licence :: free\nBaum | Bäume :: tree\nno separator")]


def test_each_english_alternative_has_the_german_one_at_its_place() -> None:
    line = "Los!; Auf geht’s! :: Go!; Let’s go!; Off we go!"
    assert [*dictionary.pairs(line)] == [
        Pair("Go!", "Los!"),
        Pair("Let's go!", "Auf geht's!"),
        Pair("Off we go!", "Auf geht's!"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Er hat (noch) nie [ugs.] gelogen.", ["Er hat nie gelogen."]),
        ("remarks (in (other) ones) go", ["remarks go"]),
        ("central office /CO/; exchange <xchange>", ["central office", "exchange"]),
        ("to tell sb. sth.; sb.'s", ["to tell somebody something", "somebody's"]),
        ("etwas wissen (; nicht)", ["etwas wissen"]),
    ],
)
def test_remarks_go_and_short_forms_are_written_out(text: str, expected: list[str]) -> None:
    assert dictionary.alternatives(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("big/large/huge house", "big house"),
        ("jemandem/etwas trauen", "jemandem trauen"),
        ("Lehrer/-innen", "Lehrer/-innen"),
        ("9/11", "9/11"),
        ("one / another way", "one / another way"),
    ],
)
def test_only_choices_between_single_words_are_made(text: str, expected: str) -> None:
    assert dictionary.choose(text) == expected


def test_sentences_phrases_and_the_rest() -> None:
    found = [
        Pair("The soup is hot.", "Die Suppe ist heiß."),
        Pair("The soup/broth is hot.", "Die Suppe ist heiß."),
        Pair("a bowl of soup", "eine Schüssel Suppe"),
        Pair("hot soup", "heiße Suppe"),  # two words
        Pair("one or / another way", "so oder so"),  # what belongs to the choice is not known
        Pair("to eat the soup.", "die Suppe essen."),
    ]
    general, phrases = dictionary.sort(iter(found))
    assert general == found[:1]
    assert phrases == [Pair("The soup is hot.", "Die Suppe ist heiß."), found[2]]


# The manual.


def test_paragraphs_pair_by_page_and_id() -> None:
    english = {
        "a": '<p id="par_id1">Choose <span class="emph">File</span> &gt; Open.</p>'
        '<h2 id="hd_id2">Rows</h2><p id="par_id9">Only here.</p>',
        "b": '<p id="par_id1">Another page.</p>',
    }
    german = {
        "a": '<h2 id="hd_id2">Zeilen</h2><p id="par_id1">Wählen Sie\n<b>Datei</b> &gt; Öffnen.</p>',
        "c": '<p id="par_id1">Eine andere Seite.</p>',
    }
    assert [*manual.pairs(english, german)] == [
        Pair("Choose File > Open.", "Wählen Sie Datei > Öffnen."),
        Pair("Rows", "Zeilen"),
    ]


def test_the_default_of_a_switch_is_read() -> None:
    switch = '<span class="switchinline"><span hidden="true" class="MAC">Cmd</span>{}</span>'
    default = '<span hidden="true" id="default1">Ctrl</span>'
    page = f'<p id="par_id1">Press {switch.format(default)}+C.</p>'
    assert manual.paragraphs(page) == {"par_id1": ["Press Ctrl+C."]}
    page = f'<p id="par_id1">Press {switch.format("")}+C.</p>'
    assert manual.paragraphs(page) == {"par_id1": [""]}


def test_code_and_what_has_no_id_is_left_out() -> None:
    page = '<p id="par_id1" class="code">x = 1</p><p>Footer</p><p id="par_id2">A<br>B</p>'
    assert manual.paragraphs(page) == {"par_id2": ["A B"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Choose Insert… - Table….", "Choose Insert - Table."),
        ("Choose Insert… The dialog opens.", "Choose Insert. The dialog opens."),
    ],
)
def test_dots_of_commands_are_left_out(text: str, expected: str) -> None:
    page = '<p id="par_id1">{}</p>'
    found = [*manual.pairs({"a": page.format(text)}, {"a": page.format("Wählen Sie es aus.")})]
    assert expected in {" ".join(pair.source for pair in found)}


# Catalogues.


def compiled(messages: dict[str, str], order: str = "<") -> bytes:
    """A .mo file, as the manual of gettext describes it."""
    messages = {"": "Content-Type: text/plain; charset=UTF-8\n", **messages}
    texts = [text.encode() for side in (messages.keys(), messages.values()) for text in side]
    count, tables, content = len(messages), b"", b""
    start = 28 + 16 * count
    for text in texts:
        tables += struct.pack(f"{order}2I", len(text), start + len(content))
        content += text + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return head + tables + content


@pytest.mark.parametrize("order", "<>")
def test_catalogues_are_read_as_pythons_gettext_does(order: str) -> None:
    expected = {"Go north.": "Geht nach Norden.", "Ätsch": "ß"}
    made = compiled(expected, order)
    assert catalogue.messages(made) == expected
    assert gettext.GNUTranslations(io.BytesIO(made)).gettext("Ätsch") == "ß"


def test_contexts_are_left_out_and_plural_forms_too() -> None:
    made = compiled(
        {"menu\4Close": "Schließen", "race^Elf": "race^Elf", "dog\0dogs": "Hund\0Hunde"},
    )
    assert catalogue.messages(made) == {"Close": "Schließen", "Elf": "Elf"}


@pytest.mark.parametrize("broken", [b"", b"PK\3\4 something else", compiled({"a": "b"})[:40]])
def test_what_is_no_catalogue_is_refused(broken: bytes) -> None:
    with pytest.raises(ReluctantError, match="catalogue"):
        catalogue.messages(broken)


def test_messages_with_markup_are_left_out() -> None:
    texts = {
        "Hello, $name!": "Hallo, $name!",
        "<b>Bold</b> move": "<b>Kühner</b> Zug",
        "%d files": "%d Dateien",
        "~Save as...": "~Speichern unter...",
        "Wait here.\n\nIt is <i>cold</i>.": "Wartet hier.\n\nEs ist <i>kalt</i>.",
    }
    assert [*catalogue.pairs(texts)] == [
        Pair("Save as...", "Speichern unter..."),
        Pair("Wait here.", "Wartet hier."),
    ]


# Sentences.


def test_a_full_stop_that_ends_nothing() -> None:
    text = "On 3. Oktober Dr. Wolf came, i.e. A. Wolf. He sat down! 'Why?' 2 asked."
    assert tidy.sentences(text) == [
        "On 3. Oktober Dr. Wolf came, i.e. A. Wolf.",
        "He sat down!",
        "'Why?'",
        "2 asked.",
    ]


def test_paragraphs_that_do_not_correspond_stay_whole() -> None:
    whole = Pair("One. Two follows it.", "Eins, dann zwei.")
    assert tidy.by_sentence(whole) == [whole]
    crossed = Pair(
        "No. He went home in the evening, as always.",
        "Wie immer ging er am Abend nach Hause zurück. Nein.",
    )
    assert tidy.by_sentence(crossed) == [crossed]


@given(st.text(alphabet="Ab1.!?\"' \u00a0)", max_size=40))
def test_sentences_lose_nothing(text: str) -> None:
    text = tidy.typed(text)
    assert "".join("".join(tidy.sentences(text)).split()) == "".join(text.split())


@given(st.text(max_size=30))
def test_what_is_typed_stays(text: str) -> None:
    once = tidy.typed(text)
    assert once == once.strip()
    assert "\t" not in once
    assert "\n" not in once


# Faults.


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (Pair("The tree is tall.", "Der Baum ist hoch."), None),
        (Pair("The tree (an oak) is tall.", "Der Baum (eine Eiche) ist hoch."), None),
        (Pair("Enter", "Enter"), "same"),
        (Pair("File ▸ Open", "Datei ▸ Öffnen"), "odd characters"),
        (Pair("a [red] house", "ein rotes Haus"), "odd characters"),
        (Pair("an oak)", "eine Eiche"), "unbalanced"),
        (Pair("Tall.", "Hoch"), "one-sided end"),
        (Pair("It is tall", "It is the tree"), "wrong language"),
        (Pair("Der Baum ist hoch.", "The tree is tall."), "wrong language"),
    ],
)
def test_faults(pair: Pair, expected: str | None) -> None:
    assert fault(pair) == expected


def test_counts_add_up() -> None:
    pairs = [Pair("Tall.", "Hoch."), Pair("Tall.", "Hoch."), Pair("Tall", "Hoch."), Pair("A", "A")]
    kept, counts = good(pairs)
    assert kept == pairs[:1]
    assert counts == {"read": 4, "kept": 1, "duplicate": 1, "one-sided end": 1, "same": 1}


# What is held out.

NOUNS = [
    "river", "forest", "castle", "harbour", "market", "village", "garden", "kitchen",
    "library", "mountain",
]  # fmt: skip
VERBS = [
    "sees", "paints", "leaves", "finds", "loves", "enters", "avoids", "draws", "forgets",
    "remembers",
]  # fmt: skip
WHO = [
    "baker", "sailor", "teacher", "doctor", "farmer", "painter", "singer", "hunter", "miller",
    "tailor",
]  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, list[Pair]]:
    every = [
        Pair(
            f"{who.title()} {number} {verb} some {noun}.",
            f"{who} {number} {verb} {noun}".title() + ".",
        )
        for number, who in enumerate(WHO)
        for verb in VERBS
        for noun in NOUNS
    ]
    short = [Pair(f"Go to {noun}.", f"Geh zu {noun}.") for noun in NOUNS]
    return {"general": every + short, "help": every[::2], "game": every[::3], "phrases": every[:9]}


def test_nothing_near_what_is_held_out_is_left(found: dict[str, list[Pair]]) -> None:
    divided = parts.divide(found)
    held_out = [*divided.valid, *divided.test["general"], *divided.test["help"]]
    assert divided.valid
    assert all(divided.test.values())
    for name, pairs in divided.train.items():
        assert not {pair.source for pair in pairs} & {pair.source for pair in held_out}
        assert without_near(pairs, held_out) == (pairs, 0)
        assert len(pairs) + divided.near[name] == len(found[name])
    assert all(parts.may_be_held_out(pair) for pair in held_out)


def test_what_is_held_out_does_not_depend_on_the_order(found: dict[str, list[Pair]]) -> None:
    turned = {name: pairs[::-1] for name, pairs in found.items()}
    one, other = parts.divide(found), parts.divide(turned)
    assert (one.valid, one.test) == (other.valid, other.test)


def test_the_smallest_hashes_are_taken(found: dict[str, list[Pair]]) -> None:
    every = {hashlib.sha256(pair.source.encode()).digest(): pair for pair in found["general"]}
    possible = [every[key] for key in sorted(every) if len(every[key].source.split()) >= 4]
    assert parts.smallest(found["general"], 9) == possible[:9]


def test_sentences_of_two_translations_are_not_held_out() -> None:
    twice = [
        Pair("He has two of them.", "Er hat zwei."),
        Pair("He has two of them.", "Zwei hat er."),
    ]
    once = Pair("She has none of them.", "Sie hat keine.")
    assert parts.smallest([*twice, once], 9) == [once]


# Packages.


def debian(folder: Path, name: str, files: dict[str, str]) -> None:
    """A package, made by dpkg-deb."""
    room = folder / f"{name}_files"
    control = f"Package: {name}\nVersion: 2.1\nArchitecture: all\nMaintainer: A <a@b.c>\n"
    files = {"DEBIAN/control": control + "Description: none\n", **files}
    for path, text in files.items():
        (room / path).parent.mkdir(parents=True, exist_ok=True)
        (room / path).write_text(text)
    (room / "DEBIAN").chmod(0o755)
    archive = folder / f"{name}_2.1_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "-b", str(room), str(archive)]
    subprocess.run(build, check=True, capture_output=True)


@NEEDS_DPKG
def test_a_package_gives_its_wanted_files(tmp_path: Path) -> None:
    files = {"usr/share/doc/words/copyright": "Mine.", "usr/share/a.tsv": "a", "usr/share/b.md": ""}
    debian(tmp_path, "words", files)
    package = packages.load("words", tmp_path, r".*\.tsv")
    assert package == packages.Package("words", "2.1", {"usr/share/a.tsv": b"a"}, "Mine.")
    with pytest.raises(ReluctantError, match="layout"):
        packages.load("words", tmp_path, r".*\.csv")
    packages.fetch(["words"], tmp_path)  # it is there: nothing is called


@NEEDS_DPKG
def test_a_broken_package_is_refused(tmp_path: Path) -> None:
    debian(tmp_path, "words", {"usr/share/doc/words/copyright": "Mine.", "usr/a": "a" * 99999})
    file = tmp_path / "words_2.1_all.deb"
    for content in (b"nothing", file.read_bytes()[: file.stat().st_size // 2]):
        file.write_bytes(content)
        with pytest.raises(ReluctantError, match="cannot read"):
            packages.load("words", tmp_path, "usr/a")


def test_a_package_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReluctantError, match="got 0"):
        packages.load("words", tmp_path, ".*")


def test_apt_get_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ReluctantError, match="no such package"):
        packages.fetch(["words"], tmp_path / "packages")
    program.unlink()
    monkeypatch.setenv("PATH", str(program.parent))
    with pytest.raises(ReluctantError, match="apt-get"):
        packages.fetch(["words"], tmp_path / "packages")


def test_every_source_has_its_notice() -> None:
    text = "Copyright: someone\n\nLicense: GPL\n\n        -----\n\nfonts: others\n"
    found = [
        (name, packages.Package(package, "1", {}, text))
        for name, source in sources.SOURCES.items()
        for package in source.wanted
    ]
    kept = dict.fromkeys(("general", "phrases", "help", "interface", "game"), 7)
    page = sources.page(found, kept)
    assert page.count("License: GPL") == len(sources.SOURCES)
    assert "fonts" not in page
    assert all(f"Package: {name} 1" in page for name in sources.NAMES)


def test_the_command_writes_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, list[Pair]]
) -> None:
    entry = "{pair.target} | ein Haus am Fluss :: {pair.source} | a house by the river"
    page = '<p id="par_id{number}">{text}</p>'
    numbered = [*enumerate(found["help"])]
    texts = {
        "trans-de-en": "\n".join(entry.format(pair=pair) for pair in found["general"]),
        "libreoffice-help-en-us": "".join(
            page.format(number=n, text=p.source) for n, p in numbered
        ),
        "libreoffice-help-de": "".join(page.format(number=n, text=p.target) for n, p in numbered),
    }
    messages = compiled(dict(found["game"])).decode("latin-1")
    made = [
        (source, packages.Package(name, "1", {"/text/a": content.encode(code)}, "Mine."))
        for source, each in sources.SOURCES.items()
        for name in each.wanted
        for content, code in [(texts[name], "utf-8") if name in texts else (messages, "latin-1")]
    ]
    monkeypatch.setattr(command, "fetch", lambda names, folder: None)
    monkeypatch.setattr(sources, "packages", lambda folder: iter(made))
    result = CliRunner().invoke(command.app, [str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    held_out = [tmp_path / "new" / f"{name}.tsv" for name in ("valid", "test-general", "test-help")]
    pairs = {file.stem: read([file])[0] for file in held_out}
    trained = {
        name: read([tmp_path / "new" / "train" / f"{name}.tsv"])[0]
        for name in ("general", "phrases", "help", "interface", "game")
    }
    assert trained["phrases"] == [Pair("a house by the river", "ein Haus am Fluss")]
    assert set(pairs["test-general"]) <= set(found["general"])
    assert not set(trained["general"]) & {pair for each in pairs.values() for pair in each}
    assert (tmp_path / "new" / "notices" / "trans-de-en.txt").read_text() == "Mine."
    assert "trans-de-en 1" in (tmp_path / "new" / "SOURCES.md").read_text()
