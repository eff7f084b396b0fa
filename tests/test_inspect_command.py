"""`reluctant inspect`: files, options, messages, exit codes."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import transformers

import reluctant.lab.inspect
import reluctant.lab.inspect.run
from inspected import D_FF, LINES, D, bert, command, letters, lively, saved
from reluctant.lab.inspect.record import Check
from translators import sentences, untrained

pytestmark = pytest.mark.usefixtures("one_thread", "briefly")
FIELDS = {
    *("format", "reluctant", "machine", "command", "model", "text", "totals", "layers", "left"),
    *("sentences", "walk", "checks"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A language model's folder."""
    return saved(tmp_path / "opt")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES))
    return path


def test_a_hugging_face_folder(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["/bin/reluctant", "inspect", "a b"])
    result = command(model, "--text", text, "--json", out, "--neurons", 3, "--seed", 5)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert set(found) == FIELDS
    assert found["format"] == 1
    assert found["model"] == {
        "name": "opt",
        "class": "OPTForCausalLM",
        "kind": "decoder",
        "parameters": found["totals"]["parameters"],
    }
    assert found["text"]["name"] == "text.txt"
    assert found["text"]["bytes"] == text.stat().st_size
    assert found["text"]["whole"] is True
    assert found["command"] == "reluctant inspect 'a b'"
    assert len(found["sentences"]) == 3
    for word in ("Which neurons fire", "model 0", "model 1", "relu 24", "without neuron"):
        assert word in result.stdout


def test_neurons_that_are_named_are_shown(model: Path, text: Path) -> None:
    named = ["--without", "model.decoder.layers.1:3", "--without", "model 0:7"]
    result = command(model, "--text", text, "--sentence", "A dog", *named)
    assert result.exit_code == 0, result.output
    for what in ("neuron 3 of model.decoder.layers.1", "neuron 7 of model.decoder.layers.0"):
        assert f"without {what}" in result.stdout


def test_json_on_stdout_is_all_of_it(model: Path, text: Path) -> None:
    result = command(model, "--text", text, "--json", "-", "--sentence", "A dog", "--sentence", "b")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [sentence["text"] for sentence in found["sentences"]] == ["A dog", "b"]


def test_our_own_folder(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "mine", d_model=16, d_ff=24)
    (tmp_path / "a").write_text("\n".join(sentences(5)))
    (tmp_path / "b").write_text("\n".join(sentences(5, seed=1)))
    out = tmp_path / "out.json"
    result = command(*(folder, "--text", tmp_path / "a", "--target", tmp_path / "b", "--json", out))
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["model"]["kind"] == "encoder-decoder"
    assert [layer["stack"] for layer in found["layers"]] == ["encoder", "decoder"]
    assert found["text"]["target"] == "given"
    assert set(found["sentences"][0]["parts"]) == {"encoder", "decoder"}
    (tmp_path / "b").write_text("one\n")
    result = command(folder, "--text", tmp_path / "a", "--target", tmp_path / "b")
    assert result.exit_code == 2
    assert "as many lines" in result.stderr


