"""`reluctant study`: pieces, resuming, result files, and what is written of them."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from reluctant.cli.study import study
from reluctant.errors import ReluctantError
from reluctant.lab.study import document, pieces, store
from reluctant.lab.study import plan as plans
from reluctant.lab.study.plan import FULL, QUICK, Plan
from reluctant.lab.study.report import equal, markdown, say, width
from reluctant.lab.study.report.figures import Figure, Results, less, sign
from reluctant.lab.study.report.say import MISSING
from reluctant.lab.study.report.texts import texts
from reluctant.lab.study.run import run
from reluctant.lab.study.text import Text, read

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = Path(__file__).parents[1] / "docs"
TINY = replace(
    QUICK, d_model=8, d_ff=32, steps=2, batch_tokens=120, ratios=(0.25, 4), tokens=200, deep=4,
    sentences=1, longest=3, rounds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def text() -> Text:
    return read([], TINY)


@pytest.fixture(scope="module")
def whole(text: Text, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study, as small as it may be."""
    folder = tmp_path_factory.mktemp("study")
    found = run(TINY, text, folder / "out", folder / "weights")
    assert found.done == found.total == len(pieces.pieces(TINY))
    return folder


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of its results."""
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def test_every_piece_has_its_file(whole: Path) -> None:
    names = {path.name for path in (whole / "out").iterdir()}
    assert names == {piece.file for piece in pieces.pieces(TINY)}
    made = json.loads((whole / "out" / "model-base-1.json").read_text())
    assert made["command"]
    assert made["machine"]
    assert made["plan"] == TINY.to_json()
    assert made["quick"] if "quick" in made else made["plan"]["quick"]


def test_what_is_there_is_not_done_again_and_what_is_missing_is(out: Path, text: Text) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "measure-moved-1.json").unlink()
    (out / "model-none-1.json").unlink()
    (out / ".measure-rank-1.json.x7f").write_text('{"format": 1, "ki')  # a kill leaves such a one
    told: list[tuple[int, int]] = []
    weights = out.parent / "weights"  # none there: the base model is trained again
    done = run(TINY, text, out, weights, on_progress=lambda _, n, total: told.append((n, total)))
    assert done.done == done.total == len(before)
    assert {n for n, _ in told} == {len(before) - 2, len(before) - 1, len(before)}
    for name, content in before.items():
        found, wanted = json.loads((out / name).read_bytes()), json.loads(content)
        if name in ("measure-moved-1.json", "model-none-1.json"):
            assert found["result"] == wanted["result"]  # the same figures, from the same seed
        else:
            assert (out / name).read_bytes() == content


def test_stopped_it_keeps_what_is_done(tmp_path: Path, text: Text) -> None:
    told: list[str] = []
    weights = tmp_path / "weights"

    def stop() -> bool:
        return any(what.startswith("none") for what in told)

    found = run(
        TINY, text, tmp_path / "out", weights, only=["nonlinearity"], stop=stop,
        on_progress=lambda what, *_: told.append(what),
    )  # fmt: skip
    assert found.interrupted
    assert found.done == 2
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["model-base-1.json", "model-identity-1.json"]
    again = run(TINY, text, tmp_path / "out", weights, only=["nonlinearity"], minutes=0)
    assert (again.done, again.interrupted) == (3, False)  # one piece a call, at least


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b'{"format": 1, "kind": "mod', "expected a result"),
        (lambda _: b"", "expected a result"),
        (lambda _: b"\x80\x04\xff", "expected a result"),
        (lambda _: b"[1, 2]", "expected a result"),
        (lambda _: b"[" * 100_000, "expected a result"),
        (lambda _: b" " * (2 << 20), "it is too large"),
        (lambda v: {**v, "format": 2}, "its format is 2"),
        (lambda v: {**v, "seed": 4}, "says that it is model-base-4"),
        (lambda v: {**v, "seed": True}, "seed is True"),
        (lambda v: {**v, "name": "../../base"}, "says that it is"),
        (lambda v: {**v, "result": {"loss": math.nan}}, "NaN is no number"),
        (lambda v: {**v, "result": []}, "result is"),
        (lambda v: {**v, "machine": 7}, "machine is 7"),
        (lambda v: {**v, "text": "other"}, "expected results of one text and one plan"),
        (lambda v: {**v, "plan": {**v["plan"], "steps": 3}}, "one text and one plan"),
        (lambda v: {**v, "plan": {**v["plan"], "steps": "2"}}, "plan of a study of this version"),
        (lambda v: {**v, "plan": {**v["plan"], "depth": 1}}, "plan of a study of this version"),
        (lambda v: {k: w for k, w in v.items() if k != "plan"}, "KeyError"),
        (lambda v: {**v, "result": {"loss": 1.0}}, "lacks what it should have"),
        (lambda v: {**v, "result": {**v["result"], "loss": "low"}}, "lacks what it should have"),
    ],
)
def test_hostile_result_files_are_refused(
    change: Callable[[Any], Any], message: str, out: Path
) -> None:
    file = out / "model-base-1.json"
    changed = change(json.loads(file.read_text()))
    file.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    with pytest.raises(ReluctantError, match=message):
        document(out)


def test_a_cut_off_file_stops_a_run_and_once_it_is_gone_the_run_goes_on(
    out: Path, text: Text, whole: Path
) -> None:
    file = out / "model-none-1.json"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ReluctantError, match="remove the file, and the next run makes it again"):
        run(TINY, text, out, whole / "weights")
    file.unlink()
    assert run(TINY, text, out, whole / "weights").done == len(pieces.pieces(TINY))


def test_what_another_process_has_done_meanwhile_is_not_done_again(
    out: Path, text: Text, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model-none-1.json", "measure-moved-1.json"):
        (out / name).unlink()
    done: list[str] = []

    def other(piece: pieces.Piece, bench: Any) -> dict[str, Any]:
        done.append(piece.name)
        shutil.copy(whole / "out" / "measure-moved-1.json", out)
        return {"loss": 1.0}

    monkeypatch.setattr(pieces.Piece, "do", other)
    found = run(TINY, text, out, whole / "weights")
    assert done == ["none"]
    assert found.done == found.total


def test_results_of_another_text_or_plan_are_not_mixed(out: Path, text: Text) -> None:
    for plan, other in ((replace(TINY, steps=3), text), (TINY, replace(text, fingerprint="x"))):
        with pytest.raises(ReluctantError, match="another text or plan"):
            run(plan, other, out, out.parent / "weights")


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    made = store.Made("", "", 1, {}, "", TINY.to_json())
    bad = store.Result(pieces.Piece("model", "base", 1), made, 0.0, 0.0, {"loss": math.inf})
    with pytest.raises(ReluctantError, match="finite"):
        store.write(tmp_path, bad)
    assert list(tmp_path.iterdir()) == []


def test_broken_weights_are_named(whole: Path, out: Path, text: Text) -> None:
    weights = Path(shutil.copytree(whole / "weights", out.parent / "weights"))
    (file,) = weights.glob("base-1-*")
    file.write_bytes(file.read_bytes()[:200])
    (out / "measure-moved-1.json").unlink()
    with pytest.raises(ReluctantError, match="remove it, and it is trained again"):
        run(TINY, text, out, weights)


def test_a_smoke_run_has_figures_and_no_conclusions(whole: Path) -> None:
    found = document(whole / "out")
    assert found["quick"] is True
    keys = ["nonlinearity", "width", "residual", "combination", "applied"]
    assert [claim["key"] for claim in found["claims"]] == keys
    for claim in found["claims"]:
        assert claim["found"][0]["en"].startswith("A smoke run")
        assert claim["verdict"]["en"] == "No conclusion."
        assert claim["tables"]
        for part in ("title", "claim", "done", "literature", "limits"):
            assert all(claim[part][language] for language in ("en", "zh"))
    assert all(row[1]["en"] == "No conclusion." for row in found["glance"]["rows"])
    assert all(row[2] == MISSING for row in found["glance"]["rows"])
    json.dumps(found, allow_nan=False)


@pytest.fixture
def seeds(out: Path) -> Path:
    """The same results as if there had been three seeds, and no smoke run: each a little off."""
    for file in list(out.iterdir()):
        value = json.loads(file.read_text())
        value["plan"] |= {"quick": False, "seeds": [1, 2, 3]}
        for seed, factor in ((1, 1.0), (2, 1.001), (3, 0.999)):
            scaled = {**value, "seed": seed, "result": times(value["result"], factor)}
            name = file.name.replace("-1.json", f"-{seed}.json")
            (out / name).write_text(json.dumps(scaled))
    return out


def times(value: Any, factor: float) -> Any:
    if isinstance(value, float):
        return value * factor
    if isinstance(value, dict):
        return {key: times(each, factor) for key, each in value.items()}
    return [times(each, factor) for each in value] if isinstance(value, list) else value


def english(texts: Sequence[Mapping[str, str]]) -> str:
    return " ".join(each["en"] for each in texts)


def set_loss(folder: Path, name: str, losses: Sequence[float | None]) -> None:
    for seed, loss in enumerate(losses, 1):
        file = folder / f"model-{name}-{seed}.json"
        value = json.loads(file.read_text())
        value["result"]["loss"] = loss
        file.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("identity", "verdict", "said"),
    [
        ([5.0, 5.1, 5.2], "Agrees.", "the loss is higher than with ReLU"),
        ([3.0, 3.1, 3.2], "Contradicts.", "the loss is lower than with ReLU"),
        ([4.2, 4.1, 4.1], "Undecided", "within the spread, no conclusion"),
    ],
)
def test_conclusions_only_beyond_the_spread(
    identity: list[float], verdict: str, said: str, seeds: Path
) -> None:
    set_loss(seeds, "base", [4.0, 4.1, 4.2])
    set_loss(seeds, "identity", identity)
    found = document(seeds)
    claim, glance = found["claims"][0], found["glance"]["rows"][0]
    assert claim["verdict"]["en"].startswith(verdict)
    assert glance[1]["en"].startswith(verdict)
    assert "ReLU (the base model) 4.100 (0.200)" in glance[2]["en"]
    assert claim["found"][0] == glance[2]
    assert said in english(claim["found"])
    row = next(row for row in claim["tables"][0]["rows"] if row[0]["en"].startswith("ReLU"))
    assert row[2] == {"mean": 4.1, "spread": 0.2, "values": [4.0, 4.1, 4.2]}
    more = claim["tables"][0]["rows"][1][3]
    assert more["mean"] == pytest.approx(sum(identity) / 3 - 4.1, rel=1e-5)


def test_without_all_pieces_there_is_no_verdict(seeds: Path) -> None:
    (seeds / "model-identity-3.json").unlink()
    found = document(seeds)
    claim, other = found["claims"][0], found["claims"][2]
    there = len(list(seeds.glob("*.json")))
    assert there == 3 * len(pieces.pieces(TINY)) - 1
    assert claim["found"][0]["en"].startswith("Not finished: ")
    assert claim["verdict"]["en"].endswith("No conclusion.")
    assert found["glance"]["rows"][0][1] == claim["found"][0]
    assert claim["tables"][0]["rows"][1][3] == MISSING  # a difference of other seeds is none
    assert "Not finished" not in english(other["found"])


def test_what_diverged_has_no_figure_and_is_named(seeds: Path) -> None:
    file = seeds / "model-no-residuals-2.json"
    value = json.loads(file.read_text())
    value["result"] |= {"loss": None, "diverged": 17}
    file.write_text(json.dumps(value))
    claim = document(seeds)["claims"][2]
    assert "Training diverged: no-residuals (seed 2, step 17)." in english(claim["found"])
    assert claim["tables"][0]["rows"][2][2]["en"] == "diverged in 1 of 3"


def test_every_part_of_a_full_document_is_said_in_both_languages(seeds: Path) -> None:
    for claim in document(seeds)["claims"]:
        said = {name: "".join(e[name] for e in claim["found"]) for name in ("en", "zh")}
        if claim["key"] != "combination":
            assert "Beside the literature: " in claim["verdict"]["en"]
        assert len(said["en"]) > 200, claim["key"]
        assert len(said["zh"]) > 80
        assert said["en"].count("(") >= 3
        for chart in claim["charts"]:
            for series in chart["series"]:
                assert all(p["low"] <= p["y"] * (1 + 1e-5) for p in series["points"])
                assert all(p["y"] <= p["high"] * (1 + 1e-5) for p in series["points"])
        for table in claim["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_an_empty_folder_says_what_would_be_done(tmp_path: Path) -> None:
    found = document(tmp_path / "not there")
    assert (found["machine"], found["quick"]) == ("", False)
    assert [claim["verdict"]["en"] for claim in found["claims"]] == ["No conclusion."] * 5
    assert english(found["claims"][0]["found"]) == "Not run yet."


def test_sign_goes_by_the_differences_of_the_seeds() -> None:
    low, high = Figure((1.0, 1.4, 1.8)), Figure((1.1, 1.52, 1.9))
    assert (sign(high, low), sign(low, high)) == (1, -1)  # .1, .12, .1 more, seed by seed
    assert sign(Figure((1.9, 1.1, 1.52)), low) == 0  # the same numbers of other seeds
    assert sign(low, low) == 0
    assert sign(Figure((0.3,) * 3), Figure((0.1 + 0.2,) * 3)) == 0  # float64's rounding is nothing
    assert sign(Figure((1.0,)), Figure((2.0,))) is None
    assert sign(None, low) is None
    assert less(Figure((1.0, 2.0), (1, 2)), Figure((1.0, 2.0), (2, 3))) is None


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"1": (1, 1.1, 1), "4": (3, 3, 3)}, "The loss is lowest at 1: 1.03 (0.10), and highest at "
         "4: 3.00 (0.00); no other is as low."),
        ({"1": (1, 1.1, 1), "2": (1.1, 1, 1.1), "4": (3, 3, 3)}, "not to be told from the lowest: "
         "2."),
        ({"1": (1, 1, 1), "2": None, "4": (3, 3, 3), "8": None}, "No figure for 2, 8."),
        ({"1": (1, 1, 1), "2": (1, 1, 1)}, "The loss differs by no more than the spread."),
    ],
)  # fmt: skip
def test_where_a_figure_is_lowest(figures: dict[str, tuple[float, ...] | None], said: str) -> None:
    given = {name: values and Figure(values) for name, values in figures.items()}
    found = say.lowest(given, say.two("The loss", "损失"), 2)
    assert found is not None
    assert said in found["en"]
    for name, values in figures.items():
        assert (values is None) == (name in found["zh"].split("没有")[-1] and "没有" in found["zh"])


def test_beside_the_literature_stands_what_is_known() -> None:
    name = say.two("wider is sparser", "越宽越稀疏")
    found = say.beside([(name, 1, 1), (name, -1, 1), (name, 0, 1), (name, None, 1)])
    assert found is not None
    words = ("the same here", "the other way round here", "undecided here")
    assert (
        found["en"]
        == "Beside the literature: "
        + "; ".join(f"wider is sparser: {word}" for word in words)
        + "."
    )
    assert say.beside([(name, None, 1)]) is None


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        # The better of those that go down first is above the better of those that go up first, ...
        ({"ratio-1_4-middle": 4.3, "ratio-1_2-middle": 4.2, "base": 4.0, "ratio-8-middle": 4.1},
         "Agrees."),
        # ... below it, though the other one is above, ...
        ({"ratio-1_4-middle": 4.3, "ratio-1_2-middle": 3.9, "base": 4.0, "ratio-8-middle": 4.1},
         "Contradicts."),
        ({"ratio-1_4-middle": 4.0, "ratio-1_2-middle": 4.3, "base": 4.0, "ratio-8-middle": 4.1},
         "Undecided"),
        ({"ratio-1_4-middle": 4.3, "ratio-1_2-middle": None, "base": 4.0, "ratio-8-middle": 4.1},
         "No conclusion."),
    ],
)  # fmt: skip
def test_the_verdict_on_width(
    losses: dict[str, float | None], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = Results(tmp_path)
    results.plan = replace(FULL, ratios=(0.25, 0.5, 4, 8))
    known = {n: x and Figure((x, x + 0.5, x + 0.2), (1, 2, 3)) for n, x in losses.items()}
    monkeypatch.setattr(results, "loss", known.get)
    verdict = width._verdict(results)
    assert verdict["en"].startswith(said)
    assert (said == "No conclusion.") == ("The best that goes up first" not in verdict["en"])


@pytest.mark.parametrize(("state", "said"), [("trained", False), ("untrained", False), ("", True)])
def test_what_comes_of_width_alone_is_said(
    state: str, said: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If ranks grow with the width before training, too; not if in one state they do not."""

    def rank(results: Results, name: str, what: str, of: str = "trained") -> Figure:
        wide = name == "ratio-16-middle" and of != state
        return Figure((9.0, 9.1, 9.2) if wide else (3.0, 3.1, 3.2), (1, 2, 3))

    monkeypatch.setattr(width, "passed", rank)
    found = [each["en"] for each in width._far(Results(tmp_path)) if each]
    assert found == [texts("width", FULL)["holds-more"]["en"]] * said


