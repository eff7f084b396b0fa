"""Translator with Hugging Face folders: what their own generate gives, one text at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from reluctant.errors import ReluctantError
from reluctant.transformer import Translator
from reluctant.translation.segments import segments

TEXTS = ["sun moon", "", "a", "tree, house and river", "old stone."]
LETTERS = [*map(chr, range(97, 123)), ".", ","]
LANGUAGES = {"source_lang": "eng_Latn", "target_lang": "deu_Latn"}
ROOM = 48


def lively(model: torch.nn.Module, seed: int = 1) -> None:
    """Weights so large that texts differ."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.size(1) ** -0.5)


def nllb(folder: Path, **options: Any) -> Path:
    vocabulary = {
        word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS])
    }
    names = ["eng_Latn", "deu_Latn"]
    tokens = NllbTokenizer(vocab=vocabulary, merges=[], extra_special_tokens=names)
    tokens.save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    config = M2M100Config(
        vocab_size=len(tokens), max_position_embeddings=ROOM, decoder_start_token_id=2, **sizes
    )
    model = M2M100ForConditionalGeneration(config)
    lively(model, seed=2)
    model.generation_config.update(max_length=200, num_beams=3, **options)
    model.save_pretrained(folder)
    return folder


def fast_tokenizer(folder: Path, kinds: list[str]) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate([*kinds, *map(chr, range(32, 127))])}
    tokens = Tokenizer(models.WordLevel(words, unk_token=kinds[1]))
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token=kinds[0], unk_token=kinds[1], eos_token=kinds[2]
    )
    made.save_pretrained(folder)
    return made