def test_a_factory(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, tried = types.ModuleType("made_for_this_test"), bert()
    made.model = lambda: (tried.model, tried.words)  # type: ignore[attr-defined]
    made.alone = lambda: tried.model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_for_this_test", made)
    result = command("made_for_this_test:model", "--text", text, "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["model"]["kind"], found["model"]["class"]) == ("encoder", "BertModel")
    assert [layer["exact_zeros"] for layer in found["layers"]] == [False, False]
    result = command("made_for_this_test:alone", "--text", text)
    assert result.exit_code == 2
    assert "returns (model, tokenizer)" in result.stderr


def test_a_head_that_answers_with_vectors(tmp_path: Path, text: Path) -> None:
    sizes = {"hidden_size": D, "intermediate_size": D_FF, "num_hidden_layers": 1, "vocab_size": 100}
    config = transformers.RobertaConfig(
        **sizes, num_attention_heads=2, max_position_embeddings=20, pad_token_id=1
    )
    lively(transformers.RobertaForMaskedLM(config)).save_pretrained(tmp_path / "roberta")
    letters().save_pretrained(tmp_path / "roberta")
    text.write_text("ab" * 20)
    result = command(tmp_path / "roberta", "--text", text, "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    # two of the table's 20 rows stand for no position, and two tokens of each sequence are special
    assert (found["model"]["kind"], found["text"]["sequences"]) == ("encoder", 3)
    without = [w for x in found["sentences"][0]["layers"] for w in x["without"]]
    assert all(w["before"] is w["after"] is None and w["change"] > 0 for w in without)
    assert found["layers"][0]["neurons"][0]["promotes"] is None
    assert "of the output projection's own" in found["layers"][0]["promotes_why"]
    assert found["layers"][0]["update"]["ratio"] > 0


def test_languages_that_say_nothing_are_refused(model: Path, text: Path) -> None:
    result = command(model, "--text", text, "--target-lang", "de")
    assert result.exit_code == 2
    assert "--target-lang" in result.stderr


@pytest.mark.filterwarnings("ignore:.*max_length.*")
def test_a_model_of_many_languages(tmp_path: Path, text: Path) -> None:
    names = ["eng_Latn", "deu_Latn"]
    letters_of = [*map(chr, range(97, 123)), ".", ","]
    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *letters_of])}
    tokens = transformers.NllbTokenizer(vocab=words, merges=[], extra_special_tokens=names)
    sizes = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("ffn_dim", D_FF), ("attention_heads", 2))
    }
    config = transformers.M2M100Config(
        vocab_size=len(tokens),
        d_model=D,
        max_position_embeddings=48,
        decoder_start_token_id=2,
        **sizes,
    )
    folder = tmp_path / "nllb"
    lively(transformers.M2M100ForConditionalGeneration(config)).save_pretrained(folder)
    tokens.save_pretrained(folder)
    text.write_text("sun moon\ntree\n")
    result = command(folder, "--text", text)
    assert result.exit_code == 2
    assert "--target-lang" in result.stderr
    languages = "--source-lang", "eng_Latn", "--target-lang", "deu_Latn"
    result = command(folder, "--text", text, *languages, "--json", "-")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["sentences"][0]["parts"]["encoder"][0] == "eng_Latn"
    assert found["sentences"][0]["parts"]["decoder"][:2] == ["</s>", "deu_Latn"]
    assert all(layer["update"] for layer in found["layers"])
    result = command(folder, "--text", text, "--target-lang", "klingon")
    assert result.exit_code == 2
    assert "klingon" in result.stderr
    result = command(folder, "--text", text, "--target", text, "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sentences"][0]["output"] is None


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n\t\n"])
def test_a_text_without_a_token(model: Path, text: Path, tmp_path: Path, content: bytes) -> None:
    text.write_bytes(content)
    result = command(model, "--text", text, "--json", tmp_path / "out.json")
    assert result.exit_code == 2
    assert "at least one token" in result.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_model_that_did_something_else_fails(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Check("watching changes nothing", False, "it is [red]another[/red]")
    monkeypatch.setattr(reluctant.lab.inspect.run, "checks_of", lambda *_: [wrong])
    result = command(model, "--text", text, "--json", tmp_path / "out.json")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "reluctant: it is [red]another[/red]"
    assert json.loads((tmp_path / "out.json").read_text())["checks"][0]["holds"] is False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "--text", "{text}"], "nowhere"),
        (["{model}", "--text", "nothing.txt"], "expected a file of lines"),
        (["{model}", "--text", "{text}", "--json", "no/such/out.json"], "no/such"),
        (["{model}", "--text", "{text}", "--html", "no/such/out.html"], "no/such"),
        (["{model}", "--text", "{text}", "--target", "{text}"], "no encoder-decoder"),
        (["{model}", "--text", "{text}", "--sentence", " "], "at least one token"),
        (["{model}", "--text", "{text}", "--neurons", "0"], "--neurons"),
        (["{model}", "--text", "{text}", "--limit", "0"], "--limit"),
        (["{model}", "--text", "{text}", "--without", "7"], "LAYER:NEURON"),
        (["{model}", "--text", "{text}", "--without", "model 0:-1"], "LAYER:NEURON"),
        (["{model}", "--text", "{text}", "--without", "model 9:1"], "got 'model 9'"),
        (["{model}", "--text", "{text}", "--without", "model 0:24"], "from 0 to 23, got 24"),
        (["{model}"], "--text"),
    ],
)
def test_what_cannot_run(model: Path, text: Path, arguments: list[str], says: str) -> None:
    result = command(*(each.format(model=model, text=text) for each in arguments))
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_a_page_is_written(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    page = types.ModuleType("reluctant.lab.page")
    page.write_inspection = lambda found, path: written.append((found, path))  # type: ignore[attr-defined]
    page.check_page = written.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reluctant.lab.page", page)
    result = command(model, "--text", text, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    checked, (found, path) = written
    assert checked == path
    assert (set(found), path) == (FIELDS, tmp_path / "page.html")
    json.dumps(found, allow_nan=False)


def test_ctrl_c_tells_what_was_seen(model: Path, text: Path, tmp_path: Path) -> None:
    """In a process of its own, which presses it after the second batch."""
    text.write_text("\n".join(LINES * 100))
    code = (
        "import signal, sys\n"
        "from reluctant.lab.inspect.stream import Stream\n"
        "plain, taken = Stream._take, []\n"
        "def take(self, batch):\n"
        "    plain(self, batch)\n"
        "    taken.append(batch)\n"
        "    if len(taken) == 2:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "Stream._take = take\n"
        "import reluctant.cli\n"
        f"sys.argv = ['reluctant', 'inspect', {str(model)!r}, '--text', {str(text)!r},\n"
        f"            '--json', {str(tmp_path / 'out.json')!r}]\n"
        "reluctant.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["text"]["whole"], found["text"]["stopped"]) == (False, "interrupted")
    assert 1 < found["text"]["sequences"] < 400
    assert "interrupted" in done.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from reluctant.cli import app; app(['inspect', '--help'], standalone_mode=False)\n"
        "import sys; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