def test_losses_at_equal_times(seeds: Path) -> None:
    """Against the same by hand, with round numbers."""
    shapes = {(0.25, 0): 1.0, (0.25, 1): 2.0, (0.25, 2): 4.0, (4, 0): 2.0, (4, 1): 4.0, (4, 2): 8.0}
    names = {key: equal.ratio_name(key[0], plans.SIZES[key[1]]) for key in shapes}
    for seed in (1, 2, 3):
        file = seeds / f"measure-timing-{seed}.json"
        value = json.loads(file.read_text())
        for key, ms in shapes.items():
            step = 1.0 if key[0] == 4 else 2.0
            value["result"]["models"][names[key]] = {
                "engine_ms": ms, "plain_ms": ms if key[0] == 4 else 100 * ms, "step_s": step,
                "alike": 1.0,
            }  # fmt: skip
        file.write_text(json.dumps(value))
    for key, name in names.items():
        set_loss(seeds, name, [float(10 - key[1] + seed) for seed in (1, 2, 3)])
        for seed in (1, 2, 3):
            file = seeds / f"model-{name}-{seed}.json"
            value = json.loads(file.read_text())
            value["result"]["curve"] = [
                {"step": 1, "loss": 20.0},  # the first two fifths are not in the line
                *({"step": step, "loss": 9 + seed - math.log(step)} for step in (4, 6, 8, 10)),
            ]
            file.write_text(json.dumps(value))
    results = Results(seeds)
    # ratio 4 ends after its 2 steps of 1 s; ratio 1/4 has made one step of 2 s then
    time, losses = equal.training(results)
    assert time == 2.0
    assert values(losses) == {
        "1/4": pytest.approx((10, 11, 12)),
        "4": pytest.approx((10 - math.log(2), 11 - math.log(2), 12 - math.log(2))),
    }
    # the fastest of ratio 4 takes 2 ms: 1/4 has two models that do, of which the larger is better
    time, losses = equal.decoding(results, "engine_ms")
    assert time == 2.0
    assert values(losses) == {"1/4": (10.0, 11.0, 12.0), "4": (11.0, 12.0, 13.0)}
    front = equal.front(results, "engine_ms")  # 4 takes as long as the next larger 1/4
    assert [(f.ratio, f.size, f.time, f.loss.mean) for f in front] == [
        ("1/4", "small", 1.0, 12.0), ("1/4", "middle", 2.0, 11.0), ("1/4", "large", 4.0, 10.0),
    ]  # fmt: skip
    front = equal.front(results, "plain_ms")
    assert [(f.ratio, f.size) for f in front] == [("4", size) for size in plans.SIZES]
    # the fastest of ratio 1/4 takes 100 ms
    time, losses = equal.decoding(results, "plain_ms")
    assert time == 100.0
    assert values(losses) == {"1/4": (11.0, 12.0, 13.0), "4": (9.0, 10.0, 11.0)}
    # in one seed the smallest of ratio 4 is as good as the fastest of all, and faster
    assert equal.always(results, "engine_ms") == [("1/4", size) for size in plans.SIZES]
    file = seeds / "measure-timing-3.json"
    value = json.loads(file.read_text())
    value["result"]["models"][names[4, 0]]["engine_ms"] = 0.5
    file.write_text(json.dumps(value))
    assert equal.always(Results(seeds), "engine_ms") == [("1/4", "middle"), ("1/4", "large")]
    (seeds / f"model-{names[0.25, 2]}-2.json").unlink()  # timed, and its loss is not there
    assert equal.always(Results(seeds), "engine_ms") == [("1/4", "middle")]
    assert document(seeds)["glance"]["rows"][1][1]["en"].startswith("Not finished")