def t5(folder: Path) -> Path:
    fast_tokenizer(folder, ["[PAD]", "[UNK]", "[EOS]"])
    torch.manual_seed(1)
    sizes = {"vocab_size": 98, "d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16}
    config = T5Config(
        **sizes,
        num_layers=1,
        decoder_start_token_id=0,
        eos_token_id=2,
        feed_forward_proj="relu",
        task_specific_params={"translation_en_to_de": {"prefix": "to German: "}},
    )
    model = T5ForConditionalGeneration(config)
    lively(model)
    model.save_pretrained(folder)
    return folder


def marian(folder: Path) -> Path:
    """Its targets begin with padding, and its tokens end in time because they have to."""
    fast_tokenizer(folder, ["[PAD]", "[UNK]", "[EOS]"])
    torch.manual_seed(1)
    sizes = {"vocab_size": 98, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    ids = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 2}
    config = MarianConfig(**sizes, **ids, activation_function="relu", max_position_embeddings=64)
    model = MarianMTModel(config)
    model.generation_config.update(forced_eos_token_id=2, bad_words_ids=[[0]], num_beams=2)
    model.save_pretrained(folder)
    return folder


MAKERS = {"nllb": (nllb, LANGUAGES), "t5": (t5, {}), "marian": (marian, {})}


def theirs(folder: Path, kind: str, text: str, **options: Any) -> Any:
    """What transformers gives for one text, with nothing of ours."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer  # noqa: PLC0415

    tokens = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    model.generation_config.max_length = None
    if kind == "nllb":
        options["forced_bos_token_id"] = tokens.convert_tokens_to_ids("deu_Latn")
    source = tokens(text, return_tensors="pt")
    length = source["input_ids"].size(1) + 50
    if kind != "t5":
        length = min(length, model.config.max_position_embeddings)
    given = {name: source[name] for name in ("input_ids", "attention_mask")}
    rows = model.generate(
        **given, do_sample=False, max_new_tokens=options.pop("new", length), **options,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    return tokens, model, rows


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_greedy_texts_are_those_of_their_own_generate(
    tmp_path: Path, kind: str, engine: bool
) -> None:
    make, languages = MAKERS[kind]
    folder = make(tmp_path)
    found = Translator(folder, engine=engine, batch_size=3, **languages).translate(TEXTS)
    assert len(set(found)) > 2
    for text, translation in zip(TEXTS, found, strict=True):
        expected = ""
        if text:
            tokens, _, out = theirs(folder, kind, text, num_beams=1)
            expected = tokens.decode(out.sequences[0], skip_special_tokens=True).strip()
        assert translation == expected


@pytest.mark.parametrize("kind", MAKERS)
def test_beams_and_scores_are_theirs(tmp_path: Path, kind: str) -> None:
    make, languages = MAKERS[kind]
    folder = make(tmp_path)
    options = {"length_penalty": 0.8, "max_length": 9}
    translator = Translator(folder, **languages)
    for beam, best in ((3, 2), (1, 1)):
        found = translator.translations(TEXTS[2:], beam=beam, best=best, **options)
        for text, translations in zip(TEXTS[2:], found, strict=True):
            given = {"length_penalty": 0.8, "early_stopping": False} if beam > 1 else {}
            how = {"num_beams": beam, "num_return_sequences": best, "new": 9, **given}
            tokens, model, out = theirs(folder, kind, text, **how)
            texts = tokens.batch_decode(out.sequences, skip_special_tokens=True)
            assert [each.text for each in translations] == [text.strip() for text in texts]
            for each in translations:
                spoken = tokens.convert_tokens_to_string(list(each.tokens))
                assert spoken.replace(" ", "") == each.text.replace(" ", "")
            gains = model.compute_transition_scores(
                *(out.sequences, out.scores, getattr(out, "beam_indices", None)),
                normalize_logits=beam == 1,
            )
            if kind == "marian":  # which ends because it is made to: that costs nothing to them
                continue
            sums = gains.masked_fill(gains.isinf(), 0.0).sum(1).tolist()
            assert [each.log_probability for each in translations] == pytest.approx(sums, abs=1e-3)
            if beam > 1:
                scores = out.sequences_scores.tolist()
                assert [each.score for each in translations] == pytest.approx(scores, abs=1e-4)


def test_long_lines_are_cut(tmp_path: Path) -> None:
    translator = Translator(nllb(tmp_path), **LANGUAGES)
    line = "sun moon tree house. " * 4 + "old river."
    around = 3  # the language, the mark of a word, the end
    cut = segments(line, lambda text: len(text) + around <= ROOM)
    assert len(cut) > 2
    found = translator.translate([line], max_length=5)
    assert found == [" ".join(filter(None, translator.translate(cut, max_length=5)))]
    with pytest.raises(ReluctantError, match=f"max_length: expected at most {ROOM}"):
        translator.translate(["sun"], max_length=ROOM + 1)


def test_languages_are_expected_and_known(tmp_path: Path) -> None:
    folder = nllb(tmp_path / "nllb")
    known = "such as eng_Latn, deu_Latn"
    with pytest.raises(ReluctantError, match=f"target_lang.*{known}.*--target-lang"):
        Translator(folder)
    for wrong in ({"target_lang": "de"}, {"source_lang": "<unk>", "target_lang": "deu_Latn"}):
        with pytest.raises(ReluctantError, match=f"a language of the tokenizer, {known}; got"):
            Translator(folder, **wrong)
    to_english, to_german = (
        Translator(folder, target_lang=each).translate(["sun moon"])
        for each in ("eng_Latn", "deu_Latn")
    )
    assert to_english != to_german
    settled = nllb(tmp_path / "settled", forced_bos_token_id=to_id(folder, "deu_Latn"))
    assert Translator(settled).translate(["sun moon"]) == to_german


def to_id(folder: Path, name: str) -> int:
    config = json.loads((folder / "tokenizer.json").read_text())
    return next(each["id"] for each in config["added_tokens"] if each["content"] == name)


def test_a_prefix_of_the_config_is_chosen_by_the_languages(tmp_path: Path) -> None:
    folder = t5(tmp_path)
    plain, german = Translator(folder), Translator(folder, source_lang="en", target_lang="de")
    assert german.translate(["sun"], max_length=6) == plain.translate(
        ["to German: sun"], max_length=6
    )
    assert german.translate([" "]) == [""]
    with pytest.raises(ReluctantError, match=r"\(translation_en_to_de\); got en and fr"):
        Translator(folder, source_lang="en", target_lang="fr")


def test_folders_that_do_not_translate(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    OPTForCausalLM(OPTConfig(vocab_size=98, **sizes)).save_pretrained(tmp_path / "opt")
    fast_tokenizer(tmp_path / "opt", ["[PAD]", "[UNK]", "[EOS]"])
    with pytest.raises(ReluctantError, match=r"an encoder-decoder that generates.*OPTForCausalLM"):
        Translator(tmp_path / "opt")
    T5ForConditionalGeneration.from_pretrained(t5(tmp_path / "t5")).save_pretrained(
        tmp_path / "silent"
    )
    with pytest.raises(ReluctantError, match="expected a tokenizer beside the model"):
        Translator(tmp_path / "silent")
    config = tmp_path / "t5" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"auto_map": {"AutoConfig": "own.Own"}}))
    with pytest.raises(ReluctantError, match="--trust-remote-code"):
        Translator(tmp_path / "t5")
