"""Reading pairs: every form gives the same, bad lines are counted, bad files refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reluctant.errors import ReluctantError
from reluctant.translation import pairs as module
from reluctant.translation.pairs import Pair, read

PAIRS = [Pair("one", "eins"), Pair("two \u2028 and\x0b\x85 more", "zwei\x0c"), Pair("", "drei")]
LANGUAGES = ("en", "de")
sentences = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\n\r\ufeff"))
anything = st.builds(Pair, sentences, sentences).filter(lambda pair: any(x.strip() for x in pair))


def put(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(texts: list[str], end: str = "\n") -> str:
    return "".join(text + end for text in texts)


def as_tsv(folder: Path, pairs: list[Pair], end: str) -> list[Path]:
    return [put(folder / "a.tsv", lines([f"{s}\t{t}" for s, t in pairs], end))]


def as_compressed(folder: Path, pairs: list[Pair], end: str) -> list[Path]:
    text = lines([f"{s}\t{t}" for s, t in pairs], end)
    return [put(folder / "a.tsv.gz", "\ufeff" + text.removesuffix(end))]


def as_json(folder: Path, pairs: list[Pair], end: str) -> list[Path]:
    objects = [{"target": t, "id": 7, "source": s} for s, t in pairs]
    return [put(folder / "a.jsonl", lines([json.dumps(each) for each in objects], end))]


def as_json_of_languages(folder: Path, pairs: list[Pair], end: str) -> list[Path]:
    flat = [{"de": t, "en": s, "fr": None} for s, t in pairs]
    objects = [{"translation": each} if i % 2 else each for i, each in enumerate(flat)]
    texts = [json.dumps(each, ensure_ascii=False) for each in objects]
    return [put(folder / "a.jsonl.gz", "\ufeff" + lines(texts, end))]


def as_twins(folder: Path, pairs: list[Pair], end: str) -> list[Path]:
    texts = [lines(list(side), end) for side in zip(*pairs, strict=True)]
    names = ["a.x.en", "a.x.de.gz"]
    return [put(folder / n, "\ufeff" + text) for n, text in zip(names, texts, strict=True)]


FORMS = [as_tsv, as_compressed, as_json, as_json_of_languages, as_twins]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(anything, min_size=1), end=st.sampled_from(["\n", "\r\n"]))
def test_every_form_gives_the_pairs(
    form: Callable[[Path, list[Pair], str], list[Path]],
    pairs: list[Pair],
    end: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    paths = form(tmp_path_factory.mktemp("pairs"), pairs, end)
    assert read(paths, LANGUAGES) == (pairs, {"read": len(pairs)})
    assert read([paths[0].parent], LANGUAGES)[0] == pairs  # found in the folder


def test_several_files_in_the_order_of_the_paths_then_of_names(tmp_path: Path) -> None:
    as_twins(tmp_path, PAIRS[:1], "\n")
    put(tmp_path / "b.tsv", "b\tB\n")
    put(tmp_path / "c.jsonl", '{"source": "c", "target": "C"}')
    put(tmp_path / "notes.txt", "nothing")
    put(tmp_path / ".b.tsv", "hidden\tH\n")
    (tmp_path / "deeper.tsv").mkdir()
    found, counts = read([tmp_path / "c.jsonl", tmp_path], LANGUAGES)
    assert [pair.source for pair in found] == ["c", "one", "b", "c"]
    assert counts == {"read": 4}
    assert [pair.source for pair in read([tmp_path])[0]] == ["b", "c"]  # no languages, no twins
    assert read([tmp_path], ("de", "en"))[0][0] == Pair("eins", "one")


def test_a_byte_order_mark_is_one_at_the_beginning_only(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", "\ufeffa\tA\n\ufeffb\tB\n")
    assert read([path])[0] == [Pair("a", "A"), Pair("\ufeffb", "B")]


def test_bad_lines_are_counted(tmp_path: Path) -> None:
    good = b"a\tA\n" * 5
    bad = [
        b"no tab",
        b"a\tb\tc",
        b"\xff\tlatin",
        b"a\0\tb",
        b"",
        b"\t \r",
        b"x" * (1 << 20) + b"\ty",
    ]
    found, counts = read([put(tmp_path / "a.tsv", good + b"\n".join(bad) + b"\n" + good)])
    assert found == [Pair("a", "A")] * 10
    assert counts == {
        "read": 17,
        "no tab": 1,
        "more than one tab": 1,
        "undecodable": 1,
        "binary": 1,
        "blank": 2,
        "too long": 1,
    }


def test_bad_lines_of_json_are_counted(tmp_path: Path) -> None:
    good = '{"en": "a", "de": "A"}\n' * 8
    bad = {
        '{"source": "a"}': "no source and target",
        '["source", "target"]': "no source and target",
        '{"translation": ["en", "de"]}': "no source and target",
        '{"source": "a", "target": null}': "not strings",
        '{"source": "a", "target": "\\ud800"}': "undecodable",
        '{"source": "a", "target": "\\u0000"}': "binary",
        "{": "bad JSON",
        "[" * 100_000: "bad JSON",
    }
    expected = {"read": 16}
    for reason in bad.values():
        expected[reason] = expected.get(reason, 0) + 1
    found, counts = read([put(tmp_path / "a.jsonl", good + "\n".join(bad))], LANGUAGES)
    assert found == [Pair("a", "A")] * 8
    assert counts == expected


def test_a_bad_line_of_one_twin_takes_the_other_along(tmp_path: Path) -> None:
    paths = [put(tmp_path / "a.en", b"a\n\xff\n\n\nd\n"), put(tmp_path / "a.de", "A\nB\nC\n\nD\n")]
    expected = [Pair("a", "A"), Pair("", "C"), Pair("d", "D")]
    assert read(paths) == (expected, {"read": 5, "undecodable": 1, "blank": 1})


def test_half_of_the_lines_may_be_unusable_and_no_more(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", "a\tA\nno\n\n\n\n")
    assert len(read([path])[0]) == 1
    put(path, "a\tA\nno\nno\n")
    with pytest.raises(
        ReluctantError, match=r"got 1 in 3 lines, of which 2 .*'no tab'.*a tab|tabs"
    ):
        read([path])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "got an empty file"),
        ("a.tsv", b"\n\n\n\nno\n", "text without tabs"),
        ("a.tsv", b"\n\n", "looks like empty lines"),
        ("a.tsv", b"1\tone\teins\n", "cut -f"),
        ("a.tsv", "grün\tgreen\n".encode("latin1"), "iconv -f LATIN1"),
        ("a.tsv", "green\tgrün\n".encode("utf-16"), "UTF-16"),
        ("a.tsv", b"x" * (3 << 20), "without line ends"),
        ("a.jsonl", b"one\teins\n", "no JSON"),
        ("a.jsonl", b'{"en": "one", "de": "eins"}\n', "give languages"),
        ("a.txt", b"one\teins\n", r"expected \.tsv, \.jsonl, or two files"),
        ("a.en", b"one\n", r"expected \.tsv, \.jsonl, or two files"),
        ("missing/", b"", "there is none"),
    ],
)
def test_refuses_files_and_says_how_to_mend(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if not name.endswith("/"):
        put(path, content)
    with pytest.raises(ReluctantError, match=message):
        read([path])


@pytest.mark.parametrize(
    "broken", [lambda z: z[:-9], lambda z: b"text", lambda z: z[:20] + b"?" * 99 + z[99:]]
)
def test_refuses_a_broken_gz(broken: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(broken(gzip.compress(b"".join(b"%d\tx\n" % i for i in range(5000)))))
    with pytest.raises(ReluctantError, match=r"can be read, got .*a\.tsv\.gz"):
        read([path])


@pytest.mark.parametrize("lengths", [(3, 4), (4, 3), (2, 0)])
def test_refuses_twins_that_slipped(lengths: tuple[int, int], tmp_path: Path) -> None:
    paths = [put(tmp_path / f"a.{x}", "x\n" * n) for x, n in zip(LANGUAGES, lengths, strict=True)]
    with pytest.raises(ReluctantError, match=f"got {lengths[0]} and {lengths[1]}: .*slipped"):
        read(paths)


def test_refuses_twins_that_are_none(tmp_path: Path) -> None:
    en, de, other = (put(tmp_path / name, "x\n") for name in ("a.en", "a.de", "b.de"))
    for paths in ([en, other], [en, en], [en, put(tmp_path / "a.tsv", "x\ty\n")]):
        with pytest.raises(ReluctantError, match="two files like"):
            read(paths)
    with pytest.raises(ReluctantError, match=r"'en' first, the source.*exchange them"):
        read([de, en], LANGUAGES)
    with pytest.raises(ReluctantError, match=r"expected b\.en beside"):
        read([tmp_path], LANGUAGES)
    with pytest.raises(ReluctantError, match="two languages"):
        read([tmp_path], ("en", "en"))
    (tmp_path / "a.tsv").unlink()
    with pytest.raises(ReluctantError, match="with languages"):
        read([tmp_path])


def test_a_long_line_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 10)
    path = put(tmp_path / "a.tsv", "1234\t67890\r\n" + "1234\t678901\n" + "x" * 95 + "\na\tb")
    assert read([path]) == ([Pair("1234", "67890"), Pair("a", "b")], {"read": 4, "too long": 2})
    assert max(map(len, module._lines(path))) <= 12