def test_times_at_which_a_model_diverged_or_was_not_timed(seeds: Path) -> None:
    names = [equal.ratio_name(r, size) for r in (0.25, 4) for size in plans.SIZES]
    for seed, factor in ((1, 1.0), (2, 2.0), (3, 3.0)):
        file = seeds / f"measure-timing-{seed}.json"
        value = json.loads(file.read_text())
        for i, name in enumerate(names):
            value["result"]["models"][name]["engine_ms"] = factor * 2.0 ** (i % 3)
        file.write_text(json.dumps(value))
    for i, name in enumerate(names):
        set_loss(seeds, name, [float(10 - i % 3)] * 3)
    time, losses = equal.decoding(Results(seeds), "engine_ms")
    assert time == 2.0  # the mean over the seeds
    assert means(losses) == {"1/4": 10.0, "4": 10.0}
    set_loss(seeds, "ratio-4-small", [None, 10.0, 10.0])
    assert means(equal.decoding(Results(seeds), "engine_ms").losses) == {"1/4": 10.0, "4": None}
    for seed in (1, 2, 3):
        file = seeds / f"measure-timing-{seed}.json"
        value = json.loads(file.read_text())
        del value["result"]["models"]["ratio-1_4-large"]
        file.write_text(json.dumps(value))
    assert means(equal.decoding(Results(seeds), "engine_ms").losses) == {"1/4": None, "4": None}


def test_a_piece_that_is_not_finite_stops_no_other(
    out: Path, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure-moved-1.json", "measure-passes-1.json"):
        (out / name).unlink()
    monkeypatch.setitem(pieces.MEASURES, "moved", lambda bench, seed: {"loss": [math.nan]})
    with pytest.raises(ReluctantError, match=r"finite numbers, got others in measure-moved-1.json"):
        run(TINY, text, out, out.parent / "weights")
    assert (out / "measure-passes-1.json").exists()
    assert not (out / "measure-moved-1.json").exists()


def values(losses: dict[str, Figure | None]) -> dict[str, Any]:
    return {name: figure and figure.values for name, figure in losses.items()}


def means(losses: dict[str, Figure | None]) -> dict[str, Any]:
    return {name: figure and figure.mean for name, figure in losses.items()}


def test_markdown_stands_between_its_marks_and_nothing_else_changes(
    seeds: Path, tmp_path: Path
) -> None:
    file = tmp_path / "study.md"
    file.write_text(f"# Mine\n\n{markdown.BEGIN}\nWhat was there.\n{markdown.END}\n\nMy end.\n")
    found = document(seeds)
    found["claims"][0]["tables"][0]["rows"][0][0] = "<script>*|*</script>"
    markdown.write(file, found)
    text = file.read_text()
    assert text.startswith("# Mine\n\n")
    assert text.endswith("\n\nMy end.\n")
    assert "What was there." not in text
    assert "<script>" not in text
    assert all(line.count(" | ") == 5 for line in text.splitlines() if "script" in line)
    assert all(claim["title"]["zh"] in text for claim in found["claims"])
    assert markdown.filled(text, found) == text
    file.write_text("# No marks\n")
    with pytest.raises(ReluctantError, match="expected the two lines"):
        markdown.write(file, found)
    assert file.read_text() == "# No marks\n"


def test_the_committed_document_is_that_of_the_committed_results() -> None:
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    assert markdown.filled(text, document(DOCS / "study")) == text, (
        "write it anew: reluctant study --out docs/study --markdown docs/study.md"
    )


APP = typer.Typer()
APP.command()(study)


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(APP, list(arguments))


def test_the_command(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On files of one's own, one claim; then what it has written is shown."""
    monkeypatch.setattr(plans, "QUICK", TINY)
    from reluctant.lab.study import sentences  # noqa: PLC0415

    pairs = tmp_path / "text.tsv"
    pairs.write_text("".join(f"{s}\t{t}\n" for s, t in sentences.pairs(60)), encoding="utf-8")
    folders = ["--out", str(tmp_path / "out"), "--weights", str(tmp_path / "weights")]
    found = invoked(str(pairs), "--quick", "--only", "residual", *folders)
    assert found.exit_code == 0, found.output
    assert "4 of 4 pieces" in found.stderr
    assert "A smoke run" in found.stdout
    assert "With and without the residual path" in found.stdout
    shown = invoked("--out", str(whole / "out"), "--json", str(tmp_path / "study.json"))
    assert shown.exit_code == 0, shown.output
    assert json.loads((tmp_path / "study.json").read_text()) == document(whole / "out")


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    """In a process of its own, which presses it in its third piece."""
    code = (
        "import dataclasses, signal, sys\n"
        "from reluctant.lab.study import pieces, plan\n"
        "plan.QUICK = dataclasses.replace(plan.QUICK, d_model=8, d_ff=32, steps=2)\n"
        "real = pieces.Piece.do\n"
        "def pressed(piece, bench):\n"
        "    if piece.name == 'none':\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return real(piece, bench)\n"
        "pieces.Piece.do = pressed\n"
        "import reluctant.cli\n"
        f"out, weights = {str(tmp_path / 'out')!r}, {str(tmp_path / 'weights')!r}\n"
        "sys.argv = ['reluctant', 'study', '--quick', '--only', 'nonlinearity']\n"
        "sys.argv += ['--out', out, '--weights', weights]\n"
        "reluctant.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "interrupted: 2 of" in done.stderr
    assert "the same command goes on" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick", "--only", "depth"], "expected some of nonlinearity"),
        (["no/such/file.tsv"], "no/such/file.tsv"),
        (["--html", "no/such/folder/page.html"], "no/such/folder"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    found = invoked(*arguments, "--out", str(tmp_path / "out"))
    assert found.exit_code == 2, found.output
    assert message in found.stderr
    assert not (tmp_path / "out").exists()


def name(number: int) -> str:
    """In letters: for `part_of` all digits are one."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:03}")


def test_more_text_than_wanted_is_taken_at_even_distances(tmp_path: Path) -> None:
    file = tmp_path / "text.tsv"
    file.write_text("".join(f"{name(i)} is here.\t{name(i)} ist da.\n" for i in range(900)))
    plan: Plan = replace(TINY, pairs=50, valid_pairs=10)
    found = read([file], plan)
    assert len(found.train.sources) == 50
    assert len(found.valid.sources) <= 10
    last = found.vocabulary.decode(found.train.sources)[-1]
    assert last.split()[0] in {name(i) for i in range(850, 900)}
    with pytest.raises(ReluctantError, match="expected"):
        read([tmp_path / "none.tsv"], plan)
